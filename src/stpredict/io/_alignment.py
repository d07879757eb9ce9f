"""How an H&E image lies on the morphology image of Xenium: a matrix, or one computed from pairs of keypoints."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .._checks.paths import user_path
from .._checks.training import warn
from .._geometry import apply_affine, on_slide
from . import _errors as check
from ._tables import find_separator, read_text, split_fields

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

KEYPOINT_COLUMNS: Final = ("fixedX", "fixedY", "alignmentX", "alignmentY")
"""Points of the morphology image, and the same ones of the H&E image, both in pixels."""
MAX_RESIDUAL_UM: Final = 20.0
"""Largest distance of a keypoint from its partner: about two cells."""
N_WORST: Final = 3


def read_alignment(
    given: str | PathLike[str] | ArrayLike | None, image: Path, pixel_um: float
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """``(3, 3)`` from pixels of the H&E image to those of the morphology image; residuals in µm if by keypoints."""
    if given is not None and not isinstance(given, str | PathLike):
        table: Any = given
        if set(KEYPOINT_COLUMNS) <= set(getattr(table, "columns", ())):  # a frame, whose columns have any order
            table = table[list(KEYPOINT_COLUMNS)]
        values, what = np.asarray(table, np.float64), "that was given"
        are_keypoints = values.ndim == 2 and values.shape[1] == len(KEYPOINT_COLUMNS)
    else:
        path = _find_file(given, image)
        values, are_keypoints = _read_numbers(path)
        what = f"'{path}'"
    if are_keypoints:
        return _fit_keypoints(values, what, pixel_um)
    affine = values.shape == (3, 3) and bool(np.isfinite(values).all()) and bool(np.allclose(values[2], [0, 0, 1]))
    if not affine or abs(float(np.linalg.det(values))) <= 1e-9:
        msg = (
            f"The alignment {what} is no affine matrix (shape {values.shape}): 3 x 3 numbers are needed, the last row "
            "0 0 1 and the rest invertible. Export it again, or give the matrix as `alignment`."
        )
        raise ValueError(msg)
    return values, None


def _find_file(given: str | PathLike[str] | None, image: Path) -> Path:
    """The file that was given, or that beside the image."""
    beside = image.with_name(image.name.removesuffix(".ome.tif") + "alignment.csv")
    path = beside if given is None else user_path(given, "alignment")
    if not path.is_file():
        msg = (
            f"No alignment of '{image.name}'{f' at {str(path)!r}' if given is not None else ''}. Give `alignment`: "
            "the CSV file of the 3 x 3 matrix from pixels of the H&E image to pixels of the morphology image, or that "
            "of the keypoints (Xenium Explorer exports both), or the matrix itself; `numpy.eye(3)` if the image is "
            "aligned already."
        )
        raise FileNotFoundError(msg)
    return path


def _read_numbers(path: Path) -> tuple[NDArray[np.float64], bool]:
    """The numbers of a text file, a row a line, and whether its header says that they are keypoints."""
    lines = [line for line in read_text(path, "alignment").splitlines() if line.strip()]
    rows = [split_fields(line, find_separator(line)) for line in lines]
    header = rows[0] if rows else []
    are_keypoints = set(KEYPOINT_COLUMNS) <= set(header)
    if are_keypoints:
        wrong = [f"line {i} has {len(row)}" for i, row in enumerate(rows[1:], 2) if len(row) != len(header)]
        if wrong:
            check.refuse_unreadable(path, "alignment", f"its header has {len(header)} fields, but {wrong[0]}")
        rows = [[row[header.index(name)] for name in KEYPOINT_COLUMNS] for row in rows[1:]]
    try:
        return np.array([[float(field) for field in row] for row in rows], ndmin=2), are_keypoints
    except ValueError as reason:
        needed = "numbers" if are_keypoints else "3 x 3 numbers"
        check.refuse_unreadable(path, "alignment", f"{needed} are needed, but {reason}")


def _fit_keypoints(
    pairs: NDArray[np.float64], what: str, pixel_um: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The affine matrix with the least squared residuals, and these ``(n,)`` in µm; refuse pairs that do not fit."""
    pairs = pairs.reshape(-1, len(KEYPOINT_COLUMNS))
    if not on_slide(pairs).all():
        msg = (
            f"The alignment {what} has keypoints without coordinates, or with some larger than any slide. Remove these "
            "pairs, or set them again."
        )
        raise ValueError(msg)
    fixed, moving = pairs[:, :2], pairs[:, 2:]
    if len(pairs) < 3 or _is_line(moving) or _is_line(fixed):
        msg = (
            f"The alignment {what} holds {len(pairs)} pairs of keypoints; at least three are needed, not all on one "
            "line. Set more in Xenium Explorer, spread over the tissue, or give the 3 x 3 matrix as `alignment`."
        )
        raise ValueError(msg)
    linear = np.linalg.lstsq(np.column_stack([moving, np.ones(len(pairs))]), fixed, rcond=None)[0].T
    matrix = np.vstack([linear, [0.0, 0.0, 1.0]])
    residuals: NDArray[np.float64] = np.linalg.norm(apply_affine(matrix, moving) - fixed, axis=1) * pixel_um
    if residuals.max() > MAX_RESIDUAL_UM:
        worst = [f"{i + 1} ({residuals[i]:.0f} µm)" for i in np.argsort(-residuals)[:N_WORST]]
        msg = (
            f"The {len(pairs)} pairs of keypoints of the alignment {what} do not fit one affine map: the farthest are "
            f"{', '.join(worst)} away from their partners, and {MAX_RESIDUAL_UM:g} µm are allowed. Correct these "
            "pairs, or leave them out; if columns are swapped, fixedX and fixedY belong to the morphology image."
        )
        raise ValueError(msg)
    if len(pairs) == 3:
        warn(
            f"The alignment {what} has three pairs of keypoints, which every affine map fits exactly: errors in them "
            "cannot be seen. Set more pairs."
        )
    return matrix, residuals


def _is_line(xy: NDArray[np.float64]) -> bool:
    """Whether points lie on one line, or at one place."""
    along, across = np.linalg.svd(xy - xy.mean(axis=0), compute_uv=False)
    return bool(across <= 1e-3 * along)
