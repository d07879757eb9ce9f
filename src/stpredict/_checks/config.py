"""Errors about options: patch geometry, targets, training settings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """Refuse a value outside a closed set."""
    if value not in allowed:
        msg = f"`{name}` is {value!r}; allowed: {', '.join(map(repr, allowed))}.{did_you_mean([value], allowed)}"
        raise ValueError(msg)


def in_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside ``[low, high]``."""
    if not low <= value <= high:
        msg = f"`{name}` is {value!r}; it must lie between {low} and {high}."
        raise ValueError(msg)


def positive(name: str, value: float) -> None:
    """Refuse a number that is not above zero."""
    if not value > 0:
        msg = f"`{name}` is {value!r}; it must be above 0."
        raise ValueError(msg)


def length(name: str, value: float | None) -> None:
    """Refuse a length that is not a finite number above zero; None is no length."""
    if value is not None and not 0 < value < float("inf"):
        msg = f"`{name}` is {value!r}; it must be a finite length in µm above 0."
        raise ValueError(msg)


def known_fields(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    """Refuse options that do not exist, or are set elsewhere."""
    unknown = [name for name in given if name not in known]
    if unknown:
        msg = (
            f"{what} has no {', '.join(map(repr, unknown))} here; there are: {', '.join(sorted(known))}."
            f"{did_you_mean(unknown, known)}"
        )
        raise ValueError(msg)
