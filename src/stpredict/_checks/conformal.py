"""Errors and warnings about intervals, and about the slides they are calibrated on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .config import in_range, one_of
from .slides import listed
from .training import warn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def enough_scores(n_spots: int, coverage: float) -> None:
    """Refuse a coverage that so few spots cannot promise."""
    if math.ceil((n_spots + 1) * coverage - 1e-9) > n_spots:
        msg = (
            f"`coverage` is {coverage}, but intervals were calibrated on {n_spots} spots (of a group), which promise "
            f"{n_spots / (n_spots + 1):.3f} at most. Ask for less, or calibrate on more spots with `stp.tl.calibrate`."
        )
        raise ValueError(msg)


def uncertainty(kind: str | None, coverage: float) -> None:
    """Refuse intervals of no kind, or that cover nothing or everything."""
    if kind is not None:
        one_of("uncertainty", kind, ("conformal", "conformal_groups"))
    in_range("coverage", coverage, 0.01, 0.999)


def calibrated[T](calibration: T | None) -> T:
    """Refuse intervals of a predictor that was never compared with spots it had not seen."""
    if calibration is None:
        msg = (
            "This predictor was not calibrated: it was trained without validation, or by an older version. Calibrate "
            "it on slides that it was not trained on with `stp.tl.calibrate`, or train it again with groups held out "
            "(`stp.tl.FitConfig(validation='slide', n_members=2)`)."
        )
        raise ValueError(msg)
    return calibration


def calibration_of_others(record: Mapping[str, Any], stain: str | None) -> None:
    """Warn where spots that intervals were calibrated on are not like those that are predicted."""
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


def untrained(seen: Sequence[str], *, allowed: bool) -> None:
    """Refuse to calibrate on what was trained on, or chose the epoch."""
    if seen and not allowed:
        msg = (
            f"The predictor was trained or validated on {listed(seen)}, or on another slide of the same group: its "
            "errors there are too small. Calibrate on other slides (`shapes_key`), name groups with `group_key`, or "
            "accept it with `allow_leakage=True`: the calibration then carries the mark."
        )
        raise ValueError(msg)


def measured(missing: Sequence[str], n_genes: int, name: str) -> None:
    """Refuse to calibrate genes that were not measured."""
    if missing:
        msg = (
            f"Slide {name!r} lacks {len(missing)} of the predictor's {n_genes} genes: {listed(missing)}. Calibrate on "
            "slides that have them all."
        )
        raise ValueError(msg)
