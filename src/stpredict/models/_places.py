"""Spots of a batch as places: slides apart, nearest spots, the distance between neighbours. Tensors only."""

from __future__ import annotations

from dataclasses import fields, replace
from statistics import median
from typing import TYPE_CHECKING

import torch

from .._geometry import spot_pitch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from .contract import SpotBatch

PITCH_UM = 200.0
"""Distance of neighbouring spots where no training spots have said another: that of the first arrays."""
_PAIRS = 1 << 22  # distances that are held at a time


def rows_by_slide(slide: Tensor) -> list[Tensor]:
    """Positions of the spots of each slide.

    Parameters
    ----------
    slide
        ``(b,)`` slide of each spot.

    Returns
    -------
    One ``(b_i,)`` for each slide; together every position once.
    """
    return [(slide == name).nonzero().squeeze(1) for name in slide.unique()]


def nearest_spots(xy_um: Tensor, slide: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The nearest other spots of the same slide; never all distances at once.

    Which of several equally distant spots is taken depends on where they lie, not on their order in the batch.

    Parameters
    ----------
    xy_um
        ``(b, 2)`` spot centres.
    slide
        ``(b,)`` slide of each spot.
    k
        How many.

    Returns
    -------
    ``(b, k)`` int64 positions in the batch, nearest first, and ``(b, k)`` float32 distances. Where a slide has fewer
    other spots: the position of the spot itself, at an infinite distance.
    """
    index = torch.arange(len(slide), device=slide.device)[:, None].repeat(1, k)
    distance = torch.full(index.shape, torch.inf, device=slide.device)
    for some in rows_by_slide(slide):
        rows = some[_by_place(xy_um[some])]
        few = min(k, len(rows) - 1)
        for part in torch.arange(len(rows), device=slide.device).split(max(1, _PAIRS // len(rows))):
            apart = _distances(xy_um[rows[part]], xy_um[rows])
            apart[part - part[0], part] = torch.inf
            apart, order = apart.sort(dim=1, stable=True)
            index[rows[part], :few], distance[rows[part], :few] = rows[order[:, :few]], apart[:, :few]
    return index, distance


def _distances(xy: Tensor, others: Tensor) -> Tensor:
    """``(n, m)``, by differences: products would round, and the same two spots differ in another batch."""
    return torch.cdist(xy.float(), others.float(), compute_mode="donot_use_mm_for_euclid_dist")


def _by_place(xy: Tensor) -> Tensor:
    """The order of places by x, then y."""
    by_y = xy[:, 1].argsort(stable=True)
    return by_y[xy[by_y, 0].argsort(stable=True)]


def typical_pitch(spots: SpotBatch) -> float:
    """Typical distance from a spot to its nearest neighbour.

    Parameters
    ----------
    spots
        Spots of any number of slides.

    Returns
    -------
    µm: the median over slides; `PITCH_UM` where no slide has two spots at different places.
    """
    found = [spot_pitch(spots.xy_um[rows].double().cpu().numpy()) for rows in rows_by_slide(spots.slide)]
    return median([each for each in found if each > 0] or [PITCH_UM])


def concatenate_spots(pieces: Iterable[SpotBatch]) -> SpotBatch:
    """All that is known of the spots of some pieces but their patches, which may not fit into memory.

    Parameters
    ----------
    pieces
        Some spots at a time, as ``initialize_from`` is given them; iterated once.

    Returns
    -------
    One batch, its patches of no pixels.
    """
    bare = [replace(piece, patches=piece.patches[..., :0, :0]) for piece in pieces]
    known = [each.name for each in fields(bare[0]) if getattr(bare[0], each.name) is not None]
    return replace(bare[0], **{name: torch.cat([getattr(piece, name) for piece in bare]) for name in known})
