"""Counts that are none are refused, and the message says how that was noticed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from stpredict._checks import expression as check

COUNTS = np.array([[0, 3, 1], [0, 0, 0], [0, 5, 1]], np.float32)
NAMES = {"genes": ["A", "B", "C"], "spots": ["s0", "s1", "s2"]}


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_counts_pass(kind):
    check.counts(kind(COUNTS))
    check.counts(kind(COUNTS.astype(np.int64)), **NAMES)
    check.counts(kind(np.zeros((2, 2))))


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize(("value", "words"), [
    (-2, r"negative: -2 at spot 's2', gene 'B' \(1 such values; minimum -2, maximum 3\).*Scaled or centred"),
    (0.5, r"not whole numbers: 0\.5 at spot 's2', gene 'B'.*Normalised or log-transformed"),
    (np.nan, "not finite: nan at spot 's2', gene 'B'.*Drop or fill"),
    (np.inf, "not finite: inf at spot 's2', gene 'B'"),
])  # fmt: skip
def test_what_is_no_count(kind, value, words):
    values = COUNTS.copy()
    values[2, 1] = value
    with pytest.raises(ValueError, match=words):
        check.counts(kind(values), **NAMES)


def test_log_values_are_recognised():
    with pytest.raises(ValueError, match="log1p of whole numbers"):
        check.counts(np.log1p(COUNTS))
    scaled = np.log1p(1e4 * COUNTS[[0, 2]] / COUNTS[[0, 2]].sum(1, keepdims=True))
    with pytest.raises(
        ValueError, match=r"not whole numbers: 8\.\d+ at spot 0, gene 1 .*the range is that of log values"
    ):
        check.counts(scaled)
    with pytest.raises(ValueError, match=r"maximum 250000\)"):
        check.counts(COUNTS * 5e4 + 0.25 * (COUNTS == 3))


def test_zero_spots():
    assert check.zero_spots(COUNTS).tolist() == [False, True, False]


def test_names():
    check.known_genes(["B"], ["A", "B"])
    with pytest.raises(
        ValueError, match=r"2 of 3 genes asked for are no genes of the table: 'X', 'Y'\. The table has 2: 'A', 'B'"
    ):
        check.known_genes(["X", "A", "Y"], ["A", "B"])
    with pytest.raises(ValueError, match="No gene is asked for"):
        check.known_genes([], ["A"])
    with pytest.raises(ValueError, match="Gene names in the table are not unique: 'A'"):
        check.unique_genes(["A", "B", "A"], "the table")
    with pytest.raises(ValueError, match=r"The 2 slides \(3, 4 genes\) share no gene"):
        check.shared_genes(0, [3, 4])
