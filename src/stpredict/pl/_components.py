"""Principal components as colour: the first three as red, green and blue. Arrays in, arrays out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLOR_QUANTILES = (0.02, 0.98)
"""Quantiles of a component that map to no and full colour."""
MIN_SHARE = 0.005
"""Share of variance below which a component is not shown, because it rounds to 0 %."""


def components(standard: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Loadings ``(3, n_genes)`` and shares of variance of the first three principal components of centred values."""
    complete = standard[np.isfinite(standard).all(axis=1)]
    _, spread, rows = np.linalg.svd(complete, full_matrices=False)
    loadings = rows[:3]
    largest = np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, None], axis=1)
    return loadings * np.sign(largest), spread[:3] ** 2 / (spread**2).sum()


def component_colors(scores: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours ``(n, 3)`` from 0 to 1 of three component scores; grey for missing spots."""
    low, high = np.nanquantile(scores, COLOR_QUANTILES, axis=0)
    shown = (high > low) & (share >= MIN_SHARE)
    scaled = np.where(shown, np.clip((scores - low) / np.where(shown, high - low, 1.0), 0, 1), 0.5)
    missing = ~np.isfinite(scores).all(axis=1, keepdims=True)
    colors: NDArray[np.float64] = np.where(missing, 0.75, scaled)
    return colors
