"""Layers that several networks have: of M2OST, of what its ablations put in their place, of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from ._attention import add_residual

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


class PixelLinear(nn.Linear):
    """A linear map of pixels in [-1, 1], the range folded into the weights: bytes are converted, no more."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Map ``(..., in_features)``, uint8 or floating point in [0, 1], to ``(..., out_features)``."""
        spread = 2 if pixels.is_floating_point() else 2 / 255
        return F.linear(pixels.to(self.weight.dtype), self.weight * spread, self.bias - self.weight.sum(dim=1))


def perceptron(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    """The MLP of a transformer layer, its norm before it: ``(..., d)`` to ``(..., d)``."""
    inner = (nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout))
    return nn.Sequential(nn.LayerNorm(dim), *inner)


class Stacked(nn.Module):
    """Sublayers that see the channels of all scales as one long token; short sequences are padded with zeros."""

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


class PlainEmbedding(nn.Module):
    """Tokens of one size over the whole patch; every scale has an embedder of its own."""

    def __init__(self, dim: int, patch_size: int, n_scales: int) -> None:
        super().__init__()
        self.size = patch_size
        self.embedders = nn.ModuleList(PixelLinear(3 * patch_size**2, dim) for _ in range(n_scales))

    def forward(self, patches: Tensor) -> list[list[Tensor]]:
        """Patches ``(b, s, 3, p, p)``, uint8 or in [0, 1], to the one grid of each scale, ``(b, L, d)``."""
        tokens = rearrange(patches, "b s c (h y) (w x) -> s b (h w) (c y x)", y=self.size, x=self.size)
        return [[embed(some)] for embed, some in zip(self.embedders, tokens, strict=True)]
