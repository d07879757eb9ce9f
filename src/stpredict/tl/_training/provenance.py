"""The provenance of a predictor, put together at the end of training."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..._train.color import CHANNELS
from ...pp.lattice import infer_lattice
from .._predictor.provenance import Provenance
from .._predictor.serialization import package_version
from .._predictor.stain import training_stain
from .plan import slide_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..._slides.identity import SlideIdentity
    from ..._slides.slides import Slide
    from .._predictor.member import Member
    from .._predictor.provenance import BestEpoch, ColorRange, SlideRecord
    from .plan import ModelPlan, TrainingPlan


def training_provenance(
    plan: TrainingPlan,
    colors: NDArray[np.float32],  # (n, d)
    members: Sequence[Sequence[Member]],
    *,
    ridge_penalty: float,
    n_at_border: int,
    best: Sequence[BestEpoch],
) -> Provenance:
    """What a predictor records about its training."""
    density = colors[:, -6:-3]  # mean optical density of the widest field of view
    folds = [fold for model in plan.models for fold in model.folds]
    return Provenance(
        slides={slide.name: _slide_record(slide, plan.identities.get(slide.name)) for slide in plan.slides},
        selection=plan.selection,
        counts=plan.counts_record.to_json(),
        fit=plan.config.to_dict(),
        validation=[{"kind": f.kind, "groups": list(f.groups), "leaks": f.leaks} for f in folds],
        validation_note=_validation_notes(plan.models),
        best=best,
        diameter_um=plan.diameter_um,
        **_lattice(plan.slides),
        color=color_range(density, plan.slide_index),
        stain=training_stain(plan.slides),
        ridge_penalty=ridge_penalty,
        features=[record.to_json() for record in plan.features],
        n_at_border=n_at_border,
        pretrained=_by_part(members, "pretrained"),
        encoders=_by_part(members, "encoders"),
        ensemble=_ensemble(plan, members),
        self_training=plan.self_training(),
        versions={
            "stpredict": package_version(),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
        },
    )


def _ensemble(plan: TrainingPlan, members: Sequence[Sequence[Member]]) -> dict[str, Any] | None:
    """The models of an ensemble: weight, number of networks and training options; None for a single model."""
    if len(plan.models) == 1:
        return None
    models = {
        model.name: {
            "weight": sum(member.weight for member in some),
            "n_members": len(some),
            "fit": model.config.to_dict(),
        }
        for model, some in zip(plan.models, members, strict=True)
    }
    stacked = None
    if plan.stacking is not None:
        stacked = {"held_out": plan.stacking.kind, "n_folds": len(plan.stacking.held_out)}
    return {"models": models, "weights_from": plan.weights_from, "stacked": stacked}


def _by_part(members: Sequence[Sequence[Member]], entry: str) -> dict[str, Any]:
    """An entry of the first network of each model by part; in an ensemble by model and part."""
    if len(members) == 1:
        return dict(getattr(members[0][0], entry))
    return {f"{some[0].model}.{part}": value for some in members for part, value in getattr(some[0], entry).items()}


def _slide_record(slide: Slide, identity: SlideIdentity | None) -> SlideRecord:
    record: SlideRecord = {
        "group": slide.group,
        "n_spots": len(slide.xy_px),
        "um_per_px": slide.um_per_px,
        "sha256": slide_digest(slide),
    }
    if identity is not None:
        record["identity"] = identity.to_json()
    return record


def _lattice(slides: Sequence[Slide]) -> dict[str, Any]:
    """Median pitch of the spots over the slides, and the layout of the slide with the most spots."""
    found = [infer_lattice(slide.xy_um) for slide in sorted(slides, key=lambda slide: -len(slide.xy_um))]
    pitches = [pitch for pitch, _ in found if pitch]
    return {"pitch_um": float(np.median(pitches)) if pitches else None, "layout": found[0][1]}


def color_range(density: NDArray[np.float32], slide: NDArray[np.int64]) -> ColorRange:
    """Mean and standard deviation of the optical density over spots, and the range of the means of slides."""
    means = np.array([density[slide == i].mean(axis=0) for i in np.unique(slide)])
    return {
        "channels": list(CHANNELS),
        "mean": density.mean(axis=0).astype(float).tolist(),
        "std": density.std(axis=0).astype(float).tolist(),
        "low": means.min(axis=0).astype(float).tolist(),
        "high": means.max(axis=0).astype(float).tolist(),
    }


def _validation_notes(models: Sequence[ModelPlan]) -> str:
    """The note of all models if it is the same, or else one for each."""
    notes = {model.name: _validation_note(model) for model in models}
    if len(set(notes.values())) == 1:
        return next(iter(notes.values()))
    return "; ".join(f"{name}: {note}" for name, note in notes.items())


def _validation_note(model: ModelPlan) -> str:
    folds, first = model.folds, model.folds[0]
    if first.kind == "none":
        return "none: the weights of the last epoch are kept" if model.by_steps else "none: all spots are trained on"
    if first.kind == "block":
        return "held-out blocks of slides that are also trained on: scores on new slides will be lower"
    groups = "; ".join(", ".join(f.groups) for f in folds)
    leaks = any(f.leaks for f in folds)
    return f"held-out groups ({groups})" + (" that are also trained on (leakage was allowed)" if leaks else "")
