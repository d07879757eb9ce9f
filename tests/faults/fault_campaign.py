"""Damage files at random, read them, and say what came of it. What is damaged is in `fault_cases`."""

from __future__ import annotations

import contextlib
import json
import linecache
import re
import shutil
import time
import traceback
import warnings
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import stpredict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PACKAGE: Final = str(Path(stpredict.__file__).parent)
TEXT: Final = (".tsv", ".csv", ".json", ".mtx", ".xenium", ".zattrs", ".zarray", ".zgroup", ".md", ".txt")
VALUES: Final = (
    b"0", b"-1", b"1e308", b"NaN", b"Infinity", b"null", b"[]", b"{}", b'""', b"2147483648", b"9223372036854775808",
    b"1" * 6000, b"[" * 5000, b"true", b"\xff\xfe", b"1e-320",
)  # fmt: skip
"""What takes the place of a number in a text."""
MAX_S, MAX_BYTES = 20.0, 1 << 30


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of reading one damaged input."""

    case: str
    mutation: str
    outcome: str
    """``same``, ``error``, ``foreign``, ``pixels``, ``values``, ``flagged``, ``silent`` or ``crash``."""
    detail: str = ""
    seconds: float = 0.0
    """Time of the processor, which does not depend on what else runs."""
    bytes: int = 0


def mutate(folder: Path, rng: np.random.Generator, *, below: str = "") -> str:
    """Damage one file of a folder, and say how."""
    files = sorted(path for path in (folder / below).rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    small = [path for path in files if path.suffix in TEXT]
    path = files[rng.integers(len(files))] if not small or rng.random() < 0.5 else small[rng.integers(len(small))]
    content = path.read_bytes()
    kinds: list[Callable[[bytes, np.random.Generator], tuple[str, bytes | None]]] = [*ANY]
    if path.suffix in TEXT or path.name == "zarr.json":
        kinds += TEXTUAL * 2
    what, damaged = kinds[rng.integers(len(kinds))](content, rng)
    if damaged is None:
        path.unlink()
    else:
        path.write_bytes(damaged)
    return f"{path.relative_to(folder)}: {what}"


def _flip_bit(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    at = int(rng.integers(max(len(content), 1)))
    changed = bytearray(content or b"\0")
    changed[at] ^= 1 << int(rng.integers(8))
    return f"bit {at}", bytes(changed)


def _flip_early_byte(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    at = int(rng.integers(max(min(len(content), 300), 1)))
    changed = bytearray(content or b"\0")
    changed[at] = int(rng.integers(256))
    return f"byte {at}", bytes(changed)


def _truncate(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    n = int(rng.integers(len(content) + 1))
    return f"cut to {n} of {len(content)}", content[:n]


def _zero_block(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    at = int(rng.integers(len(content) + 1))
    return f"zeros at {at}", content[:at] + bytes(min(64, len(content) - at)) + content[at + 64 :]


def _insert(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    at, more = int(rng.integers(len(content) + 1)), rng.bytes(int(rng.integers(1, 40)))
    return f"{len(more)} bytes more at {at}", content[:at] + more + content[at:]


def _remove_block(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    at, n = int(rng.integers(len(content) + 1)), int(rng.integers(1, 200))
    return f"{n} bytes less at {at}", content[:at] + content[at + n :]


def _empty(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    return "empty", b""


def _delete(content: bytes, rng: np.random.Generator) -> tuple[str, None]:
    return "deleted", None


def _replace_number(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    found = list(re.finditer(rb"(?<![\w.])-?\d+(\.\d+)?(?![\w.])", content))
    if not found:
        return _flip_bit(content, rng)
    match, value = found[rng.integers(len(found))], VALUES[rng.integers(len(VALUES))]
    return f"{match[0][:20]!r} -> {value[:12]!r}", content[: match.start()] + value + content[match.end() :]


def _replace_word(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    found = list(re.finditer(rb'"?\w+"?', content))
    if not found:
        return _flip_bit(content, rng)
    match, value = found[rng.integers(len(found))], VALUES[rng.integers(len(VALUES))]
    return f"{match[0][:20]!r} -> {value[:12]!r}", content[: match.start()] + value + content[match.end() :]


def _remove_line(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    lines = content.splitlines(keepends=True)
    at = int(rng.integers(max(len(lines), 1)))
    return f"line {at} less", b"".join(lines[:at] + lines[at + 1 :])


def _repeat_line(content: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    lines = content.splitlines(keepends=True)
    at = int(rng.integers(max(len(lines), 1)))
    return f"line {at} twice", b"".join(lines[: at + 1] + lines[at:])


ANY: Final = [_flip_bit, _flip_bit, _flip_early_byte, _flip_early_byte, _truncate, _zero_block, _insert, _remove_block,
              _empty, _delete]  # fmt: skip
TEXTUAL: Final = [_replace_number, _replace_number, _replace_word, _remove_line, _repeat_line]


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised by a line of the package that begins with ``raise``, with a whole sentence."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1]
    line = linecache.getline(last.filename, last.lineno or 0).strip()
    return last.filename.startswith(PACKAGE) and line.startswith("raise") and str(error).rstrip().endswith((".", ")"))


def describe(error: BaseException) -> str:
    """Class, message and place of an error, without the folders of this machine."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:400]} [{last.filename}:{last.lineno}]"
    return re.sub(r"(?<![\w.])/(?:[^/\s'\"\]:]+/)+", "", text)


def read_damaged(case: str, mutation: str, read: Callable[[], Mapping[str, str]], wanted: Mapping[str, str], *,
                 ours: bool) -> Result:  # fmt: skip
    """Read a damaged input, and compare what comes of it with what was there before."""
    _reset_peak()
    before, start = _peak_bytes(), time.process_time()
    detail = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = dict(read())
        except Exception as error:  # noqa: BLE001  (what is not ours is what is looked for)
            outcome = "error" if is_ours(error) else "foreign"
            detail = describe(error)
        else:
            outcome = _compare(
                found, wanted, ours=ours, flagged=any(issubclass(w.category, UserWarning) for w in caught)
            )
    seconds, n_bytes = time.process_time() - start, max(_peak_bytes() - before, 0)
    return Result(case=case, mutation=mutation, outcome=outcome, detail=detail, seconds=seconds, bytes=n_bytes)


def _compare(found: Mapping[str, str], wanted: Mapping[str, str], *, ours: bool, flagged: bool) -> str:
    if found == wanted:
        return "same"
    if flagged:
        return "flagged"
    if "pixels" in found and found["rest"] == wanted["rest"]:
        return "pixels"
    return "silent" if ours else "values"


def _reset_peak() -> None:
    with contextlib.suppress(OSError):  # Linux only
        Path("/proc/self/clear_refs").write_text("5")


def _peak_bytes() -> int:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmHWM:\s+(\d+)", text)
    return int(match[1]) * 1024 if match else 0


def copy(original: Path, place: Path) -> Path:
    """A copy of a case that may be damaged."""
    shutil.rmtree(place, ignore_errors=True)
    return shutil.copytree(original, place, copy_function=shutil.copy2)


def run(case: str, spec: Any, original: Path, place: Path, wanted: Mapping[str, str], seed: int, below: str) -> Result:
    """Copy a case, damage the copy and read it."""
    copy(original, place)
    mutation = mutate(place, np.random.default_rng([zlib.crc32(case.encode()), seed]), below=below)
    return read_damaged(case, f"seed {seed}: {mutation}", lambda: spec.read(place), wanted, ours=spec.ours)


def to_json(result: Result) -> str:
    """One line of JSON."""
    return json.dumps(asdict(result))
