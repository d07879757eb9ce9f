"""Windows of neighbouring spots on one slide, for models that use the context of a spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ..models.contract import SpotBatch


def windows(xy_um: Tensor, slide: Tensor, max_spots: int) -> list[Tensor]:
    """Positions of the spots of each window: slides are halved across their longer side until each part is small."""
    xy, slides = xy_um.numpy(), slide.numpy()
    found: list[NDArray[np.intp]] = []
    for name in np.unique(slides):
        found += _bisect(xy, np.flatnonzero(slides == name), max_spots)
    return [torch.from_numpy(rows) for rows in found]


def _bisect(xy: NDArray[np.float32], rows: NDArray[np.intp], max_spots: int) -> list[NDArray[np.intp]]:
    if len(rows) <= max_spots:
        return [rows]
    order = rows[np.argsort(xy[rows, np.ptp(xy[rows], axis=0).argmax()], kind="stable")]
    middle = len(rows) // 2
    return _bisect(xy, np.sort(order[:middle]), max_spots) + _bisect(xy, np.sort(order[middle:]), max_spots)


def context_batches(
    spots: SpotBatch, rows: Tensor, *, context: str, window: int, batch_size: int
) -> tuple[list[Tensor], Tensor]:
    """Batches of ``rows`` as a network takes them, windows or single spots, and the order that undoes the grouping."""
    if context == "slide":
        parts = windows(spots.xy_um[rows], spots.slide[rows], window)
    else:
        parts = list(torch.arange(len(rows)).split(batch_size))
    return [rows[part] for part in parts], torch.cat(parts).argsort()


def nearest_spots_outside(xy_um: NDArray[np.float64], core: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """The ``n`` spots outside ``core`` that are nearest to any spot of it, nearest first."""
    from scipy.spatial import KDTree

    outside = np.setdiff1d(np.arange(len(xy_um)), core)
    if not len(outside):
        return outside
    distance, _ = KDTree(xy_um[core]).query(xy_um[outside])
    return outside[np.argsort(distance, kind="stable")[:n]]
