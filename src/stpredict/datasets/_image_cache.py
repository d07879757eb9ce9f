"""A cache of decoded images on disk, as chunked pyramids: converted once, then read lazily."""

from __future__ import annotations

import json
import logging
import shutil
import time
from typing import TYPE_CHECKING

from spatialdata import SpatialData, read_zarr

from .._files import atomic_file, atomic_folder
from ..io.images import pyramid, read_image

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from xarray import DataTree

logger = logging.getLogger(__name__)

CACHE_VERSION = 1
"""Increased whenever what is written changes, so that old caches are replaced."""
STALE_S = 3600.0
"""Age in seconds at which the remains of an interrupted conversion are removed."""


def cached_image(name: str, source: str, folder: Path, fetch: Callable[[], Path]) -> DataTree:
    """The multiscale image element of a section, read lazily from the cache; converted first if it is not there.

    ``source`` is the hash of the image file: a cache made from another file is not used. ``fetch`` gives the path of
    the file, and is called only if it is needed.
    """
    store, receipt = folder / f"{name}.zarr", folder / f"{name}.json"
    if not _is_valid(store, receipt, source):
        _convert(fetch(), name, store, receipt, source)
    image: DataTree = read_zarr(store).images[f"{name}_image"]
    return image


def _is_valid(store: Path, receipt: Path, source: str) -> bool:
    """Whether the receipt, which is written last, fits the source and the files that are there."""
    try:
        noted = json.loads(receipt.read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return bool(noted == _receipt(store, source))


def _receipt(store: Path, source: str) -> dict[str, object]:
    sizes = [path.stat().st_size for path in store.rglob("*") if path.is_file()]
    return {"format": CACHE_VERSION, "source": source, "n_files": len(sizes), "n_bytes": sum(sizes)}


def _convert(path: Path, name: str, store: Path, receipt: Path, source: str) -> None:
    logger.info("Section %s: converting its image to a chunked pyramid in '%s' (once).", name, store.parent)
    for part in store.parent.glob(f".{store.name}-*"):  # of interrupted conversions, not of one that still runs
        if time.time() - part.stat().st_mtime > STALE_S:
            shutil.rmtree(part, ignore_errors=True)
    with atomic_file(receipt) as new_receipt, atomic_folder(store) as new_store:  # the receipt appears last
        SpatialData(images={f"{name}_image": pyramid(read_image(path), name)}).write(new_store)
        new_receipt.write_text(json.dumps(_receipt(new_store, source)), "utf-8")
        receipt.unlink(missing_ok=True)
