"""Timing on CPU and GPU: synchronised timers, warm-up, medians of several rounds, and the rate of a matrix product."""

from __future__ import annotations

import statistics
import time
from contextlib import contextmanager

import torch

DTYPES = {"bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}


def device():
    """``"cuda"`` if there is a GPU, else ``"cpu"``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronize():
    """Wait until the GPU has finished all work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(task):
    """Seconds of a task, including its work on the GPU."""
    synchronize()
    started = time.perf_counter()
    task()
    synchronize()
    return time.perf_counter() - started


def repeats(task, target_s):
    """Number of repetitions of a task that take about ``target_s`` seconds."""
    return max(1, min(1000, round(target_s / max(seconds(task), 1e-6))))


def seconds_each(task, times):
    """Mean seconds of a task that is repeated without synchronisation in between."""
    return seconds(lambda: [task() for _ in range(times)]) / times


def median_range(values):
    """Median, minimum and maximum."""
    return [float(f"{f(values):.5g}") for f in (statistics.median, min, max)]


@contextmanager
def matrix_precision(precision):
    """Allow TF32 in float32 matrix products within the block, or forbid it."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def matrix_rate(precision, *, small):
    """Operations per second in a product of large square matrices."""
    side = 256 if small else (4096 if precision == "fp32" else 8192)
    times = 2 if small else 10
    x = torch.ones(side, side, device=device(), dtype=DTYPES[precision])
    with matrix_precision(precision):
        torch.mm(x, x)
        return 2 * side**3 / seconds_each(lambda: torch.mm(x, x), times)
