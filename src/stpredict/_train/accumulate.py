"""One gradient from a batch that may not fit the device: passes over parts of it, added up. Any network, any Fabric."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from .batches import take

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

    from ..models.contract import SpotBatch
    from .augment import Views
    from .batches import BatchLimit


def accumulate(model: Any, batch: SpotBatch, views: Views, limit: BatchLimit, fabric: Fabric) -> float:
    """Add the gradient of the mean loss of a batch to the parameters, in passes of at most ``limit`` spots.

    Where memory runs out the limit is halved and the batch begun again, with the same random numbers. Over several
    devices the limit is what `agree_on_limit` found, since one that begins again would keep the others waiting.

    Parameters
    ----------
    model
        The network, set up by Fabric, its gradients zero.
    batch
        The spots, on the device.
    views
        How each is seen.
    limit
        Spots a pass.
    fabric
        Devices and precision.

    Returns
    -------
    The loss: the mean of those of the parts, weighted by their spots.
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
    """Find out, before training on several devices, how many spots a pass may hold on each of them.

    Parameters
    ----------
    model
        The network, set up by Fabric; its weights stay, its gradients are cleared.
    batch
        As many spots as a step has on this device.
    views
        How each is seen.
    limit
        Lowered to what fits every device.
    fabric
        Devices and precision.
    """
    there, done = batch.to(fabric.device), False
    with torch.random.fork_rng():
        while not done:
            rows = slice(0, limit.size)
            try:
                _backward(model, there, views, rows, fabric, last=False)
                done = True
            except RuntimeError as error:
                if not limit.shrink(len(take(there, rows)), error):
                    raise
            model.zero_grad(set_to_none=True)
        smallest: Any = fabric.all_reduce(torch.tensor(limit.size, device=fabric.device), reduce_op="min")
    limit.size = int(smallest)


def _backward(model: Any, batch: SpotBatch, views: Views, rows: slice, fabric: Fabric, *, last: bool) -> float:
    """The gradient of one part, weighted by its share of the batch; devices exchange gradients at the last only."""
    part = views.of(take(batch, rows), rows, uses_patches_and_features=model.uses_patches_and_features)
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
