"""Resolutions as files state them: TIFF tags, OME-XML, axes of OME-Zarr. Nothing here opens a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Resolution = tuple[float, float] | None

BELIEVED_UM: Final = (0.05, 40.0)
"""µm per pixel that a file may state; 72, 96 or 300 dots per inch (353, 265, 85) are settings of a printer."""
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


def sane(x: Any, y: Any) -> Resolution:
    """A resolution, if it can be that of a scan.

    Parameters
    ----------
    x, y
        µm per pixel: numbers, text, or None.

    Returns
    -------
    Along x and y; None unless both lie within `BELIEVED_UM`.
    """
    try:
        found = float(x), float(y)
    except (TypeError, ValueError):
        return None
    return found if all(BELIEVED_UM[0] <= value <= BELIEVED_UM[1] for value in found) else None


def of_tags(tags: Any) -> Resolution:
    """What TIFF tags state in pixels per centimetre or inch.

    Parameters
    ----------
    tags
        Tags of a page, with ``valueof``.

    Returns
    -------
    µm per pixel along x and y, or None.
    """
    unit = TAG_UNITS_UM.get(int(tags.valueof("ResolutionUnit", default=1)))
    per_unit = [tags.valueof(name, default=(0, 1)) for name in ("XResolution", "YResolution")]
    if unit is None or not all(pixels and length for pixels, length in per_unit):
        return None
    x, y = (unit * length / pixels for pixels, length in per_unit)
    return sane(x, y)


def of_ome_xml(xml: str, shape: Sequence[int], axes: str) -> Resolution:
    """What OME-XML states of the picture of a size.

    Parameters
    ----------
    xml
        The metadata of an OME-TIFF.
    shape, axes
        Of the picture.

    Returns
    -------
    µm per pixel along x and y, or None.
    """
    sizes = dict(zip(axes, map(str, shape), strict=True))
    for pixels in ET.fromstring(xml).iter():
        if pixels.tag.endswith("}Pixels") and (pixels.get("SizeX"), pixels.get("SizeY")) == (sizes["X"], sizes["Y"]):
            return sane(*(_length(pixels.get(f"PhysicalSize{x}"), pixels.get(f"PhysicalSize{x}Unit")) for x in "XY"))
    return None


def _length(value: str | None, unit: str | None) -> float | None:
    factor = UNITS_UM.get(unit or "µm")
    return None if value is None or factor is None else float(value) * factor


def of_axes(multiscale: Mapping[str, Any], axes: Sequence[Mapping[str, Any]]) -> Resolution:
    """What the transformations of an OME-Zarr image state of its finest level.

    Parameters
    ----------
    multiscale
        One entry of ``multiscales``.
    axes
        Its axes, with their units.

    Returns
    -------
    µm per pixel along x and y, or None where an axis has no unit of length.
    """
    steps = [*multiscale["datasets"][0].get("coordinateTransformations", ()),
             *multiscale.get("coordinateTransformations", ())]  # fmt: skip
    sizes: dict[str, float | None] = {axis["name"]: UNITS_UM.get(axis.get("unit", "")) for axis in axes}
    for step in steps:
        if step.get("type") == "scale":
            sizes = {
                name: None if size is None else size * factor
                for (name, size), factor in zip(sizes.items(), step["scale"], strict=True)
            }
    return sane(sizes.get("x"), sizes.get("y"))
