"""How far the views of a patch disagree: a prediction and its spread over flips and turns."""

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
    decode: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    spots: SpotBatch,
    fabric: Fabric,
    limit: BatchLimit,
    n_views: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Predict some spots in several views.

    Parameters
    ----------
    model
        The network.
    decode
        From network outputs ``(n, k)`` to expression ``(n, g)``; linear.
    spots
        The spots, on any device.
    fabric
        Where to compute, and in which precision.
    limit
        Spots a forward pass.
    n_views
        How many of the eight views of the square.

    Returns
    -------
    Mean and standard deviation over the views, ``(n, g)`` float32 each; the latter is zero for a single view.
    """
    given = torch.stack(
        [
            outputs(model, replace(spots, patches=dihedral(spots.patches, k)), fabric, limit, symmetries=1)
            for k in range(n_views)
        ]
    )
    mean = decode(given.mean(dim=0).numpy())
    squares = np.zeros_like(mean)
    for view in given if n_views > 1 else ():  # one after the other: all at once would be eight tables
        squares += (decode(view.numpy()) - mean) ** 2
    return mean, np.sqrt(squares / n_views)
