"""One cell of a benchmark: a model, a fold, a seed. It is a folder, written whole or not at all."""

from __future__ import annotations

import json
import shutil
import traceback
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import _keys as keys
from ..._files import replace_folder
from ..._pixels import PATCH_VERSION
from ...models.registry import accepts_embeddings
from .._inference.partitions import X, predict_positions
from .._inference.plan import OUTPUT_VERSION, PredictionPlan
from .._inference.sinks import MemorySink
from .._options import PredictOptions
from .._predictor.serialization import package_version
from .._training.plan import plan_training, slide_digest
from .._training.train_members import train_members
from . import _errors as check
from .cost import PeakMemory, Stopwatch
from .observations import score_predictions
from .study import N_SPLITS, median_diameter_um, without_features

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

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
        keep = accepts_embeddings(self.entry.model, self._model_options())
        return without_features([self.study.slides[name] for name in names], keep=keep)

    def training_plan(self) -> TrainingPlan:
        """Decide everything about the training."""
        config = self.entry.fit_config(self.study.common, self.seed)
        if self.split.leaks:  # within the fold too, only sections can be held out
            config = replace(config, allow_leakage=True)
        if self.split.validate == ():
            config = replace(config, validation="none")
        return plan_training(
            self.slides(self.split.train),
            self.entry.model,
            config=config,
            target=self.entry.target_spec(self.study.target),
            patch=self.entry.patch,
            model_options=self._model_options(),
            genes=self.study.panels[self.split.number],
            validate_on=self.split.validate or None,
        )

    def _model_options(self) -> dict[str, Any]:
        rule = self.study.protocol
        fixed = dict(rule.options.get(self.entry.model, {})) if rule else {}
        if fixed and rule is not None and rule.fov_um is not None:
            fixed["fov_spots"] = (rule.fov_um / median_diameter_um(self.study.slides),)
        return {**fixed, **self.entry.options}

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
        """Whether the results exist; results of other data or options are refused."""
        if not (self.folder / RUN).is_file():
            return False
        stored = json.loads((self.folder / CONFIG).read_text(encoding="utf-8"))
        config = self.config(self.training_plan())
        check.same_patches(stored.setdefault("patch_version", 1), PATCH_VERSION, self.folder)
        check.same_comparison([name for name in config if stored.get(name) != config[name]], self.folder)
        return True


def run_cell(cell: Cell, observations: Observations) -> None:
    """Train, predict, score and write one cell; the caller holds its lock.

    Whatever the model raises is written to ``error.json`` and raised.
    """
    part = cell.folder.with_name(f".{cell.folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)  # left by a killed process
    part.mkdir(parents=True)
    try:
        plan = cell.training_plan()
        _write_json(part / CONFIG, cell.config(plan))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with PeakMemory() as memory:
                with Stopwatch() as fitting:
                    predictor = train_members(plan, part / PREDICTOR)
                with Stopwatch() as predicting:
                    values = _predict_test_slides(cell, predictor)
            costs = {"fit_s": fitting.seconds, "predict_s": predicting.seconds, "peak_memory_mib": memory.mib}
            _write_results(cell, part, plan, predictor, observations, values, costs)
        messages = sorted({str(each.message) for each in caught if issubclass(each.category, UserWarning)})
        with (part / LOG).open("a", encoding="utf-8") as log:
            log.writelines(f"warning: {message}\n" for message in messages)
        if not cell.keep_predictor:
            shutil.rmtree(part / PREDICTOR, ignore_errors=True)
    except Exception as error:
        shutil.rmtree(part / PREDICTOR, ignore_errors=True)
        what = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exception(error)}
        _write_json(part / ERROR, {"model": cell.label, "fold": cell.split.number, "seed": cell.seed, **what})
        replace_folder(part, cell.folder)
        raise
    except BaseException:  # interrupted
        shutil.rmtree(part, ignore_errors=True)
        raise
    replace_folder(part, cell.folder)


def _predict_test_slides(cell: Cell, predictor: Predictor) -> dict[str, NDArray[Any]]:
    config = cell.entry.fit_config(cell.study.common, cell.seed)
    options = PredictOptions(n_views=cell.entry.n_views, device=config.accelerator, precision=config.precision)
    plan = PredictionPlan.of(cell.slides(cell.split.test), predictor, options)
    sink = MemorySink.of(plan, predictor)
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
    np.savez_compressed(
        part / HELD_OUT,
        predicted=values[X],
        at_border=values[keys.AT_BORDER],
        names=observations.names,
        genes=np.array(observations.genes),
    )
    n_train, n_test = sum(len(slide.xy_px) for slide in plan.slides), len(observations.names)
    history = predictor.history
    stepwise = "spots_per_s" in history  # of the loop, the median over epochs; without steps, of the fit as a whole
    _write_json(
        part / RUN,
        {
            "model": cell.label,
            "fold": cell.split.number,
            "seed": cell.seed,
            "groups": sorted(set(observations.group.tolist())),
            "n_train": n_train,
            "n_test": n_test,
            **whole,
            "parameters": predictor.n_parameters,
            "macs": len(predictor.members) * macs(predictor.model_config),
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
        },
    )
    lines = [
        f"stpredict {package_version()}: {cell.label} ({cell.entry.model}), {cell.folder.name}",
        f"trained on {', '.join(slide.name for slide in plan.slides)}; tested on {', '.join(cell.split.test)}",
        f"validation: {predictor.provenance.validation_note}",
        "",
        history.to_csv(index=False) if len(history) else "no training by steps\n",
    ]
    (part / LOG).write_text("\n".join(lines), encoding="utf-8")


def _write_json(path: Path, values: dict[str, Any]) -> None:
    known = {name: None if isinstance(value, float) and value != value else value for name, value in values.items()}
    path.write_text(json.dumps(known, indent=1, allow_nan=False), encoding="utf-8")
