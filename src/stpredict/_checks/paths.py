"""Paths that users give: absolute, and checked before any work begins. Nothing here writes."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from .names import duplicates

if TYPE_CHECKING:
    from collections.abc import Sequence


LONGEST_NAME = 200
"""Bytes of the name of a folder; file systems allow 255, and what is written beside it has a longer name."""


def user_path(given: object, name: str = "path") -> Path:
    """The absolute path of a file or folder; ``~`` is the home folder, and ``name`` is the argument in messages."""
    if not isinstance(given, str | PathLike):
        msg = f"`{name}` is {type(given).__name__} {given!r}. Give a path, as a string or a `pathlib.Path`."
        raise TypeError(msg)
    if given == "":
        msg = f"`{name}` is an empty string. Give a path; '.' is the current folder."
        raise ValueError(msg)
    try:
        path = Path(given).expanduser()
    except RuntimeError as error:  # the user is not known
        msg = f"`{name}` is {str(given)!r}, and there is no such home folder. Write './~…' for a name that begins so."
        raise ValueError(msg) from error
    return path.absolute()


def output_path(given: str | PathLike[str], name: str) -> Path:
    """The absolute path of a file or folder that will appear, or be replaced, in its parent folder."""
    path = user_path(given, name)
    _require_writable(path.parent, path, name)
    return path


def output_file(given: str | PathLike[str], name: str) -> Path:
    """The absolute path of a file that will be written."""
    path = user_path(given, name)
    if path.is_dir():
        msg = f"`{name}` is the folder {str(path)!r}. Give the name of a file."
        raise IsADirectoryError(msg)
    _require_writable(path.parent, path, name)
    return path


def output_folder(given: str | PathLike[str], name: str) -> Path:
    """The absolute path of a folder, new or not, in which files will be written."""
    path = user_path(given, name)
    _require_writable(path, path, name)
    return path


def _require_writable(folder: Path, path: Path, name: str) -> None:
    """Refuse a folder in which nothing can be written; one that does not exist must be possible to make."""
    existing = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not existing.is_dir():
        msg = f"`{name}` is {str(path)!r}, but {str(existing)!r} is not a folder. Give another path."
        raise NotADirectoryError(msg)
    try:
        with TemporaryFile(dir=existing):
            pass
    except OSError as error:
        msg = (
            f"`{name}` is {str(path)!r}, but nothing can be written to the folder {str(existing)!r} "
            f"({error.strerror}). Give a path where you may write."
        )
        raise PermissionError(msg) from error


def no_address(path: Path) -> None:
    """Refuse a store below a folder whose name zarr takes for part of an address: it could not be read again."""
    if marks := sorted(set(str(path)) & set("#?")):
        msg = (
            f"{str(path)!r} has {' and '.join(marks)} in its name, which zarr takes for the end of an address. Rename "
            "the folder, or give another path."
        )
        raise ValueError(msg)


def no_folder_names(names: Sequence[object]) -> list[str]:
    """Those of some names that cannot be names of folders in which we write, beside hidden files of their own."""
    return [
        str(name)
        for name in names
        if not isinstance(name, str)
        or not name.isprintable()
        or not 0 < len(name.encode(errors="replace")) <= LONGEST_NAME
        or name[0] == "."
        or set(name) & set("/\\")
    ]


def name_slides(paths: Sequence[Path]) -> dict[str, Path]:
    """Slides by distinct names: those of their files, and where these repeat also of the folders around them."""
    places: dict[Path, Path] = {}
    for path in paths:
        place = path.resolve()
        if place in places:
            msg = f"{str(places[place])!r} and {str(path)!r} are the same slide. Give every slide once."
            raise ValueError(msg)
        places[place] = path
    stems = [path.with_name(path.stem.removesuffix(".ome")) for path in paths]
    alike = set(duplicates(stems))
    files = [path.name if stem in alike else stem.name for path, stem in zip(paths, stems, strict=True)]
    folders = [[part for part in path.parent.parts if part != path.anchor] for path in paths]
    depth = [0] * len(paths)
    while True:
        names = ["_".join([*folders[i][len(folders[i]) - depth[i] :], file]) for i, file in enumerate(files)]
        twice = set(duplicates(names))
        unclear = [i for i, name in enumerate(names) if name in twice]
        if not unclear:
            return dict(zip(names, paths, strict=True))
        if all(depth[i] == len(folders[i]) for i in unclear):
            msg = f"{str(paths[unclear[0]])!r} and {str(paths[unclear[1]])!r} cannot be named apart. Rename one."
            raise ValueError(msg)
        for i in unclear:
            depth[i] = min(depth[i] + 1, len(folders[i]))
