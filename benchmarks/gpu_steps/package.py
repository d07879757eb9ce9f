"""Everything private of `stpredict` that the GPU benchmark uses, under names that its steps know.

After a module of the package was moved or renamed, this is the only file to change.
"""

from __future__ import annotations

import numpy as np

from . import stand_ins

REPLACED = stand_ins.install()
"""Packages that are missing here, and what was used in their place."""

# ruff: noqa: E402, F401  (after the stand-ins; for other files)
from stpredict._geometry import PatchSpec
from stpredict._slides.slides import Level, Slide
from stpredict._train.batches import BatchLimit, to_device
from stpredict._train.batches import device_batches as send_batches
from stpredict._train.color import apply_ridge, color_statistics
from stpredict._train.config import FitConfig
from stpredict._train.data import read_pieces, read_spots
from stpredict._train.device import default_precision, make_fabric
from stpredict.models.macs import macs
from stpredict.pp.targets import TargetSpec
from stpredict.tl import PredictOptions
from stpredict.tl._inference.partitions import predict_positions as predict_planned
from stpredict.tl._inference.plan import PredictionPlan
from stpredict.tl._training.plan import plan_training
from stpredict.tl._training.train_members import train_members as train_planned


def predict_slide(slide, predictor):
    """The prediction of all spots of a slide, ``(n, g)``, in the order of reading."""
    plan = PredictionPlan.of([slide], predictor, PredictOptions())
    return np.concatenate([part["X"] for part in predict_planned(plan, predictor, 0, len(plan.order))])


def spot_share(predictor):
    """Spot diameter as a share of the narrowest field of view."""
    return predictor.provenance.diameter_um / predictor.patch.fov_um[0]


def start_limit(fabric):
    """The batch size that prediction begins with on a device, to be halved where memory runs out."""
    return BatchLimit.of(None, fabric.device)
