"""M2OST with colour statistics: a mixture with ridge regression on patch statistics, and a colour token. Not published.

- ``statistics_share``: with a few hundred spots, ridge regression on statistics of the same patches predicts as well as
  the network and makes different errors. The prediction is the weighted mean of both. The loss is that of the network
  alone, so the network is trained as if there were no regression; the regression is solved before training.
- ``color_tokens`` adds a token of colour statistics to the tokens of each scale.

Predictors of this model are saved under the name ``M2OST``, and ``M2OST`` with one of these two fields is this model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._closed_form import Ridge, gather_training_spots
from ._precision import unit_pixels
from .image_statistics import N_COLOR, N_STATISTICS, color_statistics, patch_statistics
from .m2ost import M2OST, M2OSTConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch

CLIP = 3.0
"""Statistics are clipped at this many standard deviations from the training mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class M2OSTStatisticsConfig(M2OSTConfig):
    """Shape of an ``M2OSTStatistics``: that of an ``M2OST``, and the use of statistics."""

    color_tokens: bool = False
    """Add a token of colour statistics to each scale."""
    statistics_share: float = 0.0
    """Weight of the ridge regression on patch statistics in the prediction, from 0 to below 1."""

    def __post_init__(self) -> None:
        M2OSTConfig.__post_init__(self)
        check.number("statistics_share", self.statistics_share, low=0, high=1)


class ColorToken(nn.Linear):
    """A linear map of the colour statistics of each patch."""

    def forward(self, patches: Tensor) -> Tensor:
        """Map ``(b, s, 3, p, p)``, uint8 or in [0, 1], to ``(b, s, d)``."""
        return super().forward(color_statistics(unit_pixels(patches)))


class M2OSTStatistics(M2OST):
    """``M2OST``, and ridge regression on colour and texture statistics of the same patches."""

    config: M2OSTStatisticsConfig

    def __init__(self, config: M2OSTStatisticsConfig) -> None:
        super().__init__(config, (lambda dim: ColorToken(N_COLOR, dim)) if config.color_tokens else None)
        self.n_statistics = (len(config.fov_spots) + 1) * N_STATISTICS
        self.statistics = Ridge(self.n_statistics, config.n_outputs, CLIP) if config.statistics_share > 0 else None

    @torch.no_grad()
    def initialize_at(self, mean: Tensor) -> None:
        """Let the untrained model predict one profile everywhere."""
        super().initialize_at(mean)
        if self.statistics is not None:
            self.statistics.constant(mean)

    def initialize_from(self, batches: Iterable[SpotBatch]) -> None:
        """Take the mean profile from the training spots, and solve the regression on their statistics."""
        if self.statistics is None:
            super().initialize_from(batches)
            return
        spots = gather_training_spots(batches, self._patch_statistics)
        self.initialize_at(spots.targets.mean(dim=0))
        self.statistics.solve(spots, self.n_statistics, penalty=None)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)`` float32, in target space."""
        y = super().forward(batch)
        if self.statistics is None:
            return y
        regressed: Tensor = self.statistics(self._patch_statistics(batch))
        return torch.lerp(y, regressed, self.config.statistics_share)

    def loss(self, batch: SpotBatch) -> Tensor:
        """Mean squared error of the network alone, without the regression on statistics."""
        return F.mse_loss(super().forward(batch), check.require_targets(batch.targets))

    def _patch_statistics(self, batch: SpotBatch) -> Tensor:
        """``(b, (s + 1) * 27)``."""
        return patch_statistics(batch.patches, 1 / self.config.fov_spots[0])
