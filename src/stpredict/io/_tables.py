"""Text tables: plain or gzipped, separated by tabs, commas or blanks, with or without a header."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

import numpy as np
import pandas as pd

from .._checks.decoding import DECODER_ERRORS, describe
from .._checks.memory import limit_bytes, require_memory
from .._geometry import on_slide
from . import _errors as check

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

DECODING_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError)
"""What Python raises for a file that is truncated or is not text."""
TABLE_BYTES = 12
"""Memory for each letter of a table that is read as a whole: its text, a copy for pandas, numbers."""
FIELD_BYTES = 40
"""Memory for each letter of a line that is split into fields, which may have one letter each."""
SPOT_NAME = re.compile(r"(\d+(?:\.\d+)?)[x_](\d+(?:\.\d+)?)")
"""Array coordinates as a name: ``10x13``, ``16.92x9.015``, ``17_9``."""
BARCODE = re.compile(r"[ACGTN]{10,}(?:-\d+)?")
"""A spatial barcode as a name."""


def is_gzip(path: Path) -> bool:
    """Whether a file is gzipped, by its first bytes."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def open_text(path: Path) -> IO[str]:
    """Open a text file, gzipped or not, in UTF-8, or in UTF-16 if its byte order mark says so."""
    opener = gzip.open if is_gzip(path) else open
    with opener(path, "rb") as file:
        encoding = "utf-16" if file.read(2) in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE} else "utf-8-sig"
    return cast("IO[str]", opener(path, "rt", encoding=encoding))


def read_text(path: Path, what: str) -> str:
    """The content of a text file, gzipped or not; ``what`` names it in messages."""
    check.require_file(path, what)
    longest = limit_bytes() // TABLE_BYTES
    try:
        with open_text(path) as file:
            text = file.read(longest + 1)
    except DECODING_ERRORS as reason:
        undecodable(path, what, reason)
    if "\0" in text:
        check.refuse_unreadable(path, what, "it holds bytes of zero, as no text does")
    if len(text) > longest:
        require_memory(TABLE_BYTES * len(text), f"The {what} '{path.name}' (over {longest:,} letters)")
    return text


def read_lines(file: IO[str], path: Path, what: str) -> Iterator[str]:
    """The lines of an open text file; the memory for the fields of a line is limited too."""
    longest = limit_bytes() // FIELD_BYTES
    while line := file.readline(longest + 1):
        if "\0" in line:
            check.refuse_unreadable(path, what, "it holds bytes of zero, as no text does")
        if len(line) > longest:
            require_memory(FIELD_BYTES * len(line), f"A line of the {what} '{path.name}' (over {longest:,} letters)")
        yield line


def undecodable(path: Path, what: str, reason: Exception) -> NoReturn:
    """Report a text file that cannot be decoded: it lost bytes of its compression, or holds no text."""
    (check.refuse_unreadable if isinstance(reason, UnicodeDecodeError) else check.refuse_damaged)(path, what, reason)


def find_separator(line: str) -> str | None:
    """The first of tab, comma and semicolon that occurs in a line; None for blanks."""
    return next((mark for mark in "\t,;" if mark in line), None)


def split_fields(line: str, separator: str | None) -> list[str]:
    """The fields of a line, without the quotes and blanks around them."""
    return [field.strip().strip('"') for field in line.rstrip("\r\n").split(separator)]


def read_table(
    path: Path, what: str, headers: Mapping[int, Sequence[str]] | None = None, *, text: str | None = None
) -> pd.DataFrame:
    """Read a table, detecting its separator and header; row names become the first column.

    Rows have names where they have one field more than the header (as R writes tables), or where only the header ends
    in an empty field. ``headers`` gives the column names, by the number of columns, of tables without a header: those
    whose first line holds only numbers after an optional name. The column ``text`` is left as it is written.
    """
    content = read_text(path, what)
    separator = find_separator(content.partition("\n")[0])
    names = _column_names(content, separator, path, headers)
    no_header = names is not None and headers is not None and tuple(headers.get(len(names), ())) == tuple(names)
    options: dict[str, Any] = {"sep": separator or r"\s+", "header": None if no_header else 0, "names": names}
    if separator in {",", ";"}:  # blanks after tabs may be empty fields
        options["skipinitialspace"] = True
    if text is not None:
        options["converters"] = {text: str.strip}
    frame = parse_table(content, path, what, **options)
    frame.columns = frame.columns.str.strip()
    return frame if isinstance(frame.index, pd.RangeIndex) else frame.reset_index()


def parse_table(text: str, path: Path, what: str, **options: Any) -> pd.DataFrame:
    """A table of text by ``pandas.read_csv``."""
    try:
        frame: pd.DataFrame = pd.read_csv(io.StringIO(text), **options)
    except DECODER_ERRORS as reason:
        check.refuse_unreadable(path, what, describe(reason))
    return frame


def _column_names(
    text: str, separator: str | None, path: Path, headers: Mapping[int, Sequence[str]] | None
) -> list[str] | None:
    """Column names where the first line does not give them correctly; None where it does."""
    first, second = ([*(split_fields(line, separator) for line in text.split("\n", 2)[:2]), [], []])[:2]
    if len(first) > 1 and first[-1] == "" and len(second) == len(first) and second[-1] != "":
        return ["name", *first[:-1]]
    has_data = is_number(first[0]) or SPOT_NAME.fullmatch(first[0]) if first else False
    if headers is None or not has_data or not all(map(is_number, first[1:])):
        return None
    if len(first) not in headers:
        msg = (
            f"Table '{path.name}' has no header and {len(first)} columns. Tables without a header may have two columns "
            "(x, y), three (name, pixel_x, pixel_y), six (x, y, new_x, new_y, pixel_x, pixel_y) or seven (selected "
            "added); otherwise add a header line that names the columns."
        )
        raise ValueError(msg)
    return list(headers[len(first)])


def is_number(text: str) -> bool:
    """Whether a field holds a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def parse_spot_name(name: str) -> tuple[float, float] | None:
    """Array coordinates in a name such as ``10x13``, ``16.92x9.015`` or ``17_9``; None for any other name."""
    match = SPOT_NAME.fullmatch(name.strip().strip('"'))
    return None if match is None else (float(match[1]), float(match[2]))


def spot_name(x: float, y: float) -> str:
    """The name of a position of the array, such as ``10x13``; coordinates are rounded."""
    return f"{round(x)}x{round(y)}"


def mostly_match(pattern: re.Pattern[str], names: Iterable[object]) -> bool:
    """Whether at least half of the names match a pattern; False for no names."""
    matches = [pattern.fullmatch(str(name).strip()) is not None for name in names]
    return bool(matches) and sum(matches) * 2 >= len(matches)


def numeric_columns(frame: pd.DataFrame, columns: Sequence[str], path: Path) -> NDArray[np.float64]:
    """Columns of a table as coordinates ``(n, len(columns))``."""
    values = frame[list(columns)].apply(pd.to_numeric, errors="coerce")
    array: NDArray[np.float64] = values.to_numpy(np.float64)
    bad = [name for i, name in enumerate(columns) if not on_slide(array[:, i : i + 1]).all()]
    check.require_coordinates(bad, path)
    return array
