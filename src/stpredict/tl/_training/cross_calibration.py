"""Calibration of prediction intervals at the end of training, on the spots that each member held out (jackknife+)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from ..._train.augment import N_SYMMETRIES
from ..._train.batches import BatchLimit, gather
from ..._train.loop import tta_mean_std
from ..._train.windows import context_batches
from ...pp.targets import nonnegative
from .._predictor.conformal import Calibration, residual_spread
from .._predictor.predictor import target_scale

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ..._train.config import FitConfig
    from ...models import SpotBatch
    from .._predictor.predictor import Member
    from .plan import TrainingPlan

BATCH_SIZE = 256
"""Held-out spots that are gathered at a time."""
NOTE = "the same spots chose the epoch whose weights are kept, so intervals are slightly too narrow"


def cross_calibrate(
    plan: TrainingPlan, members: tuple[Member, ...], spots: SpotBatch, observed: NDArray[np.float32], fabric: Fabric
) -> Calibration | None:
    """Calibrate on residuals of the members at their held-out spots; None where nothing was held out."""
    unscored = np.ones(len(observed), bool)
    n_views = 1 if spots.features is not None or _has_frozen_encoder(members[0], spots, fabric) else N_SYMMETRIES
    groups, parts = np.array([slide.group for slide in plan.slides])[plan.slide_index], []
    for fold, member in zip(plan.folds, members, strict=True):
        rows = np.flatnonzero(fold.held_out & unscored)  # a spot that several members held out counts once
        unscored[rows] = False
        if len(rows):
            mean, std = _mean_and_std(member, spots, torch.from_numpy(rows), plan.config, fabric, n_views)
            parts.append(
                (observed[rows] - nonnegative(mean), residual_spread(std, target_scale(members)), groups[rows])
            )
    if not parts:
        return None
    residuals, spread, group = (np.concatenate(part) for part in zip(*parts, strict=True))
    blocks = any(fold.kind == "block" for fold in plan.folds)
    record = {
        "kind": "held-out blocks" if blocks else "held-out groups",
        "leaks": any(fold.leaks for fold in plan.folds),
        "stain": None,
        "note": NOTE,
    }
    return Calibration.of(residuals, spread, group, n_views=n_views, record=record)


def _has_frozen_encoder(member: Member, spots: SpotBatch, fabric: Fabric) -> bool:
    """Whether a frozen encoder does most of the work: eight views would make it eight times as slow."""
    with torch.inference_mode():
        one = gather(spots, slice(0, 1)).to(fabric.device)
        return member.network.to(fabric.device).eval().encode(one) is not None


def _mean_and_std(
    member: Member, spots: SpotBatch, rows: Tensor, config: FitConfig, fabric: Fabric, n_views: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Prediction and its standard deviation over views, in the order of ``rows``."""
    network, limit = member.network.to(fabric.device), BatchLimit.of(None, fabric.device)
    context = network.config.context
    parts, order = context_batches(spots, rows, context=context, window=config.window, batch_size=BATCH_SIZE)
    found = []
    for part in parts:
        part_limit = BatchLimit(len(part)) if context == "slide" else limit
        found.append(tta_mean_std(network, member.targets.decode, gather(spots, part), fabric, part_limit, n_views))
    network.cpu()
    mean, std = (np.concatenate(values)[order.numpy()] for values in zip(*found, strict=True))
    return mean, std
