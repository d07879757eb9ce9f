"""DeepSpot: a spot is the set of its parts and of its neighbours.

Nonchev, Dawo, Silina, Moch, Andani, Koelzer and Rätsch, "DeepSpot: Leveraging Spatial Context for Enhanced Spatial
Transcriptomics Prediction from H&E Images", medRxiv 2025.02.09.25321567.

Names: phi -> ``phi``; rho -> ``rho`` and ``head``; sub-spots -> ``SIDE`` x ``SIDE`` parts of the spot's patch.

Deviations
    - Neighbours are the spots of the same slide within ``reach`` times its spacing, eight at most, by coordinates. The
      maximum is over those there are, and zero for a spot without any; in the published code rows of zeros take the
      place of missing neighbours, pass through phi and may win.
    - ``"pearson"`` and ``"mse_pearson"`` correlate each output over the spots of each slide; the published option of
      that name takes cosines. Poisson is left out: targets are standardised, not counts.
    - The paper's inner widths of phi are not given; with one hidden layer of ``dim`` it has the 11.7 M parameters of
      the published code (250 outputs, features of width 1024).
    - Frozen features are standardised on the training spots; clusters of spots are not resampled to equal numbers.
    - A step is one window of a section, not 1024 spots of any sections.
    - The mean of the members of rho is one linear map of what each of them kept in dropout, side by side; they share
      a bias. It starts at zero weights and the mean profile, and nothing is dropped behind it.
    - With ``encoder="given"`` there are embeddings of spots only: the set has no sub-spots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._features import FeatureScaler, apply_in_chunks, sub_patches
from ._lattice import lattice_neighbors
from ._places import rows_by_slide
from .contract import FloatLinear, SpotModel, batch_features
from .encoder import NO_WEIGHTS, Encoder
from .model_config import GIVEN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch

SIDE = 3
"""Sub-spots along each side of the spot's patch."""
OBJECTIVES = ("mse", "cosine", "pearson", "mse_pearson")
_LEAST = 1e-6  # product of variances below which a correlation fades to 0
Objective = Literal["mse", "cosine", "pearson", "mse_pearson"]


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepSpotConfig:
    """Shape of a ``DeepSpot``. The defaults are the paper's, but for the encoder."""

    n_outputs: int
    """Number of values predicted per spot."""
    encoder: str = "resnet50"
    """Name that timm knows, ``"statistics"``, or ``"given"``: embeddings of the spots. It is frozen."""
    weights: str = NO_WEIGHTS
    """``"none"``, ``"timm"`` for those that timm knows, or the path of a checkpoint."""
    n_features: int = 0
    """Width of the embeddings, for ``encoder="given"``."""
    dim: int = 512
    """Width of a part of the set."""
    members: int = 10
    """Networks in each of the two ensembles."""
    dropout: float = 0.3
    """Share of activations dropped in training."""
    reach: float = 1.5
    """How far a neighbour may be, as a multiple of the distance of neighbouring spots: 1.5 takes diagonals in."""
    objective: Objective = "mse"
    """What is minimised: ``"mse"``, ``"cosine"`` (over outputs), ``"pearson"`` (over spots), or ``"mse_pearson"``."""
    fov_spots: tuple[float, ...] = (1.0,)
    """Field of view in spot diameters."""
    size_px: int = 224
    """Side in pixels of the patch; sub-spots are brought to it."""
    context: Literal["slide"] = "slide"
    """What one prediction sees: the spots around it."""

    def __post_init__(self) -> None:
        for name in ("n_outputs", "dim", "members", "size_px"):
            check.positive_int(name, getattr(self, name))
        for name in ("encoder", "weights"):
            check.text(name, getattr(self, name))
        check.embedding_width(self.encoder, self.n_features)
        check.number("dropout", self.dropout, low=0, high=1)
        check.number("reach", self.reach, low=0, high=1000)
        check.choice("objective", self.objective, OBJECTIVES)
        check.fov_spots(self.fov_spots, n_scales=1)
        check.splits_patch(self.size_px, SIDE)
        check.choice("context", self.context, ("slide",))


class Phi(nn.Module):
    """What an ensemble makes of one part of the set: the median of its members (of an even number the lower one)."""

    def __init__(self, n_features: int, dim: int, members: int, dropout: float) -> None:
        super().__init__()
        self.members, bound = members, dim**-0.5
        self.first = nn.Linear(n_features, members * dim)
        self.between = nn.Sequential(nn.Dropout(dropout), nn.ReLU())
        self.weight = nn.Parameter(torch.empty(members, dim, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, dim).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """``(..., n_features)`` to ``(..., dim)``."""
        hidden = self.between(self.first(x).unflatten(-1, (self.members, -1)))
        answers = torch.einsum("...mi,moi->...mo", hidden, self.weight) + self.bias
        return answers.median(dim=-2).values


class DeepSpot(SpotModel):
    """A deep set of the spot, its nine sub-spots and its neighbours.

    Parameters
    ----------
    config
        Shape of the network.

    Examples
    --------
    >>> import torch
    >>> from stpredict import models
    >>> sizes = {"encoder": "statistics", "dim": 8, "members": 3, "size_px": 24}
    >>> model = models.build(models.config("deepspot", 5, sizes))
    >>> patches = torch.zeros(2, 1, 3, 24, 24, dtype=torch.uint8)
    >>> xy_um = torch.tensor([[0.0, 0.0], [200.0, 0.0]])
    >>> model(models.SpotBatch(patches=patches, xy_um=xy_um, slide=torch.zeros(2, dtype=torch.long))).shape
    torch.Size([2, 5])
    """

    config: DeepSpotConfig

    def __init__(self, config: DeepSpotConfig) -> None:
        super().__init__()
        self.config = config
        given = config.encoder == GIVEN
        self.encoder = None if given else Encoder(config.encoder, config.weights, config.size_px, frozen=True).eval()
        n_features = config.n_features if self.encoder is None else self.encoder.n_features
        self.standard = FeatureScaler(n_features)
        self.phi = Phi(n_features, config.dim, config.members, config.dropout)
        self.rho = nn.Sequential(nn.Dropout(config.dropout), nn.ReLU())
        self.head = FloatLinear(config.members * (2 if given else 3) * config.dim, config.n_outputs)
        self.initialize_at(torch.zeros(config.n_outputs))

    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Take the mean profile and the scale of the frozen features from the training spots.

        Parameters
        ----------
        pieces
            All training spots, with ``targets``, some at a time; iterated once.
        """
        self.initialize_at(self.standard.initialize_from(self, pieces))

    def load_pretrained(self) -> dict[str, str]:
        """Load the weights of the encoder, where any are named.

        Returns
        -------
        What was loaded, in words, for ``"encoder"``.
        """
        loaded = "" if self.encoder is None else self.encoder.load()
        return {"encoder": loaded} if loaded else {}

    @torch.no_grad()
    def encode(self, batch: SpotBatch) -> Tensor | None:
        """What the frozen encoder makes of the spot and of its sub-spots.

        Parameters
        ----------
        batch
            The spots, of any number of slides; each is seen alone.

        Returns
        -------
        ``(b, 10, f)``: the spot, then its sub-spots row by row; None where embeddings come with the spots.
        """
        if self.encoder is None:
            return None
        check.patches(tuple(batch.patches.shape), 1, self.config.size_px)
        return apply_in_chunks(self._described, batch.patches[:, 0])

    def _described(self, patches: Tensor) -> Tensor:
        """``(b, 3, p, p)`` to ``(b, 10, f)``."""
        encoder: Encoder = self.encoder  # type: ignore[assignment]
        parts = sub_patches(patches, SIDE)
        return torch.cat([encoder(patches)[:, None], encoder(parts.flatten(0, 1)).unflatten(0, parts.shape[:2])], dim=1)

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict.

        Parameters
        ----------
        batch
            The spots of one or more windows; slides do not see each other.

        Returns
        -------
        ``(b, n_outputs)`` float32, in target space.
        """
        features = batch_features(self, batch)
        if self.encoder is None:
            features = check.features_width(features, self.config.n_features)[:, None]
        parts = self.phi(self.standard(features))  # (b, 1 or 10, d)
        spot, sub_spots = parts[:, 0], parts[:, 1:]
        index, known = lattice_neighbors(batch.xy_um, batch.slide, self.config.reach)
        members = [spot, *([] if self.encoder is None else [sub_spots.sum(dim=1)]), largest(spot[index], known)]
        joined = torch.cat(members, dim=-1)[:, None].expand(-1, self.config.members, -1)  # (b, m, 3 * d)
        y: Tensor = self.head(self.rho(joined).flatten(1) / self.config.members)
        return y

    def loss(self, batch: SpotBatch) -> Tensor:
        """What training minimises, as the configuration says (``objective``).

        Parameters
        ----------
        batch
            The spots, with ``targets``.

        Returns
        -------
        A scalar.
        """
        targets, y = check.require_targets(batch.targets), self(batch)
        loss: Tensor = y.new_zeros(())
        if self.config.objective == "cosine":
            loss = loss + 1 - F.cosine_similarity(y, targets, dim=-1).mean()
        if "mse" in self.config.objective:
            loss = loss + F.mse_loss(y, targets)
        if "pearson" in self.config.objective:
            loss = loss + 1 - correlation(y, targets, batch.slide)
        return loss


def largest(x: Tensor, known: Tensor) -> Tensor:
    """Maximum over the neighbours there are: ``(b, k, d)`` and ``(b, k)`` to ``(b, d)``, zero where there are none."""
    most = x.masked_fill(~known[..., None], -torch.inf).amax(dim=1)
    return torch.where(known.any(dim=1)[:, None], most, torch.zeros_like(most))


def correlation(y: Tensor, targets: Tensor, slide: Tensor) -> Tensor:
    """Pearson correlation of each output over the spots of each slide, averaged over slides by their spots.

    Parameters
    ----------
    y, targets
        ``(b, g)``.
    slide
        ``(b,)`` slide of each spot.

    Returns
    -------
    A scalar. Where nothing varies, as on a slide of one spot, it is 0 and has a finite gradient.
    """
    total = y.new_zeros(())
    for rows in rows_by_slide(slide):
        a, b = (x[rows].float() - x[rows].float().mean(dim=0) for x in (y, targets))
        spread = (a.square().mean(dim=0) * b.square().mean(dim=0) + _LEAST).sqrt()
        total = total + ((a * b).mean(dim=0) / spread).mean() * len(rows) / len(slide)
    return total
