"""One process at a time at a place on disk."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def lock(place: Path) -> Iterator[bool]:
    """Keep other processes from a place, without waiting; a process that ends, however it ends, lets go.

    Parameters
    ----------
    place
        A file or folder; it need not be there. A hidden file beside it is the lock.

    Yields
    ------
    False if another process has it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    file = place.with_name(f".{place.name}.lock")
    held = FileLock(file, blocking=False)
    try:
        held.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):  # while it is held, so that nobody else's goes
            file.unlink(missing_ok=True)
        held.release()
