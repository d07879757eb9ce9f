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
KILLS = {"fit": 1, "predict(store=)": 1, "cohort": 1, "benchmark": 1, "save over": 2, "to_zarr": 1, "data cache": 2}
"""How often each is killed; `cross_validate` writes the folder of a benchmark."""


PAIRS = ("save over", "to_zarr")
"""What two processes do at once that no other test lets them do."""


@pytest.fixture(scope="module")
def workshop(tmp_path_factory, forkserver):
    shop = processes.Workshop(tmp_path_factory.mktemp("processes"))
    yield shop
    shop.close()


@pytest.mark.parametrize("name", KILLS)
def test_killed(workshop, name):
    rng = np.random.default_rng(len(name))
    results = [workshop.kill(name, rng) for _ in range(KILLS[name])]
    assert {each.outcome for each in results} == {"same"}, results


@pytest.mark.parametrize("name", PAIRS)
def test_two_at_once(workshop, name):
    result = workshop.pair(name)
    assert result.outcome == "same", result


@pytest.mark.parametrize("name", processes.OPERATIONS)
def test_a_full_disk(workshop, name):
    result = workshop.full_disk(name, processes.FULL_DISK_BYTES[0])
    assert result.outcome == "same", result
