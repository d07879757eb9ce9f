"""Out-of-distribution detection: the Mahalanobis distance of a patch from the training patches, in colour and texture.

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

IN_DISTRIBUTION_SHARE = 0.99
"""Share of held-out training spots whose distance is below the threshold."""
SPOTS_PER_BATCH = 32
"""Spots whose statistics are computed at a time."""
MIN_STD = 1e-4
"""Statistics with a smaller standard deviation over the training spots count as constant."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ImageRange:
    """The distribution of image statistics of the training spots: mean and whitening matrix."""

    center: NDArray[np.float32]
    """``(d,)`` mean."""
    whitening: NDArray[np.float32]
    """``(d, d)`` matrix that decorrelates deviations from the mean, in units of the threshold."""

    @classmethod
    def of(cls, statistics: NDArray[np.float32], fold: NDArray[np.str_]) -> ImageRange:
        """Fit ``(n, d)`` statistics; 1 % of the spots of held-out folds (groups or slides) lie beyond distance 1."""
        held_out_distances = np.empty(len(statistics))
        for name in np.unique(fold):
            held_out, rest = fold == name, fold != name
            center, whitening = _whitening(statistics[rest] if rest.any() else statistics)
            held_out_distances[held_out] = _mahalanobis(statistics[held_out], center, whitening)
        center, whitening = _whitening(statistics)
        threshold = max(float(np.quantile(held_out_distances, IN_DISTRIBUTION_SHARE)), 1e-6)
        return cls(center=center.astype(np.float32), whitening=(whitening / threshold).astype(np.float32))

    def distances(self, statistics: NDArray[np.float32]) -> NDArray[np.float32]:
        """Distances ``(n,)`` of spots from the training spots; 1 is the threshold."""
        return _mahalanobis(statistics, self.center, self.whitening).astype(np.float32)

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that are saved, by name."""
        return {"center": torch.from_numpy(self.center), "whitening": torch.from_numpy(self.whitening)}

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> ImageRange:
        """Rebuild what `state_dict` gave."""
        return cls(center=tensors["center"].numpy(), whitening=tensors["whitening"].numpy())


@torch.inference_mode()
def image_statistics(patches: Tensor, spot_share: float) -> NDArray[np.float32]:
    """Colour and texture ``(n, (s + 1) * 27)`` of patches ``(n, s, 3, p, p)``, computed in batches.

    ``spot_share`` is the spot diameter over the narrowest field of view.
    """
    found = [patch_statistics(batch, spot_share).cpu().numpy() for batch in patches.split(SPOTS_PER_BATCH)]
    return np.concatenate(found).astype(np.float32)


def _mahalanobis(
    statistics: NDArray[np.float32], center: NDArray[np.floating], whitening: NDArray[np.floating]
) -> NDArray[np.float64]:
    whitened = (statistics.astype(np.float64) - center) @ whitening
    distances: NDArray[np.float64] = np.sqrt((whitened**2).mean(axis=1))
    return distances


def _whitening(statistics: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean, and the matrix that whitens deviations from it, from the Ledoit-Wolf covariance."""
    x = statistics.astype(np.float64)
    center, std = x.mean(axis=0), x.std(axis=0)
    x = (x - center) / np.where(std > MIN_STD, std, 1.0)
    values, vectors = np.linalg.eigh(_ledoit_wolf(x))
    scale = np.where(std > MIN_STD, 1 / np.maximum(std, MIN_STD), 1.0)
    return center, scale[:, None] * vectors / np.sqrt(np.maximum(values, 1e-6))


def _ledoit_wolf(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Covariance of centred values, shrunk towards a multiple of the identity (Ledoit and Wolf, 2004)."""
    n, d = x.shape
    covariance = x.T @ x / n
    mean = np.trace(covariance) / d
    distance = ((covariance - mean * np.eye(d)) ** 2).sum()
    error = (((x**2).sum(axis=1) ** 2).sum() / n - (covariance**2).sum()) / n
    share = 1.0 if distance <= 0 else min(1.0, max(0.0, error / distance))
    shrunk: NDArray[np.float64] = (1 - share) * covariance + share * max(mean, 1e-6) * np.eye(d)
    return shrunk
