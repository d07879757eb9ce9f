"""One cell of a comparison: a model, a fold, a seed. A folder, written whole or not at all."""

from __future__ import annotations

import json
import shutil
import traceback
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ... import _keys as keys
from ..._checks import comparison as check
from ..._files import replace_folder
from ...models.registry import accepts_embeddings
from .._inference.plan import PredictionPlan, PredictOptions, X, compute
from .._inference.sinks import MemorySink
from .._predictor.serialization import package_version
from .._training.plan import plan_training, slide_digest
from .._training.train_members import train_members
from .cost import PeakMemory, Stopwatch
from .observations import score
from .study import median_diameter, without_features

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from ..._slides import Slide
    from ...models import ModelConfig
    from .._predictor.predictor import Predictor
    from .._training.plan import TrainingPlan
    from .entry import Entry
    from .folds import Split
    from .observations import HeldOut
    from .study import Study

CONFIG, RUN, SCORES, HELD_OUT, LOG, ERROR, PREDICTOR = (
    "config.json", "run.json", "scores.csv", "held_out.npz", "log.txt", "error.json", "predictor"
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cell:
    """What is trained, on what, and where it goes."""

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
        """For messages."""
        return f"{self.label}/{self.folder.name}"

    @property
    def test(self) -> list[Slide]:
        """The slides that are held out."""
        return without_features([self.study.slides[name] for name in self.split.test], keep=self._embedded)

    @property
    def _embedded(self) -> bool:
        """Whether embeddings that came with the spots are used."""
        return accepts_embeddings(self.entry.model, self._options)

    @property
    def _options(self) -> dict[str, Any]:
        rule = self.study.protocol
        fixed = dict(rule.options.get(self.entry.model, {})) if rule else {}
        if fixed and rule is not None and rule.fov_um is not None:
            fixed["fov_spots"] = (rule.fov_um / median_diameter(self.study.slides),)
        return {**fixed, **self.entry.options}

    def run(self) -> TrainingPlan:
        """Decide everything about the training.

        Returns
        -------
        The run.
        """
        config = self.entry.fit_config(self.study.common, self.seed)
        if self.split.leaks:  # within the fold too, nothing but sections can be held out
            config = replace(config, allow_leakage=True)
        if self.split.validate == ():
            config = replace(config, validation="none")
        slides = [self.study.slides[name] for name in self.split.train]
        return plan_training(
            without_features(slides, keep=self._embedded),
            self.entry.model,
            config=config,
            target=self.entry.target_spec(self.study.target),
            patch=self.entry.patch,
            model_options=self._options,
            genes=self.study.panels[self.split.number],
            validate_on=self.split.validate or None,
        )

    def config(self, run: TrainingPlan) -> dict[str, Any]:
        """What decides the outcome, by name.

        Parameters
        ----------
        run
            The training.

        Returns
        -------
        Values as JSON gives them back.
        """
        values = {
            **run.fingerprint(),
            "test": {name: slide_digest(self.study.slides[name]) for name in self.split.test},
            "fold": self.split.number,
            "leaks": self.split.leaks,
            "protocol": self.study.protocol_name,
            "n_views": self.entry.n_views,
            "n_splits": self.study.values()["n_splits"],
        }
        found: dict[str, Any] = json.loads(json.dumps(values))
        return found


def finished(cell: Cell, run: TrainingPlan) -> bool:
    """Whether a cell is there already; refuse one that was made with something else.

    Parameters
    ----------
    cell
        The cell.
    run
        Its training.

    Returns
    -------
    True if there is nothing to do.
    """
    if not (cell.folder / RUN).is_file():
        return False
    begun = json.loads((cell.folder / CONFIG).read_text(encoding="utf-8"))
    wanted = cell.config(run)
    check.same_comparison([name for name in wanted if begun.get(name) != wanted[name]], cell.folder)
    return True


def fill(cell: Cell, run: TrainingPlan, held: HeldOut) -> None:
    """Train, predict, score, and write the folder.

    Parameters
    ----------
    cell
        The cell.
    run
        Its training.
    held
        What was measured on its test slides.

    Raises
    ------
    Exception
        Whatever the model raises. It is written to ``error.json`` as well.
    """
    part = _begun(cell)
    _write_json(part / CONFIG, cell.config(run))
    with _Noted(cell, part), warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        _do(cell, run, held, part)
    told = sorted({str(each.message) for each in said if issubclass(each.category, UserWarning)})
    with (part / LOG).open("a", encoding="utf-8") as log:
        log.writelines(f"warning: {line}\n" for line in told)
    if not cell.keep_predictor:
        shutil.rmtree(part / PREDICTOR, ignore_errors=True)
    replace_folder(part, cell.folder)


@dataclass(frozen=True, slots=True)
class _Noted:
    """A context that writes down what is raised in it, and lets it through."""

    cell: Cell
    part: Path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if isinstance(error, Exception):
            _fail(self.cell, self.part, error)


def refuse(cell: Cell, error: Exception) -> None:
    """Note that a model could not even be planned.

    Parameters
    ----------
    cell
        The cell.
    error
        Why not.
    """
    _fail(cell, _begun(cell), error)


def _begun(cell: Cell) -> Path:
    """An empty folder beside that of the cell; what a killed run left there goes."""
    part = cell.folder.with_name(f".{cell.folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    return part


def _fail(cell: Cell, part: Path, error: Exception) -> None:
    shutil.rmtree(part / PREDICTOR, ignore_errors=True)
    said = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exception(error)}
    _write_json(part / ERROR, {"model": cell.label, "fold": cell.split.number, "seed": cell.seed, **said})
    replace_folder(part, cell.folder)


def _do(cell: Cell, run: TrainingPlan, held: HeldOut, part: Path) -> None:
    with PeakMemory() as memory:
        with Stopwatch() as fitting:
            predictor = train_members(run, part / PREDICTOR)
        with Stopwatch() as predicting:
            values = _predicted(cell, predictor)
    scores, whole = score(held, values[X])
    scores.to_csv(part / SCORES, index=False)
    np.savez_compressed(
        part / HELD_OUT,
        predicted=values[X],
        at_border=values[keys.AT_BORDER],
        names=held.names,
        genes=np.array(held.genes),
    )
    n_train = sum(len(slide.xy_px) for slide in run.slides)
    n_test = len(held.names)
    costs = {
        "fit_s": fitting.seconds,
        "train_spots_per_s": _speed(predictor.history, n_train / fitting.seconds),
        "predict_spots_per_s": n_test / predicting.seconds,
        "peak_memory_mib": memory.mib,
    }
    size = {"parameters": predictor.n_parameters, "macs": _macs(predictor.model_config, len(predictor.members))}
    groups = sorted(set(held.group.tolist()))
    _write_json(
        part / RUN,
        {
            "model": cell.label,
            "fold": cell.split.number,
            "seed": cell.seed,
            "groups": groups,
            "n_train": n_train,
            "n_test": n_test,
            **whole,
            **size,
            **costs,
            "leaks": cell.split.leaks,
            "note": {
                "pretrained": predictor.provenance.pretrained,
                "validation": predictor.provenance.validation_note,
                "best": predictor.provenance.best,
                "versions": predictor.provenance.versions,
            },
        },
    )
    (part / LOG).write_text(_log(cell, run, predictor), encoding="utf-8")


def _predicted(cell: Cell, predictor: Predictor) -> dict[str, NDArray[Any]]:
    config = cell.entry.fit_config(cell.study.common, cell.seed)
    settings = PredictOptions(n_views=cell.entry.n_views, device=config.accelerator, precision=config.precision)
    plan = PredictionPlan.of(cell.test, predictor, settings)
    sink = MemorySink.of(plan, predictor)
    for first, last in sink.todo():
        sink.take(first, compute(plan, predictor, first, last))
    return sink.values()


def _speed(history: pd.DataFrame, whole: float) -> float:
    """Training spots a second: of the loop, the median over epochs; without one, of the fit as a whole."""
    return float(history["spots_per_s"].median()) if "spots_per_s" in history else whole


def _macs(shape: ModelConfig, n_members: int) -> int:
    """Multiply-accumulates of one spot."""
    from ...models.macs import macs

    return n_members * macs(shape)


def _log(cell: Cell, run: TrainingPlan, predictor: Predictor) -> str:
    """What happened, for a person."""
    lines = [
        f"stpredict {package_version()}: {cell.label} ({cell.entry.model}), {cell.folder.name}",
        f"trained on {', '.join(slide.name for slide in run.slides)}; tested on {', '.join(cell.split.test)}",
        f"validation: {predictor.provenance.validation_note}",
    ]
    history = predictor.history.to_csv(index=False) if len(predictor.history) else "no training by steps\n"
    return "\n".join(lines) + "\n\n" + history


def _write_json(path: Path, values: dict[str, Any]) -> None:
    known = {name: None if isinstance(value, float) and value != value else value for name, value in values.items()}
    path.write_text(json.dumps(known, indent=1, allow_nan=False), encoding="utf-8")
