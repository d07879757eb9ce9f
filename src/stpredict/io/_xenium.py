"""Read Xenium: what `spatialdata_io.xenium` reads of cells and transcripts, with an H&E image and its resolution."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import is_zipfile

import numpy as np
from spatialdata import SpatialData
from spatialdata.transformations import Affine, get_transformation, set_transformation

from .. import _keys as keys
from .._checks import platforms as check
from .._checks import slides as check_slides
from .._geometry import apply_affine, axis_scales
from .._resolution import Resolution, reconcile_resolution
from . import _bundle as bundle

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray
    from xarray import DataTree

SPECS = "experiment.xenium"
TABLES = ("cells.parquet", "transcripts.parquet")
HE_IMAGE = "he_image.ome.tif"


def read_xenium(
    path: str | PathLike[str],
    image: str | PathLike[str] | None = None,
    *,
    alignment: str | PathLike[str] | NDArray[np.float64] | None = None,
    transcripts: bool = True,
    name: str | None = None,
    patient: str | None = None,
) -> SpatialData:
    """Read cells and transcripts of a Xenium sample with its H&E image.

    The files are read by ``spatialdata_io.xenium``. Added is what training needs: the H&E image in colour with a
    pyramid, placed by its alignment, its resolution, and one table of cells. Labels, outlines and fluorescence images
    are left out. `stp.pp.spots_from_transcripts` and `stp.pp.spots_from_cells` make spots of what is read.

    Parameters
    ----------
    path
        Folder of the output, with ``experiment.xenium``.
    image
        Path of the H&E image, of any format of `stp.io.read_wsi`; it is read as needed. By default the file in the
        folder whose name ends in ``he_image.ome.tif``.
    alignment
        CSV file of the 3 x 3 matrix from pixels of the H&E image to pixels of the morphology image, or the matrix; by
        default the file beside the image whose name ends in ``he_imagealignment.csv``.
    transcripts
        Whether to read transcripts; they stay on disk until they are needed.
    name
        Name of the sample; its elements and its coordinate system are named after it. By default that of the folder.
    patient
        What must stay on one side of a split; ``name`` by default.

    Returns
    -------
    Object with a multiscale image ``{name}_image``, circles ``{name}_cells`` of the area of each cell and points
    ``{name}_transcripts`` (both in µm), the table ``"observed"`` of raw counts of the cells, and the coordinate system
    ``name``, in pixels of the morphology image. The resolution of the H&E image is in
    ``attrs["stpredict"]["um_per_px"]``: ``pixel_size`` of ``experiment.xenium`` times the scale of the alignment.

    Raises
    ------
    FileNotFoundError
        If a file is missing: the message says which, or what to fetch.
    ValueError
        If a file is damaged, the alignment is no affine matrix, puts all cells off the image, or makes pixels that are
        not square within 1 %.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.io.read_xenium("no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: 'no/such/folder' does not exist. Give the folder of a Xenium sample to `stp.io.read_xenium`.
    """
    folder = Path(path)
    check.folder(folder, "a Xenium sample", "stp.io.read_xenium")
    pixel_um = float(bundle.read_json(folder / SPECS, "description of the run", ["pixel_size"])["pixel_size"])
    for file in TABLES if transcripts else TABLES[:1]:
        bundle.whole_parquet(bundle.find(folder, [file], "table"))
    bundle.whole_matrix(bundle.find(folder, ["cell_feature_matrix.h5"], "matrix of counts"))
    archive = bundle.find(folder, ["cells.zarr.zip"], "archive of cells")
    if not is_zipfile(archive):
        check.unreadable(archive, "archive of cells", "it has no table of contents")
    he_image = check.he_image(sorted(folder.glob(f"*{HE_IMAGE}")), folder) if image is None else Path(image)
    check.image_file(he_image)
    to_morphology = _alignment(alignment, he_image)
    name = bundle.sample_name(folder, name)
    known = _resolution(to_morphology, pixel_um, he_image.name)
    source = bundle.call("xenium", folder, _only(transcripts=transcripts))
    opened, _ = bundle.opened(he_image, name)
    return _assembled(source, opened, to_morphology, known, name=name, patient=patient)


def _only(*, transcripts: bool) -> dict[str, bool]:
    left_out = (
        "cells_boundaries", "nucleus_boundaries", "cells_labels", "nucleus_labels", "morphology_mip",
        "morphology_focus", "aligned_images",
    )  # fmt: skip
    return {**dict.fromkeys(left_out, False), "cells_as_circles": True, "transcripts": transcripts}


def _alignment(given: str | PathLike[str] | NDArray[np.float64] | None, image: Path) -> NDArray[np.float64]:
    """``(3, 3)`` from pixels of the H&E image to those of the morphology image."""
    if isinstance(given, np.ndarray):
        matrix, what = given.astype(np.float64), "that was given"
    else:
        path = image.with_name(image.name.removesuffix(".ome.tif") + "alignment.csv") if given is None else Path(given)
        if not path.is_file():
            check.alignment(None if given is None else path, image)
        try:
            matrix, what = np.loadtxt(path, delimiter=",", ndmin=2), f"'{path}'"
        except ValueError as reason:
            check.unreadable(path, "alignment", reason)
    last = matrix.shape == (3, 3) and bool(np.allclose(matrix[2], [0, 0, 1]))
    valid = last and bool(np.isfinite(matrix).all()) and abs(float(np.linalg.det(matrix))) > 1e-9
    check.affine(matrix.shape, valid=valid, what=what)
    return matrix


def _resolution(to_morphology: NDArray[np.float64], pixel_um: float, name: str) -> Resolution:
    x, y = axis_scales(to_morphology)
    check_slides.square_pixels(x * pixel_um, y * pixel_um, name)
    stated = Resolution(um_per_px=pixel_um * (x + y) / 2, origin=f"'{SPECS}' and the alignment")
    return reconcile_resolution(stated, [], name)


def _assembled(
    source: SpatialData,
    image: DataTree,
    to_morphology: NDArray[np.float64],
    known: Resolution,
    *,
    name: str,
    patient: str | None,
) -> SpatialData:
    cells, points = source["cell_circles"], dict(source.points)
    for element in (cells, *points.values()):
        set_transformation(element, {name: get_transformation(element)}, set_all=True)
    table = source["table"]
    shapes_key, image_key = f"{name}_cells", f"{name}_image"
    instances = table.obs["cell_id"].astype(str).to_numpy()
    to_px = np.linalg.inv(to_morphology) @ get_transformation(cells, name).to_affine_matrix(("x", "y"), ("x", "y"))
    xy = apply_affine(to_px, np.asarray(table.obsm[keys.SPATIAL], np.float64))
    _on_image(xy, to_morphology, bundle.size(image), name)
    bundle.placed(image, name, Affine(to_morphology, ("x", "y"), ("x", "y")))
    made = bundle.linked(table, name=name, shapes_key=shapes_key, patient=patient, instances=instances, xy=xy)
    return SpatialData(
        images={image_key: image},
        shapes={shapes_key: cells},
        points={f"{name}_{key}": element for key, element in points.items()},
        tables={keys.OBSERVED: made},
        attrs=bundle.notes({image_key: known}, source),
    )


def _on_image(xy: NDArray[np.float64], matrix: NDArray[np.float64], size: tuple[int, int], name: str) -> None:
    inverse = apply_affine(matrix @ matrix, xy)
    share, of_inverse = (float(((at >= 0) & (at < size)).all(axis=1).mean()) for at in (xy, inverse))
    check.cells_on_image(share, of_inverse, name)
