"""Compare all models on real sections, by section or by patient, and write the tables.

    python benchmarks/zoo/run.py [--data her2st mob_2k patients] [--models LABEL …] [--seeds 3] [--weights FILE]
                                 [--folder stpredict-benchmark/zoo] [--out benchmarks/zoo]

Every model runs with one seed; those that train in less than three minutes a cell run with all seeds.
``--data her2st_select`` compares models on C2 to C4 of her2st, to choose among them.
Needs ``STPREDICT_DATA_DIR`` with the sections. Finished cells are kept, so a run can be stopped and continued, models
or seeds can be added, and two processes can share a folder. Rows of ``zoo.json`` that this folder has not finished
stay as they are, with their dates.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from pages import comparison
from rows import rows

import stpredict as stp

HERE = Path(__file__).parent
SLOW_S = 180
"""Mean seconds of training a cell from which on a model runs with one seed only."""
BASELINES = ("mean_profile", "ridge_color")
"""Models that run with one seed because no seed changes them."""
NO_ROWS = {"rows": {}, "sections": {}, "runs": []}
"""The table of a data set that was never run."""


def read_section(folder, name, **files):
    """Read one legacy ST section."""
    where = Path(os.environ["STPREDICT_DATA_DIR"]) / folder
    given = {key: where / file if isinstance(file, str) else file for key, file in files.items() if key != "patient"}
    return stp.io.read_st(**given, name=name, patient=files.get("patient"))


def her2st():
    """C2 to C5, serial sections of one tumour, 250 genes of the M2OST authors."""
    return stp.datasets.her2st(["C2", "C3", "C4", "C5"]), {
        "genes": stp.datasets.gene_panel("her2st"), "by": "section", "allow_leakage": True,
    }  # fmt: skip


def mob():
    """Two sections of the olfactory bulb of one mouse, 2k arrays."""
    sections = {
        name: read_section("mob_2k", name, image=f"{name}.jpg", counts=f"{name}.tsv.gz",
                           spots=f"alignment_table_{name}.tsv", patient="mouse")
        for name in ("MOB1", "MOB2")
    }  # fmt: skip
    return sections, {"by": "section", "allow_leakage": True}


def patients():
    """Two patients of her2st: sections C2 to C5, and A1 at a fifth of the resolution."""
    a1 = read_section("her2st_lowres", "A1", image="A1.png", counts="A1.tsv.gz", spots="A1_selection.tsv", patient="A",
            pixel_frame=(6954, 7435))  # fmt: skip
    sections = {"C": stp.datasets.her2st(["C2", "C3", "C4", "C5"]), "A": a1}
    return sections, {"genes": stp.datasets.gene_panel("her2st")}


def her2st_select():
    """C2 to C4, for choosing models and settings: C5 stays unseen."""
    return stp.datasets.her2st(["C2", "C3", "C4"]), {
        "genes": stp.datasets.gene_panel("her2st"), "by": "section", "allow_leakage": True,
    }  # fmt: skip


DATA = {"her2st": her2st, "mob_2k": mob, "patients": patients}
"""Those of the pages."""
ALL = {**DATA, "her2st_select": her2st_select}


def compare(name, labels, n_seeds, weights, folder):
    """Run the unfinished cells of one data set: one seed of all models, then further seeds of the fast ones."""
    sdata, options = ALL[name]()
    known = rows(weights)
    chosen = {label: known[label][0] for label in (labels or known)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = stp.tl.benchmark(sdata, chosen, seeds=[0], save_dir=folder / name, **options)
        seconds = found.runs.groupby("model", observed=True)["fit_s"].mean()
        fast = {label: chosen[label] for label in chosen if seconds.get(label, SLOW_S) < SLOW_S}
        if fast and n_seeds > 1:
            stp.tl.benchmark(sdata, fast, seeds=range(n_seeds), save_dir=folder / name, **options)


def finished_results(folder):
    """By data set: the benchmark and its summary of the rows whose first seed is finished, without unfinished seeds."""
    for name in ALL:
        if (folder / name / "benchmark.json").is_file():
            found = stp.tl.Benchmark.load(folder / name)
            n_folds = found.runs["fold"].nunique()
            n_cells = found.runs.groupby(["model", "seed"], observed=True)["fold"].transform("size")
            whole = found.runs[n_cells == n_folds][["model", "seed"]].drop_duplicates()
            keep = {field: getattr(found, field).merge(whole, on=["model", "seed"]) for field in ("scores", "runs")}
            yield name, replace(found, **keep)


def ceiling_of(found):
    """Mean noise ceiling over folds."""
    return float(found.runs.drop_duplicates("fold")["ceiling"].mean())


def table(name, found, notes, earlier):
    """The results of one data set, as they are saved; rows that are not finished are those of an earlier table."""
    summary = found.summary()
    scores = found.scores[found.scores["metric"] == "pearson"].astype({"model": str, "slide": str})
    slides = scores.groupby(["model", "slide"])["value"].mean().unstack()
    of_seeds = scores.groupby(["model", "seed"])["value"].mean().groupby("model")
    spread, n_seeds = of_seeds.max() - of_seeds.min(), of_seeds.size()
    today, attrs = datetime.now(UTC).date().isoformat(), summary.attrs
    new = {
        label: {
            "configuration": notes[label], "date": today, "n_seeds": int(n_seeds[label]),
            "seed_range": float(spread[label]) if n_seeds[label] > 1 or label in BASELINES else None,
            **json.loads(row.to_json()),
        }
        for label, row in summary.iterrows()
    }  # fmt: skip
    merged = sorted({**earlier["rows"], **new}.items(), key=lambda item: -item[1]["gene_pearson"])
    sections = {**earlier["sections"], **json.loads(slides.to_json(orient="index"))}
    return {
        "threads": torch.get_num_threads(),
        "about": ALL[name].__doc__.strip(),
        "leaks": bool(attrs["leaks"]),
        "n_folds": int(found.runs["fold"].nunique()),
        "unit": attrs["unit"],
        "n_units": int(attrs["n_units"]),
        "ceiling": ceiling_of(found),
        "baseline": attrs["baseline"],
        "rows": dict(merged),
        "sections": {label: sections[label] for label, _ in merged},
        "failed": [{"model": row.model, "fold": row.fold, "error": row.error} for row in found.failed.itertuples()],
        "runs": [run for run in earlier["runs"] if run["model"] not in new]
        + json.loads(found.runs.to_json(orient="records")),
    }


def main():
    """Run the comparison and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="*", default=list(DATA), choices=list(ALL))
    parser.add_argument("--models", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", help="file that weights.py wrote")
    parser.add_argument("--folder", type=Path, default=Path("stpredict-benchmark/zoo"))
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    for name in given.data:
        compare(name, given.models, given.seeds, given.weights, given.folder)
    notes = {label: note for label, (_, note) in rows(given.weights).items()}
    tables = json.loads((HERE / "zoo.json").read_text(encoding="utf-8"))
    for name, found in finished_results(given.folder):
        tables[name] = table(name, found, notes, tables.get(name, NO_ROWS))
    (given.out / "zoo.json").write_text(json.dumps(tables, indent=1), encoding="utf-8")
    (given.out / "zoo.md").write_text(comparison(tables), encoding="utf-8")


if __name__ == "__main__":
    main()
