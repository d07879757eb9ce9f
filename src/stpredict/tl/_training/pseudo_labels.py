"""What a teacher says of spots that nobody measured. How its students are trained is in `_trained`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..._train.batches import BatchLimit, take
from ..._train.loop import at_once, outputs
from ..._train.windows import seen_together

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

    from ..._train.config import FitConfig
    from ...models import SpotBatch
    from .._predictor.predictor import Member


def taught(teacher: Member, spots: SpotBatch, rows: Tensor, config: FitConfig, fabric: Fabric) -> Tensor:
    """What a network gives for some spots, as targets of another that has the same genes and training spots.

    Parameters
    ----------
    teacher
        The network.
    spots
        These spots and others.
    rows
        ``(n,)`` positions of these.
    config
        How many are looked at together.
    fabric
        Where to compute, and in which precision.

    Returns
    -------
    ``(n, n_outputs)`` float32 in target space, on the CPU.
    """
    network, limit = teacher.network.to(fabric.device), BatchLimit(at_once(teacher.network, config))
    parts, order = seen_together(
        spots, rows, context=network.config.context, window=config.window, batch_size=config.batch_size
    )
    given = torch.cat([outputs(network, take(spots, part), fabric, limit) for part in parts])
    network.cpu()
    return given[order]
