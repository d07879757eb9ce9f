"""Files and folders that appear whole or not at all, and one process at a time at a place on disk."""

from __future__ import annotations

import errno
import math
import os
import re
import shutil
import stat
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from safetensors import SafetensorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POLL_S = 0.05
"""Seconds between two attempts at a lock that is waited for."""
LONGEST_STEM = 180
"""Bytes of a name that its hidden companions keep: names of files have at most 255."""
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""Errors of a disk, a quota or a file size limit that is exhausted; libraries in Rust only write the number."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; what is written there replaces ``path`` if nothing is raised."""
    with _temporary(path) as (part, target):
        yield part
        _share(part)
        part.replace(target)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A path beside ``path``; the folder that is made there replaces ``path`` if nothing is raised."""
    with _temporary(path) as (part, target):
        yield part
        _share(part)
        replace_folder(part, target)


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, Path]]:
    """A locked temporary path beside a place, and the place itself: of a symbolic link, what it points to."""
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    target.parent.mkdir(parents=True, exist_ok=True)
    sweep(target)
    part = target.with_name(f".{_stem(target)}-{uuid.uuid4().hex[:8]}.part")
    with lock(part):
        try:
            yield part, target
        finally:
            remove(part)


def sweep(path: Path) -> None:
    """Remove the temporary files beside ``path`` whose writers were killed: those that no process has locked."""
    pattern = re.compile(rf"\.?(\.{re.escape(_stem(path))}-[0-9a-f]{{8}}\.part)(\.lock|\.mode)?")
    with suppress(OSError):  # nothing can be removed from a folder that only others may write to
        matches = [pattern.fullmatch(each.name) for each in path.parent.iterdir()]
        for part in {path.with_name(match[1]) for match in matches if match}:
            with lock(part) as unused:
                if unused:
                    remove(part)
                    remove(part.with_name(f"{part.name}.mode"))


def replace_folder(new: Path, path: Path) -> None:
    """Rename a folder to ``path``; what is there is removed only after the new one is in place."""
    old = _aside(path)
    with lock(old, wait=True):
        _finish_replacement(old, path)
        try:
            if path.exists():
                path.rename(old)
            new.rename(path)
        finally:
            _finish_replacement(old, path)


def restore_folder(path: Path) -> None:
    """Bring back a folder that a killed process had moved aside to replace it, or remove what it left there."""
    old = _aside(path)
    if old.exists():
        with lock(old, wait=True):
            _finish_replacement(old, path)


def _finish_replacement(old: Path, path: Path) -> None:
    """Remove the old folder if the new one is in place, or bring the old one back."""
    if path.exists():
        remove(old)
    elif old.exists():
        old.rename(path)


def _aside(path: Path) -> Path:
    """Where the folder at ``path`` is while it is replaced."""
    return path.with_name(f".{_stem(path)}.old")


def _stem(path: Path) -> str:
    return os.fsencode(path.name)[:LONGEST_STEM].decode(errors="ignore")


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _share(path: Path) -> None:
    """Give a new file, or the files of a new folder, the permissions that the user's umask (or an ACL) allows.

    Some libraries write through `tempfile`, whose files only the owner can read.
    """
    probe = path.with_name(f"{path.name}.mode")
    probe.touch()
    allowed = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in path.rglob("*") if path.is_dir() else [path]:
        mode = file.lstat().st_mode
        if stat.S_ISREG(mode) and stat.S_IMODE(mode) != stat.S_IMODE(mode) | allowed:
            file.chmod(stat.S_IMODE(mode) | allowed)


def user_cache() -> Path:
    """The folder of this package in the user's cache."""
    import pooch

    return Path(pooch.os_cache("stpredict"))


def download(url: str, path: Path, message: str, *, stream: bool = False, progress: bool = False) -> None:
    """Write the content of a URL to a file; of an error, the message has its class in place of ``{reason}``.

    With ``stream``, it is written block by block and not held in memory.
    """
    import pooch

    try:
        pooch.HTTPDownloader(timeout=60, stream=stream, progressbar=progress)(url, str(path), None)
    except OSError as reason:
        raise ConnectionError(message.replace("{reason}", type(reason).__name__)) from reason


@contextmanager
def lock(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Lock a file or folder, which need not exist; yields False if another process holds the lock.

    With ``wait`` it is always acquired. The system releases the lock of a process that is killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = lock_file(path)
    file_lock = FileLock(file)
    try:
        file_lock.acquire(blocking=wait, poll_interval=POLL_S)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):  # before the release, so that no other process's lock file is removed
            file.unlink(missing_ok=True)
        file_lock.release()


def lock_file(path: Path) -> Path:
    """The file that is locked; it is there while a process has the lock, or was killed with it."""
    return path.with_name(f".{path.name}.lock")


class FullDiskError(OSError):
    """No space is left where something is written."""


@contextmanager
def report_full_disk(place: Path, advice: str = "", n_bytes: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn the error of a full disk into one that says where, and how much is missing at most (``n_bytes``)."""
    try:
        yield
    except FullDiskError:
        raise
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_full(error):
            raise
        existing = next(folder for folder in (place, *place.parents) if folder.exists())
        free = shutil.disk_usage(existing).free / 2**20
        more = "" if n_bytes is None else f", and up to {math.ceil(n_bytes() / 2**20):,} MiB more are needed"
        full = OSError(
            f"No space left for {str(place)!r}: {free:,.0f} MiB are free on this disk{more}. {advice}".rstrip()
        )
        full.errno = errno.ENOSPC
        raise full from error


def _is_full(error: Exception) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    written = re.search(r"os error (\d+)", str(error))
    return written is not None and int(written[1]) in FULL
