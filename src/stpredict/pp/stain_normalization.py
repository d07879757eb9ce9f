"""Stain normalization: measure the stain of a slide, and give its patches the stain of another. No SpatialData."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from .._geometry import PatchSpec
from .._pixels import PatchReader

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from .._slides.levels import Level

    Float = NDArray[np.float64]

StainMethod = Literal["macenko", "reinhard"]
METHODS: Final = get_args(StainMethod)

RESOLUTION_UM: Final = 4.0
"""µm per pixel at which a stain is measured; that of the image where it is coarser."""
WINDOW_PX: Final = 64
"""Side of the windows that are read."""
N_WINDOWS: Final = 64
"""Largest number of windows that are read of a slide."""
MIN_STAINED_PX: Final = 1000
"""Fewest stained pixels from which a stain is measured."""
MIN_DENSITY: Final = 0.15
"""Mean optical density below which a pixel is not stained."""
MIN_ANGLE: Final = np.deg2rad(3.0)
"""Stain vectors that are closer than this cannot be separated."""
RGB_TO_LMS: Final = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
"""From RGB to the responses of the cones (Reinhard et al. 2001)."""
LMS_TO_LAB: Final = np.array([[1, 1, 1], [1, 1, -2], [1, -1, 0]]) / np.sqrt([[3], [6], [2]])
"""From the logarithms of these to lightness and two uncorrelated colours."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stain:
    """The stain of a slide, or the mean of several."""

    vectors: tuple[tuple[float, ...], ...]
    """Optical density of haematoxylin, and of eosin, in red, green and blue; of length 1."""
    concentration: tuple[float, ...]
    """99th percentile of the amount of either, over stained pixels (optical density along its vector)."""
    mean: tuple[float, ...]
    """Mean over stained pixels in Ruderman's l, alpha and beta (log10 of RGB in [0, 1])."""
    std: tuple[float, ...]
    """Standard deviation over stained pixels in the same."""
    n_px: int
    """Number of stained pixels that were measured."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Stain:
        """Rebuild what `to_dict` gave, for instance from JSON."""
        vectors = tuple(tuple(vector) for vector in values["vectors"])
        rest = {name: tuple(values[name]) for name in ("concentration", "mean", "std")}
        return cls(vectors=vectors, n_px=int(values["n_px"]), **rest)

    @classmethod
    def average(cls, stains: Sequence[Stain]) -> Stain:
        """Mean of several stains, each slide with the same weight; vectors are brought to length 1."""
        vectors = _unit(np.mean([stain.vectors for stain in stains], axis=0))
        means = {name: np.mean([getattr(s, name) for s in stains], axis=0) for name in ("concentration", "mean", "std")}
        return cls(
            vectors=tuple(tuple(vector) for vector in vectors.tolist()),
            n_px=sum(stain.n_px for stain in stains),
            **{name: tuple(values.tolist()) for name, values in means.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        listed = {name: list(getattr(self, name)) for name in ("concentration", "mean", "std")}
        return {**asdict(self), **listed, "vectors": [list(vector) for vector in self.vectors]}


def fit_stain(levels: Sequence[Level], um_per_px: float, xy_px: Float, *, image_key: str = "") -> Stain | None:
    """Measure the stain around places ``(n, 2)`` on tissue, in full-resolution pixels, for instance spots.

    At most `N_WINDOWS` of them, evenly spaced, are read. None where fewer than `MIN_STAINED_PX` pixels are stained, or
    with one dye only.
    """
    if not len(xy_px):
        return None
    rows = np.unique(np.linspace(0, len(xy_px) - 1, N_WINDOWS).round().astype(np.intp))
    resolution_um = max(RESOLUTION_UM, um_per_px)
    spec = PatchSpec(fov_um=(WINDOW_PX * resolution_um,), size_px=WINDOW_PX)
    patches, _ = PatchReader(levels, um_per_px, spec, image_key=image_key).read(xy_px[rows])
    return stain_from_pixels(patches[:, 0])


def stain_from_pixels(windows: NDArray[np.uint8]) -> Stain | None:
    """Measure the stain of windows ``(n, 3, h, w)``; None where too few pixels are stained, or with one dye only."""
    from ._tissue_mask import ink_mask

    table = _density(np.arange(256.0)).astype(np.float32)
    density = np.moveaxis(table[windows], 1, -1)  # (n, h, w, 3)
    kept = (density.mean(axis=-1) >= MIN_DENSITY) & ~ink_mask(density)
    stained = density[kept]
    vectors = _stain_vectors(stained) if len(stained) >= MIN_STAINED_PX else None
    if vectors is None:
        return None
    amounts = stained @ np.linalg.pinv(vectors)
    lab = _lab(np.moveaxis(windows, 1, -1)[kept])
    return Stain(
        vectors=tuple(tuple(vector) for vector in vectors.tolist()),
        concentration=tuple(np.percentile(amounts, 99, axis=0).tolist()),
        mean=tuple(lab.mean(axis=0).tolist()),
        std=tuple(lab.std(axis=0).tolist()),
        n_px=len(stained),
    )


def _stain_vectors(density: NDArray[np.float32]) -> Float | None:
    """``(2, 3)`` haematoxylin and eosin by the angles of Macenko et al. (2009); None where there is one dye only."""
    _, basis = np.linalg.eigh(density.T.astype(np.float64) @ density)
    plane = basis[:, :0:-1]  # right singular vectors of the two largest singular values
    plane *= np.sign(density.mean(axis=0) @ plane)
    along = density @ plane
    angle = np.percentile(np.arctan2(along[:, 1], along[:, 0]), [1, 99])
    if angle[1] - angle[0] < MIN_ANGLE:
        return None
    found = np.stack([np.cos(angle), np.sin(angle)], axis=1) @ plane.T
    red_first: Float = found[np.argsort(-found[:, 0])]
    return red_first


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StainNormalizer:
    """Gives patches of one slide the stain of another, through a table of colours."""

    table: NDArray[np.uint16]
    """``(N_NODES ** 3 * 4,)`` as `_stain_table.look_up` takes it."""

    @classmethod
    def between(cls, source: Stain, target: Stain, method: StainMethod) -> StainNormalizer:
        """How colours of one stain become those of another; white stays white, and equal stains change nothing."""
        from ._stain_table import N_NODES, STEP, UNIT

        node = np.arange(0, 256, STEP, dtype=np.float64)
        rgb = np.stack(np.meshgrid(node, node, node, indexing="ij"), axis=-1).reshape(-1, 3)
        table = np.zeros((N_NODES**3, 4), np.uint16)
        table[:, :3] = np.rint(normalize_colors(rgb, source, target, method) * UNIT)
        return cls(table=table.ravel())

    def __call__(self, patches: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Normalise patches ``(..., 3, h, w)`` into a new array."""
        from ._stain_table import look_up

        height, width = patches.shape[-2:]
        pixels = np.ascontiguousarray(patches).reshape(-1, 3, height * width)
        out = np.empty_like(pixels)
        look_up(self.table, pixels, out)
        return out.reshape(patches.shape)


def normalize_colors(rgb: Float, source: Stain, target: Stain, method: StainMethod) -> Float:
    """Colours ``(n, 3)`` in [0, 255] with another stain, computed and not looked up."""
    if method == "macenko":
        scale = np.append(np.divide(target.concentration, source.concentration), 1)
        change = np.linalg.inv(_with_residual(source)) @ np.diag(scale) @ _with_residual(target)
        found = 256 * np.exp(-_density(rgb) @ change) - 1
    else:
        lab, ratio = _lab(rgb), np.divide(target.std, np.maximum(source.std, 1e-6))
        moved = (lab - source.mean) * ratio + target.mean
        weight = np.clip(_density(rgb).mean(axis=-1, keepdims=True) / MIN_DENSITY, 0, 1)  # white stays
        lms = 10 ** ((lab + weight * (moved - lab)) @ np.linalg.inv(LMS_TO_LAB).T)
        found = 256 * lms @ np.linalg.inv(RGB_TO_LMS).T - 1
    in_range: Float = np.clip(found, 0, 255)
    return in_range


def _with_residual(stain: Stain) -> Float:
    """Both vectors and one orthogonal to them, in rows: what neither dye explains is kept as it is."""
    vectors = np.asarray(stain.vectors)
    return np.vstack([vectors, _unit(np.cross(*vectors))])


def _unit(vectors: Float) -> Float:
    unit: Float = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit


def _density(rgb: Float) -> Float:
    """Optical density (natural logarithm) against white."""
    density: Float = np.log(256 / (rgb + 1))
    return density


def _lab(rgb: NDArray[Any]) -> Float:
    lab: Float = np.log10((rgb + 1.0) / 256 @ RGB_TO_LMS.T) @ LMS_TO_LAB.T
    return lab
