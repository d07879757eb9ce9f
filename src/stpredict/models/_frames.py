"""Where the neighbours of a spot lie, said so that turning or mirroring the slide changes nothing. Tensors only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from einops import repeat

from ._places import nearest_spots

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Around:
    """The neighbours of each spot."""

    index: Tensor
    """``(b, k + 1)`` their positions, the spot itself first."""
    is_near: Tensor
    """``(b, k + 1)`` which of them there are; the spot itself only where there is no other."""
    frames: Tensor
    """``(b, k + 1, 4, 3)`` where they lie."""

    @classmethod
    def of(cls, xy: Tensor, slide: Tensor, k: int) -> Around:
        """Find them: ``xy`` is ``(b, 2)`` in pitches."""
        index, distance = nearest_spots(xy, slide, k)
        itself = torch.arange(len(xy), device=xy.device)[:, None]
        index, is_near = torch.cat([itself, index], dim=1), distance.isfinite()
        is_near = torch.cat([~is_near.any(dim=1, keepdim=True), is_near], dim=1)
        return cls(index, is_near, in_frames(xy[index] - xy[:, None], is_near))


def in_frames(apart: Tensor, is_near: Tensor) -> Tensor:
    """Where neighbours lie, in the four frames that the principal axes of a neighbourhood allow.

    Turning, mirroring or shifting all spots permutes the frames, and changes nothing else.

    Parameters
    ----------
    apart
        ``(b, k, 2)`` from each spot to its neighbours.
    is_near
        ``(b, k)`` which of them there are.

    Returns
    -------
    ``(b, k, 4, 3)``: along both axes, weighted by how far the axes differ in length (0 where the frame is undefined),
    and the distance.
    """
    here = apart * is_near[..., None]
    mean = here.sum(dim=1, keepdim=True) / is_near.sum(dim=1).clamp(min=1)[:, None, None]
    x, y = ((apart - mean) * is_near[..., None]).unbind(dim=-1)  # (b, k)
    uneven, mixed = (x * x - y * y).sum(dim=1), 2 * (x * y).sum(dim=1)
    angle = torch.atan2(mixed, uneven) / 2
    weight = torch.hypot(uneven, mixed) / (x * x + y * y).sum(dim=1).clamp(min=1e-9)  # (b,)
    cos, sin = (weight * angle.cos())[:, None], (weight * angle.sin())[:, None]
    along, across = here[..., 0] * cos + here[..., 1] * sin, here[..., 1] * cos - here[..., 0] * sin
    distance = repeat(here.norm(dim=-1), "b k -> b k four", four=4)
    signs = apart.new_tensor([[1, 1, -1, -1], [1, -1, 1, -1]])
    return torch.stack([along[..., None] * signs[0], across[..., None] * signs[1], distance], dim=-1)
