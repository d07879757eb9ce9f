"""Ridge regression on colour and texture statistics of the patches, in closed form. Not published.

``ridge_color`` uses six numbers of each window; this model uses all 27 of ``image_statistics``: colour, correlation and
skew of the channels, texture at four scales, and the mean of the centre, in the spot and in every field of view.
Statistics are standardised over the training spots and clipped; the penalty is chosen as in ``encoder_ridge``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._checks import models as check
from ._closed_form import Ridge
from .baselines import PatchRidge, RidgeColorConfig
from .image_statistics import N_STATISTICS, patch_statistics

if TYPE_CHECKING:
    from torch import Tensor

    from .contract import SpotBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class RidgeStatisticsConfig(RidgeColorConfig):
    """Shape of a ``RidgeStatistics``: that of a ``RidgeColor``, and where statistics are clipped."""

    clip: float | None = 3.0
    """Statistics are clipped at this many standard deviations from the training mean, unless None."""
    fov_spots: tuple[float, ...] = (1.5, 3.0, 9.0)

    def __post_init__(self) -> None:
        RidgeColorConfig.__post_init__(self)
        check.clip(self.clip)


class RidgeStatistics(PatchRidge):
    """Ridge regression on colour and texture statistics of the patches."""

    config: RidgeStatisticsConfig

    def __init__(self, config: RidgeStatisticsConfig) -> None:
        super().__init__()
        self.config = config
        self.ridge = Ridge(N_STATISTICS * (len(config.fov_spots) + 1), config.n_outputs, config.clip)

    def encode(self, batch: SpotBatch) -> Tensor:
        """Statistics ``(b, 27 * (s + 1))`` of the spot and of every field of view."""
        check.patches(tuple(batch.patches.shape), len(self.config.fov_spots), self.config.size_px)
        return patch_statistics(batch.patches, 1 / self.config.fov_spots[0])
