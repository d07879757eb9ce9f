"""A cache of decoded images on disk, as chunked pyramids: converted once, then read lazily."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from spatialdata import SpatialData, read_zarr

from .._files import (
    DamagedFileError,
    atomic_folder,
    file_sha256,
    lock,
    read_json,
    report_full_disk,
    restore_folder,
    sweep,
    write_json,
)
from ..io.images import pyramid, read_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xarray import DataTree

logger = logging.getLogger(__name__)

CACHE_VERSION = 3
"""Increased whenever what is written changes, so that old caches are replaced."""
STORE, RECEIPT = "image.zarr", "receipt.json"


def cached_image(name: str, source: str, folder: Path, fetch: Callable[[], Path]) -> DataTree:
    """The multiscale image element of a section, read lazily from the cache; converted first if it is not there.

    ``source`` is the hash of the image file and part of the name of the cache, so a valid store, which other processes
    may be reading, is never replaced. ``fetch`` gives the path of the file, and is called only if it is needed.
    """
    place = folder / f"{name}-{source[:16]}"
    if not _is_valid(place, source):
        with lock(place, wait=True):
            restore_folder(place)
            sweep(place)
            if not _is_valid(place, source):  # another process may just have converted it
                _convert(fetch(), name, place, source)
    image: DataTree = read_zarr(place / STORE).images[f"{name}_image"]
    return image


def _is_valid(place: Path, source: str) -> bool:
    """Whether the receipt fits the source and what is there; missing chunks would be read as black."""
    try:
        found = read_json(place / RECEIPT, {str: object}, "")
    except DamagedFileError:
        return False
    return bool(found == _receipt(place / STORE, source))


def _receipt(store: Path, source: str) -> dict[str, object]:
    """The sizes of all files, and digests of the metadata; digests of the pixels would be as slow as decoding all."""
    files = sorted(path for path in store.rglob("*") if path.is_file())
    metadata = {path.relative_to(store).as_posix(): file_sha256(path) for path in files if path.name == "zarr.json"}
    sizes = [path.stat().st_size for path in files]
    return {"format": CACHE_VERSION, "source": source, "n_files": len(sizes), "n_bytes": sum(sizes), "sha256": metadata}


def _convert(path: Path, name: str, place: Path, source: str) -> None:
    logger.info("Section %s: converting its image to a chunked pyramid in '%s' (once).", name, place.parent)
    pixels = read_image(path)
    advice = "Free some space, or name another folder by STPREDICT_DATA_DIR."
    with report_full_disk(place, advice, lambda: pixels.nbytes * 4 // 3), atomic_folder(place) as part:
        part.mkdir()
        SpatialData(images={f"{name}_image": pyramid(pixels, name)}).write(part / STORE)
        write_json(part / RECEIPT, _receipt(part / STORE, source))
