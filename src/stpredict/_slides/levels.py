"""Levels of image elements with their true scale factors. Nothing here decodes pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._checks.slides import is_opacity


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Level:
    """One level of an image pyramid."""

    pixels: Any
    """``(c, y, x)``, sliceable: numpy, zarr or (through xarray) dask."""
    factor: tuple[float, float]
    """Full-resolution pixels per pixel of this level, along y and x."""
    offset: tuple[float, float] = (0.0, 0.0)
    """Where this level begins, in full-resolution pixels along y and x."""


def pyramid(image: Any) -> tuple[Level, ...]:
    """Levels of an image element (DataArray or DataTree), finest first, with their true scale factors.

    SpatialData averages blocks and drops odd edge rows, so a level of ``n // f`` rows has factor ``f`` exactly; any
    other level covers the whole image. Which edge was dropped (`Image2DModel`: the first, our own pyramids: the last)
    is not recorded: `PatchReader` detects it from the pixels.
    """
    found = sorted(arrays(image), key=lambda array: -array.shape[1])
    full = found[0].shape
    return tuple(
        Level(pixels=_colours(array), factor=(_factor(full[1], array.shape[1]), _factor(full[2], array.shape[2])))
        for array in found
    )


def arrays(raster: Any) -> list[Any]:
    """The DataArray of a raster element, or that of each of its scales."""
    return [next(iter(raster[key].values())) for key in raster] if hasattr(raster, "children") else [raster]


def _colours(array: Any) -> Any:
    """Pixels without a fourth channel whose name says that it is no opacity."""
    names = array.coords["c"].to_numpy().tolist() if array.shape[0] == 4 and "c" in array.coords else []
    known = len(names) == 4 and str(names[3]) != "3" and not is_opacity(names[3])
    return array[:3] if known else array


def _factor(full: int, size: int) -> float:
    ratio = full / size
    return float(round(ratio)) if full // round(ratio) == size else ratio
