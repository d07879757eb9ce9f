"""Where patches are: fields of view in µm, affine maps, distances between spots.

numpy only. Nothing here reads an image or knows of SpatialData.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ._checks import config as check
from ._checks.plain import plain_fields

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

Fill = Literal["white", "reflect"]
OUTLIER = 4.0
"""Spots are left out if their residual exceeds this multiple of the median residual."""
FARTHEST = 1e9
"""No coordinate of a slide, in pixels or in µm, is as large."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchSpec:
    """The patches of one spot: concentric squares of growing field of view, resampled to one size.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.tl.PatchSpec(fov_um=(150, 300, 900), size_px=112).fov_um
    (150.0, 300.0, 900.0)
    """

    fov_um: tuple[float, ...]
    """Side of the square field of view of each scale in µm, narrowest first."""
    size_px: int = 224
    """Side in pixels to which the patch of every scale is resampled."""
    fill: Fill = "white"
    """What lies beyond the image: ``"white"`` (255) or ``"reflect"`` (the image mirrored at its edge)."""

    def __post_init__(self) -> None:
        plain_fields(self)
        given: Any = self.fov_um
        sides = [given] if isinstance(given, (int, float)) else given
        object.__setattr__(self, "fov_um", tuple(float(fov) for fov in sides))
        if not self.fov_um or min(self.fov_um) <= 0 or list(self.fov_um) != sorted(set(self.fov_um)):
            msg = f"`fov_um` is {self.fov_um}; give at least one side in µm, all positive, narrowest first, each once."
            raise ValueError(msg)
        if self.size_px < 8:
            msg = f"`size_px` is {self.size_px}; a patch needs at least 8 px a side (224 is usual)."
            raise ValueError(msg)
        check.one_of("fill", self.fill, ("white", "reflect"))

    @classmethod
    def from_pixels(cls, sizes_px: Sequence[float], um_per_px: float, *, size_px: int = 224) -> PatchSpec:
        """Fields of view given in pixels of one resolution, as published code gives them.

        Parameters
        ----------
        sizes_px
            Side of each scale in full-resolution pixels, narrowest first.
        um_per_px
            Resolution of the slide for which ``sizes_px`` was meant, in µm per pixel.
        size_px
            Side to which every scale is resampled.

        Returns
        -------
        The same windows in µm.

        Examples
        --------
        >>> PatchSpec.from_pixels((224, 448, 896), 0.5).fov_um
        (112.0, 224.0, 448.0)
        """
        return cls(fov_um=tuple(size * um_per_px for size in sizes_px), size_px=size_px)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PatchSpec:
        """Rebuild what ``dataclasses.asdict`` gave, for instance from JSON.

        Parameters
        ----------
        values
            The fields by name.

        Returns
        -------
        The specification.
        """
        return cls(fov_um=tuple(values["fov_um"]), size_px=values["size_px"], fill=values["fill"])

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON.

        Returns
        -------
        A new dictionary.
        """
        return {**asdict(self), "fov_um": list(self.fov_um)}


def on_slide(xy: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark points ``(n, d)`` that a slide can have: numbers, none so large that arithmetic overflows."""
    known: NDArray[np.bool_] = (np.abs(xy) <= FARTHEST).all(axis=1)
    return known


def apply_affine(matrix: NDArray[np.float64], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map points ``(n, 2)`` by a homogeneous ``(3, 3)`` matrix that acts on columns ``(x, y, 1)``."""
    mapped: NDArray[np.float64] = xy @ matrix[:2, :2].T + matrix[:2, 2]
    return mapped


def axis_scales(matrix: NDArray[np.float64]) -> tuple[float, float]:
    """Factors by which an affine map ``(3, 3)`` stretches x and y: lengths of the mapped unit vectors."""
    x, y = np.linalg.norm(matrix[:2, :2], axis=0)
    return float(x), float(y)


def orientation(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """``(2, 2)`` directions of a system's x and y in an image, in columns, from the ``(3, 3)`` matrix to its pixels.

    The determinant is 1 or -1. Flips and quarter turns are exact.
    """
    linear = matrix[:2, :2] / np.sqrt(abs(np.linalg.det(matrix[:2, :2])))
    whole = np.rint(linear)
    exact: NDArray[np.float64] = np.where(np.abs(linear - whole) < 1e-9, whole, linear)
    return exact


def orientation_matrix(tag: int, width: int, height: int) -> NDArray[np.float64]:
    """``(3, 3)`` map from stored pixels to the upright picture, by the value of the tag Orientation; 1 is as stored."""
    x, y, left, up = [1, 0, 0], [0, 1, 0], [-1, 0, width], [0, -1, height]
    rows = {2: (left, y), 3: (left, up), 4: (x, up), 5: (y, x), 6: (up, x), 7: (up, left), 8: (y, left)}
    return np.array([*rows.get(tag, (x, y)), [0, 0, 1]], np.float64)


def spot_pitch(xy: NDArray[np.float64]) -> float:
    """Median distance from a spot ``(n, 2)`` to its nearest neighbour; NaN for fewer than two spots."""
    if len(xy) < 2:
        return float("nan")
    from scipy.spatial import cKDTree  # costs 100 ms of import

    distance, _ = cKDTree(xy).query(xy, k=2)
    return float(np.median(distance[:, 1]))


def neighbour_pitch(xy: NDArray[np.float64]) -> float:
    """Median length of all pairs of neighbours; NaN for fewer than two spots.

    Where spots are placed with an error, `spot_pitch` is biased: the nearest is the nearest of four or six.
    """
    nearest = spot_pitch(xy)
    if not np.isfinite(nearest):
        return nearest
    from scipy.spatial import cKDTree  # costs 100 ms of import

    pairs = cKDTree(xy).query_pairs(1.3 * nearest, output_type="ndarray")
    return float(np.median(np.linalg.norm(xy[pairs[:, 0]] - xy[pairs[:, 1]], axis=1)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Lattice:
    """Where the array lies on the image."""

    pitch_px: NDArray[np.float64]
    """``(2,)`` pixels per step of the array along its x and its y."""
    diagonal_px: float
    """Distance in pixels to the diagonal neighbour, mean of both diagonals."""
    error: float
    """Relative standard error of the pitch, the larger one of x and y."""

    @property
    def anisotropy(self) -> float:
        """Relative difference between the pitches along x and y."""
        return abs(float(self.pitch_px[0] / self.pitch_px[1]) - 1)


def fit_lattice(array_xy: NDArray[np.float64], xy_px: NDArray[np.float64]) -> Lattice | None:
    """Least-squares affine map from ``(n, 2)`` array coordinates to pixels, without outliers.

    None where the spots lie in one line or are fewer than three.
    """
    design = np.column_stack([array_xy, np.ones(len(array_xy))])
    kept = np.ones(len(design), bool)
    for _ in range(5):
        if np.linalg.matrix_rank(design[kept]) < 3:
            return None
        matrix = np.linalg.lstsq(design[kept], xy_px[kept], rcond=None)[0]
        distance = np.linalg.norm(xy_px - design @ matrix, axis=1)
        limit = OUTLIER * max(float(np.median(distance[kept])), 1e-3 * float(np.abs(matrix[:2]).max()))
        if (kept == (distance <= limit)).all():
            break
        kept = distance <= limit
    pitch = np.linalg.norm(matrix[:2], axis=1)
    diagonals = np.linalg.norm([matrix[0] + matrix[1], matrix[0] - matrix[1]], axis=1)
    variance = float(np.sum(distance[kept] ** 2)) / max(2 * int(kept.sum()) - 6, 1)
    slopes = np.linalg.inv(design[kept].T @ design[kept])[[0, 1], [0, 1]]
    error = float(np.max(np.sqrt(variance * slopes) / pitch))
    return Lattice(pitch_px=pitch, diagonal_px=float(diagonals.mean()), error=error)


def is_staggered(array_xy: NDArray[np.integer] | NDArray[np.floating]) -> bool:
    """Whether every other position of an array is empty, as on arrays of about 2,000 spots.

    Then x + y is even for all spots, or odd for all. Fewer than ten spots could be so by chance: False.
    """
    odd = np.asarray(array_xy).sum(axis=1) % 2
    return len(odd) >= 10 and bool((odd == odd[0]).all())


def margin_px(size_px: int, share: float) -> int:
    """Width of the frame around a central square whose side is ``share`` of a patch; 0 where it is wider.

    >>> margin_px(112, 0.5), margin_px(112, 1.2)
    (28, 0)
    """
    return min(max(0, round(size_px * (1 - share) / 2)), (size_px - 1) // 2)
