"""Images that an AnnData holds in ``uns["spatial"]``, as scanpy, squidpy and Space Ranger's readers write them."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from spatialdata.transformations import Scale, set_transformation

from .. import _keys as keys
from .._checks.slides import quote
from .._resolution import Resolution
from ._full_image import OVERVIEWS
from ._platforms import image_size, open_image
from ._wsi_resolution import is_positive
from .images import pyramid, rgb_pixels

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from xarray import DataTree

logger = logging.getLogger(__name__)

MAX_SIZE_DIFFERENCE = 0.01
"""How much the size of an image may differ from that of its overview divided by the scale factor."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Picture:
    """One image of an AnnData, and the spots that lie on it."""

    name: str
    element: DataTree
    rows: NDArray[np.bool_] | None = None
    """``(n_obs,)`` which spots are on this image; None for all."""
    scale: float = 1.0
    """Pixels of the image per pixel of the positions."""
    overview: str | None = None
    """``"hires"`` or ``"lowres"`` if the image is a small copy."""
    stated: Resolution | None = None
    """Resolution of the positions by the image file or the scale factors."""
    diameter_px: float | None = None
    """Diameter of a spot in pixels of the positions, as the scale factors have it."""

    @property
    def size(self) -> tuple[float, float]:
        """Width and height in pixels of the positions, with the rounding of an overview."""
        width, height = image_size(self.element)
        slack = 0 if self.overview is None else 1
        return (width + slack) / self.scale, (height + slack) / self.scale


def library_pictures(adata: AnnData, kind: str | None, name: str | None) -> list[Picture]:
    """The images in ``uns["spatial"]``; ``kind`` is the overview that is asked for, None for the finest image."""
    libraries = adata.uns.get(keys.SPATIAL)
    if not isinstance(libraries, Mapping) or not libraries:
        msg = (
            f"The AnnData holds no image: `uns['spatial']` is missing or empty (`uns` holds: {quote(list(adata.uns))})."
            " Give the H&E image: `stp.io.from_anndata(adata, 'slide.tif')`."
        )
        raise ValueError(msg)
    rows = spots_of_libraries(adata)
    if name is not None and len(rows) > 1:
        msg = (
            f"`name` is {name!r}, but `uns['spatial']` holds {len(rows)} images ({quote(list(rows))}), which "
            "are named as they are there. Leave `name` out."
        )
        raise ValueError(msg)
    return [
        _picture(library, record, kind, name or element, rows[element])
        for library, record in libraries.items()
        if (element := _element_name(library)) in rows
    ]


def _element_name(library: object) -> str:
    """The name of a library in letters that SpatialData allows."""
    return re.sub(r"[^\w.-]+", "_", str(library))


def spots_of_libraries(adata: AnnData) -> dict[str, NDArray[np.bool_]]:
    """Which spots are on each image that has some, by the column that holds names of images; on a single one all."""
    libraries = adata.uns.get(keys.SPATIAL)
    names = [str(name) for name in libraries] if isinstance(libraries, Mapping) else []
    columns = {
        str(column): values.astype(str)
        for column, values in (adata.obs.items() if names else ())
        if not pd.api.types.is_numeric_dtype(values) and values.astype(str).isin(names).any()
    }
    for values in columns.values():
        if values.isin(names).all():  # a subset of the spots keeps the images of all
            return {_element_name(name): rows for name in names if (rows := (values == name).to_numpy()).any()}
    if not names:
        return {}
    if columns:
        column, values = next(iter(columns.items()))
        others = sorted(set(values.tolist()) - set(names))
        msg = (
            f"obs[{column!r}] says which spots are on which image, and `uns['spatial']` has none of {quote(others)} "
            f"(images: {quote(names)}). Add these images, or leave out their spots."
        )
        raise ValueError(msg)
    if len(names) == 1:
        return {_element_name(names[0]): np.ones(adata.n_obs, bool)}
    msg = (
        f"`uns['spatial']` holds {len(names)} images ({quote(names)}), and no column of `obs` says which spot is on "
        f"which (columns: {quote(list(adata.obs))}). Add one that holds these names, for instance with "
        "`anndata.concat(…, label='library_id', uns_merge='unique')`."
    )
    raise ValueError(msg)


def _picture(library: str, record: Any, kind: str | None, name: str, rows: NDArray[np.bool_]) -> Picture:
    """The finest image of a library: the file that it names, if it is there, else an overview."""
    images, factors, metadata = (_part(record, name) for name in (keys.IMAGES, keys.SCALEFACTORS, keys.METADATA))
    usable = [each for each in OVERVIEWS if each in images and is_positive(_number(factors, _factor_name(each)))]
    if not usable or (kind is not None and kind not in usable):
        msg = (
            f"`uns['spatial'][{library!r}]` holds no {quote([kind] if kind else OVERVIEWS)} image with its scale "
            f"factor (images: {quote(list(images))}; scale factors: {quote(list(factors))}). Give the H&E image: "
            "`stp.io.from_anndata(adata, 'slide.tif')`."
        )
        raise ValueError(msg)
    chosen = kind or usable[0]
    pixels = rgb_pixels(_in_8_bits(np.asarray(images[chosen])), name)
    factor = float(_number(factors, _factor_name(chosen)))
    full = None if kind is not None else _source_image(metadata, name, pixels.shape[1:], factor)
    element = full if full is not None else pyramid(pixels, name)
    if full is None:
        set_transformation(element, {name: Scale([1 / factor, 1 / factor], ("x", "y"))}, set_all=True)
    return Picture(
        name=name,
        rows=rows,
        element=element,
        scale=factor if full is None else 1.0,
        overview=chosen if full is None else None,
        **_measures(factors),
    )


class Facts(NamedTuple):
    """What an AnnData says of its only sample, beside its images."""

    name: str
    measures: dict[str, Any]
    """``stated`` and ``diameter_px`` of `Picture`."""


def library_facts(adata: AnnData, name: str | None) -> Facts:
    """Name and scale factors of the only sample; without one ``"slide"``, of which nothing is known."""
    libraries = adata.uns.get(keys.SPATIAL)
    if not isinstance(libraries, Mapping) or len(libraries) != 1:
        return Facts(name or "slide", _measures({}))
    ((library, record),) = libraries.items()
    return Facts(name or _element_name(library), _measures(_part(record, keys.SCALEFACTORS)))


def _measures(factors: Mapping[str, Any]) -> dict[str, Any]:
    """Resolution of the positions and diameter of a spot by the scale factors, as far as they are there."""
    um_per_px, diameter = _number(factors, keys.MICRONS_PER_PIXEL), _number(factors, keys.SPOT_DIAMETER)
    return {
        "stated": Resolution(um_per_px=um_per_px, origin="scale factors") if is_positive(um_per_px) else None,
        "diameter_px": diameter if is_positive(diameter) else None,
    }


def _part(record: Any, name: str) -> Mapping[str, Any]:
    """A part of what is held about an image; empty where it is missing."""
    part = record.get(name) if isinstance(record, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _in_8_bits(pixels: NDArray[Any]) -> NDArray[Any]:
    """Pixels of which floats are in the range 0 to 1, as matplotlib reads PNG, as 8-bit ones."""
    if pixels.dtype.kind != "f":
        return pixels
    scale = 255 if pixels.size and float(np.nanmax(pixels)) <= 1 else 1
    rounded: NDArray[np.uint8] = np.rint(np.clip(np.nan_to_num(pixels) * scale, 0, 255)).astype(np.uint8)
    return rounded


def _factor_name(kind: str) -> str:
    return f"tissue_{kind}_scalef"


def _number(factors: Mapping[str, Any], name: str) -> Any:
    """A scale factor; a number that was read from a file may be an array of one."""
    value = factors.get(name)
    return value.item() if isinstance(value, np.ndarray | np.generic) and value.size == 1 else value


def _source_image(metadata: Mapping[str, Any], name: str, overview: tuple[int, ...], factor: float) -> DataTree | None:
    """The full-resolution image that the AnnData names, if it is there and of the size that the overview implies."""
    named = metadata.get(keys.SOURCE_IMAGE)
    if not isinstance(named, str) or not named or not Path(named).expanduser().is_file():
        return None
    element, _ = open_image(Path(named).expanduser(), name)
    expected = (overview[1] / factor, overview[0] / factor)
    found = image_size(element)
    if any(abs(one / other - 1) > MAX_SIZE_DIFFERENCE for one, other in zip(found, expected, strict=True)):
        logger.info(
            "%r is %d x %d px, but the positions refer to an image of about %.0f x %.0f px: the overview is used.",
            named, *found, *expected,
        )  # fmt: skip
        return None
    logger.info("Slide %r is read from %r.", name, named)
    return element
