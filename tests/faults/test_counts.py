"""Parts of a count matrix that point out of it: scipy would follow them, and the process would end."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict.io._tenx import open_transcripts, sparse_counts

DATA, INDICES, INDPTR = np.ones(4, "i4"), np.array([0, 2, 1, 2]), np.array([0, 2, 2, 4])


def test_whole_parts_are_a_matrix(tmp_path):
    matrix = sparse_counts(DATA, INDICES, INDPTR, (3, 3), tmp_path / "a.h5")
    np.testing.assert_array_equal(matrix.toarray(), [[1, 0, 1], [0, 0, 0], [0, 1, 1]])


@pytest.mark.parametrize(("parts", "words"), [
    ({"indices": np.array([0, 2, 3, 2])}, "'indices' are from 0 to 3, but there are 3 features"),
    ({"indices": np.array([0, -2, 1, 2])}, "'indices' are from -2 to 2"),
    ({"indices": np.array([0, 2, 2**63, 2], "u8")}, "'indices' are from 0 to 9223372036854775808"),
    ({"indices": np.array([0.0, 2, 1, 2])}, "'indptr' and 'indices' are int64 and float64"),
    ({"indptr": np.array([0, 3, 2, 4])}, "'indptr' is not in ascending order"),
    ({"indptr": np.array([0, 2**63, 2**63, 4], "u8")}, "'indptr' is not in ascending order"),
    ({"indptr": np.array([1, 2, 2, 4])}, "'indptr' is 1 to 4"),
    ({"indptr": np.array([0, 2, 4])}, "it names 3 barcodes and 4 values, but holds 2 and 4"),
    ({"indptr": np.array([], "i8")}, "'indptr' is nothing"),
    ({"data": np.ones(3, "i4")}, "but holds 3 and 3"),
])  # fmt: skip
def test_parts_that_point_out_of_the_matrix(tmp_path, parts, words):
    given = {"data": DATA, "indices": INDICES, "indptr": INDPTR, **parts}
    with pytest.raises(ValueError, match=rf"'a\.h5' cannot be read: .*{words}"):
        sparse_counts(**given, shape=(3, 3), path=tmp_path / "a.h5")


def test_transcripts_without_a_row(tmp_path):
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    with ParquetWriter(tmp_path / "a.parquet", pa.schema([("x", pa.float32())])):
        pass
    with pytest.raises(ValueError, match=r"'a\.parquet' cannot be read: it holds no row"):
        open_transcripts(tmp_path / "a.parquet", ["x"])
