"""Errors about spots that are made of transcripts or cells."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .slides import listed

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from spatialdata import SpatialData


def points(names: Sequence[str], asked: str | None) -> str:
    """The points that are meant; an error if they do not exist, or several do and none is named."""
    if asked is None and len(names) == 1:
        return names[0]
    if asked is None or asked not in names:
        what = "Which points are transcripts?" if asked is None else f"No points {asked!r} in `sdata.points`."
        msg = f"{what} Found: {listed(names)}. Give one as `points_key`, or read some with `stp.io.read_xenium`."
        raise ValueError(msg)
    return asked


def feature_column(key: str | None, columns: Sequence[str]) -> str:
    """The column that names genes; an error if there is none."""
    if key is None or key not in columns:
        msg = f"No column {key!r} names the gene of each transcript (found: {listed(columns)}). Give `feature_key`."
        raise ValueError(msg)
    return key


def pattern(text: str | None) -> re.Pattern[str] | None:
    """What names to leave out; refuse what is no regular expression."""
    try:
        return None if text is None else re.compile(text)
    except re.error as reason:
        msg = (
            f"`exclude` is {text!r}, which is no regular expression: {reason}. Give for instance '^(NegControl|BLANK)'."
        )
        raise ValueError(msg) from None


def at_least(name: str, value: float) -> None:
    """Refuse a minimum below 1."""
    if not value >= 1:
        msg = f"`{name}` is {value!r}; it must be at least 1: an empty spot has no expression."
        raise ValueError(msg)


def apart(width_um: float, step_um: float, outline: str) -> None:
    """Refuse spots that overlap, in which a transcript would count twice."""
    if width_um > step_um * (1 + 1e-9):
        msg = (
            f"Spots overlap: a {outline} of {width_um:g} µm is wider than the {step_um:.4g} µm to the next, so what "
            "lies in two would count twice. Give a larger `pitch_um`, or a smaller `diameter_um`."
        )
        raise ValueError(msg)


def one_slide(names: Sequence[str]) -> None:
    """Refuse to guess among the cells of several samples."""
    if len(names) > 1:
        msg = f"Cells of several samples were found: {listed(names)}. Give one as `shapes_key`, and call once for each."
        raise ValueError(msg)


def some(n_spots: int, what: str, n_kept: int, n_inside: int, minimum: int) -> None:
    """Refuse to write no spot at all."""
    if n_spots == 0:
        msg = (
            f"No spot has {minimum} {what}: {n_kept} {what} count, {n_inside} of them lie in a spot. Lower the "
            "minimum, or check `coordinate_system` and the resolution (`stp.pp.resolution`)."
        )
        raise ValueError(msg)


def free_table(sdata: SpatialData, table_name: str, ours: Collection[str]) -> None:
    """Refuse to overwrite a table that these functions did not make."""
    taken = {name for _, name, _ in sdata.gen_elements()}
    if table_name in taken and table_name not in ours:
        msg = (
            f"The object already has an element {table_name!r}, which is to hold the counts, and is not overwritten. "
            "Give another name as `key_added`."
        )
        raise ValueError(msg)
