"""What readers of platforms share: find files, let spatialdata-io read them, and bring its result into our layout.

Nothing here knows the layout of one platform, and nothing is written.
"""

from __future__ import annotations

import json
import re
import warnings
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
from scipy import sparse
from spatialdata.models import TableModel
from spatialdata.transformations import set_transformation

from .. import _keys as keys
from .._checks import platforms as check
from .._checks import slides as check_slides
from .._resolution import resolution_from_pixel_size
from ._wsi import _element, slide_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData
    from spatialdata.transformations import BaseTransformation
    from xarray import DataTree

    from .._resolution import Resolution

HARMLESS = "|".join(
    [
        "Variable names are not unique",
        "Converting `region_key",
        "No full resolution image",
        "File .* does not exist",
        "No image path found",
    ]
)
"""Warnings of libraries about what is dealt with here."""
IMAGES = {".tif", ".tiff", ".btf", ".svs", ".ndpi", ".jpg", ".jpeg", ".png"}
"""Suffixes of images that are looked for."""
FAILURES = (AssertionError, AttributeError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError)
"""What libraries raise about damaged files."""


def find(place: Path, names: Sequence[str], what: str) -> Path:
    """The file of one of several names, alone or after a prefix.

    Parameters
    ----------
    place
        Folder to look in.
    names
        Names, the most wanted first.
    what
        What it is, for messages.

    Returns
    -------
    Path of the file.
    """
    found: list[Path] = []
    for name in names if place.is_dir() else []:
        exact = place / name
        found = [exact] if exact.is_file() else sorted(file for file in place.glob(f"*_{name}") if file.is_file())
        if found:
            break
    return check.one_of(found, names, place, what)


def sample_name(folder: Path, given: str | None) -> str:
    """Name of a sample: as given, or that of its folder in letters that SpatialData allows.

    Parameters
    ----------
    folder
        Its folder; ``outs`` is named after what it lies in.
    given
        The user's word.

    Returns
    -------
    The name.
    """
    place = folder.resolve()
    return given or re.sub(r"[^\w.-]+", "_", (place.parent if place.name == "outs" else place).name)


def read_json(path: Path, what: str, fields: Sequence[str]) -> dict[str, Any]:
    """Fields of a JSON file.

    Parameters
    ----------
    path
        The file.
    what
        What it is, for messages.
    fields
        Fields that it must have.

    Returns
    -------
    All of its fields.
    """
    check.one_of([path] if path.is_file() else [], [path.name], path.parent, what)
    try:
        values: dict[str, Any] = dict(json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as reason:
        check.unreadable(path, what, reason)
    check.has_fields(values, fields, path)
    return values


def whole_matrix(path: Path) -> None:
    """Refuse an HDF5 file of counts that is cut short or holds something else.

    Parameters
    ----------
    path
        The file.
    """
    try:
        with h5py.File(path) as file:
            shape = file["matrix/shape"][:]
            ends = file["matrix/indptr"][-1], len(file["matrix/indices"]), len(file["matrix/data"])
            n_columns = len(file["matrix/indptr"]) - 1
    except (KeyError, OSError) as reason:
        check.unreadable(path, "matrix of counts", reason)
    if len(set(ends)) > 1 or n_columns != shape[1]:
        check.unreadable(path, "matrix of counts", f"it says {shape.tolist()}, but holds {ends[1]} of {ends[0]} values")


def whole_parquet(path: Path) -> None:
    """Refuse a parquet file that is cut short or holds something else.

    Parameters
    ----------
    path
        The file.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        read_metadata(path)
    except (ArrowException, OSError, ValueError) as reason:
        check.unreadable(path, "table", reason)


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=HARMLESS)
        for kind in (DeprecationWarning, FutureWarning):  # of libraries to each other
            warnings.simplefilter("ignore", kind)
        yield


def call(reader: str, folder: Path, arguments: Mapping[str, Any]) -> SpatialData:
    """What a reader of spatialdata-io makes of a folder.

    Parameters
    ----------
    reader
        Name of the reader.
    folder
        The folder.
    arguments
        Its other arguments.

    Returns
    -------
    Its result.
    """
    try:
        read = getattr(import_module("spatialdata_io"), reader)
    except ImportError:
        check.missing_extra("spatialdata-io", "io")
    with _quiet():
        try:
            sdata: SpatialData = read(folder, **arguments)
        except FAILURES as reason:
            check.not_read(folder, reader, reason)
    return sdata


def opened(path: Path, name: str) -> tuple[DataTree, Resolution | None]:
    """Open an image file, as `read_wsi` does: nothing is decoded before it is needed.

    Parameters
    ----------
    path
        TIFF (also BigTIFF and OME-TIFF), SVS, JPEG, PNG and what else `read_wsi` knows.
    name
        Name of the sample and its coordinate system.

    Returns
    -------
    Multiscale image ``(c, y, x)`` in colour, and the resolution that the file states, if it does.

    Raises
    ------
    ValueError
        If the file is cut short, grey, or of no known kind.
    """
    check.image_file(path)
    file = slide_file(path, "auto")
    check_slides.colour_image(file.levels[0].shape, path.name)
    image = _element(file, name, rechunk=False)
    if file.um_per_px is None:
        return image, None
    return image, resolution_from_pixel_size(*file.um_per_px, "image metadata", path.name)


def size(image: DataTree) -> tuple[int, int]:
    """Width and height of a multiscale image in pixels.

    Parameters
    ----------
    image
        The image.

    Returns
    -------
    Width, height.
    """
    height, width = image["scale0"]["image"].shape[-2:]
    return int(width), int(height)


def as_colour(pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Pixels with the colours first.

    Parameters
    ----------
    pixels
        ``(3, y, x)`` or ``(y, x, 3)`` uint8; a fourth channel is left out.
    name
        Name of the image, for messages.

    Returns
    -------
    ``(3, y, x)`` uint8.
    """
    check.depth(pixels.dtype, name)
    check.colour(pixels.shape, name)
    last = pixels.shape[-1] in {3, 4}
    return np.ascontiguousarray((pixels.transpose(2, 0, 1) if last else pixels)[:3])


def placed(image: DataTree, name: str, to_sample: BaseTransformation) -> DataTree:
    """Put an image element into the coordinate system of a sample.

    Parameters
    ----------
    image
        Multiscale image.
    name
        Name of the sample and its coordinate system.
    to_sample
        Transformation from pixels to it.

    Returns
    -------
    The image.
    """
    set_transformation(image, {name: to_sample}, set_all=True)
    return image


def linked(
    table: AnnData, *, name: str, shapes_key: str, patient: str | None, instances: NDArray[Any], xy: NDArray[np.float64]
) -> AnnData:
    """A table that annotates spots as our other readers have it.

    Parameters
    ----------
    table
        Counts; not changed.
    name
        Name of the sample.
    shapes_key
        Element that holds its spots.
    patient
        What must stay on one side of a split; ``name`` by default.
    instances
        ``(n,)`` index of each spot in that element.
    xy
        ``(n, 2)`` centres.

    Returns
    -------
    A linked copy.
    """
    with _quiet():  # names of genes are made unique below
        copy = table.copy()
    copy.uns.pop("spatialdata_attrs", None)
    copy.var_names_make_unique()
    if sparse.issparse(copy.X):
        copy.X = sparse.csr_matrix(copy.X)
    columns = {keys.REGION: shapes_key, keys.SECTION: name, keys.PATIENT: patient or name}
    for column, value in columns.items():
        copy.obs[column] = pd.Categorical([value] * copy.n_obs)
    copy.obs[keys.SPOT_ID] = instances
    copy.obsm[keys.SPATIAL] = np.asarray(xy, np.float64)
    made: AnnData = TableModel.parse(copy, region=shapes_key, region_key=keys.REGION, instance_key=keys.SPOT_ID)
    return made


def notes(resolutions: Mapping[str, Resolution], source: SpatialData | None = None) -> dict[str, Any]:
    """What is recorded of a sample: which reader made it, and the resolution of its images.

    Parameters
    ----------
    resolutions
        Resolution of each image and its origin.
    source
        What spatialdata-io made.

    Returns
    -------
    Value for ``sdata.attrs``.
    """
    ours = {
        keys.UM_PER_PX: {image: known.um_per_px for image, known in resolutions.items()},
        keys.UM_PER_PX_FROM: {image: known.origin for image, known in resolutions.items()},
    }
    return {**({} if source is None else source.attrs), keys.ATTRS: ours}
