"""Read a slide without measurements.

To add a format: open it in a `_wsi_<format>` module that returns a `SlideFile`, call that in `open_slide_file` and name
the format in `FORMATS` and in the docstring of `read_wsi`.
"""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Literal

import dask
import numpy as np
from dask import array as da
from dask.system import CPU_COUNT
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel
from spatialdata.transformations import Affine, Identity, set_transformation
from xarray import DataArray, Dataset, DataTree

from .. import _keys as keys
from .._checks import config as check_config
from .._checks import slides as check_slides
from .._checks.calls import public
from .._checks.memory import memory_limited, require_memory_for_image
from .._checks.paths import output_path, user_path
from .._checks.slides import quote
from .._files import atomic_folder, report_full_disk
from .._geometry import orientation_matrix
from .._resolution import Resolution, compare_resolutions, resolution_from_pixel_size
from . import _errors as check
from . import _wsi_openslide, _wsi_tiff, _wsi_zarr
from ._wsi_levels import BLOCK_PX, SlideFile, block_size_px, consistent_levels, with_coarse_levels
from .images import CHUNKS, picture_orientation, pyramid, read_image

if TYPE_CHECKING:
    from collections.abc import Collection
    from os import PathLike
    from pathlib import Path

FORMATS: Final = "SVS, NDPI, MRXS, SCN, tiled TIFF, OME-TIFF, DICOM, PNG, JPEG and OME-Zarr"
"""What is read, for messages."""
BACKENDS: Final = ("auto", "tiffslide", "openslide")
TIFF_SIGNATURES: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PICTURE_SIGNATURES: Final = (b"\x89PNG", b"\xff\xd8\xff")


@public
@memory_limited
def read_wsi(
    path: str | PathLike[str],
    *,
    name: str | None = None,
    um_per_px: float | None = None,
    backend: Literal["auto", "tiffslide", "openslide"] = "auto",
    orientation: Literal["ignore", "apply"] = "ignore",
    picture: int | None = None,
    to_zarr: str | PathLike[str] | None = None,
    max_memory_gb: float | None = None,  # noqa: ARG001  (read by the decorator)
) -> SpatialData:
    """Read a slide without measurements: a lazy multiscale image over the pyramid of the file.

    The format is detected from the content of the file, not from its name. Pixels are decoded when they are needed, and
    copied only if ``to_zarr`` is given. The object can be pickled; other processes open the file themselves.

    Parameters
    ----------
    path
        SVS, NDPI, MRXS, SCN, BIF, tiled TIFF, OME-TIFF, DICOM (one of its files), PNG, JPEG, or the folder of an
        OME-Zarr image (0.4 or 0.5).
    name
        Name of the image; by default that of the file, with ``_`` for characters that SpatialData does not allow.
    um_per_px
        Resolution in µm per full-resolution pixel, where the file does not state it, or is wrong.
    backend
        Library that reads TIFF. ``"auto"`` takes tiffslide (pure Python), and openslide if that fails. MRXS, DICOM, SCN
        and BIF need openslide; PNG, JPEG and OME-Zarr need neither.
    orientation
        What to do if the file says that its picture is to be turned or mirrored (tag 274 of TIFF and EXIF).
        ``"ignore"`` takes pixels as they are stored, with a warning. ``"apply"`` turns the coordinate system ``name``,
        and so patches; pixels stay as they are stored.
    picture
        Number of the picture to read, for TIFF files that hold several of one size; 0 is the first.
    to_zarr
        Path to which the object is written and from which it is then opened: worthwhile if a slide is read many times,
        or has no pyramid. The store appears only when it is complete; nothing remains if writing fails.
    max_memory_gb
        Largest memory that a part of the files may need at once, in GB, by what they say of their size. By default half
        of the memory of this machine, container or process.

    Returns
    -------
    Object with one multiscale image ``name``: ``(c, y, x)``, 8-bit RGB for nearly every slide, in pixels of the
    coordinate system ``name``. ``attrs["stpredict"]["um_per_px"]`` holds the resolution where it is known,
    ``attrs["stpredict"]["slide"][name]`` the metadata of the file: ``file``, ``backend``, ``vendor``,
    ``objective_power`` and ``um_per_px`` along x and y; of NDPI also ``centre_offset_nm`` along x and y, from the
    centre of the glass slide.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or the folder of an MRXS file is missing.
    ValueError
        If the file is damaged, of an unknown format, a stack or grey; or if ``um_per_px`` is not given and the pixels
        are not square within 1 % by what the file states.

    Notes
    -----
    If a file holds several pictures, the largest one in colour is read, not labels, macros or thumbnails; several of
    that size are an error. Levels whose pixels have different factors along x and y are left out with a warning. Parts
    that tifffile cannot decode are computed from the finer level, with a warning.

    The resolution is that of the vendor's metadata, of OME-XML or OME-Zarr with a unit of length, or of TIFF tags in
    pixels per inch or centimetre. Values outside 0.05 to 40 µm per pixel are ignored, since 72, 96 or 300 dots per inch
    are settings of a screen or printer. PNG and JPEG state none. If the resolution is not known, there is a warning.

    PNG and JPEG, and TIFF with a palette, CMYK or uncommon YCbCr, are decoded as a whole and kept in memory: about 10
    bytes a pixel while they are read, 4 afterwards. RGBA is composed over white when pixels are read; a fourth sample
    of TIFF or OME-Zarr that is not marked as opacity is left out. Pixels of 16 bits in TIFF and OME-Zarr are kept, and
    converted to 8 bits when patches are cut; those in PNG are converted at once.

    If the coarsest level is longer than 4096 pixels, or the only level, coarser ones are added: means of 2 x 2 pixels,
    computed whenever they are read, which decodes all pixels below them. ``to_zarr`` computes them once.

    Tested are SVS, generic TIFF, OME-TIFF, DICOM, PNG, JPEG and OME-Zarr. NDPI, MRXS, SCN and BIF are read by tiffslide
    or openslide, and were not tested for lack of free samples.

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
    path = user_path(path)
    if not path.exists():
        msg = f"No slide at '{path}'. Give the path of an existing file to `stp.io.read_wsi` ({FORMATS})."
        raise FileNotFoundError(msg)
    if backend not in BACKENDS:
        msg = f"`backend` is {backend!r}; it must be one of {quote(BACKENDS)}."
        raise ValueError(msg)
    check_config.one_of("orientation", orientation, ("ignore", "apply"))
    if name is None:
        stem = re.sub(r"[^\w.-]", "_", path.stem.removesuffix(".ome"))
        stem = stem.lstrip("_") if stem.startswith("__") else stem
        name = stem if _is_valid_name(stem) else "slide"
    elif not _is_valid_name(name):
        msg = f"`name` is {name!r}; it must consist of letters, digits, '_', '-' and '.', and not begin with '__'."
        raise ValueError(msg)
    if um_per_px is not None:
        check_config.length("um_per_px", um_per_px)
        check_slides.resolution(um_per_px, name)
    store = None if to_zarr is None else output_path(to_zarr, "to_zarr")
    if store is not None and store.exists():
        msg = f"`to_zarr` is '{store}', which exists. Read it with `spatialdata.read_zarr`, or give another path."
        raise FileExistsError(msg)
    file = open_slide_file(path, backend, picture)
    check_slides.colour_image(file.levels[0].shape, name)
    known = _resolution(file.um_per_px, um_per_px, name)
    image = image_element(file, name, rechunk=store is not None)
    if orientation == "apply":
        matrix = orientation_matrix(file.orientation, file.levels[0].shape[2], file.levels[0].shape[1])
        set_transformation(image, {name: Affine(matrix, ("x", "y"), ("x", "y"))}, set_all=True)
    else:
        check.warn_orientation(path, file.orientation)
    sdata = SpatialData(images={name: image}, attrs=_attrs(path, file, known, name))
    if known is None:
        check.warn_unknown_resolution(name, file.doubt)
    return sdata if store is None else _write_and_reopen(sdata, store)


def _resolution(of_file: tuple[float, float] | None, given: float | None, name: str) -> Resolution | None:
    """The given resolution, else that of the file, whose pixels must then be square."""
    if given is None:
        return None if of_file is None else resolution_from_pixel_size(*of_file, "image metadata", name)
    argument = Resolution(um_per_px=float(given), origin="argument")
    if of_file is not None:
        compare_resolutions(argument, Resolution(um_per_px=sum(of_file) / 2, origin="image metadata"), name)
    return argument


def _is_valid_name(name: str) -> bool:
    """Whether SpatialData allows a name of an element."""
    return re.fullmatch(r"(?!__)[\w.-]+", name) is not None and name not in {".", ".."}


def open_slide_file(path: Path, backend: str, picture: int | None = None) -> SlideFile:
    """Open an existing slide; its content decides how. Levels that do not fit are left out."""
    file = _open_file(path, backend, picture)
    if isinstance(file.levels[0], np.ndarray):
        return file
    for i, level in enumerate(file.levels):
        what = f"Level {i} of '{path.name}'"
        require_memory_for_image(level.shape, level.chunks, level.dtype.itemsize, BLOCK_PX, what)
    return replace(file, levels=consistent_levels(file, path.name))


def _open_file(path: Path, backend: str, picture: int | None) -> SlideFile:
    if path.is_dir():
        if not _wsi_zarr.is_zarr(path):
            msg = (
                f"'{path}' is a folder without zarr metadata (it holds {quote(sorted(f.name for f in path.iterdir()))}"
                "). Give the slide itself: the file of that name beside it (MRXS), one of the files in it (DICOM), or "
                "a folder with 'zarr.json' or '.zattrs' (OME-Zarr)."
            )
            raise ValueError(msg)
        _require_backend(backend, (), path, "OME-Zarr")
        _require_no_picture(picture, path)
        return _wsi_zarr.open_slide_file(path)
    with path.open("rb") as file:
        head = file.read(132)
    if head.startswith(TIFF_SIGNATURES):
        return _open_tiff(path, backend, picture)
    _require_no_picture(picture, path)
    if path.suffix.lower() == ".mrxs":  # begins like a JPEG
        needed = path.with_suffix("") / "Slidedat.ini"
        if not needed.is_file():
            msg = (
                f"'{path.name}' holds no pixels of its own: '{needed}' is missing. Put the folder "
                f"'{needed.parent.name}' that came with it beside it."
            )
            raise FileNotFoundError(msg)
    elif head.startswith(PICTURE_SIGNATURES):
        _require_backend(backend, (), path, "a picture")
        return _decode_picture(path)
    elif not (head and (head[128:] == b"DICM" or _wsi_openslide.recognises(path))):
        what = f"begins with {head[:8]!r}, as no kind of slide does" if head else "is empty"
        msg = (
            f"'{path.name}' {what}. The content decides, not the name; {FORMATS} are read. Fetch it again, or convert "
            "it."
        )
        raise ValueError(msg)
    _require_backend(backend, ("openslide",), path, "no TIFF")
    return _wsi_openslide.open_slide_file(path)


def _require_backend(backend: str, allowed: Collection[str], path: Path, kind: str) -> None:
    if backend not in {"auto", *allowed}:
        msg = f"'{path.name}' is {kind}, which `backend={backend!r}` does not read. Leave out `backend`."
        raise ValueError(msg)


def _require_no_picture(picture: int | None, path: Path) -> None:
    if picture is not None:
        msg = (
            f"`picture` is {picture}, but '{path.name}' is no TIFF file that tifffile reads, so its pictures have no "
            "numbers. Leave out `picture`."
        )
        raise ValueError(msg)


def _open_tiff(path: Path, backend: str, picture: int | None) -> SlideFile:
    """Through tifffile; where that cannot read it, through openslide or as a picture."""
    if backend == "openslide":
        _require_no_picture(picture, path)
        return _wsi_openslide.open_slide_file(path)
    slide = _wsi_tiff.open_slide_file(path, picture)
    if isinstance(slide, SlideFile):
        return slide
    _require_no_picture(picture, path)
    if backend == "tiffslide":
        check.refuse_unreadable(path, "slide", slide)
    return _wsi_openslide.open_slide_file(path) if _wsi_openslide.recognises(path) else _decode_picture(path)


def _decode_picture(path: Path) -> SlideFile:
    """Decode a file as a whole."""
    return SlideFile(levels=(read_image(path),), backend="pillow", orientation=picture_orientation(path))


def _attrs(path: Path, file: SlideFile, known: Resolution | None, name: str) -> dict[str, Any]:
    metadata = {
        "file": path.name,
        "backend": file.backend,
        "vendor": file.vendor,
        "objective_power": file.objective_power,
        keys.UM_PER_PX: None if file.um_per_px is None else list(file.um_per_px),
    }
    if file.centre_offset_nm is not None:
        metadata[keys.CENTRE_OFFSET] = list(file.centre_offset_nm)
    ours: dict[str, Any] = {keys.SLIDE: {name: metadata}}
    if known is not None:
        ours |= {keys.UM_PER_PX: {name: known.um_per_px}, keys.UM_PER_PX_FROM: {name: known.origin}}
    return {keys.ATTRS: ours}


def image_element(file: SlideFile, name: str, *, rechunk: bool) -> DataTree:
    """The multiscale image, in pixels of the coordinate system of its name."""
    if isinstance(file.levels[0], np.ndarray):
        return pyramid(file.levels[0], name)
    levels = [_to_dask(level) for level in with_coarse_levels(file.levels)]
    if rechunk:
        levels = [level.rechunk((level.shape[0], *CHUNKS[1:])) for level in levels]
    full = levels[0].shape
    tree = DataTree.from_dict({f"scale{i}": Dataset({"image": _level(level, full)}) for i, level in enumerate(levels)})
    set_transformation(tree, {name: Identity()}, set_all=True)
    Image2DModel().validate(tree)
    return tree


def _to_dask(level: Any) -> da.Array:
    """A dask array, which SpatialData needs; `_chunks` reads the array behind it without dask."""
    chunks = (level.shape[0], *map(block_size_px, level.chunks[1:]))
    decoded: da.Array = da.from_array(level, chunks=chunks, name=False, meta=np.empty((0, 0, 0), level.dtype))
    return decoded


def _level(pixels: da.Array, full: tuple[int, ...]) -> DataArray:
    """A level, with the centres of its pixels in pixels of the finest level as coordinates."""
    y, x = ((np.arange(n) + 0.5) * (size / n) for n, size in zip(pixels.shape[1:], full[1:], strict=True))
    channels = ["r", "g", "b", "a"][: len(pixels)]
    return DataArray(pixels, name="image", dims=("c", "y", "x"), coords={"c": channels, "y": y, "x": x})


def _write_and_reopen(sdata: SpatialData, store: Path) -> SpatialData:
    levels = [level["image"] for image in sdata.images.values() for level in image.children.values()]
    with (
        report_full_disk(
            store, "Free some space, or give another `to_zarr`.", lambda: sum(each.nbytes for each in levels)
        ),
        atomic_folder(store) as part,
        ThreadPoolExecutor(CPU_COUNT) as pool,  # if one task fails, the others end before the folder is removed
        dask.config.set(pool=pool),
    ):
        sdata.write(part)
    return read_zarr(store)
