"""Find, download and check single files. Nothing here knows what is in them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pooch

from .._checks import files as check

DATA_DIR = "STPREDICT_DATA_DIR"
"""Environment variable that names the folder of data sets."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file of a public repository, pinned by its hashes."""

    path: str
    """Path within the repository."""
    git_blob_sha1: str
    """Hash that git gives the content."""
    sha256: str | None = None
    """SHA-256 of the content, where known."""


def user_dir() -> Path | None:
    """Folder that the user keeps data sets in.

    Returns
    -------
    The value of ``STPREDICT_DATA_DIR``, None if it is not set.
    """
    value = os.environ.get(DATA_DIR)
    return Path(value).expanduser() if value else None


def cache_dir() -> Path:
    """Folder that this package keeps downloads in.

    Returns
    -------
    The cache folder of the operating system.
    """
    return Path(pooch.os_cache("stpredict"))


def writable_dir() -> Path:
    """Folder for what is downloaded or derived.

    Returns
    -------
    The user's folder if it can be written to, else the cache.
    """
    folder = user_dir()
    return folder if folder is not None and _is_writable(folder) else cache_dir()


def _is_writable(folder: Path) -> bool:
    """Whether a folder, or the one it would be made in, is meant to be written to.

    The mode counts besides the permission: an administrator may write anywhere, but a folder without a single write
    bit is read-only by intent.
    """
    there = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return bool(there.stat().st_mode & 0o222) and os.access(there, os.W_OK)


def fetch(file: RemoteFile, dataset: str, base_url: str) -> Path:
    """Path of a file whose content is as expected, downloaded if it is not here.

    Parameters
    ----------
    file
        The file.
    dataset
        Name of the folder of the data set.
    base_url
        Where the repository's files are served.

    Returns
    -------
    Path of the file.

    Raises
    ------
    ValueError
        If a file of the user, or a download, is corrupt.
    ConnectionError
        If the file is neither here nor can be downloaded.
    """
    mine = user_dir()
    if mine is not None and (path := mine / dataset / file.path).is_file():
        verify(path, file, delete=False)
        return path
    path = cache_dir() / dataset / file.path
    if path.is_file():
        if _matches(path, file):
            return path
        path.unlink()  # our own download, spoilt since: fetch it once more
    return _download(file, dataset, base_url)


def _download(file: RemoteFile, dataset: str, base_url: str) -> Path:
    path = writable_dir() / dataset / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    url = f"{base_url}/{file.path}"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as folder:
        part = Path(folder) / path.name
        try:
            pooch.HTTPDownloader(timeout=60, stream=False)(url, str(part), None)
        except OSError as reason:
            looked = [place / dataset for place in (user_dir(), cache_dir()) if place is not None]
            check.unavailable(file.path, looked, url, type(reason).__name__)
        verify(part, file, delete=True)
        part.replace(path)
    return path


def verify(path: Path, file: RemoteFile, *, delete: bool) -> None:
    """Compare the hashes of a file with the expected ones.

    Parameters
    ----------
    path
        The file.
    file
        What it should be.
    delete
        Whether a corrupt file is removed.

    Raises
    ------
    ValueError
        If the file is corrupt.
    """
    for kind, found, expected in _hashes(path, file):
        if delete and found != expected:
            path.unlink()
        check.intact(path, kind, found, expected, deleted=delete)


def _matches(path: Path, file: RemoteFile) -> bool:
    return all(found == expected for _, found, expected in _hashes(path, file))


def _hashes(path: Path, file: RemoteFile) -> list[tuple[str, str, str]]:
    content = path.read_bytes()
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    found = [("its git blob SHA-1", blob, file.git_blob_sha1)]
    if file.sha256 is not None:
        found.append(("its SHA-256", hashlib.sha256(content).hexdigest(), file.sha256))
    return found
