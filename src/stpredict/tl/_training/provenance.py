"""What is written down about a training: which data and options it had, what it held out, how it went."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ... import _keys as keys
from ..._checks import predictor as check_predictor
from ..._checks import training as check
from ..._train.color import CHANNELS
from ...pp.lattice import infer_lattice
from .._predictor.predictor import Predictor
from .._predictor.serialization import package_version
from .._predictor.stain import training_stain
from .training_plan import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ..._slides import Slide
    from ..._train.data import Fold
    from .checkpoint import Checkpoint
    from .training_plan import Run

MARGIN = 2.0
"""How far the mean colour of a slide may lie beyond those trained on, in standard deviations between spots."""


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
        **_lattice(run.slides),
        "color": _color(density, run.slide_index),
        "stain": training_stain(run.slides),
        "ridge_penalty": penalty,
        "n_at_border": n_at_border,
        "versions": {
            "stpredict": package_version(),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def _lattice(slides: Sequence[Slide]) -> dict[str, Any]:
    """How spots lie: the median pitch of the slides, and the layout of the one with the most spots."""
    found = [infer_lattice(slide.xy_um) for slide in sorted(slides, key=lambda slide: -len(slide.xy_um))]
    pitches = [pitch for pitch, _ in found if pitch]
    return {"pitch_um": float(np.median(pitches)) if pitches else None, "layout": found[0][1]}


def _color(density: NDArray[np.float32], slide: NDArray[np.int64]) -> dict[str, Any]:
    """Mean and spread of the optical density of spots, and the range that the means of slides span."""
    means = np.array([density[slide == i].mean(axis=0) for i in np.unique(slide)])
    figures = {"mean": density.mean(axis=0), "std": density.std(axis=0), "low": means.min(axis=0)}
    figures["high"] = means.max(axis=0)
    return {
        "channels": list(CHANNELS),
        **{name: values.astype(float).tolist() for name, values in figures.items()},
    }


def warn_unseen_color(
    colors: NDArray[np.float32],
    flagged: NDArray[np.bool_],
    provenance: Mapping[str, Any],
    name: str,
    *,
    normalized: bool = False,
) -> None:
    """Warn where the colours of a slide are none that a predictor was trained on.

    Parameters
    ----------
    colors
        ``(n, d)`` colour statistics of the spots of one slide.
    flagged
        ``(n,)`` spots at a border, which count only where all are.
    provenance
        Of the predictor.
    name
        Name of the slide.
    normalized
        Whether its stain was normalised.
    """
    seen = provenance["color"]
    inside = colors if flagged.all() else colors[~flagged]
    values = inside[:, -6:-3].mean(axis=0, dtype=np.float64)
    low, high = (np.asarray(seen.get(side, seen["mean"])) for side in ("low", "high"))
    spread = max(MARGIN, 3 / np.sqrt(len(inside))) * np.asarray(seen["std"])  # the mean of few spots varies more
    far = (values < low - spread) | (values > high + spread)
    check.unseen_color(
        {seen["channels"][i]: (float(values[i]), float(low[i]), float(high[i])) for i in np.flatnonzero(far).tolist()},
        name,
        normalized=normalized,
    )


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


def predictor_of(sdata: SpatialData, given: Predictor | str | PathLike[str] | None) -> Predictor:
    """The predictor that is meant: as given, or what `record` noted.

    Parameters
    ----------
    sdata
        The object.
    given
        A predictor, where one is, or None.

    Returns
    -------
    The predictor.
    """
    if isinstance(given, Predictor):
        return given
    if given is not None:
        return Predictor.load(given)
    recorded = sdata.attrs.get(keys.ATTRS, {}).get(keys.PREDICTOR)
    check_predictor.recorded(found=recorded is not None)
    place = Path(recorded["path"])
    loaded = Predictor.load(place) if place.is_dir() else None
    check_predictor.still_there(place, recorded["hash"], None if loaded is None else loaded.hash)
    return loaded or Predictor.load(place)
