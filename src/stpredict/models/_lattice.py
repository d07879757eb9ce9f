"""Spots on the lattice of their slide, from their coordinates alone: neighbours, columns and rows. Tensors only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ._places import nearest_spots, rows_by_slide

if TYPE_CHECKING:
    from torch import Tensor

_AROUND = 8
"""Neighbours that may be a step away: on a square lattice with the diagonals; on a hexagonal one there are six."""


def lattice_neighbors(xy_um: Tensor, slide: Tensor, reach: float) -> tuple[Tensor, Tensor]:
    """The neighbours of every spot, eight at most.

    Parameters
    ----------
    xy_um
        ``(b, 2)`` spot centres.
    slide
        ``(b,)`` slide of each spot.
    reach
        Largest distance, as a multiple of the spacing of the slide's spots.

    Returns
    -------
    ``(b, 8)`` int64 positions in the batch, nearest first, and ``(b, 8)`` bool, which of them are neighbours.
    """
    index, distance = nearest_spots(xy_um, slide, _AROUND)
    known = torch.zeros_like(index, dtype=torch.bool)
    for rows in rows_by_slide(slide):
        known[rows] = distance[rows] <= reach * _spacing(distance[rows, 0])
    return index, known & distance.isfinite()


def lattice_positions(xy_um: Tensor) -> Tensor:
    """Column and row of each spot of one slide; nothing is remembered of other slides.

    Parameters
    ----------
    xy_um
        ``(n, 2)`` spot centres, on a square or hexagonal lattice along the axes, roughly.

    Returns
    -------
    ``(n, 2)`` int64 from 0. Columns and rows are as wide as steps to neighbours along that axis are on average; spots
    that lie on no lattice may share a place.
    """
    index, distance = nearest_spots(xy_um, torch.zeros(len(xy_um), device=xy_um.device), _AROUND)
    pitch = _spacing(distance[:, 0])
    steps = (xy_um[index] - xy_um[:, None]).abs()  # (n, 8, 2)
    close = (distance <= 1.3 * pitch) & (distance > 0)  # without diagonals
    sizes = []
    for axis in (0, 1):
        along = steps[..., axis][close & (steps[..., axis] >= steps.amax(dim=-1))]
        sizes.append(along.mean() if len(along) else pitch)
    places = (xy_um - xy_um.amin(dim=0)) / torch.stack(sizes)
    return (places + 0.25).floor().long()  # a quarter, since every second row of a hexagonal lattice is half a step off


def _spacing(apart: Tensor) -> Tensor:
    """Median distance of the spots of a slide to their nearest, ``(n,)``; 1 where no two lie apart."""
    apart = apart[apart.isfinite() & (apart > 0)]
    return apart.median() if len(apart) else apart.new_ones(())
