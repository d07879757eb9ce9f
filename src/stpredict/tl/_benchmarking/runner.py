"""The cells of a benchmark one after the other, and what the cells of a fold share."""

from __future__ import annotations

import json
import logging
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from ..._files import DamagedFileError, lock, lock_file, read_arrays, read_json, write_arrays, write_json
from ..._pixels import PATCH_VERSION
from ..._progress import progress_bar
from . import _errors as check
from .cell import RUN, Cell, run_cell
from .entry import BASELINES
from .observations import Observations, collect_observations
from .study import N_SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ..._files import Schema
    from .entry import Entry
    from .study import Study

logger = logging.getLogger(__name__)

NOTE, FOLDS = "benchmark.json", "_folds"
NOTE_FIELDS: Schema = {
    "unit": str, "leaks": bool, "headline": str, "um_per_px": {str: float}, "models": [str], "patch_version?": int,
    "study": {"slides": {str: dict}, "folds": [{"test": [str]}], "genes": [[str]], "target": dict},
}  # fmt: skip
NOTE_ADVICE = "Delete this file and call `stp.tl.benchmark` again: it is written again, and finished cells are kept."
FOLD_ADVICE = "Call `stp.tl.benchmark` again: it is then computed again."


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


def write_note(study: Study, folder: Path, labels: Sequence[str]) -> dict[str, Any]:
    """Write ``benchmark.json``, what is compared; refuse a folder with another comparison."""
    values, labels_before = study.to_dict(), []
    if (folder / NOTE).is_file():
        before = read_note(folder)
        check.same_comparison(folder, before["patch_version"], before["study"], json.loads(json.dumps(values)))
        labels_before = before["models"]
    several = len({slide.group for slide in study.slides.values()}) > 1
    rule = study.protocol
    note = {
        "unit": "patient" if study.grouped and several else "section",
        "leaks": study.leaks,
        "protocol": study.protocol_name,
        "headline": rule.headline if rule else "gene_pearson",
        "protocol_note": rule.note if rule else "",
        "um_per_px": {name: slide.um_per_px for name, slide in study.slides.items()},
        "models": list(dict.fromkeys([*labels_before, *labels])),
        "patch_version": PATCH_VERSION,
        "study": values,
    }
    write_json(folder / NOTE, note)
    return note


def read_note(folder: Path) -> dict[str, Any]:
    """Read ``benchmark.json``, also one that was written before some of its fields had their present names."""
    note: dict[str, Any] = read_json(folder / NOTE, NOTE_FIELDS, NOTE_ADVICE)
    return {"patch_version": 1, "protocol_note": note.get("said", ""), **note}


def fold_observations(study: Study, folder: Path, number: int) -> Observations:
    """Read the observations of a fold, or compute and write them; all models share them."""
    path = observations_file(folder, number)
    if path.is_file():
        try:
            return read_observations(path)
        except DamagedFileError as error:
            logger.warning("The observations of fold %d are computed again: %s", number, error)
    slides = [study.slides[name] for name in study.splits[number].test]
    rule = study.protocol
    observations = collect_observations(
        slides,
        study.panels[number],
        study.target,
        study.counts_record,
        fold=number,
        pooled=rule is not None and rule.pooled,
        are_counts=rule is None or rule.labels is None,
        n_splits=N_SPLITS,
    )
    write_arrays(path, observations.to_arrays())
    return observations


def observations_file(folder: Path, number: int) -> Path:
    """Where the observations of a fold are."""
    return folder / FOLDS / f"fold-{number}.npz"


def read_observations(path: Path) -> Observations:
    """The observations that `fold_observations` wrote."""
    return Observations.from_arrays(read_arrays(path, list(Observations.__dataclass_fields__), FOLD_ADVICE))


def run_cells(
    cells: Sequence[Cell], folder: Path, *, raise_errors: bool = False, progress: bool = True
) -> tuple[dict[str, str], list[str]]:
    """Run the cells that are neither finished nor run by another process.

    Returns the errors of cells that failed, by name, and the names of unfinished cells that other processes run.
    """
    failures: dict[str, str] = {}
    busy: list[Cell] = []
    observations_of = lru_cache(maxsize=1)(partial(fold_observations, cells[0].study, folder))
    bar = progress_bar(cells, desc="cells", unit="cell", progress=progress)
    for cell in bar:
        bar.set_postfix_str(cell.name)
        if cell.is_finished() and not lock_file(cell.folder).exists():  # one that a killed process left is removed
            continue
        with lock(cell.folder) as ours:
            if not ours:
                busy.append(cell)
            elif not cell.is_finished():  # another process may just have finished it
                observations = observations_of(cell.split.number)  # the same as of the previous cell, or another fold
                try:
                    run_cell(cell, observations)
                except Exception as error:  # a model that fails must not stop the others
                    if raise_errors:
                        raise
                    failures[cell.name] = f"{type(error).__name__}: {error}"
    return failures, [cell.name for cell in busy if not (cell.folder / RUN).is_file()]
