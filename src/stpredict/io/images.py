"""Decode image files, and turn pixels into the multiscale image element. Nothing here knows of spots."""

from __future__ import annotations

import gzip
from io import BytesIO
from typing import IO, TYPE_CHECKING

import numpy as np
from dask import array as da
from PIL import Image, UnidentifiedImageError
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity

from .._checks import files as check
from ._tables import UNREADABLE, is_gzip

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from xarray import DataTree

SCALE_FACTORS = (2, 2, 2)
CHUNKS = (3, 512, 512)


def read_image(path: Path) -> NDArray[np.uint8]:
    """Decode an image file to colour.

    Parameters
    ----------
    path
        JPEG, PNG or TIFF, of any size, gzipped or not.

    Returns
    -------
    ``(3, y, x)`` uint8 RGB.

    Raises
    ------
    ValueError
        If the file is cut short, or holds something else than 8-bit colour.

    Notes
    -----
    RGBA is laid on white; palettes, CMYK and YCbCr are converted; of 16-bit colour the upper 8 bits are kept; grey (of
    8 or 16 bits), black and white and floating point are refused.
    """
    check.exists(path, "image")
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # whole slides exceed PIL's guard
    try:
        with _opened(path) as file, Image.open(file) as image:
            check.image_mode(image.mode, path)
            pixels = _pixels(_to_rgb(image))
    except (UnidentifiedImageError, OSError, SyntaxError, *UNREADABLE) as reason:
        check.unreadable(path, "image", reason)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    return pixels


def _opened(path: Path) -> IO[bytes]:
    """The file, or what is gzipped in it: GEO gzips images too."""
    return BytesIO(gzip.decompress(path.read_bytes())) if is_gzip(path) else path.open("rb")


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    """``(3, y, x)``, copied in bands: at once, PIL would need the image three times over."""
    pixels = np.empty((3, image.height, image.width), np.uint8)
    for y in range(0, image.height, 1024):
        band = image.crop((0, y, image.width, min(y + 1024, image.height)))
        pixels[:, y : y + 1024] = np.asarray(band).transpose(2, 0, 1)
    return pixels


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGBA" or "transparency" in image.info:
        colour = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colour.size, "white"), colour).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def pyramid(pixels: NDArray[np.uint8], coordinate_system: str) -> DataTree:
    """Multiscale image element of an image in memory, in pixels of a coordinate system.

    Parameters
    ----------
    pixels
        ``(3, y, x)`` uint8 RGB.
    coordinate_system
        Name of the coordinate system, whose unit is the pixel.

    Returns
    -------
    Element whose levels are the truncated 2 x 2 means of the finer one. They are computed once and held, where
    `Image2DModel` derives them anew whenever they are read.

    Notes
    -----
    Where a side is odd, the last row or column is dropped, so that pixel ``i`` of level ``k`` covers the pixels
    ``[i 2^k, (i + 1) 2^k)`` of the image. `Image2DModel` drops the first one, which shifts the level by a pixel.
    """
    tree: DataTree = Image2DModel.parse(
        da.from_array(pixels, chunks=CHUNKS, name=False),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations={coordinate_system: Identity()},
        scale_factors=[factor for factor, side in zip(SCALE_FACTORS, _sides(pixels), strict=True) if side > 1],
        chunks=CHUNKS,
    )
    level = pixels
    for k in range(1, len(tree.children)):
        level = halve(level)
        tree[f"scale{k}"]["image"].data = da.from_array(level, chunks=CHUNKS, name=False)
    return tree


def _sides(pixels: NDArray[np.uint8]) -> list[int]:
    return [min(pixels.shape[1:]) // 2 ** (k + 1) for k in range(len(SCALE_FACTORS))]


def halve(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Truncated mean of 2 x 2 pixels; an odd last row or column is dropped.

    Parameters
    ----------
    pixels
        ``(c, y, x)`` uint8.

    Returns
    -------
    ``(c, y // 2, x // 2)`` uint8.
    """
    height, width = (side // 2 * 2 for side in pixels.shape[1:])
    half = np.empty((len(pixels), height // 2, width // 2), np.uint8)
    for y in range(0, height, 512):  # in bands, so that the sums stay in the processor's cache
        band = pixels[:, y : min(y + 512, height), :width]
        rows = band[:, ::2].astype(np.uint16) + band[:, 1::2]
        half[:, y // 2 : y // 2 + rows.shape[1]] = (rows[..., ::2] + rows[..., 1::2]) >> 2
    return half
