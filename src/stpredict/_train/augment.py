"""Random augmentation of a batch on its device: one symmetry and one stain per spot, the same at all scales."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.contract import SpotBatch
    from .config import FitConfig

N_SYMMETRIES = 8
"""Symmetries of the square (the dihedral group of order 8)."""


def dihedral(patches: Tensor, symmetry: Tensor | int) -> Tensor:
    """Apply symmetries 0 to 7, one for all or one per spot: bit 0 mirrors x, bit 1 mirrors y, bit 2 transposes."""
    if isinstance(symmetry, int):
        if symmetry & 4:
            patches = patches.transpose(-1, -2)
        mirrored = [axis for bit, axis in ((1, -1), (2, -2)) if symmetry & bit]
        return patches.flip(mirrored) if mirrored else patches
    out = torch.empty_like(patches)
    for k in range(N_SYMMETRIES):
        chosen = (symmetry == k).nonzero().squeeze(1)
        if len(chosen):
            out[chosen] = dihedral(patches[chosen], k)
    return out


def jitter_stain(patches: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    """Scale and shift the optical density of every colour channel: ``d = -ln(pixel)`` becomes ``gain * d + shift``."""
    unit = patches.float() / 255 if not patches.is_floating_point() else patches.float()  # (b, s, 3, p, p) in [0, 1]
    gain, shift = gain[:, None, :, None, None], shift[:, None, :, None, None]
    return (unit.clamp_min(1 / 255).log_().mul_(gain).sub_(shift)).exp_().clamp_(0, 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """A random view of each spot of a batch; None where nothing is changed."""

    symmetry: Tensor | None
    """``(b,)`` numbers 0 to 7."""
    gain: Tensor | None
    """``(b, 3)``."""
    shift: Tensor | None
    """``(b, 3)``."""

    @classmethod
    def draw(cls, n: int, config: FitConfig, generator: torch.Generator) -> Views:
        """Draw views for ``n`` spots on the CPU, so that every device sees the same views."""
        symmetry = torch.randint(N_SYMMETRIES, (n,), generator=generator) if config.flips else None
        if not (config.stain_jitter or config.brightness_jitter):
            return cls(symmetry=symmetry, gain=None, shift=None)
        gain = 1 + config.stain_jitter * torch.randn(n, 3, generator=generator)
        shift = config.brightness_jitter * torch.randn(n, 3, generator=generator)
        return cls(symmetry=symmetry, gain=gain, shift=shift)

    def of(self, batch: SpotBatch, rows: slice = slice(None), *, uses_patches_and_features: bool = False) -> SpotBatch:
        """The batch with augmented patches; unchanged if the model reads features in place of the patches."""
        if batch.features is not None and not uses_patches_and_features:
            return batch
        patches = batch.patches
        if self.symmetry is not None:
            patches = dihedral(patches, self.symmetry[rows].to(patches.device))
        if self.gain is not None and self.shift is not None:
            patches = jitter_stain(patches, self.gain[rows].to(patches.device), self.shift[rows].to(patches.device))
        return replace(batch, patches=patches)
