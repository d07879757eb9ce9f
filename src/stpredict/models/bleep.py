"""BLEEP: contrastive learning of images and expression; a prediction is the mean of the nearest training spots.

Xie et al., "Spatially Resolved Gene Expression Prediction from Histology Images via Bi-modal Contrastive Learning",
NeurIPS 2023, arXiv 2306.01859.

Names: image encoder -> ``views``; projection heads -> ``Projection`` (``image``, ``spot``); reference -> ``bank``;
tau -> ``temperature``; K -> ``top_k``.

The bank
    The targets of all training spots are part of the model and are saved with it. Their embeddings are recomputed by
    the current ``spot`` head for every prediction, so that they match the weights of every epoch. This costs
    ``n_training x 256 x (n_outputs + 256)`` multiplications per batch, which is little compared with the image
    network. The bank holds neither held-out spots nor spots of new slides. A training spot finds itself in the bank,
    so predictions for the training slides are too good.

Deviations
    - Expression is what the model receives as targets: standardised values, by default of a few principal components
      of the genes. There, too, a prediction is a mean of training spots. The published code applies Harmony to the
      genes of all slides together, including the test slide; here nothing of a test slide is used.
    - Embeddings are the output of a layer norm and their products are used unnormalised, as published
      (``normalize=False``). With ``normalize=True`` they have length 1, as in the retrieval; ``temperature`` should
      then be near 0.1.
    - No gradient passes through the soft targets. With a gradient, the published loss can also decrease by making the
      targets sharper.
    - Validation holds out groups of slides. The published code splits spots at random.
    - The features of a frozen encoder (``frozen``, ``"statistics"``, ``"given"``) are standardised and clipped at
      3 standard deviations from the training mean.

Errors of the published code that are not reproduced: it reads a flag that is never set, rotates images that were
rotated before, and needs several GPUs under SLURM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._closed_form import Standardizer
from ._frozen import EncoderConfig, FrozenEncoderModel, ScaleEncoder
from ._precision import full_precision
from .encoder_table import STATISTICS
from .model_config import GIVEN

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import ClassVar

    from torch import Tensor

    from .contract import SpotBatch


CLIP = 3.0
"""Features of a frozen encoder are clipped at this number of standard deviations from the training mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BLEEPConfig(EncoderConfig):
    """Shape of a ``BLEEP``. The defaults are the paper's, except for its ImageNet weights (``weights="timm"``)."""

    encoder: str | tuple[str, ...] = "resnet50"
    frozen: bool = False
    """Whether the image encoder keeps its initial weights; ``"statistics"`` and ``"given"`` always do."""
    dim: int = 256
    """Width of the shared embedding space of images and expression."""
    dropout: float = 0.1
    """Dropout rate in the projection heads."""
    temperature: float = 1.0
    """Temperature: products of embeddings are divided by it."""
    normalize: bool = False
    """Whether embeddings are normalised to length 1 in the loss."""
    top_k: int = 50
    """Number of training spots whose mean is predicted."""
    fov_spots: tuple[float, ...] = (2.0,)
    """Field of view of each scale in spot diameters, narrowest first; the paper has one."""

    def __post_init__(self) -> None:
        self.check_fields()
        check.number("dropout", self.dropout, low=0, high=1)
        check.number("temperature", self.temperature, low=1e-4, high=1e4)

    @property
    def encoder_is_frozen(self) -> bool:
        """Whether no part of the image encoder is trained."""
        return self.frozen or self.encoder in (STATISTICS, GIVEN)


class Projection(nn.Module):
    """A linear map into the shared space with a residual hidden layer and a layer norm."""

    def __init__(self, n_features: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.into = nn.Linear(n_features, dim)
        self.more = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(b, n_features)`` to ``(b, dim)``."""
        x = self.into(x)
        projected: Tensor = self.norm(x + self.more(x))
        return projected


def smoothed_clip_loss(image: Tensor, spot: Tensor, temperature: float) -> Tensor:
    """CLIP loss of ``(b, d)`` embeddings with soft targets from similarities within images and within spots."""
    logits = spot @ image.T / temperature  # (b, b)
    with torch.no_grad():
        similarity = (image @ image.T + spot @ spot.T) / (2 * temperature)
        soft_targets = similarity.softmax(dim=-1)
    return (F.cross_entropy(logits, soft_targets) + F.cross_entropy(logits.T, soft_targets.T)) / 2


class BLEEP(FrozenEncoderModel):
    """Contrastive learning of images and expression; predicts the mean of the most similar training spots."""

    config: BLEEPConfig
    bank: Tensor
    """``(n, n_outputs)`` targets of the training spots."""
    per_spot_buffers: ClassVar[frozenset[str]] = frozenset({"bank"})

    def __init__(self, config: BLEEPConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.encoder, config.weights, config.n_features, config.size_px, len(config.fov_spots))
        self.views = ScaleEncoder(*shape, frozen=config.encoder_is_frozen)
        width = self.views.n_features
        self.standardize = Standardizer(width, CLIP) if config.encoder_is_frozen else None
        self.image = Projection(width, config.dim, config.dropout)
        self.spot = Projection(config.n_outputs, config.dim, config.dropout)
        self.register_buffer("bank", torch.zeros(1, config.n_outputs))

    def encode(self, batch: SpotBatch) -> Tensor | None:
        """Features ``(b, n_features)`` of a frozen encoder; None if it is trained, or if the features are given."""
        return super().encode(batch) if self.config.encoder_is_frozen else None

    def initialize_at(self, mean: Tensor) -> None:
        """Predict ``mean``, ``(n_outputs,)``, everywhere: it becomes the only row of the bank."""
        check.mean_profile(tuple(mean.shape), self.config.n_outputs)
        self.bank = mean[None].to(self.bank)

    @torch.no_grad()
    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Fill the bank and compute the statistics of frozen features from the training spots."""
        targets, features = [], []
        for piece in pieces:
            targets.append(check.require_targets(piece.targets))
            if self.standardize is not None:
                features.append(self.features_of(piece).float())
        self.bank = torch.cat(targets).to(self.bank)
        if self.standardize is not None:
            self.standardize.solve(torch.cat(features))

    def loss(self, batch: SpotBatch) -> Tensor:
        """Contrastive loss of the batch."""
        image, spot = self._image_embedding(batch), self.spot(check.require_targets(batch.targets))
        with full_precision(image.device):
            image, spot = image.float(), spot.float()
            if self.config.normalize:
                image, spot = F.normalize(image, dim=-1), F.normalize(spot, dim=-1)
            return smoothed_clip_loss(image, spot, self.config.temperature)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Mean of the ``top_k`` training spots whose expression embedding is most similar to the image embedding."""
        image = self._image_embedding(batch)
        with full_precision(image.device):
            bank = F.normalize(self.spot(self.bank).float(), dim=-1)
            similarity = F.normalize(image.float(), dim=-1) @ bank.T  # (b, n)
            nearest = similarity.topk(min(self.config.top_k, len(bank)), dim=-1).indices
            return self.bank[nearest].mean(dim=1)

    def _image_embedding(self, batch: SpotBatch) -> Tensor:
        if self.standardize is None:
            features = check.require_features(self.views(batch))
        else:
            features = self.standardize(self.features_of(batch).float())
        embedding: Tensor = self.image(features)  # (b, dim)
        return embedding
