"""Errors that several data sets raise. An error of one function is raised there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._checks.names import duplicates
from .._checks.slides import quote

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def known_names(argument: str, names: Sequence[str], available: Collection[str], function: str) -> None:
    """Refuse names that are not available, all of them at once, names given twice, and none."""
    unknown = [name for name in names if name not in available]
    if unknown or not names:
        what = quote(unknown) if unknown else "nothing"
        msg = f"`{argument}` names {what}; there are {', '.join(map(repr, available))}. Call `{function}` with these."
        raise ValueError(msg)
    if twice := duplicates(names):
        msg = f"`{argument}` names {quote(twice)} more than once. Give each name once."
        raise ValueError(msg)
