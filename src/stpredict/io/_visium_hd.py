"""Read Visium HD through `spatialdata_io.visium_hd`, and add the resolution and the full-resolution image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from spatialdata.transformations import Identity, set_transformation

from .. import _keys as keys
from .._checks.paths import user_path
from .._resolution import VISIUM_HD_BIN, Resolution, reconcile_resolution
from . import _errors as check
from . import _platforms as platforms
from ._visium import (
    MATRIX_FILES,
    SCALE_FACTORS_FILE,
    find_full_image,
    open_full_image,
    resolution_from_pitch,
    spots_on_tissue,
)

if TYPE_CHECKING:
    from os import PathLike

    from spatialdata import SpatialData

SLICE_FILE = "feature_slice.h5"
PITCH_SAMPLE = 20_000
"""Number of bins from which the pitch is measured, where there are more."""


def read_visium_hd(
    path: str | PathLike[str],
    image: str | PathLike[str] | None = None,
    *,
    bin_um: int = 8,
    name: str | None = None,
    patient: str | None = None,
) -> SpatialData:
    """Read one bin size of a Visium HD sample, as Space Ranger writes it, with its full-resolution image.

    The files are read by ``spatialdata_io.visium_hd``. Added is what training needs: the full-resolution image in
    colour with a pyramid, its resolution, bins on tissue only, and one table.

    Parameters
    ----------
    path
        Folder with ``feature_slice.h5`` (it may have a prefix) and ``binned_outputs``.
    image
        Path of the input image of Space Ranger, of any format of `stp.io.read_wsi`; it is read lazily. By default the
        only image in the folder or its ``microscope_image``.
    bin_um
        Side of a bin in µm: 2, 8 or 16, or another size that the sample has.
    name
        Name of the sample; its elements and its coordinate system are named after it. By default that of the folder.
    patient
        What must stay on one side of a split; ``name`` by default.

    Returns
    -------
    Object with a multiscale image ``{name}_image``, squares ``{name}_square_008um`` (in pixels, coordinate system
    ``name``) and the table ``"observed"`` of raw counts. The resolution, ``microns_per_pixel`` of the scale factors, is
    in ``attrs["stpredict"]["um_per_px"]``.

    Raises
    ------
    FileNotFoundError
        If a file is missing: the message says which, or what to fetch.
    ValueError
        If a file is damaged, bins lie off the image, pixels are not square within 1 %, or the resolutions of the scale
        factors and of the bins' positions differ by more than 5 %.

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
    slices = platforms.find_file(folder, [SLICE_FILE], "feature slice")
    bins = folder / "binned_outputs"
    matches = [VISIUM_HD_BIN.fullmatch(place.name) for place in (sorted(bins.iterdir()) if bins.is_dir() else [])]
    sizes = [int(match[1]) for match in matches if match]
    if bin_um not in sizes:
        msg = f"`bin_um` is {bin_um!r}; '{bins}' has bins of {', '.join(map(str, sizes)) or 'no size'} µm. Give one."
        raise ValueError(msg)
    spatial = bins / f"square_{bin_um:03}um" / "spatial"
    platforms.require_whole_matrix(platforms.find_file(spatial.parent, MATRIX_FILES[:1], "matrix of counts"))
    positions = platforms.find_file(spatial, ["tissue_positions.parquet"], "file of positions")
    platforms.require_whole_parquet(positions)
    name = platforms.sample_name(folder, name)
    prefix = slices.name.removesuffix(SLICE_FILE).removesuffix("_") or name
    factors = platforms.read_json(
        spatial / SCALE_FACTORS_FILE, "file of scale factors", ["microns_per_pixel", "bin_size_um"]
    )
    image_path = find_full_image(folder, image)
    arguments = {
        "dataset_id": prefix,
        "bin_size": bin_um,
        "load_segmentations_only": False,
        # no such file: the image is opened here, else it would be opened twice, and a .btf decoded
        "fullres_image_file": folder / "opened by stpredict",
    }
    source = platforms.call_spatialdata_io("visium_hd", folder, arguments)
    table = spots_on_tissue(source[f"square_{bin_um:03}um"], positions)
    xy = np.asarray(table.obsm[keys.SPATIAL], np.float64)
    some = np.linspace(0, table.n_obs - 1, min(table.n_obs, PITCH_SAMPLE)).astype(np.int64)
    array_um = table.obs[[keys.ARRAY_COL, keys.ARRAY_ROW]].to_numpy(np.float64)[some] * bin_um
    stated = Resolution(um_per_px=float(factors["microns_per_pixel"]), origin=f"'{SCALE_FACTORS_FILE}'")
    known = reconcile_resolution(stated, resolution_from_pitch(array_um, xy[some], name), name)
    instances = table.obs["location_id"].to_numpy()
    squares = source[f"{prefix}_square_{bin_um:03}um"].loc[instances]
    set_transformation(squares, {name: Identity()}, set_all=True)
    return platforms.sample(
        table,
        {f"{name}_image": (open_full_image(image_path, xy, name), known)},
        squares,
        name=name,
        shapes_key=f"{name}_square_{bin_um:03}um",
        patient=patient,
        xy=xy,
        instances=instances,
        source=source,
    )
