"""OME-Zarr images, versions 0.4 and 0.5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._checks import wsi as check
from ._wsi_levels import SlideFile, Turned
from ._wsi_resolution import of_axes

if TYPE_CHECKING:
    from pathlib import Path

OLD_AXES = "tczyx"
"""Axes where the metadata name none."""


def is_zarr(path: Path) -> bool:
    """Whether a folder is a zarr group.

    Parameters
    ----------
    path
        The folder.

    Returns
    -------
    True or False.
    """
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup", ".zattrs"))


def slide_file(path: Path) -> SlideFile:
    """What an OME-Zarr image holds; of several in one folder (``bioformats2raw``) the first.

    Parameters
    ----------
    path
        The folder.

    Returns
    -------
    Its levels and what is said about it.
    """
    import zarr

    try:
        group = zarr.open_group(path, mode="r")
        if "bioformats2raw.layout" in _metadata(group):
            group = zarr.open_group(path / "0", mode="r")
        metadata = _metadata(group)
    except (OSError, ValueError, LookupError) as reason:
        check.unreadable(path, reason)
    check.is_multiscale(path, group.attrs, metadata)
    multiscale = metadata["multiscales"][0]
    axes = [axis if isinstance(axis, dict) else {"name": axis} for axis in multiscale.get("axes", OLD_AXES)]
    arrays = _arrays(group, [dataset["path"] for dataset in multiscale["datasets"]], path)
    names = [axis["name"] for axis in axes]
    check.one_plane(path, names, arrays[0].shape, _planes(names, arrays[0].shape))
    levels = arrays if names == ["c", "y", "x"] else [Turned(array, names) for array in arrays]
    return SlideFile(levels=tuple(levels), um_per_px=of_axes(multiscale, axes), vendor="ome-zarr", backend="zarr")


def _metadata(group: Any) -> dict[str, Any]:
    """Version 0.5 keeps its metadata under a key of their own."""
    attrs = dict(group.attrs)
    found: dict[str, Any] = attrs.get("ome", attrs)
    return found


def _arrays(group: Any, paths: list[str], path: Path) -> list[Any]:
    import zarr

    missing = [name for name in paths if not isinstance(group.get(name), zarr.Array)]
    check.all_levels(path, missing, paths)
    return sorted((group[name] for name in paths), key=lambda array: -array.size)


def _planes(names: list[str], shape: tuple[int, ...]) -> list[list[str]]:
    """The axes, if they are those of one plane: all but c, y and x have length 1."""
    others = [size for name, size in zip(names, shape, strict=False) if name not in {"c", "y", "x"}]
    return [names] if len(names) == len(shape) and {"y", "x"} <= set(names) and set(others) <= {1} else []
