"""Find, download and check single files. Nothing here knows what is in them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._checks.paths import user_path
from .._files import atomic_file, download, user_cache

if TYPE_CHECKING:
    from pathlib import Path

DATA_DIR = "STPREDICT_DATA_DIR"
"""Environment variable that names the folder of data sets."""
BLOCK_BYTES = 2**20
"""How much of a file is in memory while it is hashed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RemoteFile:
    """A file of a public repository, pinned by its hashes or its size where these are known."""

    path: str
    """Path in the folder of the data set, and within the repository."""
    remote: str | None = None
    """Path within the repository, where it differs."""
    git_blob_sha1: str | None = None
    """Hash that git gives the content."""
    sha256: str | None = None
    """SHA-256 of the content, where known."""
    md5: str | None = None
    """MD5 of the content, where known."""
    n_bytes: int | None = None
    """Size of the file, where known."""


def user_dir() -> Path | None:
    """The user's folder of data sets, ``STPREDICT_DATA_DIR``; None if it is not set."""
    value = os.environ.get(DATA_DIR)
    return user_path(value, DATA_DIR) if value else None


def cache_dir() -> Path:
    """The folder of this package in the cache of the operating system."""
    return user_cache()


def writable_dir() -> Path:
    """Folder for what is downloaded or converted: the user's folder if it can be written to, else the cache."""
    folder = user_dir()
    return folder if folder is not None and _is_writable(folder) else cache_dir()


def _is_writable(folder: Path) -> bool:
    """Whether a folder, or the existing one above it, is writable by permission and by mode.

    An administrator may write anywhere, but a folder without a single write bit is read-only by intent.
    """
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return bool(existing.stat().st_mode & 0o222) and os.access(existing, os.W_OK)


def fetch(file: RemoteFile, dataset: str, base_url: str) -> Path:
    """Path of a file with the expected content, downloaded if it is neither in the user's folder nor in the cache."""
    mine = user_dir()
    if mine is not None and (path := mine / dataset / file.path).is_file():
        verify(path, file, delete=False)
        return path
    path = cache_dir() / dataset / file.path
    if path.is_file():
        if all(found == expected for _, found, expected in _checks(path, file)):
            return path
        path.unlink()  # our own download, damaged since: fetch it once more
    path = writable_dir() / dataset / file.path
    fetch_to(path, file, dataset, base_url)
    return path


def fetch_to(
    path: Path, file: RemoteFile, dataset: str, base_url: str, *, stream: bool = False, progress: bool = False
) -> None:
    """Download a file to a path, at which it appears when it is complete and what is known of it is right.

    A connection that ends before the size that the server stated is an error of the downloader.
    """
    url = f"{base_url}/{file.remote or file.path}"
    places = ", ".join(f"'{place / dataset}'" for place in (user_dir(), cache_dir()) if place is not None)
    message = (
        f"'{file.path}' is not here (looked in {places}) and could not be fetched from {url} ({{reason}}). Connect to "
        f"the network, or put the file there, or set STPREDICT_DATA_DIR to a folder with '{dataset}'; "
        "`stp.datasets.synthetic()` needs no file."
    )
    with atomic_file(path) as part:
        download(url, part, message, stream=stream, progress=progress)
        verify(part, file, delete=True)


def verify(path: Path, file: RemoteFile, *, delete: bool) -> None:
    """Refuse a file whose hashes are not the expected ones; ``delete`` removes it."""
    for kind, found, expected in _checks(path, file):
        if found != expected:
            if delete:
                path.unlink()
            state = "It was deleted; call again to fetch it once more" if delete else "It was left as it is; replace it"
            msg = f"'{path}' is corrupt: {kind} is {found}, expected {expected}. {state}."
            raise ValueError(msg)


def _checks(path: Path, file: RemoteFile) -> list[tuple[str, str, str]]:
    """Kind, found value and expected value of the size and of each hash that is known."""
    n_bytes = path.stat().st_size
    if file.n_bytes is not None and n_bytes != file.n_bytes:  # no hash is needed to tell
        return [("its size in bytes", str(n_bytes), str(file.n_bytes))]
    digests = {
        "its git blob SHA-1": (hashlib.sha1(b"blob %d\0" % n_bytes, usedforsecurity=False), file.git_blob_sha1),
        "its SHA-256": (hashlib.sha256(), file.sha256),
        "its MD5": (hashlib.md5(usedforsecurity=False), file.md5),
    }
    known = {kind: (digest, expected) for kind, (digest, expected) in digests.items() if expected is not None}
    with path.open("rb") as content:
        while known and (block := content.read(BLOCK_BYTES)):
            for digest, _ in known.values():
                digest.update(block)
    return [(kind, digest.hexdigest(), expected) for kind, (digest, expected) in known.items()]
