"""Multi-head attention and by which kernel, and sums that write over what nobody needs any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from torch.nn import functional as F

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None = None) -> Tensor:
    """Softmax attention of some queries to some keys.

    One fused kernel, which never holds all scores. Only in bfloat16 on a CPU two products with the scores between them:
    on two cores with AVX512 the fused kernel made the published network a fifth slower there, and faster in float32.

    Parameters
    ----------
    q
        ``(b, h, m, d)`` queries.
    k, v
        ``(b, h, n, d)`` keys and values.
    seen
        Which keys may be looked at, bool, broadcast to ``(b, h, m, n)``; by default all.

    Returns
    -------
    ``(b, m, h * d)``, the heads side by side.
    """
    if seen is None and q.dtype is torch.bfloat16 and q.device.type == "cpu":
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (b, h, m, n)
        answers = scores.softmax(dim=-1).to(v.dtype) @ v
    else:
        answers = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    side_by_side: Tensor = rearrange(answers, "b h m d -> b m (h d)")
    return side_by_side


def split_heads(qkv: Tensor, heads: int) -> Tensor:
    """Queries, keys and values out of one product: ``(b, n, 3 * h * d)`` to ``(3, b, h, n, d)``, a view."""
    split: Tensor = rearrange(qkv, "b n (qkv h d) -> qkv b h n d", qkv=3, h=heads)
    return split


def key_mask(shape: tuple[int, int, int], rate: float, device: torch.device) -> Tensor:
    """Which keys attention may look at, drawn from torch's global generator.

    Parameters
    ----------
    shape
        Spots, heads, keys.
    rate
        Probability with which a key is hidden; the first, the class token, never is.
    device
        Where to draw.

    Returns
    -------
    ``(b, h, 1, n)`` bool, True where a key is seen. Attention under it renormalises over the keys that are left.
    """
    batch, heads, keys = shape
    seen = torch.rand(batch, heads, 1, keys, device=device) >= rate
    seen[..., 0] = True
    return seen


def add_residual(x: Tensor, change: Tensor) -> Tensor:
    """``x + change``, written over ``change`` unless that is coarser: no layer keeps its output, all keep ``x``."""
    return change.add_(x) if change.dtype == x.dtype else x + change


def weighted_sum(xs: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Sum of tensors of one shape, each times its entry of ``weights``, ``(n,)``."""
    total = xs[0] * weights[0]
    for x, weight in zip(xs[1:], weights[1:], strict=True):
        total.addcmul_(x, weight)
    return total
