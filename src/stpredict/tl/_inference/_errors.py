"""Errors and warnings about calibrations, stores that cannot be resumed, and elements that are not overwritten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ... import _keys as keys
from ..._checks.slides import quote
from ..._checks.training import warn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from .._predictor.conformal import Calibration
    from .._predictor.predictor import Predictor


def warn_other_calibration(calibration: Calibration, stain: str | None) -> None:
    """Warn if the spots of the calibration differ from those to predict."""
    record = calibration.record
    if record["leaks"]:
        warn(
            f"Intervals were calibrated on {record['kind']} of slides that were also trained on: on new slides they "
            "will cover less than they say. Calibrate on others with `stp.tl.calibrate`."
        )
    if record["stain"] != stain:
        warn(
            f"Intervals were calibrated with `stain={record['stain']!r}`, and `stain` is {stain!r}. Calibrate with the "
            "same by `stp.tl.calibrate`."
        )


def check_resumable(path: Path, attrs: Mapping[str, Any], fingerprint: str, patch_version: int) -> None:
    """Refuse to write into a folder that was not begun for this prediction."""
    if "fingerprint" not in attrs:
        msg = f"{str(path)!r} exists and was not written by `stp.tl.predict`, so it is kept. Give another `store`."
        raise FileExistsError(msg)
    if (found := attrs.get(keys.PATCH_VERSION, 1)) != patch_version:
        msg = (
            f"{str(path)!r} was predicted from patches of version {found}, and this version of stpredict cuts patches "
            f"of version {patch_version}, so it cannot be resumed. Delete it or give another `store`."
        )
        raise FileExistsError(msg)
    if attrs["fingerprint"] != fingerprint:
        msg = (
            f"{str(path)!r} holds a prediction of other spots, or by another predictor or version of stpredict, or "
            "with other options, so it cannot be resumed. Delete it or give another `store`."
        )
        raise FileExistsError(msg)


def check_overwritable(argument: str, name: str, kept: Sequence[str]) -> None:
    """Refuse to overwrite an element or layer that is not a prediction."""
    if name in kept:
        msg = (
            f"`{argument}` is {name!r}, which exists and was not written by `stp.tl.predict`, so it is not overwritten "
            f"(kept are: {quote(kept)}). Give another name; `layer='X'` overwrites X."
        )
        raise ValueError(msg)


def check_same_prediction(
    key: str, record: Mapping[str, Any], genes: Sequence[str], predictor: Predictor, other: NDArray[np.bool_]
) -> None:
    """Refuse to add slides to predictions of other genes or in other units, of rows that would stay (``other``)."""
    spec = predictor.target
    target = {"target_sum": spec.target_sum, "over": spec.over, "log1p": spec.log1p}
    same = {name: record["target"].get(name) for name in target} == target and set(genes) == set(predictor.genes)
    if other.any() and not same:
        msg = (
            f"{key!r} holds predictions of other slides ({int(other.sum())} spots): {len(genes)} genes in "
            f"{record['units']}; this predictor gives {len(predictor.genes)} genes in {predictor.units}, and they are "
            "not the same. Predict under another name, predict all slides again, or delete what is there."
        )
        raise ValueError(msg)
