"""Coordinates of the spots of a batch: rows of each slide, nearest spots, neighbours on a lattice. Tensors only."""

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
"""Distance of neighbouring spots, that of the first arrays, until the training spots set another."""
_PAIRS = 1 << 22  # distances that are computed at a time
_NEIGHBORS = 8
"""Maximum number of neighbours: on a square lattice with the diagonals; on a hexagonal one there are six."""


def rows_by_slide(slide: Tensor) -> list[Tensor]:
    """Positions in the batch of the spots of each slide, one ``(b_i,)`` for each slide."""
    return [(slide == name).nonzero().squeeze(1) for name in slide.unique()]


def nearest_spots(xy_um: Tensor, slide: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest other spots of the same slide: ``(b, k)`` int64 positions, nearest first, and float32 distances.

    If a slide has fewer other spots, the rest is the position of the spot itself at an infinite distance. Ties are
    broken by coordinates, not by the order in the batch. Distances are computed in blocks of bounded size.
    """
    index = torch.arange(len(slide), device=slide.device)[:, None].repeat(1, k)
    distance = torch.full(index.shape, torch.inf, device=slide.device)
    for unsorted in rows_by_slide(slide):
        rows = unsorted[_order_by_xy(xy_um[unsorted])]
        n = min(k, len(rows) - 1)
        for part in torch.arange(len(rows), device=slide.device).split(max(1, _PAIRS // len(rows))):
            block = _distances(xy_um[rows[part]], xy_um[rows])
            block[part - part[0], part] = torch.inf
            block, order = block.sort(dim=1, stable=True)
            index[rows[part], :n], distance[rows[part], :n] = rows[order[:, :n]], block[:, :n]
    return index, distance


def _distances(xy: Tensor, others: Tensor) -> Tensor:
    """``(n, m)``, from differences: matrix products would round differently in another batch."""
    return torch.cdist(xy.float(), others.float(), compute_mode="donot_use_mm_for_euclid_dist")


def _order_by_xy(xy: Tensor) -> Tensor:
    """The order of points by x, then y."""
    by_y = xy[:, 1].argsort(stable=True)
    return by_y[xy[by_y, 0].argsort(stable=True)]


def lattice_neighbors(xy_um: Tensor, slide: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """Spots within ``reach`` times the spacing: ``(b, 8)`` positions, nearest first, and bool, which are neighbours."""
    index, distance = nearest_spots(xy_um, slide, _NEIGHBORS)
    within = torch.zeros_like(index, dtype=torch.bool)
    for rows in rows_by_slide(slide):
        within[rows] = distance[rows] <= reach * _spacing(distance[rows, 0])
    return index, within & distance.isfinite()


def lattice_positions(xy_um: Tensor) -> Tensor:
    """Column and row of each spot of one slide, ``(n, 2)`` int64 from 0.

    The lattice is square or hexagonal and roughly along the axes. Columns and rows are as wide as the mean step between
    neighbours along that axis; spots that lie on no lattice may share a position.
    """
    index, distance = nearest_spots(xy_um, torch.zeros(len(xy_um), device=xy_um.device), _NEIGHBORS)
    pitch = _spacing(distance[:, 0])
    steps = (xy_um[index] - xy_um[:, None]).abs()  # (n, 8, 2)
    close = (distance <= 1.3 * pitch) & (distance > 0)  # without diagonals
    sizes = []
    for axis in (0, 1):
        along = steps[..., axis][close & (steps[..., axis] >= steps.amax(dim=-1))]
        sizes.append(along.mean() if len(along) else pitch)
    positions = (xy_um - xy_um.amin(dim=0)) / torch.stack(sizes)
    return (positions + 0.25).floor().long()  # every second row of a hexagonal lattice is offset by half a step


def _spacing(distances: Tensor) -> Tensor:
    """Median of ``(n,)`` distances to the nearest spot; 1 if all spots are at one place."""
    distances = distances[distances.isfinite() & (distances > 0)]
    return distances.median() if len(distances) else distances.new_ones(())


def typical_pitch(spots: SpotBatch) -> float:
    """Median over slides of the distance of neighbouring spots, in µm; `PITCH_UM` if none has two distinct places."""
    found = [spot_pitch(spots.xy_um[rows].double().cpu().numpy()) for rows in rows_by_slide(spots.slide)]
    return median([each for each in found if each > 0] or [PITCH_UM])


def concatenate_spots(batches: Iterable[SpotBatch]) -> SpotBatch:
    """One batch of all spots without their pixels, which may not fit into memory."""
    bare = [replace(batch, patches=batch.patches[..., :0, :0]) for batch in batches]
    known = [each.name for each in fields(bare[0]) if getattr(bare[0], each.name) is not None]
    return replace(bare[0], **{name: torch.cat([getattr(batch, name) for batch in bare]) for name in known})
