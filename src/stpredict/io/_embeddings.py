"""Read embeddings that other tools computed, and write them to the spots that they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pandas as pd

from .._checks import config as check_config
from .._checks.calls import public
from .._checks.paths import user_path
from .._checks.slides import quote
from .._checks.training import warn
from .._slides import checks as check_elements
from .._slides.embeddings import EmbeddingRecord, check_destination, write_embeddings
from .._slides.slides import Selection, resolve
from ._patch_features import read_patch_features
from ._placement import find_placement, match_by_place

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from pathlib import Path

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides.slides import Slide

TOLERANCE = 0.25
"""Default distance between the centres of a spot and its patch, at most, in spot diameters."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PlacedPatches:
    """Where patches lie, in the file and on the image."""

    centers: NDArray[np.float64]
    """``(n, 2)`` centres in the coordinates of the file."""
    scale: float
    offset_px: NDArray[np.float64]
    tolerance_px: float
    """Largest distance between the centres of a spot and its patch."""

    @property
    def centers_px(self) -> NDArray[np.float64]:
        """``(n, 2)`` centres in pixels of the image."""
        return self.centers * self.scale + self.offset_px


@public
def read_embeddings(
    sdata: SpatialData,
    path: str | PathLike[str] | Mapping[str, str | PathLike[str]],
    *,
    key_added: str = "X_embeddings",
    encoder: str | None = None,
    patch_px: float | None = None,
    scale: float = 1.0,
    offset_px: tuple[float, float] = (0.0, 0.0),
    tolerance_um: float | None = None,
    allow_missing: bool = False,
    patch_table: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | Sequence[str] | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
) -> None:
    """Read embeddings of patches that TRIDENT, HEST or LazySlide computed, and match them to the spots.

    Patches are matched by barcode where the file has barcodes of these spots, and else by place: the patch whose centre
    is nearest to that of the spot.

    Parameters
    ----------
    sdata
        The object with the spots and the image that the patches were cut from.
    path
        HDF5 file with ``features`` (or ``embeddings``) and ``coords``, and maybe ``barcodes``, as TRIDENT and HEST
        write it; or a SpatialData store (``.zarr``) with a table of features that annotates the patches, as LazySlide
        writes it. Of several slides a mapping of spot elements to files.
    key_added
        Name of the matrix in ``obsm``.
    encoder
        Name of the encoder, which is recorded: a predictor that was trained with another encoder then refuses them.
    patch_px
        Side of the patches in pixels of the full resolution, from the upper left corners that ``coords`` hold to the
        other side; by default what the file says (``patch_size_level0``). If it says nothing, ``coords`` are centres.
    scale
        Factor from the coordinates in the file to pixels of the full resolution of the image.
    offset_px
        What is added to x and y after that, in pixels.
    tolerance_um
        Largest distance in µm between the centres of a spot and its patch; by default a quarter of the spot diameter.
    allow_missing
        Whether spots may have no patch; their embeddings are NaN, and they must be removed before training.
    patch_table
        Table of features in a SpatialData store, if there are several.
    image_key
        Image, or a mapping of spot elements to images, if there are several.
    shapes_key
        Elements that hold the spots; by default all that the table annotates, or that ``path`` names.
    table_name
        Table that annotates the spots; by default ``"observed"``, or the only one, or none.
    coordinate_system
        Coordinate system shared by image and spots, if there are several.
    um_per_px
        Resolution in µm per pixel; by default the one that the object records.

    Returns
    -------
    Nothing. Writes ``obsm[key_added]`` ``(n_spots, n_features)`` float32, NaN for spots of other slides, and
    ``uns[key_added]``, like `stp.tl.embed`. The field of view is recorded if the side of the patches is known.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds something else, or spots have no patch. If all would match at another scale or offset, the
        message names these.

    Examples
    --------
    >>> import h5py, tempfile
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> path = f"{tempfile.mkdtemp()}/S0.h5"
    >>> with h5py.File(path, "w") as file:
    ...     file["features"] = np.ones((16, 8), np.float32)
    ...     file["coords"] = sdata["observed"].obsm["spatial"] - 112  # upper left corners
    ...     file["coords"].attrs["patch_size_level0"] = 224
    >>> stp.io.read_embeddings(sdata, path, key_added="X_uni", encoder="uni")
    >>> sdata["observed"].obsm["X_uni"].shape
    (16, 8)
    """
    check_config.in_range("scale", scale, 1e-6, 1e6)
    check_elements.is_spatialdata(sdata)
    selection = Selection(
        image_key=image_key,
        shapes_key=list(path) if isinstance(path, Mapping) and shapes_key is None else shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
    )
    slides = resolve(sdata, selection, needs_table=table_name is not None, needs_counts=False)
    parts, fov_um = [], set()
    for slide, file in zip(slides, _files(path, slides), strict=True):
        found = read_patch_features(file, patch_table)
        side_px = found.side_px if patch_px is None else patch_px
        patches = PlacedPatches(
            centers=found.corners_px + side_px / 2,
            scale=scale,
            offset_px=np.asarray(offset_px, np.float64),
            tolerance_px=(tolerance_um or TOLERANCE * slide.diameter_um) / slide.um_per_px,
        )
        rows = _rows_of_spots(slide, found.barcodes, patches, file, allow_missing=allow_missing)
        values = np.full((len(rows), found.features.shape[1]), np.nan, np.float32)
        values[rows >= 0] = found.features[rows[rows >= 0]]
        parts.append(values)
        fov_um.add(round(side_px * scale * slide.um_per_px, 3))
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        msg = (
            f"The files hold embeddings of different widths: {quote(sorted(widths))}. Give files of one encoder, or "
            "read those of each encoder under a `key_added` of its own."
        )
        raise ValueError(msg)
    known = len(fov_um) == 1 and min(fov_um) > 0
    record = EmbeddingRecord(
        key=key_added,
        n_features=widths.pop(),
        origin="file",
        encoders=() if encoder is None else ({"encoder": encoder},),
        fov_um=tuple(fov_um) if known else (),
    )
    check_destination(slides, record)
    write_embeddings(slides, np.concatenate(parts), np.arange(sum(map(len, parts))), record)


def _files(path: str | PathLike[str] | Mapping[str, str | PathLike[str]], slides: Sequence[Slide]) -> list[Path]:
    """The file of each slide."""
    names = [slide.shapes_key for slide in slides]
    given = path if isinstance(path, Mapping) else dict.fromkeys(names[:1], path)
    if set(given) != set(names):
        msg = (
            f"Embeddings are given for {quote(list(given))}, and the spots are those of {quote(names)}. Give `path` as "
            "a mapping of each of these elements to its file, or choose elements with `shapes_key`."
        )
        raise ValueError(msg)
    return [user_path(given[name]) for name in names]


def _rows_of_spots(
    slide: Slide, barcodes: Sequence[str], patches: PlacedPatches, file: Path, *, allow_missing: bool
) -> NDArray[np.intp]:
    """The row of the patch of each spot, by barcode or by place; -1 for none, if that is allowed."""
    rows, what, advice = _match_by_barcode(slide, barcodes, patches), "their barcode", "Embed these spots too"
    if rows is None:
        rows, distance_px = match_by_place(patches.centers_px, slide.xy_px, patches.tolerance_px)
        if (rows < 0).sum() > len(rows) / 2:
            _refuse_placement(slide, patches, file, n_missing=int((rows < 0).sum()))
        nearest_um = distance_px[rows < 0].min(initial=np.inf) * slide.um_per_px
        what = f"a patch within {patches.tolerance_px * slide.um_per_px:.3g} µm (nearest: {nearest_um:.3g} µm)"
        advice = "Give a larger `tolerance_um`"
    missing = slide.obs_names[rows < 0].tolist()
    if not missing:
        return rows
    msg = (
        f"{len(missing)} of {len(rows)} spots of {slide.name!r} do not have {what} among the {len(patches.centers)} "
        f"patches of '{file.name}': {quote(missing)}. "
    )
    if allow_missing:
        warn(f"{msg}Their embeddings are NaN: remove these rows of the table before you train.")
        return rows
    msg += f"{advice}, remove these spots, or set `allow_missing=True`."
    raise ValueError(msg)


def _match_by_barcode(slide: Slide, barcodes: Sequence[str], patches: PlacedPatches) -> NDArray[np.intp] | None:
    """The row of each spot by its name in the table or the element; None if no name is among the barcodes.

    Numbers may be those of rows: they are names only if no place contradicts them.
    """
    known = pd.Index(barcodes)
    if not known.is_unique:
        return None
    names = [pd.Index(slide.obs_names.astype(str)), pd.Index(slide.instances.astype(str))]
    rows: NDArray[np.intp] = max((known.get_indexer(each) for each in names), key=lambda each: int((each >= 0).sum()))
    found = rows >= 0
    if found.any() and all(str(name).isdecimal() for name in barcodes):
        away = np.linalg.norm(patches.centers_px[rows[found]] - slide.xy_px[found], axis=1)
        if (away > patches.tolerance_px).any():
            return None
    return rows if found.any() else None


def _refuse_placement(slide: Slide, patches: PlacedPatches, file: Path, *, n_missing: int) -> NoReturn:
    """Refuse patches that lie elsewhere; name the scale and offset at which they would match, if there are any."""
    better = find_placement(patches.centers, slide.xy_px, patches.tolerance_px, slide.um_per_px)
    (left, upper), (right, lower) = patches.centers_px.min(axis=0), patches.centers_px.max(axis=0)
    (x0, y0), (x1, y1) = slide.xy_px.min(axis=0), slide.xy_px.max(axis=0)
    advice = "See whether they are of this slide, and give `scale` and `offset_px`, or `patch_px`."
    if better is not None:
        advice = (
            f"{better.n_matched} spots would match with `scale={better.scale:g}` and `offset_px={better.offset_px}`: "
            "give these if they are right."
        )
    msg = (
        f"{n_missing} of {len(slide.xy_px)} spots of {slide.name!r} have no patch in '{file.name}' within "
        f"{patches.tolerance_px * slide.um_per_px:.3g} µm: the centres of patches lie at x {left:.0f} to {right:.0f} "
        f"and y {upper:.0f} to {lower:.0f} px, spots at x {x0:.0f} to {x1:.0f} and y {y0:.0f} to {y1:.0f}. {advice}"
    )
    raise ValueError(msg)
