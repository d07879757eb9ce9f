"""Compare every model on the real sections at hand, by section or by patient, and write the table.

    python benchmarks/zoo/run.py [--data her2st mob_2k patients] [--models LABEL …] [--seeds 1] [--weights FILE]
                                 [--folder stpredict-benchmark/zoo] [--out benchmarks/zoo]

Needs ``STPREDICT_DATA_DIR`` with the sections. Finished cells are kept, so a run can be stopped, and models or seeds
added; the table contains the models that are finished.
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
    "gene_pearson": "gene-wise PCC", "low": "low", "high": "high", "difference": "against best baseline",
    "share_of_ceiling": "of ceiling", "gene_pearson_top50": "top 50", "best50": "best 50",
    "spot_pearson": "spot-wise PCC", "rmse": "RMSE", "moran_agreement": "Moran agreement",
}  # fmt: skip
COSTS = {
    "parameters": "parameters", "macs": "MACs a spot", "fit_s": "fit (s)", "train_spots_per_s": "trained spots/s",
    "predict_spots_per_s": "predicted spots/s", "peak_memory_mib": "memory (MiB)",
}  # fmt: skip


def st(folder, name, **files):
    """One legacy section."""
    where = Path(os.environ["STPREDICT_DATA_DIR"]) / folder
    given = {key: where / file if isinstance(file, str) else file for key, file in files.items() if key != "patient"}
    return stp.io.read_st(**given, name=name, patient=files.get("patient"))


def her2st():
    """C2 to C5, serial sections of one tumour, on the genes of the M2OST authors."""
    return stp.datasets.her2st(["C2", "C3", "C4", "C5"]), {
        "genes": stp.datasets.gene_panel("her2st"), "by": "section", "allow_leakage": True,
    }  # fmt: skip


def mob():
    """Two sections of one mouse's olfactory bulb, 2k arrays."""
    sections = {
        name: st("mob_2k", name, image=f"{name}.jpg", counts=f"{name}.tsv.gz", spots=f"alignment_table_{name}.tsv",
                 patient="mouse")
        for name in ("MOB1", "MOB2")
    }  # fmt: skip
    return sections, {"by": "section", "allow_leakage": True}


def patients():
    """Two patients of her2st: sections C2 to C5, and A1 at a fifth of the resolution."""
    a1 = st("her2st_lowres", "A1", image="A1.png", counts="A1.tsv.gz", spots="A1_selection.tsv", patient="A",
            pixel_frame=(6954, 7435))  # fmt: skip
    sections = {"C": stp.datasets.her2st(["C2", "C3", "C4", "C5"]), "A": a1}
    return sections, {"genes": stp.datasets.gene_panel("her2st")}


DATA = {"her2st": her2st, "mob_2k": mob, "patients": patients}


def compare(name, labels, seeds, weights, folder):
    """Run the cells of one data set that are not finished."""
    sdata, options = DATA[name]()
    known = rows(weights)
    chosen = {label: known[label][0] for label in (labels or known)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        stp.tl.benchmark(sdata, chosen, seeds=range(seeds), save_dir=folder / name, **options)


def number(value):
    """A figure as text."""
    if value is None or value != value:
        return "–"
    if abs(value) >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def lines_of(table, columns, notes):
    """A table as markdown."""
    yield "| model | configuration | " + " | ".join(columns.values()) + " |"
    yield "|---|---|" + "---|" * len(columns)
    for label, row in table.iterrows():
        yield f"| {label} | {notes.get(label, '')} | " + " | ".join(number(row[key]) for key in columns) + " |"


def finished_results(folder, labels):
    """By data set: the comparison, its summary of rows that are complete, and the labels of those that are not."""
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
    """The results of `finished_results` as a page."""
    text = [
        "# Every model on the sections at hand", "",
        f"{datetime.now(UTC).date()}; CPU, threads: {torch.get_num_threads()}. Made by `python benchmarks/zoo/run.py`;",
        "rows, sizes and training in `rows.py`. Sizes are for two CPU cores: figures say how these configurations do,",
        "not how the published ones would on a GPU with pretrained weights. Seconds depend on other work.", "",
    ]  # fmt: skip
    for name, found, summary, short in done:
        text += [f"## {name}: {DATA[name].__doc__.strip()}", ""]
        leak = "**Leak: test sections are of patients also trained on.** " if summary.attrs["leaks"] else ""
        n_folds, n_seeds = found.runs["fold"].nunique(), found.runs["seed"].nunique()
        attrs, ceiling = summary.attrs, ceiling_of(found)
        text += [
            f"{leak}{n_folds} folds, {n_seeds} seed(s); intervals over {attrs['n_units']} {attrs['unit']}s.",
            f"Best baseline: {attrs['baseline']}; noise ceiling {ceiling:.3f}. Best row: **{summary.index[0]}**.", "",
            *lines_of(summary, COLUMNS, notes), "", *lines_of(summary, COSTS, notes), "",
        ]  # fmt: skip
        by_slide = found.scores[found.scores["metric"] == "pearson"].astype({"model": str, "slide": str})
        slides = by_slide.groupby(["model", "slide"])["value"].mean().unstack().reindex(summary.index)
        text += ["Gene-wise PCC by section held out:", "", *lines_of(slides, {c: c for c in slides}, notes), ""]
        failed = [f"- {row.model}, fold {row.fold}: {row.error}" for row in found.failed.itertuples()]
        text += ["Failed:", "", *failed, ""] if failed else []
        text += [f"Not finished, and left out: {', '.join(short)}.", ""] if short else []
    return "\n".join(text)


def main():
    """Run, and write the table."""
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
