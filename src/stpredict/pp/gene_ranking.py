"""Rank genes by how much their expression varies over spots. Arrays in, column numbers out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

RankingMethod = Literal["dispersion", "variance", "mean"]
GENES_PER_BIN = 50
"""Number of genes of similar mean among which dispersions are compared."""


def rank_genes(counts: sparse.csr_matrix, method: RankingMethod, min_fraction: float) -> NDArray[np.intp]:
    """Columns of the genes that qualify, best first: not constant, and with counts in enough spots."""
    total = np.asarray(counts.sum(axis=1), np.float64).reshape(-1, 1)
    values = sparse.csr_matrix(counts.multiply(1e4 / total)).log1p()
    mean = np.asarray(values.mean(axis=0), np.float64).ravel()
    variance = np.clip(np.asarray(values.multiply(values).mean(axis=0), np.float64).ravel() - mean**2, 0, None)
    fraction = np.asarray((counts > 0).sum(axis=0)).ravel() / counts.shape[0]
    usable = np.flatnonzero((variance > 1e-8) & (fraction > 0) & (fraction >= min_fraction))
    if not len(usable):
        msg = (
            f"None of {counts.shape[1]} genes varies over the training spots and has counts in enough of them. Lower "
            "`min_fraction`, give more training slides, or name `genes` yourself."
        )
        raise ValueError(msg)
    mean, variance = mean[usable], variance[usable]
    score = {"mean": mean, "variance": variance}.get(method)
    if score is None:
        score = normalized_dispersion(mean, variance)
    return usable[np.argsort(-score, kind="stable")]


def normalized_dispersion(mean: NDArray[np.float64], variance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance less the median of genes of similar mean, over their median absolute deviation."""
    bins = np.array_split(np.argsort(mean, kind="stable"), max(1, len(mean) // GENES_PER_BIN))
    score = np.empty(len(mean))
    for members in bins:
        centred = variance[members] - np.median(variance[members])
        score[members] = centred / max(float(np.median(np.abs(centred))), 1e-12)
    return score
