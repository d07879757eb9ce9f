"""What plots and the report show of a benchmark: arrays and small tables, read from its public attributes.

Nothing here draws, and nothing is computed that the benchmark has not scored, but colours and what stands in a title.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from .. import _keys as keys
from .._checks import report as check
from ..metrics import pearson
from ._components import components

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

LEAST_SPREAD = 1e-6
"""Standard deviation below which a gene is constant."""


class Compared(Protocol):
    """What is asked of a benchmark; `stpredict.tl` makes it."""

    @property
    def folder(self) -> Path:
        """Where everything is."""

    @property
    def note(self) -> Mapping[str, Any]:
        """What was compared on, and what is to be said of it."""

    @property
    def failed(self) -> pd.DataFrame:
        """One row a model, fold and seed that failed."""

    @property
    def scores(self) -> pd.DataFrame:
        """One row a model, fold, seed, slide, gene and metric."""

    @property
    def runs(self) -> pd.DataFrame:
        """One row a model, fold and seed."""

    def summary(self) -> pd.DataFrame:
        """One row a model."""

    def table(self, model: str, seed: int | None = None) -> AnnData:
        """Held-out predictions of a model beside what was measured."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Section:
    """Held-out predictions of several models on one section."""

    name: str
    xy: NDArray[np.float64]
    """``(n, 2)`` centres of spots, in µm where the benchmark knows the resolution, else in its pixels."""
    in_um: bool
    """Whether lengths are in µm."""
    genes: tuple[str, ...]
    observed: NDArray[np.float64]
    """``(n, n_genes)``."""
    predicted: Mapping[str, NDArray[np.float64]]
    """``(n, n_genes)`` for each model; NaN where it predicted nothing."""

    @property
    def pitch(self) -> float:
        """Median distance of a spot from its nearest neighbour; 1 where there is one spot only."""
        if len(self.xy) < 2:
            return 1.0
        from scipy.spatial import KDTree  # deferred: slow to import

        return float(np.median(KDTree(self.xy).query(self.xy, k=2)[0][:, 1])) or 1.0

    def of_gene(self, gene: str) -> dict[str, NDArray[np.float64]]:
        """One gene of the measurement and of every model.

        Parameters
        ----------
        gene
            The gene.

        Returns
        -------
        ``(n,)`` each, ``"observed"`` first.
        """
        at = self.genes.index(gene)
        return {keys.OBSERVED: self.observed[:, at], **{name: part[:, at] for name, part in self.predicted.items()}}


def ranked(benchmark: Compared) -> pd.DataFrame:
    """The summary, the best model first.

    Parameters
    ----------
    benchmark
        The benchmark.

    Returns
    -------
    One row a model, named by the index; models without a score come last.
    """
    check.is_benchmark(benchmark)
    check.some_model(len(benchmark.runs))
    summary = benchmark.summary()
    check.some_model(int(summary["gene_pearson"].notna().sum()))
    return summary.sort_values("gene_pearson", ascending=False, kind="stable", na_position="last")


def by_gene(benchmark: Compared, metric: str, models: Sequence[str]) -> pd.DataFrame:
    """Scores of genes, averaged over folds, seeds and sections.

    Parameters
    ----------
    benchmark
        The benchmark.
    metric
        Which score.
    models
        The models.

    Returns
    -------
    ``(n_genes, n_models)``; NaN where a model has no score of a gene.
    """
    scores = benchmark.scores
    check.known_metric(metric, sorted(scores["metric"].astype(str).unique()))
    of_metric = scores[scores["metric"].astype(str) == metric].astype({"model": str, "gene": str})
    means = of_metric.groupby(["gene", "model"])["value"].mean().unstack("model")
    return means.reindex(columns=list(models))


def ceiling_by_gene(benchmark: Compared) -> pd.Series:
    """The noise ceiling of every gene.

    Parameters
    ----------
    benchmark
        The benchmark.

    Returns
    -------
    Mean over folds and sections; empty where none was computed.
    """
    scores = benchmark.scores
    rows = scores[scores["metric"].astype(str) == "ceiling"]
    return rows.astype({"gene": str}).groupby("gene")["value"].mean().dropna()


def best_genes(scores: pd.DataFrame, n: int) -> list[str]:
    """The genes that models predict best on average.

    Parameters
    ----------
    scores
        ``(n_genes, n_models)``.
    n
        How many, at most.

    Returns
    -------
    Their names, the best first; ties in the order of the alphabet.
    """
    means = scores.mean(axis=1).dropna().sort_index()
    return means.sort_values(ascending=False, kind="stable").index[:n].tolist()


def section(benchmark: Compared, models: Sequence[str], slide: str | None = None) -> Section:
    """Held-out predictions of all models on one section.

    Parameters
    ----------
    benchmark
        The benchmark.
    models
        The models.
    slide
        Which section; None is the one with the most spots, of equals the first by name.

    Returns
    -------
    The section. Spots and genes are those that any of the models predicted; a model that predicted none is left out.
    """
    tables = {model: benchmark.table(model) for model in models}
    held = {(str(name), spot) for table in tables.values() for spot, name in table.obs[keys.SLIDE].items()}
    n_spots = Counter(name for name, _ in held)
    check.known_section(slide, sorted(n_spots))
    name = max(sorted(n_spots), key=n_spots.__getitem__) if slide is None else slide
    parts = {model: table[(table.obs[keys.SLIDE] == name).to_numpy()] for model, table in tables.items()}
    return _aligned(name, {model: part for model, part in parts.items() if part.n_obs})


def _aligned(name: str, tables: Mapping[str, AnnData]) -> Section:
    """Tables of one section, with the same spots and genes in the same order."""
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
    um_per_px = next((found for table in tables.values() if (found := _um_per_px(table, name))), None)
    return Section(
        name=name,
        xy=xy * (um_per_px or 1.0),
        in_um=um_per_px is not None,
        genes=tuple(genes),
        observed=observed,
        predicted=predicted,
    )


def _um_per_px(table: AnnData, slide: str) -> float | None:
    """Resolution of a section, where it was noted."""
    noted = table.uns.get(keys.UM_PER_PX, {})
    return float(noted[slide]) if slide in noted else None


def agreement(observed: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Pearson correlation of one gene over the spots of a section.

    Parameters
    ----------
    observed, predicted
        ``(n,)``; spots with NaN are left out.

    Returns
    -------
    The correlation; NaN where it is not defined.
    """
    both = np.isfinite(observed) & np.isfinite(predicted)
    if both.sum() < 3:
        return float("nan")
    return float(pearson(observed[both, None], predicted[both, None])[0])


def shared_genes(found: Section) -> NDArray[np.intp]:
    """Genes that were measured, vary, and are predicted by every model.

    Parameters
    ----------
    found
        The section.

    Returns
    -------
    Their columns.
    """
    usable = np.flatnonzero(np.all([_complete(part) for part in (found.observed, *found.predicted.values())], axis=0))
    varies: NDArray[np.intp] = usable[np.nanstd(found.observed[:, usable], axis=0) > LEAST_SPREAD]
    return varies


def joint_components(found: Section) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """Three principal components that the measurement and all models share.

    Parameters
    ----------
    found
        The section.

    Returns
    -------
    Scores ``(n_spots, 3)`` of ``"observed"`` and of each model, and the share of variance ``(3,)``. They are learnt
    from `shared_genes`, each standardised within its panel; where a model says the same everywhere it is 0.
    """
    genes = shared_genes(found)
    check.enough_to_color(len(found.xy), len(genes))
    parts = {keys.OBSERVED: found.observed, **found.predicted}
    standard = {name: _standard(part[:, genes]) for name, part in parts.items()}
    loadings, share = components(np.concatenate(list(standard.values())))
    return {name: part @ loadings.T for name, part in standard.items()}, share


def _complete(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Genes without a gap at the spots that have any value."""
    finite = np.isfinite(values)
    complete: NDArray[np.bool_] = finite[finite.any(axis=1)].all(axis=0)
    return complete


def _standard(values: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = values - np.nanmean(values, axis=0)
    spread = np.nanstd(values, axis=0)
    standard: NDArray[np.float64] = centred / np.where(spread > LEAST_SPREAD, spread, np.inf)
    return standard
