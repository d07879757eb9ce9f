"""Which slides are trained on and which are tested on: whole groups, or single sections.

Nothing here reads pixels or counts.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ... import _keys as keys
from ..._checks import config as check_config
from . import _errors as check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..._slides.slides import Slide

By = Literal["group", "section"]
M2OST_SEED = 1553
"""Seed of the shuffle in the published code of M2OST."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One fold: names of slides."""

    number: int
    """Number of the fold."""
    train: tuple[str, ...]
    """Training slides, including those for early stopping."""
    test: tuple[str, ...]
    """Slides that are held out."""
    validate: tuple[str, ...] | None = None
    """Training slides for early stopping; None: `fit` chooses a group of them; empty: no early stopping."""
    leaks: bool = False
    """Whether a group is on both sides."""


def cross_validation_splits(
    slides: Sequence[Slide], *, by: By, n_folds: int | None, allow_leakage: bool
) -> tuple[Split, ...]:
    """Folds in which every slide is tested once; those with a group on both sides carry the mark."""
    check_config.one_of("by", by, ("group", "section"))
    check.several_slides(len(slides))
    groups = {slide.name: slide.group for slide in slides}
    one_group = len(set(groups.values())) == 1
    unit = {slide.name: slide.group if by == "group" and not one_group else slide.name for slide in slides}
    size = dict.fromkeys(sorted(set(unit.values())), 0)
    for slide in slides:
        size[unit[slide.name]] += len(slide.xy_px)
    if n_folds is not None and not 2 <= n_folds <= len(size):
        msg = f"`n_folds` is {n_folds}; with {len(size)} groups to hold out it must lie between 2 and {len(size)}."
        raise ValueError(msg)
    parts = _balanced_parts(size, n_folds or len(size))
    folds = tuple(
        _split(i, [name for name in groups if unit[name] in part], groups, None) for i, part in enumerate(parts)
    )
    shared = sorted({group for each in folds for group in _shared_groups(each.train, each.test, groups)})
    check.no_leak(shared, one_group=one_group, allowed=allow_leakage)
    return folds


def _balanced_parts(size: Mapping[str, int], n_parts: int) -> list[set[str]]:
    """Units in parts of about equal size: the largest unit first, each to the smallest part."""
    parts: list[list[str]] = [[] for _ in range(n_parts)]
    for name in sorted(size, key=lambda name: (-size[name], name)):
        min(parts, key=lambda part: (sum(size[other] for other in part), len(part))).append(name)
    return [set(part) for part in sorted(parts, key=min)]


def _split(number: int, test: Sequence[str], groups: Mapping[str, str], validate: Sequence[str] | None) -> Split:
    tested = set(test)
    train = tuple(name for name in groups if name not in tested)
    return Split(
        number=number,
        train=train,
        test=tuple(test),
        validate=None if validate is None else tuple(validate),
        leaks=bool(_shared_groups(train, test, groups)),
    )


def _shared_groups(train: Sequence[str], test: Sequence[str], groups: Mapping[str, str]) -> set[str]:
    return {groups[name] for name in train} & {groups[name] for name in test}


def m2ost_split(slides: Sequence[Slide], *, train: float, validate: float) -> tuple[Split, ...]:
    """The one split in the published code of M2OST and M2ORT: a shuffle of sorted section names, cut by shares.

    Patients are on both sides wherever they have several sections.
    """
    names = {section_name(slide): slide.name for slide in slides}
    if len(names) < len(slides):
        names = {slide.name: slide.name for slide in slides}
    order = sorted(names)
    random.Random(M2OST_SEED).shuffle(order)
    n_train, n_validate = int(train * len(order)), int(validate * len(order))
    validation = [names[name] for name in order[n_train : n_train + n_validate]]
    test = [names[name] for name in order[n_train + n_validate :]]
    return (_split(0, test, {slide.name: slide.group for slide in slides}, validation),)


def section_name(slide: Slide) -> str:
    """The name of the section on a slide as its table states it, else that of its element."""
    if slide.table_name is None:
        return slide.name
    obs = slide.source.tables[slide.table_name].obs
    names = set(obs.loc[slide.obs_names, keys.SECTION].astype(str)) if keys.SECTION in obs else set()
    return names.pop() if len(names) == 1 else slide.name
