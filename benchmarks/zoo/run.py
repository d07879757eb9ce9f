"""Compare all models on real sections, by section or by patient, and write the tables.

    python benchmarks/zoo/run.py [--data her2st mob_2k patients] [--models LABEL …] [--seeds 1] [--weights FILE]
                                 [--folder stpredict-benchmark/zoo] [--out benchmarks/zoo]

Needs ``STPREDICT_DATA_DIR`` with the sections. Finished cells are kept, so a run can be stopped and continued, and
models or seeds can be added; the tables contain the models that are finished.
"""

from __future__ import annotations

import argparse
import json
import os
import warnings
from datetime import UTC, datetime
from pathlib import Path

import torch
from rows import rows

import stpredict as stp

HERE = Path(__file__).parent
COLUMNS = {
    "gene_pearson": "gene-wise PCC", "low": "low", "high": "high", "difference": "difference",
    "share_of_ceiling": "share of ceiling", "gene_pearson_top50": "top 50", "best50": "best 50",
    "spot_pearson": "spot-wise PCC", "rmse": "RMSE", "moran_agreement": "Moran agreement",
}  # fmt: skip
COSTS = {
    "parameters": "parameters", "macs": "MACs per spot", "fit_s": "fit (s)", "train_spots_per_s": "training spots/s",
    "predict_spots_per_s": "prediction spots/s", "peak_memory_mib": "memory (MiB)",
}  # fmt: skip


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


DATA = {"her2st": her2st, "mob_2k": mob, "patients": patients}


def compare(name, labels, seeds, weights, folder):
    """Run the unfinished cells of one data set."""
    sdata, options = DATA[name]()
    known = rows(weights)
    chosen = {label: known[label][0] for label in (labels or known)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        stp.tl.benchmark(sdata, chosen, seeds=range(seeds), save_dir=folder / name, **options)


def number(value):
    """Format a number."""
    if value is None or value != value:
        return "–"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def lines_of(table, columns):
    """Format a table as markdown."""
    yield "| model | " + " | ".join(columns.values()) + " |"
    yield "|---|" + "--:|" * len(columns)
    for label, row in table.iterrows():
        yield f"| {label} | " + " | ".join(number(row[key]) for key in columns) + " |"


def configurations(done, notes):
    """Format the configurations of all models that have results."""
    shown = {label for _, _, summary, _ in done for label in summary.index}
    lines = [f"| {label} | {note} |" for label, note in notes.items() if label in shown]
    return ["| model | configuration |", "|---|---|", *lines]


def finished_results(folder, labels):
    """By data set: the benchmark, its summary of complete rows, and the labels of incomplete rows."""
    for name in DATA:
        if (folder / name / "benchmark.json").is_file():
            found = stp.tl.Benchmark.load(folder / name)
            cells = found.runs.groupby("model", observed=True).size()
            short = [label for label in labels if cells.get(label, 0) < cells.max()]
            yield name, found, found.summary().drop(index=short, errors="ignore"), short


def ceiling_of(found):
    """Mean noise ceiling over folds."""
    return float(found.runs.drop_duplicates("fold")["ceiling"].mean())


def page(done, notes):
    """Format the results of `finished_results` as a page."""
    text = [
        "# Comparison of all models", "",
        f"{datetime.now(UTC).date()}; CPU, threads: {torch.get_num_threads()}. Made by `python benchmarks/zoo/run.py`;",
        "configurations and training recipes are in `rows.py`. All models are small enough to train on two CPU cores:",
        "the scores are those of these configurations, not of the published ones, which use GPUs and pretrained",
        "weights. Times include the effect of other processes on the machine. `low` and `high` are the bounds of the",
        "95 % bootstrap interval of the gene-wise PCC; `difference` is its difference from the best baseline.", "",
        "## Configurations", "", *configurations(done, notes), "",
    ]  # fmt: skip
    for name, found, summary, short in done:
        text += [f"## {name}: {DATA[name].__doc__.strip()}", ""]
        leak = "**Leakage: test and training sections are of the same patients.** " if summary.attrs["leaks"] else ""
        n_folds, n_seeds = found.runs["fold"].nunique(), found.runs["seed"].nunique()
        attrs, ceiling = summary.attrs, ceiling_of(found)
        text += [
            f"{leak}{n_folds} folds, {n_seeds} seed(s); intervals over {attrs['n_units']} {attrs['unit']}s.",
            f"Best baseline: {attrs['baseline']}; noise ceiling {ceiling:.3f}. Best row: **{summary.index[0]}**.", "",
            *lines_of(summary, COLUMNS), "", *lines_of(summary, COSTS), "",
        ]  # fmt: skip
        by_slide = found.scores[found.scores["metric"] == "pearson"].astype({"model": str, "slide": str})
        slides = by_slide.groupby(["model", "slide"])["value"].mean().unstack().reindex(summary.index)
        text += ["Gene-wise PCC by held-out section:", "", *lines_of(slides, {c: c for c in slides}), ""]
        failed = [f"- {row.model}, fold {row.fold}: {row.error}" for row in found.failed.itertuples()]
        text += ["Failed:", "", *failed, ""] if failed else []
        text += [f"Not finished and not shown: {', '.join(short)}.", ""] if short else []
    return "\n".join(text)


def main():
    """Run the comparison and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="*", default=list(DATA), choices=list(DATA))
    parser.add_argument("--models", nargs="*")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--weights", help="file that weights.py wrote")
    parser.add_argument("--folder", type=Path, default=Path("stpredict-benchmark/zoo"))
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    for name in given.data:
        compare(name, given.models, given.seeds, given.weights, given.folder)
    notes = {label: note for label, (_, note) in rows(given.weights).items()}
    done = list(finished_results(given.folder, notes))
    (given.out / "zoo.md").write_text(page(done, notes), encoding="utf-8")
    tables = {
        name: {
            "ceiling": ceiling_of(found),
            "baseline": summary.attrs["baseline"],
            "rows": {
                label: {"configuration": notes[label], **json.loads(row.to_json())} for label, row in summary.iterrows()
            },
            "runs": json.loads(found.runs.to_json(orient="records")),
        }
        for name, found, summary, _ in done
    }
    (given.out / "zoo.json").write_text(json.dumps(tables, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
