"""Files that Space Ranger and Xenium share: the HDF5 matrix of counts, positions of spots. Files in, tables out.

A file is told by its content, not by its name.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique
from scipy import sparse

from .. import _keys as keys
from .._checks.slides import quote
from . import _errors as check
from ._tables import find_separator, read_text, split_fields

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

MATRIX_FILES: Final = ("filtered_feature_bc_matrix.h5", "raw_feature_bc_matrix.h5")
"""The filtered matrix is read, and the raw one where there is none."""
POSITION_FILES: Final = ("tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet")
POSITION_COLUMNS: Final = (
    keys.IN_TISSUE, keys.ARRAY_ROW, keys.ARRAY_COL, "pxl_row_in_fullres", "pxl_col_in_fullres",
)  # fmt: skip
"""Columns of positions beside the barcode, in the order of files without a header."""
FEATURES: Final = {"gene_ids": "id", keys.FEATURE_TYPES: "feature_type", "genome": "genome"}
"""Columns of ``var``, and what the matrix calls them."""
PROTEIN: Final = "Protein Expression"
"""Features of Xenium whose values the matrix holds as whole numbers, times a factor."""


def read_matrix(path: Path, *, all_features: bool) -> AnnData:
    """The counts of an HDF5 matrix of 10x, barcodes by features, float32 CSR; only genes unless all are asked for."""
    with _open_binary(path, "matrix of counts", b"\x89HDF", h5py.File) as file:
        group = _matrix_group(file, path)
        features = group.get("features", group)
        names = _texts(features["name" if "features" in group else "gene_names"])
        ids = {"gene_ids": "genes"} if "features" not in group else FEATURES
        var = pd.DataFrame({column: _texts(features[key]) for column, key in ids.items() if key in features})
        barcodes = _texts(group["barcodes"])
        parts = [np.asarray(group[name]) for name in ("data", "indices", "indptr")]
        factor = float(file.attrs.get("protein_scaling_factor", 1))
    n_values, n_columns = (int(parts[2][-1]) if len(parts[2]) else 0), len(parts[2]) - 1
    if {len(parts[0]), len(parts[1])} != {n_values} or n_columns != len(barcodes):
        check.damaged(
            path,
            "matrix of counts",
            f"it names {len(barcodes)} barcodes and {n_values} values, but holds {n_columns} and {len(parts[0])}",
        )
    counts = sparse.csr_matrix((parts[0].astype(np.float32), *parts[1:]), shape=(len(barcodes), len(names)))
    kinds = np.asarray(var.get(keys.FEATURE_TYPES, [keys.GENE_EXPRESSION] * len(names)), str)
    if factor != 1:
        counts = counts @ sparse.diags(np.where(kinds == PROTEIN, 1 / factor, 1).astype(np.float32))
    kept = np.ones(len(names), bool) if all_features else check.genes_among(kinds, path)
    var = var[kept].set_axis(make_index_unique(pd.Index(names, dtype=str)[kept]))
    obs = pd.DataFrame(index=pd.Index(barcodes, dtype=str))
    return AnnData(sparse.csr_matrix(counts if kept.all() else counts[:, kept]), obs=obs, var=var)


def _matrix_group(file: Any, path: Path) -> Any:
    """The group with the matrix; before Cell Ranger 3 it is named after the genome."""
    if "matrix" in file:
        return file["matrix"]
    found = [name for name, group in file.items() if isinstance(group, h5py.Group) and "barcodes" in group]
    if len(found) > 1:
        msg = f"'{path.name}' holds the counts of several genomes: {quote(found)}. Give a file with one of them."
        raise ValueError(msg)
    if not found:
        check.unreadable(path, "matrix of counts", f"it has no group 'matrix' (found: {quote(list(file))})")
    return file[found[0]]


def _texts(values: Any) -> list[str]:
    """Texts of an HDF5 array, which holds bytes."""
    return [value.decode() if isinstance(value, bytes) else str(value) for value in values[:].tolist()]


def _open_binary(path: Path, what: str, signature: bytes, open_file: Any) -> Any:
    """Open a binary file, and tell one that lost bytes from one of another kind, by its first bytes."""
    from pyarrow import ArrowException

    try:
        return open_file(path)
    except (ArrowException, OSError, ValueError) as reason:
        with path.open("rb") as file:
            head = file.read(8)
        if head and not head.startswith(signature):
            check.unreadable(path, what, f"it begins with {head!r}, not with {signature!r}")
        check.damaged(path, what, reason)


def read_parquet(path: Path, what: str, columns: Sequence[str]) -> pd.DataFrame:
    """A parquet table with all its columns, which must include the given ones."""
    from pyarrow.parquet import ParquetFile

    frame: pd.DataFrame = _open_binary(path, what, b"PAR1", lambda file: ParquetFile(file).read().to_pandas())
    check.require_columns(list(frame.columns), columns, path)
    return frame


def open_transcripts(path: Path, columns: Sequence[str]) -> Any:
    """A parquet table as a dask frame, which is read when it is needed."""
    from dask.dataframe import read_parquet as open_frame
    from pyarrow.parquet import read_schema

    schema = _open_binary(path, "table", b"PAR1", read_schema)
    check.require_columns(schema.names, columns, path)
    return open_frame(path)


def read_positions(paths: Sequence[Path]) -> pd.DataFrame:
    """Positions of all spots by barcode, with `POSITION_COLUMNS`; several files must say the same."""
    frames = [_read_positions(path) for path in paths]
    for path, frame in zip(paths[1:], frames[1:], strict=True):
        if not frame.astype(float).equals(frames[0].astype(float)):
            msg = (
                f"'{paths[0].parent}' holds two files of positions that differ: '{paths[0].name}' and '{path.name}'. "
                "Keep that of this sample."
            )
            raise ValueError(msg)
    return frames[0]


def _read_positions(path: Path) -> pd.DataFrame:
    what = "file of positions"
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1" or path.suffix == ".parquet"
    if is_parquet:
        frame = read_parquet(path, what, ["barcode", *POSITION_COLUMNS])
    else:
        text = read_text(path, what)
        first = text.partition("\n")[0]
        separator = find_separator(first)
        fields = split_fields(first, separator)
        header = keys.IN_TISSUE in fields
        if not header and len(fields) != len(POSITION_COLUMNS) + 1:
            needed = ["barcode", *POSITION_COLUMNS]
            check.unreadable(path, what, f"its first line is {quote(fields)}, where {quote(needed)} belong")
        names = None if header else ["barcode", *POSITION_COLUMNS]
        frame = pd.read_csv(
            io.StringIO(text), sep=separator or r"\s+", header=0 if header else None, names=names, dtype={0: str}
        )
        frame = frame.rename(columns={frame.columns[0]: "barcode"})
        check.require_columns(list(frame.columns), POSITION_COLUMNS, path)
    barcodes = pd.Index([_text(value) for value in frame["barcode"]], dtype=str)
    if not barcodes.is_unique:
        twice = quote(barcodes[barcodes.duplicated()].unique().tolist())
        msg = f"'{path.name}' holds more than one row for barcode {twice}. Keep one row per spot."
        raise ValueError(msg)
    places: pd.DataFrame = frame[list(POSITION_COLUMNS)].apply(pd.to_numeric, errors="coerce")
    return places.set_axis(barcodes)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def as_texts(ids: pd.Series[Any]) -> pd.Index[str]:
    """Ids as text, whatever type a file gives them: text, bytes or whole numbers."""
    return pd.Index([_text(value) for value in ids.tolist()], dtype=str)


def spots_on_tissue(table: AnnData, positions: pd.DataFrame, path: Path) -> tuple[AnnData, NDArray[np.float64]]:
    """The rows on tissue with their places in ``obs``, and their centres ``(n, 2)``; all rows must have positions."""
    places = positions.reindex(table.obs_names)
    missing = ~np.isfinite(places.to_numpy(np.float64)).all(axis=1)
    if missing.any():
        msg = (
            f"{int(missing.sum())} of {table.n_obs} spots with counts have no position in '{path}' (for instance "
            f"{table.obs_names[missing][0]!r}; it holds {len(positions)}, such as {quote(positions.index[:1].tolist())}"
            "). Give the matrix and the positions of one sample; if the file is shorter than its original, fetch it "
            "again."
        )
        raise ValueError(msg)
    on_tissue = places[keys.IN_TISSUE].to_numpy() == 1
    if not on_tissue.any():
        msg = f"No spot with counts lies on tissue by 'in_tissue' of '{path}'. Give another sample."
        raise ValueError(msg)
    kept, places = table[on_tissue].copy(), places[on_tissue]
    for column in POSITION_COLUMNS[:3]:
        kept.obs[column] = places[column].to_numpy(np.int64)
    return kept, places[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(np.float64)
