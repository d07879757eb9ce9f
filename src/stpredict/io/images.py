"""Decode image files, and turn pixels into the multiscale image element. Nothing here knows of spots."""

from __future__ import annotations

import gzip
from contextlib import contextmanager
from io import BytesIO
from typing import IO, TYPE_CHECKING, Final

import numpy as np
from dask import array as da
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity

from . import _errors as check
from ._tables import DECODING_ERRORS, is_gzip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from xarray import DataTree

N_COARSER_LEVELS = 3
CHUNKS = (3, 512, 512)
ORIENTATION_TAG: Final = 274
"""Tag of TIFF and EXIF that says how a picture is to be turned."""
UNTURNED: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
"""How pixels that were turned by a value of the tag are turned back."""
COLOUR_MODES = {"RGB", "RGBA", "P", "CMYK", "YCbCr"}
GREY_MODES = {"L": "grey", "LA": "grey", "1": "black and white", "F": "floating point"}


@contextmanager
def no_pixel_limit() -> Iterator[None]:
    """Let PIL open images of any size: whole slides exceed its limit."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def read_image(path: Path, *, warn_orientation: bool = False) -> NDArray[np.uint8]:  # (3, y, x)
    """Decode a JPEG, PNG or TIFF of any size, gzipped or not, to RGB; pixels stay as they are stored.

    RGBA is composed over white; palettes, CMYK and YCbCr are converted; of 16-bit colour the upper 8 bits are kept;
    grey (of 8 or 16 bits), black and white and floating point are refused.
    """
    check.require_file(path, "image")
    try:
        packed = is_gzip(path)  # GEO gzips images too
        source: IO[bytes] = BytesIO(gzip.decompress(path.read_bytes())) if packed else path.open("rb")
        with no_pixel_limit(), source as file, Image.open(file) as image:
            if image.mode not in COLOUR_MODES:
                kind = GREY_MODES.get(image.mode, f"of mode {image.mode}")
                msg = (
                    f"Image '{path.name}' is {kind}; H&E in 8-bit colour is needed (RGB; RGBA is laid on white; "
                    "palette, CMYK and YCbCr are converted). Export it as 8-bit RGB and call `stp.io.read_st` again."
                )
                raise ValueError(msg)
            tag = stored_orientation(image)
            if warn_orientation:
                check.warn_orientation(path, tag)
            turned = tag in UNTURNED and isinstance(image, TiffImageFile)  # PIL turns TIFF, and only TIFF
            return _decode_rgb(image.transpose(UNTURNED[tag]) if turned else image)
    except UnidentifiedImageError:
        with path.open("rb") as file:
            check.unreadable(path, "image", f"it begins with {file.read(8)!r}, as no JPEG, PNG or TIFF does")
    except (OSError, SyntaxError, *DECODING_ERRORS) as reason:
        check.damaged(path, "image", reason)


def stored_orientation(image: Image.Image) -> int:
    """How a picture says that it is to be turned (EXIF, tag of TIFF), without decoding it; 1 is as stored."""
    if isinstance(image, TiffImageFile):
        return int(image.tag_v2.get(ORIENTATION_TAG, 1))
    exif = Image.Exif()
    exif.load(image.info.get("exif", b""))
    return int(exif.get(ORIENTATION_TAG, 1))


def _decode_rgb(image: Image.Image) -> NDArray[np.uint8]:  # (3, y, x)
    """Convert to RGB, and copy pixels in bands: at once, PIL would need three times the memory of the image."""
    if image.mode == "RGBA" or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    image = image if image.mode == "RGB" else image.convert("RGB")
    pixels = np.empty((3, image.height, image.width), np.uint8)
    for y in range(0, image.height, 1024):
        band = image.crop((0, y, image.width, min(y + 1024, image.height)))
        pixels[:, y : y + 1024] = np.asarray(band).transpose(2, 0, 1)
    return pixels


def pyramid(pixels: NDArray[np.uint8], coordinate_system: str) -> DataTree:
    """The multiscale image element of ``(3, y, x)`` RGB in memory, in pixels of a coordinate system.

    Each level is the truncated 2 x 2 mean of the finer one, computed once; `Image2DModel` would compute it at every
    read. Where a side is odd, the last row or column is dropped, so that pixel ``i`` of level ``k`` covers the pixels
    ``[i 2^k, (i + 1) 2^k)`` of the image. `Image2DModel` drops the first one, which shifts the level by a pixel.
    """
    n_coarser = sum(min(pixels.shape[1:]) // 2**k > 1 for k in range(1, N_COARSER_LEVELS + 1))
    tree: DataTree = Image2DModel.parse(
        da.from_array(pixels, chunks=CHUNKS, name=False),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations={coordinate_system: Identity()},
        scale_factors=[2] * n_coarser,
        chunks=CHUNKS,
    )
    level = pixels
    for k in range(1, len(tree.children)):
        level = halve(level)
        tree[f"scale{k}"]["image"].data = da.from_array(level, chunks=CHUNKS, name=False)
    return tree


def halve(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:  # (c, y, x) -> (c, y // 2, x // 2)
    """Truncated mean of 2 x 2 pixels; an odd last row or column is dropped."""
    height, width = (side // 2 * 2 for side in pixels.shape[1:])
    half = np.empty((len(pixels), height // 2, width // 2), np.uint8)
    for y in range(0, height, 512):  # in bands, so that the sums stay in the processor's cache
        band = pixels[:, y : min(y + 512, height), :width]
        rows = band[:, ::2].astype(np.uint16) + band[:, 1::2]
        half[:, y // 2 : y // 2 + rows.shape[1]] = (rows[..., ::2] + rows[..., 1::2]) >> 2
    return half
