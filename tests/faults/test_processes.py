"""Kills at moments that are the same in every run, pairs of processes, and a full disk of each kind.

`benchmarks/faults.py` kills ten times as often, at random moments. Where a process is when it is killed depends on the
machine; what must hold does not: the next call ends with the result of an undisturbed one, and nothing else remains.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # new processes import these modules by name
try:
    import fault_processes as processes
finally:
    sys.path.remove(str(Path(__file__).parent))
KILLED = ("save over", "predict(store=)", "fit", "cohort", "benchmark", "to_zarr", "data cache")
"""Not `cross_validate`, which writes the folder of a benchmark."""
PAIRS = ("to_zarr", "save over")
"""What two processes do at once that no other test lets them do."""


def slow_after(n_first, names):
    """The others are left to `make test-slow`: every one needs an undisturbed run too."""
    return [*names[:n_first], *(pytest.param(name, marks=pytest.mark.slow) for name in names[n_first:])]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, forkserver):
    shop = processes.Workshop(tmp_path_factory.mktemp("processes"))
    yield shop
    shop.close()


@pytest.mark.parametrize("name", slow_after(2, KILLED))
def test_killed(workshop, name):
    result = workshop.kill(name, np.random.default_rng(len(name)))
    assert result.outcome == "same", result


@pytest.mark.parametrize("name", slow_after(1, PAIRS))
def test_two_at_once(workshop, name):
    result = workshop.pair(name)
    assert result.outcome == "same", result


@pytest.mark.parametrize("name", slow_after(2, (*KILLED, "cross_validate")))
def test_a_full_disk(workshop, name):
    result = workshop.full_disk(name, processes.FULL_DISK_BYTES[0])
    assert result.outcome == "same", result
