"""What the readers of platforms share: find files and images, and bring tables into our layout.

Nothing here knows the files of one platform, and nothing is written.
"""

from __future__ import annotations

import json
import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import TableModel

from .. import _keys as keys
from .._checks import slides as check_slides
from .._checks.decoding import describe
from .._checks.paths import user_path
from .._checks.slides import quote
from . import _errors as check
from ._tables import read_text
from ._wsi import image_element, open_slide_file
from ._wsi_resolution import is_positive

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    from anndata import AnnData
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from xarray import DataTree

    from .._resolution import Resolution

IMAGE_SUFFIXES = {".tif", ".tiff", ".btf", ".svs", ".ndpi", ".jpg", ".jpeg", ".png"}


def find_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """Files of several names, each alone or, where that is missing, after a prefix; in the order of the names."""
    found: list[Path] = []
    for name in names if folder.is_dir() else []:
        exact = folder / name
        found += (
            [exact]
            if exact.is_file()
            else sorted(file for file in folder.glob(f"*_{name}") if file.is_file() and not file.name.startswith("."))
        )
    return found


def find_file(folder: Path, names: Sequence[str], what: str) -> Path:
    """The file of the first of several names that is there, alone or after a prefix."""
    found = next((files for name in names if (files := find_files(folder, [name]))), [])
    return check.exactly_one(found, names, folder, what)


def _is_image(file: Path) -> bool:
    """Whether a name is that of an image; macOS leaves files beside others whose names begin with a dot."""
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


def find_full_image(folder: Path, image: str | PathLike[str] | None, overviews: Sequence[str] = ()) -> Path:
    """The given path, or the only image in the folder or its ``microscope_image``; messages name the overviews."""
    if image is not None:
        return user_path(image, "image")
    places = [place for place in (folder, folder / "microscope_image") if place.is_dir()]
    files = [file for place in places for file in sorted(place.iterdir()) if _is_image(file)]
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


def sample_name(folder: Path, given: str | None) -> str:
    """The given name, or that of the folder (of the folder around ``outs``) in letters that SpatialData allows."""
    place = folder.resolve()
    return given or re.sub(r"[^\w.-]+", "_", (place.parent if place.name == "outs" else place).name)


def read_numbers(path: Path, what: str, fields: Sequence[str], optional: Sequence[str] = ()) -> dict[str, float]:
    """Fields of a JSON file that must be numbers above zero, and those that are if they are there."""
    check.exactly_one([path] if path.is_file() else [], [path.name], path.parent, what)
    values = parse_json(path, what)
    if not isinstance(values, dict):
        check.refuse_unreadable(path, what, f"it holds a {type(values).__name__}, not fields by name")
    missing = [name for name in fields if name not in values]
    if missing:
        check.refuse_unreadable(path, what, f"it has no field {quote(missing)} (found: {quote(sorted(values))})")
    numbers = {name: values[name] for name in (*fields, *optional) if name in values}
    wrong = [name for name, value in numbers.items() if not is_positive(value)]
    if wrong:
        found = f"{wrong[0]!r} is {str(numbers[wrong[0]])[:40]!r}, where a number above 0 belongs"
        check.refuse_unreadable(path, what, found)
    return {name: float(value) for name, value in numbers.items()}


def parse_json(path: Path, what: str) -> Any:
    """The content of a JSON file."""
    text = read_text(path, what).strip()
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as reason:
        closing = "]" if text.startswith("[") else "}"
        if text.endswith(closing) or not text.startswith(("[", "{")):
            check.refuse_unreadable(path, what, describe(reason))
        check.refuse_damaged(path, what, f"it does not end in {closing!r} ({describe(reason)})")


def open_image(path: Path, name: str) -> tuple[DataTree, tuple[float, float] | None]:
    """Open an image file as `read_wsi` does, without decoding it; and the size of a pixel that it states, if any."""
    check.require_file(path, "image")
    file = open_slide_file(path, "auto")
    check_slides.colour_image(file.levels[0].shape, path.name)
    check.warn_orientation(path, file.orientation)
    return image_element(file, name, rechunk=False), file.um_per_px


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
    platform: str | None = None,
) -> SpatialData:
    """Images, shapes, and a copy of the table that annotates the ``instances`` of the shapes, centred at ``xy``."""
    ours: dict[str, Any] = {
        keys.UM_PER_PX: {key: known.um_per_px for key, (_, known) in images.items()},
        keys.UM_PER_PX_FROM: {key: known.origin for key, (_, known) in images.items()},
    }
    if platform is not None:
        ours[keys.PLATFORM] = {shapes_key: platform}
    return SpatialData(
        images={key: image for key, (image, _) in images.items()},
        shapes={shapes_key: shapes},
        points=points,
        tables={
            keys.OBSERVED: annotate(table, shapes_key, name=name, patient=patient, xy=xy, instances=instances),
        },
        attrs={keys.ATTRS: ours},
    )


def annotate(
    table: AnnData,
    shapes_key: str,
    *,
    name: str,
    patient: str | None,
    xy: NDArray[np.float64],
    instances: NDArray[Any] | None = None,
) -> AnnData:
    """A copy of a table that annotates the ``instances`` of shapes, centred at ``xy`` in pixels."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # they are made so below
        copy = table.copy()
    copy.uns.pop("spatialdata_attrs", None)
    copy.var_names_make_unique()
    if sparse.issparse(copy.X):
        copy.X = sparse.csr_matrix(copy.X)
    for column, value in {keys.REGION: shapes_key, keys.SECTION: name, keys.PATIENT: patient or name}.items():
        copy.obs[column] = pd.Categorical([value] * copy.n_obs)
    copy.obs[keys.SPOT_ID] = np.arange(len(xy)) if instances is None else instances
    copy.obsm[keys.SPATIAL] = np.asarray(xy, np.float64)
    linked: AnnData = TableModel.parse(copy, region=shapes_key, region_key=keys.REGION, instance_key=keys.SPOT_ID)
    return linked
