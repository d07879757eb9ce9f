"""Errors about options: patch geometry, targets, training settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """Refuse a value outside a closed set."""
    if value not in allowed:
        msg = f"`{name}` is {value!r}; allowed: {', '.join(map(repr, allowed))}."
        raise ValueError(msg)


def in_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside ``[low, high]``."""
    if not low <= value <= high:
        msg = f"`{name}` is {value!r}; it must lie between {low} and {high}."
        raise ValueError(msg)


def patch_spec(fov_um: Sequence[float], size_px: int, fill: str) -> None:
    """Refuse fields of view that are empty, not positive or not ascending, and sizes that are no size."""
    if not fov_um or min(fov_um) <= 0 or list(fov_um) != sorted(set(fov_um)):
        msg = f"`fov_um` is {tuple(fov_um)}; give at least one side in µm, all positive, narrowest first, each once."
        raise ValueError(msg)
    if size_px < 8:
        msg = f"`size_px` is {size_px}; a patch needs at least 8 px a side (224 is usual)."
        raise ValueError(msg)
    one_of("fill", fill, ("white", "reflect"))
