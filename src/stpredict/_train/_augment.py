"""Random views of a batch, on the batch's device: one geometry and one stain a spot, the same at all its scales.

Tensors only. What is random is drawn from the generator given.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ..models._contract import SpotBatch
    from ._config import FitConfig

N_SYMMETRIES = 8


def dihedral(patches: Tensor, symmetry: Tensor | int) -> Tensor:
    """Apply one of the eight symmetries of the square.

    Parameters
    ----------
    patches
        ``(b, ..., p, p)``.
    symmetry
        ``(b,)`` numbers 0 to 7, or one for all: bit 0 mirrors x, bit 1 mirrors y, bit 2 swaps the axes; 0 is identity.

    Returns
    -------
    The same shape.
    """
    if isinstance(symmetry, int):
        if symmetry & 4:
            patches = patches.transpose(-1, -2)
        mirrored = [axis for bit, axis in ((1, -1), (2, -2)) if symmetry & bit]
        return patches.flip(mirrored) if mirrored else patches
    turned = torch.empty_like(patches)
    for k in range(N_SYMMETRIES):
        chosen = (symmetry == k).nonzero().squeeze(1)
        if len(chosen):
            turned[chosen] = dihedral(patches[chosen], k)
    return turned


def stain(patches: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift the optical density of every colour channel of every spot.

    With optical density ``d = -ln(pixel)``, the new pixel is ``exp(-(gain * d + shift))``, kept within [0, 1].

    Parameters
    ----------
    patches
        ``(b, s, 3, p, p)`` uint8, or floating point in [0, 1].
    gain, shift
        ``(b, 3)``.

    Returns
    -------
    The same shape, float32 in [0, 1].
    """
    unit = patches.float() / 255 if not patches.is_floating_point() else patches.float()
    gain, shift = gain[:, None, :, None, None], shift[:, None, :, None, None]
    return (unit.clamp_min(1 / 255).log_().mul_(gain).sub_(shift)).exp_().clamp_(0, 1)


def augment(batch: SpotBatch, config: FitConfig, generator: torch.Generator) -> SpotBatch:
    """A random view of a batch.

    Parameters
    ----------
    batch
        The spots.
    config
        Which augmentations, and how strong.
    generator
        Source of randomness, on the CPU, so that every device sees the same views.

    Returns
    -------
    A batch with new patches; everything else is shared.
    """
    patches, n = batch.patches, len(batch)
    if config.flips:
        patches = dihedral(patches, torch.randint(N_SYMMETRIES, (n,), generator=generator).to(patches.device))
    if config.stain_jitter or config.brightness_jitter:
        gain = 1 + config.stain_jitter * torch.randn(n, 3, generator=generator)
        shift = config.brightness_jitter * torch.randn(n, 3, generator=generator)
        patches = stain(patches, gain.to(patches.device), shift.to(patches.device))
    return replace(batch, patches=patches)
