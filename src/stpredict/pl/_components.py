"""Expression as colour: the first three principal components as red, green and blue. Arrays in, arrays out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROBUST = (0.02, 0.98)
"""Quantiles of a component that become no and full colour."""
LEAST_SHARE = 0.005
"""Share of variance below which a component is not shown: what rounds to 0 %."""


def components(standard: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The first three principal components of centred values.

    Parameters
    ----------
    standard
        ``(n_spots, n_genes)``; rows with NaN are left out.

    Returns
    -------
    Loadings ``(3, n_genes)``, the largest of each positive, and the share of variance ``(3,)``.
    """
    complete = standard[np.isfinite(standard).all(axis=1)]
    _, spread, rows = np.linalg.svd(complete, full_matrices=False)
    loadings = rows[:3]
    largest = np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, None], axis=1)
    return loadings * np.sign(largest), spread[:3] ** 2 / (spread**2).sum()


def colors_of(scores: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Red, green and blue from three components.

    Parameters
    ----------
    scores
        ``(n_spots, 3)``.
    share
        ``(3,)`` share of variance; a component below 0.5 % is noise and becomes half its colour everywhere.

    Returns
    -------
    ``(n_spots, 3)`` from 0 to 1; a spot with NaN is grey.
    """
    low, high = np.nanquantile(scores, ROBUST, axis=0)
    told = (high > low) & (share >= LEAST_SHARE)
    scaled = np.where(told, np.clip((scores - low) / np.where(told, high - low, 1.0), 0, 1), 0.5)
    missing = ~np.isfinite(scores).all(axis=1, keepdims=True)
    colors: NDArray[np.float64] = np.where(missing, 0.75, scaled)
    return colors
