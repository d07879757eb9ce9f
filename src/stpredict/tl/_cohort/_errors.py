"""Errors about the slides and the folder of a cohort."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._checks.slides import listed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from pathlib import Path


def is_list_of_paths(paths: object) -> None:
    """Refuse a single path, and no paths."""
    if isinstance(paths, str) or hasattr(paths, "__fspath__"):
        msg = f"`paths` is the one path {str(paths)!r}. Give a list, or a mapping of names to paths."
        raise TypeError(msg)
    if not paths:
        msg = "`paths` is empty. Give slide files or SpatialData stores."
        raise ValueError(msg)


def unique_names(pairs: Sequence[tuple[str, str | PathLike[str]]]) -> None:
    """Refuse slides that would share a folder, and names that cannot be a folder."""
    names = [name for name, _ in pairs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        paths = [str(path) for name, path in pairs if name == repeated[0]]
        msg = (
            f"Several slides are named {listed(repeated)} (for instance {listed(paths)}). Give a mapping of names to "
            "paths, `{'name': path, …}`."
        )
        raise ValueError(msg)
    wrong = [name for name in names if name in {"", ".", ".."} or "/" in name or "\\" in name]
    if wrong:
        msg = f"{listed(wrong)} cannot be the name of a folder. Give slides names without slashes."
        raise ValueError(msg)


def known_slides(um_per_px: object, names: Sequence[str]) -> None:
    """Refuse resolutions of slides that are not in the cohort."""
    unknown = sorted(set(um_per_px) - set(names)) if hasattr(um_per_px, "keys") else []  # type: ignore[call-overload]
    if unknown:
        msg = f"`um_per_px` names {listed(unknown)}, but the slides are {listed(names)}."
        raise ValueError(msg)


def same_patches(names: Sequence[str], out: Path, found: int, expected: int) -> None:
    """Refuse to mix results of patches that were cut in different ways."""
    if names:
        msg = (
            f"{str(out)!r} holds results for {listed(names)} that were predicted from patches of version {found}, and "
            f"this version of stpredict cuts patches of version {expected}. Give another `out_dir`, or delete these "
            "folders."
        )
        raise ValueError(msg)


def same_settings(names: Sequence[str], out: Path) -> None:
    """Refuse to mix results of several predictors or options in one folder."""
    if names:
        msg = (
            f"{str(out)!r} holds results of another predictor or other settings for {listed(names)}. Give another "
            "`out_dir`, or delete these folders."
        )
        raise ValueError(msg)
