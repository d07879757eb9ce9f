from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from scipy.sparse import csc_matrix, csr_matrix

from stpredict.pp.columns import read_columns

VALUES = np.random.default_rng(0).random((20, 6)) * (np.random.default_rng(1).random((20, 6)) < 0.5)


KINDS = {
    "numpy": np.asarray,
    "csr": csr_matrix,
    "csc": csc_matrix,
    "dask": lambda values: da.from_array(values, chunks=(7, 4)),
    "dask of csr": lambda values: da.from_array(values, chunks=(7, 6)).map_blocks(csr_matrix),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [None, np.arange(20), np.array([5, 2, 19])])
def test_columns(kind, rows):
    found = read_columns(KINDS[kind](VALUES), [4, 1], rows)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VALUES[:, [4, 1]][slice(None) if rows is None else rows].astype(np.float32))


def test_other_chunks_are_not_read():
    read = []

    def block(x, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return x

    matrix = da.from_array(VALUES, chunks=(20, 2)).map_blocks(block, dtype=VALUES.dtype, meta=VALUES[:0])
    read_columns(matrix, [3])
    assert read == [(0, 1)]
