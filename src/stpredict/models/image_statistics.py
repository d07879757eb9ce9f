"""Colour and texture statistics of patches. They do not change when a patch is flipped or rotated by right angles.

Shared machinery without an underscore: `_train` and `tl` compute them too.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from .._geometry import margin_px
from ._precision import full_precision, unit_pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

N_STATISTICS = 27
"""Statistics of a window: mean, standard deviation, correlation and skew of the channels, texture at four scales, mean
of the centre."""
N_MOMENTS = 6
"""Colour statistics of a window: mean and standard deviation of the optical density of R, G and B."""
VALUES_AT_ONCE = 1 << 28
"""Pixel values whose optical density a GPU holds at a time."""
_OCTAVES = 4


def patch_statistics(patches: Tensor, spot_share: float) -> Tensor:
    """Colour and texture of the spot and of every field of view, in optical density.

    ``(b, s, 3, p, p)``, uint8 or in [0, 1], to ``(b, (s + 1) * 27)`` float32. The first window is a central square of
    the narrowest field of view; ``spot_share`` is its side relative to the field of view.
    """
    with full_precision(patches.device):
        density = _density(patches)
        size = density.shape[-1]
        margin = margin_px(size, spot_share)
        spot = density[:, :1, :, margin : size - margin, margin : size - margin]
        return torch.cat([_window_statistics(spot), _window_statistics(density)], dim=1).flatten(1)


def window_colors(patches: Tensor, margin: int) -> Tensor:
    """Mean and standard deviation of the optical density of each channel, in the spot and in every field of view.

    ``(b, s, 3, p, p)``, uint8 or in [0, 1], to ``(b, 6 * (s + 1))`` float32: three means and three standard deviations
    of each window. The first window is the narrowest field of view without ``margin`` pixels on each side.
    """
    if patches.dtype == torch.uint8 and patches.device.type == "cpu":
        return _histogram_colors(patches.numpy(), margin)
    n_at_once = max(1, VALUES_AT_ONCE // math.prod(patches.shape[1:]))
    return torch.cat([_window_colors(part, margin) for part in patches.split(n_at_once)])


def _histogram_colors(patches: NDArray[np.uint8], margin: int) -> Tensor:
    """`window_colors` from histograms of pixel values: exact, and several times faster on a CPU."""
    from ._histogram import histograms  # deferred: numba takes half a second to import

    density = -np.log(np.maximum(np.arange(256), 1) / 255)
    counts = histograms(patches, margin)  # (n, s + 1, 3, 256)
    n_pixels = counts.sum(axis=-1)
    mean = counts @ density / n_pixels
    variance = counts @ density**2 / n_pixels - mean**2
    statistics = np.stack([mean, np.sqrt(np.maximum(variance, 0))], axis=2)  # (n, s + 1, 2, 3)
    return torch.from_numpy(statistics.reshape(len(patches), -1).astype(np.float32))


def _window_colors(patches: Tensor, margin: int) -> Tensor:
    with full_precision(patches.device):
        density = _density(patches)
        size = density.shape[-1]
        spot = density[:, :1, :, margin : size - margin, margin : size - margin]
        moments = [torch.std_mean(window, dim=(-2, -1), correction=0) for window in (spot, density)]
        return torch.cat([torch.stack([mean, std], dim=2) for std, mean in moments], dim=1).flatten(1)


def _density(patches: Tensor) -> Tensor:
    """Optical density of pixels, uint8 or in [0, 1]."""
    return unit_pixels(patches).float().clamp_min(1 / 255).log_().neg_()


def _window_statistics(density: Tensor) -> Tensor:
    """The statistics of each window: ``(b, s, 3, p, p)`` to ``(b, s, 27)``."""
    mean = density.mean(dim=(-2, -1))
    centred = (density - mean[..., None, None]).flatten(-2)  # (b, s, 3, n)
    covariance = torch.einsum("bscn,bsdn->bscd", centred, centred) / centred.shape[-1]
    squares = centred * centred  # summed separately: a matrix product rounds more, which changes the skew
    std = squares.mean(dim=-1).sqrt()
    correlation = covariance / (std[..., None] * std[..., None, :] + 1e-9)
    pairs = torch.stack([correlation[..., 0, 1], correlation[..., 0, 2], correlation[..., 1, 2]], dim=-1)
    skew = squares.mul_(centred).mean(dim=-1) / (std.pow(3) + 1e-6)
    quarter = density.shape[-1] // 4
    centre = density[..., quarter : density.shape[-1] - quarter, quarter : density.shape[-1] - quarter]
    return torch.cat([mean, std, pairs, skew, *_texture(density), centre.mean(dim=(-2, -1))], dim=-1)


def _texture(density: Tensor) -> list[Tensor]:
    """Log mean gradient of each channel at full size and after each halving, ``(b, s, 3)`` each."""
    textures = []
    for _ in range(_OCTAVES):
        if density.shape[-1] > 1:
            gradient = (_mean_difference(density, -1) + _mean_difference(density, -2)) / 2
            density = _downsample(density)
        else:
            gradient = torch.zeros(density.shape[:3], device=density.device)
        textures.append((gradient + 1e-3).log())
    return textures


def _mean_difference(density: Tensor, axis: int) -> Tensor:
    """Mean absolute difference of neighbours along one axis, ``(b, s, 3)``."""
    return density.diff(dim=axis).abs_().mean(dim=(-2, -1))


def _downsample(density: Tensor) -> Tensor:
    """Means of two by two pixels without an odd last row and column; rows first, where memory is contiguous."""
    even = density.shape[-1] // 2 * 2
    rows = density[..., :even:2, :even] + density[..., 1:even:2, :even]
    return (rows[..., ::2] + rows[..., 1::2]) / 4
