"""Random views of a batch, on the batch's device: one geometry and one stain a spot, the same at all its scales.

Tensors only. What is random is drawn from the generator given.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.contract import SpotBatch
    from .config import FitConfig

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """A random view for each of some spots; None where nothing is changed."""

    symmetry: Tensor | None
    """``(b,)`` numbers 0 to 7."""
    gain: Tensor | None
    """``(b, 3)``."""
    shift: Tensor | None
    """``(b, 3)``."""

    @classmethod
    def draw(cls, n: int, config: FitConfig, generator: torch.Generator) -> Views:
        """Draw views.

        Parameters
        ----------
        n
            For how many spots.
        config
            Which augmentations, and how strong.
        generator
            Source of randomness, on the CPU, so that every device sees the same views.

        Returns
        -------
        The views.
        """
        symmetry = torch.randint(N_SYMMETRIES, (n,), generator=generator) if config.flips else None
        if not (config.stain_jitter or config.brightness_jitter):
            return cls(symmetry=symmetry, gain=None, shift=None)
        gain = 1 + config.stain_jitter * torch.randn(n, 3, generator=generator)
        shift = config.brightness_jitter * torch.randn(n, 3, generator=generator)
        return cls(symmetry=symmetry, gain=gain, shift=shift)

    def of(self, batch: SpotBatch, rows: slice = slice(None), *, uses_patches_and_features: bool = False) -> SpotBatch:
        """The spots as they are seen.

        Parameters
        ----------
        batch
            Some spots.
        rows
            Which of the views are theirs; by default all.
        uses_patches_and_features
            Whether patches are looked at where there are features.

        Returns
        -------
        A batch with new patches; everything else is shared. Spots with features stay as they are, if nobody looks at
        their patches.
        """
        if batch.features is not None and not uses_patches_and_features:
            return batch
        patches = batch.patches
        if self.symmetry is not None:
            patches = dihedral(patches, self.symmetry[rows].to(patches.device))
        if self.gain is not None and self.shift is not None:
            patches = stain(patches, self.gain[rows].to(patches.device), self.shift[rows].to(patches.device))
        return replace(batch, patches=patches)
