"""M2OST beside two ridge regressions: one on statistics of its patches, one on what a frozen encoder says of them.

Ours, for weights that are at hand. ``m2ost_tiny`` (see ``m2ost``) is a weighted mean of the network and a regression on
colour and texture, since they err elsewhere. A frozen image encoder errs elsewhere still: the regression of
``encoder_ridge`` on its features joins the mean. Both regressions are solved before training, the penalty of each
chosen by leaving out groups; the network is trained as if it were alone, on patches that are turned and stained, while
the encoder sees them once, as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from .._checks import models as check
from ._closed_form import Ridge
from ._frozen import FrozenEncoderModel, ScaleEncoder, check_encoder
from ._penalty import gather_training_spots
from .encoder import NO_WEIGHTS, STATISTICS
from .m2ost import CLIP, M2OST, M2OSTConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class M2OSTEncoderConfig(M2OSTConfig):
    """Shape of an ``M2OSTEncoder``: that of an ``M2OST``, and the encoder."""

    encoder: str = STATISTICS
    """``"statistics"`` (colour and texture, no weights), any name that timm knows, ``"hf-hub:owner/name"`` among them,
    or ``"given"``: embeddings that come with the spots (``features_key`` of `stp.tl.fit`)."""
    weights: str = NO_WEIGHTS
    """``"none"``, ``"timm"`` (from its hub), or the path of a checkpoint."""
    n_features: int = 0
    """Width of the embeddings, for ``encoder="given"``."""
    n_components: int = 256
    """Principal components of the features that are regressed on, at most."""
    encoder_share: float = 0.5
    """Weight of the regression on the encoder in the prediction, from 0 to below 1; the rest is the ``M2OST``."""

    def __post_init__(self) -> None:
        M2OSTConfig.__post_init__(self)
        check_encoder(self.encoder, self.weights, self.n_features, self.fov_spots, self.size_px)
        check.positive_int("n_components", self.n_components)
        check.number("encoder_share", self.encoder_share, low=0, high=1)


class M2OSTEncoder(FrozenEncoderModel, M2OST):
    """``M2OST``, and a ridge regression on what a frozen encoder says of the same patches.

    Parameters
    ----------
    config
        Shape of the model.
    """

    config: M2OSTEncoderConfig
    uses_patches_and_features = True

    def __init__(self, config: M2OSTEncoderConfig) -> None:
        super().__init__(config)
        shape = (config.encoder, config.weights, config.n_features, config.size_px, len(config.fov_spots))
        self.views = ScaleEncoder(*shape)
        self.described = Ridge(self.views.n_features, config.n_outputs, CLIP)

    @torch.no_grad()
    def initialize_at(self, mean: Tensor) -> None:
        """Predict one profile everywhere.

        Parameters
        ----------
        mean
            ``(n_outputs,)`` profile.
        """
        super().initialize_at(mean)
        self.described.constant(mean)

    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Take the mean profile, and solve both regressions, from the training spots.

        Parameters
        ----------
        pieces
            All training spots, with ``targets``, some at a time; iterated once.
        """
        known = gather_training_spots(pieces, self._both)
        own, described = known.features.split([self.n_statistics, self.views.n_features], dim=1)
        self.initialize_at(known.targets.mean(dim=0))
        if self.statistics is not None:
            self.statistics.solve(replace(known, features=own), self.n_statistics, penalty=None)
        self.described.solve(replace(known, features=described), self.config.n_components, penalty=None)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict.

        Parameters
        ----------
        batch
            The spots.

        Returns
        -------
        ``(b, n_outputs)`` float32, in target space.
        """
        described = self.described(self.features_of(batch))
        return torch.lerp(super().forward(batch), described, self.config.encoder_share)

    def _both(self, batch: SpotBatch) -> Tensor:
        """Statistics of the patches, then what the encoder says of them, side by side."""
        return torch.cat([self._known(batch), self.features_of(batch)], dim=1)
