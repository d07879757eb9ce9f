"""Features of a frozen encoder, computed once for all spots before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from . import _errors
from .batches import BatchLimit, gather

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

    from ..models.contract import SpotBatch, SpotModel


@torch.no_grad()
def encoder_features(model: SpotModel, spots: SpotBatch, fabric: Fabric) -> Tensor | None:
    """Features given with the spots, or else of the model's frozen encoder; None if the model has none."""  # (n, ...)
    if spots.features is not None:
        return spots.features
    limit, parts, done = BatchLimit.of(None, fabric.device), [], 0
    model.to(fabric.device).eval()
    while done < len(spots):
        batch = gather(spots, slice(done, done + limit.size))
        try:
            with fabric.autocast():
                found = model.encode(batch.to(fabric.device))
            found = None if found is None else found.float()
        except RuntimeError as error:
            if not limit.shrink(len(batch), error):
                raise
            continue
        if found is None:
            break
        parts.append(found.cpu())
        done += len(batch)
    model.train()
    if not parts:
        return None
    features = torch.cat(parts)
    _errors.check_finite_features(finite=bool(features.isfinite().all()))
    return features
