"""The page of a benchmark: collects what the template shows. Words and numbers are in `text`, plots in `figures`."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import jinja2
import numpy as np
import pandas as pd
from matplotlib import colormaps

from .._checks.paths import output_file
from .._files import DamagedFileError, atomic_file
from ..pl.comparison import (
    CEILING,
    best_genes,
    ceiling_by_gene,
    is_light,
    mean_gene_scores,
    ranked_summary,
    section,
    shared_genes,
)
from ..pp.targets import TargetSpec
from ..tl._benchmarking.cell import RUN, read_run
from ..tl._predictor.serialization import package_version
from .figures import component_maps, forest, gene_maps, gene_scores
from .text import COSTS, DASH, SCORES, breakable, count_noun, interval, join_names, number, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    from ..pl.comparison import BenchmarkLike, Section
    from .text import Column

N_GENES = 30
"""Genes of the heat map."""
INTERVALS = {"gene_pearson": ("low", "high"), "difference": ("difference_low", "difference_high")}
"""Columns of the summary that hold the interval of another column."""


class Cell(NamedTuple):
    """A cell of a table that is more than text."""

    text: str
    note: str = ""
    style: str = ""
    kind: str = ""


def to_html(benchmark: BenchmarkLike, path: str | PathLike[str]) -> None:
    """Write a benchmark as one self-contained HTML file, whole or not at all; a file that is there is replaced."""
    target = output_file(path, "path")
    text = page(benchmark)
    try:
        with atomic_file(target) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        msg = (
            f"The report was not written to '{target}': {reason}. Nothing is left there; give another folder's `path`."
        )
        raise OSError(error.errno, msg) from error


def page(benchmark: BenchmarkLike) -> str:
    """The HTML text of the page."""
    summary = ranked_summary(benchmark)
    benchmark = _read_once(benchmark, summary)
    scored = summary.index[summary["gene_pearson"].notna()].tolist()
    found = section(benchmark, scored)
    template = jinja2.Environment(
        loader=jinja2.PackageLoader("stpredict._report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    ).get_template("report.html.jinja")
    return template.render(
        title=f"Comparison of {count_noun(len(summary), 'model')}",
        leaks=benchmark.note["leaks"],
        verdict=verdict(summary.loc[scored]),
        remark=benchmark.note["protocol_note"],
        facts=_facts(benchmark, summary),
        has_intervals=summary["low"].notna().any(),
        has_baseline=summary.attrs.get("baseline") in summary.index,
        forest=forest(summary, float(_ceiling(benchmark))),
        scores=_scores(summary),
        genes=_genes(benchmark, summary),
        section=found.name,
        gene_map=_gene_map(benchmark, found, mean_gene_scores(benchmark, "pearson", scored)),
        component_maps=_component_maps(benchmark, found),
        costs=_costs(benchmark, summary),
        failures=_failures(benchmark),
        repeat=_repeat(benchmark, summary),
        version=package_version(),
    )


def _read_once(benchmark: BenchmarkLike, summary: pd.DataFrame) -> BenchmarkLike:
    """The benchmark with its summary and each table computed once, since every figure of the page uses them."""
    read = {name: getattr(benchmark, name) for name in ("folder", "note", "failed", "scores", "runs")}
    return cast("BenchmarkLike", SimpleNamespace(**read, summary=summary.copy, table=cache(benchmark.table)))


def _facts(benchmark: BenchmarkLike, summary: pd.DataFrame) -> dict[str, str]:
    """What took part, and on which data."""
    study, runs = benchmark.note["study"], benchmark.runs
    groups = sorted({str(slide["group"]) for slide in study["slides"].values()})
    n_spots = runs.drop_duplicates("fold")["n_test"].sum()
    folds = "; ".join(join_names(fold["test"], 5) for fold in study["folds"][:20])
    more = "; …" if len(study["folds"]) > 20 else ""
    seeds = count_noun(runs["seed"].nunique(), "seed")
    return {
        "Models": join_names(summary.index.tolist()),
        "Best baseline": str(summary.attrs.get("baseline") or "none took part"),
        "Groups": f"{len(groups):,}: {join_names(groups)}",
        "Sections": f"{len(study['slides']):,}: {join_names(list(study['slides']))}",
        "Held out": f"{n_spots:,.0f} spots, each predicted by networks that were not trained on it",
        "Folds": f"{len(study['folds']):,} with {seeds}, held out in turn: {folds}{more}",
        "Groups in training and test": "the same (LEAK, see above)" if benchmark.note["leaks"] else "never the same",
        "Protocol": str(benchmark.note["protocol"] or "of stpredict"),
        "Genes": _panels(study["genes"]),
        "Units": TargetSpec(**study["target"]).units,
    }


def _panels(panels: Sequence[Sequence[str]]) -> str:
    """The genes of all folds, or that each fold has its own."""
    genes = list(dict.fromkeys(gene for panel in panels for gene in panel))
    differ = any(set(panel) != set(panels[0]) for panel in panels)
    n = f"{len(panels[0]):,} a fold, chosen in each; {len(genes):,} in total" if differ else f"{len(genes):,}"
    return f"{n}: {join_names(genes, 12)}"


def _ceiling(benchmark: BenchmarkLike) -> float:
    """Mean noise ceiling; NaN where it is not known."""
    return float(benchmark.runs["ceiling"].mean()) if "ceiling" in benchmark.runs.columns else float("nan")


def _columns_with_values(summary: pd.DataFrame, columns: Sequence[Column]) -> list[Column]:
    """The columns that have a value for any model."""
    return [column for column in columns if column.name in summary.columns and summary[column.name].notna().any()]


def _scores(summary: pd.DataFrame) -> dict[str, Any]:
    """The summary as a table, with intervals below the numbers."""
    columns = _columns_with_values(summary, SCORES)
    rows: list[list[Any]] = []
    for model, row in summary.iterrows():
        mark = " (best baseline)" if model == summary.attrs.get("baseline") else ""
        rows.append([breakable(model) + mark, *(_score(row, column) for column in columns)])
    return {"head": ["model", *(column.label for column in columns)], "rows": rows, "columns": columns}


def _score(row: pd.Series, column: Column) -> Cell:
    ends = INTERVALS.get(column.name)
    note = "" if ends is None else interval(row[ends[0]], row[ends[1]], column.kind)
    return Cell(number(row[column.name], column.kind), note)


def _costs(benchmark: BenchmarkLike, summary: pd.DataFrame) -> dict[str, Any]:
    """Size, speed and memory of every model, and the mean duration of a training."""
    runs, columns = benchmark.runs, _columns_with_values(summary, COSTS)
    fit_s = runs.groupby("model")["fit_s"].mean() if "fit_s" in runs.columns else pd.Series(dtype=float)
    rows = [
        [
            breakable(model),
            *(number(row[column.name], column.kind) for column in columns),
            number(fit_s.get(model, np.nan), "speed"),
        ]
        for model, row in summary.iterrows()
    ]
    return {"head": ["model", *(column.label for column in columns), "training, s"], "rows": rows, "columns": columns}


def _genes(benchmark: BenchmarkLike, summary: pd.DataFrame) -> dict[str, Any] | None:
    """Scores of all genes as a figure and of the best genes as a coloured table; None where no gene has a score."""
    values, ceiling = mean_gene_scores(benchmark, "pearson", summary.index.tolist()), ceiling_by_gene(benchmark)
    best = values.loc[best_genes(values, N_GENES)]
    if not len(best):
        return None
    shown = best.assign(**{CEILING: ceiling.reindex(best.index)}) if len(ceiling) else best
    numbers = shown.to_numpy(dtype=np.float64)
    low, high = min(0.0, float(np.nanmin(numbers))), float(np.nanmax(numbers))
    shares = (numbers - low) / ((high - low) or 1.0)
    return {
        "figure": gene_scores(benchmark, len(summary) + bool(len(ceiling))),
        "n": count_noun(len(best), "gene"),
        "head": ["gene", *map(str, shown.columns)],
        "rows": [[str(gene), *map(_heat_cell, numbers[i], shares[i])] for i, gene in enumerate(shown.index)],
    }


def _heat_cell(value: float, share: float) -> Cell:
    """A score on its colour, in text that can be read on it."""
    if not np.isfinite(value):
        return Cell(DASH)
    color = np.asarray(colormaps["viridis"](float(share))[:3])
    code = "".join(f"{channel:02x}" for channel in np.rint(255 * color).astype(int))
    return Cell(number(value, "short"), style=f"background:#{code};color:{'#000' if is_light(color) else '#fff'}")


def _gene_map(benchmark: BenchmarkLike, found: Section, scores: pd.DataFrame) -> dict[str, Any] | None:
    """Maps of the gene that all models predict best; None where no gene has a score."""
    genes = [gene for gene in best_genes(scores, len(scores)) if gene in found.genes]
    return {"gene": genes[0], "panels": gene_maps(benchmark, found, genes[0])} if genes else None


def _component_maps(benchmark: BenchmarkLike, found: Section) -> dict[str, Any] | None:
    """Maps of the principal components; None where spots or genes are too few for them."""
    n_genes = len(shared_genes(found))
    if len(found.xy) < 4 or n_genes < 3:
        return None
    return {"n_genes": f"{n_genes:,}", "panels": component_maps(benchmark, found)}


def _failures(benchmark: BenchmarkLike) -> dict[str, Any]:
    """The trainings that failed with their errors, and the models whose folds were not all run."""
    failed, done = benchmark.failed, benchmark.runs
    errors = failed[["model", "fold", "seed", "error"]].astype(str).to_numpy().tolist()
    rows = [[breakable(model), fold, seed, Cell(error, kind="long")] for model, fold, seed, error in errors]
    text = f"{len(done):,} trainings (model x fold x seed) were scored, {len(rows):,} failed."
    if rows:
        text += " The means of a model that failed leave out those folds: compare them with care."
    tried = pd.concat([done[["model", "fold"]], failed[["model", "fold"]]]).drop_duplicates().groupby("model").size()
    incomplete = tried.index[tried < len(benchmark.note["study"]["folds"])].tolist()
    if incomplete:
        text += f" Not all folds were run yet: {join_names(incomplete)}."
    return {"text": text, "rows": rows}


def _repeat(benchmark: BenchmarkLike, summary: pd.DataFrame) -> dict[str, Any]:
    """The call, the versions, and the digests that show whether data are the same."""
    models, protocol = [str(name) for name in summary.index], benchmark.note["protocol"]
    seeds = tuple(sorted(int(seed) for seed in benchmark.runs["seed"].unique()))
    options = f", seeds={seeds}" + (f", protocol={protocol!r}" if protocol else "")
    options += ", allow_leakage=True" if benchmark.note["leaks"] else ""
    slides: Mapping[str, Any] = benchmark.note["study"]["slides"]
    return {
        "call": f"import stpredict as stp\n\nfound = stp.tl.benchmark(sdata, {models}{options})\n"
        "found.to_html('report.html')",
        "rows": [
            [breakable(name), str(slide["group"]), f"{slide['um_per_px']:.4g}", slide["sha256"][:16]]
            for name, slide in slides.items()
        ],
        "versions": _versions(benchmark.folder),
    }


def _versions(folder: Path) -> str:
    """The versions that trained the models, and those that wrote the report."""
    notes = []
    for file in sorted(folder.glob(f"*/fold-*/{RUN}")):
        with suppress(DamagedFileError):  # a cell that is left out, as the failures of the page say
            notes.append(read_run(file.parent)["note"])
    made = {", ".join(f"{name} {version}" for name, version in note["versions"].items()) for note in notes}
    trained = f"Trained with {'; or '.join(sorted(made))}. " if made else ""
    return f"{trained}Report written by stpredict {package_version()} on {platform.system()}."
