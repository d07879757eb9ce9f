"""STFlow: expression of a whole slide drawn along a flow from noise, told by frozen features and by neighbours.

Huang, Liu, Babadi, Jin and Ying, "Scalable generation of spatial transcriptomics from histology images via whole-slide
flow matching", ICML 2025, arXiv 2506.05361.

Names: x_0, x_1 -> prior and targets; x_t -> ``state``, on the straight line between them at ``time``; denoiser ->
``Block`` and what is around them; frame averaging -> ``in_frames`` (``_frames``); local attention -> ``Block``.

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
    - A spot without neighbours attends to itself. The published code holds all distances of a slide at once.
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
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._frames import Around
from ._places import PITCH_UM, concatenate_spots, rows_by_slide, typical_pitch
from ._precision import full_precision
from ._prior import PRIORS, drawn, uniform
from .contract import FloatLinear, SpotModel, batch_features
from .encoder import NO_WEIGHTS, STATISTICS, Encoder
from .model_config import GIVEN

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch

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


class Score(nn.Module):
    """An MLP on what asks, what answers, the way between them and the difference of their states.

    Its first layer is linear in each of these, so that it is applied to spots, before pairs are made of them.
    """

    def __init__(self, width: int, n_outputs: int, hidden: int) -> None:
        super().__init__()
        self.ask = nn.Linear(width, hidden)
        self.answer, self.way = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.state = nn.Linear(n_outputs, hidden, bias=False)
        self.out = nn.Linear(hidden, 1, bias=False)

    def forward(self, q: Tensor, k: Tensor, edge: Tensor, state: Tensor, index: Tensor) -> Tensor:
        """Score pairs.

        Parameters
        ----------
        q, k
            ``(b, h, d)`` what asks, and what answers.
        edge
            ``(b, k, h, d)`` ways.
        state
            ``(b, g)``.
        index
            ``(b, k)`` positions of those that answer.

        Returns
        -------
        ``(b, k, h, 1)``.
        """
        there = self.state(state)[:, None]  # (b, 1, m)
        pairs = (self.answer(k) + there)[index] + (self.ask(q) - there)[:, None]
        scored: Tensor = self.out(F.silu(pairs + self.way(edge)))
        return scored


class Block(nn.Module):
    """Attention to neighbours, scored by an MLP."""

    def __init__(self, dim: int, heads: int, n_outputs: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.qkv = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim)
        self.frame, self.edge = nn.Sequential(nn.Linear(3, dim), nn.SiLU()), nn.Linear(dim, dim)
        self.score = Score(dim // heads, n_outputs, dim)
        self.out = nn.Sequential(nn.Linear(2 * dim, dim), nn.Dropout(dropout))
        self.mlp = nn.Sequential(nn.LayerNorm(dim), Gated(dim, 2 * dim, dropout), nn.Dropout(dropout))
        self.estimate = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.SiLU())

    def edges(self, frames: Tensor) -> Tensor:
        """What ways look like, the mean over their frames: ``(b, k, 4, 3)`` to ``(b, k, h, d)``."""
        seen = self.edge(self.frame(frames).mean(dim=2))
        split: Tensor = rearrange(seen, "b k (h d) -> b k h d", h=self.heads)
        return split

    def forward(self, x: Tensor, state: Tensor, edge: Tensor, around: Around) -> tuple[Tensor, Tensor]:
        """Mix neighbours.

        Parameters
        ----------
        x
            ``(b, d)`` spots.
        state
            ``(b, g)`` their states.
        edge
            ``(b, k, h, d)`` what the ways to their neighbours look like.
        around
            The neighbours.

        Returns
        -------
        ``(b, d)`` spots, and ``(b, d)`` what the estimate is made of.
        """
        q, k, v = rearrange(self.qkv(self.norm(x)), "b (qkv h d) -> qkv b h d", qkv=3, h=self.heads)
        score = self.score(q, k, edge, state, around.index)
        weight = score.masked_fill(~around.is_near[..., None, None], -torch.inf).softmax(dim=1)
        heard = (torch.cat([v[around.index], edge], dim=-1) * weight).sum(dim=1)  # (b, h, 2 * d)
        x = x + self.out(heard.flatten(1))
        x = x + self.mlp(x)
        return x, self.estimate(x)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a network sees at every time alike."""

    features: Tensor
    """``(b, d)`` embedded."""
    around: Around
    """The neighbours."""
    edges: list[Tensor]
    """For each block ``(b, k + 1, h, d / h)``, what the ways to them look like."""


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
        self.initialize_at(torch.zeros(config.n_outputs))

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

    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Take mean and spread of targets and features, and the distance of neighbouring spots.

        Parameters
        ----------
        pieces
            All training spots, with ``targets`` and ``features``, some at a time; iterated once.
        """
        spots = concatenate_spots(pieces)
        super().initialize_from([spots])
        self.pitch_um.fill_(typical_pitch(spots))
        for name, values in (("", check.require_targets(spots.targets)), ("feature_", batch_features(self, spots))):
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
        seen, n = self._seen(batch), self.config.n_outputs
        starts = [self._prior(uniform(batch.xy_um, n, number)) for number in range(self.config.n_draws)]
        given = [self._walk(start, seen) for start in starts or [self.mean.expand(len(batch), -1)]]
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
        targets, seen = check.require_targets(batch.targets), self._seen(batch)
        time = torch.empty_like(targets[:, 0])
        for rows in rows_by_slide(batch.slide):
            time[rows] = torch.rand((), device=time.device)
        start = self._prior(torch.rand(2, *targets.shape, device=targets.device))
        return F.mse_loss(self._led(torch.lerp(start, targets, time[:, None]), time, seen), targets)

    def _seen(self, batch: SpotBatch) -> Seen:
        """What stays the same along the way."""
        features = (batch_features(self, batch).float() - self.feature_mean) / self.feature_spread
        around = Around.of(batch.xy_um / self.pitch_um, batch.slide, self.config.n_neighbours)
        return Seen(self.embed(features), around, [block.edges(around.frames) for block in self.blocks])  # type: ignore[operator]

    def _prior(self, chance: Tensor) -> Tensor:
        """The start, ``(b, g)``, from ``(2, b, g)`` numbers in [0, 1)."""
        return drawn(self.config.prior, chance, self.mean, self.spread)

    def _walk(self, state: Tensor, seen: Seen) -> Tensor:
        """From a start to what it leads to."""
        times = torch.linspace(_FIRST, 1, self.config.n_times).tolist()
        led = state
        for time, after in pairwise(times):
            led = self._led(state, state.new_full((len(state),), time), seen)
            state = state + (after - time) / (1 - time) * (led - state)
        return led

    def _led(self, state: Tensor, time: Tensor, seen: Seen) -> Tensor:
        """Where states lead, ``(b, g)`` float32."""
        with full_precision(state.device):
            change = (state - self.mean) / self.spread
        x, estimates = seen.features + self.clock(time), []
        for block, edge in zip(self.blocks, seen.edges, strict=True):
            x, estimate = block(x, change, edge, seen.around)
            estimates.append(estimate)
        y: Tensor = self.head(torch.stack(estimates).mean(dim=0))
        return y
