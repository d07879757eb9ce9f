"""BLEEP: images and expression in one space; a spot is predicted as the mean of the training spots it lies nearest to.

Xie et al., "Spatially Resolved Gene Expression Prediction from Histology Images via Bi-modal Contrastive Learning",
NeurIPS 2023, arXiv 2306.01859.

Names: image encoder -> ``encoder``; projection heads -> ``Projection`` (``image``, ``spot``); reference -> ``bank``;
tau -> ``temperature``; K -> ``top_k``.

The bank
    The targets of all training spots are part of the model, and its file. Their embeddings are computed from them by
    the present ``spot`` head whenever something is predicted, so that they fit it at every epoch; that costs
    ``n_training x 256 x (n_outputs + 256)`` multiplications a batch, little beside the image network. Spots that are
    held out are never in the bank, and none of a new slide is. A training spot finds itself there: predicting the
    training slides flatters.

Deviations
    - Expression is what the model is given as targets: standardised, by default on a few principal components of the
      genes. A mean of training spots is one there too. The published code corrects the genes of all slides together by
      Harmony, those of the test slide among them; nothing of a test slide is seen here.
    - Embeddings leave a layer norm and their products are taken as they are, as published (``normalize=False``); with
      ``normalize=True`` they are of length 1, as when retrieving, and ``temperature`` should be near 0.1.
    - Soft targets do not pass gradients: with them the published loss can also fall by making the targets sharper.
    - Validation is by groups of slides, where the published code splits spots at random.
    - A frozen encoder (``frozen``, ``"statistics"``, ``"given"``) has its features standardised, and
      drawn in where they lie more than 3 standard deviations from the training mean.

Not from the published code: it reads a flag that is never set, turns images that are turned already, and needs several
GPUs under SLURM.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._closed_form import Standardizer
from ._frozen import FrozenEncoderModel, ScaleEncoder, check_encoder
from ._precision import full_precision
from .encoder import NO_WEIGHTS, STATISTICS
from .model_config import GIVEN

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import ClassVar

    from torch import Tensor

    from .contract import SpotBatch


CLIP = 3.0
"""Standard deviations that a frozen feature may lie from the training mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BLEEPConfig:
    """Shape of a ``BLEEP``. The defaults are the paper's."""

    n_outputs: int
    """Number of values predicted per spot."""
    encoder: str = "resnet50"
    """Any name that timm knows, ``"hf-hub:owner/name"`` among them; ``"statistics"`` (colour and texture, no weights);
    or ``"given"``: embeddings that come with the spots (``features_key`` of `stp.tl.fit`)."""
    weights: str = NO_WEIGHTS
    """``"none"``, ``"timm"`` (from its hub; ImageNet in the paper), or the path of a checkpoint."""
    frozen: bool = False
    """Whether the image network stays as it was loaded; ``"statistics"`` and ``"given"`` always do."""
    n_features: int = 0
    """Width of the embeddings, for ``encoder="given"``."""
    dim: int = 256
    """Width of the space that images and expression share."""
    dropout: float = 0.1
    """Share of activations dropped in the projection heads in training."""
    temperature: float = 1.0
    """What products of embeddings are divided by."""
    normalize: bool = False
    """Whether embeddings are of length 1 in the loss."""
    top_k: int = 50
    """Training spots whose mean is predicted."""
    fov_spots: tuple[float, ...] = (2.0,)
    """Field of view of each scale in spot diameters, narrowest first; the paper has one."""
    size_px: int = 224
    """Side in pixels of the patch of every scale."""
    context: Literal["spot"] = "spot"
    """What one prediction sees: the patches of one spot."""

    def __post_init__(self) -> None:
        for name in ("n_outputs", "dim", "top_k"):
            check.positive_int(name, getattr(self, name))
        check_encoder(self.encoder, self.weights, self.n_features, self.fov_spots, self.size_px)
        check.number("dropout", self.dropout, low=0, high=1)
        check.number("temperature", self.temperature, low=1e-4, high=1e4)
        check.flag("normalize", self.normalize)
        check.flag("frozen", self.frozen)
        check.choice("context", self.context, ("spot",))

    @property
    def still(self) -> bool:
        """Whether nothing of the image encoder is trained."""
        return self.frozen or self.encoder in (STATISTICS, GIVEN)


class Projection(nn.Module):
    """A linear map into the shared space, and one hidden layer added to it."""

    def __init__(self, n_features: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.into = nn.Linear(n_features, dim)
        self.more = nn.Sequential(nn.GELU(), nn.Linear(dim, dim), nn.Dropout(dropout))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Project ``(b, n_features)`` to ``(b, dim)``."""
        x = self.into(x)
        projected: Tensor = self.norm(x + self.more(x))
        return projected


def smoothed_clip_loss(image: Tensor, spot: Tensor, temperature: float) -> Tensor:
    """Cross entropy between which spot belongs to which image and how alike images, and spots, are among themselves.

    Parameters
    ----------
    image
        ``(b, d)`` embeddings of images.
    spot
        ``(b, d)`` embeddings of the expression of the same spots.
    temperature
        What products are divided by.

    Returns
    -------
    A scalar: the mean over both directions and the spots.
    """
    logits = spot @ image.T / temperature  # (b, b)
    with torch.no_grad():
        alike = (image @ image.T + spot @ spot.T) / (2 * temperature)
        wanted = alike.softmax(dim=-1)
    return (F.cross_entropy(logits, wanted) + F.cross_entropy(logits.T, wanted.T)) / 2


class BLEEP(FrozenEncoderModel):
    """Contrastive learning of images and expression; prediction by looking up training spots.

    Parameters
    ----------
    config
        Shape of the network.
    """

    config: BLEEPConfig
    bank: Tensor
    """``(n, n_outputs)`` targets of the training spots."""
    per_spot_buffers: ClassVar[frozenset[str]] = frozenset({"bank"})

    def __init__(self, config: BLEEPConfig) -> None:
        super().__init__()
        self.config = config
        shape = (config.encoder, config.weights, config.n_features, config.size_px, len(config.fov_spots))
        self.views = ScaleEncoder(*shape, frozen=config.still)
        width = self.views.n_features
        self.standardize = Standardizer(width, CLIP) if config.still else None
        self.image = Projection(width, config.dim, config.dropout)
        self.spot = Projection(config.n_outputs, config.dim, config.dropout)
        self.register_buffer("bank", torch.zeros(1, config.n_outputs))

    def encode(self, batch: SpotBatch) -> Tensor | None:
        """What a frozen encoder says of every scale.

        Parameters
        ----------
        batch
            The spots.

        Returns
        -------
        ``(b, n_features)``; None where the encoder is trained, or embeddings come with the spots.
        """
        return super().encode(batch) if self.config.still else None

    def initialize_at(self, mean: Tensor) -> None:
        """Predict one profile everywhere: it is all that the bank holds.

        Parameters
        ----------
        mean
            ``(n_outputs,)`` profile.
        """
        check.mean_profile(tuple(mean.shape), self.config.n_outputs)
        self.bank = mean[None].to(self.bank)

    @torch.no_grad()
    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Take the bank, and the statistics of frozen features, from the training spots.

        Parameters
        ----------
        pieces
            All training spots, with ``targets``, some at a time; iterated once.
        """
        targets, features = [], []
        for piece in pieces:
            targets.append(check.require_targets(piece.targets))
            if self.standardize is not None:
                features.append(self.features_of(piece).float())
        self.bank = torch.cat(targets).to(self.bank)
        if self.standardize is not None:
            self.standardize.solve(torch.cat(features))

    def loss(self, batch: SpotBatch) -> Tensor:
        """The contrastive loss of the batch.

        Parameters
        ----------
        batch
            The spots, with ``targets``.

        Returns
        -------
        A scalar.
        """
        image, spot = self._image(batch), self.spot(check.require_targets(batch.targets))
        with full_precision(image.device):
            image, spot = image.float(), spot.float()
            if self.config.normalize:
                image, spot = F.normalize(image, dim=-1), F.normalize(spot, dim=-1)
            return smoothed_clip_loss(image, spot, self.config.temperature)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict: the mean of the training spots whose expression lies nearest to the image.

        Parameters
        ----------
        batch
            The spots.

        Returns
        -------
        ``(b, n_outputs)`` float32, in target space.
        """
        image = self._image(batch)
        with full_precision(image.device):
            bank = F.normalize(self.spot(self.bank).float(), dim=-1)
            likeness = F.normalize(image.float(), dim=-1) @ bank.T  # (b, n)
            nearest = likeness.topk(min(self.config.top_k, len(bank)), dim=-1).indices
            return self.bank[nearest].mean(dim=1)

    def _image(self, batch: SpotBatch) -> Tensor:
        """Embeddings of the images, ``(b, dim)``."""
        if self.standardize is None:
            features = check.require_features(self.views(batch))
        else:
            known = self.features_of(batch)
            features = self.standardize(known.float())
        embedded: Tensor = self.image(features)
        return embedded
