from __future__ import annotations

import anndata as ad
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


def stored(kind, folder):
    """The values in a file, as anndata opens them."""
    table = ad.AnnData({"dense": np.asarray, "csr": csr_matrix, "csc": csc_matrix}[kind.split()[-1]](VALUES))
    if kind.startswith("backed"):
        table.write_h5ad(folder / "a.h5ad")
        return ad.read_h5ad(folder / "a.h5ad", backed="r").X
    table.write_zarr(folder / "a.zarr")
    return ad.experimental.read_lazy(folder / "a.zarr").X


@pytest.mark.parametrize(
    "kind", [*KINDS, "backed dense", "backed csr", "backed csc", "lazy dense", "lazy csr", "lazy csc"]
)
@pytest.mark.filterwarnings("ignore:.*read_lazy:FutureWarning", "ignore:.*experimental")
def test_columns(kind, tmp_path):
    matrix = KINDS[kind](VALUES) if kind in KINDS else stored(kind, tmp_path)
    for rows in (None, np.arange(20), np.array([5, 2, 19])):
        for columns in ([4, 1], [1], [*range(6)], [5, 4, 3, 2, 1, 0]):
            found = read_columns(matrix, columns, rows)
            assert found.dtype == np.float32
            expected = VALUES[:, columns][slice(None) if rows is None else rows]
            np.testing.assert_array_equal(found, expected.astype(np.float32))


def test_other_chunks_are_not_read():
    read = []

    def block(x, block_info=None):
        read.append(block_info[0]["chunk-location"])
        return x

    matrix = da.from_array(VALUES, chunks=(20, 2)).map_blocks(block, dtype=VALUES.dtype, meta=VALUES[:0])
    read_columns(matrix, [3])
    assert read == [(0, 1)]
