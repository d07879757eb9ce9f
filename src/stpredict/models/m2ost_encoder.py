"""M2OST beside two ridge regressions: on statistics of its patches, and on the features of a frozen encoder.

Not published; for encoder weights that are available. ``m2ost_tiny`` (see ``m2ost_statistics``) is a weighted mean of
the network and a regression on colour and texture, because the two make different errors. The errors of a frozen image
encoder differ again, so the regression of ``encoder_ridge`` on its features joins the mean. Both regressions are solved
before training, each with its own cross-validated penalty. The network is trained as if it were alone, on augmented
patches, while the encoder sees each patch once, without augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from .._checks import models as check
from ._closed_form import Ridge, gather_training_spots
from ._frozen import FrozenEncoderModel, ScaleEncoder
from .encoder import NO_WEIGHTS, STATISTICS
from .m2ost_statistics import CLIP, M2OSTStatistics, M2OSTStatisticsConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class M2OSTEncoderConfig(M2OSTStatisticsConfig):
    """Shape of an ``M2OSTEncoder``: that of an ``M2OSTStatistics``, and the encoder."""

    encoder: str = STATISTICS
    """``"statistics"`` (colour and texture, no weights), any name that timm knows, ``"hf-hub:owner/name"`` among them,
    or ``"given"``: embeddings that come with the spots (``features_key`` of `stp.tl.fit`)."""
    weights: str = NO_WEIGHTS
    """``"none"``, ``"timm"`` (from its hub), or the path of a checkpoint."""
    n_features: int = 0
    """Width of the embeddings, for ``encoder="given"``."""
    n_components: int = 256
    """Maximum number of principal components of the features in the regression."""
    encoder_share: float = 0.5
    """Weight of the regression on the encoder in the prediction, from 0 to below 1; the rest is the ``M2OST``."""

    def __post_init__(self) -> None:
        M2OSTStatisticsConfig.__post_init__(self)
        check.embedding_width(self.encoder, self.n_features)
        check.number("encoder_share", self.encoder_share, low=0, high=1)


class M2OSTEncoder(FrozenEncoderModel, M2OSTStatistics):
    """``M2OSTStatistics``, and ridge regression on the features of a frozen encoder of the same patches."""

    config: M2OSTEncoderConfig
    uses_patches_and_features = True

    def __init__(self, config: M2OSTEncoderConfig) -> None:
        super().__init__(config)
        shape = (config.encoder, config.weights, config.n_features, config.size_px, len(config.fov_spots))
        self.views = ScaleEncoder(*shape)
        self.described = Ridge(self.views.n_features, config.n_outputs, CLIP)  # saved weights have this name

    @torch.no_grad()
    def initialize_at(self, mean: Tensor) -> None:
        """Make the untrained model predict one profile for every spot."""
        super().initialize_at(mean)
        self.described.constant(mean)

    def initialize_from(self, batches: Iterable[SpotBatch]) -> None:
        """Take the mean profile from the training spots, and solve both regressions."""
        spots = gather_training_spots(batches, self._statistics_and_features)
        statistics, features = spots.features.split([self.n_statistics, self.views.n_features], dim=1)
        self.initialize_at(spots.targets.mean(dim=0))
        if self.statistics is not None:
            self.statistics.solve(replace(spots, features=statistics), self.n_statistics, penalty=None)
        self.described.solve(replace(spots, features=features), self.config.n_components, penalty=None)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)`` float32, in target space."""
        regressed = self.described(self.features_of(batch))
        return torch.lerp(super().forward(batch), regressed, self.config.encoder_share)

    def _statistics_and_features(self, batch: SpotBatch) -> Tensor:
        return torch.cat([self._patch_statistics(batch), self.features_of(batch)], dim=1)
