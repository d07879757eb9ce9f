"""One cell of a benchmark: a model, a fold, a seed. It is a folder, written whole or not at all."""

from __future__ import annotations

import ctypes
import json
import logging
import resource
import sys
import time
import traceback
import warnings
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

from ... import _keys as keys
from ..._files import (
    DamagedFileError,
    atomic_folder,
    check_sha256,
    file_sha256,
    read_json,
    remove,
    report_full_disk,
    restore_folder,
    write_arrays,
    write_json,
)
from ..._pixels import PATCH_VERSION
from ..._train.config import FitConfig
from .._inference.partitions import PredictionTask, X, predict_positions
from .._inference.plan import OUTPUT_VERSION, PredictionPlan
from .._inference.sinks import MemorySink
from .._options import PredictOptions
from .._predictor.serialization import package_version
from .._training.checkpoint import SUFFIX
from .._training.plan import plan_training, slide_digest
from .._training.train_members import train_members
from . import _errors as check
from .observations import score_predictions
from .study import N_SPLITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..._files import Schema
    from ..._slides.slides import Slide
    from .._predictor.predictor import Predictor
    from .._training.plan import TrainingPlan
    from .entry import Entry
    from .folds import Split
    from .observations import Observations
    from .study import Study

CONFIG, RUN, SCORES, HELD_OUT, LOG, ERROR, PREDICTOR = (
    "config.json", "run.json", "scores.csv", "held_out.npz", "log.txt", "error.json", "predictor"
)  # fmt: skip
logger = logging.getLogger(__name__)

RUN_FIELDS: Schema = {
    "model": str, "fold": int, "seed": int, "groups": [str], "leaks": bool, "note": {"versions": {str: str}},
    "files?": {SCORES: str, HELD_OUT: str},
}  # fmt: skip
ERROR_FIELDS: Schema = {"model": str, "fold": int, "seed": int, "error": str}
KEPT = "Finished cells are kept: free some space, and call `stp.tl.benchmark` again."
ADVICE = "Call `stp.tl.benchmark` again: this cell is then computed again."
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MAXRSS_BYTES = 1024 if sys.platform != "darwin" else 1
"""Bytes of one unit of `ru_maxrss`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cell:
    """A model, the fold and the seed with which it is trained, and its folder."""

    study: Study
    label: str
    """Name of the row."""
    entry: Entry
    split: Split
    seed: int
    folder: Path
    """The folder of the cell."""
    keep_predictor: bool = False

    @property
    def name(self) -> str:
        """Label, fold and seed, for messages."""
        return f"{self.label}/{self.folder.name}"

    def slides(self, names: tuple[str, ...]) -> list[Slide]:
        """Slides of the study, without embeddings unless the model takes them."""
        slides = [self.study.slides[name] for name in names]
        keep = replace(self.entry, options=self._model_options()).ensemble.takes_embeddings
        return slides if keep else [replace(slide, features=None, features_record=()) for slide in slides]

    def training_plan(self) -> TrainingPlan:
        """Decide everything about the training."""
        config = self.entry.training_options(self.study.common, self.seed)
        if self.split.leaks:  # within the fold too, only sections can be held out
            config["allow_leakage"] = True
        if self.split.validate == ():
            config["validation"] = "none"
        return plan_training(
            self.slides(self.split.train),
            self.entry.model,
            weights=self.entry.weights,
            config=config,
            target=self.entry.target_spec(self.study.target),
            patch=self.entry.patch,
            model_options=self._model_options(),
            genes=self.study.panels[self.split.number],
            validate_on=self.split.validate or None,
        )

    def _model_options(self) -> dict[str, Any]:
        """Options of the entry, and those that the protocol fixes; of an ensemble by model."""
        rule, spec = self.study.protocol, self.entry.ensemble
        fixed = {model: dict(rule.options[model]) for model in spec.models if rule and model in rule.options}
        for options in fixed.values():
            if rule is not None and rule.fov_um is not None:
                diameter_um = float(np.median([slide.diameter_um for slide in self.study.slides.values()]))
                options["fov_spots"] = (rule.fov_um / diameter_um,)
        if [spec.name] == list(spec.models):
            return {**fixed.get(spec.name, {}), **self.entry.options}
        return {model: {**fixed.get(model, {}), **self.entry.options.get(model, {})} for model in spec.models}

    def config(self, plan: TrainingPlan) -> dict[str, Any]:
        """All that decides the outcome, as JSON returns it."""
        values = {
            **plan.fingerprint(),
            "test": {name: slide_digest(self.study.slides[name]) for name in self.split.test},
            "fold": self.split.number,
            "leaks": self.split.leaks,
            "protocol": self.study.protocol_name,
            "n_views": self.entry.n_views,
            "n_splits": N_SPLITS,
            "patch_version": PATCH_VERSION,
            "output_version": OUTPUT_VERSION,
        }
        config: dict[str, Any] = json.loads(json.dumps(values))
        return config

    def is_finished(self) -> bool:
        """Whether the results exist and are whole; results of other data or options are refused."""
        restore_folder(self.folder)
        if not (self.folder / RUN).is_file():
            return False
        try:
            read_run(self.folder)
            stored = read_json(self.folder / CONFIG, {"patch_version?": int}, ADVICE)
        except DamagedFileError as error:
            logger.warning("Cell %s is computed again: %s", self.name, error)
            return False
        config = self.config(self.training_plan())
        check.same_comparison(self.folder, stored.setdefault("patch_version", 1), stored, config)
        return True


def run_cell(cell: Cell, observations: Observations) -> None:
    """Train, predict, score and write one cell; the caller holds its lock.

    Whatever the model raises is written to ``error.json`` and raised.
    """
    failure: Exception | None = None
    with report_full_disk(cell.folder, KEPT), atomic_folder(cell.folder) as part:
        part.mkdir()
        try:
            with report_full_disk(cell.folder, KEPT):
                _compute(cell, part, observations)
        except Exception as error:  # noqa: BLE001  (of any model; it is raised below)
            failure = error
            what = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exception(error)}
            write_json(part / ERROR, {"model": cell.label, "fold": cell.split.number, "seed": cell.seed, **what})
        if failure is not None or not cell.keep_predictor:
            remove(part / PREDICTOR)
            remove(part / f"{PREDICTOR}{SUFFIX}")
    if failure is not None:
        raise failure


def _compute(cell: Cell, part: Path, observations: Observations) -> None:
    plan = cell.training_plan()
    write_json(part / CONFIG, cell.config(plan))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with PeakMemory() as memory:
            started = time.perf_counter()
            predictor = train_members(plan, part / PREDICTOR)
            fitted = time.perf_counter()
            values = _predict_test_slides(cell, predictor)
            predict_s = time.perf_counter() - fitted
        costs = {"fit_s": fitted - started, "predict_s": predict_s, "peak_memory_mib": memory.mib}
        _write_results(cell, part, plan, predictor, observations, values, costs)
    messages = sorted({str(each.message) for each in caught if issubclass(each.category, UserWarning)})
    with (part / LOG).open("a", encoding="utf-8") as log:
        log.writelines(f"warning: {message}\n" for message in messages)


def read_run(folder: Path) -> dict[str, Any]:
    """The ``run.json`` of a cell, whose other files are checked against the digests in it."""
    run: dict[str, Any] = read_json(folder / RUN, RUN_FIELDS, ADVICE)
    for name, sha256 in run.pop("files", {}).items():  # early versions recorded none
        check_sha256(folder / name, sha256, ADVICE)
    return run


def _predict_test_slides(cell: Cell, predictor: Predictor) -> dict[str, NDArray[Any]]:
    config = FitConfig(**cell.entry.training_options(cell.study.common, cell.seed))
    options = PredictOptions(n_views=cell.entry.n_views, device=config.accelerator, precision=config.precision)
    plan = PredictionPlan.of(cell.slides(cell.split.test), predictor, options)
    sink = MemorySink.of(plan, PredictionTask(predictor))
    for start, stop in sink.missing_ranges():
        sink.write(start, predict_positions(plan, predictor, start, stop))
    return sink.values()


def _write_results(
    cell: Cell,
    part: Path,
    plan: TrainingPlan,
    predictor: Predictor,
    observations: Observations,
    values: dict[str, NDArray[Any]],
    costs: dict[str, float],
) -> None:
    """Score predictions and write ``scores.csv``, ``held_out.npz``, ``run.json`` and ``log.txt``."""
    from ...models.macs import macs  # deferred: slow to import

    scores, whole = score_predictions(observations, values[X])
    scores.to_csv(part / SCORES, index=False)
    held_out = {
        "predicted": values[X],
        "at_border": values[keys.AT_BORDER],
        "names": observations.names,
        "genes": np.array(observations.genes),
    }
    write_arrays(part / HELD_OUT, held_out)
    n_train, n_test = sum(len(slide.xy_px) for slide in plan.slides), len(observations.names)
    history = predictor.history
    stepwise = "spots_per_s" in history  # of the loop, the median over epochs; without steps, of the fit as a whole
    run = {
        "model": cell.label,
        "fold": cell.split.number,
        "seed": cell.seed,
        "groups": sorted(set(observations.group.tolist())),
        "n_train": n_train,
        "n_test": n_test,
        **whole,
        "parameters": predictor.n_parameters,
        "macs": sum(macs(member.network.config) for member in predictor.members),
        "fit_s": costs["fit_s"],
        "train_spots_per_s": float(history["spots_per_s"].median()) if stepwise else n_train / costs["fit_s"],
        "predict_spots_per_s": n_test / costs["predict_s"],
        "peak_memory_mib": costs["peak_memory_mib"],
        "leaks": cell.split.leaks,
        "note": {
            "pretrained": predictor.provenance.pretrained,
            "validation": predictor.provenance.validation_note,
            "best": predictor.provenance.best,
            "versions": predictor.provenance.versions,
        },
        "files": {name: file_sha256(part / name) for name in (SCORES, HELD_OUT)},
    }
    known = {name: None if isinstance(value, float) and value != value else value for name, value in run.items()}
    write_json(part / RUN, known)
    lines = [
        f"stpredict {package_version()}: {cell.label} ({predictor.model}), {cell.folder.name}",
        f"trained on {', '.join(slide.name for slide in plan.slides)}; tested on {', '.join(cell.split.test)}",
        f"validation: {predictor.provenance.validation_note}",
        "",
        history.to_csv(index=False) if len(history) else "no training by steps\n",
    ]
    (part / LOG).write_text("\n".join(lines), encoding="utf-8")


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
