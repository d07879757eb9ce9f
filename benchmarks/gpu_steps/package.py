"""All private parts of `stpredict` that the GPU benchmark uses.

If a module of the package is moved or renamed, only this file has to change.
"""

from __future__ import annotations

import numpy as np

from . import stand_ins

REPLACED = stand_ins.install()
"""Missing packages and what replaces them."""

# ruff: noqa: E402, F401  (after installing the stand-ins; imported by other files)
from stpredict._geometry import PatchSpec
from stpredict._slides.slides import Level, Slide
from stpredict._train.batches import BatchLimit, device_batches, to_device
from stpredict._train.color import apply_ridge, color_statistics
from stpredict._train.config import FitConfig
from stpredict._train.data import read_pieces, read_spots
from stpredict._train.device import default_precision, make_fabric
from stpredict.models.macs import macs
from stpredict.pp.targets import TargetSpec
from stpredict.tl import PredictOptions
from stpredict.tl._inference.partitions import predict_positions
from stpredict.tl._inference.plan import PredictionPlan
from stpredict.tl._training.plan import plan_training
from stpredict.tl._training.train_members import train_members


def predict_slide(slide, predictor):
    """Predicted expression of all spots of a slide, ``(n, g)``, in reading order."""
    plan = PredictionPlan.of([slide], predictor, PredictOptions())
    return np.concatenate([part["X"] for part in predict_positions(plan, predictor, 0, len(plan.order))])


def spot_share(predictor):
    """Spot diameter relative to the narrowest field of view."""
    return predictor.provenance.diameter_um / predictor.patch.fov_um[0]


def start_limit(fabric):
    """The initial batch size of prediction on a device, which is halved if memory runs out."""
    return BatchLimit.of(None, fabric.device)
