"""Read a slide without measurements. How each format is opened is in `_wsi_tiff`, `_wsi_openslide` and `_wsi_zarr`."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import dask
import numpy as np
from dask import array as da
from dask.system import CPU_COUNT
from PIL import Image
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity, set_transformation
from xarray import DataArray, Dataset, DataTree

from .. import _keys as keys
from .._checks import files as check_files
from .._checks import slides as check_slides
from .._checks import wsi as check
from .._files import atomic_folder
from .._resolution import Resolution, resolution_from_pixel_size
from . import _wsi_openslide, _wsi_tiff, _wsi_zarr
from ._wsi_levels import SlideFile, block_px, with_overview
from .images import CHUNKS, pyramid, read_image

if TYPE_CHECKING:
    from os import PathLike

TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PICTURES: Final = (b"\x89PNG", b"\xff\xd8\xff")
MOST_PX: Final = 1 << 29
"""Largest PNG or JPEG: it is decoded as a whole, with 1.6 GB for the pixels and as much again while it is read."""


def read_wsi(
    path: str | PathLike[str],
    *,
    name: str | None = None,
    um_per_px: float | None = None,
    backend: Literal["auto", "tiffslide", "openslide"] = "auto",
    to_zarr: str | PathLike[str] | None = None,
) -> SpatialData:
    """Read a slide without measurements: an image, lazily, over the file's own pyramid.

    The content of the file decides how it is read, not its name. Nothing is decoded before it is needed, and nothing is
    copied unless ``to_zarr`` is given. The object can be sent to other processes, which open the file themselves.

    Parameters
    ----------
    path
        SVS, NDPI, MRXS, SCN, BIF, tiled TIFF, OME-TIFF, DICOM (one of its files), PNG, JPEG, or the folder of an
        OME-Zarr image (0.4 or 0.5).
    name
        Name of the image; by default that of the file, with ``_`` for what SpatialData does not allow.
    um_per_px
        Resolution in µm per full-resolution pixel, where the file does not state it.
    backend
        What reads TIFF. ``"auto"`` takes tiffslide (pure Python), and openslide where that fails. MRXS, DICOM, SCN and
        BIF need openslide; pictures and OME-Zarr need neither.
    to_zarr
        Where to write the object, which is then opened from there: worthwhile where a slide is read many times, or has
        no pyramid. It appears when it is complete; nothing is left behind if writing fails.

    Returns
    -------
    Object with one multiscale image ``name``: ``(c, y, x)``, 8-bit RGB for nearly every slide, in pixels of the
    coordinate system ``name``. ``attrs["stpredict"]["um_per_px"]`` holds the resolution where it is known,
    ``attrs["stpredict"]["slide"][name]`` what the file says: ``file``, ``backend``, ``vendor``, ``objective_power`` and
    ``um_per_px`` along x and y.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or MRXS lacks its folder.
    ValueError
        If the file is damaged, of no known kind, a stack or grey; if its pixels are not square within 1 %; or if
        ``um_per_px`` differs from what it states by more than 5 %. Where the file is wrong, leave out ``um_per_px`` and
        call `stp.pp.resolution` afterwards.

    Notes
    -----
    Of several pictures in a file the largest in colour is read: labels, macros and thumbnails are left out.

    The resolution is the vendor's, that of OME-XML or OME-Zarr with a unit of length, or that of TIFF tags in pixels
    per inch or centimetre; values outside 0.05 to 40 µm per pixel are not believed, since 72, 96 or 300 dots per inch
    are settings of a screen or printer. PNG and JPEG state none. Where none is known a warning says so.

    PNG and JPEG, and TIFF with a palette, CMYK or uncommon YCbCr, are decoded as a whole and held, up to 537 million
    pixels. RGBA is laid on white when it is read, of OME-Zarr and TIFF as of openslide's. Pixels of 16 bits in TIFF and
    OME-Zarr are kept, and brought to 8 bits where patches are cut; in PNG they become 8 bits at once.

    Where the coarsest level is longer than 4096 pixels or the only one, coarser ones are added: means of 2 x 2 pixels,
    computed whenever they are read, which decodes all that lies under them. ``to_zarr`` computes them once.

    Read in tests are SVS, generic TIFF, OME-TIFF, DICOM, PNG, JPEG and OME-Zarr; NDPI, MRXS, SCN and BIF go through
    tiffslide or openslide, and were not tried for want of free samples.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import mkdtemp
    >>> import numpy as np
    >>> import stpredict as stp
    >>> from PIL import Image
    >>> path = Path(mkdtemp()) / "slide.png"
    >>> Image.fromarray(np.full((64, 48, 3), 230, np.uint8)).save(path)
    >>> sdata = stp.io.read_wsi(path, um_per_px=0.5)
    >>> sdata["slide"]["scale0"]["image"].shape
    (3, 64, 48)
    >>> sdata.attrs["stpredict"]["um_per_px"]
    {'slide': 0.5}
    """
    check.exists(os.fspath(path), is_there=Path(path).exists())
    check.backend(backend)
    path, name = Path(path), _name(Path(path)) if name is None else name
    check.name(name, valid=_is_valid(name))
    if um_per_px is not None:
        check_files.positive("um_per_px", um_per_px)
        check_slides.resolution(um_per_px, name)
    if to_zarr is not None:
        check.new_store(Path(to_zarr))
    file = slide_file(path, backend)
    check_slides.colour_image(file.levels[0].shape, name)
    known = _resolution(file, um_per_px, name)
    image = _element(file, name, rechunk=to_zarr is not None)
    sdata = SpatialData(images={name: image}, attrs=_attrs(path, file, known, name))
    if known is None:
        check.no_resolution(name)
    return sdata if to_zarr is None else _stored(sdata, Path(to_zarr))


def _name(path: Path) -> str:
    stem = path.stem.removesuffix(".ome")
    stem = "".join(letter if letter.isalnum() or letter in "_-." else "_" for letter in stem)
    stem = stem.lstrip("_") if stem.startswith("__") else stem
    return stem if _is_valid(stem) else "slide"


def _is_valid(name: str) -> bool:
    letters = bool(name) and all(letter.isalnum() or letter in "_-." for letter in name)
    return letters and name not in {".", ".."} and not name.startswith("__")


def slide_file(path: Path, backend: str) -> SlideFile:
    """Open a slide by its content.

    Parameters
    ----------
    path
        An existing file or folder.
    backend
        ``"auto"``, ``"tiffslide"`` or ``"openslide"``.

    Returns
    -------
    Its levels and what it says of itself.
    """
    if path.is_dir():
        if not _wsi_zarr.is_zarr(path):
            check.folder(path, sorted(inside.name for inside in path.iterdir()))
        check.backend_reads(backend, (), path, "OME-Zarr")
        return _wsi_zarr.slide_file(path)
    with path.open("rb") as opened:
        head = opened.read(132)
    if head.startswith(TIFF):
        return _tiff(path, backend)
    if path.suffix.lower() == ".mrxs":  # begins like a JPEG
        check.companion(path, path.with_suffix("") / "Slidedat.ini")
    elif head.startswith(PICTURES):
        check.backend_reads(backend, (), path, "a picture")
        return _picture(path)
    elif not (head and (head[128:] == b"DICM" or _wsi_openslide.knows(path))):
        check.unknown(path, head)
    check.backend_reads(backend, ("openslide",), path, "no TIFF")
    return _wsi_openslide.slide_file(path)


def _tiff(path: Path, backend: str) -> SlideFile:
    """Through tifffile; where that fails through openslide, or as a picture."""
    if backend == "openslide":
        return _wsi_openslide.slide_file(path)
    found = _wsi_tiff.slide_file(path)
    if isinstance(found, SlideFile):
        return found
    if backend == "tiffslide":
        check.unreadable(path, found)
    return _wsi_openslide.slide_file(path) if _wsi_openslide.knows(path) else _picture(path)


def _picture(path: Path) -> SlideFile:
    """Decode a file as a whole."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # whole slides exceed PIL's guard
    try:
        with Image.open(path) as image:
            size = image.size
    except (OSError, SyntaxError, ValueError) as reason:
        check.unreadable(path, reason)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    check.fits_memory(path, size, MOST_PX)
    return SlideFile(levels=(read_image(path),), backend="pillow")


def _resolution(file: SlideFile, given: float | None, name: str) -> Resolution | None:
    """What the user says, else what the file says; they must agree."""
    stated = None
    if file.um_per_px is not None:
        stated = resolution_from_pixel_size(*file.um_per_px, "image metadata", name)
    if given is None:
        return stated
    known = Resolution(um_per_px=float(given), origin="argument")
    if stated is not None:
        check_slides.same_resolution(known, stated, name)
    return known


def _attrs(path: Path, file: SlideFile, known: Resolution | None, name: str) -> dict[str, Any]:
    said = {
        "file": path.name,
        "backend": file.backend,
        "vendor": file.vendor,
        "objective_power": file.objective_power,
        keys.UM_PER_PX: None if file.um_per_px is None else list(file.um_per_px),
    }
    noted: dict[str, Any] = {keys.SLIDE: {name: said}}
    if known is not None:
        noted |= {keys.UM_PER_PX: {name: known.um_per_px}, keys.UM_PER_PX_FROM: {name: known.origin}}
    return {keys.ATTRS: noted}


def _element(file: SlideFile, name: str, *, rechunk: bool) -> DataTree:
    """The multiscale image, in pixels of the coordinate system of its name."""
    if isinstance(file.levels[0], np.ndarray):
        return pyramid(file.levels[0], name)
    levels = [_dask(level) for level in with_overview(file.levels)]
    if rechunk:
        levels = [level.rechunk((level.shape[0], *CHUNKS[1:])) for level in levels]
    full = levels[0].shape
    tree = DataTree.from_dict({f"scale{i}": Dataset({"image": _level(level, full)}) for i, level in enumerate(levels)})
    set_transformation(tree, {name: Identity()}, set_all=True)
    Image2DModel().validate(tree)
    return tree


def _dask(level: Any) -> da.Array:
    """An array as one that SpatialData takes; `_chunks` reads the one behind it."""
    if hasattr(level, "store_path"):
        stored: da.Array = da.from_zarr(level)
        return stored
    chunks = (level.shape[0], *map(block_px, level.chunks[1:]))
    decoded: da.Array = da.from_array(level, chunks=chunks, name=False, meta=np.empty((0, 0, 0), level.dtype))
    return decoded


def _level(pixels: da.Array, full: tuple[int, ...]) -> DataArray:
    """A level with the places of its pixels' centres in the finest one."""
    y, x = ((np.arange(n) + 0.5) * (size / n) for n, size in zip(pixels.shape[1:], full[1:], strict=True))
    channels = ["r", "g", "b", "a"][: len(pixels)]
    return DataArray(pixels, name="image", dims=("c", "y", "x"), coords={"c": channels, "y": y, "x": x})


def _stored(sdata: SpatialData, store: Path) -> SpatialData:
    """Write an object where it appears when it is complete, and open it from there."""
    with (
        atomic_folder(store) as part,
        ThreadPoolExecutor(CPU_COUNT) as pool,  # where one fails, the others end first
        dask.config.set(pool=pool),
    ):
        sdata.write(part)
    return read_zarr(store)
