"""What a cell of a benchmark costs: how long, and how much memory at most."""

from __future__ import annotations

import ctypes
import resource
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
UNIT = 1024 if sys.platform != "darwin" else 1
"""Bytes of one unit of `ru_maxrss`."""


@dataclass(slots=True)
class PeakMemory:
    """The most memory that was in use in a block beyond what was in use before it.

    On a GPU what torch allocated there; else the resident memory of the process, whose high-water mark is reset first
    where the system allows it (Linux). Where it does not, what an earlier block used is not counted again.
    """

    mib: float = float("nan")
    """The increase in MiB, when the block is left."""
    _before: int = field(default=0)

    def __enter__(self) -> Self:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with suppress(OSError, AttributeError):  # what is free goes back to the system, or it would be used unseen
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        with suppress(OSError):
            CLEAR.write_text("5", encoding="ascii")
        self._before = _of_status("VmRSS") or _high_water()
        return self

    def __exit__(self, *_: object) -> None:
        used = (_of_status("VmHWM") or _high_water()) - self._before
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            used = torch.cuda.max_memory_allocated()
        self.mib = round(max(used, 0) / 2**20, 1)


def _of_status(name: str) -> int | None:
    """A line of the process's status, in bytes."""
    if not STATUS.is_file():
        return None
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


def _high_water() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


@dataclass(slots=True)
class Stopwatch:
    """Seconds between entering and leaving a block."""

    seconds: float = float("nan")
    _start: float = field(default=0.0)

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
