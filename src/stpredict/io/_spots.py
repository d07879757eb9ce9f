"""Where the spots of an array lie, and their annotation. Files in, arrays out; counts are read in `_counts`."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pandas as pd

from .._checks.paths import user_path
from .._checks.slides import quote
from .._geometry import apply_affine
from . import _errors as check
from ._tables import SPOT_NAME, mostly_match, numeric_columns, parse_spot_name, read_table, read_text, spot_name

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

ARRAY_COLUMNS = (("x", "y"), ("xcoord", "ycoord"))
"""Columns of array coordinates, as the ST spot detector and He et al. call them."""
PIXEL_COLUMNS = (("pixel_x", "pixel_y"), ("X", "Y"))
"""Columns of pixels, as the ST spot detector and He et al. call them."""
ADJUSTED_COLUMNS = ("new_x", "new_y")
"""Columns of array coordinates as they were measured on the image, while ``x`` and ``y`` are the nominal ones."""
DETECTOR_COLUMNS = ("x", "y", *ADJUSTED_COLUMNS, *PIXEL_COLUMNS[0], "selected")
HEADERS = {2: DETECTOR_COLUMNS[:2], 3: ("spot", *PIXEL_COLUMNS[0]), 6: DETECTOR_COLUMNS[:6], 7: DETECTOR_COLUMNS}
"""Columns of spot files without a header, by their number."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spots:
    """The selected spots of a section."""

    array_xy: NDArray[np.int64]
    """``(n, 2)`` column and row in the array."""
    xy_px: NDArray[np.float64]
    """``(n, 2)`` centres in pixels."""
    barcodes: list[str] | None = None
    """Barcode of each spot, if the file has names that are not array coordinates."""

    @property
    def names(self) -> list[str]:
        """Name of each spot, such as ``10x13``."""
        return [spot_name(x, y) for x, y in self.array_xy]


def read_spots(path: Path, *, affine: NDArray[np.float64] | None = None) -> Spots:
    """Read the selected spots of a spot file; ``affine`` maps array coordinates to pixels if the file has no pixels."""
    frame = read_table(path, "spot file", HEADERS)
    if "selected" in frame:
        frame = frame[frame["selected"] != 0]
    array_xy = _array_coordinates(frame, path)
    pixels = _find_columns(frame, PIXEL_COLUMNS)
    if affine is not None and pixels is not None:
        msg = f"Spot file '{path.name}' has pixel columns, and `affine` is given too. Leave out one of them."
        raise ValueError(msg)
    if affine is not None:
        adjusted = _find_columns(frame, (ADJUSTED_COLUMNS,))
        xy_px = apply_affine(affine, array_xy if adjusted is None else numeric_columns(frame, adjusted, path))
    elif pixels is not None:
        xy_px = numeric_columns(frame, pixels, path)
    else:
        msg = (
            f"Spot file '{path.name}' has no pixel columns ('pixel_x' and 'pixel_y', or 'X' and 'Y'; found: "
            f"{quote(list(frame.columns))}). Name them so, or give `affine`: the 3 x 3 matrix from array coordinates "
            "to pixels, as a text file or an array."
        )
        raise ValueError(msg)
    first = frame.iloc[:, 0]
    named_by_position = pd.api.types.is_numeric_dtype(first) or mostly_match(SPOT_NAME, first)
    barcodes = None if named_by_position else [str(name) for name in first]
    spots = Spots(array_xy=array_xy.round().astype(np.int64), xy_px=xy_px, barcodes=barcodes)
    check.require_unique_spots(spots.names, path)
    return spots


def spots_from_names(names: Sequence[str], affine: NDArray[np.float64], path: Path) -> Spots:
    """Spots of a section without a spot file, from the spot names (``10x13``) of its counts file ``path``."""
    array_xy = np.array([xy for xy in map(parse_spot_name, names) if xy is not None]).reshape(-1, 2)
    if len(array_xy) < len(names):
        _no_array_coordinates(names, path)
    return Spots(array_xy=array_xy.round().astype(np.int64), xy_px=apply_affine(affine, array_xy))


def _no_array_coordinates(found: Sequence[str], path: Path) -> NoReturn:
    msg = (
        f"Spot file '{path.name}' has neither columns 'x' and 'y' nor a column of names such as '10x13' (found: "
        f"{quote(found)}). Name its columns so."
    )
    raise ValueError(msg)


def _find_columns(frame: pd.DataFrame, pairs: Sequence[tuple[str, str]]) -> tuple[str, str] | None:
    return next((pair for pair in pairs if set(pair) <= set(frame.columns)), None)


def _array_coordinates(frame: pd.DataFrame, path: Path) -> NDArray[np.float64]:
    """``(n, 2)`` array coordinates, not rounded."""
    pair = _find_columns(frame, ARRAY_COLUMNS)
    if pair is not None:
        return numeric_columns(frame, pair, path)
    names = _spot_name_column(frame)
    if names is None:
        _no_array_coordinates(list(frame.columns), path)
    array_xy = [parse_spot_name(str(name)) for name in names]
    check.require_coordinates([str(names.name)] if None in array_xy else [], path)
    return np.array(array_xy, np.float64).reshape(-1, 2)


def _spot_name_column(frame: pd.DataFrame) -> pd.Series[str] | None:
    """The column of names such as ``10x13``."""
    texts = (frame[name] for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name]))
    return next((column for column in texts if mostly_match(SPOT_NAME, column)), None)


def read_affine(affine: str | PathLike[str] | ArrayLike | None) -> NDArray[np.float64] | None:
    """The ``(3, 3)`` affine map from array coordinates to pixels, for column vectors.

    Given are ``(3, 3)`` or ``(2, 3)`` numbers, or a text file of nine. A last row of 0 0 1 means column vectors, a last
    column of 0 0 1 row vectors. Where both hold (no shift), nine numbers in one line are for row vectors, as the ST
    pipeline writes them, and anything else for column vectors.
    """
    if affine is None:
        return None
    one_line = False
    if isinstance(affine, (str, PathLike)):
        path = user_path(affine, "affine")
        what, text = f"'{path.name}'", read_text(path, "affine")
        try:
            matrix = np.array(text.replace(",", " ").split(), dtype=np.float64)
        except ValueError as reason:
            check.refuse_unreadable(path, "affine", reason)
        matrix = matrix.reshape(3, 3) if matrix.size == 9 else matrix
        one_line = len(text.strip().splitlines()) == 1
    else:
        what, matrix = "`affine`", np.asarray(affine, dtype=np.float64)
    if matrix.shape == (2, 3):
        matrix = np.vstack([matrix, [0, 0, 1]])
    last = np.array([0, 0, 1])
    valid = matrix.shape == (3, 3) and bool(np.isfinite(matrix).all())
    if valid and np.allclose(matrix[:, 2], last) and (one_line or not np.allclose(matrix[2], last)):
        matrix = matrix.T
    if not valid or not np.allclose(matrix[2], last) or abs(np.linalg.det(matrix[:2, :2])) <= 1e-9:
        msg = (
            f"{what} is no affine map ({' x '.join(map(str, matrix.shape))} numbers). Nine numbers are needed, a 3 x 3 "
            "matrix with a last row (or, transposed, a last column) of 0 0 1 and an invertible 2 x 2 part."
        )
        raise ValueError(msg)
    return matrix


NO_LABEL = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
"""What stands in files where a spot has no label."""


def read_labels(path: Path, array_xy: NDArray[np.int64], column: str = "label") -> list[str | None]:
    """The annotation of each spot, from a file of either form that `read_st` takes; None for spots not in the file."""
    frame = read_table(path, "annotation", text=column)
    one_hot = mostly_match(SPOT_NAME, frame.columns[1:])
    labels = _labels_from_indicators(frame, path) if one_hot else _labels_from_rows(frame, column, path)
    return [labels.get(spot_name(x, y)) for x, y in array_xy]


def _labels_from_rows(frame: pd.DataFrame, column: str, path: Path) -> dict[str, str]:
    """Label by spot name of a table with a spot in each row; incomplete rows are skipped."""
    check.require_columns(list(frame.columns), [column], path)
    pair = _find_columns(frame, ARRAY_COLUMNS)
    if pair is None and _spot_name_column(frame) is None:
        check.require_columns(list(frame.columns), ARRAY_COLUMNS[0], path)
    frame = frame.dropna(subset=[*(pair or ()), column])
    frame = frame[~frame[column].isin(NO_LABEL)]
    array_xy = _array_coordinates(frame, path)
    return {spot_name(x, y): str(label) for (x, y), label in zip(array_xy, frame[column], strict=True)}


def _labels_from_indicators(frame: pd.DataFrame, path: Path) -> dict[str, str]:
    """Label by spot name of a table of 0 and 1 with a label in each row and a spot in each column."""
    labels, indicators = frame.iloc[:, 0].astype(str), frame.iloc[:, 1:].to_numpy() == 1
    names = [str(name) for name in frame.columns[1:]]
    ambiguous = [name for name, n in zip(names, indicators.sum(axis=0), strict=True) if n > 1]
    if ambiguous:
        msg = f"'{path.name}' gives more than one label to spot {quote(ambiguous)}. Keep one label for each spot."
        raise ValueError(msg)
    found = ((parse_spot_name(names[i]), labels.iloc[k]) for k, i in np.argwhere(indicators))
    return {spot_name(*xy): label for xy, label in found if xy is not None}
