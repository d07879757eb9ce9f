"""Files and folders that appear whole or not at all, and one process at a time at a place on disk."""

from __future__ import annotations

import shutil
import stat
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from collections.abc import Iterator


class DamagedFileError(ValueError):
    """A file that is damaged, or holds something else than it should."""


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``; what is written there replaces ``path`` if nothing is raised."""
    temporary = temporary_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _share(temporary)
        temporary.replace(path)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, *, locked: bool = False) -> Iterator[Path]:
    """A path beside ``path``; the folder that is made there replaces ``path`` if nothing is raised.

    With ``locked`` the caller holds the lock of ``path``, so that what a killed process left can be removed.
    """
    temporary = path.with_name(f".{path.name}.part") if locked else temporary_path(path)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _share(temporary)
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _share(path: Path) -> None:
    """Give a new file, or the files of a new folder, the permissions that the user's umask (or an ACL) allows.

    Some libraries write through `tempfile`, whose files only the owner can read.
    """
    probe = temporary_path(path)
    probe.touch()
    allowed = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for file in path.rglob("*") if path.is_dir() else [path]:
        mode = file.lstat().st_mode
        if stat.S_ISREG(mode) and stat.S_IMODE(mode) != stat.S_IMODE(mode) | allowed:
            file.chmod(stat.S_IMODE(mode) | allowed)


def temporary_path(path: Path) -> Path:
    """A hidden name beside ``path`` that no other process uses, so on the same disk."""
    return path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")


def replace_folder(new: Path, path: Path) -> None:
    """Rename a folder to ``path``; what is there is removed only after the new one is in place."""
    if not path.exists():
        new.rename(path)
        return
    old = temporary_path(path)
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def user_cache() -> Path:
    """The folder of this package in the user's cache."""
    import pooch

    return Path(pooch.os_cache("stpredict"))


@contextmanager
def lock(path: Path) -> Iterator[bool]:
    """Lock a file or folder, which need not exist, without waiting; yields False if another process holds the lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_name(f".{path.name}.lock")
    file_lock = FileLock(file, blocking=False)
    try:
        file_lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        with suppress(OSError):  # before the release, so that no other process's lock file is removed
            file.unlink(missing_ok=True)
        file_lock.release()
