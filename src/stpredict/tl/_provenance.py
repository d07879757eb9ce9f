"""What is written down about a training: which data and options it had, what it held out, how it went."""

from __future__ import annotations

import hashlib
import platform
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import _keys as keys
from .._train._color import CHANNELS
from ..models import config_to_dict
from ._folder import package_version

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from .._geometry import PatchSpec
    from .._slides import Slide
    from .._train._config import FitConfig
    from .._train._data import Fold
    from ..models import ModelConfig
    from ..pp import TargetSpec
    from ._checkpoint import Checkpoint
    from ._predictor import Predictor


def run_values(
    slides: Sequence[Slide],
    panel: Sequence[str],
    model: str,
    shape: ModelConfig,
    patch: PatchSpec,
    target: TargetSpec,
    config: FitConfig,
    folds: Sequence[Fold],
) -> dict[str, Any]:
    """What decides the outcome of a run, by name: a resumed run must agree in all of it.

    Parameters
    ----------
    slides
        Training slides, without empty spots.
    panel
        Genes.
    model
        Name of the model.
    shape
        Its configuration.
    patch
        Fields of view.
    target
        How counts are normalised.
    config
        How to train.
    folds
        What every member holds out.

    Returns
    -------
    Values that JSON takes.
    """
    placed = {"accelerator", "devices", "num_nodes", "strategy", "precision", "progress"}
    return {
        "slides": {slide.name: _digest(slide) for slide in slides},
        "genes": list(panel),
        "model": model,
        "model_options": config_to_dict(shape),
        "patch": patch.to_dict(),
        "target": target.to_dict(),
        "config": {name: value for name, value in config.to_dict().items() if name not in placed},
        "validation": [hashlib.sha256(np.packbits(f.held).tobytes()).hexdigest()[:16] for f in folds],
    }


def _digest(slide: Slide) -> str:
    """Digest of what a slide contributes, but for its pixels: spots and counts."""
    digest = hashlib.sha256(np.round(slide.xy_um, 3).tobytes())
    if slide.counts is not None:
        digest.update(np.asarray(slide.counts.sum(axis=0), np.float64).tobytes())
        digest.update(np.asarray(slide.counts.sum(axis=1), np.float64).tobytes())
    return digest.hexdigest()[:16]


def provenance(
    slides: Sequence[Slide],
    config: FitConfig,
    folds: Sequence[Fold],
    colors: NDArray[np.float32],
    penalty: float,
    n_at_border: int,
    checkpoint: Checkpoint,
) -> dict[str, Any]:
    """What a predictor remembers of its training.

    Parameters
    ----------
    slides
        Training slides, without empty spots.
    config
        How it was trained.
    folds
        What every member held out.
    colors
        ``(n, d)`` colour statistics of all spots.
    penalty
        Penalty of the ridge on colour.
    n_at_border
        Spots whose windows left their image, or held missing pixels.
    checkpoint
        State of every member at the end.

    Returns
    -------
    Values that JSON takes.
    """
    density = colors[:, -6:-3]  # mean optical density of the widest field of view
    return {
        "slides": {
            slide.name: {
                "group": slide.group,
                "n_spots": len(slide.xy_px),
                "um_per_px": slide.um_per_px,
                "sha256": _digest(slide),
            }
            for slide in slides
        },
        "fit": config.to_dict(),
        "validation": [{"kind": f.kind, "groups": list(f.groups), "leaks": f.leaks} for f in folds],
        "validation_note": _note(folds),
        "best": checkpoint.best(),
        "diameter_um": float(np.median([slide.diameter_um for slide in slides])),
        "color": {
            "channels": list(CHANNELS),
            "mean": density.mean(axis=0).astype(float).tolist(),
            "std": density.std(axis=0).astype(float).tolist(),
        },
        "ridge_penalty": penalty,
        "n_at_border": n_at_border,
        "versions": {
            "stpredict": package_version(),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def _note(folds: Sequence[Fold]) -> str:
    first = folds[0]
    if first.kind == "none":
        return "none: the weights of the last epoch are kept"
    if first.kind == "block":
        return "held-out blocks of slides that are also trained on: scores on new slides will be lower"
    held = "; ".join(", ".join(f.groups) for f in folds)
    leaks = any(f.leaks for f in folds)
    return f"held-out groups ({held})" + (" that are also trained on (leakage was allowed)" if leaks else "")


def record(slides: Sequence[Slide], folder: Path, predictor: Predictor) -> None:
    """Note on every object which predictor it trained, for `predict`.

    Parameters
    ----------
    slides
        Training slides.
    folder
        Where the predictor is.
    predictor
        The predictor.

    Returns
    -------
    Nothing. Writes ``sdata.attrs["stpredict"]["predictor"]``.
    """
    for sdata in {id(slide.source): slide.source for slide in slides}.values():
        note = {"path": str(folder.resolve()), "hash": predictor.hash}
        sdata.attrs[keys.ATTRS] = {**sdata.attrs.get(keys.ATTRS, {}), keys.PREDICTOR: note}
