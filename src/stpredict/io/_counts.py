"""Counts matrices: text tables with genes in columns or in rows, and Matrix Market with its companion files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from .._checks import expression as check_expression
from .._checks import files as check
from ._tables import (
    BARCODE,
    SPOT,
    UNREADABLE,
    carries,
    fields,
    open_text,
    position,
    read_text,
    separator,
    spot_name,
)
from .genes import rename

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

GenesIn = Literal["rows", "columns"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Counts:
    """Counts of a section, with the names of both axes."""

    spots: list[str]
    """Names of the rows: ``10x13``, with rounded coordinates, or barcodes."""
    genes: list[str]
    """Names of the columns, each once."""
    matrix: sparse.csr_matrix
    """``(n_spots, n_genes)`` float32 raw counts."""
    by_position: bool
    """Whether spots are named by their array coordinates."""


def read_counts(path: Path, *, genes_in: GenesIn | None = None, symbols: Mapping[str, str] | None = None) -> Counts:
    """Read a counts matrix.

    Parameters
    ----------
    path
        Table with a header and a name in front of each row, plain or gzipped, separated by tabs, commas or blanks; or
        a Matrix Market file with ``barcodes.tsv`` and ``features.tsv`` (or ``genes.tsv``) beside it, or their folder.
        The content decides, not the name.
    genes_in
        Which axis holds genes. By default the axis with names such as ``10x13`` or barcodes holds spots.
    symbols
        Symbol by Ensembl id.

    Returns
    -------
    The counts.
    """
    check.genes_in(genes_in)
    path = _matrix_in(path) if path.is_dir() else path
    check.exists(path, "counts file")
    spots, genes, matrix = (_read_market if _is_market(path) else _read_text)(path, genes_in)
    check.some_counts(len(spots), len(genes), path)
    by_position = carries(SPOT, spots)
    names = [_canonical(name, path) for name in spots] if by_position else spots
    check.unique_spots(names, path)
    check_expression.unique_genes(genes, f"'{path.name}'")
    check_expression.counts(matrix, genes=genes, spots=names)
    matrix, genes = rename(matrix, genes, symbols or {})
    return Counts(spots=names, genes=genes, matrix=matrix, by_position=by_position)


def _canonical(name: str, path: Path) -> str:
    found = position(name)
    if found is None:
        check.spot_name(name, path)
    return spot_name(*found)


def _read_text(path: Path, genes_in: GenesIn | None) -> tuple[list[str], list[str], sparse.csr_matrix]:
    names, header, matrix = _labelled(path)
    if genes_in is None and header and names:
        genes_in = _genes_axis(names, header, path)
    if genes_in == "rows":
        return header, names, matrix.T.tocsr()
    return names, header, matrix


def _genes_axis(rows: Sequence[str], columns: Sequence[str], path: Path) -> GenesIn:
    """The axis whose names are no spots, if that is one of both."""
    spots_in_rows, spots_in_columns = (carries(SPOT, axis) or carries(BARCODE, axis) for axis in (rows, columns))
    if spots_in_rows == spots_in_columns:
        check.orientation(rows, columns, path)
    return "columns" if spots_in_rows else "rows"


def _labelled(path: Path) -> tuple[list[str], list[str], sparse.csr_matrix]:
    """Names of rows and columns, and what is between, read row by row."""
    names: list[str] = []
    rows: list[sparse.csr_matrix] = []
    header: list[str] = []
    try:
        with open_text(path) as lines:
            first = next(lines, "")
            mark = separator(first)
            header = fields(first, mark)
            for line in lines:
                name, *values = line.rstrip("\r\n").split(mark)
                header = header if rows or len(header) == len(values) else header[1:]  # R writes no corner
                names.append(name.strip().strip('"'))
                rows.append(sparse.csr_matrix(_numbers(values, names[-1], len(header), path)))
    except UNREADABLE as reason:
        check.unreadable(path, "counts file", reason)
    check.some_counts(len(rows), len(header), path)
    return names, header, sparse.vstack(rows, format="csr")


def _numbers(values: Sequence[str], name: str, expected: int, path: Path) -> NDArray[np.float32]:
    try:
        found = np.array(values, dtype=np.float32)
    except ValueError:
        found = np.empty(0, np.float32)
    check.row_length(name, len(found), expected, path)
    return found[None]


def _is_market(path: Path) -> bool:
    try:
        with open_text(path) as file:
            return file.read(14) == "%%MatrixMarket"
    except UNREADABLE as reason:
        check.unreadable(path, "counts file", reason)


def _matrix_in(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.name in {"matrix.mtx", "matrix.mtx.gz"})
    return found[0] if found else folder / "matrix.mtx"


def _read_market(path: Path, genes_in: GenesIn | None) -> tuple[list[str], list[str], sparse.csr_matrix]:
    stem = re.sub(r"(matrix)?\.mtx(\.gz)?$", "", path.name)
    spots, genes = _companion(path, stem, ("barcodes",)), _companion(path, stem, ("features", "genes"))
    check.companions([what for what, file in {"barcodes.tsv": spots, "features.tsv": genes}.items() if not file], path)
    spot_names, gene_names = _first_column(spots), _first_column(genes)
    matrix = _market(path)
    n_spots, n_genes = len(spot_names), len(gene_names)
    check.matrix_shape(matrix.shape, n_spots, n_genes, path)
    if genes_in is None and n_spots == n_genes:
        check.square(n_spots, path)
    in_rows = genes_in == "rows" if n_spots == n_genes else matrix.shape[0] == n_genes
    return spot_names, gene_names, sparse.csr_matrix(matrix.T if in_rows else matrix, dtype=np.float32)


def _companion(path: Path, stem: str, kinds: Sequence[str]) -> Path | None:
    """File that names an axis: ``GSM1_features.tsv.gz`` beside ``GSM1_matrix.mtx.gz``."""
    names = [f"{stem}{kind}.tsv{end}" for kind in kinds for end in ("", ".gz")]
    return next((path.parent / name for name in names if (path.parent / name).is_file()), None)


def _first_column(path: Path | None) -> list[str]:
    lines = [] if path is None else read_text(path, "names of an axis").splitlines()
    return [fields(line, "\t")[0] for line in lines if line.strip()]


def _market(path: Path) -> sparse.coo_matrix:
    try:
        with open_text(path) as lines:
            check.market(next(lines))
            shape = next(line for line in lines if line.strip() and not line.startswith("%"))
            n_rows, n_columns, n_values = (int(number) for number in shape.split())
            frame = pd.read_csv(lines, sep=r"\s+", header=None, names=["row", "column", "value"], comment="%")
        row, column = (frame[name].to_numpy(np.int64) - 1 for name in ("row", "column"))
        values = frame["value"].to_numpy(np.float32)
        found = sparse.coo_matrix((values, (row, column)), shape=(n_rows, n_columns))
    except (*UNREADABLE, ValueError, StopIteration) as reason:
        check.unreadable(path, "counts file", reason)
    check.all_values(len(values), n_values, path)
    return found
