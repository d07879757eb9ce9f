"""Gradient accumulation: one gradient from a batch that may not fit the device at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .batches import gather

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

    from ..models.contract import SpotBatch
    from .augment import Views
    from .batches import BatchLimit


def accumulate(model: Any, batch: SpotBatch, views: Views, limit: BatchLimit, fabric: Fabric) -> float:
    """Add the gradient of the mean loss of a batch, in passes of at most ``limit`` spots; return the loss.

    When memory runs out the limit is halved and the batch starts again with the same random numbers. On several
    devices `agree_on_limit` has set the limit before, since a device that starts again would keep the others waiting.
    """
    state = _random_state(fabric.device)
    while True:
        parts = limit.parts(len(batch))
        try:
            return sum(_backward(model, batch, views, rows, fabric, last=rows is parts[-1]) for rows in parts)
        except RuntimeError as error:
            if fabric.world_size > 1 or not limit.shrink(parts[-1].stop - parts[-1].start, error):
                raise
        model.zero_grad(set_to_none=True)
        _set_random_state(state, fabric.device)


def agree_on_limit(model: Any, batch: SpotBatch, views: Views, limit: BatchLimit, fabric: Fabric) -> None:
    """Lower the limit to what fits every device, by trial passes before training; weights are unchanged."""
    on_device, done = batch.to(fabric.device), False
    with torch.random.fork_rng():
        while not done:
            rows = slice(0, limit.size)
            try:
                _backward(model, on_device, views, rows, fabric, last=False)
                done = True
            except RuntimeError as error:
                if not limit.shrink(len(gather(on_device, rows)), error):
                    raise
            model.zero_grad(set_to_none=True)
        smallest: Any = fabric.all_reduce(torch.tensor(limit.size, device=fabric.device), reduce_op="min")
    limit.size = int(smallest)


def _backward(model: Any, batch: SpotBatch, views: Views, rows: slice, fabric: Fabric, *, last: bool) -> float:
    """Gradient of one part, weighted by its share of the batch; devices exchange gradients after the last part."""
    part = views.of(gather(batch, rows), rows, uses_patches_and_features=model.uses_patches_and_features)
    with fabric.no_backward_sync(model, enabled=not last):
        with fabric.autocast():
            loss = model.loss(part) * (len(part) / len(batch))
        fabric.backward(loss)
    return float(loss.detach())


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
