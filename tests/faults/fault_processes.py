"""Kill processes that write, run them in pairs and on a full disk, and say what came of it."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))  # of a process that is started anew

import fault_campaign as campaign
import fault_cases as cases
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PRELOAD = (
    "distributed", "scipy.stats", "stpredict._resample", "stpredict.io._st", "stpredict.io._visium",
    "stpredict.models.m2ost", "stpredict.tl._benchmarking.runner", "stpredict.tl._cohort.runner", "stpredict.tl._fit",
    "stpredict.tl._predict", "tifffile",
)  # fmt: skip
"""What new processes are forks of a process with; modules of this folder are not on its path."""
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SHARED = ("benchmark", "cohort")
"""What several processes share: each returns what is finished by then."""
FULL_DISK_BYTES = (2_000, 20_000)
"""Largest file that a process may write where the disk is full."""


def _fit(folder: Path) -> dict[str, str]:
    return cases.predicted(cases.fit_tiny(folder / "model"))


def _save_over(folder: Path) -> dict[str, str]:
    predictor = cases.stp.tl.Predictor.load(folder / "model")
    predictor.save(folder / "model")
    return cases.predicted(cases.stp.tl.Predictor.load(folder / "model"))


def _cross_validate(folder: Path) -> dict[str, str]:
    sdata = cases.synthetic()
    cases.stp.tl.cross_validate(
        sdata, "ridge_color", save_dir=folder / "folds", progress=False, config={"accelerator": "cpu"}
    )
    layer = np.asarray(sdata["observed"].layers["cross_validated"], np.float32)
    return {"rest": cases.digest(layer.round(4))}


def _to_zarr(folder: Path) -> dict[str, str]:
    from spatialdata import read_zarr

    if not (folder / "slide.zarr").exists():
        cases.stp.io.read_wsi(folder / "A.png", name="A", um_per_px=1.0, to_zarr=folder / "slide.zarr")
    return cases.contents(read_zarr(folder / "slide.zarr"))


OPERATIONS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Mapping[str, str]]]] = {
    "fit": (lambda folder: None, _fit),
    "predict(store=)": (lambda folder: cases.fit_tiny(folder / "model"), cases.read_store),
    "cohort": (cases.build_cohort, cases.run_cohort),
    "benchmark": (lambda folder: None, cases.run_benchmark),
    "cross_validate": (lambda folder: None, _cross_validate),
    "save over": (lambda folder: cases.fit_tiny(folder / "model"), _save_over),
    "to_zarr": (cases.build_cache, _to_zarr),
    "data cache": (cases.build_cache, cases.read_cache),
}
"""What prepares a folder, and what writes into it and then reads what it wrote."""


def work(name: str, folder: str, answer: str, max_file_bytes: int | None) -> None:
    """Run an operation in this process, and note what came of it."""
    import torch

    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    Path(answer).with_suffix(".begun").touch()
    try:
        if max_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, resource.RLIM_INFINITY))
        found: dict[str, Any] = {"found": dict(OPERATIONS[name][1](Path(folder)))}
    except Exception as error:  # noqa: BLE001  (what is not ours is what is looked for)
        found = {"error": campaign.describe(error), "ours": campaign.is_ours(error)}
    if max_file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    Path(answer).write_text(json.dumps(found), encoding="utf-8")


class Workshop:
    """Prepares each operation once, and runs it in processes of its own."""

    def __init__(self, root: Path) -> None:
        self.root, self._n = root, 0
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(PRELOAD))
        self.wanted: dict[str, Mapping[str, str]] = {}
        self.seconds: dict[str, float] = {}

    def prepare(self, name: str) -> Path:
        """A folder in which an operation has not begun; the first time the undisturbed result is noted too."""
        original = self.root / "prepared" / name.replace(" ", "_")
        if not original.exists():
            original.mkdir(parents=True)
            OPERATIONS[name][0](original)
            place = campaign.copy(original, self.root / "undisturbed")
            start = time.perf_counter()
            answer = self.join(self.start(name, place))
            self.seconds[name] = time.perf_counter() - start
            self.wanted[name] = answer["found"]
        return campaign.copy(original, self.root / "place")

    def start(self, name: str, place: Path, max_file_bytes: int | None = None) -> tuple[Any, Path]:
        """Start an operation in a new process."""
        self._n += 1
        answer = self.root / f"answer-{self._n}.json"
        process = self.context.Process(target=work, args=(name, str(place), str(answer), max_file_bytes))
        process.start()
        return process, answer

    def join(self, started: tuple[Any, Path]) -> dict[str, Any]:
        """What a process noted; ``{}`` if it was killed before."""
        process, answer = started
        process.join(300)
        if process.is_alive():
            process.kill()
            process.join()
            return {"error": "still running after 300 s", "ours": False}
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
        return found

    def kill(self, name: str, rng: np.random.Generator) -> campaign.Result:
        """Kill an operation at a random moment, then run it again to its end."""
        place, what = self.prepare(name), SIGNALS[rng.integers(len(SIGNALS))]
        started = self.start(name, place)
        begun = started[1].with_suffix(".begun")
        while not begun.exists() and started[0].is_alive():
            time.sleep(0.005)
        after = float(rng.uniform(0, self.seconds[name]))
        time.sleep(after)
        with contextlib.suppress(ProcessLookupError):  # it was faster than before
            os.kill(started[0].pid, what)
        self.join(started)
        return self._again(name, place, f"{what.name} after {after:.2f} s")

    def full_disk(self, name: str, max_file_bytes: int) -> campaign.Result:
        """Run an operation where no file may be larger, then again without that limit."""
        place = self.prepare(name)
        answer = self.join(self.start(name, place, max_file_bytes))
        label = f"no file over {max_file_bytes} bytes"
        if "found" not in answer and not answer.get("ours"):
            detail = str(answer.get("error", "ended without an answer"))
            return campaign.Result(case=name, mutation=label, outcome="foreign", detail=detail)
        return self._again(name, place, label)

    def pair(self, name: str) -> campaign.Result:
        """Run an operation in two processes at once, then once more."""
        place = self.prepare(name)
        started = [self.start(name, place) for _ in range(2)]
        answers = [self.join(each) for each in started]
        for answer in answers:
            if "found" not in answer and not answer.get("ours"):
                return campaign.Result(case=name, mutation="two at once", outcome="foreign", detail=str(answer))
            if "found" in answer and name not in SHARED and answer["found"] != self.wanted[name]:
                return campaign.Result(case=name, mutation="two at once", outcome="silent")
        return self._again(name, place, "two at once")

    def _again(self, name: str, place: Path, label: str) -> campaign.Result:
        answer = self.join(self.start(name, place))
        left = leftovers(place)
        if "found" not in answer:
            outcome = "lost" if answer.get("ours") else "foreign"
            return campaign.Result(case=name, mutation=label, outcome=outcome, detail=str(answer.get("error", "")))
        if answer["found"] != self.wanted[name]:
            return campaign.Result(case=name, mutation=label, outcome="silent")
        if left:
            return campaign.Result(case=name, mutation=label, outcome="leftover", detail=", ".join(left))
        return campaign.Result(case=name, mutation=label, outcome="same")

    def close(self) -> None:
        """Remove all folders."""
        shutil.rmtree(self.root, ignore_errors=True)


def leftovers(folder: Path) -> list[str]:
    """Hidden files and folders beside what was written, except locks and what zarr calls its metadata."""
    known = {".zattrs", ".zgroup", ".zarray", ".zmetadata"}
    found = [path for path in folder.rglob(".*") if path.name not in known and not path.name.endswith(".lock")]
    return sorted(str(path.relative_to(folder)) for path in found)
