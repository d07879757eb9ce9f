"""A benchmark as one HTML file: what was compared, who wins and how surely, maps, costs, failures, how to repeat it.

The file holds all it shows: it fetches nothing and runs nothing.
"""

from __future__ import annotations

import platform
import uuid
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._checks import report as check
from .._comparison import best_genes, by_gene, ceiling_by_gene, ranked, section, shared_genes
from ._folder import package_version
from ._report_charts import CEILING, forest, strips
from ._report_maps import component_maps, gene_maps, n_shown
from ._report_style import STYLE
from ._report_tables import boxed, costs_table, genes_table, scores_table
from ._report_words import counted, escaped, listed, verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from .._comparison import Compared, Section

N_GENES = 30
"""Genes of the heat map."""


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
    beside = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(target)
    except OSError as error:
        check.report_not_written(target, error)
    finally:
        beside.unlink(missing_ok=True)


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
            _leak(summary),
            f'<div class="verdict">{"".join(f"<p>{said}</p>" for said in verdict(summary.loc[scored]))}</div>',
            _compared(benchmark, summary),
            _scores(benchmark, summary),
            _genes(benchmark, summary),
            _maps(benchmark, scored),
            f"<section><h2>What it costs</h2>{costs_table(summary, _fit_s(benchmark))}</section>",
            _failures(benchmark, summary),
            _repeat(summary),
            f"</main><footer><p>Made by stpredict {escaped(package_version())}. For research; not for diagnosis.</p>",
            "</footer>",
        ]
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head><body>{body}</body></html>\n"
    )


def _leak(summary: pd.DataFrame) -> str:
    if not summary.attrs.get("leaks"):
        return ""
    return (
        '<div class="leak"><p><strong>LEAK.</strong> Tissue of the same patient is in training and in test. Scores on '
        "a new patient will be lower, and models that remember a patient gain by it. Compare models with care, and do "
        "not report these numbers as performance on new patients.</p></div>"
    )


def _compared(benchmark: Compared, summary: pd.DataFrame) -> str:
    """What took part, and on what."""
    scores, runs = benchmark.scores, benchmark.runs
    slides, groups = (scores[name].astype(str).unique().tolist() for name in ("slide", "group"))
    genes = scores["gene"].astype(str).unique().tolist()
    spots = runs.groupby(["model", "seed"])["n_test"].sum().max()
    attrs = summary.attrs
    facts = {
        "Models": listed(summary.index.tolist()),
        "Best baseline": escaped(attrs.get("baseline") or "none took part"),
        "Groups": f"{counted(len(groups), escaped(attrs.get('unit', 'group')))}: {listed(groups)}",
        "Sections": f"{len(slides):,}: {listed(slides)}",
        "Held out": f"{spots:,.0f} spots, each predicted by a network that was not trained on it",
        "Folds": f"{runs['fold'].nunique():,}, {counted(runs['seed'].nunique(), 'seed')}",
        "Patients": "the same in training and in test (LEAK, see above)"
        if attrs.get("leaks")
        else "never in training and in test at once",
        "Protocol": escaped(attrs.get("protocol", "")),
        "Genes": f"{len(genes):,}: {listed(genes, 12)}",
    }
    items = "".join(f"<dt>{name}</dt><dd>{said}</dd>" for name, said in facts.items())
    return f"<section><h2>What was compared</h2><dl>{items}</dl></section>"


def _scores(benchmark: Compared, summary: pd.DataFrame) -> str:
    ceiling = benchmark.runs["ceiling"].mean() if "ceiling" in benchmark.runs.columns else np.nan
    lines = "95 % intervals" if summary["low"].notna().any() else "means; no interval can be given"
    return (
        f"<section><h2>How well each model predicts</h2><p>Gene-wise Pearson r on held-out sections: {lines}. The "
        "diamond is the best baseline.</p>"
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
    told = drawn.assign(**{CEILING: ceiling.reindex(drawn.index)}) if len(ceiling) else drawn
    return (
        "<section><h2>Which genes are predicted</h2><p>A dot is a gene, a box holds the middle half of them, a line is "
        f"the mean.</p>{strips(rows, means, str(summary.attrs.get('baseline')))}"
        f"<p>The {len(drawn)} genes with the best mean over all models:</p>{genes_table(told)}</section>"
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


def _failures(benchmark: Compared, summary: pd.DataFrame) -> str:
    """Cells of the table that have no score."""
    runs = benchmark.runs
    done = set(runs.loc[runs["gene_pearson"].notna(), ["model", "fold", "seed"]].itertuples(index=False, name=None))
    asked = list(product(summary.index, sorted(runs["fold"].unique()), sorted(runs["seed"].unique())))
    missing = [[escaped(part) for part in cell] for cell in asked if cell not in done]
    said = f"All {len(asked):,} trainings (model x fold x seed) were scored."
    if missing:
        said = f"{len(missing):,} of {len(asked):,} trainings have no score. Means of these models are over the others."
    table = boxed("Trainings without a score", ["model", "fold", "seed"], missing) if missing else ""
    return f"<section><h2>What failed</h2><p>{said}</p>{table}</section>"


def _repeat(summary: pd.DataFrame) -> str:
    models = ", ".join(repr(str(name)) for name in summary.index)
    call = f"import stpredict as stp\n\nfound = stp.tl.benchmark(sdata, [{models}])\nfound.to_html('report.html')"
    return (
        f"<section><h2>How to repeat it</h2><pre><code>{escaped(call)}</code></pre>"
        f'<p class="soft">stpredict {escaped(package_version())}, Python {platform.python_version()}.</p></section>'
    )
