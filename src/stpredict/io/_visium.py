"""Read Visium through `spatialdata_io.visium`, and add the resolution and the full-resolution image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity, Scale, set_transformation

from .. import _keys as keys
from .._checks import config as check_config
from .._checks.paths import user_path
from .._checks.slides import MAX_RESOLUTION_DIFFERENCE, quote
from .._resolution import VISIUM, Resolution, reconcile_resolution, resolution_from_pixel_size
from . import _errors as check
from . import _platforms as platforms
from ._lattice import fit_lattice

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike
    from pathlib import Path

    from numpy.typing import NDArray
    from spatialdata import SpatialData
    from xarray import DataTree

MATRIX_FILES = ("filtered_feature_bc_matrix.h5", "raw_feature_bc_matrix.h5")
POSITION_FILES = ("tissue_positions_list.csv", "tissue_positions.csv")
SCALE_FACTORS_FILE = "scalefactors_json.json"
OVERVIEWS = ("hires", "lowres")
ARRAY_STEPS_UM = (50.0, 50.0 * np.sqrt(3))
"""Distance of neighbouring columns and rows of the array: every second column is empty in a row."""
DIAMETER_UM = 55.0


def read_visium(
    path: str | PathLike[str],
    image: str | PathLike[str] | None = None,
    *,
    name: str | None = None,
    patient: str | None = None,
    um_per_px: float | None = None,
    overviews: bool = False,
) -> SpatialData:
    """Read a Visium sample, as Space Ranger writes it, with its full-resolution image.

    The files are read by ``spatialdata_io.visium``. Added is what training needs: the full-resolution image in colour
    with a pyramid, the resolution of every image, spots of their true size and only those on tissue, and one table.

    Parameters
    ----------
    path
        Folder with ``filtered_feature_bc_matrix.h5`` (or the raw one) and ``spatial``, of any version of Space Ranger;
        the matrix may have a prefix.
    image
        Path of the input image of Space Ranger, of any format of `stp.io.read_wsi`; it is read lazily. By default the
        only image in the folder or its ``microscope_image``. ``"hires"`` or ``"lowres"`` use an overview instead, in
        which a spot is a few pixels wide.
    name
        Name of the sample; its elements and its coordinate system are named after it. By default that of the folder.
    patient
        What must stay on one side of a split; ``name`` by default.
    um_per_px
        Resolution of the full-resolution image in µm per pixel. By default it follows from the pitch of the spots.
    overviews
        Whether to add the overviews, as ``{name}_hires_image`` and ``{name}_lowres_image``. Functions then need
        ``image_key`` to know which image to use.

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
        If a file is damaged, spots lie off the image, pixels are not square within 1 %, or positions, scale factors and
        ``um_per_px`` differ by more than 5 %.

    Notes
    -----
    The resolution is computed from the pitch, 100 µm, and compared with ``spot_diameter_fullres``, for which Space
    Ranger writes the diameter of a theoretical spot of 65 µm, other programs the true one of 55 µm.

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
    counts = platforms.find_file(folder, MATRIX_FILES, "matrix of counts")
    platforms.require_whole_matrix(counts)
    positions = platforms.find_file(folder / "spatial", POSITION_FILES, "file of positions")
    fields = ["spot_diameter_fullres", *(f"tissue_{kind}_scalef" for kind in OVERVIEWS)]
    factors = platforms.read_json(folder / "spatial" / SCALE_FACTORS_FILE, "file of scale factors", fields)
    name = platforms.sample_name(folder, name)
    source = platforms.call_spatialdata_io("visium", folder, {"dataset_id": name, "counts_file": counts.name})
    table = spots_on_tissue(source["table"], positions)
    xy = np.asarray(table.obsm[keys.SPATIAL], np.float64)
    known = _resolution(table.obs, xy, um_per_px, factors, folder)
    images = _images(folder, image, factors, xy, name=name, overviews=overviews)
    with_resolution = {
        key: (element, Resolution(um_per_px=known.um_per_px / factor, origin=known.origin))
        for key, (element, factor) in images.items()
    }
    radius = DIAMETER_UM / 2 / known.um_per_px
    circles = ShapesModel.parse(xy, geometry=0, radius=radius, transformations={name: Identity()})
    shapes_key = f"{name}_spots"
    return platforms.sample(
        table, with_resolution, circles, name=name, shapes_key=shapes_key, patient=patient, xy=xy, source=source
    )


def spots_on_tissue(table: Any, positions: Path) -> Any:
    """The rows of a table of spatialdata-io that lie on tissue; all must have positions in the file."""
    n_missing = int((~np.isfinite(np.asarray(table.obsm[keys.SPATIAL], np.float64)).all(axis=1)).sum())
    if n_missing:
        msg = (
            f"{n_missing} of {table.n_obs} spots with counts have no position in '{positions}'. It is cut short or of "
            "another sample; fetch it again."
        )
        raise ValueError(msg)
    on_tissue = np.asarray(table.obs["in_tissue"], np.float64) == 1
    if not on_tissue.any():
        msg = f"No spot with counts lies on tissue by 'in_tissue' of '{positions}'. Give another sample."
        raise ValueError(msg)
    return table[on_tissue].copy()


def _resolution(
    obs: Any, xy: NDArray[np.float64], given: float | None, factors: dict[str, Any], folder: Path
) -> Resolution:
    """The given resolution or that of the pitch, compared with each other and with the spot diameter."""
    array_um = obs[[keys.ARRAY_COL, keys.ARRAY_ROW]].to_numpy(np.float64) * ARRAY_STEPS_UM
    stated = None if given is None else Resolution(um_per_px=given, origin="argument")
    known = reconcile_resolution(stated, resolution_from_pitch(array_um, xy, folder.name), folder.name)
    diameter_px = float(factors["spot_diameter_fullres"])
    diameter_um = diameter_px * known.um_per_px
    if not any(abs(diameter_um / size - 1) <= MAX_RESOLUTION_DIFFERENCE for size in VISIUM.diameters_um):
        by_diameter = " or ".join(f"{size / diameter_px:.4g} (if it is {size:g} µm)" for size in VISIUM.diameters_um)
        msg = (
            f"The pitch of the positions (100 µm) says {known.um_per_px:.4g} µm per pixel, but 'spot_diameter_fullres' "
            f"= {diameter_px:.4g} px in '{folder / 'spatial' / SCALE_FACTORS_FILE}' says {by_diameter}; at most 5 % "
            "apart is allowed. Positions and scale factors are not of one sample, or one of them was rescaled."
        )
        raise ValueError(msg)
    return known


def resolution_from_pitch(array_um: NDArray[np.float64], xy_px: NDArray[np.float64], name: str) -> list[Resolution]:
    """Resolution by ``(n, 2)`` positions of spots in the array and on the image; none where they span no lattice.

    Pixels must be square within 1 %.
    """
    lattice = fit_lattice(array_um, xy_px)
    if lattice is None:
        return []
    x, y = 1 / lattice.pitch_px
    return [resolution_from_pixel_size(float(x), float(y), "spot pitch", name)]


def _images(
    folder: Path,
    image: str | PathLike[str] | None,
    factors: dict[str, Any],
    xy: NDArray[np.float64],
    *,
    name: str,
    overviews: bool,
) -> dict[str, tuple[DataTree, float]]:
    """Image elements by name, each with its size relative to the full-resolution image."""
    available = [kind for kind in OVERVIEWS if (folder / "spatial" / f"tissue_{kind}_image.png").is_file()]
    main = image if isinstance(image, str) and image in OVERVIEWS else None
    if main is None:
        images = {f"{name}_image": (open_full_image(find_full_image(folder, image, available), xy, name), 1.0)}
    elif main in available:
        images = {f"{name}_image": _open_overview(folder, main, factors, name)}
    else:
        has = f"there is {quote(available)}" if available else "there is none"
        msg = (
            f"No '{main}' image in '{folder / 'spatial'}' ({has}). Give the path of the full-resolution image as "
            f"`image`. {check.WHERE_FULL_IMAGE}"
        )
        raise FileNotFoundError(msg)
    for kind in available:
        if overviews and kind != main:
            images[f"{name}_{kind}_image"] = _open_overview(folder, kind, factors, name)
    return images


def open_full_image(path: Path, xy: NDArray[np.float64], name: str) -> DataTree:
    """Open the full-resolution image, on which all spots ``(n, 2)`` must lie."""
    image, _ = platforms.open_image(path, name)
    size = platforms.image_size(image)
    n_off = int(((xy < 0) | (xy >= size)).any(axis=1).sum())
    if n_off:
        x, y = xy.max(axis=0)
        msg = (
            f"{n_off} of {len(xy)} spots lie off image '{path.name}': they reach x = {x:.0f}, y = {y:.0f}, it is "
            f"{size[0]} x {size[1]} px. It is not the image that the positions refer to, perhaps a smaller copy. "
            f"{check.WHERE_FULL_IMAGE}"
        )
        raise ValueError(msg)
    return image


def _open_overview(folder: Path, kind: str, factors: dict[str, Any], name: str) -> tuple[DataTree, float]:
    factor = float(factors[f"tissue_{kind}_scalef"])
    image, _ = platforms.open_image(folder / "spatial" / f"tissue_{kind}_image.png", name)
    set_transformation(image, {name: Scale([1 / factor, 1 / factor], ("x", "y"))}, set_all=True)
    return image, factor


def find_full_image(folder: Path, image: str | PathLike[str] | None, overviews: Sequence[str] = ()) -> Path:
    """The given path, or the only image in the folder or its ``microscope_image``; messages name the overviews."""
    if image is not None:
        return user_path(image, "image")
    places = [place for place in (folder, folder / "microscope_image") if place.is_dir()]
    files = [
        file for place in places for file in sorted(place.iterdir()) if file.suffix.lower() in platforms.IMAGE_SUFFIXES
    ]
    found = [file for file in files if not any(word in file.name for word in ("hires", "lowres", "cytassist"))]
    if len(found) == 1:
        return found[0]
    if found:
        check.several_images(found, folder)
    there = f"there are only overviews ({', '.join(overviews)})" if overviews else "there is no overview either"
    options = " or ".join(f"`image={name!r}`" for name in overviews)
    msg = (
        f"No full-resolution image in '{folder}'; {there}. {check.WHERE_FULL_IMAGE} Give its path as `image`."
        + f" To use an overview instead, in which a spot is a few pixels wide, give {options}." * bool(overviews)
    )
    raise FileNotFoundError(msg)
