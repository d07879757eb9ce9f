"""What is written down about a training: which data and options it had, what it held out, how it went."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING, Any

import torch

from .. import _keys as keys
from .._train._color import CHANNELS
from ._folder import package_version
from ._run import digest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from .._slides import Slide
    from .._train._data import Fold
    from ._checkpoint import Checkpoint
    from ._predictor import Predictor
    from ._run import Run


def provenance(
    run: Run, colors: NDArray[np.float32], penalty: float, n_at_border: int, checkpoint: Checkpoint
) -> dict[str, Any]:
    """What a predictor remembers of its training.

    Parameters
    ----------
    run
        What the training was given.
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
                "sha256": digest(slide),
            }
            for slide in run.slides
        },
        "fit": run.config.to_dict(),
        "validation": [{"kind": f.kind, "groups": list(f.groups), "leaks": f.leaks} for f in run.folds],
        "validation_note": _note(run.folds),
        "best": checkpoint.best(),
        "diameter_um": run.diameter_um,
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
