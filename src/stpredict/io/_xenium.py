"""Read cells and transcripts of Xenium, and the H&E image with its alignment and resolution."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from spatialdata.models import PointsModel, ShapesModel
from spatialdata.transformations import Affine, Scale, set_transformation

from .. import _keys as keys
from .._checks import slides as check_slides
from .._checks.calls import public
from .._checks.memory import memory_limited
from .._checks.paths import user_path
from .._checks.slides import quote
from .._geometry import apply_affine, axis_scales, on_slide
from .._resolution import Resolution, reconcile_resolution
from . import _errors as check
from . import _platforms as platforms
from ._alignment import read_alignment
from ._tenx import as_texts, open_transcripts, read_matrix, read_parquet

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray
    from spatialdata import SpatialData

SPECS_FILE: Final = "experiment.xenium"
CELL_ID, CELL_AREA, CENTROIDS = "cell_id", "cell_area", ("x_centroid", "y_centroid")
GENE: Final = "feature_name"
LOCATIONS: Final = {"x": "x_location", "y": "y_location", "z": "z_location"}


@public
@memory_limited
def read_xenium(
    path: str | PathLike[str],
    image: str | PathLike[str] | None = None,
    *,
    alignment: str | PathLike[str] | ArrayLike | None = None,
    transcripts: bool = True,
    all_features: bool = False,
    name: str | None = None,
    patient: str | None = None,
    max_memory_gb: float | None = None,  # noqa: ARG001  (read by the decorator)
) -> SpatialData:
    """Read cells and transcripts of a Xenium sample with its H&E image.

    The result holds the H&E image in colour with a pyramid, placed by its alignment, its resolution, and one table of
    cells. Labels, outlines and fluorescence images are not read.

    `stp.pp.spots_from_transcripts` and `stp.pp.spots_from_cells` make spots of what is read.

    Parameters
    ----------
    path
        Folder of the output, with ``experiment.xenium``.
    image
        Path of the H&E image, of any format of `stp.io.read_wsi`; it is read lazily. By default the file in the folder
        whose name ends in ``he_image.ome.tif``.
    alignment
        Either of the files that Xenium Explorer exports, or what they hold; the content decides which it is. The 3 x 3
        matrix maps pixels of the H&E image to pixels of the morphology image. Pairs of keypoints are ``(n, 4)``, three
        or more: ``fixedX`` and ``fixedY`` in pixels of the morphology image, ``alignmentX`` and ``alignmentY`` in
        pixels of the H&E image. The affine matrix is then that with the least squared residuals. By default the file
        in the folder of the image whose name ends in ``he_imagealignment.csv``.
    transcripts
        Whether to read transcripts; they stay on disk until they are needed.
    all_features
        Whether the table of cells keeps features that are not genes, such as control probes and proteins. They are
        marked in ``var["feature_types"]`` and never counted as genes.
    name
        Name of the sample; its elements and its coordinate system are named after it. By default that of the folder.
    patient
        What must stay on one side of a split; ``name`` by default.
    max_memory_gb
        Largest memory that a part of the files may need at once, in GB, by what they say of their size. By default half
        of the memory of this machine, container or process.

    Returns
    -------
    Object with a multiscale image ``{name}_image``, circles ``{name}_cells`` of the area of each cell and points
    ``{name}_transcripts`` (both in µm), the table ``"observed"`` of raw counts of the cells, and the coordinate system
    ``name``, in pixels of the morphology image. The resolution of the H&E image is in
    ``attrs["stpredict"]["um_per_px"]``: ``pixel_size`` of ``experiment.xenium`` times the scale of the alignment. If it
    was computed from keypoints, ``attrs["stpredict"]["alignment"]`` holds their residuals in µm.

    Raises
    ------
    FileNotFoundError
        If a file is missing: the message says which, or what to fetch.
    ValueError
        If a file is damaged, the alignment is no affine matrix, puts all cells off the image, makes pixels that are not
        square within 1 %, or leaves a keypoint more than 20 µm away from its partner.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.io.read_xenium("/no/such/folder")
    Traceback (most recent call last):
    FileNotFoundError: '/no/such/folder' does not exist. Give the folder of a Xenium sample to `stp.io.read_xenium`.
    """
    folder = user_path(path)
    check.require_folder(folder, "a Xenium sample", "stp.io.read_xenium")
    pixel_um = platforms.read_numbers(folder / SPECS_FILE, "description of the run", ["pixel_size"])["pixel_size"]
    cells_file = platforms.find_file(folder, ["cells.parquet"], "table")
    points_file = platforms.find_file(folder, ["transcripts.parquet"], "table") if transcripts else None
    matrix = platforms.find_file(folder, ["cell_feature_matrix.h5"], "matrix of counts")
    he_image = _find_he_image(folder) if image is None else user_path(image, "image")
    check.require_file(he_image, "image")
    to_morphology, residuals_um = read_alignment(alignment, he_image, pixel_um)
    name = platforms.sample_name(folder, name)
    x, y = axis_scales(to_morphology)
    check_slides.square_pixels(x * pixel_um, y * pixel_um, he_image.name)
    stated = Resolution(um_per_px=pixel_um * (x + y) / 2, origin=f"'{SPECS_FILE}' and the alignment")
    known = reconcile_resolution(stated, [], he_image.name)
    he, _ = platforms.open_image(he_image, name)
    to_px = Scale([1 / pixel_um, 1 / pixel_um], ("x", "y"))
    table, centroids = _read_cells(read_matrix(matrix, all_features=all_features), cells_file)
    xy = apply_affine(np.linalg.inv(to_morphology), centroids / pixel_um)
    _require_cells_on_image(xy, to_morphology, platforms.image_size(he), name)
    set_transformation(he, {name: Affine(to_morphology, ("x", "y"), ("x", "y"))}, set_all=True)
    instances = np.asarray(table.obs[CELL_ID])
    radius = np.sqrt(np.asarray(table.obs[CELL_AREA], np.float64) / np.pi)
    cells = ShapesModel.parse(centroids, geometry=0, radius=radius, index=instances, transformations={name: to_px})
    sdata = platforms.sample(
        table,
        {f"{name}_image": (he, known)},
        cells,
        name=name,
        shapes_key=f"{name}_cells",
        patient=patient,
        xy=xy,
        instances=instances,
        points=None if points_file is None else {f"{name}_transcripts": _open_transcripts(points_file, {name: to_px})},
        platform="xenium",
    )
    if residuals_um is not None:
        sdata.attrs[keys.ATTRS][keys.ALIGNMENT] = {f"{name}_image": {"residuals_um": residuals_um.round(3).tolist()}}
    return sdata


def _read_cells(table: AnnData, path: Path) -> tuple[AnnData, NDArray[np.float64]]:
    """The table with what the file says of each cell, matched by id, and the centres ``(n, 2)`` in µm."""
    cells = read_parquet(path, "table", [CELL_ID, *CENTROIDS, CELL_AREA])
    cells[CELL_ID] = as_texts(cells[CELL_ID])
    cells = cells.set_index(CELL_ID, drop=False)
    missing = table.obs_names[~table.obs_names.isin(cells.index)]
    if len(missing) or not cells.index.is_unique:
        msg = (
            f"{len(missing)} of {table.n_obs} cells with counts are not in '{path}' (for instance "
            f"{quote(missing[:3].tolist())}; it holds {len(cells)}, such as {quote(cells.index[:1].tolist())}, "
            f"{'each once' if cells.index.is_unique else 'some twice'}). Give the files of one run."
        )
        raise ValueError(msg)
    cells = cells.loc[table.obs_names]
    table.obs = cells.drop(columns=list(CENTROIDS)).set_axis(table.obs_names)
    centres = cells[list(CENTROIDS)].to_numpy(np.float64)
    n_missing = int((~on_slide(centres)).sum())
    if n_missing:
        msg = (
            f"{n_missing} of {len(centres)} cells have no coordinates in '{path}', or some larger than any slide. "
            "Fetch the file again."
        )
        raise ValueError(msg)
    return table, centres


def _open_transcripts(path: Path, transformations: dict[str, Scale]) -> Any:
    """Transcripts as points in µm, which stay on disk; only the names of the genes are read."""
    table = open_transcripts(path, [GENE, *LOCATIONS.values()])
    names = as_texts(table[GENE].drop_duplicates().compute())
    kind = pd.CategoricalDtype(names)
    table[GENE] = table[GENE].map_partitions(
        lambda part: pd.Series(pd.Categorical(as_texts(part), dtype=kind), part.index), meta=pd.Series(dtype=kind)
    )
    return PointsModel.parse(
        table,
        coordinates=LOCATIONS,
        feature_key=GENE,
        instance_key=CELL_ID if CELL_ID in table else None,
        transformations=transformations,
        sort=True,
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
