"""M2OST: three patches of one spot, at three fields of view, regress its expression together.

Wang et al., "M2OST: Many-to-one Regression for Predicting Spatial Transcriptomics from Digital Pathology Images",
AAAI 2025, arXiv 2409.15092. Any number of scales from 1 up, not only three. This file follows the paper;
``m2ost_reference`` follows the published code.

Names: level -> scale; DPE -> ``NestedEmbedding``; ITMM -> ``SelfAttention`` and ``mlp``; CTMM -> ``CrossAttention``
(omega -> ``weights``); CCMM -> ``ChannelMixing``; L -> tokens of one grid.

Where the paper is silent or contradicts itself
    - Random-mask attention: DropAttention (Zehui et al. 2019, arXiv 1907.11065) on whole keys, drawn anew for each
      spot and head; what remains is renormalised; the class token is never dropped.
    - Cross-level attention follows equation (1), the omega-weighted sum, with the output projection and the residual of
      Fig. 5a. The weights start as an average.
    - The gate of the channel mixing is ``2 * sigmoid``, in (0, 2), and starts near 1: four plain sigmoids in a row
      would start by shrinking everything sixteenfold. It multiplies as in the paper, without a residual.
    - Every sublayer normalises its input. The paper gives no width of the MLP: with ``mlp_ratio=1`` the network has
      6.56 M parameters beside its class tokens and positions, near the 6.81 M it reports.
    - The head starts at zero weights (``initialize_at``), so that training starts at the mean profile.

Ours, off unless asked for
    - ``color_tokens`` hands the network the colour statistics of the patches.
    - ``statistics_share``: with a few hundred spots a ridge regression on statistics of the same patches predicts as
      well as the network and errs elsewhere. The prediction is their weighted mean; the network is trained as if alone.

What Table 1 takes away, one after the other (``Stacked``, ``PlainEmbedding``)
    - The table's sizes and costs say what took its place, and fit to the third digit: without nested tokens all scales
      have equally many, and then "concatenated sequences" are laid side by side by channel: a transformer layer of
      width ``3 C`` (hidden ``2 C``) in place of ITMM, nothing but the joined class tokens in place of CTMM, a network
      ``3 C -> 2 C -> 3 C`` for every token in place of CCMM.
    - Each can be had alone. Nested sequences of unlike length are padded: token t of every scale then shows the same
      place of the slide, where each field of view is twice the last.

Published code against paper: see ``m2ost_reference``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._attention import add_residual, attend, key_mask, split_heads, weighted_sum
from ._closed_form import Ridge
from ._layers import PixelLinear, PlainEmbedding, Stacked, perceptron
from ._penalty import gather_training_spots
from .contract import FloatLinear, SpotModel, unit_pixels
from .image_statistics import N_COLOR, N_STATISTICS, center, color_statistics, patch_statistics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from .contract import SpotBatch

CLIP = 3.0
"""Standard deviations that a statistic may lie from the training mean; more is drawn in."""


@dataclass(frozen=True, kw_only=True, slots=True)
class M2OSTConfig:
    """Shape of an ``M2OST``. The defaults are the paper's.

    Examples
    --------
    >>> from stpredict import models
    >>> models.M2OSTConfig(n_outputs=250, fov_spots=(1.5, 3.0)).dim
    192
    """

    n_outputs: int
    """Number of values predicted per spot."""
    dim: int = 192
    """Width of a token."""
    depth: int = 4
    """Number of blocks."""
    heads: int = 3
    """Attention heads of each scale; divides ``dim``."""
    patch_size: int = 16
    """Side in pixels of the largest tokens; scale i also has tokens of ``patch_size / 2, ..., patch_size / 2**i``."""
    size_px: int = 224
    """Side in pixels of the patch of every scale."""
    fov_spots: tuple[float, ...] = (1.5, 3.0, 6.0)
    """Field of view of each scale in spot diameters, narrowest first; its length is the number of scales."""
    mlp_ratio: float = 1.0
    """Hidden width of an MLP as a multiple of ``dim``."""
    mask_rate: float = 0.1
    """Share of keys hidden from self-attention in training."""
    dropout: float = 0.0
    """Share of activations dropped after attention and in MLPs in training."""
    embedding: Literal["nested", "plain"] = "nested"
    """Tokens: finer towards the centre, or of ``patch_size`` everywhere, embedded by each scale for itself."""
    within: Literal["scale", "joint"] = "scale"
    """First half of a block: attention and MLP of each scale, or one of both over all scales side by side."""
    between: Literal["cross", "concat", "sum"] = "cross"
    """Where scales meet: in cross-attention, or only before the head, where class tokens are joined or summed."""
    channels: Literal["mixing", "dense"] = "mixing"
    """End of a block: a gate for each channel, or a network over the channels of all scales, token by token."""
    color_tokens: bool = False
    """Add a token of colour statistics to each scale (not in the paper)."""
    statistics_share: float = 0.0
    """Weight of a ridge regression on patch statistics in the prediction, from 0 to below 1 (not in the paper)."""
    context: Literal["spot"] = "spot"
    """What one prediction sees: the patches of one spot."""

    def __post_init__(self) -> None:
        for name in ("n_outputs", "dim", "depth", "heads", "patch_size", "size_px"):
            check.positive_int(name, getattr(self, name))
        check.fov_spots(self.fov_spots)
        check.divides("heads", self.heads, "dim", self.dim)
        check.divides("patch_size", self.patch_size, "size_px", self.size_px)
        if self.embedding == "nested":
            check.nested_patches(self.size_px, self.patch_size, len(self.fov_spots))
        check.number("mlp_ratio", self.mlp_ratio, low=1 / self.dim, high=64)
        for name in ("mask_rate", "dropout", "statistics_share"):
            check.number(name, getattr(self, name), low=0, high=1)
        check.flag("color_tokens", self.color_tokens)
        check.choice("embedding", self.embedding, ("nested", "plain"))
        check.choice("within", self.within, ("scale", "joint"))
        check.choice("between", self.between, ("cross", "concat", "sum"))
        check.choice("channels", self.channels, ("mixing", "dense"))
        check.choice("context", self.context, ("spot",))


class SelfAttention(nn.Module):
    """Multi-head self-attention; in training some keys are hidden."""

    def __init__(self, dim: int, heads: int, mask_rate: float, dropout: float) -> None:
        super().__init__()
        self.heads, self.mask_rate = heads, mask_rate
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of one scale: ``(b, n, d)`` to ``(b, n, d)``."""
        q, k, v = split_heads(self.qkv(x), self.heads)
        masked = self.training and self.mask_rate > 0
        seen = key_mask((k.shape[0], k.shape[1], k.shape[2]), self.mask_rate, k.device) if masked else None
        mixed: Tensor = self.out(attend(q, k, v, seen))
        return mixed


class CrossAttention(nn.Module):
    """Each scale asks every other; the answers are weighted, projected and added."""

    def __init__(self, dim: int, heads: int, n_scales: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(n_scales))
        self.qkv = nn.ModuleList(nn.Linear(dim, 3 * dim, bias=False) for _ in range(n_scales))
        self.weights = nn.Parameter(torch.full((n_scales, n_scales - 1), 1 / (n_scales - 1)))
        self.outs = nn.ModuleList(nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout)) for _ in range(n_scales))

    def forward(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """Mix between scales: one ``(b, n_i, d)`` each to the same shapes."""
        qkv = [
            split_heads(project(norm(x)), self.heads) for x, norm, project in zip(xs, self.norms, self.qkv, strict=True)
        ]
        return [add_residual(x, out(heard)) for x, out, heard in zip(xs, self.outs, self._heard(qkv), strict=True)]

    def _heard(self, qkv: Sequence[Tensor]) -> list[Tensor]:
        """What each scale hears from the others, ``(b, n_i, d)``. A scale answers all others in one call."""
        answers: list[list[Tensor]] = [[] for _ in qkv]  # of each scale, in the order of the scales that gave them
        for scale, (_, k, v) in enumerate(qkv):
            asking = [i for i in range(len(qkv)) if i != scale]
            queries = [qkv[i][0] for i in asking]
            together = attend(torch.cat(queries, dim=2), k, v)  # (b, n of all others, d)
            for i, answer in zip(asking, together.split([q.shape[2] for q in queries], dim=1), strict=True):
                answers[i].append(answer)
        return [weighted_sum(some, weights) for some, weights in zip(answers, self.weights, strict=True)]


class ChannelMixing(nn.Module):
    """Squeeze and excitation over the channels of all scales together."""

    def __init__(self, dim: int, n_scales: int, dropout: float) -> None:
        super().__init__()
        squeeze, excite = nn.Linear(n_scales * dim, 2 * dim), nn.Linear(2 * dim, n_scales * dim)
        nn.init.trunc_normal_(excite.weight, std=0.02)
        nn.init.zeros_(excite.bias)
        self.gate = nn.Sequential(nn.LayerNorm(n_scales * dim), squeeze, nn.GELU(), nn.Dropout(dropout), excite)

    def forward(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """Scale the channels: one ``(b, n_i, d)`` each to the same shapes."""
        means = torch.cat([x.mean(dim=1) for x in xs], dim=-1)  # (b, s * d)
        gates = 2 * self.gate(means).sigmoid()
        return [x * gate[:, None] for x, gate in zip(xs, gates.chunk(len(xs), dim=-1), strict=True)]


class Block(nn.Module):
    """Attention within each scale, an MLP per scale, attention between scales, mixing of channels."""

    def __init__(self, config: M2OSTConfig) -> None:
        super().__init__()
        dim, heads, dropout, n_scales = config.dim, config.heads, config.dropout, len(config.fov_spots)
        hidden, width = max(1, round(config.mlp_ratio * dim)), dim * n_scales

        def attention(scales: int) -> nn.Sequential:
            """Self-attention over so many scales side by side, its norm before it."""
            attend = SelfAttention(scales * dim, scales * heads, config.mask_rate, dropout)
            return nn.Sequential(nn.LayerNorm(scales * dim), attend)

        alone = range(n_scales if config.within == "scale" else 0)
        self.within = nn.ModuleList(attention(1) for _ in alone)
        self.mlp = nn.ModuleList(perceptron(dim, hidden, dropout) for _ in alone)
        joint = config.within == "joint"
        self.joint = Stacked(attention(n_scales), perceptron(width, 2 * hidden, dropout)) if joint else None
        crossed = config.between == "cross" and n_scales > 1
        self.between = CrossAttention(dim, heads, n_scales, dropout) if crossed else None
        gated = config.channels == "mixing"
        self.channels = ChannelMixing(dim, n_scales, dropout) if gated else Stacked(perceptron(width, 2 * dim, dropout))

    def forward(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """One ``(b, n_i, d)`` for each scale to the same shapes."""
        if self.joint is not None:
            xs = self.joint(xs)
        else:
            xs = [add_residual(x, attention(x)) for x, attention in zip(xs, self.within, strict=True)]
            xs = [add_residual(x, mlp(x)) for x, mlp in zip(xs, self.mlp, strict=True)]
        if self.between is not None:
            xs = self.between(xs)
        mixed: list[Tensor] = self.channels(xs)
        return mixed


class NestedEmbedding(nn.Module):
    """Tokens that are finer towards the centre: scale i has grids on its whole patch, central 1/2, ..., 1/2**i.

    Every grid has the same number of tokens, since the tokens shrink with the area they cover. Scales share the
    embedder of a token size, and each embedder runs once for all scales that use it.
    """

    def __init__(self, dim: int, patch_size: int, n_scales: int) -> None:
        super().__init__()
        self.sizes = [patch_size // 2**k for k in range(n_scales)]
        self.embedders = nn.ModuleList(PixelLinear(3 * size**2, dim) for size in self.sizes)

    def forward(self, patches: Tensor) -> list[list[Tensor]]:
        """Patches ``(b, s, 3, p, p)``, uint8 or in [0, 1], to the grids of each scale, ``(b, L, d)``, finest first."""
        grids = []  # grids[k][i - k]: tokens of size k of scale i, (b, L, d)
        for k, (size, embed) in enumerate(zip(self.sizes, self.embedders, strict=True)):
            part = center(patches[:, k:], 2**k)
            tokens = embed(rearrange(part, "b s c (h y) (w x) -> b s (h w) (c y x)", y=size, x=size))
            grids.append(tokens.unbind(dim=1))
        return [[grids[k][i - k] for k in range(i, -1, -1)] for i in range(len(grids))]


class M2OST(SpotModel):
    """Many-to-one regression: the patches of one spot at several fields of view predict its expression.

    Parameters
    ----------
    config
        Shape of the network.

    Examples
    --------
    >>> import torch
    >>> from stpredict.models import M2OST, M2OSTConfig, SpotBatch
    >>> model = M2OST(M2OSTConfig(n_outputs=5, dim=12, depth=1, size_px=32))
    >>> patches = torch.zeros(2, 3, 3, 32, 32, dtype=torch.uint8)
    >>> model(SpotBatch(patches=patches, xy_um=torch.zeros(2, 2), slide=torch.zeros(2, dtype=torch.long))).shape
    torch.Size([2, 5])
    """

    config: M2OSTConfig

    def __init__(self, config: M2OSTConfig) -> None:
        super().__init__()
        self.config = config
        dim, n_scales = config.dim, len(config.fov_spots)
        grid, extra = (config.size_px // config.patch_size) ** 2, 2 if config.color_tokens else 1
        nested = config.embedding == "nested"
        self.embed = (NestedEmbedding if nested else PlainEmbedding)(dim, config.patch_size, n_scales)
        self.cls = nn.ParameterList(nn.Parameter(torch.empty(1, 1, dim)) for _ in range(n_scales))
        self.positions = nn.ParameterList(
            nn.Parameter(torch.empty(1, extra + (i + 1 if nested else 1) * grid, dim)) for i in range(n_scales)
        )
        for parameter in (*self.cls, *self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.color = nn.Linear(N_COLOR, dim) if config.color_tokens else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(n_scales))
        self.head = FloatLinear(dim if config.between == "sum" else n_scales * dim, config.n_outputs)
        self.n_statistics = (n_scales + 1) * N_STATISTICS
        self.statistics = Ridge(self.n_statistics, config.n_outputs, CLIP) if config.statistics_share > 0 else None
        super().initialize_at(torch.zeros(config.n_outputs))

    @torch.no_grad()
    def initialize_at(self, mean: Tensor) -> None:
        """Let the untrained network predict one profile everywhere.

        Parameters
        ----------
        mean
            ``(n_outputs,)`` profile, for instance the mean of the training targets.
        """
        super().initialize_at(mean)
        if self.statistics is not None:
            self.statistics.constant(mean)

    def initialize_from(self, pieces: Iterable[SpotBatch]) -> None:
        """Take the mean profile, and solve the regression on statistics, from the training spots.

        Parameters
        ----------
        pieces
            All training spots, with ``targets``, some at a time; iterated once.
        """
        if self.statistics is None:
            super().initialize_from(pieces)
            return
        known = gather_training_spots(pieces, self._known)
        self.initialize_at(known.targets.mean(dim=0))
        self.statistics.solve(known, self.n_statistics, penalty=None)

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
        y = self._attend(batch.patches)
        if self.statistics is None:
            return y
        known: Tensor = self.statistics(self._known(batch))
        return torch.lerp(y, known, self.config.statistics_share)

    def loss(self, batch: SpotBatch) -> Tensor:
        """Mean squared error of the network alone, without the regression on statistics.

        Parameters
        ----------
        batch
            The spots, with ``targets``.

        Returns
        -------
        A scalar.
        """
        return F.mse_loss(self._attend(batch.patches), check.require_targets(batch.targets))

    def _known(self, batch: SpotBatch) -> Tensor:
        """Statistics of the patches, ``(b, (s + 1) * 27)``."""
        return patch_statistics(batch.patches, 1 / self.config.fov_spots[0])

    def _attend(self, patches: Tensor) -> Tensor:
        """The network alone: ``(b, s, 3, p, p)``, uint8 or in [0, 1], to ``(b, n_outputs)``."""
        check.patches(tuple(patches.shape), len(self.config.fov_spots), self.config.size_px)
        xs = self._tokens(patches)
        for block in self.blocks:
            xs = block(xs)
        summaries = torch.stack([norm(x[:, 0]) for x, norm in zip(xs, self.norms, strict=True)], dim=1)  # (b, s, d)
        y: Tensor = self.head(summaries.sum(dim=1) if self.config.between == "sum" else summaries.flatten(1))
        return y

    def _tokens(self, patches: Tensor) -> list[Tensor]:
        """The sequence of each scale: class token, colour token if wanted, image tokens; with their positions."""
        colors = None if self.color is None else self.color(color_statistics(unit_pixels(patches)))  # (b, s, d)
        xs = []
        for i, grids in enumerate(self.embed(patches)):
            color = [] if colors is None else [colors[:, i : i + 1]]
            cls = self.cls[i].expand(len(patches), -1, -1)
            xs.append(torch.cat([cls, *color, *grids], dim=1).add_(self.positions[i]))
        return xs
