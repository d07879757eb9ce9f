"""Hist2ST: ConvMixer, transformer over the section, GraphSAGE over neighbours; counts are an auxiliary target.

Zeng, Wei, Yu, Yin, Yuan, Li and Yang, "Spatial transcriptomics prediction from histology jointly through Transformer
and graph neural networks", Briefings in Bioinformatics 23(5), 2022.

Names: Convmixer -> ``ConvMixer`` (``texture``); Transformer -> ``SectionTransformer`` (of ``histogene``); GraphSAGE
layers -> ``GraphSAGELayer`` (``around``); LSTM -> ``summary``; ZINB heads -> ``ZINBHeads`` (``counts``);
self-distillation -> ``weigh`` and `Hist2ST.loss`.

Deviations
    - Neighbours are stored as four indices per spot, not as an adjacency matrix: memory grows linearly with the number
      of spots. They are the four nearest spots within two pitches of the training spots.
    - The mean over neighbours includes the spot itself (the GCN aggregator of Hamilton et al. 2017). The published code
      divides by the number of neighbours, which gives NaN for a spot without any.
    - Positions are physical (see ``histogene``), pixels are in [-1, 1], patches are one spot diameter wide.
    - The regression targets are the given ones, possibly principal components. The likelihood is that of the counts of
      the genes (``n_genes``, which `stp.tl.fit` sets); without counts it is left out. The library size of a spot is
      relative to the median of its slide in the batch.
    - Views for self-distillation are rotated by multiples of 90 degrees, so that no corners need filling.
    - The heads start at zero weights and the mean profiles of targets and of counts: with random initial weights, the
      negative log-likelihood was 46 on synthetic slides, and the rest of the loss 2. The learning rate follows a
      cosine, not steps.
    - The published code monitors the test section during training; here `stp.tl.fit` holds out validation data.

In training, batch norm uses the statistics of the whole batch; with windows (``FitConfig.window``) that is one slide.

A training step runs the network six times. On a CPU, ``{"size_px": 28, "channels": 16, "depth": 2, "heads": 2,
"mlp_dim": 64}`` (tokens of width 64) with a learning rate of 1e-3 trains a section of 1,000 spots in about two seconds
per epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._places import PITCH_UM, concatenate_spots, nearest_spots, rows_by_slide, typical_pitch
from ._precision import full_precision, unit_pixels
from .contract import FloatLinear, SpotModel
from .histogene import SectionTransformer
from .model_config import PatchConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch

_GRAYSCALE, _MIRRORED = 0.1, 0.2  # probabilities for an augmented view
_LUMA = (0.299, 0.587, 0.114)
_MEAN_RANGE = (1e-5, 1e6)  # means and dispersions of counts are clamped to these
_DISPERSION_RANGE = (1e-4, 1e4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hist2STConfig(PatchConfig):
    """Shape of a ``Hist2ST``. The defaults are the paper's, ``5-7-2-8-4-16-32``."""

    kernel_size: int = 5
    """Side of the depthwise kernels."""
    patch_size: int = 7
    """Kernel size and stride in pixels of the first convolution; divides ``size_px``."""
    conv_depth: int = 2
    """Number of convolution blocks."""
    depth: int = 8
    """Number of transformer layers."""
    graph_depth: int = 4
    """Number of graph layers."""
    heads: int = 16
    """Number of attention heads; divides the width of a token, which is ``n_kept`` times the pixels of the last map."""
    channels: int = 32
    """Channels of the convolutions."""
    n_kept: int = 4
    """Channels of the last convolution."""
    mlp_dim: int = 1024
    """Hidden width of an MLP."""
    dropout: float = 0.2
    """Dropout rate."""
    n_places: int = 64
    """Number of position embeddings along each axis, one per pitch."""
    n_neighbours: int = 4
    """Maximum number of neighbours of a spot in the graph."""
    reach: float = 2.0
    """Maximum distance of a neighbour in pitches."""
    zinb_share: float = 0.25
    """Weight of the negative log-likelihood of the counts in the loss; with 0 the network has no count heads."""
    n_genes: int | None = None
    """Number of genes with counts, if it is not the number of outputs."""
    n_views: int = 5
    """Number of augmented views for self-distillation in training."""
    distilled_share: float = 0.5
    """Weight of self-distillation in the loss; with 0 no views are computed."""
    fov_spots: tuple[float, ...] = (1.0,)
    size_px: int = 112
    context: Literal["slide"] = "slide"

    def __post_init__(self) -> None:
        check.field_values(self, n_scales=1)
        if self.n_genes is not None:
            check.positive_int("n_genes", self.n_genes)
        check.divides("patch_size", self.patch_size, "size_px", self.size_px)
        check.divides("heads", self.heads, "dim", self.dim)
        check.number("dropout", self.dropout, low=0, high=1)
        for name in ("zinb_share", "distilled_share"):
            check.number(name, getattr(self, name), low=0, high=1e3)
        check.number("reach", self.reach, low=1e-3, high=1e6)

    @property
    def dim(self) -> int:
        """Width of a token: the flattened output of the convolutions."""
        return (self.size_px // self.patch_size) ** 2 * self.n_kept


class ConvMixerBlock(nn.Module):
    """Two depthwise convolutions with a residual connection, then a pointwise convolution."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        depthwise = [
            layer
            for _ in range(2)
            for layer in (
                nn.Conv2d(channels, channels, kernel_size, padding="same", groups=channels),
                nn.BatchNorm2d(channels),
                nn.GELU(),
            )
        ]
        self.depthwise = nn.Sequential(*depthwise)
        self.pointwise = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.GELU(), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(b, c, y, x)`` to the same shape."""
        mixed: Tensor = self.pointwise(x + self.depthwise(x))
        return mixed


class ConvMixer(nn.Sequential):
    """Patch embedding, mixer blocks, reduction to ``n_kept`` channels: ``(b, 3, p, p)`` to ``(b, d)``."""

    def __init__(self, channels: int, n_kept: int, patch_size: int, kernel_size: int, depth: int) -> None:
        super().__init__(
            nn.Conv2d(3, channels, patch_size, stride=patch_size),
            *(ConvMixerBlock(channels, kernel_size) for _ in range(depth)),
            nn.Conv2d(channels, n_kept, 1),
            nn.Flatten(),
        )


class GraphSAGELayer(nn.Module):
    """Mean of a spot and its neighbours, linear map, ReLU, normalisation to length 1."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, index: Tensor, is_near: Tensor) -> Tensor:
        """Map spots ``(b, d)`` to the same shape; ``index`` and ``is_near``, ``(b, k)``, name their neighbours."""
        near = is_near[..., None].to(x.dtype)
        mean = (x + (x[index] * near).sum(dim=1)) / (1 + near.sum(dim=1))
        return F.normalize(self.mix(mean).relu(), dim=1)


class ZINBHeads(nn.Module):
    """Heads for a zero-inflated negative binomial distribution of the counts of every gene."""

    def __init__(self, dim: int, n_genes: int) -> None:
        super().__init__()
        self.mean, self.dispersion, self.dropped = (FloatLinear(dim, n_genes) for _ in range(3))

    @torch.no_grad()
    def initialize_at(self, mean: Tensor) -> None:
        """Let the untrained heads expect ``mean``, ``(g,)`` counts of a spot of median library size, everywhere."""
        check.count_columns(len(mean), self.mean.out_features)
        for head in (self.mean, self.dispersion, self.dropped):
            head.weight.zero_()
            head.bias.zero_()
        self.mean.bias.copy_(mean.clamp(min=_MEAN_RANGE[0]).log())

    def loss(self, x: Tensor, counts: Tensor, size: Tensor) -> Tensor:
        """Mean negative log-likelihood; ``x`` ``(b, d)``, ``counts`` ``(b, g)``, library size ``size`` ``(b, 1)``."""
        check.count_columns(counts.shape[1], self.mean.out_features)
        with full_precision(x.device):
            mean = self.mean(x).clamp(*map(log, _MEAN_RANGE)).exp() * size
            dispersion = F.softplus(self.dispersion(x)).clamp(*_DISPERSION_RANGE)
            return -zinb_log_likelihood(counts.float(), mean, dispersion, self.dropped(x)).mean()


def zinb_log_likelihood(counts: Tensor, mean: Tensor, dispersion: Tensor, dropout_logit: Tensor) -> Tensor:
    """Log-likelihood of each count, elementwise; the variance without dropout is ``mean + mean**2 / dispersion``."""
    total = mean + dispersion
    of_zero = dispersion * (dispersion.log() - total.log())
    combinations = torch.lgamma(counts + dispersion) - torch.lgamma(dispersion) - torch.lgamma(counts + 1)
    of_count = combinations + of_zero + counts * (mean.log() - total.log())
    is_zero = torch.logaddexp(F.logsigmoid(dropout_logit), F.logsigmoid(-dropout_logit) + of_zero)
    return torch.where(counts < 0.5, is_zero, F.logsigmoid(-dropout_logit) + of_count)


def relative_library_size(counts: Tensor, slide: Tensor) -> Tensor:
    """Library size of each spot over the median of its slide: ``(b, g)`` and ``(b,)`` to ``(b, 1)``, above 0."""
    total = counts.float().sum(dim=1).clamp(min=1)
    size = torch.ones_like(total)
    for rows in rows_by_slide(slide):
        size[rows] = total[rows] / total[rows].median()
    return size[:, None]


def augmented_view(pixels: Tensor) -> Tensor:
    """Random rotation by 0 or ±90 degrees, mirroring and greyscale of ``(b, 3, p, p)`` in [0, 1], spot by spot."""
    n, device = len(pixels), pixels.device
    turn, chance = torch.randint(-1, 2, (n,), device=device), torch.rand(2, n, 1, 1, 1, device=device)
    for k in (-1, 1):
        pixels = torch.where((turn == k)[:, None, None, None], pixels.rot90(k, (-2, -1)), pixels)
    pixels = torch.where(chance[0] < _MIRRORED, pixels.flip(-1), pixels)
    gray = (pixels * pixels.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    return torch.where(chance[1] < _GRAYSCALE, gray, pixels)


class Hist2ST(SpotModel):
    """Convolutions, a transformer over the section, a graph of neighbours, and an LSTM over the graph layers."""

    config: Hist2STConfig
    pitch_um: Tensor

    def __init__(self, config: Hist2STConfig) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.register_buffer("pitch_um", torch.tensor(PITCH_UM))
        shape = (config.channels, config.n_kept, config.patch_size, config.kernel_size, config.conv_depth)
        self.texture = ConvMixer(*shape)
        self.section = SectionTransformer(
            dim, config.depth, config.heads, config.mlp_dim, config.dropout, config.n_places
        )
        self.around = nn.ModuleList(GraphSAGELayer(dim) for _ in range(config.graph_depth))
        self.summary = nn.LSTM(dim, dim, num_layers=2, batch_first=True)
        self.norm = nn.LayerNorm(dim)
        self.head = FloatLinear(dim, config.n_outputs)
        self.counts = ZINBHeads(dim, config.n_genes or config.n_outputs) if config.zinb_share else None
        distills = config.distilled_share > 0
        self.weigh = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 1)) if distills else None
        self.initialize_at(torch.zeros(config.n_outputs))

    @property
    def needs_counts(self) -> bool:
        """Whether the loss uses counts."""
        return self.counts is not None

    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Compute the mean profile, that of the counts if they are known, and the pitch of the training spots."""
        spots = concatenate_spots(pieces)
        super().initialize_from([spots])
        self.pitch_um.fill_(typical_pitch(spots))
        if self.counts is not None and spots.counts is not None:
            self.counts.initialize_at((spots.counts / relative_library_size(spots.counts, spots.slide)).mean(dim=0))

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)``; the spots of a slide affect each other."""
        return self.head(self.norm(self._spot_embeddings(batch, self._neighbours(batch))))

    def loss(self, batch: SpotBatch) -> Tensor:
        """Mean squared error, negative log-likelihood of the counts if they are known, and self-distillation."""
        targets, neighbours = check.require_targets(batch.targets), self._neighbours(batch)
        x = self._spot_embeddings(batch, neighbours)
        y = self.head(self.norm(x))
        loss = F.mse_loss(y, targets)
        if self.counts is not None and batch.counts is not None:
            size = relative_library_size(batch.counts, batch.slide)
            loss = loss + self.config.zinb_share * self.counts.loss(self.norm(x), batch.counts, size)
        if self.weigh is not None:
            loss = loss + self.config.distilled_share * F.mse_loss(self._predict_views(batch, neighbours), y)
        return loss

    def _predict_views(self, batch: SpotBatch, neighbours: tuple[Tensor, Tensor]) -> Tensor:
        """Weighted mean of the predictions for augmented views, with learned weights: ``(b, n_outputs)``."""
        pixels, predictions, weights = unit_pixels(batch.patches[:, 0]), [], []
        for _ in range(self.config.n_views):
            x = self._spot_embeddings(replace(batch, patches=augmented_view(pixels)[:, None]), neighbours)
            predictions.append(self.head(self.norm(x)))
            weights.append(self.weigh(x).float())  # type: ignore[misc]
        return (torch.stack(predictions) * torch.stack(weights).softmax(dim=0)).sum(dim=0)

    def _neighbours(self, batch: SpotBatch) -> tuple[Tensor, Tensor]:
        """Indices of the nearest spots, ``(b, k)``, and which of them are near enough."""
        index, distance = nearest_spots(batch.xy_um, batch.slide, self.config.n_neighbours)
        return index, distance <= self.config.reach * self.pitch_um

    def _spot_embeddings(self, batch: SpotBatch, neighbours: tuple[Tensor, Tensor]) -> Tensor:
        check.patches(tuple(batch.patches.shape), 1, self.config.size_px)
        x = self.texture(2 * unit_pixels(batch.patches[:, 0]) - 1)  # (b, d)
        x = self.section(x, batch.xy_um / self.pitch_um, batch.slide)  # (b, d)
        steps = []
        for layer in self.around:
            x = layer(x, *neighbours)
            steps.append(x)
        embedding: Tensor = self.summary(torch.stack(steps, dim=1))[0].mean(dim=1)  # (b, d)
        return embedding
