"""Errors and warnings about comparing models: folds, entries, folders of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._checks.slides import quote
from ..._checks.training import warn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


def several_slides(n_slides: int) -> None:
    """Refuse to cross-validate on one slide."""
    if n_slides < 2:
        msg = (
            "There is one slide only, so no fold can be held out. Give further slides (a list of objects works); with "
            "one slide, train on a part of its spots: `stp.pp.split(sdata, by='block')`."
        )
        raise ValueError(msg)


def no_leak(shared: Sequence[str], *, one_group: bool, allowed: bool) -> None:
    """Refuse folds in which a group is on both sides."""
    if shared and not allowed:
        why = (
            "All slides are of one group, so folds can only be of sections"
            if one_group
            else "Folds are of sections (`by='section'`)"
        )
        msg = (
            f"{why}, and {quote(shared)} would be both in training and in test: scores would be too high. Give slides "
            "of other groups (`group_key` names them), or pass `allow_leakage=True`: all results are then marked."
        )
        raise ValueError(msg)


def labels(names: Sequence[str]) -> None:
    """Refuse labels that repeat or cannot name a folder."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"Several models are called {quote(twice)}. Give a mapping of labels to `stp.tl.Entry(...)`."
        raise ValueError(msg)
    wrong = [name for name in names if not name or name[0] in "._" or set(name) & set('/\\:*?"<>|')]
    if wrong:
        msg = f"{quote(wrong)} cannot be the name of a folder. Give labels without slashes, not beginning with . or _."
        raise ValueError(msg)


def is_entry(label: str, value: object, kind: type) -> None:
    """Refuse anything but an entry."""
    if not isinstance(value, kind):
        msg = f"{label!r} is {type(value).__name__}; give the name of a model, or `stp.tl.Entry(model=...)`."
        raise TypeError(msg)


def some_seeds(seeds: Sequence[int]) -> None:
    """Refuse an empty list of seeds, and repeated seeds."""
    if not seeds or len(set(seeds)) != len(seeds):
        msg = f"`seeds` is {tuple(seeds)}; give at least one, each once, for instance `(0, 1, 2)`."
        raise ValueError(msg)


def same_target(own: Mapping[str, object], common: Mapping[str, object], protocol: str) -> None:
    """Refuse a target other than that of a protocol."""
    differing = [name for name in own if own[name] != common[name]]
    if differing:
        msg = f"`protocol={protocol!r}` fixes the target, but `target` has another {quote(differing)}. Leave it out."
        raise ValueError(msg)


def same_comparison(differing: Sequence[str], place: Path) -> None:
    """Refuse to mix results of other data or options in one folder."""
    if differing:
        msg = (
            f"'{place}' holds results with other {quote(differing)}. Nothing was overwritten: give another "
            "`save_dir`, or delete that folder."
        )
        raise ValueError(msg)


def same_patches(stored: int, version: int, place: Path) -> None:
    """Refuse to mix results of patches that were cut by another version of the code."""
    if stored != version:
        msg = (
            f"'{place}' was written when patches were cut in another way (version {stored}, now {version}), so its "
            "results cannot be continued. Nothing was overwritten: give another `save_dir`, or delete that folder."
        )
        raise ValueError(msg)


def some_success(failures: Mapping[str, str], n_done: int) -> None:
    """Warn which cells failed; refuse if none is finished."""
    if not failures:
        return
    first = f"{quote(list(failures))}. The first error is {next(iter(failures.values()))!r}"
    if not n_done:
        msg = f"Every cell failed: {first}; the folders hold an `error.json` each."
        raise RuntimeError(msg)
    warn(
        f"{len(failures)} cells failed and are left out: {first}; their folders hold an `error.json`. Call "
        "`stp.tl.benchmark` again to try them again."
    )


def some_finished(busy: Sequence[str], n_done: int) -> None:
    """Warn which cells other processes are running; refuse if none is finished."""
    if not busy:
        return
    what = f"Another process is running {len(busy)} cells of this comparison: {quote(busy)}."
    if not n_done:
        msg = f"{what} None is finished yet; call `stp.tl.benchmark` again when some are."
        raise RuntimeError(msg)
    warn(f"{what} They are left out; call `stp.tl.benchmark` again when it has ended.")


def all_finished(busy: Sequence[str]) -> None:
    """Refuse to return scores of some folds only."""
    if busy:
        msg = (
            f"Another process is running the same cross-validation: {quote(busy)}. Call it again when that process "
            "has ended; its results in `save_dir` are then used."
        )
        raise RuntimeError(msg)
