"""Resolutions as files state them: TIFF tags, OME-XML, axes of OME-Zarr. Nothing here opens a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    PixelSize = tuple[float, float] | None  # µm per pixel along x and y

PLAUSIBLE_UM: Final = (0.05, 40.0)
"""Range of µm per pixel of a scan; 72, 96 or 300 dots per inch (353, 265, 85 µm) are settings of a printer."""
MAX_NUMBER: Final = 1e12
"""No factor or length in metadata is as large."""
TAG_UNITS_UM: Final = {2: 25_400.0, 3: 10_000.0}
"""Unit of TIFF resolution tags: inch, centimetre."""
UNITS_UM: Final = {
    **dict.fromkeys(("µm", "μm", "um", "micrometer", "micron"), 1.0),
    **dict.fromkeys(("nm", "nanometer"), 1e-3),
    **dict.fromkeys(("mm", "millimeter"), 1e3),
    **dict.fromkeys(("cm", "centimeter"), 1e4),
    **dict.fromkeys(("m", "meter"), 1e6),
    **dict.fromkeys(("Å", "angstrom"), 1e-4),
    **dict.fromkeys(("in", "inch"), 25_400.0),
}


def plausible_resolution(x: Any, y: Any) -> PixelSize:
    """µm per pixel along x and y, from numbers or text, if both lie within `PLAUSIBLE_UM`."""
    width, height = number(x), number(y)
    if width is None or height is None:
        return None
    return (width, height) if all(PLAUSIBLE_UM[0] <= value <= PLAUSIBLE_UM[1] for value in (width, height)) else None


def resolution_from_tags(tags: Any) -> PixelSize:
    """From the TIFF tags of a page, in pixels per centimetre or inch."""
    unit = TAG_UNITS_UM.get(int(tags.valueof("ResolutionUnit", default=1)))
    per_unit = [tags.valueof(name, default=(0, 1)) for name in ("XResolution", "YResolution")]
    if unit is None or not all(pixels and length for pixels, length in per_unit):
        return None
    x, y = (unit * length / pixels for pixels, length in per_unit)
    return plausible_resolution(x, y)


def number(text: Any) -> float | None:
    """A number in metadata; None if it is none."""
    try:
        return float(text)
    except (TypeError, ValueError, OverflowError):
        return None


def known_pair(x: Any, y: Any) -> tuple[float, float] | None:
    """Two numbers in metadata; None unless both are known."""
    first, second = number(x), number(y)
    return None if first is None or second is None else (first, second)


def is_positive(value: Any) -> bool:
    """Whether a value of JSON is a number above 0 that a length or a factor may have."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < MAX_NUMBER


def resolution_from_ome_xml(xml: str, shape: Sequence[int], axes: str) -> tuple[PixelSize, str | None]:
    """From the OME-XML of an OME-TIFF, of the picture that has a shape; and why what it states is not used."""
    try:
        elements = list(ET.fromstring(xml).iter())
    except (ET.ParseError, TypeError) as reason:
        return None, f"its OME-XML is not well-formed ({reason})"
    sizes = dict(zip(axes, map(str, shape), strict=True))
    for pixels in elements:
        if pixels.tag.endswith("}Pixels") and (pixels.get("SizeX"), pixels.get("SizeY")) == (sizes["X"], sizes["Y"]):
            stated = [(pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit")) for axis in "XY"]
            if all(number(value) == 1 and unit is None for value, unit in stated):
                return None, "its OME-XML states 1 without a unit, as programs do that do not know the size of a pixel"
            x, y = (_length_um(value, unit) for value, unit in stated)
            return plausible_resolution(x, y), None
    return None, None


def _length_um(value: str | None, unit: str | None) -> float | None:
    factor = UNITS_UM.get(unit or "µm")
    length = number(value)
    return None if length is None or factor is None else length * factor


def scales_of_ome_zarr(dataset: Mapping[str, Any], axes: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    """Scale along y and x of a level in ``multiscales``; None where it records none."""
    names = [axis["name"] for axis in axes]
    for transformation in dataset.get("coordinateTransformations", ()):
        if transformation.get("type") == "scale" and len(transformation["scale"]) == len(names):
            scale = dict(zip(names, transformation["scale"], strict=True))
            return (float(scale["y"]), float(scale["x"])) if {"y", "x"} <= set(scale) else None
    return None


def resolution_from_ome_zarr(multiscale: Mapping[str, Any], axes: Sequence[Mapping[str, Any]]) -> PixelSize:
    """From the scales of the finest level in ``multiscales``; None where an axis has no unit of length."""
    transformations = [
        *multiscale["datasets"][0].get("coordinateTransformations", ()),
        *multiscale.get("coordinateTransformations", ()),
    ]
    sizes: dict[str, float | None] = {axis["name"]: UNITS_UM.get(axis.get("unit", "")) for axis in axes}
    for transformation in transformations:
        if transformation.get("type") == "scale":
            sizes = {
                name: None if size is None else size * factor
                for (name, size), factor in zip(sizes.items(), transformation["scale"], strict=True)
            }
    return plausible_resolution(sizes.get("x"), sizes.get("y"))
