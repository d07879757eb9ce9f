"""DeepSpaCE: a VGG16 regresses expression, scaled to the range of the training spots, from one patch.

Monjo et al., "Efficient prediction of a spatial transcriptomics profile better characterizes breast cancer tissue
sections without costly experimentation", Scientific Reports 2022, doi 10.1038/s41598-022-07685-4.

As published: VGG16 with dropout between its fully connected layers, a patch of 2.5 spot diameters, min-max scaling of
every target to [0, 1], a smooth L1 loss. Its semi-supervised part, in which a teacher predicts pseudo-labels of
patches without measurements for the next student, is `stp.tl.self_train`; it works with any model.

Deviations
    - Minimum and range of the targets are those of the training spots; the published ones are of all spots, including
      the test spots. ``forward`` inverts the scaling, and predictions may lie outside the range.
    - Targets are log1p CP10k or another choice of `stp.pp.TargetSpec`, not the output of SCTransform.
    - The head starts at the mean profile. Patches are flipped, rotated and jittered in stain; the published random
      resized crops, noise, blur and channel shuffling are left out. ``FitConfig.min_library`` excludes spots with few
      counts; bright spots are not excluded.
    - Fits use AdamW with warm-up and cosine decay instead of Adam. ImageNet weights are loaded only with
      ``weights="timm"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from .contract import FloatLinear, SpotModel, batch_features
from .encoder import NO_WEIGHTS, Encoder
from .model_config import PatchConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepSpaCEConfig(PatchConfig):
    """Shape of a ``DeepSpaCE``. The defaults are the paper's."""

    backbone: str = "vgg16"
    """Model name of timm; the paper also uses ``"densenet121"``."""
    weights: str = NO_WEIGHTS
    """``"none"``, ``"timm"`` for those of ImageNet, or the path of a checkpoint."""
    frozen: bool = False
    """Whether only the last layer is trained."""
    dropout: float = 0.5
    """Dropout rate between fully connected layers."""
    fov_spots: tuple[float, ...] = (2.5,)

    def __post_init__(self) -> None:
        check.field_values(self, n_scales=1)
        check.number("dropout", self.dropout, low=0, high=1)


class DeepSpaCE(SpotModel):
    """A VGG16 whose last layer predicts each target relative to its range."""

    config: DeepSpaCEConfig
    low: Tensor
    """``(n_outputs,)`` minimum of each target over the training spots."""
    spread: Tensor
    """``(n_outputs,)`` its range; 1 for a target that is constant."""

    def __init__(self, config: DeepSpaCEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.backbone, config.weights, config.size_px, frozen=config.frozen)
        for layer in self.encoder.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = config.dropout
        self.dropout = nn.Dropout(config.dropout)
        self.head = FloatLinear(self.encoder.n_features, config.n_outputs)
        self.register_buffer("low", torch.zeros(config.n_outputs))
        self.register_buffer("spread", torch.ones(config.n_outputs))
        self.initialize_at(torch.zeros(config.n_outputs))

    @torch.no_grad()
    def initialize_at(self, mean: Tensor) -> None:
        """Let the untrained network predict ``mean``, ``(n_outputs,)`` in target space, everywhere."""
        check.mean_profile(tuple(mean.shape), self.head.out_features)
        super().initialize_at((mean - self.low) / self.spread)

    @torch.no_grad()
    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Compute range and mean of the targets of the training spots."""
        targets = torch.cat([check.require_targets(piece.targets) for piece in pieces])
        low, high = targets.aminmax(dim=0)
        self.low.copy_(low)
        self.spread.copy_(torch.where(high > low, high - low, torch.ones_like(low)))
        self.initialize_at(targets.mean(dim=0))

    def encode(self, batch: SpotBatch) -> Tensor | None:
        """Features ``(b, d)`` of a frozen network; None if it is trained."""
        return self._features(batch.patches) if self.config.frozen else None

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)``."""
        return self.low + self.spread * self._scaled_output(batch)

    def loss(self, batch: SpotBatch) -> Tensor:
        """Smooth L1 loss between scaled outputs and scaled targets."""
        targets = check.require_targets(batch.targets)
        return F.smooth_l1_loss(self._scaled_output(batch), (targets - self.low) / self.spread)

    def _scaled_output(self, batch: SpotBatch) -> Tensor:
        """``(b, n_outputs)``, 0 at the minimum and 1 at the maximum of the training targets."""
        features = batch_features(self, batch) if self.config.frozen else self._features(batch.patches)
        return self.head(self.dropout(features))

    def _features(self, patches: Tensor) -> Tensor:
        """Map ``(b, 1, 3, p, p)``, uint8 or in [0, 1], to ``(b, d)``."""
        check.patches(tuple(patches.shape), 1, self.config.size_px)
        return self.encoder(patches[:, 0])
