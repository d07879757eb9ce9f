"""Read cells and transcripts of Xenium through `spatialdata_io.xenium`, and add the H&E image and its resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zipfile import is_zipfile

import numpy as np
from spatialdata.transformations import Affine, get_transformation, set_transformation

from .. import _keys as keys
from .._checks import slides as check_slides
from .._checks.paths import user_path
from .._geometry import apply_affine, axis_scales
from .._resolution import Resolution, reconcile_resolution
from . import _errors as check
from . import _platforms as platforms

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from numpy.typing import NDArray
    from spatialdata import SpatialData

SPECS_FILE = "experiment.xenium"
TABLE_FILES = ("cells.parquet", "transcripts.parquet")
LEFT_OUT = (
    "cells_boundaries", "nucleus_boundaries", "cells_labels", "nucleus_labels", "morphology_mip", "morphology_focus",
    "aligned_images",
)  # fmt: skip
"""Arguments of `spatialdata_io.xenium` for elements that are not read."""


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
        Path of the H&E image, of any format of `stp.io.read_wsi`; it is read lazily. By default the file in the folder
        whose name ends in ``he_image.ome.tif``.
    alignment
        CSV file of the 3 x 3 matrix from pixels of the H&E image to pixels of the morphology image, or the matrix; by
        default the file in the folder of the image whose name ends in ``he_imagealignment.csv``.
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
    >>> stp.io.read_xenium("/no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: '/no/such/folder' does not exist. Give the folder of a Xenium sample to `stp.io.read_xenium`.
    """
    folder = user_path(path)
    check.require_folder(folder, "a Xenium sample", "stp.io.read_xenium")
    pixel_um = float(platforms.read_json(folder / SPECS_FILE, "description of the run", ["pixel_size"])["pixel_size"])
    for file in TABLE_FILES if transcripts else TABLE_FILES[:1]:
        platforms.require_whole_parquet(platforms.find_file(folder, [file], "table"))
    platforms.require_whole_matrix(platforms.find_file(folder, ["cell_feature_matrix.h5"], "matrix of counts"))
    archive = platforms.find_file(folder, ["cells.zarr.zip"], "archive of cells")
    if not is_zipfile(archive):
        check.unreadable(archive, "archive of cells", "it has no table of contents")
    he_image = _find_he_image(folder) if image is None else user_path(image, "image")
    check.require_file(he_image, "image")
    to_morphology = _read_alignment(alignment, he_image)
    name = platforms.sample_name(folder, name)
    x, y = axis_scales(to_morphology)
    check_slides.square_pixels(x * pixel_um, y * pixel_um, he_image.name)
    stated = Resolution(um_per_px=pixel_um * (x + y) / 2, origin=f"'{SPECS_FILE}' and the alignment")
    known = reconcile_resolution(stated, [], he_image.name)
    arguments = {**dict.fromkeys(LEFT_OUT, False), "cells_as_circles": True, "transcripts": transcripts}
    source = platforms.call_spatialdata_io("xenium", folder, arguments)
    he, _ = platforms.open_image(he_image, name)
    cells, points = source["cell_circles"], dict(source.points)
    for element in (cells, *points.values()):
        set_transformation(element, {name: get_transformation(element)}, set_all=True)
    table = source["table"]
    to_px = np.linalg.inv(to_morphology) @ get_transformation(cells, name).to_affine_matrix(("x", "y"), ("x", "y"))
    xy = apply_affine(to_px, np.asarray(table.obsm[keys.SPATIAL], np.float64))
    _require_cells_on_image(xy, to_morphology, platforms.image_size(he), name)
    set_transformation(he, {name: Affine(to_morphology, ("x", "y"), ("x", "y"))}, set_all=True)
    return platforms.sample(
        table,
        {f"{name}_image": (he, known)},
        cells,
        name=name,
        shapes_key=f"{name}_cells",
        patient=patient,
        xy=xy,
        instances=table.obs["cell_id"].astype(str).to_numpy(),
        points={f"{name}_{key}": element for key, element in points.items()},
        source=source,
    )


def _find_he_image(folder: Path) -> Path:
    found = sorted(folder.glob("*he_image.ome.tif"))
    if len(found) == 1:
        return found[0]
    if found:
        check.several_images(found, folder)
    msg = (
        f"No H&E image ('*he_image.ome.tif') in '{folder}'; the morphology image is fluorescence. Fetch "
        "'Supplemental: Post-Xenium H&E image (OME-TIFF)' and 'H&E image alignment file (CSV)' from 10x Genomics' page "
        "of the data set, and give them as `image` and `alignment`."
    )
    raise FileNotFoundError(msg)


def _read_alignment(given: str | PathLike[str] | NDArray[np.float64] | None, image: Path) -> NDArray[np.float64]:
    """``(3, 3)`` from pixels of the H&E image to those of the morphology image."""
    if isinstance(given, np.ndarray):
        matrix, what = given.astype(np.float64), "that was given"
    else:
        beside = image.with_name(image.name.removesuffix(".ome.tif") + "alignment.csv")
        path = beside if given is None else user_path(given, "alignment")
        if not path.is_file():
            msg = (
                f"No alignment of '{image.name}'{f' at {str(path)!r}' if given is not None else ''}. Give `alignment`: "
                "the CSV file of the 3 x 3 matrix from pixels of the H&E image to pixels of the morphology image "
                "(Xenium Explorer exports it), or the matrix itself; `numpy.eye(3)` if the image is aligned already."
            )
            raise FileNotFoundError(msg)
        try:
            matrix, what = np.loadtxt(path, delimiter=",", ndmin=2, encoding="utf-8-sig"), f"'{path}'"
        except ValueError as reason:
            check.unreadable(path, "alignment", reason)
    affine = matrix.shape == (3, 3) and bool(np.isfinite(matrix).all()) and bool(np.allclose(matrix[2], [0, 0, 1]))
    if not affine or abs(float(np.linalg.det(matrix))) <= 1e-9:
        msg = (
            f"The alignment {what} is no affine matrix (shape {matrix.shape}): 3 x 3 numbers are needed, the last row "
            "0 0 1 and the rest invertible. Export it again, or give the matrix as `alignment`."
        )
        raise ValueError(msg)
    return matrix


def _require_cells_on_image(
    xy: NDArray[np.float64], to_morphology: NDArray[np.float64], size: tuple[int, int], name: str
) -> None:
    """Refuse an alignment that puts all cells off the image, and say so if its inverse does not."""
    by_inverse = apply_affine(to_morphology @ to_morphology, xy)
    share, inverse_share = (float(((at >= 0) & (at < size)).all(axis=1).mean()) for at in (xy, by_inverse))
    if share == 0:
        advice = (
            f"With its inverse {100 * inverse_share:.0f} % do: give the inverse as `alignment`"
            if inverse_share
            else "Give the alignment of this image and this sample as `alignment`"
        )
        msg = f"No cell lies on H&E image '{name}' as `alignment` places it. {advice}."
        raise ValueError(msg)
