"""The models of a benchmark side by side: scores over genes, and which model predicts which gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps

from .._checks import config as check_config
from .._checks.calls import public
from ..metrics.scores import GENE_SCORES
from . import _errors as check
from ._style import BLUE, DASHES, NEUTRAL, ORANGE, WIDTH_IN, italic, look, number, panels, tidy
from .comparison import CEILING, best_genes, ceiling_by_gene, is_light, mean_gene_scores, ranked_summary

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray

    from .comparison import BenchmarkLike

LABELS = {score.name: score.label for score in GENE_SCORES}
LOWER_IS_BETTER = {score.name for score in GENE_SCORES if score.higher_is_better is False}
ROW_IN, JITTER, HALF_BOX = 0.27, 0.2, 0.27
MOST_NUMBERS, NUMBER_IN = 8, 0.3
"""Largest number of models for which the cells of the heat map show numbers, and the width a cell needs, in inches."""


@public
def benchmark_scores(benchmark: BenchmarkLike, *, metric: str = "pearson", ax: Axes | None = None) -> Axes:
    """Scores of all genes, one row per model, the best model on top.

    A dot is a gene (its mean over folds, seeds and sections), a box spans the middle half of the genes, and the number
    is the mean of the model in the summary. The best baseline is orange, with a dashed line at its mean. The noise
    ceiling, if it is known, is grey: the highest score that a prediction can reach given the noise of the counts.

    Parameters
    ----------
    benchmark
        The result of `tl.benchmark`.
    metric
        Which score: ``"pearson"``, ``"spearman"``, ``"rmse"``, ``"mae"``, or another in ``benchmark.scores``.
    ax
        Axes to draw on; a new figure by default.

    Returns
    -------
    The axes.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=5, um_per_px=8.0)
    >>> found = stp.tl.benchmark(sdata, ["mean_profile"], save_dir=mkdtemp(), progress=False)
    >>> ax = stp.pl.benchmark_scores(found)
    >>> [tick.get_text() for tick in ax.get_yticklabels()]
    ['ridge_color', 'mean_profile', 'noise ceiling']
    """
    summary = ranked_summary(benchmark)
    values = mean_gene_scores(benchmark, metric, summary.index.tolist())
    means = summary["gene_pearson"] if metric == "pearson" else values.mean()
    rows = {name: values[name].dropna().to_numpy() for name in summary.index}
    ceiling = ceiling_by_gene(benchmark).to_numpy() if metric in {"pearson", "spearman"} else np.empty(0)
    if len(ceiling):
        rows[CEILING] = ceiling
    check.some_score(np.concatenate(list(rows.values())), metric)
    baseline = str(summary.attrs.get("baseline"))
    with look():
        ax = panels(ax, 1, panel_in=(0.75 * WIDTH_IN, ROW_IN * len(rows) + 0.6))[0]
        tidy(ax)
        ax.axvline(0, color=NEUTRAL, linewidth=0.8, zorder=0)
        for y, (name, genes) in enumerate(rows.items()):
            color = NEUTRAL if name == CEILING else ORANGE if name == baseline else BLUE
            mean = float(genes.mean()) if name == CEILING else float(means[name])
            _row(ax, y, genes, mean, color)
        if baseline in rows:
            ax.axvline(float(means[baseline]), color=ORANGE, linewidth=0.8, linestyle=DASHES, zorder=0, gid="baseline")
            above: dict[str, Any] = {"ha": "center", "va": "bottom", "color": ORANGE, "fontsize": 7}
            ax.text(float(means[baseline]), 1.0, "best baseline", transform=ax.get_xaxis_transform(), **above)
        ax.set(xlabel=LABELS.get(metric, metric), ylim=(len(rows) - 0.4, -0.6))
        ax.set_yticks(range(len(rows)), list(rows))
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
    return ax


def _row(ax: Axes, y: int, genes: NDArray[np.float64], mean: float, color: str) -> None:
    """Dots, a box and the mean of one model; without scores of genes only the mean, if there is one."""
    spread = np.random.default_rng(0).uniform(-JITTER, JITTER, len(genes))
    ax.scatter(genes, y + spread, s=4, color=color, alpha=0.6, linewidths=0, rasterized=len(genes) > 2000)
    if len(genes):
        low, high = np.quantile(genes, (0.25, 0.75))
        ax.fill_between([low, high], y - HALF_BOX, y + HALF_BOX, color=color, alpha=0.25, linewidth=0)
    if np.isfinite(mean):
        ax.plot([mean, mean], [y - HALF_BOX, y + HALF_BOX], color=color, linewidth=1.8, gid="mean")
    text = number(mean) if np.isfinite(mean) else "no score"
    ax.text(1.01, y, text, transform=ax.get_yaxis_transform(), color=color, va="center", fontweight="bold")


@public
def benchmark_genes(
    benchmark: BenchmarkLike,
    *,
    n_genes: int = 30,
    metric: str = "pearson",
    cmap: str | Colormap = "viridis",
    ax: Axes | None = None,
) -> Axes:
    """Scores of the best predicted genes under every model, as a heat map.

    The genes are those with the best mean over all models. Models are in the order of the summary. The last column is
    the noise ceiling, if it is known. Grey cells have no score.

    Parameters
    ----------
    benchmark
        The result of `tl.benchmark`.
    n_genes
        Largest number of genes that are drawn.
    metric
        Which score.
    cmap
        Colour map of matplotlib, or its name.
    ax
        Axes to draw on; a new figure by default.

    Returns
    -------
    The axes.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=5, um_per_px=8.0)
    >>> found = stp.tl.benchmark(sdata, ["mean_profile"], save_dir=mkdtemp(), progress=False)
    >>> ax = stp.pl.benchmark_genes(found, n_genes=5)
    >>> len(ax.get_yticklabels())
    5
    """
    check_config.in_range("n_genes", n_genes, 1, 1000)
    values = mean_gene_scores(benchmark, metric, ranked_summary(benchmark).index.tolist())
    check.some_score(values.to_numpy(), metric)
    drawn = values.loc[best_genes(-values if metric in LOWER_IS_BETTER else values, n_genes)]
    ceiling = ceiling_by_gene(benchmark)
    if metric == "pearson" and len(ceiling):
        drawn = drawn.assign(**{CEILING: ceiling.reindex(drawn.index)})
    with look():
        size = (1.6 + (0.55 if _shows_numbers(drawn) else 0.3) * drawn.shape[1], 0.95 + 0.17 * len(drawn))
        ax = panels(ax, 1, panel_in=size)[0]
        image = _heat_map(ax, drawn, cmap)
        bar = ax.figure.colorbar(image, ax=ax, label=LABELS.get(metric, metric), fraction=0.05, pad=0.02, aspect=25)
        bar.outline.set_visible(False)
    return ax


def _shows_numbers(drawn: pd.DataFrame) -> bool:
    return drawn.shape[1] <= MOST_NUMBERS


def _heat_map(ax: Axes, drawn: pd.DataFrame, cmap: str | Colormap) -> AxesImage:
    values = drawn.to_numpy(dtype=np.float64)
    colors = colormaps.get_cmap(cmap).with_extremes(bad="0.75")
    low, high = min(0.0, float(np.nanmin(values))), float(np.nanmax(values))
    image = ax.imshow(np.ma.masked_invalid(values), cmap=colors, vmin=low, vmax=high, aspect="auto")
    ax.set_xticks(range(drawn.shape[1]), drawn.columns.tolist(), rotation=45, ha="left", rotation_mode="anchor")
    ax.set_yticks(range(len(drawn)), [italic(str(gene)) for gene in drawn.index])
    ax.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False, labelsize=7, pad=2)
    ax.spines[:].set_visible(False)
    if CEILING in drawn.columns:
        ax.axvline(drawn.shape[1] - 1.5, color=ax.get_facecolor(), linewidth=3)
    cell_in = ax.get_window_extent().width / ax.figure.dpi / drawn.shape[1]
    if _shows_numbers(drawn) and cell_in > NUMBER_IN:
        _numbers(ax, values, image)
    return image


def _numbers(ax: Axes, values: NDArray[np.float64], image: AxesImage) -> None:
    """The value of every cell, black on light colours and white on dark ones."""
    light = is_light(image.to_rgba(values)[..., :3])
    for row, column in np.argwhere(np.isfinite(values)).tolist():
        color = "black" if light[row, column] else "white"
        ax.text(column, row, number(values[row, column]), ha="center", va="center", fontsize=6, color=color)
