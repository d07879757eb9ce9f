"""ST-Net: a DenseNet-121 regresses expression from one patch; its head starts at the mean profile.

He et al., "Integrating spatial gene expression and breast tumour morphology via deep learning", Nature Biomedical
Engineering 2020, doi 10.1038/s41551-020-0578-x.

As published: DenseNet-121 with all layers trained, a linear head with zero weights whose bias is the training mean,
colours normalised by their mean and standard deviation over the training patches, and predictions averaged over the
eight symmetries of the square, which is ``stp.tl.predict(..., n_views=8)``.

Deviations
    - The loss is the mean over spots and genes. The published loss sums over the spots of a batch, which with 32 spots
      multiplies the learning rate of its SGD by 32. The step of AdamW, which fits use here, does not depend on such a
      factor, and a batch that is computed in parts needs a mean.
    - Training uses AdamW at a learning rate of 1e-4 with warm-up and cosine decay instead of SGD with momentum at 1e-6.
      As published: batches of 32, 50 epochs, flips and rotations by 90 degrees, no weight decay, no colour jitter.
    - Colour statistics are computed on all training patches, not on some batches of them.
    - Counts are normalised as for all models (`stp.pp.TargetSpec`), without a pseudocount for every gene.
    - ImageNet weights are loaded only with ``weights="timm"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from .._checks import models as check
from ._precision import unit_pixels
from .contract import FloatLinear, SpotModel
from .encoder import NO_WEIGHTS, Encoder
from .model_config import PatchConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class STNetConfig(PatchConfig):
    """Patches and initial weights of an ``STNet``."""

    weights: str = NO_WEIGHTS
    """``"none"``, ``"timm"`` for those of ImageNet, or the path of a checkpoint."""

    def __post_init__(self) -> None:
        check.field_values(self, n_scales=1)


class STNet(SpotModel):
    """A DenseNet-121 with a linear head."""

    config: STNetConfig
    color_mean: Tensor
    color_std: Tensor

    def __init__(self, config: STNetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder("densenet121", config.weights, config.size_px, frozen=False)
        self.head = FloatLinear(self.encoder.n_features, config.n_outputs)
        for name in ("mean", "std"):  # of ImageNet, until `initialize_from` replaces them
            self.register_buffer(f"color_{name}", getattr(self.encoder, name).clone())
        self.initialize_at(torch.zeros(config.n_outputs))

    @torch.no_grad()
    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Compute the mean profile and the colour statistics of the training spots."""
        targets, sums, squares, n = [], torch.zeros(3, 1, 1).double(), torch.zeros(3, 1, 1).double(), 0
        for piece in pieces:
            targets.append(check.require_targets(piece.targets))
            pixels = unit_pixels(piece.patches)
            sums += pixels.sum(dim=(0, 1, -2, -1), dtype=torch.float64)[:, None, None]
            squares += pixels.square().sum(dim=(0, 1, -2, -1), dtype=torch.float64)[:, None, None]
            n += pixels[:, :, 0].numel()
        self.initialize_at(torch.cat(targets).mean(dim=0))
        self.color_mean.copy_(sums / n)
        self.color_std.copy_((squares / n - (sums / n) ** 2).clamp_min(1e-4).sqrt())

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)``."""
        check.patches(tuple(batch.patches.shape), 1, self.config.size_px)
        standard = (unit_pixels(batch.patches[:, 0]) - self.color_mean) / self.color_std
        # the encoder subtracts its own mean and divides by its own standard deviation
        return self.head(self.encoder(standard * self.encoder.std + self.encoder.mean))
