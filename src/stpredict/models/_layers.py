"""Layers that several networks share: attention, the MLP of a transformer layer, the centre of images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention: ``(b, h, m, d)`` queries, ``(b, h, n, d)`` keys and values to ``(b, m, h * d)``.

    ``mask`` is True where a key is seen, broadcast to ``(b, h, m, n)``. The fused kernel never stores all scores. Only
    in bfloat16 on a CPU the scores are computed explicitly: on two cores with AVX512 the fused kernel made the
    published network a fifth slower there, and faster in float32.
    """
    if mask is None and q.dtype is torch.bfloat16 and q.device.type == "cpu":
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (b, h, m, n)
        values = scores.softmax(dim=-1).to(v.dtype) @ v
    else:
        values = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    concatenated: Tensor = rearrange(values, "b h m d -> b m (h d)")
    return concatenated


def split_heads(qkv: Tensor, heads: int) -> Tensor:
    """Queries, keys and values of one product, ``(b, n, 3 * h * d)`` to ``(3, b, h, n, d)``, a view."""
    return rearrange(qkv, "b n (qkv h d) -> qkv b h n d", qkv=3, h=heads)


def add_residual(x: Tensor, change: Tensor) -> Tensor:
    """``x + change``, stored in ``change`` unless that is of lower precision: no layer keeps its output."""
    return change.add_(x) if change.dtype == x.dtype else x + change


def perceptron(dim: int, hidden: int, dropout: float) -> nn.Sequential:
    """The MLP of a transformer layer with its normalisation, ``(..., d)`` to ``(..., d)``."""
    inner = (nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout))
    return nn.Sequential(nn.LayerNorm(dim), *inner)


def center(images: Tensor, share: int) -> Tensor:
    """The central ``1 / share`` of square images ``(..., p, p)``, a view."""
    size = images.shape[-1]
    first, last = (size - size // share) // 2, (size + size // share) // 2
    return images[..., first:last, first:last]
