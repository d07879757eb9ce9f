"""ST-Net: a DenseNet-121 regresses expression from one patch, its head starting at the mean profile.

He et al., "Integrating spatial gene expression and breast tumour morphology via deep learning", Nature Biomedical
Engineering 2020, doi 10.1038/s41551-020-0578-x.

As published: DenseNet-121 with all layers trained, a linear head of zero weights whose bias is the training mean,
colours normalised by their mean and standard deviation over training patches, and predictions averaged over the eight
symmetries of the square, which is ``stp.tl.predict(..., n_views=8)``.

Deviations
    - The loss is the mean over spots and genes. The published one sums over the spots of a batch: at 32 spots a rate
      that is 32 times larger for its SGD. AdamW, which fits here use, steps equally far whatever the factor, and a
      batch that is computed in parts is defined by a mean.
    - Trained by AdamW at a rate of 1e-4 with warm-up and cosine decay, not by SGD with momentum at 1e-6. Batch 32, 50
      epochs, flips and quarter turns, no weight decay, no change of colour: as published.
    - Colour statistics are of all training patches, not of some batches of them.
    - Counts are normalised as all models here have them (`stp.pp.TargetSpec`), without a pseudocount for every gene.
    - Weights of ImageNet only where asked for: ``weights="timm"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from .._checks import models as check
from ._precision import unit_pixels
from .contract import FloatLinear, SpotModel
from .encoder import NO_WEIGHTS, Encoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class STNetConfig:
    """The patch that an ``STNet`` sees, and its weights to begin with."""

    n_outputs: int
    """Number of values predicted per spot."""
    weights: str = NO_WEIGHTS
    """``"none"``, ``"timm"`` for those of ImageNet, or the path of a checkpoint."""
    fov_spots: tuple[float, ...] = (1.5,)
    """Field of view in spot diameters."""
    size_px: int = 224
    """Side in pixels of the patch."""
    context: Literal["spot"] = "spot"
    """What one prediction sees: the patch of one spot."""

    def __post_init__(self) -> None:
        for name in ("n_outputs", "size_px"):
            check.positive_int(name, getattr(self, name))
        check.text("weights", self.weights)
        check.fov_spots(self.fov_spots, n_scales=1)
        check.choice("context", self.context, ("spot",))


class STNet(SpotModel):
    """A DenseNet-121 with a linear head.

    Parameters
    ----------
    config
        The patch, and the weights.

    Examples
    --------
    >>> import torch
    >>> from stpredict import models
    >>> model = models.build(models.config("stnet", 5, {"size_px": 32}))
    >>> patches = torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8)
    >>> model(models.SpotBatch(patches=patches, xy_um=torch.zeros(2, 2), slide=torch.zeros(2, dtype=torch.long))).shape
    torch.Size([2, 5])
    """

    config: STNetConfig
    color_mean: Tensor
    color_std: Tensor

    def __init__(self, config: STNetConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder("densenet121", config.weights, config.size_px, frozen=False)
        self.head = FloatLinear(self.encoder.n_features, config.n_outputs)
        for name in ("mean", "std"):  # of ImageNet, until training spots are known
            self.register_buffer(f"color_{name}", getattr(self.encoder, name).clone())
        self.initialize_at(torch.zeros(config.n_outputs))

    def load_pretrained(self) -> dict[str, str]:
        """Load the weights of the image network, where any were named.

        Returns
        -------
        What was loaded, in words.
        """
        loaded = self.encoder.load()
        return {"encoder": loaded} if loaded else {}

    @torch.no_grad()
    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Take the mean profile and the statistics of colours from the training spots.

        Parameters
        ----------
        pieces
            All training spots, with ``targets``, some at a time; iterated once.
        """
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
        """Predict.

        Parameters
        ----------
        batch
            The spots.

        Returns
        -------
        ``(b, n_outputs)`` float32, in target space.
        """
        check.patches(tuple(batch.patches.shape), 1, self.config.size_px)
        standard = (unit_pixels(batch.patches[:, 0]) - self.color_mean) / self.color_std
        y: Tensor = self.head(self.encoder(standard * self.encoder.std + self.encoder.mean))  # which it takes off again
        return y
