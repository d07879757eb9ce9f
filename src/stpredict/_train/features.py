"""Features of a frozen encoder, computed once for all spots before training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from . import _errors
from .batches import BatchLimit, map_passes

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

    from ..models.contract import SpotBatch, SpotModel


@torch.no_grad()
def encoder_features(model: SpotModel, spots: SpotBatch, fabric: Fabric) -> Tensor | None:
    """Features given with the spots, or else of the model's frozen encoder; None if the model has none."""  # (n, ...)
    if spots.features is not None:
        return spots.features

    def encode(batch: SpotBatch) -> Tensor | None:
        with fabric.autocast():
            found = model.encode(batch.to(fabric.device))
        return None if found is None else found.float()

    model.to(fabric.device).eval()
    parts = []
    for found in map_passes(encode, spots, BatchLimit.of(None, fabric.device)):
        if found is None:
            break
        parts.append(found.cpu())
    model.train()
    if not parts:
        return None
    features = torch.cat(parts)
    _errors.check_finite_features(finite=bool(features.isfinite().all()))
    return features
