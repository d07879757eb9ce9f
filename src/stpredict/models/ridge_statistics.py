"""Ridge regression on colour and texture statistics of the patches, in closed form. Not published.

``ridge_color`` uses six numbers of each window; this model uses all 27 of ``image_statistics``: colour, correlation and
skew of the channels, texture at four scales, and the mean of the centre, in the spot and in every field of view.
Statistics are standardised over the training spots and clipped; the penalty is chosen as in ``encoder_ridge``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from .._checks import models as check
from ._closed_form import Ridge, gather_training_spots
from .contract import SpotModel, batch_features
from .image_statistics import N_STATISTICS, patch_statistics
from .model_config import PatchConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class RidgeStatisticsConfig(PatchConfig):
    """Shape of a ``RidgeStatistics``."""

    clip: float | None = 3.0
    """Statistics are clipped at this many standard deviations from the training mean, unless None."""
    penalty: float | None = None
    """Weight of the squared coefficients, for standardised statistics; None chooses it by cross-validation over
    groups."""
    fov_spots: tuple[float, ...] = (1.5, 3.0, 9.0)
    size_px: int = 112

    def __post_init__(self) -> None:
        check.field_values(self)
        check.clip(self.clip)
        check.penalty(self.penalty)


class RidgeStatistics(SpotModel):
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

    def initialize_at(self, mean: Tensor) -> None:
        """Make the model predict one profile for every spot."""
        self.ridge.constant(mean)

    def initialize_from(self, batches: Iterable[SpotBatch]) -> None:
        """Solve the regression; nothing else is learnt."""
        spots = gather_training_spots(batches, partial(batch_features, self))
        self.ridge.solve(spots, spots.features.shape[1], self.config.penalty)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)`` float32, in target space."""
        return self.ridge(batch_features(self, batch))
