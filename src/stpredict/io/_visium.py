"""Read Visium: the matrix, the positions, the resolution and the full-resolution image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity, Scale, set_transformation

from .. import _keys as keys
from .._checks import config as check_config
from .._checks.calls import public
from .._checks.memory import memory_limited
from .._checks.paths import user_path
from .._checks.slides import quote
from .._resolution import (
    VISIUM,
    Resolution,
    SpotsOnImage,
    reconcile_resolution,
    resolutions_from_spots,
    square_lattice,
)
from .._slides.expression import array_coordinates
from . import _errors as check
from . import _platforms as platforms
from ._full_image import OVERVIEWS, FullImage, find_overviews, open_full_image
from ._tenx import MATRIX_FILES, POSITION_FILES, read_matrix, read_positions, spots_on_tissue

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData
    from xarray import DataTree

SCALE_FACTORS_FILE = "scalefactors_json.json"
DIAMETER_UM = 55.0


@public
@memory_limited
def read_visium(
    path: str | PathLike[str],
    image: str | PathLike[str] | None = None,
    *,
    name: str | None = None,
    patient: str | None = None,
    um_per_px: float | None = None,
    overviews: bool = False,
    all_features: bool = False,
    rescale_image: bool = False,
    max_memory_gb: float | None = None,  # noqa: ARG001  (read by the decorator)
) -> SpatialData:
    """Read a Visium sample, as Space Ranger writes it, with its full-resolution image.

    The result holds the full-resolution image in colour with a pyramid, the resolution of every image, spots of their
    true size and only those on tissue, and one table.

    Parameters
    ----------
    path
        Folder with ``filtered_feature_bc_matrix.h5`` (or the raw one) and ``spatial``, of any version of Space Ranger;
        file names may have a prefix.
    image
        Path of the input image of Space Ranger, of any format of `stp.io.read_wsi`; it is read lazily. By default the
        only image in the folder or its ``microscope_image``. ``"hires"`` or ``"lowres"`` use an overview instead, in
        which a spot is a few pixels wide.
    name
        Name of the sample; its elements and its coordinate system are named after it. By default that of the folder.
    patient
        What must stay on one side of a split; ``name`` by default.
    um_per_px
        Resolution of the image to which the positions refer, in µm per pixel. By default it follows from the pitch of
        the spots; a given one is used even if it differs.
    overviews
        Whether to add the overviews, as ``{name}_hires_image`` and ``{name}_lowres_image``. Functions then need
        ``image_key`` to know which image to use.
    all_features
        Whether the table keeps features that are not genes, such as antibodies and guides. They are marked in
        ``var["feature_types"]`` and never counted as genes.
    rescale_image
        Whether ``image`` may be a larger or smaller copy of the one that Space Ranger was given. It is then placed over
        the positions, and the coordinate system stays that of the positions.
    max_memory_gb
        Largest memory that a part of the files may need at once, in GB, by what they say of their size. By default half
        of the memory of this machine, container or process.

    Returns
    -------
    Object with a multiscale image ``{name}_image``, circles ``{name}_spots`` of 55 µm (in pixels of the full-resolution
    image, coordinate system ``name``) and the table ``"observed"`` of raw counts. The resolution of every image is in
    ``attrs["stpredict"]["um_per_px"]``.

    Raises
    ------
    FileNotFoundError
        If a file is missing, or there is no full-resolution image: the message says what to fetch.
    ValueError
        If a file is damaged, the image is not the one that the positions refer to, pixels are not square within 1 %, or
        pitch and scale factors differ by more than a factor of 1.5.

    Notes
    -----
    The resolution is computed from the pitch, 100 µm on all slides. It is compared with ``spot_diameter_fullres``, for
    which Space Ranger writes the diameter of a theoretical spot (65 µm on slides of versions 1 and 2, 70 or 60 µm on
    those of CytAssist), other programs the true one of 55 µm; any other diameter is a warning.

    Whether an image is the right one follows from the size of an overview divided by its scale factor. Spots beyond the
    image, as CytAssist finds them, are left out with a warning. Without an overview at most 5 % may lie there.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.io.read_visium("/no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: '/no/such/folder' does not exist. Give the folder of a Visium sample to `stp.io.read_visium`.
    """
    folder = user_path(path)
    check.require_folder(folder, "a Visium sample", "stp.io.read_visium")
    check_config.length("um_per_px", um_per_px)
    matrix = platforms.find_file(folder, MATRIX_FILES, "matrix of counts")
    spatial = folder / "spatial"
    positions = platforms.find_files(spatial, POSITION_FILES)
    check.exactly_one(positions[:1], POSITION_FILES, spatial, "file of positions")
    fields = ["spot_diameter_fullres", *(f"tissue_{kind}_scalef" for kind in OVERVIEWS)]
    scale_factors = platforms.find_file(spatial, [SCALE_FACTORS_FILE], "file of scale factors")
    factors = platforms.read_numbers(scale_factors, "file of scale factors", fields)
    name = platforms.sample_name(folder, name)
    counts = read_matrix(matrix, all_features=all_features)
    table, xy = spots_on_tissue(counts, read_positions(positions), positions[0])
    spots = spots_in_array(table, xy, factors["spot_diameter_fullres"])
    square_lattice(VISIUM, spots, folder.name, um_per_px)
    stated = None if um_per_px is None else Resolution(um_per_px=um_per_px, origin="argument")
    known = reconcile_resolution(stated, resolutions_from_spots(VISIUM, spots), folder.name)
    pictures = find_overviews([spatial])
    main = _open_main(folder, image, factors, xy, name=name, pictures=pictures, rescale=rescale_image)
    images = {f"{name}_image": (main.element, main.scale)}
    for kind in pictures:
        if overviews and kind != image:
            overview = _open_overview(pictures[kind], kind, factors, name)
            images[f"{name}_{kind}_image"] = (overview, factors[f"tissue_{kind}_scalef"])
    with_resolution = {
        key: (element, Resolution(um_per_px=known.um_per_px / factor, origin=known.origin))
        for key, (element, factor) in images.items()
    }
    table, xy = table[main.shown], xy[main.shown]
    radius = DIAMETER_UM / 2 / known.um_per_px
    circles = ShapesModel.parse(xy, geometry=0, radius=radius, transformations={name: Identity()})
    shapes_key = f"{name}_spots"
    return platforms.sample(
        table, with_resolution, circles, name=name, shapes_key=shapes_key, patient=patient, xy=xy, platform="visium"
    )


def spots_in_array(table: AnnData, xy: NDArray[np.float64], diameter_px: float) -> SpotsOnImage:
    """Spots with their places in the array and on the image."""
    return SpotsOnImage(shapes_key=keys.REGION, xy_px=xy, diameter_px=diameter_px, array_xy=array_coordinates(table))


def _open_main(
    folder: Path,
    image: str | PathLike[str] | None,
    factors: Mapping[str, float],
    xy: NDArray[np.float64],
    *,
    name: str,
    pictures: Mapping[str, Path],
    rescale: bool,
) -> FullImage:
    """The full-resolution image, or the overview that is asked for."""
    if not isinstance(image, str) or image not in OVERVIEWS:
        path = platforms.find_full_image(folder, image, list(pictures))
        return open_full_image(path, xy, name, overviews=pictures, factors=factors, rescale=rescale)
    if image not in pictures:
        has = f"there is {quote(list(pictures))}" if pictures else "there is none"
        msg = (
            f"No '{image}' image in '{folder / 'spatial'}' ({has}). Give the path of the full-resolution image as "
            f"`image`. {check.WHERE_FULL_IMAGE}"
        )
        raise FileNotFoundError(msg)
    element = _open_overview(pictures[image], image, factors, name)
    return FullImage(element, factors[f"tissue_{image}_scalef"], np.ones(len(xy), bool))


def _open_overview(path: Path, kind: str, factors: Mapping[str, float], name: str) -> DataTree:
    """A small copy of the image, placed over the positions."""
    factor = factors[f"tissue_{kind}_scalef"]
    image, _ = platforms.open_image(path, name)
    set_transformation(image, {name: Scale([1 / factor, 1 / factor], ("x", "y"))}, set_all=True)
    return image
