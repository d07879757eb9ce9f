"""Forks, scripts without a guard, notebooks, interrupts, and folders in which nothing can be cached."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import stpredict as stp
from stpredict._numba import compile_loop
from stpredict._train.device import make_fabric

SYNTHETIC = {"n_slides": 2, "n_side": 4, "um_per_px": 8.0}
QUIET = {"config": {"progress": False}}
pytestmark = pytest.mark.usefixtures("small_patches")

SCRIPT = """
import multiprocessing, os, sys
multiprocessing.set_start_method("spawn")
import numpy as np
import torch
import stpredict as stp

print("began")
slides = stp.datasets.synthetic(n_slides=2, n_side=4, um_per_px=8.0)
torch.ones(1000, 1000) @ torch.ones(1000, 1000)  # starts the threads that a fork does not have
tiny = {"dim": 24, "depth": 1, "heads": 2, "size_px": 32, "patch_size": 8}
small, quiet = {"size_px": 32}, {"progress": False, "n_epochs": 1}
predictor = stp.tl.fit(slides, "ridge_color", config=quiet, model_options=small, save_dir="parent")
stp.tl.predict(slides, predictor, progress=False)

def work():
    loaded = stp.tl.Predictor.load("parent")
    stp.tl.predict(slides, loaded, progress=False, key_added="again")
    np.testing.assert_allclose(slides["again"].X, slides["predicted"].X, rtol=1e-4, atol=1e-5)
    stp.tl.fit(slides, "m2ost", config=quiet, model_options=tiny, save_dir="child")

child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join(600)
hangs = child.is_alive()
child.kill()
if hangs or child.exitcode:
    sys.exit("hangs" if hangs else "failed")
print("ended")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
def test_a_script_without_a_guard_is_run_once_and_a_fork_of_it_computes_instead_of_waiting_for_ever(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "script.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["began", "ended"]), done.stderr
    assert (tmp_path / "child" / "config.json").is_file()


def test_a_fork_says_that_it_has_one_thread(monkeypatch):
    import torch

    threads = []
    monkeypatch.setattr("stpredict._processes.IMPORTED_BY", -1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    with pytest.warns(UserWarning, match=r"computes on one thread. Start processes with .*spawn"):
        make_fabric(stp.tl.FitConfig(accelerator="cpu"))
    assert threads == [1]


def test_several_devices_need_a_script(monkeypatch):
    for name in ("LOCAL_RANK", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"`strategy='ddp_spawn'` starts processes for a function.*Take 'ddp'"):
        make_fabric(stp.tl.FitConfig(accelerator="cpu", devices=2, strategy="ddp_spawn"))
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    for several in ({"devices": 2}, {"num_nodes": 2}):
        with pytest.raises(ValueError, match=r"is a notebook, an interactive session.*or take `devices=1`"):
            make_fabric(stp.tl.FitConfig(accelerator="cpu", **several))


def test_a_notebook_has_a_running_event_loop(tmp_path):
    async def cell():
        slides = stp.datasets.synthetic(**{**SYNTHETIC, "n_slides": 1})
        predictor = stp.tl.fit(slides, "ridge_color", save_dir=tmp_path / "p", **QUIET)
        stp.tl.predict(slides, predictor, store=tmp_path / "store", progress=False)
        slides.write(tmp_path / "slides.zarr")
        return slides["predicted"].shape

    assert asyncio.run(cell()) == (16, 12)


def test_loops_are_compiled_where_nothing_can_be_cached(monkeypatch):
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])

    def double(value):
        return 2 * value

    assert compile_loop(double)(np.int64(4)) == 8


@pytest.fixture
def interrupted(monkeypatch):
    """Ctrl-C when a batch of patches is read."""
    from stpredict._pixels import PatchReader

    read, calls = PatchReader.read, []

    def start(batch):
        def stop(self, *arguments):
            calls.append(1)
            if len(calls) == batch:
                raise KeyboardInterrupt
            return read(self, *arguments)

        calls.clear()
        monkeypatch.setattr(PatchReader, "read", stop)

    return start


def test_an_interrupt_leaves_nothing_half_written(tmp_path, monkeypatch, interrupted):
    monkeypatch.chdir(tmp_path)
    slides = stp.datasets.synthetic(**SYNTHETIC)
    predictor = stp.tl.fit(slides, "ridge_color", save_dir="p", **QUIET)
    stp.datasets.synthetic(n_slides=1, n_side=4, um_per_px=8.0, seed=1).write("a.zarr")
    stp.tl.predict(slides, predictor, progress=False)
    before, files = slides["predicted"].X.copy(), set(tmp_path.iterdir())
    calls = {
        "predict": lambda: stp.tl.predict(slides, predictor, progress=False),
        "fit": lambda: stp.tl.fit(slides, "ridge_color", save_dir="q", **QUIET),
        "benchmark": lambda: stp.tl.benchmark(slides, ["ridge_color"], save_dir="bench", progress=False),
        "cohort": lambda: stp.tl.predict_cohort(["a.zarr"], predictor, "cohort", shapes_key="S0_spots", progress=False),
    }
    for name, call in calls.items():
        interrupted(batch=1 if name == "cohort" else 2)
        with pytest.raises(KeyboardInterrupt):
            call()
        np.testing.assert_array_equal(slides["predicted"].X, before)
        for path in tmp_path.rglob("*"):  # locks are let go, and parts are removed
            assert not path.name.endswith((".lock", ".part")), path
    left = {path.name for path in set(tmp_path.iterdir()) - files}
    assert left <= {"q.checkpoint", "bench", "cohort"}
    results = {name: call() for name, call in calls.items()}
    assert list(results["cohort"]["status"]) == ["done"]
    assert len(results["benchmark"].failed) == 0
    assert Path("q/config.json").is_file()
