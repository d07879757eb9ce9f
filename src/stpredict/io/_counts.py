"""Counts matrices: text tables with genes in columns or in rows, and Matrix Market with its companion files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pandas as pd
from scipy import sparse

from .._checks import expression as check_expression
from .._checks.decoding import DECODER_ERRORS, UnreadableFileError, describe
from .._checks.memory import TooLargeError, limit_bytes, require_memory
from .._checks.slides import quote
from . import _errors as check
from ._tables import (
    BARCODE,
    DECODING_ERRORS,
    SPOT_NAME,
    find_separator,
    is_number,
    mostly_match,
    open_text,
    parse_spot_name,
    read_lines,
    read_text,
    split_fields,
    spot_name,
    undecodable,
)
from .genes import rename_genes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FEATURE_TYPE: Final = 2
"""Column of ``features.tsv`` that says what a feature is: a gene, an antibody, a control."""
GenesIn = Literal["rows", "columns"]
VALUE_BYTES = 60
"""Memory for a value of a Matrix Market file while it is read."""
ROW_BYTES = 1000
"""Memory for a row without any count."""


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
    """Read a counts matrix, of any kind that `read_st` takes; the content decides which, not the name.

    Without ``genes_in``, spots are on the axis whose names are array coordinates or barcodes.
    """
    if genes_in not in {None, "rows", "columns"}:
        msg = f"`genes_in` is {genes_in!r}; it must be 'rows', 'columns', or None to detect it by the names of spots."
        raise ValueError(msg)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.name in {"matrix.mtx", "matrix.mtx.gz"})
        path = found[0] if found else path / "matrix.mtx"
    check.require_file(path, "counts file")
    spots, genes, matrix = (_read_matrix_market if _is_matrix_market(path) else _read_text_counts)(path, genes_in)
    check.require_counts(len(spots), len(genes), path)
    by_position = mostly_match(SPOT_NAME, spots)
    names = [_rounded_spot_name(name, path) for name in spots] if by_position else spots
    check.require_unique_spots(names, path)
    check_expression.unique_genes(genes, f"'{path.name}'")
    check_expression.counts(matrix, genes=genes, spots=names)
    matrix, genes = rename_genes(matrix, genes, symbols or {})
    return Counts(spots=names, genes=genes, matrix=matrix, by_position=by_position)


def _rounded_spot_name(name: str, path: Path) -> str:
    xy = parse_spot_name(name)
    if xy is None:
        msg = (
            f"Spot {name!r} of '{path.name}' is no array coordinate such as '10x13', as the other spots are. Remove or "
            "rename it; if it is a gene, give the axis of the genes as `genes_in`."
        )
        raise ValueError(msg)
    return spot_name(*xy)


def _read_text_counts(path: Path, genes_in: GenesIn | None) -> tuple[list[str], list[str], sparse.csr_matrix]:
    rows, columns, matrix = _read_labelled_matrix(path)
    if genes_in is None:  # the axis whose names are not those of spots, if this holds for exactly one
        spots_in_rows, spots_in_columns = (
            mostly_match(SPOT_NAME, axis) or mostly_match(BARCODE, axis) for axis in (rows, columns)
        )
        if spots_in_rows == spots_in_columns:
            msg = (
                f"It is not clear whether genes are the rows or the columns of '{path.name}': rows are {quote(rows)}, "
                f"columns {quote(columns)}, and names of spots such as '10x13' or 'ACGTACGTACGTACGT-1' must be on "
                "exactly one axis. Give `genes_in='rows'` or `genes_in='columns'`."
            )
            raise ValueError(msg)
        genes_in = "columns" if spots_in_rows else "rows"
    return (columns, rows, matrix.T.tocsr()) if genes_in == "rows" else (rows, columns, matrix)


def _read_labelled_matrix(path: Path) -> tuple[list[str], list[str], sparse.csr_matrix]:
    """Row names, column names and values, read row by row to save memory."""
    names: list[str] = []
    rows: list[sparse.csr_matrix] = []
    header: list[str] = []
    n_bytes, limit, trailing = 0, limit_bytes(), 0
    try:
        with open_text(path) as file:
            lines = (line for line in read_lines(file, path, "counts file") if line.strip())
            first = next(lines, "")
            separator = find_separator(first)
            header = split_fields(first, separator)
            for line in lines:
                name, *values = line.rstrip("\r\n").split(separator) or [""]
                if values and values[0].lstrip().startswith('"'):  # all fields are quoted
                    values = [value.strip().strip('"') for value in values]
                if not rows and len(header) > 1 and header[-1] == "" and values[-1:] == [""]:
                    header, trailing = header[:-1], 1  # every line ends in a separator
                values = values[: len(values) - trailing]
                header = header if rows or len(header) == len(values) else header[1:]  # R writes no corner
                names.append(name.strip().strip('"'))
                rows.append(sparse.csr_matrix(_parse_row(values, names[-1], len(header), path)))
                n_bytes += 2 * (ROW_BYTES + rows[-1].data.nbytes + rows[-1].indices.nbytes)
                if n_bytes > limit:
                    require_memory(n_bytes, f"The counts file '{path.name}' (its first {len(rows):,} rows)")
    except DECODING_ERRORS as reason:
        undecodable(path, "counts file", reason)
    check.require_counts(len(rows), len(header), path)
    return names, header, sparse.vstack(rows, format="csr")


def _parse_row(values: Sequence[str], name: str, n_columns: int, path: Path) -> NDArray[np.float32]:  # (1, n_columns)
    try:
        with np.errstate(over="ignore"):  # infinite values are reported later
            row = np.array(values, dtype=np.float32)
    except ValueError:
        row = np.empty(0, np.float32)
    if len(row) != n_columns:
        wrong = [value for value in values if not is_number(value)]
        shown = f" and {quote(wrong)}" if wrong else ""
        msg = (
            f"Row {name!r} of '{path.name}' has {len(values) - len(wrong)} readable numbers{shown} for {n_columns} "
            "columns. The file is cut short, or holds text where counts belong; fetch it again or repair that row."
        )
        raise ValueError(msg)
    return row[None]


def _is_matrix_market(path: Path) -> bool:
    try:
        with open_text(path) as file:
            return file.read(14) == "%%MatrixMarket"
    except DECODING_ERRORS as reason:
        undecodable(path, "counts file", reason)


def _read_matrix_market(path: Path, genes_in: GenesIn | None) -> tuple[list[str], list[str], sparse.csr_matrix]:
    stem = re.sub(r"(matrix)?\.mtx(\.gz)?$", "", path.name)
    spot_file, gene_file = _companion(path, stem, ("barcodes",)), _companion(path, stem, ("features", "genes"))
    missing = [what for what, file in {"barcodes.tsv": spot_file, "features.tsv": gene_file}.items() if file is None]
    if missing:
        msg = (
            f"Matrix '{path.name}' needs {quote(missing)} (plain or '.gz') beside it in '{path.parent}'. Put them "
            "there, or give counts as a table with names to `stp.io.read_st`."
        )
        raise FileNotFoundError(msg)
    spots, features = _column(spot_file, 0), _column(gene_file, 0)
    matrix = _read_coordinates(path, len(features), len(spots))
    square = len(spots) == len(features)
    if genes_in is None and square:
        msg = (
            f"Matrix '{path.name}' has {len(spots)} rows and {len(spots)} columns, so its shape does not say which are "
            "genes. Give `genes_in='rows'` (as Cell Ranger writes it) or `genes_in='columns'`."
        )
        raise ValueError(msg)
    genes_in_rows = genes_in == "rows" if square else matrix.shape[0] == len(features)
    counts = sparse.csr_matrix(matrix.T if genes_in_rows else matrix, dtype=np.float32)
    kinds = np.array(_column(gene_file, FEATURE_TYPE))
    if len(kinds) < len(features):  # two columns: before Cell Ranger 3
        return spots, features, counts
    kept = check.genes_among(kinds, path)
    return spots, [name for name, is_gene in zip(features, kept, strict=True) if is_gene], counts[:, kept]


def _companion(path: Path, stem: str, kinds: Sequence[str]) -> Path | None:
    """The file that names an axis, such as ``GSM1_features.tsv.gz`` beside ``GSM1_matrix.mtx.gz``."""
    names = [f"{stem}{kind}.tsv{suffix}" for kind in kinds for suffix in ("", ".gz")]
    return next((path.parent / name for name in names if (path.parent / name).is_file()), None)


def _column(path: Path | None, number: int) -> list[str]:
    """A column of a file that names an axis, of the lines that have it."""
    lines = [] if path is None else read_text(path, "names of an axis").splitlines()
    rows = [split_fields(line, "\t") for line in lines if line.strip()]
    return [row[number] for row in rows if len(row) > number]


def _read_coordinates(path: Path, n_genes: int, n_spots: int) -> sparse.coo_matrix:
    """The matrix of a Matrix Market file in coordinate format; either axis may be that of the genes."""
    what = "counts file"
    try:
        with open_text(path) as file:
            lines = read_lines(file, path, what)
            header = next(lines)
            shape = next(line for line in lines if line.strip() and not line.startswith("%"))
            (n_rows, n_columns, n_values) = _read_size(header, shape, path)
            if (n_rows, n_columns) not in {(n_genes, n_spots), (n_spots, n_genes)}:
                msg = (
                    f"Matrix '{path.name}' is {n_rows} x {n_columns}, but its companion files name {n_spots} spots and "
                    f"{n_genes} genes. Check that the three files belong together and are whole."
                )
                raise UnreadableFileError(msg)
            require_memory(VALUE_BYTES * n_values, f"Matrix '{path.name}' ({n_values:,} values)")
            columns = {"row": np.int64, "column": np.int64, "value": np.float32}
            frame = pd.read_csv(
                file, sep=r"\s+", header=None, names=list(columns), dtype=columns, comment="%", nrows=n_values + 1,
                index_col=False,
            )  # fmt: skip
    except StopIteration:
        check.refuse_damaged(path, what, "it ends before its values")
    except DECODING_ERRORS as reason:
        undecodable(path, what, reason)
    except (UnreadableFileError, TooLargeError):
        raise
    except DECODER_ERRORS as reason:
        check.refuse_unreadable(path, what, describe(reason))
    if len(frame) != n_values:
        found = f"more than {n_values}" if len(frame) > n_values else str(len(frame))
        msg = f"Matrix '{path.name}' holds {found} values, but announces {n_values}. Fetch it again."
        raise UnreadableFileError(msg)
    row, column = (frame[name].to_numpy() - 1 for name in ("row", "column"))
    for name, index, length in (("rows", row, n_rows), ("columns", column, n_columns)):
        if n_values and not (index.min() >= 0 and index.max() < length):
            check.refuse_damaged(
                path, what, f"its {name} are numbered {index.min() + 1} to {index.max() + 1} of {length}"
            )
    return sparse.coo_matrix((frame["value"].to_numpy(), (row, column)), shape=(n_rows, n_columns))


def _read_size(header: str, shape: str, path: Path) -> tuple[int, int, int]:
    """Rows, columns and values that the first lines of a Matrix Market file announce."""
    kind = header.lower().split()[1:]
    if kind not in (["matrix", "coordinate", number, "general"] for number in ("integer", "real")):
        found = f"its first line is {header.strip()[:80]!r}, not '%%MatrixMarket matrix coordinate integer general'"
        check.refuse_unreadable(path, "counts file", found)
    numbers = shape.split()
    if len(numbers) != 3 or not all(number.isascii() and number.isdigit() and len(number) < 16 for number in numbers):
        check.refuse_unreadable(
            path, "counts file", f"its size is {shape.strip()[:80]!r}, where three whole numbers belong"
        )
    n_rows, n_columns, n_values = map(int, numbers)
    return n_rows, n_columns, n_values
