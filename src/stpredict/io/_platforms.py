"""What the readers of platforms share: find files, call spatialdata-io, and bring its result into our layout.

Nothing here knows the files of one platform, and nothing is written.
"""

from __future__ import annotations

import json
import re
import warnings
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

import h5py
import numpy as np
import pandas as pd
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import TableModel

from .. import _keys as keys
from .._checks import slides as check_slides
from .._checks.slides import quote
from .._resolution import resolution_from_pixel_size
from . import _errors as check
from ._tables import read_text
from ._wsi import image_element, open_slide_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from xarray import DataTree

    from .._resolution import Resolution

HARMLESS_WARNINGS = "|".join(
    [
        "Variable names are not unique",
        "Converting `region_key",
        "No full resolution image",
        "File .* does not exist",
        "No image path found",
    ]
)
"""Warnings of libraries about what is handled here."""
IMAGE_SUFFIXES = {".tif", ".tiff", ".btf", ".svs", ".ndpi", ".jpg", ".jpeg", ".png"}
READER_ERRORS = (AssertionError, AttributeError, IndexError, KeyError, OSError, RuntimeError, TypeError, ValueError)
"""What libraries raise about damaged files."""


def find_file(folder: Path, names: Sequence[str], what: str) -> Path:
    """The file of the first of several names that is there, alone or after a prefix."""
    found: list[Path] = []
    for name in names if folder.is_dir() else []:
        exact = folder / name
        found = [exact] if exact.is_file() else sorted(file for file in folder.glob(f"*_{name}") if file.is_file())
        if found:
            break
    return check.exactly_one(found, names, folder, what)


def sample_name(folder: Path, given: str | None) -> str:
    """The given name, or that of the folder (of the folder around ``outs``) in letters that SpatialData allows."""
    place = folder.resolve()
    return given or re.sub(r"[^\w.-]+", "_", (place.parent if place.name == "outs" else place).name)


def read_json(path: Path, what: str, fields: Sequence[str]) -> dict[str, Any]:
    """All fields of a JSON file, which must have the given ones."""
    check.exactly_one([path] if path.is_file() else [], [path.name], path.parent, what)
    try:
        values: dict[str, Any] = dict(json.loads(read_text(path, what)))
    except (TypeError, ValueError) as reason:
        check.unreadable(path, what, reason)
    missing = [name for name in fields if name not in values]
    if missing:
        msg = f"'{path}' has no field {quote(missing)} (found: {quote(sorted(values))}). Fetch the file again."
        raise ValueError(msg)
    return values


def require_whole_matrix(path: Path) -> None:
    """Refuse an HDF5 file of counts that is truncated or holds something else."""
    try:
        with h5py.File(path) as file:
            shape = file["matrix/shape"][:]
            ends = file["matrix/indptr"][-1], len(file["matrix/indices"]), len(file["matrix/data"])
            n_columns = len(file["matrix/indptr"]) - 1
    except (KeyError, OSError) as reason:
        check.unreadable(path, "matrix of counts", reason)
    if len(set(ends)) > 1 or n_columns != shape[1]:
        check.unreadable(path, "matrix of counts", f"it says {shape.tolist()}, but holds {ends[1]} of {ends[0]} values")


def require_whole_parquet(path: Path) -> None:
    """Refuse a parquet file that is truncated or holds something else."""
    from pyarrow import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        read_metadata(path)
    except (ArrowException, OSError, ValueError) as reason:
        check.unreadable(path, "table", reason)


@contextmanager
def _ignore_library_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=HARMLESS_WARNINGS)
        for kind in (DeprecationWarning, FutureWarning):  # of libraries to each other
            warnings.simplefilter("ignore", kind)
        yield


def call_spatialdata_io(reader: str, folder: Path, arguments: Mapping[str, Any]) -> SpatialData:
    """Read a folder by a reader of spatialdata-io."""
    try:
        read = getattr(import_module("spatialdata_io"), reader)
    except ImportError as error:
        msg = "This needs spatialdata-io, which is not installed. Call `pip install 'stpredict-histology[io]'`."
        raise ImportError(msg) from error
    with _ignore_library_warnings():
        try:
            return cast("SpatialData", read(folder, **arguments))
        except READER_ERRORS as reason:
            msg = (
                f"`spatialdata_io.{reader}` cannot read '{folder}': {str(reason) or type(reason).__name__}. Check that "
                "its files are whole and of one sample, or fetch them again."
            )
            raise ValueError(msg) from reason


def open_image(path: Path, name: str) -> tuple[DataTree, Resolution | None]:
    """Open an image file as `read_wsi` does, without decoding it; and the resolution that the file states, if any."""
    check.require_file(path, "image")
    file = open_slide_file(path, "auto")
    check_slides.colour_image(file.levels[0].shape, path.name)
    image = image_element(file, name, rechunk=False)
    if file.um_per_px is None:
        return image, None
    return image, resolution_from_pixel_size(*file.um_per_px, "image metadata", path.name)


def image_size(image: DataTree) -> tuple[int, int]:
    """Width and height of a multiscale image in pixels."""
    height, width = image["scale0"]["image"].shape[-2:]
    return int(width), int(height)


def sample(
    table: AnnData,
    images: Mapping[str, tuple[DataTree, Resolution]],
    shapes: GeoDataFrame,
    *,
    name: str,
    shapes_key: str,
    patient: str | None,
    xy: NDArray[np.float64],
    instances: NDArray[Any] | None = None,
    points: Mapping[str, Any] | None = None,
    source: SpatialData | None = None,
) -> SpatialData:
    """Images, shapes, and a copy of the table that annotates the ``instances`` of the shapes, centred at ``xy``."""
    with _ignore_library_warnings():  # gene names are made unique below
        copy = table.copy()
    copy.uns.pop("spatialdata_attrs", None)
    copy.var_names_make_unique()
    if sparse.issparse(copy.X):
        copy.X = sparse.csr_matrix(copy.X)
    for column, value in {keys.REGION: shapes_key, keys.SECTION: name, keys.PATIENT: patient or name}.items():
        copy.obs[column] = pd.Categorical([value] * copy.n_obs)
    copy.obs[keys.SPOT_ID] = np.arange(len(xy)) if instances is None else instances
    copy.obsm[keys.SPATIAL] = np.asarray(xy, np.float64)
    ours = {
        keys.UM_PER_PX: {key: known.um_per_px for key, (_, known) in images.items()},
        keys.UM_PER_PX_FROM: {key: known.origin for key, (_, known) in images.items()},
    }
    return SpatialData(
        images={key: image for key, (image, _) in images.items()},
        shapes={shapes_key: shapes},
        points=points,
        tables={
            keys.OBSERVED: TableModel.parse(copy, region=shapes_key, region_key=keys.REGION, instance_key=keys.SPOT_ID)
        },
        attrs={**({} if source is None else source.attrs), keys.ATTRS: ours},
    )
