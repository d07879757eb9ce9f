"""The cells of a comparison one after the other, and what is common to those of a fold."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from ..._checks import comparison as check
from ..._files import atomic_file, lock
from .._cohort.job import Caught
from .cell import RUN, Cell, fill, finished, refuse
from .entry import BASELINES
from .observations import HeldOut, measured
from .study import N_SPLITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from .entry import Entry
    from .study import Study

NOTE, FOLDS = "benchmark.json", "_folds"


def cells_of(
    study: Study, entries: Mapping[str, Entry], seeds: Sequence[int], folder: Path, *, keep_predictors: bool
) -> list[Cell]:
    """All cells, those of a fold one after the other.

    Parameters
    ----------
    study
        The study.
    entries
        Models by label.
    seeds
        Seeds; baselines, which have no chance in them, take the first.
    folder
        Of the benchmark.
    keep_predictors
        Whether cells keep their predictors.

    Returns
    -------
    The cells.
    """
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


def begin(study: Study, folder: Path, labels: Sequence[str], *, grouped: bool) -> dict[str, Any]:
    """Write down what is compared; refuse a folder that holds another comparison.

    Parameters
    ----------
    study
        The study.
    folder
        Where it goes.
    labels
        Models.
    grouped
        Whether groups were named.

    Returns
    -------
    What is written.
    """
    values, before = study.values(), {}
    if (folder / NOTE).is_file():
        before = json.loads((folder / NOTE).read_text(encoding="utf-8"))
        wanted = json.loads(json.dumps(values))
        check.same_comparison([name for name in wanted if before["study"].get(name) != wanted[name]], folder)
    several = len({slide.group for slide in study.slides.values()}) > 1
    rule = study.protocol
    note = {
        "unit": "patient" if grouped and several else "section",
        "leaks": study.leaks,
        "protocol": study.protocol_name,
        "headline": rule.headline if rule else "gene_pearson",
        "said": rule.note if rule else "",
        "um_per_px": {name: slide.um_per_px for name, slide in study.slides.items()},
        "models": list(dict.fromkeys([*before.get("models", []), *labels])),
        "study": values,
    }
    with atomic_file(folder / NOTE) as part:
        part.write_text(json.dumps(note, indent=1), encoding="utf-8")
    return note


def run_cells(
    cells: Sequence[Cell], folder: Path, *, stops: bool = False, progress: bool = True
) -> tuple[dict[str, str], list[str]]:
    """Do what is not done yet, and what no other process is doing.

    Parameters
    ----------
    cells
        All cells; those of a fold one after the other.
    folder
        Of the benchmark.
    stops
        Whether to raise what a cell raises. By default what fails stops no other.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Why cells failed, by name; names of cells that another process is at, and has not finished by now.
    """
    failures: dict[str, str] = {}
    elsewhere: list[Cell] = []
    held: tuple[int, HeldOut] | None = None
    with tqdm(total=len(cells), desc="cells", unit="cell", disable=not progress) as bar:
        for cell in cells:
            bar.set_postfix_str(cell.name)
            with _caught(stops=stops) as caught:
                run = cell.run()
            if caught.error is not None or not finished(cell, run):
                with lock(cell.folder) as ours:
                    if not ours:
                        elsewhere.append(cell)
                    elif caught.error is not None:
                        refuse(cell, caught.error)
                    elif not finished(cell, run):  # another process may just have finished it
                        if held is None or held[0] != cell.split.number:
                            held = (cell.split.number, held_out(cell, folder))
                        with _caught(stops=stops) as caught:
                            fill(cell, run, held[1])
            if caught.error is not None:
                failures[cell.name] = f"{type(caught.error).__name__}: {caught.error}"
            bar.update()
    return failures, [cell.name for cell in elsewhere if not (cell.folder / RUN).is_file()]


def _caught(*, stops: bool) -> AbstractContextManager[Caught]:
    """Keeps what is raised, or lets it through."""
    return nullcontext(Caught()) if stops else Caught()


def held_out(cell: Cell, folder: Path) -> HeldOut:
    """What was measured on the test slides of a cell's fold: read, or computed and written.

    Parameters
    ----------
    cell
        The cell.
    folder
        Of the benchmark.

    Returns
    -------
    The measurements.
    """
    study, number = cell.study, cell.split.number
    place = folder / FOLDS / f"fold-{number}.npz"
    if place.is_file():
        with np.load(place) as arrays:
            return HeldOut.from_arrays(arrays)
    slides = [study.slides[name] for name in cell.split.test]
    found = measured(slides, study.panels[number], study.target, fold=number, pooled=study.pooled, n_splits=N_SPLITS)
    with atomic_file(place) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **found.arrays())
    return found
