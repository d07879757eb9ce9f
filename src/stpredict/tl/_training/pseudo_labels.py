"""Pseudo-labels of self-training: predictions of a teacher as targets of its student."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._train.batches import BatchLimit
from ..._train.loop import outputs_at, spots_per_pass

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch import Tensor

    from ..._train.config import FitConfig
    from ...models import SpotBatch
    from .._predictor.predictor import Member


def pseudo_labels(teacher: Member, spots: SpotBatch, rows: Tensor, config: FitConfig, fabric: Fabric) -> Tensor:
    """Outputs of the teacher at ``rows``, in target space, on the CPU."""  # (n, n_outputs)
    network, limit = teacher.network.to(fabric.device), BatchLimit(spots_per_pass(teacher.network, config))
    labels = outputs_at(network, spots, rows, config, fabric, limit)
    network.cpu()
    return labels
