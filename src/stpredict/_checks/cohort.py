"""Errors about many slides that are predicted together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .slides import listed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from pathlib import Path


def some_paths(paths: object) -> None:
    """Refuse one path where several are meant, and none."""
    if isinstance(paths, str) or hasattr(paths, "__fspath__"):
        msg = f"`paths` is the one path {str(paths)!r}. Give a list, or a mapping of names to paths."
        raise TypeError(msg)
    if not paths:
        msg = "`paths` is empty. Give slide files or SpatialData stores."
        raise ValueError(msg)


def names(pairs: Sequence[tuple[str, str | PathLike[str]]]) -> None:
    """Refuse slides that would share a folder, and names that are no folder."""
    found = [name for name, _ in pairs]
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        paths = [str(path) for name, path in pairs if name == twice[0]]
        msg = (
            f"Several slides are named {listed(twice)} (for instance {listed(paths)}). Give a mapping of names to "
            "paths, `{'name': path, …}`."
        )
        raise ValueError(msg)
    wrong = [name for name in found if name in {"", ".", ".."} or "/" in name or "\\" in name]
    if wrong:
        msg = f"{listed(wrong)} cannot be the name of a folder. Give slides names without slashes."
        raise ValueError(msg)


def resolutions_of(given: object, known: Sequence[str]) -> None:
    """Refuse resolutions of slides that are not there."""
    unknown = sorted(set(given) - set(known)) if hasattr(given, "keys") else []  # type: ignore[call-overload]
    if unknown:
        msg = f"`um_per_px` names {listed(unknown)}, but the slides are {listed(known)}."
        raise ValueError(msg)


def same_settings(others: Sequence[str], out: Path) -> None:
    """Refuse to mix results of several predictors in one folder."""
    if others:
        msg = (
            f"{str(out)!r} holds results of another predictor or other settings for {listed(others)}. Give another "
            "`out_dir`, or delete these folders."
        )
        raise ValueError(msg)


def there(path: Path) -> None:
    """Refuse a slide that is not there."""
    if not path.exists():
        msg = f"No slide at {str(path)!r}."
        raise FileNotFoundError(msg)
