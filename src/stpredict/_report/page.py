"""A benchmark as one HTML file: what was compared, who wins and how surely, maps, costs, failures, how to repeat it.

The file holds all it shows: it fetches nothing and runs nothing.
"""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._checks import report as check
from .._files import atomic_file
from ..pl._comparison import best_genes, by_gene, ceiling_by_gene, ranked, section, shared_genes
from ..pp.targets import TargetSpec
from ..tl._benchmarking.cell import RUN
from ..tl._predictor.serialization import package_version
from .charts import CEILING, forest, strips
from .maps import component_maps, gene_maps, n_shown
from .style import STYLE
from .tables import boxed, costs_table, genes_table, scores_table
from .text import broken, counted, escaped, listed, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from ..pl._comparison import Compared, Section

N_GENES = 30
"""Genes of the heat map."""
LEAK = (
    '<div class="leak"><p><strong>LEAK.</strong> Tissue of the same patient or group is in training and in test. '
    "Scores on a new patient will be lower, and models that remember a patient gain by it. Do not report these as "
    "performance on new patients.</p></div>"
)


def to_html(benchmark: Compared, path: str | PathLike[str]) -> None:
    """Write a benchmark as one self-contained HTML file, whole or not at all.

    Parameters
    ----------
    benchmark
        The benchmark.
    path
        Where the file goes; a file that is there is replaced.
    """
    target = Path(path)
    text = page(benchmark)
    try:
        with atomic_file(target) as part:
            part.write_text(text, encoding="utf-8")
    except OSError as error:
        check.report_not_written(target, error)


def page(benchmark: Compared) -> str:
    """The text of the file.

    Parameters
    ----------
    benchmark
        The benchmark.

    Returns
    -------
    HTML.
    """
    summary = ranked(benchmark)
    scored = summary.index[summary["gene_pearson"].notna()].tolist()
    title = f"Comparison of {counted(len(summary), 'model')}"
    body = "".join(
        [
            f"<header><h1>{title}</h1></header><main>",
            LEAK if benchmark.note["leaks"] else "",
            _verdict(benchmark, summary.loc[scored]),
            _compared(benchmark, summary),
            _scores(benchmark, summary),
            _genes(benchmark, summary),
            _maps(benchmark, scored),
            f"<section><h2>What it costs</h2>{costs_table(summary, _fit_s(benchmark))}</section>",
            _failures(benchmark),
            _repeat(benchmark, summary),
            f"</main><footer><p>Made by stpredict {escaped(package_version())}. For research; not for diagnosis.</p>",
            "</footer>",
        ]
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def _verdict(benchmark: Compared, scored: pd.DataFrame) -> str:
    """Who wins, and what is to be known of the protocol."""
    said = "".join(f"<p>{sentence}</p>" for sentence in verdict(scored))
    note = f'<p class="soft">{escaped(benchmark.note["said"])}</p>' if benchmark.note["said"] else ""
    return f'<div class="verdict">{said}{note}</div>'


def _compared(benchmark: Compared, summary: pd.DataFrame) -> str:
    """What took part, and on what."""
    study, runs = benchmark.note["study"], benchmark.runs
    groups = sorted({str(slide["group"]) for slide in study["slides"].values()})
    n_spots = runs.drop_duplicates("fold")["n_test"].sum()
    leaks = "the same in training and in test (LEAK, see above)"
    facts = {
        "Models": listed(summary.index.tolist()),
        "Best baseline": escaped(summary.attrs.get("baseline") or "none took part"),
        "Groups": f"{len(groups):,}: {listed(groups)}",
        "Sections": f"{len(study['slides']):,}: {listed(list(study['slides']))}",
        "Held out": f"{n_spots:,.0f} spots, predicted by networks that were not trained on them",
        "Folds": _folds(study["folds"], runs["seed"].nunique()),
        "Groups in training and test": leaks if benchmark.note["leaks"] else "never the same",
        "Protocol": escaped(benchmark.note["protocol"] or "of stpredict"),
        "Genes": _panels(study["genes"]),
        "Units": escaped(TargetSpec(**study["target"]).units),
    }
    items = "".join(f"<dt>{name}</dt><dd>{said}</dd>" for name, said in facts.items())
    return f"<section><h2>What was compared</h2><dl>{items}</dl></section>"


def _folds(folds: Sequence[Mapping[str, Any]], n_seeds: int) -> str:
    held = "; ".join(listed(fold["test"], 5) for fold in folds[:20])
    more = "; …" if len(folds) > 20 else ""
    return f"{len(folds):,} with {counted(n_seeds, 'seed')}, held out one after the other: {held}{more}"


def _panels(panels: Sequence[Sequence[str]]) -> str:
    """Genes of all folds, or that each fold has its own."""
    genes = list(dict.fromkeys(gene for panel in panels for gene in panel))
    own = any(set(panel) != set(panels[0]) for panel in panels)
    said = f"{len(panels[0]):,} a fold, chosen in each; {len(genes):,} in all" if own else f"{len(genes):,}"
    return f"{said}: {listed(genes, 12)}"


def _scores(benchmark: Compared, summary: pd.DataFrame) -> str:
    ceiling = benchmark.runs["ceiling"].mean() if "ceiling" in benchmark.runs.columns else np.nan
    lines = "means with 95 % intervals" if summary["low"].notna().any() else "means; no interval can be given"
    diamond = " The diamond is the best baseline." if summary.attrs.get("baseline") in summary.index else ""
    return (
        "<section><h2>How well each model predicts</h2>"
        f"<p>Gene-wise Pearson r on held-out sections: {lines}.{diamond}</p>"
        f"{forest(summary, float(ceiling))}{scores_table(summary)}</section>"
    )


def _genes(benchmark: Compared, summary: pd.DataFrame) -> str:
    models = summary.index.tolist()
    values, ceiling = by_gene(benchmark, "pearson", models), ceiling_by_gene(benchmark)
    rows = {str(model): values[model].dropna().to_numpy() for model in models}
    means = {str(model): float(summary["gene_pearson"][model]) for model in models}
    if len(ceiling):
        rows[CEILING], means[CEILING] = ceiling.to_numpy(), float(ceiling.mean())
    drawn = values.loc[best_genes(values, N_GENES)]
    if not len(drawn):
        return "<section><h2>Which genes are predicted</h2><p>No gene has a score.</p></section>"
    told = drawn.assign(**{CEILING: ceiling.reindex(drawn.index)}) if len(ceiling) else drawn
    return (
        "<section><h2>Which genes are predicted</h2><p>A dot is a gene, a box holds the middle half of them, a line is "
        f"the mean.</p>{strips(rows, means, str(summary.attrs.get('baseline')))}"
        f"<p>{counted(len(drawn), 'gene')} with the best mean over all models:</p>{genes_table(told)}</section>"
    )


def _maps(benchmark: Compared, scored: Sequence[str]) -> str:
    """One gene, and all genes as colour, on the section with the most spots."""
    found, values = section(benchmark, scored), by_gene(benchmark, "pearson", scored)
    genes = [gene for gene in best_genes(values, len(values)) if gene in found.genes]
    shown = n_shown(found)
    some = "" if shown == len(found.xy) else f" Maps show {shown:,} of {len(found.xy):,} spots, taken at random."
    return (_map_of(found, genes[0], some) if genes else "") + _map_of_all(found)


def _map_of(found: Section, gene: str, some: str) -> str:
    name = escaped(gene)
    return (
        f"<section><h2>One gene on tissue: {name}</h2><p>Section {escaped(found.name)}, held out. {name} is the gene "
        "that all models predict best on average, so this is the friendliest view. All maps share one scale."
        f"{some}</p>{gene_maps(found, gene)}</section>"
    )


def _map_of_all(found: Section) -> str:
    n_genes = len(shared_genes(found))
    if len(found.xy) < 4 or n_genes < 3:
        return ""
    return (
        f"<section><h2>All genes on tissue</h2><p>Three principal components of {n_genes:,} genes, learnt from the "
        "measurement and all models together, as red, green and blue: spots of like colour have like expression. A "
        f"model that says the same everywhere is grey.</p>{component_maps(found)}</section>"
    )


def _fit_s(benchmark: Compared) -> pd.Series:
    runs = benchmark.runs
    return runs.groupby("model")["fit_s"].mean() if "fit_s" in runs.columns else pd.Series(dtype=float)


def _failures(benchmark: Compared) -> str:
    """Trainings that failed, and why, and those that are still to come."""
    failed, done = benchmark.failed, benchmark.runs
    rows = failed[["model", "fold", "seed", "error"]].astype(str).to_numpy().tolist()
    cells = [[broken(model), *map(escaped, (fold, seed)), f'<td class="long">{escaped(error)}</td>']
             for model, fold, seed, error in rows]  # fmt: skip
    said = f"{len(done):,} trainings (model x fold x seed) were scored, {len(cells):,} failed."
    if cells:
        said += " Means of models that failed are over the other folds, so compare them with care."
    tried = pd.concat([done[["model", "fold"]], failed[["model", "fold"]]]).drop_duplicates().groupby("model").size()
    short = tried.index[tried < len(benchmark.note["study"]["folds"])].tolist()
    if short:
        said += f" Not all folds were run yet: {listed(short)}."
    table = boxed("Trainings that failed", ["model", "fold", "seed", "error"], cells) if cells else ""
    return f"<section><h2>What failed</h2><p>{said}</p>{table}</section>"


def _repeat(benchmark: Compared, summary: pd.DataFrame) -> str:
    """The call, the versions, and digests that tell whether the data are the same."""
    models, protocol = [str(name) for name in summary.index], benchmark.note["protocol"]
    seeds = tuple(sorted(int(seed) for seed in benchmark.runs["seed"].unique()))
    options = f", seeds={seeds}" + (f", protocol={protocol!r}" if protocol else "")
    options += ", allow_leakage=True" if benchmark.note["leaks"] else ""
    call = (
        f"import stpredict as stp\n\nfound = stp.tl.benchmark(sdata, {models}{options})\nfound.to_html('report.html')"
    )
    rows = [
        [
            broken(name),
            escaped(slide["group"]),
            f"{slide['um_per_px']:.4g}",
            f"<code>{escaped(slide['sha256'][:16])}</code>",
        ]
        for name, slide in benchmark.note["study"]["slides"].items()
    ]
    return (
        f"<section><h2>How to repeat it</h2><pre><code>{escaped(call)}</code></pre><p>Options of every training are in "
        "<code>config.json</code> of its folder, what happened in <code>log.txt</code>. Data are the same where these "
        f"digests are:</p>{boxed('Sections', ['section', 'group', 'µm per pixel', 'digest'], rows)}"
        f'<p class="soft">{_versions(benchmark.folder)}</p></section>'
    )


def _versions(folder: Path) -> str:
    """With what the trainings were made, and this report."""
    notes = [json.loads(file.read_text(encoding="utf-8"))["note"] for file in sorted(folder.glob(f"*/fold-*/{RUN}"))]
    made = {", ".join(f"{name} {version}" for name, version in note["versions"].items()) for note in notes}
    trained = f"Trained with {'; or '.join(escaped(text) for text in sorted(made))}. " if made else ""
    return f"{trained}Reported with stpredict {escaped(package_version())} on {escaped(platform.system())}."
