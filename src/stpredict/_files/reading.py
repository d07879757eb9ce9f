"""Read back files of our own as if anybody could have damaged them: all that is raised is `DamagedFileError`.

Checked are the size before anything is allocated, the digest, the depth, the fields with their types, and that numbers
are finite. What is written here carries its own digest, so that file and digest cannot be of different moments. Files
of versions before there were digests have none and are read without.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import re
import zipfile
import zlib
from collections.abc import Mapping
from contextlib import contextmanager
from types import UnionType
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from .writing import atomic_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

type Schema = type | UnionType | range | tuple[Any, ...] | list[Schema] | dict[Any, Schema]
"""What a value of JSON must be: a type (``float`` is any finite number, ``object`` anything), a range of whole
numbers, one of a tuple of values, a list with one schema for its items, or a dictionary of fields. The name of a field
that may be missing or null ends in ``?``; a dictionary with the only key ``str`` has any names. Other fields are not
looked at.
"""

DIGEST = "digest"
"""Name of the digest of all other content, in JSON, in the metadata of safetensors, and among the arrays of npz."""
MOST_JSON_BYTES, MOST_CSV_BYTES = 1 << 28, 1 << 30
MOST_DEPTH = 32
NO_DIGEST = 64 * "0"
LARGEST_HEADER = 100_000_000
"""Bytes of a header of safetensors at most, as the format has it."""
INFLATION = 100
"""Most bytes of arrays per byte of an npz, beside the first 64 MiB: a bomb of 1 MiB would unpack to 1 GiB."""
FOREIGN = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError, EOFError, RuntimeError, MemoryError,
    OSError, AssertionError, zlib.error, zipfile.BadZipFile, SafetensorError,
)  # fmt: skip
"""What libraries raise about the content of a file."""
NO_FILE = (None, errno.ENOTDIR, errno.EISDIR, errno.EINVAL)
"""Numbers of those among errors of the system that are about the content, and not about permissions or the disk."""


class DamagedFileError(ValueError):
    """A file of ours is not as it was written."""

    def __init__(self, path: Path, field: str, reason: str, advice: str) -> None:
        super().__init__(path, field, reason, advice)  # all arguments, so that it can be sent to another process
        self.path, self.field, self.reason, self.advice = path, field, reason, advice

    def __str__(self) -> str:
        at = f" at {self.field!r}" if self.field else ""
        return f"{str(self.path)!r} is damaged{at}: {self.reason}. {self.advice}"


@contextmanager
def report_damage(path: Path, advice: str, field: str = "", *, passing: str | None = None) -> Iterator[None]:
    """Translate what libraries raise about the content of a file, but not what checks of ours (``passing``) raise."""
    try:
        yield
    except DamagedFileError:
        raise
    except FileNotFoundError as error:
        raise DamagedFileError(path, field, "it is missing", advice) from error
    except FOREIGN as error:
        if (isinstance(error, OSError) and error.errno not in NO_FILE) or _raised_in(passing, error):
            raise
        reason = " ".join(str(error).split())[:200] or "it cannot be read"
        raise DamagedFileError(path, field, f"{type(error).__name__}: {reason}".rstrip("."), advice) from error


def _raised_in(module: str | None, error: Exception) -> bool:
    """Whether code of a module refused a value; other kinds of errors are never meant to be seen."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    refused = isinstance(error, ValueError | TypeError)
    return bool(refused and module and trace and str(trace.tb_frame.f_globals.get("__name__", "")).startswith(module))


def read_json(path: Path, schema: Schema, advice: str, *, finite: bool = True) -> Any:
    """Read JSON with the fields of a schema, and check the digest if it has one."""
    with report_damage(path, advice):
        _check_size(path, MOST_JSON_BYTES, advice)
        values = parse_json(path.read_text(encoding="utf-8"), path, advice, finite=finite)
    if isinstance(values, dict) and (sealed := values.pop(DIGEST, None)) is not None:
        _check_digest(sealed, _digest(values, {}), path, advice)
    check_fields(values, schema, path, advice)
    return values


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON with its digest, whole or not at all."""
    values = json.loads(json.dumps(dict(values)))
    with atomic_file(path) as part:
        part.write_text(json.dumps({**values, DIGEST: _digest(values, {})}, indent=1), encoding="utf-8")


def parse_json(text: str, path: Path, advice: str, *, finite: bool = True) -> Any:
    """Values of a text from a file; refuses deep ones, and numbers that are not finite or have over 18 digits."""
    with report_damage(path, advice):
        values = json.loads(text)
    todo: list[tuple[Any, int]] = [(values, 0)]
    while todo:
        value, depth = todo.pop()
        wrong = depth > MOST_DEPTH and f"it is nested more than {MOST_DEPTH} levels deep"
        if isinstance(value, int) and abs(value) >= 10**18:
            wrong = "it has a number with more than 18 digits"
        elif finite and isinstance(value, float) and not math.isfinite(value):
            wrong = f"it has a number that is {value}"
        if wrong:
            raise DamagedFileError(path, "", wrong, advice)
        if isinstance(value, dict | list):
            todo += [(each, depth + 1) for each in (value.values() if isinstance(value, dict) else value)]
    return values


def check_fields(value: Any, schema: Schema, path: Path, advice: str, field: str = "") -> None:
    """Refuse values that do not fit a schema, naming the first field that does not."""
    if isinstance(schema, dict):
        fits = isinstance(value, Mapping)
        for name, each in _pairs(value, schema) if fits else ():
            inner = f"{field}.{name}".lstrip(".")
            if name not in value:
                raise DamagedFileError(path, inner, "it is missing", advice)
            check_fields(value[name], each, path, advice, inner)
    elif isinstance(schema, list):
        fits = isinstance(value, list | tuple)
        for i, each in enumerate(value if fits else ()):
            check_fields(each, schema[0], path, advice, f"{field}[{i}]")
    elif isinstance(schema, range | tuple):
        fits = not isinstance(value, bool) and value in schema
    else:
        fits = isinstance(value, schema | int if schema is float else schema)
        fits = fits and not (isinstance(value, bool) and schema in (int, float, int | float))
        fits = fits and (schema is not float or math.isfinite(value))
    if not fits:
        shown = f"{type(value).__name__} {str(value)[:40]!r}"
        raise DamagedFileError(path, field, f"it is {shown}, which does not fit {_describe(schema)}", advice)


def _pairs(value: Mapping[str, Any], schema: dict[Any, Schema]) -> Iterator[tuple[str, Schema]]:
    """The fields that are checked with their schemas: those that are required, and optional ones that have a value."""
    for name, each in schema.items():
        if name is str:
            yield from ((any_name, each) for any_name in value)
        elif not name.endswith("?"):
            yield name, each
        elif value.get(name.removesuffix("?")) is not None:
            yield name.removesuffix("?"), each


def _describe(schema: Schema) -> str:
    if isinstance(schema, dict):
        return "a dictionary"
    if isinstance(schema, list):
        return "a list"
    if isinstance(schema, range):
        return f"a whole number from {schema.start} to {schema.stop - 1}"
    return repr(schema) if isinstance(schema, tuple) else getattr(schema, "__name__", str(schema))


def read_csv(
    path: Path, advice: str, *, text: Sequence[str] = (), numbers: Sequence[str] = (), sha256: str | None = None
) -> pd.DataFrame:
    """Read a table with columns of text; all others are numbers, which may be missing. Some of both must be there."""
    import numpy as np
    import pandas as pd

    check_sha256(path, sha256, advice)
    with report_damage(path, advice):
        _check_size(path, MOST_CSV_BYTES, advice)
        if not path.read_text(encoding="utf-8").strip():
            return pd.DataFrame()
        others = pd.read_csv(path, nrows=0).columns.difference(list(text))
        missing = {name: [""] for name in others}  # a gene may be called NA
        table = pd.read_csv(path, dtype=dict.fromkeys(text, str), keep_default_na=False, na_values=missing)
    for name in (*text, *numbers):
        if name not in table:
            raise DamagedFileError(path, name, "this column is missing", advice)
    for name in others:
        if not pd.api.types.is_numeric_dtype(table[name]) or np.isinf(table[name].astype(np.float64)).any():
            raise DamagedFileError(path, str(name), "this column has values that are no finite numbers", advice)
    return table


def read_arrays(path: Path, names: Sequence[str], advice: str, *, sha256: str | None = None) -> dict[str, NDArray[Any]]:
    """Read the arrays of an npz, some of which must be there, and check the digest if it has one."""
    import numpy as np

    check_sha256(path, sha256, advice)
    with report_damage(path, advice):
        with zipfile.ZipFile(path) as members:
            _check_members(path, members, advice)
        with np.load(path, allow_pickle=False) as found:
            arrays = dict(found)
    if (sealed := arrays.pop(DIGEST, None)) is not None:
        _check_digest(sealed.tolist(), _digest({}, arrays), path, advice)
    for name in names:
        if name not in arrays:
            raise DamagedFileError(path, name, "this array is missing", advice)
    return arrays


def _check_members(path: Path, members: zipfile.ZipFile, advice: str) -> None:
    """Refuse arrays that would take far more memory than the file, or more than their part of it has."""
    import numpy as np

    if sum(each.file_size for each in members.infolist()) > max(1 << 26, INFLATION * path.stat().st_size):
        raise DamagedFileError(path, "", "it would unpack to far more than arrays of ours do", advice)
    for each in members.infolist():
        with members.open(each) as opened:
            read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, _, dtype = read_header[np.lib.format.read_magic(opened)](opened)
            if opened.tell() + math.prod(shape) * dtype.itemsize != each.file_size:
                raise DamagedFileError(path, each.filename, f"it has other bytes than the shape {shape} takes", advice)


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as npz with their digest, whole or not at all."""
    import numpy as np

    with atomic_file(path) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{**arrays, DIGEST: np.array(_digest({}, arrays))})


def read_tensors(
    path: Path, advice: str, *, sha256: str | None = None
) -> tuple[dict[str, Any], dict[str, str]]:  # Any: tensors of torch, which this package does not import
    """Read finite tensors and metadata of a safetensors file, and check the digest if it has one."""
    check_sha256(path, sha256, advice)
    with report_damage(path, advice):
        if (seal := _tensors_seal(path)) is not None:
            _check_digest(*seal[1:], path, advice)
        with safe_open(path, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  (it is no dictionary)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DamagedFileError(path, name, "it has values that are not finite", advice)
    return tensors, metadata


def write_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata as safetensors with their digest, whole or not at all."""
    from safetensors.torch import save_file

    with atomic_file(path) as part:
        save_file(dict(tensors), part, metadata={**metadata, DIGEST: NO_DIGEST})
        if (seal := _tensors_seal(part)) is not None:
            place, _, found = seal
            with part.open("r+b") as file:
                file.seek(place)
                file.write(found.encode())


def is_zarr_group(path: Path) -> bool:
    """Whether a folder has the metadata of a zarr group, of version 3 or 2."""
    return any((path / name).is_file() for name in ("zarr.json", ".zgroup"))


def read_attributes(path: Path, schema: Schema, advice: str) -> dict[str, Any]:
    """Read the attributes of a zarr group, with the fields of a schema."""
    import zarr

    with report_damage(path, advice):
        values = dict(zarr.open_group(path, mode="r", use_consolidated=False).attrs)
        parse_json(json.dumps(values), path, advice)
    check_fields(values, schema, path, advice)
    return values


def file_sha256(path: Path) -> str:
    """Digest of the bytes of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_sha256(path: Path) -> str:
    """Digest of the names and contents of all files below a folder."""
    files = sorted((file.relative_to(path).as_posix(), file) for file in path.rglob("*") if file.is_file())
    return hashlib.sha256("".join(f"{name} {file_sha256(file)}\n" for name, file in files).encode()).hexdigest()


def check_sha256(path: Path, expected: str | None, advice: str) -> None:
    """Refuse a file whose bytes have another digest; None for versions that recorded none."""
    with report_damage(path, advice):
        if expected is not None:
            _check_digest(expected, file_sha256(path), path, advice)


def _check_digest(expected: Any, found: str, path: Path, advice: str) -> None:
    if found != expected:
        reason = f"it has SHA-256 {found[:12]}…, and {str(expected)[:12]}… was written"
        raise DamagedFileError(path, "", reason, advice)


def _check_size(path: Path, most: int, advice: str) -> None:
    if (size := path.stat().st_size) > most:
        reason = f"it has {size / 2**20:,.0f} MiB, and no file of this kind has more than {most >> 20:,} MiB"
        raise DamagedFileError(path, "", reason, advice)


def _digest(values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    """SHA-256 of values of JSON and of arrays with their names, types and shapes."""
    import numpy as np

    sha256 = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        sha256.update(f"{name} {array.dtype.str} {array.shape}".encode())
        sha256.update(np.ascontiguousarray(array).tobytes())
    return sha256.hexdigest()


def _tensors_seal(path: Path) -> tuple[int, str, str] | None:
    """Where the header of a safetensors file has its digest, that digest, and the one of the file with zeros there."""
    with path.open("rb") as file:
        size = file.read(8)
        header = file.read(min(int.from_bytes(size, "little"), LARGEST_HEADER))
        place = re.search(rb'"digest":"([^"]{64})"', header)
        if place is None:
            return None
        sha256 = hashlib.sha256(size + header[: place.start(1)] + NO_DIGEST.encode() + header[place.end(1) :])
        while block := file.read(1 << 20):
            sha256.update(block)
    return len(size) + place.start(1), place[1].decode(errors="replace"), sha256.hexdigest()
