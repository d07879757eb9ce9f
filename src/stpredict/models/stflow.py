"""STFlow: expression of a whole slide drawn along a flow from noise, told by frozen features and by neighbours.

Huang, Liu, Babadi, Jin and Ying, "Scalable generation of spatial transcriptomics from histology images via whole-slide
flow matching", ICML 2025, arXiv 2506.05361.

Names: x_0, x_1 -> prior and targets; x_t -> ``state``, on the straight line between them at ``time``; denoiser ->
``Block`` and what is around them; frame averaging -> ``in_frames``; local spatial attention -> ``Block``.

The network is given a state and predicts where it leads, x_1, by least squares. A prediction walks there from the
prior in a few steps: at each, the state moves by its share of the way that is left.

Deviations
    - Targets here are standardised, or principal components: there is no ReLU on the outputs, and the prior is normal
      with the mean and spread of the training targets. ``prior="zinb"`` is the paper's, for targets that are plain
      log1p counts (``TargetSpec(standardize=False, n_components=None)``); ``"zero"`` starts at the mean.
    - The noise of a prediction follows from the place of the spot: the same spot gets the same noise in every batch, on
      every machine. ``n_draws`` of it are averaged; 0 starts once at the centre of the prior.
    - The frame of a neighbourhood is undefined where its spots lie alike in all directions, as they do on a lattice.
      What is seen in a frame is therefore weighted by how far its axes differ: distances alone are left on a lattice.
    - Distances are in pitches of the training spots, features standardised on the training spots.
    - A spot without neighbours attends to itself; the published code attends within a dense matrix.
    - The estimates of the blocks are averaged before the one last layer that they share, not after one each.
    - Time is drawn a slide and step; windows take the place of random chunks. Ten chunks a slide and epoch in batches
      of two are five steps; the recipe has five times the epochs.
    - The published code stops early on the test slides; here `stp.tl.fit` holds others out.
    - 50 genes are not written into the network.
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
from ._contract import FloatLinear, SpotModel, full_precision, known_features
from ._encoder import GIVEN, NO_WEIGHTS, STATISTICS, Encoder
from ._places import PITCH_UM, each_slide, gathered, nearest, pitch
from ._prior import PRIORS, drawn, uniform

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from ._contract import SpotBatch

_FIRST = 0.01
"""Time at which a prediction starts."""
_WAVES = 256
"""Sines and cosines that tell the time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class STFlowConfig:
    """Shape of an ``STFlow``. The defaults are the paper's, but for the encoder."""

    n_outputs: int
    """Number of values predicted per spot."""
    encoder: str = STATISTICS
    """``"statistics"``, a name that timm knows, or ``"given"``: embeddings that come with the spots."""
    weights: str = NO_WEIGHTS
    """``"none"``, ``"timm"``, or the path of a checkpoint of the encoder."""
    n_features: int = 1024
    """Width of embeddings that come with the spots; otherwise the encoder says."""
    dim: int = 128
    """Width of a spot."""
    depth: int = 4
    """Number of blocks."""
    heads: int = 4
    """Attention heads; divides ``dim``."""
    n_neighbours: int = 8
    """Nearest spots that a spot attends to, at most."""
    dropout: float = 0.2
    """Share of activations dropped in training."""
    prior: Literal["gaussian", "zero", "zinb"] = "gaussian"
    """What the flow starts from."""
    n_times: int = 5
    """Points in time of a prediction; one fewer calls of the network."""
    n_draws: int = 1
    """Draws of the prior that a prediction averages; 0 starts at its centre."""
    fov_spots: tuple[float, ...] = (2.0,)
    """Field of view in spot diameters: 112 µm on Visium, as HEST has it."""
    size_px: int = 224
    """Side in pixels of the patch."""
    context: Literal["slide"] = "slide"
    """What one prediction sees: spots around spots, as many times as there are blocks and steps."""

    def __post_init__(self) -> None:
        for name in ("n_outputs", "n_features", "dim", "depth", "heads", "n_neighbours", "n_times", "size_px"):
            check.positive_int(name, getattr(self, name))
        for name in ("encoder", "weights"):
            check.text(name, getattr(self, name))
        if self.n_draws != 0:
            check.positive_int("n_draws", self.n_draws)
        check.number("n_times", self.n_times, low=2, high=1e4)
        check.divides("heads", self.heads, "dim", self.dim)
        check.number("dropout", self.dropout, low=0, high=1)
        check.choice("prior", self.prior, PRIORS)
        check.fov_spots(self.fov_spots, n_scales=1)
        check.choice("context", self.context, ("slide",))


def in_frames(apart: Tensor, is_near: Tensor) -> Tensor:
    """Where neighbours lie, in the four frames that the principal axes of a neighbourhood allow.

    Turning, mirroring or shifting all spots permutes the frames, and changes nothing else.

    Parameters
    ----------
    apart
        ``(b, k, 2)`` from each spot to its neighbours.
    is_near
        ``(b, k)`` which of them there are.

    Returns
    -------
    ``(b, k, 4, 3)``: along both axes, weighted by how far the axes differ in length (0 where the frame is undefined),
    and the distance.
    """
    here = apart * is_near[..., None]
    mean = here.sum(dim=1, keepdim=True) / is_near.sum(dim=1).clamp(min=1)[:, None, None]
    x, y = ((apart - mean) * is_near[..., None]).unbind(dim=-1)  # (b, k)
    uneven, mixed = (x * x - y * y).sum(dim=1), 2 * (x * y).sum(dim=1)
    angle = torch.atan2(mixed, uneven) / 2
    weight = torch.hypot(uneven, mixed) / (x * x + y * y).sum(dim=1).clamp(min=1e-9)  # (b,)
    cos, sin = (weight * angle.cos())[:, None], (weight * angle.sin())[:, None]
    along, across = here[..., 0] * cos + here[..., 1] * sin, here[..., 1] * cos - here[..., 0] * sin
    distance = repeat(here.norm(dim=-1), "b k -> b k four", four=4)
    signs = apart.new_tensor([[1, 1, -1, -1], [1, -1, 1, -1]])
    return torch.stack([along[..., None] * signs[0], across[..., None] * signs[1], distance], dim=-1)


class Gated(nn.Module):
    """An MLP, half of which gates the other."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., d)`` to the same shape."""
        value, gate = self.up(x).chunk(2, dim=-1)
        mapped: Tensor = self.down(self.dropout(value * F.silu(gate)))
        return mapped


class Block(nn.Module):
    """Attention to neighbours, scored by an MLP on both spots, the way between them and the difference of states."""

    def __init__(self, dim: int, heads: int, n_outputs: int, dropout: float) -> None:
        super().__init__()
        self.heads, width = heads, dim // heads
        self.norm, self.qkv = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim)
        self.edge = nn.Sequential(nn.Linear(3, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.score = nn.Sequential(nn.Linear(3 * width + n_outputs, dim), nn.SiLU(), nn.Linear(dim, 1, bias=False))
        self.out = nn.Sequential(nn.Linear(2 * dim, dim), nn.Dropout(dropout))
        self.mlp = nn.Sequential(nn.LayerNorm(dim), Gated(dim, 2 * dim, dropout), nn.Dropout(dropout))
        self.estimate = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.SiLU())

    def forward(self, x: Tensor, state: Tensor, around: Around) -> tuple[Tensor, Tensor]:
        """Mix neighbours: ``(b, d)`` and their states ``(b, g)`` to ``(b, d)``, and what the estimate is made of."""
        x = x + self.out(self._heard(x, state, around))
        x = x + self.mlp(x)
        return x, self.estimate(x)

    def _heard(self, x: Tensor, state: Tensor, around: Around) -> Tensor:
        """What neighbours and the ways to them say, ``(b, 2 * d)``."""
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (qkv h d) -> qkv b h d", qkv=3, h=self.heads)
        edge = rearrange(self.edge(around.frames).mean(dim=2), "b k (h d) -> b k h d", h=self.heads)
        index = around.index
        q = repeat(q, "b h d -> b k h d", k=index.shape[1])
        change = repeat(state[index] - state[:, None], "b k g -> b k h g", h=self.heads)
        score = self.score(torch.cat([q, k[index], edge, change.to(q.dtype)], dim=-1))  # (b, k, h, 1)
        weight = score.masked_fill(~around.is_near[..., None, None], -torch.inf).softmax(dim=1)
        heard = torch.cat([v[index], edge], dim=-1) * weight
        told: Tensor = heard.sum(dim=1).flatten(1)
        return told


@dataclass(frozen=True, slots=True)
class Around:
    """The neighbours of each spot."""

    index: Tensor
    """``(b, k + 1)`` their positions, the spot itself first."""
    is_near: Tensor
    """``(b, k + 1)`` which of them there are; the spot itself only where there is no other."""
    frames: Tensor
    """``(b, k + 1, 4, 3)`` where they lie."""

    @classmethod
    def of(cls, xy: Tensor, slide: Tensor, k: int) -> Around:
        """Find them: ``xy`` is ``(b, 2)`` in pitches."""
        index, distance = nearest(xy, slide, k)
        itself = torch.arange(len(xy), device=xy.device)[:, None]
        index, is_near = torch.cat([itself, index], dim=1), distance.isfinite()
        is_near = torch.cat([~is_near.any(dim=1, keepdim=True), is_near], dim=1)
        return cls(index, is_near, in_frames(xy[index] - xy[:, None], is_near))


class Clock(nn.Module):
    """Time in [0, 1] as waves, mapped."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.map = nn.Sequential(nn.Linear(_WAVES, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, time: Tensor) -> Tensor:
        """``(b,)`` to ``(b, d)``."""
        steps = torch.arange(_WAVES // 2, device=time.device) / (_WAVES // 2)
        waves = 1000 * time[:, None] * 1e4 ** (-steps)
        told: Tensor = self.map(torch.cat([waves.cos(), waves.sin()], dim=1))
        return told


class STFlow(SpotModel):
    """A flow from a prior to the expression of all spots of a slide.

    Parameters
    ----------
    config
        Shape of the network.

    Examples
    --------
    >>> import torch
    >>> from stpredict import models
    >>> model = models.build(models.config("stflow", 5, {"dim": 16, "depth": 1, "size_px": 16}))
    >>> patches = torch.zeros(3, 1, 3, 16, 16, dtype=torch.uint8)
    >>> model(models.SpotBatch(patches=patches, xy_um=torch.rand(3, 2), slide=torch.tensor([0, 0, 1]))).shape
    torch.Size([3, 5])
    """

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
            self.register_buffer(f"{name}spread", torch.ones(n))
        self.embed, self.clock = nn.Linear(n_features, dim), Clock(dim)
        self.blocks = nn.ModuleList(
            Block(dim, config.heads, config.n_outputs, config.dropout) for _ in range(config.depth)
        )
        self.head = FloatLinear(dim, config.n_outputs)
        self.start_at(torch.zeros(config.n_outputs))

    def load_pretrained(self) -> dict[str, str]:
        """Load the weights of the encoder.

        Returns
        -------
        What was loaded, in words.
        """
        loaded = "" if self.encoder is None else self.encoder.load()
        return {"encoder": loaded} if loaded else {}

    def encode(self, batch: SpotBatch) -> Tensor | None:
        """What the frozen encoder says of the patches.

        Parameters
        ----------
        batch
            The spots.

        Returns
        -------
        ``(b, n_features)``; None where features come with the spots.
        """
        if self.encoder is None:
            return None
        check.patches(tuple(batch.patches.shape), 1, self.config.size_px)
        with torch.no_grad():
            found: Tensor = self.encoder(batch.patches[:, 0])
        return found

    def start_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Take mean and spread of targets and features, and the distance of neighbouring spots.

        Parameters
        ----------
        pieces
            All training spots, with ``targets`` and ``features``, some at a time; iterated once.
        """
        spots = gathered(pieces)
        super().start_from([spots])
        self.pitch_um.fill_(pitch(spots))
        for name, values in (("", check.given_targets(spots.targets)), ("feature_", known_features(self, spots))):
            spread, mean = torch.std_mean(values.float(), dim=0, correction=0)
            getattr(self, f"{name}mean").copy_(mean)
            getattr(self, f"{name}spread").copy_(torch.where(spread > 1e-6, spread, 1.0))

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict: the mean over some draws of the prior.

        Parameters
        ----------
        batch
            The spots; those of one slide see each other.

        Returns
        -------
        ``(b, n_outputs)`` float32, in target space.
        """
        features, around = self._seen(batch)
        given = [
            self._walk(self._prior(uniform(batch.xy_um, self.config.n_outputs, number)), features, around)
            for number in range(self.config.n_draws)
        ] or [self._walk(self.mean.expand(len(batch), -1), features, around)]
        return torch.stack(given).mean(dim=0)

    def loss(self, batch: SpotBatch) -> Tensor:
        """Mean squared error of what is predicted from a state between noise and targets.

        Parameters
        ----------
        batch
            The spots, with ``targets``.

        Returns
        -------
        A scalar.
        """
        targets, (features, around) = check.given_targets(batch.targets), self._seen(batch)
        time = torch.empty_like(targets[:, 0])
        for rows in each_slide(batch.slide):
            time[rows] = torch.rand((), device=time.device)
        start = self._prior(torch.rand(2, *targets.shape, device=targets.device))
        return F.mse_loss(self._led(torch.lerp(start, targets, time[:, None]), time, features, around), targets)

    def _seen(self, batch: SpotBatch) -> tuple[Tensor, Around]:
        """Features on one scale, embedded, ``(b, d)``, and the neighbours."""
        features = (known_features(self, batch).float() - self.feature_mean) / self.feature_spread
        around = Around.of(batch.xy_um / self.pitch_um, batch.slide, self.config.n_neighbours)
        return self.embed(features), around

    def _prior(self, chance: Tensor) -> Tensor:
        """The start, ``(b, g)``, from ``(2, b, g)`` numbers in [0, 1)."""
        return drawn(self.config.prior, chance, self.mean, self.spread)

    def _walk(self, state: Tensor, features: Tensor, around: Around) -> Tensor:
        """From a start to what it leads to."""
        times = torch.linspace(_FIRST, 1, self.config.n_times).tolist()
        led = state
        for time, after in pairwise(times):
            led = self._led(state, state.new_full((len(state),), time), features, around)
            state = state + (after - time) / (1 - time) * (led - state)
        return led

    def _led(self, state: Tensor, time: Tensor, features: Tensor, around: Around) -> Tensor:
        """Where states lead, ``(b, g)`` float32."""
        with full_precision(state.device):
            change = (state - self.mean) / self.spread
        x, estimates = features + self.clock(time), []
        for block in self.blocks:
            x, estimate = block(x, change, around)
            estimates.append(estimate)
        y: Tensor = self.head(torch.stack(estimates).mean(dim=0))
        return y
