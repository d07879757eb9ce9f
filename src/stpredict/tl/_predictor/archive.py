"""Predictors as one file: the archive of a release with its entry of a registry, and the copy of one in the cache."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._files import (
    DamagedFileError,
    atomic_file,
    atomic_folder,
    download,
    file_sha256,
    lock,
    report_damage,
    restore_folder,
    user_cache,
)
from ...models.pretrained_registry import REGISTRY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...models.pretrained_registry import PretrainedEntry

SUFFIX = ".zip"
ADVICE = "Download it again."
EARLIEST = (1980, 1, 1, 0, 0, 0)
"""Time of all files of an archive, so that equal predictors are equal archives."""


def write_archive(folder: Path, path: Path, files: Sequence[str]) -> None:
    """Pack some files of a folder, uncompressed: weights do not get smaller."""
    with atomic_file(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        for name in files:
            info = zipfile.ZipInfo(name, EARLIEST)
            with archive.open(info, "w", force_zip64=True) as packed, (folder / name).open("rb") as file:
                shutil.copyfileobj(file, packed)


def write_entry(path: Path, name: str, values: Mapping[str, Any]) -> None:
    """Write a registry with one entry, as text that people may edit."""
    with atomic_file(path) as part:
        part.write_text(f"{json.dumps({name: dict(values)}, indent=1)}\n", encoding="utf-8")


def archive_values(path: Path) -> dict[str, Any]:
    """What an entry says of an archive beside it."""
    return {"url": path.name, "size": path.stat().st_size, "sha256": file_sha256(path)}


def cached_predictor(entry: PretrainedEntry, files: Sequence[str]) -> Path:
    """The folder of a predictor in the cache; its archive is fetched first if it is not there."""
    folder = user_cache() / "pretrained" / f"{entry.name}-{entry.sha256[:16]}"
    with lock(folder, wait=True):
        restore_folder(folder)
        if not folder.is_dir():
            with atomic_folder(folder) as part:
                part.mkdir()
                _fetch(entry, part, files)
    return folder


def _fetch(entry: PretrainedEntry, folder: Path, files: Sequence[str]) -> None:
    """Unpack the archive of an entry into a folder."""
    if isinstance(entry.place, Path):
        if not entry.place.is_file():
            msg = (
                f"The archive of {entry.name!r} is not at {str(entry.place)!r}, where {str(entry.registry)!r} says. "
                "Put it there, or change `url` of the entry."
            )
            raise FileNotFoundError(msg)
        _check(entry, entry.place)
        _unpack(entry.place, folder, files)
        return
    archive = folder / f"{entry.name}{SUFFIX}"
    message = (
        f"The predictor {entry.name!r} is not in the cache ({str(user_cache())!r}) and could not be fetched from "
        f"{entry.place} ({{reason}}). Connect to the network, or download the file and its entry elsewhere, put them "
        f"into one folder and set {REGISTRY} to it."
    )
    download(entry.place, archive, message)
    _check(entry, archive)
    _unpack(archive, folder, files)
    archive.unlink()


def _check(entry: PretrainedEntry, archive: Path) -> None:
    """Refuse an archive other than the one that the entry describes."""
    if (found := file_sha256(archive)) != entry.sha256:
        msg = (
            f"{str(entry.place)!r} is not the predictor {entry.name!r} of {str(entry.registry)!r}: its SHA-256 is "
            f"{found}, expected {entry.sha256}. Nothing was kept; fetch it again, or ask who made the registry."
        )
        raise ValueError(msg)


def _unpack(path: Path, folder: Path, files: Sequence[str]) -> None:
    """Copy the known files of an archive, none of which may be compressed: what is copied is no larger than it."""
    with report_damage(path, ADVICE), zipfile.ZipFile(path) as archive:
        for each in archive.infolist():
            if each.filename not in files or each.compress_type != zipfile.ZIP_STORED:
                raise DamagedFileError(path, each.filename, "archives of predictors do not hold such a file", ADVICE)
            with archive.open(each) as packed, (folder / each.filename).open("wb") as file:
                shutil.copyfileobj(packed, file)
