"""Read Visium HD: bins, cells, the resolution and the full-resolution image."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from geopandas import GeoDataFrame
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity

from .. import _keys as keys
from .._checks import config as check_config
from .._checks.calls import public
from .._checks.memory import memory_limited
from .._checks.paths import user_path
from .._resolution import (
    VISIUM_HD_BIN,
    Resolution,
    bins_of,
    reconcile_resolution,
    resolutions_from_spots,
    square_lattice,
)
from . import _errors as check
from . import _platforms as platforms
from ._full_image import find_overviews, open_full_image
from ._hd_parts import Part, read_cells, read_factors
from ._tenx import MATRIX_FILES, POSITION_FILES, read_matrix, read_positions, spots_on_tissue
from ._visium import SCALE_FACTORS_FILE, spots_in_array

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from pathlib import Path

    from spatialdata import SpatialData


@public
@memory_limited
def read_visium_hd(
    path: str | PathLike[str],
    image: str | PathLike[str] | None = None,
    *,
    bin_um: int | Sequence[int] | None = 8,
    cells: bool = False,
    name: str | None = None,
    patient: str | None = None,
    um_per_px: float | None = None,
    all_features: bool = False,
    rescale_image: bool = False,
    max_memory_gb: float | None = None,  # noqa: ARG001  (read by the decorator)
) -> SpatialData:
    """Read bins or segmented cells of a Visium HD sample, as Space Ranger writes it, with its full-resolution image.

    The result holds the full-resolution image in colour with a pyramid, its resolution, bins on tissue only, and a
    table for each bin size and for the cells. What is not asked for is not read.

    Parameters
    ----------
    path
        Folder with ``binned_outputs``, and for cells ``segmented_outputs``.
    image
        Path of the input image of Space Ranger, of any format of `stp.io.read_wsi`; it is read lazily. By default the
        only image in the folder or its ``microscope_image``.
    bin_um
        Side of a bin in µm: 2, 8 or 16, or another size that the sample has; several of them; or None for cells only.
    cells
        Whether to read the cells that Space Ranger 4 segments, as polygons with their own counts
        (``segmented_outputs``).
    name
        Name of the sample; its elements and its coordinate system are named after it. By default that of the folder.
    patient
        What must stay on one side of a split; ``name`` by default.
    um_per_px
        Resolution of the image to which the positions refer, in µm per pixel. By default that of the scale factors; a
        given one is used even if it differs.
    all_features
        Whether the table keeps features that are not genes, such as antibodies. They are marked in
        ``var["feature_types"]`` and never counted as genes.
    rescale_image
        Whether ``image`` may be a larger or smaller copy of the one that Space Ranger was given, as in
        `stp.io.read_visium`.
    max_memory_gb
        Largest memory that a part of the files may need at once, in GB, by what they say of their size. By default half
        of the memory of this machine, container or process.

    Returns
    -------
    Object with a multiscale image ``{name}_image``, squares ``{name}_square_008um`` for each bin size and polygons
    ``{name}_cells`` (in pixels, coordinate system ``name``), and tables of raw counts. ``"observed"`` is that of the
    first bin size, or of the cells if there are no bins; the others are named after their shapes, for instance
    ``"{name}_square_016um_counts"`` and ``"{name}_cells_counts"``. Give their names as ``table_name``. The resolution
    is in ``attrs["stpredict"]["um_per_px"]``: ``microns_per_pixel`` of the scale factors, or that of the positions of
    the first bins if these differ by more than 5 %.

    Raises
    ------
    FileNotFoundError
        If a file is missing: the message says which, or what to fetch.
    ValueError
        If a file is damaged, the image is not the one that the positions refer to (see `stp.io.read_visium`), pixels
        are not square within 1 %, cells with counts have no outline, or the resolutions of the scale factors and of the
        bins' positions differ by more than a factor of 1.5.

    Notes
    -----
    A sample has millions of bins of 2 µm, each of which is a polygon in memory. Outlines of cells are repaired where
    they cross themselves; the index of the cells is the number that Space Ranger gave them.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.io.read_visium_hd("/no/folder")
    Traceback (most recent call last):
    FileNotFoundError: '/no/folder' does not exist. Give the folder of a Visium HD sample to `stp.io.read_visium_hd`.
    """
    folder = user_path(path)
    check.require_folder(folder, "a Visium HD sample", "stp.io.read_visium_hd")
    check_config.length("um_per_px", um_per_px)
    given: Any = bin_um
    sides: list[Any] = (
        [] if given is None else [given] if isinstance(given, (Real, str)) else list(dict.fromkeys(given))
    )
    for side in sides:
        check_config.positive("bin_um", side)
    if not sides and not cells:
        msg = f"`bin_um` is {bin_um!r}, and `cells` is False, so nothing is read. Give a side of bins, or `cells=True`."
        raise ValueError(msg)
    name = platforms.sample_name(folder, name)
    places = _bin_folders(folder, sides) if sides else []
    asked = zip(places, sides, strict=True)
    parts = [_read_bins(place, side, name, um_per_px, all_features=all_features) for place, side in asked]
    if cells:
        parts.append(read_cells(folder, all_features=all_features))
    image_path = platforms.find_full_image(folder, image)
    known = _resolution(parts, um_per_px, name)
    full = open_full_image(
        image_path,
        np.concatenate([part.xy for part in parts]),
        name,
        overviews=find_overviews([parts[0].spatial, folder / "spatial"]),
        factors=parts[0].factors,
        rescale=rescale_image,
    )
    shown = np.split(full.shown, np.cumsum([len(part.xy) for part in parts])[:-1])
    parts = [part.select(rows) for part, rows in zip(parts, shown, strict=True)]
    frames = [GeoDataFrame(geometry=part.outlines(known.um_per_px), index=part.instances) for part in parts]
    shapes = [ShapesModel.parse(frame, transformations={name: Identity()}) for frame in frames]
    names = [f"{name}_{part.name}" for part in parts]
    sdata = platforms.sample(
        parts[0].table,
        {f"{name}_image": (full.element, Resolution(um_per_px=known.um_per_px / full.scale, origin=known.origin))},
        shapes[0],
        name=name,
        shapes_key=names[0],
        patient=patient,
        xy=parts[0].xy,
        instances=parts[0].instances,
        platform="visium_hd",
    )
    for part, outlines, key in zip(parts[1:], shapes[1:], names[1:], strict=True):
        sdata.shapes[key] = outlines
        sdata.tables[f"{key}_counts"] = platforms.annotate(
            part.table, key, name=name, patient=patient, xy=part.xy, instances=part.instances
        )
        sdata.attrs[keys.ATTRS][keys.PLATFORM][key] = "visium_hd"
    return sdata


def _bin_folders(folder: Path, sides: Sequence[int]) -> list[Path]:
    """The folders of bins of some sides, which must all be there."""
    bins = folder / "binned_outputs"
    matches = [VISIUM_HD_BIN.fullmatch(place.name) for place in (sorted(bins.iterdir()) if bins.is_dir() else [])]
    found = [int(match[1]) for match in matches if match]
    check.exactly_one([bins] if bins.is_dir() else [], [bins.name], folder, "folder of bins")
    for side in sides:
        if side not in found:
            msg = f"`bin_um` is {side!r}; '{bins}' has bins of {', '.join(map(str, found)) or 'no size'} µm. Give one."
            raise ValueError(msg)
    return [bins / f"square_{side:03}um" for side in sides]


def _read_bins(place: Path, side_um: int, name: str, um_per_px: float | None, *, all_features: bool) -> Part:
    """Bins on tissue, of one size."""
    spatial = place / "spatial"
    matrix = platforms.find_file(place, MATRIX_FILES, "matrix of counts")
    positions = platforms.find_files(spatial, POSITION_FILES)
    check.exactly_one(positions[:1], POSITION_FILES, spatial, "file of positions")
    factors = read_factors(spatial)
    counts = read_matrix(matrix, all_features=all_features)
    table, xy = spots_on_tissue(counts, read_positions(positions), positions[0])
    spots = spots_in_array(table, xy, side_um / factors["microns_per_pixel"])
    square_lattice(bins_of(side_um), spots, name, um_per_px)
    return Part(
        name=f"square_{side_um:03}um",
        table=table,
        xy=xy,
        instances=np.arange(len(xy)),
        spatial=spatial,
        factors=factors,
        by_spots=tuple(resolutions_from_spots(bins_of(side_um), spots)[:1]),
        side_um=side_um,
    )


def _resolution(parts: Sequence[Part], given: float | None, name: str) -> Resolution:
    """The given resolution, or that of the scale factors; compared with the positions of the first bins."""
    stated = Resolution(um_per_px=parts[0].factors["microns_per_pixel"], origin=f"'{SCALE_FACTORS_FILE}'")
    if given is not None:
        stated = Resolution(um_per_px=given, origin="argument")
    return reconcile_resolution(stated, list(parts[0].by_spots), name)
