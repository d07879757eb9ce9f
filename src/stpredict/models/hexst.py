"""HEXST: a transformer over frozen features of the spots of a slide, in hexagonal windows with rotary positions.

After the idea of Byeon and Kwak, "HEXST: hexagonal shifted-window transformer for spatial transcriptomics gene
expression prediction", arXiv 2605.04682, written from a description of that idea and not from its code.

Names: hexagonal window -> ``Windows``; shifted windows -> ``HEXST._tilings``; hexagonal rotary positions ->
``rotary_phases``; contrast-sensitive loss -> ``slide_losses``.

A slide is tiled by hexagons, and the spots of a hexagon attend to each other. The tiling of each block is centred at a
corner of the hexagons of the block before: the fourth tiling is the first again, and after three blocks features have
passed from a hexagon to all six hexagons around it. Queries and keys are rotated by the position of their spot along
three axes 60° apart, so that scores depend on differences of positions only. Any set of points has such windows:
hexagonal and square lattices, with or without missing spots, and dense grids.

Deviations
    - All windows have one size, and there is no prior from a single-cell foundation model.
    - The tiling starts at the origin of the coordinates of the slide and not at its centroid: a spot then has the same
      window in whatever part of a slide it is read, and in whatever order. A shift of a slide by a period of the tiling
      changes nothing; after another shift, spots near the sides of hexagons are grouped differently. In training the
      origin is random, so that the network cannot learn where windows begin.
    - Wavelengths are a geometric series, from 2π pitches to 2π widths of a window.
    - The correlation in the loss is that of each target over the spots of a slide; targets are standardised genes or
      principal components.
    - Distances are in pitches of the training spots, features are standardised on the training spots.
    - The head starts at zero weights and the mean profile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._frozen import EncoderConfig, FeatureScaler, FrozenEncoderModel, ScaledFeaturesModel, ScaleEncoder
from ._layers import attend, perceptron, split_heads
from ._places import PITCH_UM, concatenate_spots, rows_by_slide, typical_pitch
from .contract import FloatLinear

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch

_AXES = 3  # of a hexagonal lattice, 60° apart; also the number of tilings
_LEAST_VARIANCE = 1e-3  # added to variances, so that the correlation of a constant prediction has a gradient


@dataclass(frozen=True, kw_only=True, slots=True)
class HEXSTConfig(EncoderConfig):
    """Shape of a ``HEXST``, and its loss. The defaults were chosen on her2st C2 to C4."""

    dim: int = 128
    """Width of a token (spot)."""
    depth: int = 3
    """Number of blocks; the fourth has the tiling of the first."""
    heads: int = 4
    """Number of attention heads; divides ``dim``."""
    width: float = 4.0
    """Distance between opposite sides of a window, in pitches of the spots."""
    dropout: float = 0.5
    """Dropout rate: of features, after attention and in MLPs."""
    correlation_share: float = 3.0
    """Weight of 1 minus the correlation with the targets over the spots of a slide."""
    deviation_share: float = 0.5
    """Weight of the squared error of the deviations from the mean profile of the slide."""
    fov_spots: tuple[float, ...] = (2.0,)
    """112 µm on Visium, as in HEST."""
    context: Literal["slide"] = "slide"
    """What one prediction depends on: spots in windows around that of the spot, one ring of windows for every block."""

    def __post_init__(self) -> None:
        self.check_fields(n_scales=1)
        check.divides("heads", self.heads, "dim", self.dim)
        check.number("width", self.width, low=1, high=1e4)
        check.number("dropout", self.dropout, low=0, high=1)
        for name in ("correlation_share", "deviation_share"):
            check.number(name, getattr(self, name), low=0, high=1e4)


# ---- windows


def hexagon_of(xy: Tensor, width: float) -> Tensor:
    """Axial coordinates ``(b, 2)`` int64 of the hexagon of a regular tiling that contains each point ``(b, 2)``."""
    x, y = (xy / width).unbind(dim=1)
    r = y * (2 / math.sqrt(3))
    cube = torch.stack([x - r / 2, r, -x - r / 2], dim=1)  # sums to 0; one step along any of the three is a neighbour
    near = cube.round()
    worst = (near - cube).abs().argmax(dim=1, keepdim=True)  # is what the other two leave for a sum of 0
    near = near.scatter(1, worst, near.gather(1, worst) - near.sum(dim=1, keepdim=True))
    return near[:, :2].long()


def hexagon_center(cell: Tensor, width: float) -> Tensor:
    """Centres ``(b, 2)`` of hexagons with axial coordinates ``(b, 2)``."""
    q, r = cell.unbind(dim=1)
    return width * torch.stack([q + r / 2, r * (math.sqrt(3) / 2)], dim=1)


@dataclass(frozen=True, slots=True)
class Windows:
    """The spots of a batch, grouped by slide and hexagon."""

    row: Tensor
    """``(b,)`` the window of each spot."""
    column: Tensor
    """``(b,)`` the place of each spot in its window."""
    exists: Tensor
    """``(w, m)`` which places hold a spot."""
    phase: Tensor
    """``(b, d // 2)`` angles by which the channels of a spot are rotated."""

    @classmethod
    def find(cls, xy: Tensor, slide: Tensor, width: float, n_pairs: int) -> Windows:
        """The windows of spots at ``(b, 2)`` pitches on slides ``(b,)``."""
        cell = hexagon_of(xy, width)
        window = torch.cat([slide[:, None], cell], dim=1)
        _, row, size = window.unique(dim=0, return_inverse=True, return_counts=True)
        order = row.argsort(stable=True)
        column = torch.empty_like(row)
        column[order] = torch.arange(len(row), device=xy.device) - (size.cumsum(dim=0) - size)[row[order]]
        exists = torch.arange(int(size.max()), device=xy.device) < size[:, None]
        return cls(row, column, exists, rotary_phases(xy - hexagon_center(cell, width), n_pairs, width))

    def group(self, x: Tensor) -> Tensor:
        """``(b, d)`` to ``(w, m, d)``, zero where there is no spot."""
        grouped = x.new_zeros(*self.exists.shape, x.shape[1])
        grouped[self.row, self.column] = x
        return grouped

    def ungroup(self, x: Tensor) -> Tensor:
        """``(w, m, d)`` to ``(b, d)``."""
        return x[self.row, self.column]


def rotary_phases(offset: Tensor, n_pairs: int, width: float) -> Tensor:
    """Angles ``(b, n_pairs)`` of offsets ``(b, 2)`` in pitches: along three axes, from short to long wavelengths."""
    pair = torch.arange(n_pairs, device=offset.device)
    axis, step = pair % _AXES * (math.pi / _AXES), pair // _AXES
    frequency = float(width) ** (-step / step.amax().clamp(min=1))  # radians per pitch
    x, y = offset[:, :1], offset[:, 1:]
    return (x * axis.cos() + y * axis.sin()) * frequency


def rotate_pairs(x: Tensor, phase: Tensor) -> Tensor:
    """Rotate channels ``i`` and ``n + i`` of ``(..., d)`` by the angles ``(..., n)``, ``n`` being ``d // 2``."""
    n = phase.shape[-1]
    first, second, last = x.split([n, n, x.shape[-1] - 2 * n], dim=-1)  # an odd channel stays
    cos, sin = phase.cos(), phase.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos, last], dim=-1).to(x.dtype)


# ---- network


class Block(nn.Module):
    """Attention within windows and an MLP, each with a residual connection."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))
        self.mlp = perceptron(dim, 2 * dim, dropout)

    def forward(self, x: Tensor, windows: Windows) -> Tensor:
        """Map ``(b, d)`` to ``(b, d)``."""
        q, k, v = split_heads(windows.group(self.qkv(self.norm(x))), self.heads)  # (w, h, m, d / h)
        phase = windows.group(windows.phase)[:, None]
        mixed = attend(rotate_pairs(q, phase), rotate_pairs(k, phase), v, windows.exists[:, None, None])
        x = x + self.out(windows.ungroup(mixed))
        changed: Tensor = x + self.mlp(x)
        return changed


class HEXST(FrozenEncoderModel, ScaledFeaturesModel):
    """A transformer over the spots of a slide, in hexagonal windows."""

    config: HEXSTConfig
    pitch_um: Tensor

    def __init__(self, config: HEXSTConfig) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.views = ScaleEncoder(config.encoder, config.weights, config.n_features, config.size_px, 1)
        self.standard = FeatureScaler(self.views.n_features)
        self.register_buffer("pitch_um", torch.tensor(PITCH_UM))
        self.embed = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(self.views.n_features, dim))
        self.blocks = nn.ModuleList(Block(dim, config.heads, config.dropout) for _ in range(config.depth))
        self.norm, self.head = nn.LayerNorm(dim), FloatLinear(dim, config.n_outputs)
        self.initialize_at(torch.zeros(config.n_outputs))

    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Compute the mean profile, the pitch and the scale of the features from the training spots."""
        spots = concatenate_spots(pieces)
        super().initialize_from([spots])
        self.pitch_um.fill_(typical_pitch(spots))

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)``; the spots of a slide affect each other."""
        tilings = self._tilings(batch)
        x = self.embed(self.standard(self.features_of(batch).float()))
        for i, block in enumerate(self.blocks):
            x = block(x, tilings[i % _AXES])
        return self.head(self.norm(x))

    def loss(self, batch: SpotBatch) -> Tensor:
        """Squared error, and within each slide correlation and squared error of deviations from the mean profile."""
        targets = check.require_targets(batch.targets)
        predicted = self(batch)
        correlation, deviation = slide_losses(predicted, targets, batch.slide)
        weighted = self.config.correlation_share * correlation + self.config.deviation_share * deviation
        return F.mse_loss(predicted, targets) + weighted

    def _tilings(self, batch: SpotBatch) -> list[Windows]:
        """The windows of three tilings, each centred at a corner of the hexagons of the one before."""
        width, xy = self.config.width, batch.xy_um / self.pitch_um
        corner = xy.new_tensor([width / 2, width / (2 * math.sqrt(3))])
        if self.training:
            xy = xy + torch.rand(2, device=xy.device) * 6 * corner  # whole periods: three along x, one along y
        n_pairs = self.config.dim // self.config.heads // 2
        return [Windows.find(xy - i * corner, batch.slide, width, n_pairs) for i in range(_AXES)]


def slide_losses(predicted: Tensor, targets: Tensor, slide: Tensor) -> tuple[Tensor, Tensor]:
    """1 minus the correlation over the spots of a slide, and the squared error of deviations from its mean profile."""
    correlation, deviation = [], torch.empty_like(predicted)
    for rows in rows_by_slide(slide):
        p, t = (x[rows] - x[rows].mean(dim=0) for x in (predicted, targets))  # (n, g)
        variances = (p.square().mean(dim=0) + _LEAST_VARIANCE) * (t.square().mean(dim=0) + _LEAST_VARIANCE)
        correlation.append((p * t).mean(dim=0) / variances.sqrt())
        deviation[rows] = p - t
    return 1 - torch.stack(correlation).mean(), deviation.square().mean()
