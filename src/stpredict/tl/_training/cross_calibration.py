"""Calibration of a predictor on the spots that were held out from its members, while their patches are in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..._train.augment import N_SYMMETRIES
from ..._train.batches import BatchLimit, take
from ..._train.view_spread import with_spread
from ..._train.windows import seen_together
from .._predictor.conformal import Calibration, residual_spread
from .._predictor.predictor import target_scale

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ..._train.config import FitConfig
    from ...models import SpotBatch
    from .._predictor.predictor import Member
    from .training_plan import Run

SPOTS_PER_BATCH = 256
"""Held-out spots that are predicted together."""
NOTE = "the same spots chose the epoch whose weights are kept, so intervals are slightly too narrow"


def cross_calibrate(
    run: Run, members: tuple[Member, ...], spots: SpotBatch, values: NDArray[np.float32], fabric: Fabric
) -> Calibration | None:
    """What members are wrong by on the spots that were held out from them, while patches are at hand.

    Parameters
    ----------
    run
        The training.
    members
        Its members.
    spots
        All spots, as they were read.
    values
        ``(n, g)`` normalised expression.
    fabric
        Where to compute.

    Returns
    -------
    The calibration; None where nothing was held out.
    """
    left = np.ones(len(values), bool)
    n_views = 1 if spots.features is not None or _freezes(members[0], spots, fabric) else N_SYMMETRIES
    names, parts = np.array([slide.group for slide in run.slides])[run.slide_index], []
    for fold, member in zip(run.folds, members, strict=True):
        rows = np.flatnonzero(fold.held & left)  # a spot that several members left out counts once
        left[rows] = False
        if len(rows):
            mean, spread = _held(member, spots, torch.from_numpy(rows), run.config, fabric, n_views)
            parts.append((values[rows] - mean, residual_spread(spread, target_scale(members)), names[rows]))
    if not parts:
        return None
    residuals, spread, group = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Calibration.of(residuals, spread, group, n_views=n_views, record=_record(run))


def _record(run: Run) -> dict[str, Any]:
    blocks = any(fold.kind == "block" for fold in run.folds)
    kind = "held-out blocks" if blocks else "held-out groups"
    return {"kind": kind, "leaks": any(fold.leaks for fold in run.folds), "stain": None, "note": NOTE}


def _freezes(member: Member, spots: SpotBatch, fabric: Fabric) -> bool:
    """Whether a frozen encoder does most of the work, which eight views would make eight times as much."""
    with torch.inference_mode():
        some = take(spots, slice(0, 1)).to(fabric.device)
        return member.network.to(fabric.device).eval().encode(some) is not None


def _held(
    member: Member, spots: SpotBatch, rows: Tensor, config: FitConfig, fabric: Fabric, n_views: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Prediction and its spread over views, some spots or a window at a time, in the order of ``rows``."""
    network, limit = member.network.to(fabric.device), BatchLimit.of(None, fabric.device)
    context = network.config.context
    parts, order = seen_together(spots, rows, context=context, window=config.window, batch_size=SPOTS_PER_BATCH)
    found = []
    for part in parts:
        at_once = BatchLimit(len(part)) if context == "slide" else limit
        found.append(with_spread(network, member.targets.decode, take(spots, part), fabric, at_once, n_views))
    network.cpu()
    mean, spread = (np.concatenate(values)[order.numpy()] for values in zip(*found, strict=True))
    return mean, spread
