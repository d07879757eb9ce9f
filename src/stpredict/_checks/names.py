"""Names that do not exist: which of the known ones was meant."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

LIKE = 0.6
"""Similarity from which a name may be the one that was meant."""


def nearest(name: object, known: Iterable[object], *, n: int = 3, cutoff: float = LIKE) -> list[str]:
    """The names most like a name, whatever its case and punctuation, the most similar first."""
    matcher, scores = SequenceMatcher(b=_letters(str(name))), {}
    for other in map(str, known):
        matcher.set_seq1(_letters(other))
        if matcher.real_quick_ratio() >= cutoff and matcher.quick_ratio() >= cutoff:  # upper bounds, quick to compute
            scores[other] = matcher.ratio()
    like = [other for other, score in scores.items() if score >= cutoff]
    return sorted(like, key=lambda other: -scores[other])[:n]


def duplicates[Name](names: Iterable[Name]) -> list[Name]:
    """Names that occur more than once, in the order of their first occurrence."""
    return [name for name, n_times in Counter(names).items() if n_times > 1]


def did_you_mean(asked: str | Sequence[object], known: Iterable[object]) -> str:
    """``" Did you mean …?"`` for the first names that are not known; nothing if no name is like them."""
    names = list(known)
    there = set(map(str, names))
    missing = [name for name in ([asked] if isinstance(asked, str) else asked) if str(name) not in there]
    meant = dict.fromkeys(near for name in missing[:3] for near in nearest(name, names, n=1 if missing[1:] else 3))
    return f" Did you mean {' or '.join(map(repr, meant))}?" if meant else ""


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))
