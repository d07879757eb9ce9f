"""Errors about slide files: missing, damaged, of an unknown kind, or saying nothing of their resolution."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from . import files
from .slides import listed
from .training import warn

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

BACKENDS = ("auto", "tiffslide", "openslide")
READ = "SVS, NDPI, MRXS, SCN, tiled TIFF, OME-TIFF, DICOM, PNG, JPEG and OME-Zarr"


@contextmanager
def needs(module: str) -> Iterator[None]:
    """Say how to install what slides are read with, if that is what is missing."""
    try:
        yield
    except (ImportError, OSError) as error:  # OSError: the library that openslide wraps
        msg = (
            f"This slide is read with {module}, which is not installed or does not load ({error}). Call "
            "`pip install 'stpredict-histology[io]'`."
        )
        raise ModuleNotFoundError(msg, name=module) from error


def backend(value: str) -> None:
    """Refuse a backend that there is not."""
    if value not in BACKENDS:
        msg = f"`backend` is {value!r}; it must be one of {listed(BACKENDS)}."
        raise ValueError(msg)


def backend_reads(value: str, allowed: Collection[str], path: Path, kind: str) -> None:
    """Refuse a backend that does not read a kind of file."""
    if value not in {"auto", *allowed}:
        msg = f"'{path.name}' is {kind}, which `backend={value!r}` does not read. Leave out `backend`."
        raise ValueError(msg)


def exists(path: str, *, is_there: bool) -> None:
    """Refuse an empty path and one where nothing is."""
    if not path:
        msg = f"The path is empty. Give that of a slide to `stp.io.read_wsi` ({READ})."
        raise ValueError(msg)
    if not is_there:
        msg = f"No slide at '{path}'. Give the path of an existing file to `stp.io.read_wsi` ({READ})."
        raise FileNotFoundError(msg)


def folder(path: Path, found: Sequence[str]) -> NoReturn:
    """Refuse a folder that is no OME-Zarr."""
    msg = (
        f"'{path}' is a folder without zarr metadata (it holds {listed(found)}). Give the slide itself: the file of "
        "that name beside it (MRXS), one of the files in it (DICOM), or a folder with 'zarr.json' or '.zattrs' "
        "(OME-Zarr)."
    )
    raise ValueError(msg)


def unknown(path: Path, head: bytes) -> NoReturn:
    """Refuse a file whose content is that of no slide."""
    what = f"begins with {head[:8]!r}, as no kind of slide does" if head else "is empty"
    msg = f"'{path.name}' {what}. The content decides, not the name; {READ} are read. Fetch it again, or convert it."
    raise ValueError(msg)


def unreadable(path: Path, reason: object) -> NoReturn:
    """Report a slide that cannot be opened or decoded."""
    files.unreadable(path, "slide", reason)


def whole(path: Path, n_bytes: int, needed: int) -> None:
    """Refuse a file that ends before its pixels do."""
    if n_bytes < needed:
        unreadable(path, f"it is cut short, with {n_bytes} of at least {needed} bytes")


def companion(path: Path, needed: Path) -> None:
    """Refuse MRXS without the folder that holds its pixels."""
    if not needed.is_file():
        msg = (
            f"'{path.name}' holds no pixels of its own: '{needed}' is missing. Put the folder "
            f"'{needed.parent.name}' that came with it beside it."
        )
        raise FileNotFoundError(msg)


def one_plane(path: Path, axes: Sequence[str], shape: Sequence[int], allowed: Collection[Sequence[str]]) -> None:
    """Refuse stacks: several planes, times or pictures of one size."""
    if axes not in allowed:
        sizes = ", ".join(f"{axis} {n}" for axis, n in zip(axes, shape, strict=False))
        msg = (
            f"'{path.name}' is no single picture: its axes are {sizes}. One plane in colour is read; export that plane "
            "as OME-TIFF or OME-Zarr."
        )
        raise ValueError(msg)


def is_multiscale(path: Path, attrs: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Refuse zarr that is no OME-Zarr image."""
    if not metadata.get("multiscales"):
        hint = "Give the folder of one image, whose metadata hold 'multiscales'"
        if "spatialdata_attrs" in attrs:
            hint = "It is a SpatialData object: read it with `spatialdata.read_zarr(path)`"
        msg = f"Zarr folder '{path}' is no OME-Zarr image (its metadata hold {listed(list(attrs))}). {hint}."
        raise ValueError(msg)


def all_levels(path: Path, missing: Sequence[str], named: Sequence[str]) -> None:
    """Refuse OME-Zarr without one of the levels that it names."""
    if missing or not named:
        msg = (
            f"OME-Zarr '{path.name}' names levels {listed(named)}, of which {listed(missing)} are missing. Copy or "
            "fetch the folder again."
        )
        raise ValueError(msg)


def fits_memory(path: Path, size: tuple[int, int], most_px: int) -> None:
    """Refuse a picture that can only be decoded as a whole, and is too large for that."""
    if size[0] * size[1] > most_px:
        msg = (
            f"'{path.name}' has {size[0]} x {size[1]} pixels and can only be decoded as a whole; at most "
            f"{most_px / 1e6:.0f} million are. Convert it to a tiled pyramid, for instance with "
            "`vips tiffsave slide.jpg slide.tif --tile --pyramid --compression jpeg`, and read that."
        )
        raise ValueError(msg)


def name(value: str, *, valid: bool) -> None:
    """Refuse a name that no element can have."""
    if not valid:
        msg = f"`name` is {value!r}; it must consist of letters, digits, '_', '-' and '.', and not begin with '__'."
        raise ValueError(msg)


def new_store(path: Path) -> None:
    """Refuse to write where something is, or into a folder that is not there."""
    if path.exists():
        msg = f"`to_zarr` is '{path}', which exists. Read it with `spatialdata.read_zarr`, remove it, or give another."
        raise FileExistsError(msg)
    if not path.parent.is_dir():
        msg = f"`to_zarr` is '{path}', but there is no folder '{path.parent}'. Make it first."
        raise FileNotFoundError(msg)


def no_resolution(image_key: str) -> None:
    """Warn that nothing is known of the size of a pixel."""
    warn(
        f"The file of image {image_key!r} does not say how large a pixel is (dots per inch of a screen or printer do "
        "not count), and nothing was recorded. Give `um_per_px`, or call `stp.pp.resolution(sdata, um_per_px=…)`."
    )
