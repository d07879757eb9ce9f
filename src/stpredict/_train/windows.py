"""Spots that are seen together: neighbourhoods of one slide, for models that look beyond the single spot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ..models.contract import SpotBatch


def windows(xy_um: Tensor, slide: Tensor, most: int) -> list[Tensor]:
    """Cut slides into neighbourhoods: halved across their longer side until none has too many spots.

    Parameters
    ----------
    xy_um
        ``(n, 2)`` spot centres.
    slide
        ``(n,)`` slide of each spot.
    most
        Spots a window, at most.

    Returns
    -------
    Positions of the spots of each window; every spot is in one. A slide of at most ``most`` spots is one window.
    """
    places, names = xy_um.numpy(), slide.numpy()
    found: list[NDArray[np.intp]] = []
    for name in np.unique(names):
        found += _halved(places, np.flatnonzero(names == name), most)
    return [torch.from_numpy(rows) for rows in found]


def _halved(xy: NDArray[np.float32], rows: NDArray[np.intp], most: int) -> list[NDArray[np.intp]]:
    if len(rows) <= most:
        return [rows]
    order = rows[np.argsort(xy[rows, np.ptp(xy[rows], axis=0).argmax()], kind="stable")]
    middle = len(rows) // 2
    return _halved(xy, np.sort(order[:middle]), most) + _halved(xy, np.sort(order[middle:]), most)


def context_batches(
    spots: SpotBatch, rows: Tensor, *, context: str, window: int, batch_size: int
) -> tuple[list[Tensor], Tensor]:
    """Some spots as a network is shown them: neighbourhoods of their slides, or one batch after the other.

    Parameters
    ----------
    spots
        These spots and others.
    rows
        ``(n,)`` positions of these.
    context
        ``"spot"`` or ``"slide"``, as the configuration of the network says.
    window
        Spots of a slide that are seen together, at most.
    batch_size
        Spots of a batch where each is seen alone.

    Returns
    -------
    Positions of the spots of each part, and the order that puts what is found for all parts back to that of ``rows``.
    """
    if context == "slide":
        parts = windows(spots.xy_um[rows], spots.slide[rows], window)
    else:
        parts = list(torch.arange(len(rows)).split(batch_size))
    return [rows[part] for part in parts], torch.cat(parts).argsort()


def nearest_spots_outside(xy_um: NDArray[np.float64], core: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """The spots around some others.

    Parameters
    ----------
    xy_um
        ``(m, 2)`` all spots of a slide.
    core
        Positions of those that are surrounded.
    n
        How many more, at most.

    Returns
    -------
    Positions of the spots outside ``core`` that are nearest to any of it, nearest first.
    """
    from scipy.spatial import KDTree

    outside = np.setdiff1d(np.arange(len(xy_um)), core)
    if not len(outside):
        return outside
    distance, _ = KDTree(xy_um[core]).query(xy_um[outside])
    return outside[np.argsort(distance, kind="stable")[:n]]
