"""OME-Zarr images, versions 0.4 and 0.5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._checks.slides import is_opacity, quote
from . import _errors as check
from ._wsi_levels import SlideFile, TransposedPlane
from ._wsi_resolution import resolution_from_ome_zarr, scales_of_ome_zarr

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

DEFAULT_AXES = "tczyx"
"""Axes where the metadata name none."""


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr group."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


def open_slide_file(path: Path) -> SlideFile:
    """Open an OME-Zarr image; of several in one folder (``bioformats2raw``) the largest."""
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
        if "bioformats2raw.layout" in _metadata(group):
            group = _largest_image(group, path)
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
    stored: dict[str, Any] = {name: group[name] for name in paths}
    scales = [scales_of_ome_zarr(dataset, axes) for dataset in multiscale["datasets"]]
    order = sorted(range(len(paths)), key=lambda i: -stored[paths[i]].size)
    arrays = [stored[paths[i]] for i in order]
    full = scales[order[0]]
    factors = [
        None if full is None or (at := scales[i]) is None or min(full) <= 0 else (at[0] / full[0], at[1] / full[1])
        for i in order
    ]
    names, shape = [axis["name"] for axis in axes], arrays[0].shape
    others = [size for name, size in zip(names, shape, strict=False) if name not in {"c", "y", "x"}]
    if len(names) != len(shape) or not {"y", "x"} <= set(names) or not set(others) <= {1}:
        check.not_one_plane(path, names, shape)
    n_channels = dict(zip(names, shape, strict=True)).get("c", 1)
    colours = 3 if n_channels == 4 and not _names_opacity(metadata) else n_channels
    whole = names == ["c", "y", "x"] and colours == n_channels
    levels = arrays if whole else [TransposedPlane(array, names, colours) for array in arrays]
    return SlideFile(
        levels=tuple(levels),
        um_per_px=resolution_from_ome_zarr(multiscale, axes),
        vendor="ome-zarr",
        backend="zarr",
        factors=tuple(factors),
    )


def _names_opacity(metadata: Mapping[str, Any]) -> bool:
    """Whether the metadata call the fourth channel opacity, or do not name it."""
    labels = [str(channel.get("label", "")) for channel in metadata.get("omero", {}).get("channels", ())]
    return len(labels) != 4 or not labels[3] or is_opacity(labels[3])


def _largest_image(group: Any, path: Path) -> Any:
    """The largest of several images; an error if there are several of that size."""
    images = {name: child for name, child in group.groups() if _metadata(child).get("multiscales")}
    sizes = {
        name: max((array.size for _, array in child.arrays()), default=0) for name, child in sorted(images.items())
    }
    largest = [name for name, size in sizes.items() if size == max(sizes.values())]
    if len(largest) > 1:
        msg = (
            f"OME-Zarr '{path.name}' holds several images of one size: {quote(largest)}. Give the folder of one, "
            f"such as '{path / largest[0]}'."
        )
        raise ValueError(msg)
    return images[largest[0]] if largest else group["0"]


def _metadata(group: Any) -> dict[str, Any]:
    """The OME metadata; version 0.5 has them under a key."""
    attrs = dict(group.attrs)
    metadata: dict[str, Any] = attrs.get("ome", attrs)
    return metadata
