"""Warnings at the line of the user's code; slides that differ from the training slides of a predictor."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def warn(message: str) -> None:
    """Warn at the line of the user's own code that a result is unusual but usable."""
    warnings.warn(message, UserWarning, skip_file_prefixes=(__file__.rsplit("_checks", 1)[0],))


def seen_resolution(um_per_px: float, seen: Sequence[float], name: str) -> None:
    """Warn about a slide that is much coarser or finer than all training slides."""
    low, high = min(seen), max(seen)
    if not low / 1.5 <= um_per_px <= high * 1.5:
        warn(
            f"Slide {name!r} has {um_per_px:.3g} µm per pixel; the predictor was trained on {low:.3g} to {high:.3g}. "
            "Fields of view are matched in µm, but detail is not: do not trust this prediction without a check."
        )


def unseen_color(far: Mapping[str, tuple[float, float, float]], name: str, *, normalized: bool) -> None:
    """Warn about colour channels whose mean optical density lies outside the training range: value, low, high."""
    if far:
        shown = ", ".join(
            f"{channel} {value:.3f} (trained on {low:.3f} to {high:.3f})" for channel, (value, low, high) in far.items()
        )
        advice = (
            "Its stain was normalised already"
            if normalized
            else "Its stain or scanner differs: predict with `stain='reinhard'`, which gives it the colours trained on"
        )
        warn(
            f"The colours of slide {name!r} lie outside the training range: mean optical density {shown}. {advice}; "
            "check the prediction."
        )
