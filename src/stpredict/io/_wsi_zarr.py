"""OME-Zarr images, versions 0.4 and 0.5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._checks.slides import quote
from . import _errors as check
from ._wsi_levels import SlideFile, TransposedPlane
from ._wsi_resolution import resolution_from_ome_zarr

if TYPE_CHECKING:
    from pathlib import Path

DEFAULT_AXES = "tczyx"
"""Axes where the metadata name none."""


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr group."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


def open_slide_file(path: Path) -> SlideFile:
    """Open an OME-Zarr image; of several in one folder (``bioformats2raw``) the first."""
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
        if "bioformats2raw.layout" in _metadata(group):
            group = zarr.open_group(path / "0", mode="r")
        metadata = _metadata(group)
    except (OSError, ValueError, LookupError) as reason:
        check.unreadable(path, "slide", reason)
    if not metadata.get("multiscales"):
        hint = "Give the folder of one image, whose metadata hold 'multiscales'"
        if "spatialdata_attrs" in group.attrs:
            hint = "It is a SpatialData object: read it with `spatialdata.read_zarr(path)`"
        msg = f"Zarr folder '{path}' is no OME-Zarr image (its metadata hold {quote(list(group.attrs))}). {hint}."
        raise ValueError(msg)
    multiscale = metadata["multiscales"][0]
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in multiscale.get("axes", DEFAULT_AXES)]
    paths = [dataset["path"] for dataset in multiscale["datasets"]]
    missing = [name for name in paths if not isinstance(group.get(name), zarr.Array)]
    if missing or not paths:
        msg = (
            f"OME-Zarr '{path.name}' names levels {quote(paths)}, of which {quote(missing)} are missing. Copy or "
            "fetch the folder again."
        )
        raise ValueError(msg)
    arrays: list[Any] = [group[name] for name in paths]
    arrays.sort(key=lambda array: -array.size)
    names, shape = [axis["name"] for axis in axes], arrays[0].shape
    others = [size for name, size in zip(names, shape, strict=False) if name not in {"c", "y", "x"}]
    if len(names) != len(shape) or not {"y", "x"} <= set(names) or not set(others) <= {1}:
        check.not_one_plane(path, names, shape)
    levels = arrays if names == ["c", "y", "x"] else [TransposedPlane(array, names) for array in arrays]
    um_per_px = resolution_from_ome_zarr(multiscale, axes)
    return SlideFile(levels=tuple(levels), um_per_px=um_per_px, vendor="ome-zarr", backend="zarr")


def _metadata(group: Any) -> dict[str, Any]:
    """The OME metadata; version 0.5 has them under a key."""
    attrs = dict(group.attrs)
    metadata: dict[str, Any] = attrs.get("ome", attrs)
    return metadata
