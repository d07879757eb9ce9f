"""Read Visium HD: bins of one size, the resolution and the full-resolution image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import shapely
from geopandas import GeoDataFrame
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity

from .._checks import config as check_config
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
from ._full_image import OVERVIEWS, find_overviews, open_full_image
from ._tenx import MATRIX_FILES, POSITION_FILES, read_matrix, read_positions, spots_on_tissue
from ._visium import SCALE_FACTORS_FILE, spots_in_array

if TYPE_CHECKING:
    from os import PathLike

    from spatialdata import SpatialData


@memory_limited
def read_visium_hd(
    path: str | PathLike[str],
    image: str | PathLike[str] | None = None,
    *,
    bin_um: int = 8,
    name: str | None = None,
    patient: str | None = None,
    um_per_px: float | None = None,
    all_features: bool = False,
    rescale_image: bool = False,
    max_memory_gb: float | None = None,  # noqa: ARG001  (read by the decorator)
) -> SpatialData:
    """Read one bin size of a Visium HD sample, as Space Ranger writes it, with its full-resolution image.

    The result holds the full-resolution image in colour with a pyramid, its resolution, bins on tissue only, and one
    table. Other bin sizes and segmented cells in the folder are not read.

    Parameters
    ----------
    path
        Folder with ``binned_outputs``.
    image
        Path of the input image of Space Ranger, of any format of `stp.io.read_wsi`; it is read lazily. By default the
        only image in the folder or its ``microscope_image``.
    bin_um
        Side of a bin in µm: 2, 8 or 16, or another size that the sample has.
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
    Object with a multiscale image ``{name}_image``, squares ``{name}_square_008um`` (in pixels, coordinate system
    ``name``) and the table ``"observed"`` of raw counts. The resolution is in ``attrs["stpredict"]["um_per_px"]``:
    ``microns_per_pixel`` of the scale factors, or that of the positions of the bins if these differ by more than 5 %.

    Raises
    ------
    FileNotFoundError
        If a file is missing: the message says which, or what to fetch.
    ValueError
        If a file is damaged, the image is not the one that the positions refer to (see `stp.io.read_visium`), pixels
        are not square within 1 %, or the resolutions of the scale factors and of the bins' positions differ by more
        than a factor of 1.5.

    Notes
    -----
    A sample has millions of bins of 2 µm, each of which is a polygon in memory.

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
    bins = folder / "binned_outputs"
    matches = [VISIUM_HD_BIN.fullmatch(place.name) for place in (sorted(bins.iterdir()) if bins.is_dir() else [])]
    sizes = [int(match[1]) for match in matches if match]
    check.exactly_one([bins] if bins.is_dir() else [], [bins.name], folder, "folder of bins")
    if bin_um not in sizes:
        msg = f"`bin_um` is {bin_um!r}; '{bins}' has bins of {', '.join(map(str, sizes)) or 'no size'} µm. Give one."
        raise ValueError(msg)
    spatial = bins / f"square_{bin_um:03}um" / "spatial"
    matrix = platforms.find_file(spatial.parent, MATRIX_FILES, "matrix of counts")
    positions = platforms.find_files(spatial, POSITION_FILES)
    check.exactly_one(positions[:1], POSITION_FILES, spatial, "file of positions")
    name = platforms.sample_name(folder, name)
    scale_factors = platforms.find_file(spatial, [SCALE_FACTORS_FILE], "file of scale factors")
    factors = platforms.read_numbers(
        scale_factors, "file of scale factors", ["microns_per_pixel"], [f"tissue_{kind}_scalef" for kind in OVERVIEWS]
    )
    image_path = platforms.find_full_image(folder, image)
    counts = read_matrix(matrix, all_features=all_features)
    table, xy = spots_on_tissue(counts, read_positions(positions), positions[0])
    spots = spots_in_array(table, xy, bin_um / factors["microns_per_pixel"])
    square_lattice(bins_of(bin_um), spots, name)
    stated = Resolution(um_per_px=factors["microns_per_pixel"], origin=f"'{SCALE_FACTORS_FILE}'")
    if um_per_px is not None:
        stated = Resolution(um_per_px=um_per_px, origin="argument")
    known = reconcile_resolution(stated, resolutions_from_spots(bins_of(bin_um), spots)[:1], name)
    full = open_full_image(
        image_path,
        xy,
        name,
        overviews=find_overviews([spatial, folder / "spatial"]),
        factors=factors,
        rescale=rescale_image,
    )
    table, xy = table[full.shown], xy[full.shown]
    half = bin_um / known.um_per_px / 2
    squares = shapely.box(*(xy - half).T, *(xy + half).T)
    return platforms.sample(
        table,
        {f"{name}_image": (full.element, Resolution(um_per_px=known.um_per_px / full.scale, origin=known.origin))},
        ShapesModel.parse(GeoDataFrame(geometry=squares), transformations={name: Identity()}),
        name=name,
        shapes_key=f"{name}_square_{bin_um:03}um",
        patient=patient,
        xy=xy,
        platform="visium_hd",
    )
