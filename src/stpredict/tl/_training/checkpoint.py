"""An unfinished training as files: what a resumed run goes on from. Tensors and JSON only."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from ..._checks import training as check
from ..._files import atomic_file, lock
from ..._train.loop import Progress

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from ..._train.config import FitConfig

SUFFIX = ".checkpoint"
EVERY_S = 30.0
"""Least seconds between two checkpoints of one member."""


@dataclass(slots=True, eq=False)
class Checkpoint:
    """The state of every member of a predictor in training."""

    folder: Path
    """Folder of the predictor; the checkpoint is the folder of the same name with a suffix."""
    states: dict[int, Progress] = field(default_factory=dict)
    writes: bool = True
    """False in all but the first of several processes that train together."""

    @property
    def place(self) -> Path:
        """Folder of the checkpoint."""
        return self.folder.with_name(self.folder.name + SUFFIX)

    @classmethod
    @contextmanager
    def open(cls, folder: Path, run: Mapping[str, Any], *, resume: bool, writes: bool = True) -> Iterator[Checkpoint]:
        """Begin a checkpoint, or find the one that an interrupted run left; no other process may train into it.

        Parameters
        ----------
        folder
            Folder of the predictor.
        run
            What decides the outcome of the run, by name.
        resume
            Whether to go on from what is there.
        writes
            Whether this process writes files; of several that train together one does.

        Yields
        ------
        The checkpoint. Its files go when the predictor is saved, or when there is nothing to resume.
        """
        checkpoint = cls(folder, writes=writes)
        if resume:
            check.resumable(str(folder), found=(checkpoint.place / "run.json").is_file())
        with ExitStack() as stack:
            if writes:
                try:
                    check.alone(str(folder), held=stack.enter_context(lock(checkpoint.place)))
                    if not resume:
                        checkpoint._begin(run)
                except OSError as error:
                    check.not_writable(str(folder), error)
            if resume:
                checkpoint._read(run)
            stack.push(checkpoint._end)
            yield checkpoint

    def _begin(self, run: Mapping[str, Any]) -> None:
        shutil.rmtree(self.place, ignore_errors=True)
        self.place.mkdir(parents=True)
        (self.place / "run.json").write_text(json.dumps(run), encoding="utf-8")

    def _read(self, run: Mapping[str, Any]) -> None:
        begun = json.loads((self.place / "run.json").read_text(encoding="utf-8"))
        wanted = json.loads(json.dumps(run))
        check.same_run([name for name in wanted if begun.get(name) != wanted[name]], str(self.folder))
        files = sorted(self.place.glob("member*.safetensors"))
        self.states.update({int(file.stem.removeprefix("member")): _load(file) for file in files})

    @contextmanager
    def member(self, number: int, config: FitConfig, n_members: int) -> Iterator[Reporter]:
        """Follow the training of one member: progress bar, and a checkpoint now and then.

        Parameters
        ----------
        number
            Which member.
        config
            ``n_epochs`` and ``progress`` matter.
        n_members
            How many there are.

        Yields
        ------
        Its state and what to call after every epoch.
        """
        state = self.states.setdefault(number, Progress())
        title = "fit" if n_members == 1 else f"fit {number + 1}/{n_members}"
        with tqdm(
            total=config.n_epochs,
            initial=state.epoch,
            desc=title,
            unit="epoch",
            disable=not (config.progress and self.writes),
        ) as bar:
            file = self.place / f"member{number}.safetensors"
            reporter = Reporter(state=state, bar=bar, file=file if self.writes else None)
            try:
                yield reporter
            except KeyboardInterrupt:
                reporter.write()
                bar.write(f"Interrupted. Go on with stp.tl.fit(..., resume_from={str(self.folder)!r}).")
                raise
            reporter.write()

    def history(self) -> pd.DataFrame:
        """What happened in every epoch of every member.

        Returns
        -------
        One row a member and epoch.
        """
        rows = [{"member": i, **row} for i, state in sorted(self.states.items()) for row in state.history]
        history = pd.DataFrame(rows)
        return history.astype({"epoch": int}) if len(history) else history

    def best(self) -> list[dict[str, float | None]]:
        """The epoch whose weights every member keeps.

        Returns
        -------
        Epoch and validation score (None without validation), by member.
        """
        return [_best(state) for _, state in sorted(self.states.items())]

    def _end(self, error: type[BaseException] | None, *_: object) -> None:
        if self.writes and (error is None or not any(self.place.glob("member*.safetensors"))):
            shutil.rmtree(self.place, ignore_errors=True)


@dataclass(slots=True, eq=False)
class Reporter:
    """What one member reports to after each epoch."""

    state: Progress
    bar: Any
    file: Path | None
    """Where the checkpoint is written, if this process writes it."""
    written: float = field(default_factory=time.monotonic)

    def report(self, state: Progress) -> None:
        """Show an epoch, and write a checkpoint if the last is old.

        Parameters
        ----------
        state
            The state after the epoch.
        """
        self.state = state
        row = state.history[-1] if state.history else {}
        shown = {}
        if "train_loss" in row:
            shown["loss"] = f"{row['train_loss']:.3f}"
        elif row:  # nothing was trained by steps: one epoch is all
            self.bar.total = state.epoch
        if "val_pearson" in row:
            shown["validation r"] = f"{row['val_pearson']:.3f}"
        if "spots_per_s" in row:
            shown["spots/s"] = f"{row['spots_per_s']:.0f}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update(state.epoch - self.bar.n)
        if time.monotonic() - self.written > EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the checkpoint beside its place, then rename it; a failure is warned of and training goes on."""
        if not self.state.weights or self.file is None:
            return
        self.written = time.monotonic()
        try:
            with atomic_file(self.file) as part:
                save_file(_flat(self.state), part, metadata={"progress": json.dumps(_scalars(self.state))})
        except (OSError, SafetensorError) as error:
            check.not_checkpointed(str(self.file), error)


def _best(state: Progress) -> dict[str, float | None]:
    row = next((row for row in state.history if row["epoch"] == state.best_epoch), {})
    return {"epoch": state.best_epoch, "score": row.get("val_pearson")}


def _flat(state: Progress) -> dict[str, Tensor]:
    kinds = {"weights": state.weights, "average": state.average, "best": state.best}
    tensors = {f"{kind}/{name}": value for kind, held in kinds.items() for name, value in held.items()}
    tensors |= {f"moments/{p}/{name}": value for p, held in state.moments.items() for name, value in held.items()}
    return {name: value.clone().contiguous() for name, value in tensors.items()}


def _scalars(state: Progress) -> dict[str, Any]:
    return {
        "epoch": state.epoch,
        "best_score": state.best_score,
        "best_epoch": state.best_epoch,
        "history": state.history,
    }


def _load(file: Path) -> Progress:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        values = json.loads(opened.metadata()["progress"])
    state = Progress(**values)
    for name, value in load_file(file).items():
        kind, rest = name.split("/", 1)
        if kind == "moments":
            parameter, moment = rest.rsplit("/", 1)
            state.moments.setdefault(parameter, {})[moment] = value
        else:
            getattr(state, kind)[rest] = value
    return state
