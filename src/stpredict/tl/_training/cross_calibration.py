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
from .._predictor.conformal import Calibration, residual_spread, std_over_models, weighted_mean
from .._predictor.member import target_scale

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ..._train.config import FitConfig
    from ...models import SpotBatch
    from .._predictor.member import Member
    from .plan import ModelPlan, TrainingPlan

BATCH_SIZE = 256
"""Held-out spots that are gathered at a time."""
NOTE = "the same spots chose the epoch whose weights are kept, so intervals are slightly too narrow"


def cross_calibrate(
    plan: TrainingPlan,
    members: Sequence[Sequence[Member]],
    spots: Sequence[SpotBatch],
    observed: NDArray[np.float32],
    fabric: Fabric,
) -> Calibration | None:
    """Calibrate on residuals at spots that every model held out; None where there are none.

    ``members`` are those of each model, ``spots`` the spots as each model sees them.
    """
    held_out = [np.logical_or.reduce([fold.held_out for fold in model.folds]) for model in plan.models]
    scored = np.logical_and.reduce(held_out)
    if not scored.any():
        return None
    with_views = [_has_views(some[0], own, fabric) for some, own in zip(members, spots, strict=True)]
    n_views = N_SYMMETRIES if any(with_views) else 1
    found = [
        _held_out_predictions(model, some, own, scored, fabric, n_views)
        for model, some, own in zip(plan.models, members, spots, strict=True)
    ]
    weights = [sum(member.weight for member in some) for some in members]
    means, stds = zip(*found, strict=True)
    mean, std = weighted_mean(means, weights), std_over_models(means, stds, weights)
    scale = target_scale([member for some in members for member in some])
    folds = [fold for model in plan.models for fold in model.folds]
    record = {
        "kind": "held-out blocks" if any(fold.kind == "block" for fold in folds) else "held-out groups",
        "leaks": any(fold.leaks for fold in folds),
        "stain": None,
        "note": NOTE,
    }
    group = np.array([slide.group for slide in plan.slides])[plan.slide_index][scored]
    residuals = observed[scored] - nonnegative(mean.astype(np.float32))
    return Calibration.of(residuals, residual_spread(std, scale), group, n_views=n_views, record=record)


def _held_out_predictions(
    plan: ModelPlan,
    members: Sequence[Member],
    spots: SpotBatch,
    scored: NDArray[np.bool_],
    fabric: Fabric,
    n_views: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Prediction of each scored spot by the first member that held it out, and its standard deviation over views."""
    place, left = np.cumsum(scored) - 1, scored.copy()
    n_genes = len(members[0].targets.genes)
    mean, std = (np.empty((int(scored.sum()), n_genes), np.float32) for _ in range(2))
    for fold, member in zip(plan.folds, members, strict=True):
        rows = np.flatnonzero(fold.held_out & left)
        left[rows] = False
        if len(rows):
            found = mean_and_std(member, spots, torch.from_numpy(rows), plan.config, fabric, n_views)
            mean[place[rows]], std[place[rows]] = found
    return mean, std


def _has_views(member: Member, spots: SpotBatch, fabric: Fabric) -> bool:
    """Whether a member is asked about flips and rotations; embeddings have none, a frozen encoder would be slow."""
    if spots.features is not None:
        return False
    with torch.inference_mode():
        one = gather(spots, slice(0, 1)).to(fabric.device)
        return member.network.to(fabric.device).eval().encode(one) is None


def mean_and_std(
    member: Member, spots: SpotBatch, rows: Tensor, config: FitConfig, fabric: Fabric, n_views: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Prediction and its standard deviation over views, in the order of ``rows``."""
    network = member.on_slides(member.moments(spots, fabric)).to(fabric.device)
    limit, context = BatchLimit.of(None, fabric.device), network.config.context
    parts, order = context_batches(spots, rows, context=context, window=config.window, batch_size=BATCH_SIZE)
    found = []
    for part in parts:
        part_limit = BatchLimit(len(part)) if context == "slide" else limit
        found.append(tta_mean_std(network, member.targets.decode, gather(spots, part), fabric, part_limit, n_views))
    network.cpu()
    mean, std = (np.concatenate(values)[order.numpy()] for values in zip(*found, strict=True))
    return mean, std
