"""Decode image files, and turn pixels into the multiscale image element. Nothing here knows of spots."""

from __future__ import annotations

import gzip
import zlib
from contextlib import contextmanager
from io import SEEK_END, BytesIO
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from dask import array as da
from PIL import Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity

from .._checks.memory import limit_bytes, require_memory
from . import _errors as check
from ._tables import is_gzip

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from xarray import DataTree

ORIENTATION_TAG = 274
"""Tag of TIFF and EXIF that says how a picture is to be turned."""
N_COARSER_LEVELS = 3
CHUNKS = (3, 512, 512)
UNTURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip
"""How pixels that were turned by a value of the tag are turned back."""
COLOUR_MODES = {"RGB", "RGBA", "P", "CMYK", "YCbCr"}
PICTURE_BYTES, TRANSPARENT_BYTES = 10, 20
"""Memory for a pixel while a picture is decoded: four bytes in PIL, three in each of two arrays."""
MAX_PX_PER_BYTE = {"JPEG": 512, "PNG": 8256}
"""Most pixels that a byte of a file can hold: a bit for 64 of them, and 1032 bytes of 8 pixels each."""
MORE_DATA = bytes(range(1, 251, 3)) * 4
"""Data that are no background: whatever code it is in, some blocks differ."""
TO_PYRAMID = (
    "Convert it to a tiled pyramid, for instance with `vips tiffsave slide.jpg slide.tif --tile --pyramid "
    "--compression jpeg`, and read that"
)
GREY_MODES = {"L": "grey", "LA": "grey", "1": "black and white", "F": "floating point"}


@contextmanager
def no_pixel_limit() -> Iterator[None]:
    """Let PIL open images of any size: whole slides exceed its limit."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def picture_size(path: Path, what: str) -> tuple[int, int]:
    """Width and height of a JPEG, PNG or TIFF; no pixel is decoded."""
    with path.open("rb") as file, _open_picture(file, path, what) as image:
        return image.size


def picture_orientation(path: Path) -> int:
    """How a picture is to be turned, by tag 274 of TIFF or EXIF; 1 is as stored."""
    with _open_bytes(path) as file, _open_picture(file, path, "image") as image, check.decoding(path, "image"):
        return _stored_orientation(image)


def _stored_orientation(image: Image.Image) -> int:
    if isinstance(image, TiffImageFile):
        found = image.tag_v2.get(ORIENTATION_TAG, 1)
    else:
        exif = Image.Exif()
        exif.load(image.info.get("exif", b""))
        found = exif.get(ORIENTATION_TAG, 1)
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def read_image(path: Path) -> NDArray[np.uint8]:  # (3, y, x)
    """Decode a JPEG, PNG or TIFF, gzipped or not, to RGB, if it fits into memory; pixels stay as they are stored.

    RGBA is composed over white; palettes, CMYK and YCbCr are converted; of 16-bit colour the upper 8 bits are kept;
    grey (of 8 or 16 bits), black and white and floating point are refused.
    """
    check.require_file(path, "image")
    with _open_bytes(path) as file, _open_picture(file, path, "image") as image:
        _require_colour(image, path)
        _require_plausible_size(image, file.seek(0, SEEK_END), path)
        with check.decoding(path, "image"):
            kind = image.format
            tag = _stored_orientation(image)
            turned = tag in UNTURNED and isinstance(image, TiffImageFile)  # PIL turns TIFF, and only TIFF
            pixels = _decode_rgb(image.transpose(UNTURNED[tag]) if turned else image)
            if kind == "JPEG" and _lacks_blocks(file, pixels):
                check.refuse_damaged(path, "image", "its data end before its last row of pixels")
            if kind == "PNG" and not _agrees_with_checksums(file):
                check.refuse_damaged(path, "image", "its content does not agree with its checksums")
    return pixels


def _open_bytes(path: Path) -> IO[bytes]:
    """The content of a file; gzipped ones, as GEO has them, are unpacked in memory."""
    if not is_gzip(path):
        return path.open("rb")
    limit = limit_bytes()
    with check.decoding(path, "image"), gzip.open(path) as packed:
        content = packed.read(limit + 1)
    require_memory(len(content), f"The unpacked image '{path.name}'")
    return BytesIO(content)


@contextmanager
def _open_picture(file: IO[bytes], path: Path, what: str) -> Iterator[Image.Image]:
    """Read the header of a picture."""
    with no_pixel_limit():
        try:
            with check.decoding(path, what):
                image = _identify(file, path, what)
        finally:
            file.seek(0)
        with image:
            yield image


def _identify(file: IO[bytes], path: Path, what: str) -> Image.Image:
    try:
        return Image.open(file)
    except UnidentifiedImageError:
        file.seek(0)
        check.refuse_unreadable(path, what, f"it begins with {file.read(8)!r}, as no JPEG, PNG or TIFF does")


def _require_colour(image: Image.Image, path: Path) -> None:
    if image.mode not in COLOUR_MODES:
        kind = GREY_MODES.get(image.mode, f"of mode {image.mode}")
        msg = (
            f"Image '{path.name}' is {kind}; H&E in 8-bit colour is needed (RGB; RGBA is laid on white; palette, CMYK "
            "and YCbCr are converted). Export it as 8-bit RGB and call `stp.io.read_st` again."
        )
        raise ValueError(msg)


def _require_plausible_size(image: Image.Image, n_bytes: int, path: Path) -> None:
    """Refuse more pixels than the bytes of the file can hold, or than fit into memory."""
    width, height = image.size
    most = MAX_PX_PER_BYTE.get(image.format or "", np.inf) * n_bytes
    if width * height > most:
        size = f"it announces {width} x {height} pixels, and its {n_bytes:,} bytes cannot hold more than {most:,}"
        check.refuse_damaged(path, "image", size)
    transparent = image.mode == "RGBA" or "transparency" in image.info
    n_needed = width * height * (TRANSPARENT_BYTES if transparent else PICTURE_BYTES)
    require_memory(n_needed, f"Image '{path.name}', decoded as a whole ({width} x {height} pixels),", TO_PYRAMID)


def _lacks_blocks(file: IO[bytes], pixels: NDArray[np.uint8]) -> bool:
    """Whether the data of a JPEG end before its last block, which the decoder fills without a word.

    If the last block has one colour, the file is decoded again with more data before its end: they change the pixels
    only if some were lacking.
    """
    height, width = pixels.shape[1:]
    if np.ptp(pixels[:, (height - 1) // 8 * 8 :, (width - 1) // 8 * 8 :], axis=(1, 2)).any():
        return False
    file.seek(0)
    content = file.read()
    end = content.rfind(b"\xff\xd9")
    if end < 0 or _has_arithmetic_code(content):
        return False
    with Image.open(BytesIO(content[:end] + MORE_DATA + content[end:])) as longer:
        return not np.array_equal(_decode_rgb(longer), pixels)


def _agrees_with_checksums(file: IO[bytes]) -> bool:
    """Whether each part of a PNG has the checksum beside it; PIL does not look at those of pixels."""
    file.seek(8)
    while len(head := file.read(8)) == 8:
        content = file.read(int.from_bytes(head[:4], "big"))
        if int.from_bytes(file.read(4), "big") != zlib.crc32(head[4:] + content):
            return False
        if head[4:] == b"IEND":
            return True
    return False


def _has_arithmetic_code(content: bytes) -> bool:
    """Whether the frame of a JPEG says that it has arithmetic code, whose last zeros need not be stored."""
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = content[at + 1], int.from_bytes(content[at + 2 : at + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            return marker > 0xC8
        at += 2 + length
    return True


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


def rgb_pixels(pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:  # (3, y, x)
    """Pixels with the channels first, from ``(3, y, x)`` or ``(y, x, 3)``; a fourth channel is left out."""
    if pixels.dtype != np.uint8:
        msg = (
            f"Image '{name}' is of type {pixels.dtype}; H&E in 8-bit colour (uint8) is needed. Export it as 8-bit RGB, "
            "for instance divide 16-bit values by 257, and give that file as `image`."
        )
        raise ValueError(msg)
    if pixels.ndim != 3 or not {3, 4} & {pixels.shape[0], pixels.shape[-1]}:
        msg = (
            f"Image '{name}' has shape {pixels.shape}; H&E in colour is needed: height x width x 3. Export it as "
            "8-bit RGB and give that as `image`."
        )
        raise ValueError(msg)
    channels_last = pixels.shape[-1] in {3, 4}
    return np.ascontiguousarray((pixels.transpose(2, 0, 1) if channels_last else pixels)[:3])


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
