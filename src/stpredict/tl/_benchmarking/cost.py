"""The cost of a cell of a benchmark: its peak memory."""

from __future__ import annotations

import ctypes
import resource
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MAXRSS_BYTES = 1024 if sys.platform != "darwin" else 1
"""Bytes of one unit of `ru_maxrss`."""


@dataclass(slots=True)
class PeakMemory:
    """The peak memory of a block, less the memory in use before it.

    On a GPU, what torch allocated there; else the resident memory of the process. On Linux its high-water mark is reset
    first; elsewhere memory that an earlier block used is not counted again.
    """

    mib: float = float("nan")
    """The increase in MiB, known when the block is left."""
    _before: int = field(default=0)

    def __enter__(self) -> Self:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with suppress(OSError, AttributeError):  # return free memory to the system, or its reuse would not be counted
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        with suppress(OSError):
            CLEAR.write_text("5", encoding="ascii")
        self._before = _status_bytes("VmRSS") or _high_water_mark()
        return self

    def __exit__(self, *_: object) -> None:
        peak = (_status_bytes("VmHWM") or _high_water_mark()) - self._before
        if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
            peak = torch.cuda.max_memory_allocated()
        self.mib = round(max(peak, 0) / 2**20, 1)


def _status_bytes(name: str) -> int | None:
    """A line of the status of the process, in bytes; None where the system has no such file."""
    if not STATUS.is_file():
        return None
    lines = STATUS.read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(name)), None)


def _high_water_mark() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * MAXRSS_BYTES
