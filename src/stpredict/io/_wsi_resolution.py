"""Resolutions as files state them: TIFF tags, OME-XML, axes of OME-Zarr. Nothing here opens a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    PixelSize = tuple[float, float] | None  # µm per pixel along x and y

PLAUSIBLE_UM: Final = (0.05, 40.0)
"""Range of µm per pixel of a scan; 72, 96 or 300 dots per inch (353, 265, 85 µm) are settings of a printer."""
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
    try:
        found = float(x), float(y)
    except (TypeError, ValueError):
        return None
    return found if all(PLAUSIBLE_UM[0] <= value <= PLAUSIBLE_UM[1] for value in found) else None


def resolution_from_tags(tags: Any) -> PixelSize:
    """From the TIFF tags of a page, in pixels per centimetre or inch."""
    unit = TAG_UNITS_UM.get(int(tags.valueof("ResolutionUnit", default=1)))
    per_unit = [tags.valueof(name, default=(0, 1)) for name in ("XResolution", "YResolution")]
    if unit is None or not all(pixels and length for pixels, length in per_unit):
        return None
    x, y = (unit * length / pixels for pixels, length in per_unit)
    return plausible_resolution(x, y)


def resolution_from_ome_xml(xml: str, shape: Sequence[int], axes: str) -> PixelSize:
    """From the OME-XML of an OME-TIFF, of the picture that has a shape."""
    sizes = dict(zip(axes, map(str, shape), strict=True))
    for pixels in ET.fromstring(xml).iter():
        if pixels.tag.endswith("}Pixels") and (pixels.get("SizeX"), pixels.get("SizeY")) == (sizes["X"], sizes["Y"]):
            x, y = (_length_um(pixels.get(f"PhysicalSize{x}"), pixels.get(f"PhysicalSize{x}Unit")) for x in "XY")
            return plausible_resolution(x, y)
    return None


def _length_um(value: str | None, unit: str | None) -> float | None:
    factor = UNITS_UM.get(unit or "µm")
    return None if value is None or factor is None else float(value) * factor


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
