"""Pseudo-labels of self-training: predictions of a teacher as targets of its student."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from ..._train.batches import BatchLimit, gather
from ..._train.loop import outputs, spots_per_pass
from ..._train.windows import context_batches

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

    from ..._train.config import FitConfig
    from ...models import SpotBatch
    from .._predictor.predictor import Member


def pseudo_labels(teacher: Member, spots: SpotBatch, rows: Tensor, config: FitConfig, fabric: Fabric) -> Tensor:
    """Outputs of the teacher at ``rows``, in target space, on the CPU."""  # (n, n_outputs)
    network, limit = teacher.network.to(fabric.device), BatchLimit(spots_per_pass(teacher.network, config))
    parts, order = context_batches(
        spots, rows, context=network.config.context, window=config.window, batch_size=config.batch_size
    )
    labels = torch.cat([outputs(network, gather(spots, part), fabric, limit) for part in parts])
    network.cpu()
    return labels[order]
