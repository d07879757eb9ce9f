"""Where the spots of an array lie, and what they are annotated as. Files in, arrays out; nothing here reads counts."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._checks import files as check
from ._tables import SPOT, carries, numbers, position, read_table, read_text, spot_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

ARRAY = (("x", "y"), ("xcoord", "ycoord"))
"""Columns of array coordinates, as the ST spot detector and He et al. call them."""
PIXELS = (("pixel_x", "pixel_y"), ("X", "Y"))
"""Columns of pixels, as the ST spot detector and He et al. call them."""
ADJUSTED = ("new_x", "new_y")
"""Array coordinates where a spot was seen, against where it was meant to be."""
DETECTOR = ("x", "y", *ADJUSTED, *PIXELS[0], "selected")
HEADERS = {2: DETECTOR[:2], 3: ("spot", *PIXELS[0]), 6: DETECTOR[:6], 7: DETECTOR}
"""Columns of spot files without a header, by their number."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spots:
    """Spots of a section that are to be read."""

    array_xy: NDArray[np.int64]
    """``(n, 2)`` column and row in the array."""
    xy_px: NDArray[np.float64]
    """``(n, 2)`` centres in pixels."""
    barcodes: list[str] | None = None
    """Barcode of each spot, if the file names spots otherwise than by their array coordinates."""

    @property
    def names(self) -> list[str]:
        """Name of each spot, such as ``10x13``."""
        return [spot_name(x, y) for x, y in self.array_xy]


def read_spots(path: Path, *, affine: NDArray[np.float64] | None = None) -> Spots:
    """Read the selected spots of a spot file.

    Parameters
    ----------
    path
        Table with array coordinates (columns ``x`` and ``y``, or a column of names such as ``10x13``), pixels (columns
        ``pixel_x`` and ``pixel_y``, or ``X`` and ``Y``) and optionally ``selected`` (0 for spots off the tissue).
    affine
        ``(3, 3)`` map from array coordinates to pixels, for files without pixels.

    Returns
    -------
    The spots.
    """
    frame = read_table(path, "spot file", HEADERS)
    if "selected" in frame:
        frame = frame[frame["selected"] != 0]
    array_xy = _positions(frame, path)
    pixels = _columns(frame, PIXELS)
    if affine is not None and pixels is not None:
        check.one_placement(path)
    if affine is None and pixels is None:
        check.pixels(list(frame.columns), path)
    if affine is not None:
        adjusted = _columns(frame, (ADJUSTED,))
        xy_px = transform(affine, array_xy if adjusted is None else numbers(frame, adjusted, path))
    else:
        xy_px = numbers(frame, pixels or (), path)
    spots = Spots(array_xy=array_xy.round().astype(np.int64), xy_px=xy_px, barcodes=_barcodes(frame))
    check.unique_spots(spots.names, path)
    return spots


def spots_of_counts(names: Sequence[str], affine: NDArray[np.float64], path: Path) -> Spots:
    """Spots of a section that has no spot file, from the names of its counts.

    Parameters
    ----------
    names
        Names of spots, such as ``10x13``.
    affine
        ``(3, 3)`` map from array coordinates to pixels.
    path
        The counts, for messages.

    Returns
    -------
    The spots, in the order of the names.
    """
    array_xy = np.array([found for found in map(position, names) if found is not None]).reshape(-1, 2)
    if len(array_xy) < len(names):
        check.positions(names, path)
    return Spots(array_xy=array_xy.round().astype(np.int64), xy_px=transform(affine, array_xy))


def _columns(frame: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    return next((pair for pair in pairs if set(pair) <= set(frame.columns)), None)


def _positions(frame: pd.DataFrame, path: Path) -> NDArray[np.float64]:
    """``(n, 2)`` array coordinates, not rounded."""
    pair = _columns(frame, ARRAY)
    if pair is not None:
        return numbers(frame, pair, path)
    names = _spot_column(frame)
    if names is None:
        check.positions(list(frame.columns), path)
    found = [position(str(name)) for name in names]
    check.finite_columns([str(names.name)] if None in found else [], path)
    return np.array(found, np.float64).reshape(-1, 2)


def _spot_column(frame: pd.DataFrame) -> pd.Series[str] | None:
    """The column of names such as ``10x13``."""
    texts = (frame[name] for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name]))
    return next((column for column in texts if carries(SPOT, column)), None)


def _barcodes(frame: pd.DataFrame) -> list[str] | None:
    """The first column, if it holds names that are no array coordinates."""
    first = frame.iloc[:, 0]
    if pd.api.types.is_numeric_dtype(first) or carries(SPOT, first):
        return None
    return [str(name) for name in first]


def transform(affine: NDArray[np.float64], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points under an affine map.

    Parameters
    ----------
    affine
        ``(3, 3)``, for column vectors.
    xy
        ``(n, 2)`` points.

    Returns
    -------
    ``(n, 2)`` points.
    """
    return xy @ affine[:2, :2].T + affine[:2, 2]


def read_affine(given: str | PathLike[str] | ArrayLike | None) -> NDArray[np.float64] | None:
    """Affine map from array coordinates to pixels.

    Parameters
    ----------
    given
        ``(3, 3)`` or ``(2, 3)`` numbers, or a text file of nine. A last row of 0 0 1 means column vectors, a last
        column of 0 0 1 row vectors. Where both hold (no shift), nine numbers in one line are row vectors, as the ST
        pipeline writes them, and anything else column vectors.

    Returns
    -------
    ``(3, 3)`` for column vectors; None for None.
    """
    if given is None:
        return None
    in_line = False
    if isinstance(given, (str, PathLike)):
        what = f"'{Path(given).name}'"
        values, in_line = _nine(Path(given))
    else:
        what, values = "`affine`", np.asarray(given, dtype=np.float64)
    if values.shape == (2, 3):
        values = np.vstack([values, [0, 0, 1]])
    check.affine(values.shape, valid=values.shape == (3, 3) and bool(np.isfinite(values).all()), what=what)
    last = np.array([0, 0, 1])
    if np.allclose(values[:, 2], last) and (in_line or not np.allclose(values[2], last)):
        values = values.T
    invertible = abs(np.linalg.det(values[:2, :2])) > 1e-9
    check.affine(values.shape, valid=invertible and np.allclose(values[2], last), what=what)
    return values


def _nine(path: Path) -> tuple[NDArray[np.float64], bool]:
    """Numbers of a file as 3 x 3 if they are nine, and whether they stand in one line."""
    text = read_text(path, "affine")
    try:
        values = np.array(text.replace(",", " ").split(), dtype=np.float64)
    except ValueError as reason:
        check.unreadable(path, "affine", reason)
    in_line = len(text.strip().splitlines()) == 1
    return (values.reshape(3, 3) if values.size == 9 else values), in_line


def read_labels(path: Path, array_xy: NDArray[np.int64], column: str = "label") -> list[str | None]:
    """Read the annotation of spots.

    Parameters
    ----------
    path
        Table with array coordinates (columns ``x`` and ``y``, or a column of names such as ``10x13``; rounded) and a
        column of labels, incomplete rows skipped; or a table of 0 and 1 with a label a row and a spot a column.
    array_xy
        ``(n, 2)`` array coordinates of the spots to be annotated.
    column
        Name of the column of labels.

    Returns
    -------
    Label of each spot, None for spots that the file does not name.
    """
    frame = read_table(path, "annotation")
    named = _from_indicators(frame, path) if carries(SPOT, frame.columns[1:]) else _from_rows(frame, column, path)
    return [named.get(spot_name(x, y)) for x, y in array_xy]


def _from_rows(frame: pd.DataFrame, column: str, path: Path) -> dict[str, str]:
    check.has_columns(list(frame.columns), [column], path)
    pair = _columns(frame, ARRAY)
    names = None if pair else _spot_column(frame)
    frame = frame.dropna(subset=[*(pair or ()), column])
    if pair is None and names is None:
        check.has_columns(list(frame.columns), ARRAY[0], path)
    array_xy = _positions(frame, path)
    return {spot_name(x, y): str(label) for (x, y), label in zip(array_xy, frame[column], strict=True)}


def _from_indicators(frame: pd.DataFrame, path: Path) -> dict[str, str]:
    labels, marks = frame.iloc[:, 0].astype(str), frame.iloc[:, 1:].to_numpy() == 1
    names = [str(name) for name in frame.columns[1:]]
    check.one_label([name for name, n in zip(names, marks.sum(axis=0), strict=True) if n > 1], path)
    found = ((position(names[i]), labels.iloc[k]) for k, i in np.argwhere(marks))
    return {spot_name(*at): label for at, label in found if at is not None}
