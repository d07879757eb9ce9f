"""Test-time augmentation: mean and standard deviation of a prediction over dihedral views of the patches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from .augment import dihedral
from .loop import outputs

if TYPE_CHECKING:
    from collections.abc import Callable

    from lightning_fabric import Fabric
    from numpy.typing import NDArray

    from ..models.contract import SpotBatch, SpotModel
    from .batches import BatchLimit


def tta_mean_std(
    model: SpotModel,
    decode: Callable[[NDArray[np.float32]], NDArray[np.float32]],  # linear, (n, k) -> (n, g)
    spots: SpotBatch,
    fabric: Fabric,
    limit: BatchLimit,
    n_views: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and standard deviation over ``n_views`` of the eight symmetries; the latter is zero for one view."""
    views = torch.stack(
        [
            outputs(model, replace(spots, patches=dihedral(spots.patches, k)), fabric, limit, symmetries=1)
            for k in range(n_views)
        ]
    )
    mean = decode(views.mean(dim=0).numpy())
    squares = np.zeros_like(mean)
    for view in views if n_views > 1 else ():  # one after the other: all at once would be eight tables
        squares += (decode(view.numpy()) - mean) ** 2
    return mean, np.sqrt(squares / n_views)
