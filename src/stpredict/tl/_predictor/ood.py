"""Which patches are unlike those trained on: a distance in the space of colour and texture.

Tensors and arrays only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from ...models.image_statistics import patch_statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor

SHARE = 0.99
"""Share of left-out training spots that are closer than the threshold."""
AT_ONCE = 32
"""Spots whose statistics are computed at a time."""
LEAST_SPREAD = 1e-4
"""Statistics that vary less than this over training spots are as good as constant."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageRange:
    """Where the patches of training spots lie in the space of their statistics."""

    center: NDArray[np.float32]
    """``(d,)`` mean."""
    whitening: NDArray[np.float32]
    """``(d, d)`` makes deviations from the mean uncorrelated, in units of the threshold."""

    @classmethod
    def of(cls, statistics: NDArray[np.float32], fold: NDArray[np.str_]) -> ImageRange:
        """Learn where training spots lie, and how far beyond it is unusual.

        Parameters
        ----------
        statistics
            ``(n, d)`` patch statistics of training spots.
        fold
            ``(n,)`` what is left out together: a group, or a slide.

        Returns
        -------
        The range. A distance of 1 is what 1 % of the spots exceed that are left out.
        """
        outside = np.empty(len(statistics))
        for held in np.unique(fold):
            there, rest = fold == held, fold != held
            center, whitening = _whitening(statistics[rest] if rest.any() else statistics)
            outside[there] = _distances(statistics[there], center, whitening)
        center, whitening = _whitening(statistics)
        threshold = max(float(np.quantile(outside, SHARE)), 1e-6)
        return cls(center=center.astype(np.float32), whitening=(whitening / threshold).astype(np.float32))

    def distances(self, statistics: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far spots lie from the training spots.

        Parameters
        ----------
        statistics
            ``(n, d)``.

        Returns
        -------
        ``(n,)`` float32; 1 is the threshold.
        """
        return _distances(statistics, self.center, self.whitening).astype(np.float32)

    def tensors(self) -> dict[str, Tensor]:
        """What is saved, by name.

        Returns
        -------
        Tensors.
        """
        return {"center": torch.from_numpy(self.center), "whitening": torch.from_numpy(self.whitening)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> ImageRange:
        """Rebuild what was saved.

        Parameters
        ----------
        tensors
            What `tensors` gave.

        Returns
        -------
        The range.
        """
        return cls(center=tensors["center"].numpy(), whitening=tensors["whitening"].numpy())


@torch.inference_mode()
def image_statistics(patches: Tensor, spot_share: float) -> NDArray[np.float32]:
    """Colour and texture of patches, some at a time.

    Parameters
    ----------
    patches
        ``(n, s, 3, p, p)``, on any device.
    spot_share
        Spot diameter over the narrowest field of view.

    Returns
    -------
    ``(n, (s + 1) * 27)`` float32.
    """
    found = [patch_statistics(some, spot_share).cpu().numpy() for some in patches.split(AT_ONCE)]
    return np.concatenate(found).astype(np.float32)


def _distances(
    statistics: NDArray[np.float32], center: NDArray[np.floating], whitening: NDArray[np.floating]
) -> NDArray[np.float64]:
    away = (statistics.astype(np.float64) - center) @ whitening
    found: NDArray[np.float64] = np.sqrt((away**2).mean(axis=1))
    return found


def _whitening(statistics: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean, and what turns deviations into uncorrelated ones of variance 1, from a shrunken covariance."""
    x = statistics.astype(np.float64)
    center, std = x.mean(axis=0), x.std(axis=0)
    x = (x - center) / np.where(std > LEAST_SPREAD, std, 1.0)
    values, vectors = np.linalg.eigh(_shrunken(x))
    scale = np.where(std > LEAST_SPREAD, 1 / np.maximum(std, LEAST_SPREAD), 1.0)
    return center, scale[:, None] * vectors / np.sqrt(np.maximum(values, 1e-6))


def _shrunken(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance of centred values, shrunk to a multiple of the identity as Ledoit and Wolf (2004) find best."""
    n, d = x.shape
    covariance = x.T @ x / n
    mean = np.trace(covariance) / d
    distance = ((covariance - mean * np.eye(d)) ** 2).sum()
    error = (((x**2).sum(axis=1) ** 2).sum() / n - (covariance**2).sum()) / n
    share = 1.0 if distance <= 0 else min(1.0, max(0.0, error / distance))
    shrunken: NDArray[np.float64] = (1 - share) * covariance + share * max(mean, 1e-6) * np.eye(d)
    return shrunken
