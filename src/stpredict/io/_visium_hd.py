"""Read Visium HD: what `spatialdata_io.visium_hd` reads, with its resolution and the image patches are cut from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from spatialdata import SpatialData
from spatialdata.transformations import Identity, set_transformation

from .. import _keys as keys
from .._checks import platforms as check
from .._resolution import VISIUM_HD_BIN, Resolution, reconcile_resolution
from . import _bundle as bundle
from ._visium import COUNTS, FACTORS, full_image, on_tissue, pitch_resolution, whole_slide

if TYPE_CHECKING:
    from os import PathLike

SLICES = ("feature_slice.h5",)
POSITIONS = ("tissue_positions.parquet",)
MANY = 20_000
"""So many bins are enough to find the pitch."""


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
        Path of the image that Space Ranger was given, of any format of `stp.io.read_wsi`; it is read as needed. By
        default the only one in the folder or its ``microscope_image``.
    bin_um
        Side of a bin in µm: 2, 8 or 16, or what else the sample has.
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
        If a file is damaged, bins lie off the image, pixels are not square within 1 %, or scale factors and places of
        the bins differ by more than 5 %.

    Notes
    -----
    Bins of 2 µm are millions: each is a polygon in memory.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.io.read_visium_hd("no/folder")
    Traceback (most recent call last):
    FileNotFoundError: 'no/folder' does not exist. Give the folder of a Visium HD sample to `stp.io.read_visium_hd`.
    """
    folder = Path(path)
    check.folder(folder, "a Visium HD sample", "stp.io.read_visium_hd")
    slices = bundle.find(folder, SLICES, "feature slice")
    bins = folder / "binned_outputs"
    found = [VISIUM_HD_BIN.fullmatch(place.name) for place in (sorted(bins.iterdir()) if bins.is_dir() else [])]
    check.bin_known(bin_um, [int(match[1]) for match in found if match], bins)
    spatial = bins / f"square_{bin_um:03}um" / "spatial"
    bundle.whole_matrix(bundle.find(spatial.parent, COUNTS[:1], "matrix of counts"))
    positions = bundle.find(spatial, POSITIONS, "file of positions")
    bundle.whole_parquet(positions)
    name = bundle.sample_name(folder, name)
    prefix = slices.name.removesuffix(SLICES[0]).removesuffix("_")
    arguments = {"dataset_id": prefix or name, "bin_size": bin_um, "load_segmentations_only": False}
    elsewhere = folder / "read here, not there"  # else each image would be opened twice, a .btf wholly
    factors = bundle.read_json(spatial / FACTORS, "file of scale factors", ["microns_per_pixel", "bin_size_um"])
    path_of_image = full_image(folder, image, [])
    source = bundle.call("visium_hd", folder, {**arguments, "fullres_image_file": elsewhere})
    table = on_tissue(source[f"square_{bin_um:03}um"], positions)
    known = _resolution(table, bin_um, float(factors["microns_per_pixel"]), name)
    return _assembled(source, table, known, path_of_image, name=name, patient=patient, bin_um=bin_um, prefix=prefix)


def _resolution(table: Any, bin_um: int, um_per_px: float, name: str) -> Resolution:
    """By the scale factors, with which the places of the bins are compared."""
    some = np.linspace(0, table.n_obs - 1, min(table.n_obs, MANY)).astype(np.int64)
    array_um = table.obs[[keys.ARRAY_COL, keys.ARRAY_ROW]].to_numpy(np.float64)[some] * bin_um
    by_pitch = pitch_resolution(array_um, np.asarray(table.obsm[keys.SPATIAL], np.float64)[some], name)
    told = Resolution(um_per_px=um_per_px, origin=f"'{FACTORS}'")
    return reconcile_resolution(told, [] if by_pitch is None else [by_pitch], name)


def _assembled(
    source: SpatialData,
    table: Any,
    known: Resolution,
    image: Path,
    *,
    name: str,
    patient: str | None,
    bin_um: int,
    prefix: str,
) -> SpatialData:
    xy = np.asarray(table.obsm[keys.SPATIAL], np.float64)
    shapes_key, image_key = f"{name}_square_{bin_um:03}um", f"{name}_image"
    instances = table.obs["location_id"].to_numpy()
    squares = source[f"{prefix or name}_square_{bin_um:03}um"].loc[instances]
    set_transformation(squares, {name: Identity()}, set_all=True)
    made = bundle.linked(table, name=name, shapes_key=shapes_key, patient=patient, instances=instances, xy=xy)
    return SpatialData(
        images={image_key: whole_slide(image, xy, name)},
        shapes={shapes_key: squares},
        tables={keys.OBSERVED: made},
        attrs=bundle.notes({image_key: known}, source),
    )
