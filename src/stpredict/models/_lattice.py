"""Spots on the lattice of their slide, from coordinates alone: neighbours, columns and rows. Tensors only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ._places import nearest_spots, rows_by_slide

if TYPE_CHECKING:
    from torch import Tensor

_NEIGHBORS = 8
"""Maximum number of neighbours: on a square lattice with the diagonals; on a hexagonal one there are six."""


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
