"""What a frozen encoder makes of the patches, computed once for all spots before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .._checks import training as check
from .batches import BatchLimit, gather

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

    from ..models.contract import SpotBatch, SpotModel


@torch.no_grad()
def features_of(model: SpotModel, spots: SpotBatch, fabric: Fabric) -> Tensor | None:
    """The features of all spots.

    Parameters
    ----------
    model
        The network; its frozen encoder has its weights.
    spots
        The spots, on the CPU.
    fabric
        Where to compute, and in which precision.

    Returns
    -------
    ``(n, ...)`` on the CPU, as given with the spots or as encoded; None where the model freezes nothing.
    """
    if spots.features is not None:
        return spots.features
    limit, parts, done = BatchLimit.of(None, fabric.device), [], 0
    model.to(fabric.device).eval()
    while done < len(spots):
        some = gather(spots, slice(done, done + limit.size))
        try:
            found = _encoded(model, some, fabric)
        except RuntimeError as error:
            if not limit.shrink(len(some), error):
                raise
            continue
        if found is None:
            break
        parts.append(found.cpu())
        done += len(some)
    model.train()
    return check.finite_features(torch.cat(parts)) if parts else None


def _encoded(model: SpotModel, spots: SpotBatch, fabric: Fabric) -> Tensor | None:
    """Some of them, on the device."""
    with fabric.autocast():
        found = model.encode(spots.to(fabric.device))
    return None if found is None else found.float()
