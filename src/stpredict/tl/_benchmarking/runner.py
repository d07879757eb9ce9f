"""The cells of a benchmark one after the other, and what the cells of a fold share."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..._files import atomic_file, lock
from ..._pixels import PATCH_VERSION
from . import _errors as check
from .cell import RUN, Cell, run_cell
from .entry import BASELINES
from .observations import Observations, collect_observations
from .study import N_SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from .entry import Entry
    from .study import Study

NOTE, FOLDS = "benchmark.json", "_folds"


def cells_of(
    study: Study, entries: Mapping[str, Entry], seeds: Sequence[int], folder: Path, *, keep_predictors: bool
) -> list[Cell]:
    """All cells, those of a fold one after the other; baselines, which are deterministic, take the first seed."""
    return [
        Cell(
            study=study,
            label=label,
            entry=entry,
            split=split,
            seed=seed,
            folder=folder / label / f"fold-{split.number}-seed-{seed}",
            keep_predictor=keep_predictors,
        )
        for split in study.splits
        for seed in seeds
        for label, entry in entries.items()
        if seed == seeds[0] or entry.model not in BASELINES
    ]


def write_note(study: Study, folder: Path, labels: Sequence[str], *, grouped: bool) -> dict[str, Any]:
    """Write ``benchmark.json``, what is compared; refuse a folder with another comparison. ``grouped``: by patient."""
    values, labels_before = study.to_dict(), []
    if (folder / NOTE).is_file():
        before = read_note(folder)
        check.same_patches(before["patch_version"], PATCH_VERSION, folder)
        wanted = json.loads(json.dumps(values))
        check.same_comparison([name for name in wanted if before["study"].get(name) != wanted[name]], folder)
        labels_before = before["models"]
    several = len({slide.group for slide in study.slides.values()}) > 1
    rule = study.protocol
    note = {
        "unit": "patient" if grouped and several else "section",
        "leaks": study.leaks,
        "protocol": study.protocol_name,
        "headline": rule.headline if rule else "gene_pearson",
        "protocol_note": rule.note if rule else "",
        "um_per_px": {name: slide.um_per_px for name, slide in study.slides.items()},
        "models": list(dict.fromkeys([*labels_before, *labels])),
        "patch_version": PATCH_VERSION,
        "study": values,
    }
    with atomic_file(folder / NOTE) as file:
        file.write_text(json.dumps(note, indent=1), encoding="utf-8")
    return note


def read_note(folder: Path) -> dict[str, Any]:
    """Read ``benchmark.json``, also one that was written before some of its fields had their present names."""
    note: dict[str, Any] = json.loads((folder / NOTE).read_text(encoding="utf-8"))
    return {"patch_version": 1, "protocol_note": note.get("said", ""), **note}


@dataclass(slots=True)
class FoldObservations:
    """Observations of the fold of a cell: those of the last fold are kept in memory, those of all on disk."""

    folder: Path
    """Of the benchmark."""
    fold: int = -1
    observations: Observations | None = None

    def of(self, cell: Cell) -> Observations:
        """Return, read, or compute and write the observations of the fold."""
        if self.observations is None or self.fold != cell.split.number:
            self.fold, self.observations = cell.split.number, self._read_or_compute(cell)
        return self.observations

    def _read_or_compute(self, cell: Cell) -> Observations:
        study, number = cell.study, cell.split.number
        path = self.folder / FOLDS / f"fold-{number}.npz"
        if path.is_file():
            with np.load(path) as arrays:
                return Observations.from_arrays(arrays)
        slides = [study.slides[name] for name in cell.split.test]
        observations = collect_observations(
            slides,
            study.panels[number],
            study.target,
            study.counts_record,
            fold=number,
            pooled=study.pools_spots,
            n_splits=N_SPLITS,
        )
        with atomic_file(path) as part, part.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **observations.to_arrays())
        return observations


def run_cells(
    cells: Sequence[Cell], folder: Path, *, raise_errors: bool = False, progress: bool = True
) -> tuple[dict[str, str], list[str]]:
    """Run the cells that are neither finished nor run by another process.

    Returns the errors of cells that failed, by name, and the names of unfinished cells that other processes run.
    """
    failures: dict[str, str] = {}
    busy: list[Cell] = []
    observations = FoldObservations(folder)
    bar = tqdm(cells, desc="cells", unit="cell", disable=not progress)
    for cell in bar:
        bar.set_postfix_str(cell.name)
        if cell.is_finished():
            continue
        with lock(cell.folder) as ours:
            if not ours:
                busy.append(cell)
            elif not cell.is_finished():  # another process may just have finished it
                of_fold = observations.of(cell)
                try:
                    run_cell(cell, of_fold)
                except Exception as error:  # a model that fails must not stop the others
                    if raise_errors:
                        raise
                    failures[cell.name] = f"{type(error).__name__}: {error}"
    return failures, [cell.name for cell in busy if not (cell.folder / RUN).is_file()]
