"""Timing on CPU and GPU: synchronised timers, warm-up, medians of several rounds, and the rate of a matrix product."""

from __future__ import annotations

import statistics
import time
from contextlib import contextmanager

import torch

DTYPES = {"bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}


def device():
    """``"cuda"`` or ``"cpu"``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronize():
    """Wait until the GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(task):
    """How long a task takes, until the GPU is done with it."""
    synchronize()
    started = time.perf_counter()
    task()
    synchronize()
    return time.perf_counter() - started


def repeats(task, target_s):
    """How often a task has to be repeated to take about ``target_s`` seconds."""
    return max(1, min(1000, round(target_s / max(seconds(task), 1e-6))))


def seconds_each(task, times):
    """Mean time of a task that is repeated without waiting in between."""
    return seconds(lambda: [task() for _ in range(times)]) / times


def spread(values):
    """Median, least and most."""
    return [float(f"{f(values):.5g}") for f in (statistics.median, min, max)]


@contextmanager
def matrix_precision(precision):
    """Allow TF32 in float32 matrix products, or not."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def matrix_rate(precision, *, small):
    """Operations a second in a product of large square matrices."""
    side = 256 if small else (4096 if precision == "fp32" else 8192)
    times = 2 if small else 10
    x = torch.ones(side, side, device=device(), dtype=DTYPES[precision])
    with matrix_precision(precision):
        torch.mm(x, x)
        return 2 * side**3 / seconds_each(lambda: torch.mm(x, x), times)
