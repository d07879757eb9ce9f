"""A few genes of a large matrix, however it is stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def read_columns(matrix: Any, columns: Sequence[int], rows: NDArray[np.intp] | None = None) -> NDArray[np.float32]:
    """Some columns of a matrix, read without the others where it is held lazily.

    Parameters
    ----------
    matrix
        ``(n, m)`` numpy, sparse or dask.
    columns
        Their positions.
    rows
        ``(r,)`` positions of rows, in the order wanted; None is all.

    Returns
    -------
    ``(r, len(columns))``, float32.
    """
    part = matrix[:, list(columns)]
    if rows is not None and not np.array_equal(rows, np.arange(matrix.shape[0])):
        part = part[rows]
    return to_dense(part.compute() if hasattr(part, "compute") else part)


def to_dense(part: Any) -> NDArray[np.float32]:
    """A matrix that is in memory, dense or sparse, as an array.

    Parameters
    ----------
    part
        ``(n, m)``.

    Returns
    -------
    ``(n, m)``, float32.
    """
    return np.asarray(part.toarray() if hasattr(part, "toarray") else part, dtype=np.float32)
