"""Checkpoints of an unfinished training run, from which it is resumed. Tensors and JSON only."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from safetensors import SafetensorError

from ..._checks.slides import quote
from ..._checks.training import warn
from ..._files import (
    DamagedFileError,
    check_fields,
    lock,
    parse_json,
    read_json,
    read_tensors,
    remove,
    write_json,
    write_tensors,
)
from ..._progress import progress_bar
from ..._train.loop import TrainingState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from ..._files import Schema
    from .._predictor.provenance import BestEpoch
    from .plan import ModelPlan

SUFFIX = ".checkpoint"
RUN = "run.json"
INTERVAL_S = 10.0
"""Minimum number of seconds between two checkpoints of one network: a killed process loses the epoch it was in, and
before it at most the epochs of this time. Epochs that take longer are all written."""
PROGRESS: Schema = {
    "epoch": range(1_000_000), "best_score": int | float, "best_epoch": int, "history": [{str: int | float}]
}  # fmt: skip
KINDS = ("weights", "average", "best", "moments")
ADVICE = "Training cannot be resumed from it: start anew without `resume_from`."


@dataclass(slots=True, eq=False)
class Checkpoint:
    """The training states of all networks of a predictor, by number."""

    folder: Path
    """Folder of the predictor; the checkpoint is the folder of the same name with a suffix."""
    states: dict[int, TrainingState] = field(default_factory=dict)
    writes: bool = True
    """False in all but the first of several processes that train together."""

    @property
    def path(self) -> Path:
        """Folder of the checkpoint."""
        return self.folder.with_name(self.folder.name + SUFFIX)

    @classmethod
    @contextmanager
    def open(
        cls, folder: Path, fingerprint: Mapping[str, Any], *, resume: bool, writes: bool = True
    ) -> Iterator[Checkpoint]:
        """Begin or resume a checkpoint under a lock; its files are removed when the predictor is saved."""
        checkpoint, place = cls(folder, writes=writes), repr(str(folder))
        if resume and not (checkpoint.path / RUN).is_file():
            msg = (
                f"No unfinished training at {place}. A run leaves one there when it is interrupted; start anew without "
                "`resume_from`, or load a finished predictor with `stp.tl.Predictor.load`."
            )
            raise FileNotFoundError(msg)
        with ExitStack() as stack:
            try:
                if writes and not stack.enter_context(lock(checkpoint.path)):
                    msg = (
                        f"Another process is training into {place} at this moment. Wait until it has ended, or give "
                        "another folder as `save_dir`; by default the folder follows from data and options, so it "
                        "trains the same."
                    )
                    raise RuntimeError(msg)
                if writes and not resume:
                    checkpoint._begin(fingerprint)
            except OSError as error:
                advice = "Give a folder you may write to as `save_dir`."
                msg = f"The predictor could not be saved to {place}: {error}. {advice}"
                raise OSError(msg) from error
            if resume:
                checkpoint._read(fingerprint)
            stack.push(checkpoint._end)
            yield checkpoint

    def _begin(self, fingerprint: Mapping[str, Any]) -> None:
        remove(self.path)
        self.path.mkdir(parents=True)
        write_json(self.path / RUN, fingerprint)

    def _read(self, fingerprint: Mapping[str, Any]) -> None:
        begun = read_json(self.path / RUN, {}, ADVICE)
        current = json.loads(json.dumps(fingerprint))
        before, version = begun.pop("patch_version", 1), current.pop("patch_version", 1)  # version 1 is not recorded
        if before != version:
            msg = (
                f"The training at {str(self.folder)!r} was begun with patches of version {before}, and this stpredict "
                f"cuts patches of version {version}, which differ. Start anew without `resume_from`, or install the "
                "version it was begun with."
            )
            raise ValueError(msg)
        if differing := [name for name in current if begun.get(name) != current[name]]:
            msg = (
                f"The training at {str(self.folder)!r} was begun with other {quote(differing)}. Resume it with what it "
                "was begun with, or start anew without `resume_from`."
            )
            raise ValueError(msg)
        files = sorted(self.path.glob("member*.safetensors"))
        self.states.update({int(file.stem.removeprefix("member")): _load(file) for file in files})

    @contextmanager
    def follow(self, number: int, model: ModelPlan, n_networks: int) -> Iterator[Reporter]:
        """Show the progress of the training of one network, and write its checkpoint from time to time."""
        config = model.config
        state = self.states.setdefault(number, TrainingState())
        title = "fit" if n_networks == 1 else f"fit {number + 1}/{n_networks}"
        with progress_bar(
            total=config.n_epochs,
            initial=state.epoch,
            desc=title,
            unit="epoch",
            progress=config.progress and self.writes and model.by_steps,
        ) as bar:
            file = self.path / f"member{number}.safetensors"
            reporter = Reporter(state=state, bar=bar, file=file if self.writes else None)
            try:
                yield reporter
            except KeyboardInterrupt:
                reporter.write()
                bar.write(f"Interrupted. Go on with stp.tl.fit(..., resume_from={str(self.folder)!r}).")
                raise
            finally:
                self.states[number] = reporter.state
            reporter.write()

    def history(self, n_networks: int) -> pd.DataFrame:
        """One row per network and epoch, of the first networks."""
        rows = [{"member": i, **row} for i in range(n_networks) for row in self.states[i].history]
        history = pd.DataFrame(rows)
        return history.astype({"epoch": int}) if len(history) else history

    def best(self, n_networks: int) -> list[BestEpoch]:
        """The epoch whose weights each of the first networks keeps, and its validation score."""
        found: list[BestEpoch] = []
        for state in (self.states[i] for i in range(n_networks)):
            row = next((row for row in state.history if row["epoch"] == state.best_epoch), {})
            found.append({"epoch": state.best_epoch, "score": row.get("val_pearson")})
        return found

    def _end(self, error: type[BaseException] | None, *_: object) -> None:
        if self.writes and (error is None or not any(self.path.glob("member*.safetensors"))):
            remove(self.path)


@dataclass(slots=True, eq=False)
class Reporter:
    """Progress bar and checkpoint file of one network."""

    state: TrainingState
    bar: Any
    file: Path | None
    """Where the checkpoint is written, if this process writes it."""
    written: float = field(default_factory=time.monotonic)

    def report(self, state: TrainingState) -> None:
        """Show the state after an epoch, and write a checkpoint if the last one is old."""
        self.state = state
        row = state.history[-1] if state.history else {}
        shown = {}
        if "train_loss" in row:
            shown["loss"] = f"{row['train_loss']:.3f}"
        if "val_pearson" in row:
            shown["validation r"] = f"{row['val_pearson']:.3f}"
        if "spots_per_s" in row:
            shown["spots/s"] = f"{row['spots_per_s']:.0f}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(state.epoch - self.bar.n)
        if time.monotonic() - self.written > INTERVAL_S:
            self.write()

    def write(self) -> None:
        """Write the checkpoint; after a failure training goes on with a warning."""
        if not self.state.weights or self.file is None:
            return
        self.written = time.monotonic()
        state = self.state
        scalars = {name: getattr(state, name) for name in ("epoch", "best_score", "best_epoch", "history")}
        try:
            write_tensors(self.file, _tensors(state), {"progress": json.dumps(scalars)})
        except (OSError, SafetensorError) as error:
            warn(
                f"The state of training could not be written to {str(self.file)!r}: {error}. Training goes on, but "
                "could only be resumed from an older state. Free some space."
            )


def _tensors(state: TrainingState) -> dict[str, Tensor]:
    kinds = {"weights": state.weights, "average": state.average, "best": state.best}
    tensors = {f"{kind}/{name}": value for kind, values in kinds.items() for name, value in values.items()}
    tensors |= {f"moments/{p}/{name}": value for p, values in state.moments.items() for name, value in values.items()}
    return {name: value.clone().contiguous() for name, value in tensors.items()}


def _load(file: Path) -> TrainingState:
    tensors, metadata = read_tensors(file, ADVICE)
    progress = parse_json(metadata.get("progress", "null"), file, ADVICE, finite=False)
    check_fields(progress, PROGRESS, file, ADVICE, "progress")
    kinds: dict[str, Any] = {kind: {} for kind in KINDS}
    for name, value in tensors.items():
        kind, _, rest = name.partition("/")
        if kind not in kinds:
            raise DamagedFileError(file, name, "a state of training has no such tensor", ADVICE)
        if kind == "moments":
            parameter, _, moment = rest.rpartition("/")
            kinds[kind].setdefault(parameter, {})[moment] = value
        else:
            kinds[kind][rest] = value
    fields: dict[str, Any] = {**progress, "history": tuple(progress["history"]), **kinds}
    return TrainingState(**fields)
