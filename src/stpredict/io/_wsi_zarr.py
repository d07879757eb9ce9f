"""OME-Zarr images, versions 0.4 and 0.5."""

from __future__ import annotations

import math
import os
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .._checks.slides import is_opacity, quote
from .._chunks import StoredLevel
from . import _errors as check
from ._wsi_levels import SlideFile, TransposedPlane
from ._wsi_resolution import is_positive, resolution_from_ome_zarr, scales_of_ome_zarr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

METADATA_FILES: Final = {"zarr.json", ".zarray", ".zattrs", ".zgroup"}
DEFAULT_AXES = "tczyx"
"""Axes where the metadata name none."""


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr group."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


def open_slide_file(path: Path) -> SlideFile:
    """Open an OME-Zarr image; of several in one folder (``bioformats2raw``) the largest."""
    import zarr

    with check.decoding(path, "slide"):
        group = zarr.open_group(path, mode="r")
        images = _images(group) if "bioformats2raw.layout" in _metadata(group) else {"": group}
        names = list(dict(group.attrs))
        is_spatialdata = "spatialdata_attrs" in names
    group = _largest_image(images, path)
    metadata = _metadata(group)
    if not metadata.get("multiscales"):
        hint = "Give the folder of one image, whose metadata hold 'multiscales'"
        if is_spatialdata:
            hint = "It is a SpatialData object: read it with `spatialdata.read_zarr(path)`"
        msg = f"Zarr folder '{path}' is no OME-Zarr image (its metadata hold {quote(names)}). {hint}."
        raise ValueError(msg)
    multiscale, axes = _check_metadata(metadata, path)
    paths = [dataset["path"] for dataset in multiscale["datasets"]]
    with check.decoding(path, "slide"):
        stored: dict[str, Any] = {name: group.get(name) for name in paths}
    missing = [name for name, array in stored.items() if not isinstance(array, zarr.Array)]
    if missing or not paths:
        msg = (
            f"OME-Zarr '{path.name}' names levels {quote(paths)}, of which {quote(missing)} are missing. Copy or "
            "fetch the folder again."
        )
        raise ValueError(msg)
    scales = [scales_of_ome_zarr(dataset, axes) for dataset in multiscale["datasets"]]
    order = sorted(range(len(paths)), key=lambda i: -stored[paths[i]].size)
    arrays = [stored[paths[i]] for i in order]
    full = scales[order[0]]
    factors = [None if full is None or (at := scales[i]) is None else (at[0] / full[0], at[1] / full[1]) for i in order]
    names, shape = [axis["name"] for axis in axes], arrays[0].shape
    others = [size for name, size in zip(names, shape, strict=False) if name not in {"c", "y", "x"}]
    if len(names) != len(shape) or not {"y", "x"} <= set(names) or not set(others) <= {1}:
        check.not_one_plane(path, names, shape)
    n_channels = dict(zip(names, shape, strict=True)).get("c", 1)
    for array in arrays:
        _require_plane_of_colours(array, names, n_channels, path)
    colours = 3 if n_channels == 4 and not _names_opacity(metadata) else n_channels
    whole = names == ["c", "y", "x"] and colours == n_channels
    levels = [StoredLevel(array) if whole else TransposedPlane(array, names, colours) for array in arrays]
    for array in arrays:
        _require_all_chunks(array, path)
    return SlideFile(
        levels=tuple(levels),
        um_per_px=resolution_from_ome_zarr(multiscale, axes),
        vendor="ome-zarr",
        backend="zarr",
        factors=tuple(factors),
    )


def _check_metadata(metadata: Mapping[str, Any], path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The first image of ``multiscales`` and its axes, of which every field that is used has the right type."""
    multiscales = metadata["multiscales"]
    multiscale = multiscales[0] if isinstance(multiscales, list) else None
    named = multiscale.get("axes", list(DEFAULT_AXES)) if isinstance(multiscale, dict) else None
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in named] if isinstance(named, list) else []
    datasets = multiscale.get("datasets") if isinstance(multiscale, dict) else None
    names = [axis.get("name") for axis in axes]
    wrong = None
    if not isinstance(multiscale, dict):
        wrong = "'multiscales' is no list of objects"
    elif not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        wrong = f"'axes' are {quote(names)}, where names belong, each once"
    elif not all(isinstance(axis.get("unit", ""), str) for axis in axes):
        wrong = "the 'unit' of an axis is no text"
    elif not isinstance(datasets, list) or not all(
        isinstance(each, dict) and isinstance(each.get("path"), str) for each in datasets
    ):
        wrong = "'datasets' is no list of objects with a 'path'"
    elif not all(_is_scaling(each.get("coordinateTransformations", []), len(axes)) for each in [multiscale, *datasets]):
        wrong = f"'coordinateTransformations' have a 'scale' that is not {len(axes)} numbers above 0"
    if wrong is not None or not isinstance(multiscale, dict):
        check.refuse_unreadable(path, "slide", f"of its OME metadata, {wrong}")
    return multiscale, axes


def _is_scaling(transformations: Any, n_axes: int) -> bool:
    """Whether transformations are a list of objects, and each scale a finite number above 0 for each axis."""
    if not isinstance(transformations, list) or not all(isinstance(each, dict) for each in transformations):
        return False
    scales = [each.get("scale") for each in transformations if each.get("type") == "scale"]
    return all(isinstance(scale, list) and len(scale) == n_axes and all(map(is_positive, scale)) for scale in scales)


def _require_plane_of_colours(array: Any, names: Sequence[str], n_channels: int, path: Path) -> None:
    """Refuse a level of another kind than the finest: other axes or channels, no numbers, no pixels."""
    sizes = dict(zip(names, array.shape, strict=False))
    if len(array.shape) != len(names) or sizes.get("c", 1) != n_channels or 0 in array.shape:
        check.refuse_unreadable(path, "slide", f"level '{array.path}' has shape {array.shape}, of axes {quote(names)}")
    if array.dtype.kind not in "uif":
        check.refuse_unreadable(path, "slide", f"level '{array.path}' holds {array.dtype}, where numbers belong")


def _require_all_chunks(array: Any, path: Path) -> None:
    """Refuse a level without all its files, unless what is missing is white: zarr fills it without a word."""
    grid = [-(-length // size) for length, size in zip(array.shape, array.shards or array.chunks, strict=True)]
    white = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1
    folder = array.store.root / array.path
    files = (Path(place) / name for place, _, names in os.walk(folder) for name in names if name not in METADATA_FILES)
    found = {file.relative_to(folder).as_posix() for file in files}
    if array.fill_value == white:
        return
    lacking = (chunk for chunk in product(*map(range, grid)) if array.metadata.encode_chunk_key(chunk) not in found)
    first = next(lacking, None)
    if first is not None:
        n_missing = math.prod(grid) - len(found)
        check.refuse_damaged(
            path,
            "slide",
            f"level '{array.path}' lacks {n_missing} of {math.prod(grid)} chunks, such as "
            f"'{array.metadata.encode_chunk_key(first)}', which would be read as {array.fill_value} (if its writer "
            "left out areas that were not scanned, set 'fill_value' of the array to white)",
        )


def _names_opacity(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata call the fourth channel opacity, or do not name it."""
    omero = metadata.get("omero")
    channels = omero.get("channels") if isinstance(omero, dict) else None
    found = [each for each in channels if isinstance(each, dict)] if isinstance(channels, list) else []
    labels = [str(channel.get("label", "")) for channel in found]
    return len(labels) != 4 or not labels[3] or is_opacity(labels[3])


def _images(group: Any) -> dict[str, Any]:
    """The images in a folder of several, by name; its first group if there is none."""
    images = {name: child for name, child in sorted(group.groups()) if _metadata(child).get("multiscales")}
    return images or {"0": group["0"]}


def _largest_image(images: Mapping[str, Any], path: Path) -> Any:
    """The largest of several images; an error if there are several of that size."""
    if len(images) == 1:
        return next(iter(images.values()))
    with check.decoding(path, "slide"):
        sizes = {name: max((array.size for _, array in child.arrays()), default=0) for name, child in images.items()}
    largest = [name for name, size in sizes.items() if size == max(sizes.values())]
    if len(largest) > 1:
        msg = (
            f"OME-Zarr '{path.name}' holds several images of one size: {quote(largest)}. Give the folder of one, "
            f"such as '{path / largest[0]}'."
        )
        raise ValueError(msg)
    return images[largest[0]]


def _metadata(group: Any) -> dict[str, Any]:
    """The OME metadata; version 0.5 has them under a key."""
    attrs = dict(group.attrs)
    metadata = attrs.get("ome", attrs)
    return metadata if isinstance(metadata, dict) else {}
