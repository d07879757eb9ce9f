"""STFlow: flow matching from noise to the expression of a whole slide, conditioned on frozen features and neighbours.

Huang, Liu, Babadi, Jin and Ying, "Scalable generation of spatial transcriptomics from histology images via whole-slide
flow matching", ICML 2025, arXiv 2506.05361.

Names: x_0, x_1 -> prior and targets; x_t -> ``state``, on the straight line between them at ``time``; denoiser ->
``Block`` and `STFlow._denoise`; frame averaging -> ``frame_coordinates``; local attention -> ``Block``.

The network receives a state and predicts the end point x_1, with a squared loss. A prediction integrates from the prior
to x_1 in a few Euler steps: each moves the state by its share of the remaining way.

Deviations
    - Targets here are standardised, or principal components: there is no ReLU on the outputs, and the prior is normal
      with the mean and standard deviation of the training targets. ``prior="zinb"`` is the paper's, for targets that
      are plain log1p counts (``TargetSpec(standardize=False, n_components=None)``); ``"zero"`` starts at the mean.
    - The noise of a prediction is a function of the position of the spot (a counter-based generator): the same spot
      gets the same noise in every batch and on every machine. Predictions from ``n_draws`` draws are averaged; 0 starts
      once at the mean of the prior.
    - The frame of a neighbourhood is undefined if its spots have no principal direction, as on a lattice. Coordinates
      in a frame are therefore weighted by the difference of its axes: on a lattice only distances remain.
    - Distances are in pitches of the training spots, features are standardised on the training spots.
    - A spot without neighbours attends to itself. The published code holds all distances of a slide in memory.
    - The estimates of the blocks are averaged before the one last layer that they share, not after one layer each.
    - One time is drawn per slide and step; windows replace random chunks. Ten chunks per slide and epoch in batches of
      two are five steps; the recipe has five times as many epochs.
    - The published code stops early on the test slides; here `stp.tl.fit` holds out others.
    - The number of genes is not fixed at 50.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange, repeat
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._places import PITCH_UM, concatenate_spots, nearest_spots, rows_by_slide, typical_pitch
from ._precision import full_precision
from .contract import FloatLinear, SpotModel, batch_features
from .encoder import NO_WEIGHTS, Encoder
from .encoder_table import STATISTICS, check_choice
from .model_config import GIVEN, PatchConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch

    Conditioning = tuple[Tensor, "Neighbours", list[Tensor]]  # inputs of the denoiser that do not change with time

_ZINB_LOGITS, _ZINB_DROPOUT = 0.1, 0.5  # of a negative binomial with one failure, and its zero inflation
_GRID_UM = 0.125  # positions are rounded to this before they become noise
_MASK, _BITS = 0xFFFFFFFF, 24
_START_TIME = 0.01  # time at which a prediction starts
_N_WAVES = 256  # sines and cosines of the time embedding


@dataclass(frozen=True, kw_only=True, slots=True)
class STFlowConfig(PatchConfig):
    """Shape of an ``STFlow``. The defaults are the paper's, except for the encoder."""

    encoder: str | tuple[str, ...] = STATISTICS
    """``"statistics"``, a key of `stp.models.encoders`, a model name of timm, or several of them side by side;
    ``"given"``: precomputed embeddings of the spots."""
    weights: str | tuple[str, ...] = NO_WEIGHTS
    """``"none"``, ``"timm"``, ``"hub"``, ``"hub@REVISION"``, ``"hub:OWNER/NAME"``, ``"local-dir:FOLDER"``, or the path
    of a checkpoint; one for all encoders or one for each."""
    n_features: int = 1024
    """Width of given embeddings; ignored for other encoders."""
    dim: int = 128
    """Width of a token (spot)."""
    depth: int = 4
    """Number of blocks."""
    heads: int = 4
    """Number of attention heads; divides ``dim``."""
    n_neighbours: int = 8
    """Maximum number of nearest spots that a spot attends to."""
    dropout: float = 0.2
    """Dropout rate."""
    prior: Literal["gaussian", "zero", "zinb"] = "gaussian"
    """Distribution at the start of the flow: normal, the mean, or log1p of zero-inflated counts."""
    n_times: int = 5
    """Number of time points of a prediction; the network is called once less."""
    n_draws: int = 1
    """Number of draws from the prior over which a prediction is averaged; 0 starts at its mean."""
    fov_spots: tuple[float, ...] = (2.0,)
    """112 µm on Visium, as in HEST."""
    context: Literal["slide"] = "slide"
    """What one prediction depends on: neighbours of neighbours, over as many steps as there are blocks and times."""

    def __post_init__(self) -> None:
        check.field_values(self, n_scales=1, may_be_zero=("n_draws",))
        check_choice(self.encoder, self.weights)
        check.number("n_times", self.n_times, low=2, high=1e4)
        check.divides("heads", self.heads, "dim", self.dim)
        check.number("dropout", self.dropout, low=0, high=1)


# ---- prior


def sample_prior(prior: str, uniform: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Transform uniform numbers ``(2, b, g)`` in [0, 1) to samples ``(b, g)``; ``mean`` and ``std`` are ``(g,)``."""
    first, second = uniform
    if prior == "zero":
        return mean.expand(first.shape)
    if prior == "zinb":
        success = torch.tensor(_ZINB_LOGITS).sigmoid().log().item()
        counts = (torch.log1p(-first) / success).floor()
        return torch.where(second < _ZINB_DROPOUT, 0.0, counts.log1p())
    radius = (-2 * torch.log1p(-first)).sqrt()  # Box and Muller
    return torch.addcmul(mean, std, radius * (2 * torch.pi * second).cos())


def counter_based_uniform(xy_um: Tensor, n: int, draw: int) -> Tensor:
    """Uniform numbers ``(2, b, n)`` in [0, 1) that are a hash of positions ``(b, 2)`` and the number of the draw."""
    x, y = (xy_um.float() / _GRID_UM).round().long().unbind(dim=1)
    place = _mix_bits(_mix_bits(x & _MASK) ^ (y & _MASK))[None, :, None]  # (1, b, 1)
    column = torch.arange(2 * n, device=xy_um.device).reshape(2, 1, n) + 2 * n * draw
    bits = _mix_bits((_mix_bits(place ^ _mix_bits(column)) + column) & _MASK) >> (32 - _BITS)
    return bits.float().div_(2**_BITS)


def _mix_bits(x: Tensor) -> Tensor:
    """Hash 32 bits held in int64; factors have less than 31 bits, so that products do not overflow."""
    for factor, shift in ((0x45D9F3B, 16), (0x119DE1F3, 15)):
        x = ((x ^ (x >> shift)) * factor) & _MASK
    return x ^ (x >> 16)


# ---- neighbours


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The neighbours of each spot, the spot itself first."""

    index: Tensor
    """``(b, k + 1)`` positions in the batch."""
    exists: Tensor
    """``(b, k + 1)`` which of them exist; the spot itself counts only if it has no other neighbour."""
    frames: Tensor
    """``(b, k + 1, 4, 3)`` coordinates relative to the spot, see `frame_coordinates`."""

    @classmethod
    def find(cls, xy: Tensor, slide: Tensor, k: int) -> Neighbours:
        """The ``k`` nearest spots of the same slide; ``xy`` is ``(b, 2)`` in pitches."""
        index, distance = nearest_spots(xy, slide, k)
        itself = torch.arange(len(xy), device=xy.device)[:, None]
        index, exists = torch.cat([itself, index], dim=1), distance.isfinite()
        exists = torch.cat([~exists.any(dim=1, keepdim=True), exists], dim=1)
        return cls(index, exists, frame_coordinates(xy[index] - xy[:, None], exists))


def frame_coordinates(offset: Tensor, exists: Tensor) -> Tensor:
    """Coordinates of neighbours in the four frames that the principal axes of a neighbourhood define.

    ``(b, k, 2)`` offsets to ``(b, k, 4, 3)``: along both axes, weighted by the difference of the axes (0 where the
    frame is undefined), and the distance. Rotation, reflection or translation of all spots only permutes the frames.
    """
    here = offset * exists[..., None]
    mean = here.sum(dim=1, keepdim=True) / exists.sum(dim=1).clamp(min=1)[:, None, None]
    x, y = ((offset - mean) * exists[..., None]).unbind(dim=-1)  # (b, k)
    difference, mixed = (x * x - y * y).sum(dim=1), 2 * (x * y).sum(dim=1)
    angle = torch.atan2(mixed, difference) / 2
    weight = torch.hypot(difference, mixed) / (x * x + y * y).sum(dim=1).clamp(min=1e-9)  # (b,)
    cos, sin = (weight * angle.cos())[:, None], (weight * angle.sin())[:, None]
    along, across = here[..., 0] * cos + here[..., 1] * sin, here[..., 1] * cos - here[..., 0] * sin
    distance = repeat(here.norm(dim=-1), "b k -> b k four", four=4)
    signs = offset.new_tensor([[1, 1, -1, -1], [1, -1, 1, -1]])
    return torch.stack([along[..., None] * signs[0], across[..., None] * signs[1], distance], dim=-1)


# ---- network


class GatedMLP(nn.Module):
    """SwiGLU: an MLP in which one half of the hidden values gates the other."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., d)`` to the same shape."""
        value, gate = self.up(x).chunk(2, dim=-1)
        mapped: Tensor = self.down(self.dropout(value * F.silu(gate)))
        return mapped


class AttentionScore(nn.Module):
    """Attention score from an MLP of query, key, edge and difference of states.

    Its first layer is linear in each of these, so it is applied to spots before they are combined to pairs.
    """

    def __init__(self, width: int, n_outputs: int, hidden: int) -> None:
        super().__init__()
        self.ask = nn.Linear(width, hidden)
        self.answer, self.way = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.state = nn.Linear(n_outputs, hidden, bias=False)
        self.out = nn.Linear(hidden, 1, bias=False)

    def forward(self, q: Tensor, k: Tensor, edge: Tensor, state: Tensor, index: Tensor) -> Tensor:
        """``q`` and ``k`` ``(b, h, d)``, ``edge`` ``(b, k, h, d)``, ``state`` ``(b, g)`` to scores ``(b, k, h, 1)``."""
        state_term = self.state(state)[:, None]  # (b, 1, m)
        pairs = (self.answer(k) + state_term)[index] + (self.ask(q) - state_term)[:, None]  # (b, k, h, m)
        score: Tensor = self.out(F.silu(pairs + self.way(edge)))
        return score


class Block(nn.Module):
    """Local attention to neighbours and a gated MLP, each with a residual connection."""

    def __init__(self, dim: int, heads: int, n_outputs: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim)
        self.frame, self.edge = nn.Sequential(nn.Linear(3, dim), nn.SiLU()), nn.Linear(dim, dim)
        self.score = AttentionScore(dim // heads, n_outputs, dim)
        self.out = nn.Sequential(nn.Linear(2 * dim, dim), nn.Dropout(dropout))
        self.mlp = nn.Sequential(nn.LayerNorm(dim), GatedMLP(dim, 2 * dim, dropout), nn.Dropout(dropout))
        self.estimate = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.SiLU())

    def edges(self, frames: Tensor) -> Tensor:
        """Edge embeddings, the mean over frames: ``(b, k, 4, 3)`` to ``(b, k, h, d)``."""
        embedded = self.edge(self.frame(frames).mean(dim=2))
        split: Tensor = rearrange(embedded, "b k (h d) -> b k h d", h=self.heads)
        return split

    def forward(self, x: Tensor, state: Tensor, edge: Tensor, neighbours: Neighbours) -> tuple[Tensor, Tensor]:
        """Map spots ``(b, d)`` with states ``(b, g)`` and edges ``(b, k, h, d)`` to spots and estimates ``(b, d)``."""
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (qkv h d) -> qkv b h d", qkv=3, h=self.heads)
        score = self.score(q, k, edge, state, neighbours.index)
        weight = score.masked_fill(~neighbours.exists[..., None, None], -torch.inf).softmax(dim=1)
        mixed = (torch.cat([v[neighbours.index], edge], dim=-1) * weight).sum(dim=1)  # (b, h, 2 * d)
        x = x + self.out(mixed.flatten(1))
        x = x + self.mlp(x)
        return x, self.estimate(x)


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding of time in [0, 1] and an MLP."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Linear(_N_WAVES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        """Map ``(b,)`` to ``(b, d)``."""
        steps = torch.arange(_N_WAVES // 2, device=time.device) / (_N_WAVES // 2)
        waves = 1000 * time[:, None] * 1e4 ** (-steps)
        embedding: Tensor = self.map(torch.cat([waves.cos(), waves.sin()], dim=1))
        return embedding


class STFlow(SpotModel):
    """A flow from a prior to the expression of all spots of a slide."""

    config: STFlowConfig
    pitch_um: Tensor
    mean: Tensor
    spread: Tensor
    feature_mean: Tensor
    feature_spread: Tensor

    def __init__(self, config: STFlowConfig) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        given = config.encoder == GIVEN
        self.encoder = None if given else Encoder(config.encoder, config.weights, config.size_px, frozen=True)
        n_features = config.n_features if self.encoder is None else self.encoder.n_features
        self.register_buffer("pitch_um", torch.tensor(PITCH_UM))
        for name, n in (("", config.n_outputs), ("feature_", n_features)):
            self.register_buffer(f"{name}mean", torch.zeros(n))
            self.register_buffer(f"{name}spread", torch.ones(n))  # standard deviation
        self.embed, self.clock = nn.Linear(n_features, dim), TimeEmbedding(dim)
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, config.n_outputs, config.dropout) for _ in range(config.depth)
        )
        self.head = FloatLinear(dim, config.n_outputs)
        self.initialize_at(torch.zeros(config.n_outputs))

    @torch.no_grad()
    def encode(self, batch: SpotBatch) -> Tensor | None:
        """Features ``(b, n_features)`` of the frozen encoder; None with given embeddings."""
        if self.encoder is None:
            return None
        check.patches(tuple(batch.patches.shape), 1, self.config.size_px)
        return self.encoder(batch.patches[:, 0])

    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Compute statistics of targets and features, and the pitch, from the training spots."""
        spots = concatenate_spots(pieces)
        super().initialize_from([spots])
        self.pitch_um.fill_(typical_pitch(spots))
        for name, values in (("", check.require_targets(spots.targets)), ("feature_", batch_features(self, spots))):
            std, mean = torch.std_mean(values.float(), dim=0, correction=0)
            getattr(self, f"{name}mean").copy_(mean)
            getattr(self, f"{name}spread").copy_(torch.where(std > 1e-6, std, 1.0))

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)``, the mean over draws of the prior; the spots of a slide affect each other."""
        conditioning, n = self._condition(batch), self.config.n_outputs
        starts = [
            self._sample_prior(counter_based_uniform(batch.xy_um, n, draw)) for draw in range(self.config.n_draws)
        ]
        ends = [self._integrate(start, conditioning) for start in starts or [self.mean.expand(len(batch), -1)]]
        return torch.stack(ends).mean(dim=0)

    def loss(self, batch: SpotBatch) -> Tensor:
        """Mean squared error of the end point that is predicted from a state between prior and targets."""
        targets, conditioning = check.require_targets(batch.targets), self._condition(batch)
        time = torch.empty_like(targets[:, 0])
        for rows in rows_by_slide(batch.slide):
            time[rows] = torch.rand((), device=time.device)
        start = self._sample_prior(torch.rand(2, *targets.shape, device=targets.device))
        state = torch.lerp(start, targets, time[:, None])
        return F.mse_loss(self._denoise(state, time, conditioning), targets)

    def _sample_prior(self, uniform: Tensor) -> Tensor:
        return sample_prior(self.config.prior, uniform, self.mean, self.spread)

    def _condition(self, batch: SpotBatch) -> Conditioning:
        """Embedded features ``(b, d)``, neighbours, and edge embeddings ``(b, k + 1, h, d / h)`` of each block."""
        features = (batch_features(self, batch).float() - self.feature_mean) / self.feature_spread
        neighbours = Neighbours.find(batch.xy_um / self.pitch_um, batch.slide, self.config.n_neighbours)
        edges = [block.edges(neighbours.frames) for block in self.blocks]  # type: ignore[operator]
        return self.embed(features), neighbours, edges

    def _integrate(self, state: Tensor, conditioning: Conditioning) -> Tensor:
        """Euler steps from a sample of the prior, ``(b, g)``, to the prediction."""
        times = torch.linspace(_START_TIME, 1, self.config.n_times).tolist()
        end = state
        for time, after in pairwise(times):
            end = self._denoise(state, state.new_full((len(state),), time), conditioning)
            state = state + (after - time) / (1 - time) * (end - state)
        return end

    def _denoise(self, state: Tensor, time: Tensor, conditioning: Conditioning) -> Tensor:
        """Predict the end point, ``(b, g)`` float32, from states ``(b, g)`` at times ``(b,)``."""
        with full_precision(state.device):
            standard = (state - self.mean) / self.spread
        features, neighbours, edges = conditioning
        x, estimates = features + self.clock(time), []
        for block, edge in zip(self.blocks, edges, strict=True):
            x, estimate = block(x, standard, edge, neighbours)
            estimates.append(estimate)
        return self.head(torch.stack(estimates).mean(dim=0))
