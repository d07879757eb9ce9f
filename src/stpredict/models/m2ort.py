"""M2ORT: one patch at three resolutions; queries, keys and values of attention come from one resolution each.

Wang et al., "M2ORT: Many-To-One Regression Transformer for Spatial Transcriptomics Prediction from Histopathology
Images", arXiv 2401.10608. The predecessor of M2OST, with one field of view.

Names: level -> resolution; level 0 is the patch as it is read, levels 1 and 2 have a half and a quarter of its pixels
along each side. Their tokens are smaller by the same factor, so that token i shows the same place at every level; the
tokens of the three levels are concatenated by channel. C -> ``dim``.

Deviations
    - The lower resolutions are computed from the patch with an antialiasing filter; the image is read only once.
    - Values use the projection of level 2. Until October 2025 the published code used that of level 1 by mistake.
    - Class token and positions are initialised with a standard deviation of 0.02, the head with zero weights and the
      mean profile (``initialize_at``).
    - The recipe keeps the published learning rate, batch size and number of epochs. Fits here use AdamW without weight
      decay instead of Adam, warm-up and cosine decay, and a moving average of the weights.
    - Sizes are those of the published code, parameter for parameter: 7.62, 17.14 and 55.49 M at 250 outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._layers import add_residual, attend, perceptron
from ._precision import unit_pixels
from .contract import FloatLinear, SpotModel
from .model_config import PatchConfig

if TYPE_CHECKING:
    from torch import Tensor

    from .contract import SpotBatch

N_LEVELS = 3
"""Resolutions: attention takes queries from the first, keys from the second, values from the third."""


@dataclass(frozen=True, kw_only=True, slots=True)
class M2ORTConfig(PatchConfig):
    """Shape of an ``M2ORT``. The defaults are those of the published small network."""

    dim: int = 192
    """Width of a token at one resolution; the network is three times as wide."""
    depth: int = 6
    """Number of transformer layers."""
    heads: int = 9
    """Number of attention heads."""
    dim_head: int = 64
    """Width of a head."""
    mlp_dim: int = 384
    """Hidden width of an MLP."""
    patch_size: int = 16
    """Side in pixels of the tokens at full resolution, a multiple of 4."""
    dropout: float = 0.0
    """Dropout rate after attention and in MLPs."""

    def __post_init__(self) -> None:
        check.field_values(self, n_scales=1)
        for name in ("patch_size", "dim"):  # halved at every level
            if getattr(self, name) % 2 ** (N_LEVELS - 1):
                msg = f"`{name}` is {getattr(self, name)}; it is halved {N_LEVELS - 1} times: give a multiple of 4."
                raise ValueError(msg)
        check.divides("patch_size", self.patch_size, "size_px", self.size_px)
        check.number("dropout", self.dropout, low=0, high=1)


def downsample(pixels: Tensor, factor: int) -> Tensor:
    """Antialiased resize of ``(b, c, p, p)`` to ``(b, c, p / factor, p / factor)``."""
    size = pixels.shape[-1] // factor
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)


class PatchEmbedding(nn.Module):
    """Tokens of one resolution from square windows of pixels."""

    def __init__(self, size: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.size, pixels = size, 3 * size**2
        inner = (nn.Linear(pixels, hidden), nn.GELU(), nn.Linear(hidden, dim))
        self.net = nn.Sequential(nn.LayerNorm(pixels), *inner, nn.LayerNorm(dim))

    def forward(self, pixels: Tensor) -> Tensor:
        """Map ``(b, 3, p, p)`` to ``(b, L, d)``, row by row."""
        tokens: Tensor = self.net(rearrange(pixels, "b c (h y) (w x) -> b (h w) (c y x)", y=self.size, x=self.size))
        return tokens


class LevelAttention(nn.Module):
    """Attention whose queries, keys and values come from one resolution each."""

    def __init__(self, dim: int, heads: int, dim_head: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(N_LEVELS * dim)
        self.to_qkv = nn.ModuleList(nn.Linear(dim, heads * dim_head, bias=False) for _ in range(N_LEVELS))
        self.out = nn.Sequential(nn.Linear(heads * dim_head, N_LEVELS * dim), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(b, n, 3 * d)`` to the same shape."""
        levels = self.norm(x).chunk(N_LEVELS, dim=-1)
        q, k, v = (
            rearrange(project(level), "b n (h d) -> b h n d", h=self.heads)
            for project, level in zip(self.to_qkv, levels, strict=True)
        )
        mixed: Tensor = self.out(attend(q, k, v))
        return mixed


class Layer(nn.Module):
    """Attention between resolutions, then an MLP over all channels."""

    def __init__(self, dim: int, heads: int, dim_head: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = LevelAttention(dim, heads, dim_head, dropout)
        self.mlp = perceptron(N_LEVELS * dim, mlp_dim, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(b, n, 3 * d)`` to the same shape."""
        x = add_residual(x, self.attention(x))
        return add_residual(x, self.mlp(x))


class M2ORT(SpotModel):
    """Predicts expression from the patch of a spot at three resolutions."""

    config: M2ORTConfig

    def __init__(self, config: M2ORTConfig) -> None:
        super().__init__()
        self.config = config
        dim, width = config.dim, N_LEVELS * config.dim
        self.embed = nn.ModuleList(  # hidden widths of the published code: 3, 3/2 and 3/4 times the output width
            PatchEmbedding(config.patch_size // 2**level, 3 * dim // 2**level, dim) for level in range(N_LEVELS)
        )
        self.cls = nn.Parameter(torch.empty(1, 1, width))
        self.positions = nn.Parameter(torch.empty(1, 1 + (config.size_px // config.patch_size) ** 2, width))
        for parameter in (self.cls, self.positions):
            nn.init.trunc_normal_(parameter, std=0.02)
        shape = (dim, config.heads, config.dim_head, config.mlp_dim, config.dropout)
        self.layers = nn.ModuleList(Layer(*shape) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.head = FloatLinear(width, config.n_outputs)
        self.initialize_at(torch.zeros(config.n_outputs))

    def forward(self, batch: SpotBatch) -> Tensor:
        """Predict ``(b, n_outputs)``."""
        check.patches(tuple(batch.patches.shape), 1, self.config.size_px)
        tokens = self._tokens(batch.patches[:, 0])  # (b, L, 3 * d)
        x = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x[:, 0]))

    def _tokens(self, patches: Tensor) -> Tensor:
        """Concatenated tokens of all resolutions: ``(b, 3, p, p)``, uint8 or in [0, 1], to ``(b, L, 3 * d)``."""
        pixels = unit_pixels(patches)
        levels = [pixels, *(downsample(pixels, 2**level) for level in range(1, N_LEVELS))]
        return torch.cat([embed(level) for embed, level in zip(self.embed, levels, strict=True)], dim=-1)
