"""Two hundred damaged inputs, the same in every run: one clear error of ours, a warning, or the same result.

`benchmarks/faults.py` runs many more, each in a process of its own, with limits of memory and time.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest


def load(name):
    """A module of this folder; the benchmark imports the same ones."""
    spec = importlib.util.spec_from_file_location(f"faults_{name}", Path(__file__).with_name(f"{name}.py"))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


campaign, cases = load("fault_campaign"), load("fault_cases")
N_EACH = dict.fromkeys(cases.READERS, 12) | {"predictor": 6, "store": 4, "image cache": 6}
N_SLOW = {"checkpoint": 4, "benchmark": 5, "cohort": 4}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "n"), [*N_EACH.items(), *(pytest.param(*each, marks=pytest.mark.slow) for each in N_SLOW.items())]
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_input(name, n, tmp_path):
    case = {**cases.READERS, **cases.FOLDERS}[name]
    original, place = tmp_path / "original", tmp_path / "place"
    original.mkdir()
    case.build(original)
    wanted = case.read(campaign.copy(original, place))
    below = cases.DAMAGED.get(name, "")
    results = [campaign.run(name, case, original, place, wanted, seed, below) for seed in range(n)]
    bad = [each for each in results if each.outcome in {"foreign", "silent"} or each.seconds > campaign.MAX_S]
    assert not bad, "\n".join(f"{each.outcome}: {each.mutation}: {each.detail}" for each in bad)


def test_an_error_of_a_library_is_told_from_ours():
    def outcome(read):
        return campaign.read_damaged("a", "", read, {"rest": "1"}, ours=True).outcome

    assert outcome(lambda: {"rest": "1"}) == "same"
    assert outcome(lambda: {"rest": "2"}) == "silent"
    assert outcome(lambda: {}["key"]) == "foreign"
    assert outcome(lambda: cases.stp.io.read_visium("/no/such/folder")) == "error"
