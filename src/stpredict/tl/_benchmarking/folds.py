"""Which slides are trained on and which are tested on: whole groups, or sections where nothing else can be had.

Nothing here reads pixels or counts.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ... import _keys as keys
from ..._checks import comparison as check
from ..._checks import config as check_config

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..._slides import Slide

By = Literal["group", "section"]
M2OST_SEED = 1553
"""Seed of the shuffle in the published code of M2OST."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """One fold: names of slides."""

    number: int
    """Which fold it is."""
    train: tuple[str, ...]
    """Slides that are trained on, those for early stopping among them."""
    test: tuple[str, ...]
    """Slides that are held out."""
    validate: tuple[str, ...] | None = None
    """Training slides for early stopping; None lets `fit` choose a group of them, none at all if empty."""
    leaks: bool = False
    """Whether a group is on both sides."""


def splits(slides: Sequence[Slide], *, by: By, n_folds: int | None, allow_leakage: bool) -> tuple[Split, ...]:
    """Folds in which every slide is tested once.

    Parameters
    ----------
    slides
        All slides.
    by
        What stays together: groups, or no more than sections.
    n_folds
        How many; None leaves out one at a time.
    allow_leakage
        Whether sections of a group may be on both sides.

    Returns
    -------
    The folds; those with a group on both sides carry the mark.
    """
    check_config.one_of("by", by, ("group", "section"))
    check.several_slides(len(slides))
    groups = {slide.name: slide.group for slide in slides}
    one_group = len(set(groups.values())) == 1
    unit = {slide.name: slide.group if by == "group" and not one_group else slide.name for slide in slides}
    size = dict.fromkeys(sorted(set(unit.values())), 0)
    for slide in slides:
        size[unit[slide.name]] += len(slide.xy_px)
    if n_folds is not None:
        check.n_folds(n_folds, len(size))
    parts = _parts(size, n_folds or len(size))
    found = tuple(
        _split(i, [name for name in groups if unit[name] in part], groups, None) for i, part in enumerate(parts)
    )
    shared = sorted({group for each in found if each.leaks for group in _shared(each, groups)})
    check.no_leak(shared, one_group=one_group, allowed=allow_leakage)
    return found


def _parts(size: Mapping[str, int], n_parts: int) -> list[set[str]]:
    """Units in parts of about equal size: the largest first, each to the part that is smallest."""
    parts: list[list[str]] = [[] for _ in range(n_parts)]
    for name in sorted(size, key=lambda name: (-size[name], name)):
        min(parts, key=lambda part: (sum(size[other] for other in part), len(part))).append(name)
    return [set(part) for part in sorted(parts, key=min)]


def _split(number: int, test: Sequence[str], groups: Mapping[str, str], validate: Sequence[str] | None) -> Split:
    train = tuple(name for name in groups if name not in set(test))
    found = Split(number=number, train=train, test=tuple(test), validate=None if validate is None else tuple(validate))
    return Split(
        number=number, train=train, test=found.test, validate=found.validate, leaks=bool(_shared(found, groups))
    )


def _shared(split: Split, groups: Mapping[str, str]) -> set[str]:
    return {groups[name] for name in split.train} & {groups[name] for name in split.test}


def published(slides: Sequence[Slide], *, train: float, validate: float) -> tuple[Split, ...]:
    """The split of sections in the code of M2OST and M2ORT: one shuffle of their sorted names.

    Parameters
    ----------
    slides
        All slides.
    train, validate
        Shares of the sections, rounded down; the rest is tested on.

    Returns
    -------
    One fold. Patients are on both sides wherever they have several sections.
    """
    names = {section_of(slide): slide.name for slide in slides}
    if len(names) < len(slides):
        names = {slide.name: slide.name for slide in slides}
    order = sorted(names)
    random.Random(M2OST_SEED).shuffle(order)
    n_train, n_validate = int(train * len(order)), int(validate * len(order))
    held = [names[name] for name in order[n_train : n_train + n_validate]]
    test = [names[name] for name in order[n_train + n_validate :]]
    return (_split(0, test, {slide.name: slide.group for slide in slides}, held),)


def section_of(slide: Slide) -> str:
    """The name of the section on a slide: what its table says, else that of the element.

    Parameters
    ----------
    slide
        The slide.

    Returns
    -------
    The name.
    """
    if slide.table_name is None:
        return slide.name
    obs = slide.source.tables[slide.table_name].obs
    found = set(obs.loc[slide.obs_names, keys.SECTION].astype(str)) if keys.SECTION in obs else set()
    return found.pop() if len(found) == 1 else slide.name
