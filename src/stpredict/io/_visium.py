"""Read Visium: what `spatialdata_io.visium` reads, with its resolution and the image that patches are cut from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from spatialdata import SpatialData
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity, Scale

from .. import _keys as keys
from .._checks import files as check_files
from .._checks import platforms as check
from .._resolution import VISIUM, Resolution, reconcile_resolution, resolution_from_pixel_size
from . import _bundle as bundle
from ._lattice import fit_lattice

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray
    from xarray import DataTree

COUNTS = ("filtered_feature_bc_matrix.h5", "raw_feature_bc_matrix.h5")
POSITIONS = ("tissue_positions_list.csv", "tissue_positions.csv")
FACTORS = "scalefactors_json.json"
OVERVIEWS = ("hires", "lowres")
STEPS_UM = (50.0, 50.0 * np.sqrt(3))
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
        Path of the image that Space Ranger was given, of any format of `stp.io.read_wsi`; it is read as needed. By
        default the only image in the folder or its ``microscope_image``. ``"hires"`` or
        ``"lowres"`` take an overview instead, in which a spot is a few pixels wide.
    name
        Name of the sample; its elements and its coordinate system are named after it. By default that of the folder.
    patient
        What must stay on one side of a split; ``name`` by default.
    um_per_px
        Resolution of the full-resolution image in µm per pixel. By default it follows from the pitch of the spots.
    overviews
        Whether to keep the other overviews too, as ``{name}_hires_image`` and ``{name}_lowres_image``. Functions then
        need ``image_key`` to know which is meant.

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
    The resolution is that of the pitch, 100 µm. ``spot_diameter_fullres`` is compared with it: Space Ranger writes the
    diameter of a theoretical spot of 65 µm, other programs that of the 55 µm that a spot has.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.io.read_visium("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: 'no/such/folder' does not exist. Give the folder of a Visium sample to `stp.io.read_visium`.
    """
    folder = Path(path)
    check.folder(folder, "a Visium sample", "stp.io.read_visium")
    if um_per_px is not None:
        check_files.positive("um_per_px", um_per_px)
    counts = bundle.find(folder, COUNTS, "matrix of counts")
    bundle.whole_matrix(counts)
    positions = bundle.find(folder / "spatial", POSITIONS, "file of positions")
    needed = ["spot_diameter_fullres", *(f"tissue_{kind}_scalef" for kind in OVERVIEWS)]
    factors = bundle.read_json(folder / "spatial" / FACTORS, "file of scale factors", needed)
    name = bundle.sample_name(folder, name)
    source = bundle.call("visium", folder, {"dataset_id": name, "counts_file": counts.name})
    table = on_tissue(source["table"], positions)
    xy = np.asarray(table.obsm[keys.SPATIAL], np.float64)
    known = _resolution(table.obs, xy, um_per_px, factors, folder)
    images = _images(folder, image, factors, xy, name=name, overviews=overviews)
    resolutions = {
        key: Resolution(um_per_px=known.um_per_px / shrunk, origin=known.origin) for key, (_, shrunk) in images
    }
    shapes_key, instances = f"{name}_spots", np.arange(len(xy))
    radius = DIAMETER_UM / 2 / known.um_per_px
    circles = ShapesModel.parse(xy, geometry=0, radius=radius, transformations={name: Identity()})
    made = bundle.linked(table, name=name, shapes_key=shapes_key, patient=patient, instances=instances, xy=xy)
    return SpatialData(
        images={key: element for key, (element, _) in images},
        shapes={shapes_key: circles},
        tables={keys.OBSERVED: made},
        attrs=bundle.notes(resolutions, source),
    )


def on_tissue(table: Any, positions: Path) -> Any:
    """Rows of spots on tissue.

    Parameters
    ----------
    table
        What spatialdata-io read.
    positions
        The file of positions, for messages.

    Returns
    -------
    Those rows.
    """
    lost = ~np.isfinite(np.asarray(table.obsm[keys.SPATIAL], np.float64)).all(axis=1)
    check.placed(int(lost.sum()), table.n_obs, positions)
    kept = np.asarray(table.obs["in_tissue"], np.float64) == 1
    check.some_tissue(int(kept.sum()), positions)
    return table[kept].copy()


def _resolution(
    obs: Any, xy: NDArray[np.float64], given: float | None, factors: dict[str, Any], folder: Path
) -> Resolution:
    """By the argument or the pitch, both and the diameter compared."""
    array_um = obs[[keys.ARRAY_COL, keys.ARRAY_ROW]].to_numpy(np.float64) * STEPS_UM
    by_pitch = pitch_resolution(array_um, xy, folder.name)
    told = None if given is None else Resolution(um_per_px=given, origin="argument")
    known = reconcile_resolution(told, [] if by_pitch is None else [by_pitch], folder.name)
    diameter_px = float(factors["spot_diameter_fullres"])
    check.spot_diameter(diameter_px, known.um_per_px, VISIUM.diameters_um, folder / "spatial" / FACTORS)
    return known


def pitch_resolution(array_um: NDArray[np.float64], xy_px: NDArray[np.float64], name: str) -> Resolution | None:
    """Resolution by the places of spots in an array.

    Parameters
    ----------
    array_um
        ``(n, 2)`` places in the array in µm.
    xy_px
        ``(n, 2)`` centres in pixels.
    name
        Name of the sample, for messages.

    Returns
    -------
    The resolution, None where too few spots span no lattice.

    Raises
    ------
    ValueError
        If pixels are not square within 1 %.
    """
    lattice = fit_lattice(array_um, xy_px)
    if lattice is None:
        return None
    x, y = 1 / lattice.pitch_px
    return resolution_from_pixel_size(float(x), float(y), "spot pitch", name)


def _images(
    folder: Path,
    image: str | PathLike[str] | None,
    factors: dict[str, Any],
    xy: NDArray[np.float64],
    *,
    name: str,
    overviews: bool,
) -> list[tuple[str, tuple[DataTree, float]]]:
    """Every image by its name, and its size relative to the full-resolution one."""
    there = [kind for kind in OVERVIEWS if (folder / "spatial" / f"tissue_{kind}_image.png").is_file()]
    asked = image if isinstance(image, str) and image in OVERVIEWS else None
    if asked is None:
        found = [(f"{name}_image", (whole_slide(full_image(folder, image, there), xy, name), 1.0))]
    else:
        check.overview(asked, there, folder / "spatial")
        found = [(f"{name}_image", _overview(folder, asked, factors, name))]
    rest = [kind for kind in there if overviews and kind != asked]
    return found + [(f"{name}_{kind}_image", _overview(folder, kind, factors, name)) for kind in rest]


def whole_slide(path: Path, xy: NDArray[np.float64], name: str) -> DataTree:
    """The full-resolution image, on which all spots lie.

    Parameters
    ----------
    path
        The image.
    xy
        ``(n, 2)`` centres of the spots in its pixels.
    name
        Name of the sample.

    Returns
    -------
    Multiscale image in pixels of the coordinate system ``name``.
    """
    image, _ = bundle.opened(path, name)
    size = bundle.size(image)
    off = ((xy < 0) | (xy >= size)).any(axis=1)
    check.covers(int(off.sum()), len(xy), xy.max(axis=0).tolist(), size, path.name)
    return image


def _overview(folder: Path, kind: str, factors: dict[str, Any], name: str) -> tuple[DataTree, float]:
    factor = float(factors[f"tissue_{kind}_scalef"])
    image, _ = bundle.opened(folder / "spatial" / f"tissue_{kind}_image.png", name)
    return bundle.placed(image, name, Scale([1 / factor, 1 / factor], ("x", "y"))), factor


def full_image(folder: Path, image: str | PathLike[str] | None, overviews: list[str]) -> Path:
    """Path of the full-resolution image.

    Parameters
    ----------
    folder
        Where to look for it.
    image
        The user's word, if any.
    overviews
        Overviews that are there, for messages.

    Returns
    -------
    As given, or the only image in the folder or its ``microscope_image``.
    """
    if image is not None:
        return Path(image)
    places = [place for place in (folder, folder / "microscope_image") if place.is_dir()]
    files = [file for place in places for file in sorted(place.iterdir()) if file.suffix.lower() in bundle.IMAGES]
    found = [file for file in files if not any(word in file.name for word in ("hires", "lowres", "cytassist"))]
    return check.full_image(found, folder, overviews)
