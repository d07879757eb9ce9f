"""DeepSpot: a deep set of a spot, its sub-spots and its neighbours.

Nonchev, Dawo, Silina, Moch, Andani, Koelzer and Rätsch, "DeepSpot: Leveraging Spatial Context for Enhanced Spatial
Transcriptomics Prediction from H&E Images", medRxiv 2025.02.09.25321567.

Names: phi -> ``phi``; rho -> ``rho`` and ``head``; sub-spots -> ``SIDE`` x ``SIDE`` parts of the spot's patch.

Deviations
    - Neighbours are at most eight spots of the same slide within ``reach`` times its spacing, found by coordinates.
      The maximum is over the neighbours that exist, and zero for a spot without any; in the published code rows of
      zeros replace missing neighbours, pass through phi and can be the maximum.
    - ``"pearson"`` and ``"mse_pearson"`` correlate each output over the spots of each slide; the published option of
      that name computes cosine similarities. The Poisson loss is left out: targets are standardised, not counts.
    - The paper does not give the inner widths of phi. With one hidden layer of width ``dim`` it has the 11.7 M
      parameters of the published code (250 outputs, features of width 1024).
    - Frozen features are standardised on the training spots; clusters of spots are not resampled to equal sizes.
    - A step is one window of a section, not 1024 spots of arbitrary sections.
    - The mean of the members of rho is computed as one linear map of their concatenated dropout outputs; they share a
      bias. It starts at zero weights and the mean profile, and no dropout follows it.
    - With ``encoder="given"`` there are embeddings of whole spots only: the set has no sub-spots.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._frozen import EncoderConfig, FeatureScaler, ScaledFeaturesModel, apply_in_chunks, sub_patches
from ._places import lattice_neighbors, rows_by_slide
from .contract import FloatLinear, batch_features
from .encoder import Encoder
from .model_config import GIVEN

if TYPE_CHECKING:
    from torch import Tensor

    from .contract import SpotBatch

SIDE = 3
"""Sub-spots along each side of the spot's patch."""
_EPSILON = 1e-6  # added to the product of variances: the correlation of constant values is 0


@dataclass(frozen=True, kw_only=True, slots=True)
class DeepSpotConfig(EncoderConfig):
    """Shape of a ``DeepSpot``. The defaults are the paper's, except for the encoder, which is frozen."""

    encoder: str | tuple[str, ...] = "resnet50"
    dim: int = 512
    """Width of the output of phi."""
    members: int = 10
    """Number of networks in each of the two ensembles."""
    dropout: float = 0.3
    """Dropout rate."""
    reach: float = 1.5
    """Largest distance of a neighbour, as a multiple of the spacing of the spots: 1.5 includes diagonals."""
    objective: Literal["mse", "cosine", "pearson", "mse_pearson"] = "mse"
    """Loss: ``"mse"``, ``"cosine"`` (over outputs), ``"pearson"`` (over spots), or ``"mse_pearson"`` (their sum)."""
    fov_spots: tuple[float, ...] = (1.0,)
    context: Literal["slide"] = "slide"

    def __post_init__(self) -> None:
        self.check_fields(n_scales=1)
        check.number("dropout", self.dropout, low=0, high=1)
        check.number("reach", self.reach, low=0, high=1000)
        check.splits_patch(self.size_px, SIDE)


class Phi(nn.Module):
    """Elementwise median of an ensemble of perceptrons (of an even number of members, the lower median)."""

    def __init__(self, n_features: int, dim: int, members: int, dropout: float) -> None:
        super().__init__()
        self.members, bound = members, dim**-0.5
        self.first = nn.Linear(n_features, members * dim)
        self.activation = nn.Sequential(nn.Dropout(dropout), nn.ReLU())
        self.weight = nn.Parameter(torch.empty(members, dim, dim).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, dim).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., n_features)`` to ``(..., dim)``."""
        hidden = self.activation(rearrange(self.first(x), "... (m d) -> ... m d", m=self.members))
        outputs = torch.einsum("...mi,moi->...mo", hidden, self.weight) + self.bias
        return outputs.median(dim=-2).values


def neighbour_maximum(x: Tensor, is_neighbour: Tensor) -> Tensor:
    """Maximum of ``(b, k, d)`` over the neighbours marked in ``(b, k)``: ``(b, d)``, zero where there are none."""
    maximum = x.masked_fill(~is_neighbour[..., None], -torch.inf).amax(dim=1)
    return torch.where(is_neighbour.any(dim=1)[:, None], maximum, torch.zeros_like(maximum))


def mean_correlation(y: Tensor, targets: Tensor, slide: Tensor) -> Tensor:
    """Mean Pearson correlation of ``(b, g)`` outputs over the spots of each slide; 0 where a value is constant."""
    total = y.new_zeros(())
    for rows in rows_by_slide(slide):
        a, b = (x[rows].float() - x[rows].float().mean(dim=0) for x in (y, targets))
        std_product = (a.square().mean(dim=0) * b.square().mean(dim=0) + _EPSILON).sqrt()
        total = total + ((a * b).mean(dim=0) / std_product).mean() * len(rows) / len(slide)
    return total


class DeepSpot(ScaledFeaturesModel):
    """A deep set of the spot, its nine sub-spots and its neighbours."""

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

    @torch.no_grad()
    def encode(self, batch: SpotBatch) -> Tensor | None:
        """Features ``(b, 10, f)`` of the spot, then of its sub-spots row by row; None with given embeddings."""
        if self.encoder is None:
            return None
        check.patches(tuple(batch.patches.shape), 1, self.config.size_px)
        return apply_in_chunks(self._encode_patches, batch.patches[:, 0])

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)`` for the spots of one or more windows; slides do not affect each other."""
        features = batch_features(self, batch)
        if self.encoder is None:
            features = check.features_width(features, self.config.n_features)[:, None]
        parts = self.phi(self.standard(features))  # (b, 1 or 10, d)
        spot, sub_spots = parts[:, 0], parts[:, 1:]
        index, is_neighbour = lattice_neighbors(batch.xy_um, batch.slide, self.config.reach)
        neighbours = neighbour_maximum(spot[index], is_neighbour)
        pooled = [spot, neighbours] if self.encoder is None else [spot, sub_spots.sum(dim=1), neighbours]
        joined = torch.cat(pooled, dim=-1)[:, None].expand(-1, self.config.members, -1)  # (b, m, 2 or 3 * d)
        return self.head(rearrange(self.rho(joined), "b m d -> b (m d)") / self.config.members)

    def loss(self, batch: SpotBatch) -> Tensor:
        """The loss that the configuration names (``objective``)."""
        targets, y = check.require_targets(batch.targets), self(batch)
        loss: Tensor = y.new_zeros(())
        if self.config.objective == "cosine":
            loss = loss + 1 - F.cosine_similarity(y, targets, dim=-1).mean()
        if "mse" in self.config.objective:
            loss = loss + F.mse_loss(y, targets)
        if "pearson" in self.config.objective:
            loss = loss + 1 - mean_correlation(y, targets, batch.slide)
        return loss

    def _encode_patches(self, patches: Tensor) -> Tensor:
        """Map ``(b, 3, p, p)`` to ``(b, 10, f)``."""
        encoder: Encoder = self.encoder  # type: ignore[assignment]
        parts = sub_patches(patches, SIDE)  # (b, 9, 3, p / 3, p / 3)
        sub_spots = rearrange(encoder(parts.flatten(0, 1)), "(b n) f -> b n f", b=len(parts))
        return torch.cat([encoder(patches)[:, None], sub_spots], dim=1)
