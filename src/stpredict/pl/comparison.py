"""The data that plots and the report of a benchmark show: arrays and small tables from its public attributes.

Nothing here draws. Only colours and the correlations in titles are computed here; scores are those of the benchmark.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from .. import _keys as keys
from .._checks import slides as check_slides
from ..metrics import pearson
from ..pp.targets import TargetSpec
from . import _errors as check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

CEILING = "noise ceiling"
"""Name of the row or column of noise ceilings."""
LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the brightness of a colour."""
MIN_STD = 1e-6
"""Standard deviation below which a gene is constant."""


COMPONENT_QUANTILES = (0.02, 0.98)
"""Quantiles of a component that map to no and full colour."""
MIN_SHARE = 0.005
"""Share of variance below which a component is not shown, because it rounds to 0 %."""


class BenchmarkLike(Protocol):
    """The attributes of `stp.tl.Benchmark` that plots read; `pl` does not import `tl`."""

    @property
    def folder(self) -> Path:
        """The folder with all files of the benchmark."""

    @property
    def note(self) -> Mapping[str, Any]:
        """Description of the study, and remarks to show with the scores."""

    @property
    def failed(self) -> pd.DataFrame:
        """One row for each model, fold and seed that failed."""

    @property
    def scores(self) -> pd.DataFrame:
        """One row for each model, fold, seed, slide, gene and metric."""

    @property
    def runs(self) -> pd.DataFrame:
        """One row for each model, fold and seed."""

    def summary(self) -> pd.DataFrame:
        """One row for each model."""

    def table(self, model: str, seed: int | None = None) -> AnnData:
        """Held-out predictions of a model beside the measurement."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Section:
    """Held-out predictions of several models on one section."""

    name: str
    xy: NDArray[np.float64]
    """``(n, 2)`` centres of spots, in µm if the resolution is known, else in pixels."""
    in_um: bool
    """Whether ``xy`` is in µm."""
    units: str
    """What values are measured in."""
    genes: tuple[str, ...]
    observed: NDArray[np.float64]
    """``(n, n_genes)``."""
    predicted: Mapping[str, NDArray[np.float64]]
    """``(n, n_genes)`` for each model; NaN where it predicted nothing."""

    @property
    def pitch(self) -> float:
        """Median distance of a spot from its nearest neighbour; 1 if there is only one spot."""
        if len(self.xy) < 2:
            return 1.0
        from scipy.spatial import KDTree  # deferred: slow to import

        return float(np.median(KDTree(self.xy).query(self.xy, k=2)[0][:, 1])) or 1.0

    def gene_values(self, gene: str) -> dict[str, NDArray[np.float64]]:
        """One gene of the measurement and of every model."""
        at = self.genes.index(gene)
        return {keys.OBSERVED: self.observed[:, at], **{name: part[:, at] for name, part in self.predicted.items()}}


def ranked_summary(benchmark: BenchmarkLike) -> pd.DataFrame:
    """The summary, the best model first."""
    needed = ("failed", "folder", "note", "runs", "scores", "summary", "table")
    if not all(hasattr(benchmark, name) for name in needed):
        msg = f"`benchmark` is {type(benchmark).__name__}; expected what `stp.tl.benchmark` gives."
        raise TypeError(msg)
    summary = benchmark.summary() if len(benchmark.runs) else None
    if summary is None or summary["gene_pearson"].isna().all():
        msg = "No model of this benchmark has a score yet: there is nothing to show. Run `stp.tl.benchmark` on."
        raise ValueError(msg)
    return summary.sort_values("gene_pearson", ascending=False, kind="stable", na_position="last")


def mean_gene_scores(benchmark: BenchmarkLike, metric: str, models: Sequence[str]) -> pd.DataFrame:
    """Scores of genes ``(n_genes, n_models)``, averaged over folds, seeds and sections; NaN if there is none."""
    scores = benchmark.scores
    check_slides.one_name("score", metric, sorted(scores["metric"].astype(str).unique()), "metric")
    of_metric = scores[scores["metric"].astype(str) == metric].astype({"model": str, "gene": str})
    means = of_metric.groupby(["gene", "model"])["value"].mean().unstack("model")
    return means.reindex(columns=list(models))


def ceiling_by_gene(benchmark: BenchmarkLike) -> pd.Series:
    """The noise ceiling of every gene, averaged over folds and sections; empty if none was computed."""
    scores = benchmark.scores
    rows = scores[scores["metric"].astype(str) == "ceiling"]
    return rows.astype({"gene": str}).groupby("gene")["value"].mean().dropna()


def best_genes(scores: pd.DataFrame, n: int) -> list[str]:
    """The genes that models predict best on average, at most ``n``, best first."""
    means = scores.mean(axis=1).dropna().sort_index()
    return means.sort_values(ascending=False, kind="stable").index[:n].tolist()


def section(benchmark: BenchmarkLike, models: Sequence[str], slide: str | None = None) -> Section:
    """Held-out predictions of all models on one section, by default the one with the most spots."""
    tables = {model: benchmark.table(model) for model in models}
    held = {(str(name), spot) for table in tables.values() for spot, name in table.obs[keys.SLIDE].items()}
    n_spots = Counter(name for name, _ in held)
    names = sorted(n_spots)
    if not names:
        msg = "This benchmark holds no held-out predictions: its folder was moved or emptied. Run `stp.tl.benchmark`."
        raise ValueError(msg)
    largest = max(names, key=n_spots.__getitem__)
    name = check_slides.one_name("held-out section", largest if slide is None else slide, names, "slide")
    parts = {model: table[(table.obs[keys.SLIDE] == name).to_numpy()] for model, table in tables.items()}
    units = TargetSpec(**benchmark.note["study"]["target"]).units
    return _align_tables(name, {model: part for model, part in parts.items() if part.n_obs}, units)


def _align_tables(name: str, tables: Mapping[str, AnnData], units: str) -> Section:
    """Tables of one section as arrays with the same spots and genes in the same order."""
    spots = pd.Index(dict.fromkeys(spot for table in tables.values() for spot in table.obs_names))
    genes = pd.Index(dict.fromkeys(gene for table in tables.values() for gene in table.var_names))
    xy, observed = np.empty((len(spots), 2)), np.full((len(spots), len(genes)), np.nan)
    predicted = {}
    for model, table in tables.items():
        rows, columns = spots.get_indexer(table.obs_names), genes.get_indexer(table.var_names)
        at = np.ix_(rows, columns)
        xy[rows] = table.obsm[keys.SPATIAL]
        measured = np.asarray(table.layers[keys.OBSERVED], dtype=np.float64)
        observed[at] = np.where(np.isfinite(measured), measured, observed[at])
        predicted[model] = np.full(observed.shape, np.nan)
        predicted[model][at] = table.X
    noted = (table.uns.get(keys.UM_PER_PX, {}).get(name) for table in tables.values())
    um_per_px = next((float(found) for found in noted if found), None)
    return Section(
        name=name,
        xy=xy * (um_per_px or 1.0),
        in_um=um_per_px is not None,
        units=units,
        genes=tuple(genes),
        observed=observed,
        predicted=predicted,
    )


def gene_pearson(observed: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Pearson correlation of one gene over the spots of a section; NaN if it is not defined."""
    both = np.isfinite(observed) & np.isfinite(predicted)
    if both.sum() < 3:
        return float("nan")
    return float(pearson(observed[both, None], predicted[both, None])[0])


def shared_genes(found: Section) -> NDArray[np.intp]:
    """Columns of the genes that were measured, that vary, and that every model predicts."""
    finite = [np.isfinite(part) for part in (found.observed, *found.predicted.values())]
    complete = [part[part.any(axis=1)].all(axis=0) for part in finite]  # a value at every spot that has any
    usable = np.flatnonzero(np.all(complete, axis=0))
    varies: NDArray[np.intp] = usable[np.nanstd(found.observed[:, usable], axis=0) > MIN_STD]
    return varies


def joint_components(found: Section) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Scores ``(n_spots, 3)`` of measurement and models on joint components, and their shares of variance ``(3,)``."""
    genes = shared_genes(found)
    check.enough_for_components(len(found.xy), len(genes), "the predictions", "stp.pl.benchmark_maps")
    parts = {keys.OBSERVED: found.observed, **found.predicted}
    standard = {name: _standardize_genes(part[:, genes]) for name, part in parts.items()}
    loadings, share = components(np.concatenate(list(standard.values())))
    return {name: part @ loadings.T for name, part in standard.items()}, share


def components(standard: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Loadings ``(3, n_genes)`` and shares of variance of the first three principal components of centred values."""
    complete = standard[np.isfinite(standard).all(axis=1)]
    _, spread, rows = np.linalg.svd(complete, full_matrices=False)
    loadings = rows[:3]
    largest = np.take_along_axis(loadings, np.abs(loadings).argmax(axis=1)[:, None], axis=1)
    return loadings * np.sign(largest), spread[:3] ** 2 / (spread**2).sum()


def component_colors(scores: NDArray[np.float64], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours ``(n, 3)`` from 0 to 1 of three component scores; grey for missing spots."""
    low, high = np.nanquantile(scores, COMPONENT_QUANTILES, axis=0)
    shown = (high > low) & (share >= MIN_SHARE)
    scaled = np.where(shown, np.clip((scores - low) / np.where(shown, high - low, 1.0), 0, 1), 0.5)
    missing = ~np.isfinite(scores).all(axis=1, keepdims=True)
    colors: NDArray[np.float64] = np.where(missing, 0.75, scaled)
    return colors


def _standardize_genes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = values - np.nanmean(values, axis=0)
    spread = np.nanstd(values, axis=0)
    standard: NDArray[np.float64] = centred / np.where(spread > MIN_STD, spread, np.inf)
    return standard


def is_light(colors: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether black text is easier to read than white text on colours ``(…, 3)`` from 0 to 1."""
    light: NDArray[np.bool_] = colors @ LUMA > 0.5
    return light
