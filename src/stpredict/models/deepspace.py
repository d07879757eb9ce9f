"""DeepSpaCE: a VGG16 regresses expression, scaled to the range of the training spots, from one patch.

Monjo et al., "Efficient prediction of a spatial transcriptomics profile better characterizes breast cancer tissue
sections without costly experimentation", Scientific Reports 2022, doi 10.1038/s41598-022-07685-4.

As published: VGG16 with dropout between its fully connected layers, a patch of 2.5 spot diameters, every target scaled
to [0, 1] by its least and greatest value, a smooth L1 loss. Its semi-supervision, in which a teacher labels patches
without measurements for the next student, is `stp.tl.self_train`, for this and any other model.

Deviations
    - The range is that of the training spots; the published one is of all spots, those of the test among them. It is
      undone in ``forward``, and predictions may leave it.
    - Targets are log1p CP10k or whatever `stp.pp.TargetSpec` says, not SCTransform's.
    - The head starts at the mean profile. Patches are flipped, turned and shifted in stain; the published crops at
      random scales, noise, blur and shuffled channels are left out. Spots with few counts are dropped by
      ``FitConfig.min_library``, bright ones are not.
    - Fits use AdamW with warm-up and cosine decay for its Adam. Weights of ImageNet only where asked for:
      ``weights="timm"``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from .contract import FloatLinear, SpotModel, batch_features
from .encoder import NO_WEIGHTS, Encoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepSpaCEConfig:
    """Shape of a ``DeepSpaCE``. The defaults are the paper's."""

    n_outputs: int
    """Number of values predicted per spot."""
    backbone: str = "vgg16"
    """Name that timm knows; the paper also tries ``"densenet121"``."""
    weights: str = NO_WEIGHTS
    """``"none"``, ``"timm"`` for those of ImageNet, or the path of a checkpoint."""
    frozen: bool = False
    """Train the last layer alone."""
    dropout: float = 0.5
    """Share of activations dropped between fully connected layers in training."""
    fov_spots: tuple[float, ...] = (2.5,)
    """Field of view in spot diameters."""
    size_px: int = 224
    """Side in pixels of the patch."""
    context: Literal["spot"] = "spot"
    """What one prediction sees: the patch of one spot."""

    def __post_init__(self) -> None:
        for name in ("n_outputs", "size_px"):
            check.positive_int(name, getattr(self, name))
        for name in ("backbone", "weights"):
            check.text(name, getattr(self, name))
        check.flag("frozen", self.frozen)
        check.number("dropout", self.dropout, low=0, high=1)
        check.fov_spots(self.fov_spots, n_scales=1)
        check.choice("context", self.context, ("spot",))


class DeepSpaCE(SpotModel):
    """A VGG16 whose last layer gives each target within its range.

    Parameters
    ----------
    config
        Shape of the network.

    Examples
    --------
    >>> import torch
    >>> from stpredict import models
    >>> model = models.build(models.config("deepspace", 5, {"backbone": "resnet18", "size_px": 32}))
    >>> patches = torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8)
    >>> model(models.SpotBatch(patches=patches, xy_um=torch.zeros(2, 2), slide=torch.zeros(2, dtype=torch.long))).shape
    torch.Size([2, 5])
    """

    config: DeepSpaCEConfig
    low: Tensor
    spread: Tensor

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

    def load_pretrained(self) -> dict[str, str]:
        """Load the weights of the image network, where any were named.

        Returns
        -------
        What was loaded, in words.
        """
        loaded = self.encoder.load()
        return {"encoder": loaded} if loaded else {}

    @torch.no_grad()
    def initialize_at(self, mean: Tensor) -> None:
        """Let the untrained network predict one profile everywhere.

        Parameters
        ----------
        mean
            ``(n_outputs,)`` profile, for instance the mean of the training targets.
        """
        check.mean_profile(tuple(mean.shape), self.head.out_features)
        super().initialize_at((mean - self.low) / self.spread)

    @torch.no_grad()
    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Take the range and the mean of the targets from the training spots.

        Parameters
        ----------
        pieces
            All training spots, with ``targets``, some at a time; iterated once.
        """
        targets = torch.cat([check.require_targets(piece.targets) for piece in pieces])
        low, high = targets.aminmax(dim=0)
        self.low.copy_(low)
        self.spread.copy_(torch.where(high > low, high - low, torch.ones_like(low)))
        self.initialize_at(targets.mean(dim=0))

    def encode(self, batch: SpotBatch) -> Tensor | None:
        """Features of the patches, where the network is frozen.

        Parameters
        ----------
        batch
            The spots.

        Returns
        -------
        ``(b, d)``, or None where the network is trained.
        """
        return self._features(batch.patches) if self.config.frozen else None

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
        return self.low + self.spread * self._scaled(batch)

    def loss(self, batch: SpotBatch) -> Tensor:
        """Smooth L1 between scaled outputs and scaled targets.

        Parameters
        ----------
        batch
            The spots, with ``targets``.

        Returns
        -------
        A scalar.
        """
        targets = check.require_targets(batch.targets)
        return F.smooth_l1_loss(self._scaled(batch), (targets - self.low) / self.spread)

    def _scaled(self, batch: SpotBatch) -> Tensor:
        """``(b, n_outputs)``, 0 at the least and 1 at the greatest training target."""
        features = batch_features(self, batch) if self.config.frozen else self._features(batch.patches)
        y: Tensor = self.head(self.dropout(features))
        return y

    def _features(self, patches: Tensor) -> Tensor:
        """``(b, 1, 3, p, p)``, uint8 or in [0, 1], to ``(b, d)``."""
        check.patches(tuple(patches.shape), 1, self.config.size_px)
        found: Tensor = self.encoder(patches[:, 0])
        return found
