"""Features in which domains are found: principal components of expression, standardised image features, halves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from ..pp.targets import standardize_within_slides

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

CLIP = 10.0
"""Standardised expression is clipped at this many standard deviations."""


def standardize(values: NDArray[np.float32], slide: NDArray[np.int64]) -> NDArray[np.float32]:
    """Columns standardised within slides, and clipped."""
    clipped: NDArray[np.float32] = np.clip(standardize_within_slides(values, slide), -CLIP, CLIP)
    return clipped


def principal_components(values: NDArray[np.float32], n_components: int) -> NDArray[np.float32]:
    """Scores ``(n, k)`` of the first principal components, at most as many as there are."""
    from sklearn.decomposition import PCA

    n_components = min(n_components, *values.shape)
    solver = "full" if len(values) < values.shape[1] else "covariance_eigh"
    found: NDArray[np.float32] = PCA(n_components, svd_solver=solver).fit_transform(values)
    return np.ascontiguousarray(found, np.float32)


def join(blocks: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Blocks of features side by side, each scaled to a mean squared norm of 1."""
    scaled = [
        block / max(float(np.sqrt((block.astype(np.float64) ** 2).sum(axis=1).mean())), 1e-12) for block in blocks
    ]
    return np.hstack(scaled).astype(np.float32)


def split_molecules(counts: sparse.csr_matrix, seed: int) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
    """Each molecule in one of two halves, by a fair coin: independent measurements if counts are Poisson."""
    first = counts.copy()
    first.data = np.random.default_rng(seed).binomial(np.rint(counts.data).astype(np.int64), 0.5).astype(counts.dtype)
    return first, sparse.csr_matrix(counts - first)
