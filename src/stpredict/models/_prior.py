"""What flows start from: distributions as functions of numbers in [0, 1), and such numbers that follow from places."""

from __future__ import annotations

import torch

PRIORS = ("gaussian", "zero", "zinb")
"""Normal, a point, or the logarithm of zero-inflated counts."""
_LOGITS, _DROPPED = 0.1, 0.5
"""Of a negative binomial distribution of one failure, and how often it is replaced by zero."""
_GRID_UM = 0.125
"""Places that differ by less have the same noise; so do those that were rounded on the way."""
_MASK, _BITS = 0xFFFFFFFF, 24


def drawn(prior: str, chance: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor) -> torch.Tensor:
    """Values of a distribution.

    Parameters
    ----------
    prior
        One of `PRIORS`.
    chance
        ``(2, b, g)`` independent numbers in [0, 1).
    mean, spread
        ``(g,)`` of the targets.

    Returns
    -------
    ``(b, g)``: normal with that mean and spread, the mean, or log1p of counts.
    """
    first, second = chance
    if prior == "zero":
        return mean.expand(first.shape)
    if prior == "zinb":
        success = torch.tensor(_LOGITS).sigmoid().log().item()
        counts = (torch.log1p(-first) / success).floor()
        return torch.where(second < _DROPPED, 0.0, counts.log1p())
    radius = (-2 * torch.log1p(-first)).sqrt()
    return torch.addcmul(mean, spread, radius * (2 * torch.pi * second).cos())


def uniform(xy_um: torch.Tensor, n: int, number: int) -> torch.Tensor:
    """Numbers that look drawn and follow from places alone: equal in every batch, on every device.

    Parameters
    ----------
    xy_um
        ``(b, 2)`` places.
    n
        Pairs of numbers a place.
    number
        Of the draw.

    Returns
    -------
    ``(2, b, n)`` float32 in [0, 1).
    """
    x, y = (xy_um.float() / _GRID_UM).round().long().unbind(dim=1)
    place = _stirred(_stirred(x & _MASK) ^ (y & _MASK))[None, :, None]  # (1, b, 1)
    column = torch.arange(2 * n, device=xy_um.device).reshape(2, 1, n) + 2 * n * number
    bits = _stirred((_stirred(place ^ _stirred(column)) + column) & _MASK) >> (32 - _BITS)
    return bits.float().div_(2**_BITS)


def _stirred(x: torch.Tensor) -> torch.Tensor:
    """32 bits in 64, mixed so that each depends on all (products with less than 31 bits do not overflow)."""
    for factor, shift in ((0x45D9F3B, 16), (0x119DE1F3, 15)):
        x = ((x ^ (x >> shift)) * factor) & _MASK
    return x ^ (x >> 16)
