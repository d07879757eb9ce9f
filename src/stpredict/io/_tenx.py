"""Files that Space Ranger and Xenium share: the HDF5 matrix of counts, positions of spots. Files in, tables out.

A file is told by its content, not by its name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.utils import make_index_unique
from scipy import sparse

from .. import _keys as keys
from .._checks.memory import require_memory
from .._checks.slides import quote
from .._geometry import on_slide
from . import _errors as check
from ._tables import find_separator, parse_table, read_text, split_fields

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
MATRIX: Final = "matrix of counts"
"""What messages call the file."""
PROTEIN: Final = "Protein Expression"
"""Features of Xenium whose values the matrix holds as whole numbers, times a factor."""


def read_matrix(path: Path, *, all_features: bool) -> AnnData:
    """The counts of an HDF5 matrix of 10x, barcodes by features, float32 CSR; only genes unless all are asked for."""
    _require_signature(path, MATRIX, b"\x89HDF")
    with check.decoding(path, MATRIX), h5py.File(path) as file:
        group = _matrix_group(file, path)
        features = group.get("features", group)
        names = _texts(features["name" if "features" in group else "gene_names"], path)
        ids = {"gene_ids": "genes"} if "features" not in group else FEATURES
        var = {column: _texts(features[key], path) for column, key in ids.items() if key in features}
        barcodes = _texts(group["barcodes"], path)
        data, indices, indptr = (_array(group[name], path) for name in ("data", "indices", "indptr"))
        shape = tuple(_array(group["shape"], path).tolist()) if "shape" in group else (len(names), len(barcodes))
        factor = float(file.attrs.get("protein_scaling_factor", 1))
    lengths = {len(names), *map(len, var.values())}
    if shape != (len(names), len(barcodes)) or len(lengths) > 1 or not (names and barcodes):
        rows, columns = (len(names), len(barcodes)) if len(lengths) == 1 else (max(lengths), len(barcodes))
        check.refuse_damaged(
            path, MATRIX, f"it is said to be {quote(shape)}, but names {rows} features, {columns} barcodes"
        )
    counts = sparse_counts(data, indices, indptr, (len(barcodes), len(names)), path)
    if not (np.isfinite(factor) and factor > 0):
        check.refuse_damaged(path, MATRIX, f"its 'protein_scaling_factor' is {factor}")
    kinds = np.asarray(var.get(keys.FEATURE_TYPES, [keys.GENE_EXPRESSION] * len(names)), str)
    if factor != 1:
        counts = counts @ sparse.diags(np.where(kinds == PROTEIN, 1 / factor, 1).astype(np.float32))
    kept = np.ones(len(names), bool) if all_features else check.genes_among(kinds, path)
    frame = pd.DataFrame(var)[kept].set_axis(make_index_unique(pd.Index(names, dtype=str)[kept]))
    obs = pd.DataFrame(index=pd.Index(barcodes, dtype=str))
    return AnnData(sparse.csr_matrix(counts if kept.all() else counts[:, kept]), obs=obs, var=frame)


def _array(dataset: Any, path: Path) -> NDArray[Any]:
    """The numbers of an HDF5 array with one axis, which its header may claim to be of any length."""
    if dataset.ndim != 1 or dataset.dtype.kind not in "iuf":
        check.refuse_damaged(path, MATRIX, f"'{dataset.name}' is {dataset.dtype} {dataset.shape}, where a list belongs")
    require_memory(3 * dataset.nbytes, f"Array '{dataset.name}' of '{path.name}' ({dataset.size:,} numbers)")
    return np.asarray(dataset)


def sparse_counts(
    data: NDArray[Any], indices: NDArray[Any], indptr: NDArray[Any], shape: tuple[int, int], path: Path
) -> sparse.csr_matrix:
    """A CSR matrix, of parts that are checked first: scipy follows wrong indices out of its memory."""
    n_rows, n_columns = shape
    reason = None
    if len(indptr) != n_rows + 1 or len(data) != len(indices) or (int(indptr[0]), int(indptr[-1])) != (0, len(data)):
        ends = f"{indptr[0]} to {indptr[-1]}" if len(indptr) else "nothing"
        reason = (
            f"it names {n_rows} barcodes and {indptr[-1] if len(indptr) else 0} values, but holds {len(indptr) - 1} "
            f"and {len(data)} ('indptr' is {ends}, 'indices' has {len(indices)})"
        )
    elif indptr.dtype.kind not in "iu" or indices.dtype.kind not in "iu":
        reason = f"'indptr' and 'indices' are {indptr.dtype} and {indices.dtype}, where whole numbers belong"
    elif (np.diff(indptr.astype(np.int64)) < 0).any():
        reason = "'indptr' is not in ascending order"
    elif len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < n_columns):
        reason = f"'indices' are from {indices.min()} to {indices.max()}, but there are {n_columns} features"
    if reason is not None:
        check.refuse_damaged(path, MATRIX, reason)
    return sparse.csr_matrix((data.astype(np.float32), indices, indptr), shape=shape)


def _matrix_group(file: Any, path: Path) -> Any:
    """The group with the matrix; before Cell Ranger 3 it is named after the genome."""
    if "matrix" in file:
        return file["matrix"]
    found = [name for name, group in file.items() if isinstance(group, h5py.Group) and "barcodes" in group]
    if len(found) > 1:
        check.refuse_unreadable(
            path, MATRIX, f"one genome is needed, and it has counts of several genomes: {quote(found)}"
        )
    if not found:
        check.refuse_unreadable(path, MATRIX, f"it has no group 'matrix' (found: {quote(list(file))})")
    return file[found[0]]


def _texts(dataset: Any, path: Path) -> list[str]:
    """Texts of an HDF5 array, which holds bytes."""
    if dataset.ndim != 1:
        check.refuse_damaged(path, MATRIX, f"'{dataset.name}' has shape {dataset.shape}, where a list belongs")
    require_memory(3 * dataset.nbytes, f"Array '{dataset.name}' of '{path.name}' ({dataset.size:,} texts)")
    return [_text(value) for value in dataset[:].tolist()]


def _require_signature(path: Path, what: str, signature: bytes) -> None:
    """Tell a file of another kind from one that lost bytes, by its first bytes."""
    with path.open("rb") as file:
        head = file.read(8)
    if head and not head.startswith(signature):
        check.refuse_unreadable(path, what, f"it begins with {head!r}, not with {signature!r}")


def read_parquet(path: Path, what: str, columns: Sequence[str]) -> pd.DataFrame:
    """A parquet table with all its columns, which must include the given ones."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    _require_signature(path, what, b"PAR1")
    with check.decoding(path, what, ArrowException), ParquetFile(path) as file:
        check.require_columns(file.schema_arrow.names, columns, path)
        _require_memory_for_rows(file, path)
        frame: pd.DataFrame = file.read().to_pandas(ignore_metadata=True)
    return frame


def _require_memory_for_rows(file: Any, path: Path) -> None:
    """Refuse a parquet table whose metadata announce more than fits into memory."""
    n_rows, n_columns = file.metadata.num_rows, len(file.schema_arrow.names)
    stored = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
    if n_rows < 0 or stored < 0:
        check.refuse_damaged(path, "table", f"it announces {n_rows} rows of {stored} bytes")
    require_memory(3 * max(stored, 8 * n_rows * n_columns), f"Table '{path.name}' ({n_rows:,} rows)")


def open_transcripts(path: Path, columns: Sequence[str]) -> Any:
    """A parquet table as a dask frame, which is read when it is needed."""
    from dask.dataframe import from_map
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    _require_signature(path, "table", b"PAR1")
    with check.decoding(path, "table", ArrowException), ParquetFile(path) as file:
        check.require_columns(file.schema_arrow.names, columns, path)
        meta = file.schema_arrow.empty_table().to_pandas(ignore_metadata=True)
        n_groups = file.metadata.num_row_groups
    if not n_groups:
        check.refuse_unreadable(path, "table", "it holds no row")
    return from_map(_read_row_group, range(n_groups), path=path, meta=meta)


def _read_row_group(number: int, path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """A part of a table as its writer laid it down, read where and when it is needed."""
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    with check.decoding(path, "table", ArrowException), ParquetFile(path) as file:
        frame: pd.DataFrame = file.read_row_group(number, columns=columns).to_pandas(ignore_metadata=True)
    return frame


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
            check.refuse_unreadable(path, what, f"its first line is {quote(fields)}, where {quote(needed)} belong")
        names = None if header else ["barcode", *POSITION_COLUMNS]
        options = {"sep": separator or r"\s+", "header": 0 if header else None, "names": names, "dtype": {0: str}}
        frame = parse_table(text, path, what, **options)
        if "barcode" not in frame:
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
    missing = ~on_slide(places.to_numpy(np.float64))
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
