"""Errors about options: patch geometry, targets, training settings."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING

from .names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def one_of(name: str, value: object, allowed: Collection[str]) -> None:
    """Refuse a value outside a closed set."""
    if value not in allowed:
        msg = f"`{name}` is {value!r}; allowed: {', '.join(map(repr, allowed))}.{did_you_mean([value], allowed)}"
        raise ValueError(msg)


def number(name: str, value: object) -> None:
    """Refuse text and other things in place of a number."""
    if not isinstance(value, Real):
        msg = f"`{name}` is {value!r}; it must be a number."
        raise TypeError(msg)


def in_range(name: str, value: float, low: float, high: float) -> None:
    """Refuse what is no number, or one outside ``[low, high]``."""
    number(name, value)
    if not low <= value <= high:
        msg = f"`{name}` is {value!r}; it must lie between {low} and {high}."
        raise ValueError(msg)


def positive(name: str, value: float) -> None:
    """Refuse what is no number, or not above zero."""
    number(name, value)
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
