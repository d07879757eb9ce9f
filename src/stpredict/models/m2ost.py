"""M2OST: three patches of one spot, at three fields of view, regress its expression together.

Wang et al., "M2OST: Many-to-one Regression for Predicting Spatial Transcriptomics from Digital Pathology Images",
AAAI 2025, arXiv 2409.15092. The network takes any number of scales from 1 up, not only three. This file follows the
paper; ``m2ost_reference`` follows the published code.

Names: level -> scale; DPE -> ``NestedEmbedding``; ITMM -> ``SelfAttention`` and ``mlp``; CTMM -> ``CrossAttention``
(omega -> ``weights``); CCMM -> ``ChannelMixing``; L -> tokens of one grid.

Where the paper is silent or contradicts itself
    - Random-mask attention is DropAttention (Zehui et al. 2019, arXiv 1907.11065) on whole keys, with a new
      mask for each spot and head. Attention is renormalised over the remaining keys; the class token is never dropped.
    - Cross-level attention follows equation (1), the omega-weighted sum, with the output projection and the residual of
      Fig. 5a. The weights start as an average.
    - The gate of the channel mixing is ``2 * sigmoid``, in (0, 2), and starts near 1: four plain sigmoids in a row
      would shrink every token sixteenfold at the start. It multiplies as in the paper, without a residual.
    - Every sublayer normalises its input. The paper does not give the width of the MLP: with ``mlp_ratio=1`` the
      network has 6.56 M parameters besides its class tokens and positions, near the 6.81 M that the paper reports.
    - The weights of the head start at zero (``initialize_at``), so training starts at the mean profile.

Ablations of Table 1 (``Stacked``, ``PlainEmbedding``)
    - The sizes and costs in the table determine the replacement of each part, to three digits. Without nested tokens
      all scales have equally many tokens, and "concatenated sequences" means concatenated channels: a transformer layer
      of width ``3 C`` (hidden ``2 C``) replaces ITMM, the joined class tokens alone replace CTMM, and a network
      ``3 C -> 2 C -> 3 C`` for every token replaces CCMM.
    - Each replacement also works alone. Nested sequences of different lengths are padded: token t of every scale then
      shows the same place of the slide, if each field of view is twice the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._layers import add_residual, attend, center, perceptron, split_heads
from .contract import FloatLinear, SpotModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .contract import SpotBatch


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
    """Probability that a key is hidden from self-attention in training."""
    dropout: float = 0.0
    """Share of activations dropped after attention and in MLPs in training."""
    embedding: Literal["nested", "plain"] = "nested"
    """Tokens that are finer towards the centre, or of ``patch_size`` everywhere with one embedder for each scale."""
    within: Literal["scale", "joint"] = "scale"
    """First half of a block: attention and MLP of each scale, or one of both over the joined channels."""
    between: Literal["cross", "concat", "sum"] = "cross"
    """Where scales meet: in cross-attention, or only before the head, with class tokens concatenated or summed."""
    channels: Literal["mixing", "dense"] = "mixing"
    """End of a block: a gate for each channel, or a network over the channels of all scales, token by token."""
    context: Literal["spot"] = "spot"
    """What one prediction sees: the patches of one spot."""

    def __post_init__(self) -> None:
        check.field_values(self)
        check.divides("heads", self.heads, "dim", self.dim)
        check.divides("patch_size", self.patch_size, "size_px", self.size_px)
        if self.embedding == "nested":
            check.nested_patches(self.size_px, self.patch_size, len(self.fov_spots))
        check.number("mlp_ratio", self.mlp_ratio, low=1 / self.dim, high=64)
        for name in ("mask_rate", "dropout"):
            check.number(name, getattr(self, name), low=0, high=1)


class SelfAttention(nn.Module):
    """Multi-head self-attention that hides random keys in training."""

    def __init__(self, dim: int, heads: int, mask_rate: float, dropout: float) -> None:
        super().__init__()
        self.heads, self.mask_rate = heads, mask_rate
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of one scale: ``(b, n, d)`` to ``(b, n, d)``."""
        q, k, v = split_heads(self.qkv(x), self.heads)
        mask = key_mask(k, self.mask_rate) if self.training and self.mask_rate > 0 else None
        mixed: Tensor = self.out(attend(q, k, v, mask))
        return mixed


def key_mask(k: Tensor, rate: float) -> Tensor:
    """Which keys ``(b, h, n, d)`` attention may see, each hidden at ``rate`` but the class token: ``(b, h, 1, n)``."""
    mask = torch.rand(*k.shape[:2], 1, k.shape[2], device=k.device) >= rate
    mask[..., 0] = True
    return mask


class CrossAttention(nn.Module):
    """Each scale attends to every other; the results are weighted, projected and added."""

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
        mixed = self._weighted_attention(qkv)
        return [add_residual(x, out(y)) for x, out, y in zip(xs, self.outs, mixed, strict=True)]

    def _weighted_attention(self, qkv: Sequence[Tensor]) -> list[Tensor]:
        """Weighted sum of each scale's attention to the others, ``(b, n_i, d)``; one kernel call for each key scale."""
        results: list[list[Tensor]] = [[] for _ in qkv]  # of each query scale, in the order of the key scales
        for scale, (_, k, v) in enumerate(qkv):
            others = [i for i in range(len(qkv)) if i != scale]
            queries = [qkv[i][0] for i in others]
            attended = attend(torch.cat(queries, dim=2), k, v)  # (b, n of all others, d)
            for i, part in zip(others, attended.split([q.shape[2] for q in queries], dim=1), strict=True):
                results[i].append(part)
        return [weighted_sum(parts, weights) for parts, weights in zip(results, self.weights, strict=True)]


def weighted_sum(xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Sum of tensors of one shape, each multiplied by its entry of ``weights``, ``(n,)``."""
    total = xs[0] * weights[0]
    for x, weight in zip(xs[1:], weights[1:], strict=True):
        total.addcmul_(x, weight)
    return total


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


class Stacked(nn.Module):
    """Sublayers over the concatenated channels of all scales; short sequences are padded with zeros."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """One ``(b, n_i, d)`` for each scale to the same shapes."""
        longest = max(x.shape[1] for x in xs)
        y = torch.cat([F.pad(x, (0, 0, 0, longest - x.shape[1])) for x in xs], dim=-1)  # (b, n, s * d)
        for layer in self.layers:
            y = add_residual(y, layer(y))
        return [part[:, : x.shape[1]] for part, x in zip(y.chunk(len(xs), dim=-1), xs, strict=True)]


class Block(nn.Module):
    """Attention within each scale, an MLP per scale, attention between scales, mixing of channels."""

    def __init__(self, config: M2OSTConfig) -> None:
        super().__init__()
        dim, heads, dropout, n_scales = config.dim, config.heads, config.dropout, len(config.fov_spots)
        hidden, width = max(1, round(config.mlp_ratio * dim)), dim * n_scales

        def attention(scales: int) -> nn.Sequential:
            """Self-attention over the joined channels of ``scales`` scales, with its normalisation."""
            attend = SelfAttention(scales * dim, scales * heads, config.mask_rate, dropout)
            return nn.Sequential(nn.LayerNorm(scales * dim), attend)

        joint = config.within == "joint"
        separate = range(0 if joint else n_scales)
        self.within = nn.ModuleList(attention(1) for _ in separate)
        self.mlp = nn.ModuleList(perceptron(dim, hidden, dropout) for _ in separate)
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


class PixelLinear(nn.Linear):
    """A linear map of pixels scaled to [-1, 1]; the scaling is folded into the weights, so bytes are only converted."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Map ``(..., in_features)``, uint8 or floating point in [0, 1], to ``(..., out_features)``."""
        scale = 2 if pixels.is_floating_point() else 2 / 255
        return F.linear(pixels.to(self.weight.dtype), self.weight * scale, self.bias - self.weight.sum(dim=1))


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


class PlainEmbedding(nn.Module):
    """Tokens of one size over the whole patch; every scale has an embedder of its own."""

    def __init__(self, dim: int, patch_size: int, n_scales: int) -> None:
        super().__init__()
        self.size = patch_size
        self.embedders = nn.ModuleList(PixelLinear(3 * patch_size**2, dim) for _ in range(n_scales))

    def forward(self, patches: Tensor) -> list[list[Tensor]]:
        """Patches ``(b, s, 3, p, p)``, uint8 or in [0, 1], to the one grid of each scale, ``(b, L, d)``."""
        tokens = rearrange(patches, "b s c (h y) (w x) -> s b (h w) (c y x)", y=self.size, x=self.size)
        return [[embed(grid)] for embed, grid in zip(self.embedders, tokens, strict=True)]


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
        grid = (config.size_px // config.patch_size) ** 2
        nested = config.embedding == "nested"
        self.embed = (NestedEmbedding if nested else PlainEmbedding)(dim, config.patch_size, n_scales)
        self.cls = nn.ParameterList(nn.Parameter(torch.empty(1, 1, dim)) for _ in range(n_scales))
        self.positions = nn.ParameterList(
            nn.Parameter(torch.empty(1, 1 + (i + 1 if nested else 1) * grid, dim)) for i in range(n_scales)
        )
        for parameter in (*self.cls, *self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(n_scales))
        self.head = FloatLinear(dim if config.between == "sum" else n_scales * dim, config.n_outputs)
        SpotModel.initialize_at(self, torch.zeros(config.n_outputs))

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
        check.patches(tuple(batch.patches.shape), len(self.config.fov_spots), self.config.size_px)
        xs = self._tokens(batch.patches)
        for block in self.blocks:
            xs = block(xs)
        summaries = torch.stack([norm(x[:, 0]) for x, norm in zip(xs, self.norms, strict=True)], dim=1)  # (b, s, d)
        return self.head(summaries.sum(dim=1) if self.config.between == "sum" else summaries.flatten(1))

    def _tokens(self, patches: Tensor) -> list[Tensor]:
        """Class token and image tokens of each scale, with their positions."""
        xs = []
        for i, grids in enumerate(self.embed(patches)):
            cls = self.cls[i].expand(len(patches), -1, -1)
            xs.append(torch.cat([cls, *grids], dim=1).add_(self.positions[i]))
        return xs
