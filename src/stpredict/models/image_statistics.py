"""Colour and texture of patches, as numbers.

Tensors only. The statistics do not change when a patch is flipped or turned.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .._geometry import margin_px
from .contract import full_precision, unit_pixels

if TYPE_CHECKING:
    from torch import Tensor

N_STATISTICS = 27
"""Numbers a window: mean, spread, correlation and skew of the channels, texture at four scales, mean of the centre."""
N_MOMENTS = 6
"""Numbers a window of colour alone: mean and standard deviation of the optical density of R, G and B."""
_OCTAVES = 4
N_COLOR = 12
"""Colour statistics of a patch: mean and standard deviation of R, G, B, in the whole patch and in its central half."""
_COLOR_MEAN, _COLOR_SPREAD = 0.7, 0.15  # of the mean of a channel, over H&E patches (her2st C3, 224 px)
_STD_MEAN, _STD_SPREAD = 0.14, 0.08  # of its standard deviation


def patch_statistics(patches: Tensor, spot_share: float) -> Tensor:
    """Colour and texture of the spot itself and of every field of view, in optical density.

    Parameters
    ----------
    patches
        ``(b, s, 3, p, p)``, uint8, or floating point in [0, 1].
    spot_share
        Spot diameter over the narrowest field of view; the square of that side is the first window.

    Returns
    -------
    ``(b, (s + 1) * 27)`` float32.
    """
    with full_precision(patches.device):
        density = _density(patches)
        size = density.shape[-1]
        margin = margin_px(size, spot_share)
        spot = density[:, :1, :, margin : size - margin, margin : size - margin]
        return torch.cat([_window(spot), _window(density)], dim=1).flatten(1)


def window_colors(patches: Tensor, margin: int) -> Tensor:
    """Mean and standard deviation of the optical density of each channel, in the spot and in every field of view.

    Parameters
    ----------
    patches
        ``(b, s, 3, p, p)``, uint8, or floating point in [0, 1].
    margin
        Pixels around the first window, which is in the middle of the narrowest field of view.

    Returns
    -------
    ``(b, 6 * (s + 1))`` float32, the spot first: three means and three standard deviations a window.
    """
    with full_precision(patches.device):
        density = _density(patches)
        size = density.shape[-1]
        spot = density[:, :1, :, margin : size - margin, margin : size - margin]
        moments = [torch.std_mean(window, dim=(-2, -1), correction=0) for window in (spot, density)]
        return torch.cat([torch.stack([mean, std], dim=2) for std, mean in moments], dim=1).flatten(1)


def _density(patches: Tensor) -> Tensor:
    """Optical density of pixels, uint8 or in [0, 1]."""
    return unit_pixels(patches).float().clamp_min(1 / 255).log_().neg_()


def _window(density: Tensor) -> Tensor:
    """The statistics of each window: ``(b, s, 3, p, p)`` to ``(b, s, 27)``."""
    mean = density.mean(dim=(-2, -1))
    centred = (density - mean[..., None, None]).flatten(-2)  # (b, s, 3, n)
    covariance = torch.einsum("bscn,bsdn->bscd", centred, centred) / centred.shape[-1]
    squares = centred * centred  # summed apart: a matrix product rounds more, and the skew would show it
    std = squares.mean(dim=-1).sqrt()
    correlation = covariance / (std[..., None] * std[..., None, :] + 1e-9)
    pairs = torch.stack([correlation[..., 0, 1], correlation[..., 0, 2], correlation[..., 1, 2]], dim=-1)
    skew = squares.mul_(centred).mean(dim=-1) / (std.pow(3) + 1e-6)
    quarter = density.shape[-1] // 4
    centre = density[..., quarter : density.shape[-1] - quarter, quarter : density.shape[-1] - quarter]
    return torch.cat([mean, std, pairs, skew, *_texture(density), centre.mean(dim=(-2, -1))], dim=-1)


def _texture(density: Tensor) -> list[Tensor]:
    """Log mean gradient of each channel, at full size and after halving again and again: ``(b, s, 3)`` each."""
    found = []
    for _ in range(_OCTAVES):
        if density.shape[-1] > 1:
            gradient = (_slope(density, -1) + _slope(density, -2)) / 2
            density = _halved(density)
        else:
            gradient = torch.zeros(density.shape[:3], device=density.device)
        found.append((gradient + 1e-3).log())
    return found


def _slope(density: Tensor, axis: int) -> Tensor:
    """Mean absolute difference of neighbours along one axis, ``(b, s, 3)``."""
    return density.diff(dim=axis).abs_().mean(dim=(-2, -1))


def _halved(density: Tensor) -> Tensor:
    """Means of two by two pixels, an odd last row and column left out; rows first, where memory is contiguous."""
    even = density.shape[-1] // 2 * 2
    rows = density[..., :even:2, :even] + density[..., 1:even:2, :even]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def center(images: Tensor, share: int) -> Tensor:
    """The central ``1 / share`` of square images, a view.

    Parameters
    ----------
    images
        ``(..., p, p)``.
    share
        By how much the side shrinks.

    Returns
    -------
    ``(..., p / share, p / share)``.
    """
    size = images.shape[-1]
    first, last = (size - size // share) // 2, (size + size // share) // 2
    return images[..., first:last, first:last]


def color_statistics(pixels: Tensor) -> Tensor:
    """Colour of each patch and of its central half, in units of the spread between H&E patches.

    Parameters
    ----------
    pixels
        ``(b, s, 3, p, p)`` in [0, 1].

    Returns
    -------
    ``(b, s, 12)``: mean R, G, B, standard deviation R, G, B of the whole patch, then of its central half.
    """
    parts = []
    for part in (pixels, center(pixels, 2)):
        std, mean = torch.std_mean(part.float(), dim=(-2, -1), correction=0)
        parts += [(mean - _COLOR_MEAN) / _COLOR_SPREAD, (std - _STD_MEAN) / _STD_SPREAD]
    return torch.cat(parts, dim=-1)
