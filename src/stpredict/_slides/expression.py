"""What a table says about expression: its matrix, wherever it is stored, which columns are genes, library sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from .. import _keys as keys
from .._checks.expression import is_whole
from . import checks as check

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray


PIECE = 2**24  # numbers of a dense matrix in a file that are in memory at once


def expression_matrix(table: AnnData, layer: str | None, rows: NDArray[np.integer] | None = None) -> sparse.csr_matrix:
    """X or a layer in memory, all rows or some: from arrays, sparse matrices, dask arrays of either, and files."""
    check.has_layer(table, layer)
    name = "X" if layer is None else f"layers[{layer!r}]"
    if rows is not None and not table.isbacked:
        table, rows = table[rows], None
    matrix = to_csr(table.X if layer is None else table.layers[layer], name)
    return matrix if rows is None else matrix[rows]


def to_csr(matrix: Any, name: str) -> sparse.csr_matrix:
    """A matrix of numbers as CSR; ``name`` is what messages call it."""
    check.has_matrix(matrix, name)
    if hasattr(matrix, "to_memory"):  # a sparse matrix of anndata that is backed by a file
        matrix = matrix.to_memory()
    if hasattr(matrix, "dask"):
        rows = [_block_row(matrix, i, name) for i in range(matrix.numblocks[0])]
        return sparse.vstack(rows, format="csr")
    if hasattr(matrix, "chunks"):  # a dense matrix in a file, of h5py or zarr
        n = max(1, PIECE // max(1, *matrix.shape[1:]))
        rows = [to_csr(matrix[start : start + n], name) for start in range(0, max(1, matrix.shape[0]), n)]
        return sparse.vstack(rows, format="csr")
    if not sparse.issparse(matrix):
        matrix = check.numeric_matrix(np.asarray(matrix), name)
    found = sparse.csr_matrix(matrix)
    if not found.has_canonical_format:  # several entries of a matrix may be parts of one count
        found = found.copy()
        found.sum_duplicates()
    return found


def _block_row(matrix: Any, i: int, name: str) -> sparse.csr_matrix:
    """One row of dask blocks: computed alone, so that only one is ever dense."""
    parts = [to_csr(matrix.blocks[i, j].compute(), name) for j in range(matrix.numblocks[1])]
    return sparse.hstack(parts, format="csr")


def is_gene(table: AnnData) -> NDArray[np.bool_]:
    """``(n_vars,)`` which columns are genes: by ``var["feature_types"]``, if there is one that names genes."""
    if keys.FEATURE_TYPES not in table.var:
        return np.ones(table.n_vars, bool)
    genes = np.asarray(table.var[keys.FEATURE_TYPES].astype(str) == keys.GENE_EXPRESSION)
    return genes if genes.any() else np.ones(table.n_vars, bool)


def gene_counts(
    table: AnnData, layer: str | None, rows: NDArray[np.integer] | None = None
) -> tuple[sparse.csr_matrix, list[str]]:
    """The columns of X or a layer that are genes, and their names; antibodies and controls are left out.

    Values that are whole numbers but for rounding in float32 become whole numbers.
    """
    matrix, genes = expression_matrix(table, layer, rows), is_gene(table)
    matrix = matrix if genes.all() else matrix[:, genes]
    whole = np.round(matrix.data)
    if (whole != matrix.data).any() and is_whole(matrix.data).all():
        matrix = sparse.csr_matrix((whole, matrix.indices, matrix.indptr), shape=matrix.shape)
    return matrix, table.var_names[genes].tolist()


def on_tissue(table: AnnData) -> NDArray[np.bool_]:
    """``(n_obs,)`` rows that Space Ranger does not mark as off the tissue (``obs["in_tissue"] == 0``)."""
    if keys.IN_TISSUE not in table.obs:
        return np.ones(table.n_obs, bool)
    marks = pd.Series(table.obs[keys.IN_TISSUE]).astype(str).str.lower()
    return ~marks.isin(["0", "0.0", "false"]).to_numpy()


def library_column(table: AnnData, library_key: str | None) -> NDArray[np.float64] | None:
    """``(n_obs,)`` library sizes from a named column of ``obs``; None without a name."""
    if library_key is None:
        return None
    check.has_column(table, library_key, "library_key")
    values = pd.to_numeric(pd.Series(table.obs[library_key]), errors="coerce").to_numpy(np.float64)
    check.library_sizes(values, library_key)
    return values


def total_counts(table: AnnData) -> NDArray[np.float64] | None:
    """``(n_obs,)`` the column ``obs["total_counts"]`` that scanpy writes; None where there is none or it has gaps."""
    if keys.TOTAL_COUNTS not in table.obs:
        return None
    values = pd.to_numeric(pd.Series(table.obs[keys.TOTAL_COUNTS]), errors="coerce").to_numpy(np.float64)
    return values if np.isfinite(values).all() else None


def array_coordinates(table: AnnData) -> NDArray[np.float64] | None:
    """``(n_obs, 2)`` column and row of each spot in the array; None where a column is missing or has gaps."""
    if not {keys.ARRAY_COL, keys.ARRAY_ROW} <= set(table.obs.columns):
        return None
    columns = [pd.to_numeric(pd.Series(table.obs[name]), errors="coerce") for name in (keys.ARRAY_COL, keys.ARRAY_ROW)]
    values = np.column_stack([column.to_numpy(np.float64) for column in columns])
    return values if np.isfinite(values).all() else None
