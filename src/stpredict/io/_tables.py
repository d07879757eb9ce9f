"""Text tables: plain or gzipped, with tabs, commas or blanks, with or without a header. Files in, frames out."""

from __future__ import annotations

import gzip
import io
import re
import zlib
from typing import IO, TYPE_CHECKING, cast

import numpy as np
import pandas as pd

from .._checks import files as check

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

UNREADABLE = (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError)
"""What Python raises for a file that is cut short or holds no text."""
SPOT = re.compile(r"(\d+(?:\.\d+)?)[x_](\d+(?:\.\d+)?)")
"""Array coordinates as a name: ``10x13``, ``16.92x9.015``, ``17_9``."""
BARCODE = re.compile(r"[ACGTN]{10,}(?:-\d+)?")
"""A spatial barcode as a name."""


def is_gzip(path: Path) -> bool:
    """Whether a file is gzipped, by its first bytes.

    Parameters
    ----------
    path
        An existing file, whatever it is called.

    Returns
    -------
    The answer.
    """
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def open_text(path: Path) -> IO[str]:
    """Open a text file, gzipped or not, with any line endings.

    Parameters
    ----------
    path
        An existing file.

    Returns
    -------
    The open file. A byte order mark is skipped.
    """
    if is_gzip(path):
        return cast("IO[str]", gzip.open(path, "rt", encoding="utf-8-sig"))
    return path.open(encoding="utf-8-sig")


def read_text(path: Path, what: str) -> str:
    """Content of a text file.

    Parameters
    ----------
    path
        The file, plain or gzipped.
    what
        What it is, for messages.

    Returns
    -------
    Its text, lines ended by a line feed.
    """
    check.exists(path, what)
    try:
        with open_text(path) as file:
            return file.read()
    except UNREADABLE as reason:
        check.unreadable(path, what, reason)


def separator(line: str) -> str | None:
    """What separates the fields of a line.

    Parameters
    ----------
    line
        A header or a row.

    Returns
    -------
    Tab, comma or semicolon, the first of them that occurs; None for blanks.
    """
    return next((mark for mark in "\t,;" if mark in line), None)


def fields(line: str, mark: str | None) -> list[str]:
    """Fields of a line, without quotes and blanks around them.

    Parameters
    ----------
    line
        A header or a row.
    mark
        What `separator` gave.

    Returns
    -------
    The fields.
    """
    return [field.strip().strip('"') for field in line.rstrip("\r\n").split(mark)]


def read_table(path: Path, what: str, headers: Mapping[int, Sequence[str]] | None = None) -> pd.DataFrame:
    """Read a table whose separator and header are found out.

    Parameters
    ----------
    path
        Table, plain or gzipped. Where rows have one field more than the header (as R writes them), or the header ends
        in an empty field and the rows do not, the first field is a name.
    what
        What it is, for messages.
    headers
        Names of the columns by their number, for tables without a header: those whose first line holds numbers, but
        for a name in front.

    Returns
    -------
    The columns; names in front are in the first one.
    """
    text = read_text(path, what)
    mark = separator(text.partition("\n")[0])
    given = _header(text, mark, path, headers)
    bare = given is not None and headers is not None and tuple(headers.get(len(given), ())) == tuple(given)
    try:
        frame = pd.read_csv(io.StringIO(text), sep=mark or r"\s+", header=None if bare else 0, names=given)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as reason:
        check.unreadable(path, what, reason)
    return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()


def _header(text: str, mark: str | None, path: Path, headers: Mapping[int, Sequence[str]] | None) -> list[str] | None:
    """Names of the columns where the first line does not say them rightly; None where it does."""
    first, second = ([*(fields(line, mark) for line in text.split("\n", 2)[:2]), [], []])[:2]
    if len(first) > 1 and first[-1] == "" and len(second) == len(first) and second[-1] != "":
        return ["name", *first[:-1]]
    if headers is None or not first or not _is_spot_or_number(first[0]) or not all(map(_is_number, first[1:])):
        return None
    if len(first) not in headers:
        check.headerless(len(first), path)
    return list(headers[len(first)])


def _is_spot_or_number(text: str) -> bool:
    return _is_number(text) or SPOT.fullmatch(text) is not None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def position(name: str) -> tuple[float, float] | None:
    """Array coordinates in the name of a spot.

    Parameters
    ----------
    name
        Such as ``10x13``, ``16.92x9.015`` or ``17_9``.

    Returns
    -------
    The coordinates, not rounded; None for any other name.
    """
    match = SPOT.fullmatch(name.strip().strip('"'))
    return None if match is None else (float(match[1]), float(match[2]))


def spot_name(x: float, y: float) -> str:
    """Name of a position of the array.

    Parameters
    ----------
    x, y
        Array coordinates, which are rounded.

    Returns
    -------
    Such as ``10x13``.
    """
    return f"{round(x)}x{round(y)}"


def carries(pattern: re.Pattern[str], names: Iterable[object]) -> bool:
    """Whether at least half of some names are of a kind.

    Parameters
    ----------
    pattern
        ``SPOT`` or ``BARCODE``.
    names
        Names of one axis of a table.

    Returns
    -------
    The answer; False for no names.
    """
    found = [pattern.fullmatch(str(name).strip()) is not None for name in names]
    return bool(found) and sum(found) * 2 >= len(found)


def numbers(frame: pd.DataFrame, columns: Sequence[str], path: Path) -> NDArray[np.float64]:
    """Columns of a table as numbers.

    Parameters
    ----------
    frame
        The table.
    columns
        Names of the columns.
    path
        Where it was read, for messages.

    Returns
    -------
    ``(n, len(columns))`` finite numbers.
    """
    values = frame[list(columns)].apply(pd.to_numeric, errors="coerce")
    check.finite_columns([name for name in columns if not np.isfinite(values[name]).all()], path)
    array: NDArray[np.float64] = values.to_numpy(np.float64)
    return array
