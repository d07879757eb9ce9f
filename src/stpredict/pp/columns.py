"""Some columns (genes) of a large matrix, however it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray


def read_columns(matrix: Any, columns: Sequence[int], rows: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
    """``(n_rows, n_columns)`` of any matrix, in the order of ``rows``; reads no other columns."""
    asked = np.asarray(columns, np.intp)
    ascending, place = np.unique(asked, return_inverse=True)  # arrays in files take no others
    part = matrix[:] if len(ascending) == matrix.shape[1] else matrix[:, ascending]
    if not np.array_equal(asked, ascending):
        part = part[:, place]
    if rows is not None and not np.array_equal(rows, np.arange(matrix.shape[0])):
        part = part[rows]
    return to_dense(part)


def unname_index(table: AnnData) -> None:
    """Drop the name of an index if a column that was written is called so: anndata could not write the table."""
    for frame in (table.obs, table.var):
        if frame.index.name in frame.columns:
            frame.index.name = None


def to_dense(matrix: Any) -> NDArray[np.float32]:
    """A dense or sparse matrix as an array in memory."""
    matrix = matrix.compute() if hasattr(matrix, "compute") else matrix
    return np.asarray(matrix.toarray() if hasattr(matrix, "toarray") else matrix, dtype=np.float32)
