"""M2OST as in its published code; only the bounds of one crop are repaired.

Wang et al., AAAI 2025, arXiv 2409.15092; code: github.com/Dootmaan/M2OST at 60fd90a. Use it for comparisons and for
weights trained with that code; to train a new model, use ``m2ost``.

Repaired: the central quarter of the widest patch ended at ``H - H/4`` instead of ``H - 3H/8``, which crashes.

Differences between the code and the paper, in which this file follows the code
    - no random-mask attention; no normalisation before self-attention;
    - one MLP (hidden ``mlp_dim / 3``, a GELU also at its end), one class token and one final normalisation, shared by
      all scales;
    - cross-level attention concatenates the two answers instead of weighting them, has one normalisation for all
      scales, three heads whatever ``heads`` is, and no residual;
    - channel mixing multiplies by 1 + s; positions start with a standard deviation of 1.

Each self-attention of the code also has an unused layer norm, 4,608 parameters in total at full size. They are left out
here: 7,038,858 parameters instead of 7,043,466.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from einops import rearrange
from torch import nn

from .._checks import models as check
from .._checks.calls import public
from ._layers import attend, center, split_heads
from ._precision import unit_pixels
from .contract import FloatLinear, SpotModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from torch import Tensor

    from .contract import SpotBatch

N_SCALES = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class M2OSTReferenceConfig:
    """Shape of an ``M2OSTReference``. The defaults are the published example's.

    Examples
    --------
    >>> from stpredict import models
    >>> models.M2OSTReferenceConfig(n_outputs=250).dim
    576
    """

    n_outputs: int
    """Number of values predicted per spot."""
    dim: int = 576
    """Width of the tokens of all three scales together."""
    depth: int = 4
    """Number of blocks."""
    heads: int = 9
    """Heads of self-attention of all three scales together."""
    dim_head: int = 64
    """Width of a head."""
    mlp_dim: int = 384
    """Hidden width of the channel mixing; the MLP has a third of it."""
    patch_size: int = 16
    """Side in pixels of the largest tokens; wider scales also have tokens of a half and a quarter."""
    size_px: int = 224
    """Side in pixels of the patch of every scale."""
    fov_spots: tuple[float, ...] = (1.5, 3.0, 6.0)
    """Field of view of each of the three scales in spot diameters, narrowest first."""
    pool: Literal["cls", "mean"] = "cls"
    """Input of the head from each scale: its class token, or the mean of all its tokens."""
    context: Literal["spot"] = "spot"
    """What one prediction sees: the patches of one spot."""

    def __post_init__(self) -> None:
        check.field_values(self, n_scales=N_SCALES)
        check.nested_patches(self.size_px, self.patch_size, N_SCALES)
        for name in ("dim", "heads"):
            check.multiple_of(name, getattr(self, name), N_SCALES)


class SelfAttention(nn.Module):
    """Self-attention of one scale, without normalisation."""

    def __init__(self, width: int, heads: int, dim_head: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * heads * dim_head, bias=False)
        self.out = nn.Linear(heads * dim_head, width)

    def forward(self, x: Tensor) -> Tensor:
        """``(b, n, d)`` to ``(b, n, d)``."""
        mixed: Tensor = self.out(attend(*split_heads(self.qkv(x), self.heads)))
        return mixed


class CrossAttention(nn.Module):
    """Each scale attends to the two others; the two results, concatenated, replace its tokens."""

    def __init__(self, width: int, dim_head: int) -> None:
        super().__init__()
        inner = N_SCALES * dim_head
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * inner, bias=False) for _ in range(N_SCALES))
        self.outs = nn.ModuleList(nn.Linear(2 * inner, width) for _ in range(N_SCALES))

    def forward(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """One ``(b, n_i, d)`` each to the same shapes."""
        qkv = [split_heads(project(self.norm(x)), N_SCALES) for x, project in zip(xs, self.qkv, strict=True)]
        mixed = []
        for i, out in enumerate(self.outs):
            attended = [attend(qkv[i][0], k, v) for j, (_, k, v) in enumerate(qkv) if j != i]
            mixed.append(out(torch.cat(attended, dim=-1)))
        return mixed


class Block(nn.Module):
    """Self-attention, MLP, cross-level attention, channel mixing."""

    def __init__(self, config: M2OSTReferenceConfig) -> None:
        super().__init__()
        width, hidden = config.dim // N_SCALES, config.mlp_dim // N_SCALES
        heads = config.heads // N_SCALES
        self.within = nn.ModuleList(SelfAttention(width, heads, config.dim_head) for _ in range(N_SCALES))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width), nn.GELU()
        )
        self.between = CrossAttention(width, config.dim_head)
        self.gate = nn.Sequential(
            nn.LayerNorm(config.dim),
            nn.Linear(config.dim, config.mlp_dim),
            nn.GELU(),
            nn.Linear(config.mlp_dim, config.dim),
            nn.Sigmoid(),
        )

    def forward(self, xs: Sequence[Tensor]) -> list[Tensor]:
        """One ``(b, n_i, d)`` for each scale to the same shapes."""
        xs = [x + attention(x) for x, attention in zip(xs, self.within, strict=True)]
        xs = self.between([x + self.mlp(x) for x in xs])
        gates = self.gate(torch.cat([x.mean(dim=1) for x in xs], dim=-1)).chunk(N_SCALES, dim=-1)
        return [x * gate[:, None] + x for x, gate in zip(xs, gates, strict=True)]


class M2OSTReference(SpotModel):
    """The published network, repaired.

    Parameters
    ----------
    config
        Shape of the network.

    Examples
    --------
    >>> from stpredict import models
    >>> network = models.M2OSTReference(models.M2OSTReferenceConfig(n_outputs=250, depth=1))
    >>> len(network.blocks), network.head.out_features
    (1, 250)
    """

    config: M2OSTReferenceConfig

    def __init__(self, config: M2OSTReferenceConfig) -> None:
        super().__init__()
        self.config = config
        width, grid = config.dim // N_SCALES, (config.size_px // config.patch_size) ** 2
        self.sizes = [config.patch_size // 2**k for k in range(N_SCALES)]
        self.embed = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(3 * size**2),
                nn.Linear(3 * size**2, config.dim // 2**k),
                nn.GELU(),
                nn.Linear(config.dim // 2**k, width),
                nn.LayerNorm(width),
            )
            for k, size in enumerate(self.sizes)
        )
        self.cls = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.ParameterList(
            nn.Parameter(torch.randn(1, 1 + (i + 1) * grid, width)) for i in range(N_SCALES)
        )
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.head = FloatLinear(config.dim, config.n_outputs)

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
        check.patches(tuple(batch.patches.shape), N_SCALES, self.config.size_px)
        xs = self._tokens(unit_pixels(batch.patches))
        for block in self.blocks:
            xs = block(xs)
        xs = [self.norm(x) for x in xs]
        pooled = [x[:, 0] if self.config.pool == "cls" else x.mean(dim=1) for x in xs]
        return self.head(torch.cat(pooled, dim=-1))

    def _tokens(self, pixels: Tensor) -> list[Tensor]:
        """The sequence of each scale: class token, then grids from the finest to the largest tokens."""
        grids = []
        for k, (size, embed) in enumerate(zip(self.sizes, self.embed, strict=True)):
            part = center(pixels[:, k:], 2**k)
            grids.append(embed(rearrange(part, "b s c (h y) (w x) -> b s (h w) (y x c)", y=size, x=size)))
        cls = self.cls.expand(len(pixels), -1, -1)
        return [
            torch.cat([cls, *(grids[k][:, i - k] for k in range(i, -1, -1))], dim=1) + position
            for i, position in enumerate(self.positions)
        ]


@public
def from_released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights in a ``state_dict`` of the published code.

    Parameters
    ----------
    state
        Tensors under their original names. The unused layer norms are ignored.

    Returns
    -------
    A state dict for ``M2OSTReference.load_state_dict``, for a configuration of the same shape.
    """
    depth = sum(name.startswith("transformer.layers.") and name.endswith(".0.to_qkv1.weight") for name in state)
    names = dict(_released_names(depth))
    unused = [f"transformer.layers.{n}.0.norm.{kind}" for n in range(depth) for kind in ("weight", "bias")]
    check.released_names(state, [source for sources in names.values() for source in sources], unused)
    return {ours: torch.cat([state[source] for source in sources]) for ours, sources in names.items()}


def _released_names(depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Our name of every tensor, and the original names of the tensors that are concatenated to it."""
    yield "cls", ("cls_token",)
    for i in range(N_SCALES):
        yield f"positions.{i}", (f"pos_embedding{i + 1}",)
    for kind in ("weight", "bias"):
        for i in range(N_SCALES):
            for layer in (0, 1, 3, 4):
                yield f"embed.{i}.{layer}.{kind}", (f"to_patch_embedding{i + 1}.{layer + 1}.{kind}",)
        yield f"norm.{kind}", (f"transformer.norm.{kind}",)
        yield f"head.{kind}", (f"mlp_head.{kind}",)
    for n in range(depth):
        yield from _released_block(f"blocks.{n}", f"transformer.layers.{n}")


def _released_block(ours: str, theirs: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Our names and the original names for one block."""
    for i in range(N_SCALES):
        yield f"{ours}.within.{i}.qkv.weight", (f"{theirs}.0.to_qkv{i + 1}.weight",)
        yield f"{ours}.between.qkv.{i}.weight", tuple(f"{theirs}.2.to_{part}{i}.weight" for part in "qkv")
    for kind in ("weight", "bias"):
        for i in range(N_SCALES):
            yield f"{ours}.within.{i}.out.{kind}", (f"{theirs}.0.to_out{i + 1}.0.{kind}",)
            yield f"{ours}.between.outs.{i}.{kind}", (f"{theirs}.2.to_out{i}.0.{kind}",)
        yield f"{ours}.between.norm.{kind}", (f"{theirs}.2.norm.{kind}",)
        for layer, original in ((0, 0), (1, 1), (3, 4)):
            yield f"{ours}.mlp.{layer}.{kind}", (f"{theirs}.1.split_mlp.{original}.{kind}",)
            yield f"{ours}.gate.{layer}.{kind}", (f"{theirs}.3.net.{original}.{kind}",)
