"""The scores of predictions, one row each: evaluation, benchmarks, reports, plots and the command line read them here.

A new score is a function, a row in one of the two tables, and a test.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from ._ceiling import noise_ceiling
from ._error import mae, rmse
from ._spatial import morans_i
from .correlation import LEAST, pearson, spearman
from .top_genes import best, top_variable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

N_TOP = 50
"""Genes of the mean over the most variable genes."""
N_BEST = (10, 50, 200)
"""Genes of the means over the best predicted genes, which publications call PCC-10, PCC-50 and PCC-200."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spots:
    """Spots that are scored together, those of one slide or of several: the input of a score of genes."""

    observed: NDArray[np.float32]
    """``(n, g)``."""
    xy: NDArray[np.float64]
    """``(n, 2)`` centres."""
    slide: NDArray[np.str_] | None = None
    """``(n,)`` slide of each spot, where there are several: neighbours are of the same slide."""
    predicted: NDArray[np.float32] | None = None
    """``(n, g)`` in the units of ``observed``; None for scores of the measurement alone."""
    counts: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `noise_ceiling`, for scores of the measurement alone."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prediction:
    """A prediction as a whole: the input of a score that is one number."""

    observed: NDArray[np.float32]
    """``(n, g)`` all spots that are scored."""
    predicted: NDArray[np.float32]
    """``(n, g)``."""
    by_gene: Mapping[str, NDArray[np.float64]]
    """``(n_slides, g)`` scores of genes on each slide, by name."""

    def mean_by_gene(self, name: str) -> NDArray[np.float64]:
        """A score of genes, averaged over slides, ``(g,)``."""
        return nan_mean(self.by_gene[name], axis=0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """One score: how it is computed, and what is said of it."""

    name: str
    """Column in results."""
    function: Callable[[Any], Any]
    """From `Spots` to ``(g,)`` for a score of genes, from `Prediction` to a number for a summary."""
    label: str
    """Short name for plots and tables."""
    meaning: str
    """What it says, in one or two sentences for readers of a report."""
    axis: Literal["gene", "spot"] = "gene"
    """``"gene"``: computed for each gene, over spots; ``"spot"``: for each spot, over genes."""
    higher_is_better: bool | None = True
    """None for a score of the measurement, or one that has no better or worse."""
    of_measurement: bool = False
    """Whether it is computed from the measurement alone."""
    percent: bool = False
    """Whether it is shown in percent."""
    needs: Sequence[str] = ()
    """Scores of genes that a summary is computed from."""


GENE_SCORES: Final = (
    Score(
        name="pearson",
        function=lambda spots: pearson(spots.observed, spots.predicted),
        label="Pearson r of a gene over spots",
        meaning="Pearson correlation of predicted and observed expression of a gene over the spots of a slide.",
    ),
    Score(
        name="spearman",
        function=lambda spots: spearman(spots.observed, spots.predicted),
        label="Spearman ρ of a gene over spots",
        meaning="Spearman rank correlation of predicted and observed expression of a gene over the spots of a slide.",
    ),
    Score(
        name="rmse",
        function=lambda spots: rmse(spots.observed, spots.predicted),
        label="root mean squared error of a gene",
        higher_is_better=False,
        meaning="Root mean squared error of a gene over the spots of a slide, in units of expression.",
    ),
    Score(
        name="mae",
        function=lambda spots: mae(spots.observed, spots.predicted),
        label="mean absolute error of a gene",
        higher_is_better=False,
        meaning="Mean absolute error of a gene over the spots of a slide, in units of expression.",
    ),
    Score(
        name="ceiling",
        function=lambda spots: noise_ceiling(**spots.counts),
        label="noise ceiling of a gene",
        higher_is_better=None,
        meaning="The Pearson correlation that a perfect model would reach, given the counting noise of the gene.",
        of_measurement=True,
    ),
    Score(
        name="moran_observed",
        function=lambda spots: morans_i(spots.observed, spots.xy, slide=spots.slide),
        label="Moran's I of a gene, observed",
        higher_is_better=None,
        meaning="Spatial autocorrelation of observed expression.",
        of_measurement=True,
    ),
    Score(
        name="moran_predicted",
        function=lambda spots: morans_i(spots.predicted, spots.xy, slide=spots.slide),
        label="Moran's I of a gene, predicted",
        higher_is_better=None,
        meaning="Spatial autocorrelation of predicted expression: compare it with that of observed expression.",
    ),
)
"""Scores of each gene on each slide, in the order of their columns."""


def gene_scores(spots: Spots) -> dict[str, NDArray[np.float64]]:
    """Scores ``(g,)`` of a prediction by name; those of the measurement if nothing is predicted."""
    wanted = (score for score in GENE_SCORES if score.of_measurement == (spots.predicted is None))
    return {score.name: score.function(spots) for score in wanted}


def all_gene_scores(spots: Spots) -> dict[str, NDArray[np.float64]]:
    """Scores ``(g,)`` of a prediction and of the measurement, in the order of the table."""
    found = gene_scores(spots) | gene_scores(replace(spots, predicted=None))
    return {score.name: found[score.name] for score in GENE_SCORES}


def moran_agreement(observed: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    """Pearson correlation over genes of observed and predicted Moran's I; NaN where either is constant."""
    known = np.isfinite(observed) & np.isfinite(predicted)
    if known.sum() < LEAST or min(np.ptp(observed[known]), np.ptp(predicted[known])) < 1e-9:
        return float("nan")
    return float(np.corrcoef(observed[known], predicted[known])[0, 1])


def nan_mean(values: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """Mean of what is not NaN; NaN, without a warning, where nothing is."""
    known = ~np.isnan(values)
    total, n = np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _gene_pearson(whole: Prediction) -> float:
    return float(nan_mean(whole.mean_by_gene("pearson")))


def _top_variable_pearson(whole: Prediction) -> float:
    marked = top_variable(whole.observed, n=min(N_TOP, whole.observed.shape[1]))
    return float(nan_mean(whole.mean_by_gene("pearson")[marked]))


def _spot_pearson(whole: Prediction) -> float:
    if whole.observed.shape[1] < LEAST:  # too few genes for a correlation
        return float("nan")
    return float(nan_mean(pearson(whole.observed, whole.predicted, axis="spot")))


def _best_genes(n: int) -> Score:
    return Score(
        name=f"best{n}",
        function=lambda whole: best(whole.mean_by_gene("pearson"), n=min(n, whole.observed.shape[1])),
        label=f"best {n} genes",
        meaning=f"Gene-wise r of the {n} genes predicted best by this model: chosen by the score itself: optimistic.",
        needs=("pearson",),
    )


def _share_of_ceiling(whole: Prediction) -> float:
    ceiling = float(nan_mean(whole.mean_by_gene("ceiling")))
    return _gene_pearson(whole) / ceiling if ceiling > 0 else float("nan")


def _mean_moran_agreement(whole: Prediction) -> float:
    slides = zip(whole.by_gene["moran_observed"], whole.by_gene["moran_predicted"], strict=True)
    return float(nan_mean(np.array([moran_agreement(observed, predicted) for observed, predicted in slides])))


SUMMARY_SCORES: Final = (
    Score(
        name="gene_pearson",
        function=_gene_pearson,
        label="gene-wise r",
        meaning=(
            "How well the pattern of a gene over the spots of a held-out section is predicted: Pearson correlation, "
            "mean over genes. 0 is no better than one constant value, 1 is perfect. Models are ranked by it."
        ),
        needs=("pearson",),
    ),
    Score(
        name="gene_pearson_top50",
        function=_top_variable_pearson,
        label="top 50 variable",
        meaning="Gene-wise r of the 50 genes that vary most, the same genes for every model.",
        needs=("pearson",),
    ),
    *map(_best_genes, N_BEST),
    Score(
        name="spot_pearson",
        function=_spot_pearson,
        axis="spot",
        label="spot-wise r",
        meaning=(
            "Correlation over the genes of one spot, mean over spots. High even for a constant, because genes differ "
            "in level: compare it with the mean profile, not with 0."
        ),
    ),
    Score(
        name="rmse",
        function=lambda whole: float(np.mean(rmse(whole.observed, whole.predicted, axis="spot"))),
        axis="spot",
        label="RMSE",
        higher_is_better=False,
        meaning="Root mean squared error of a spot in units of expression, mean over spots.",
    ),
    Score(
        name="mae",
        function=lambda whole: float(np.mean(mae(whole.observed, whole.predicted, axis="spot"))),
        axis="spot",
        label="MAE",
        higher_is_better=False,
        meaning="Mean absolute error of a spot in units of expression, mean over spots.",
    ),
    Score(
        name="share_of_ceiling",
        function=_share_of_ceiling,
        label="share of ceiling",
        meaning=(
            "Counts are noisy, so no prediction can reach 1. The noise ceiling is what a perfect model would score; "
            "this is the share of it that the model reaches."
        ),
        percent=True,
        needs=("pearson", "ceiling"),
    ),
    Score(
        name="moran_agreement",
        function=_mean_moran_agreement,
        label="Moran's I agreement",
        meaning=(
            "Whether genes that are patterned in space are predicted as patterned: correlation over genes of Moran's "
            "I, predicted with observed."
        ),
        needs=("moran_observed", "moran_predicted"),
    ),
)
"""Scores of a prediction as a whole, in the order of their columns."""


def summary_scores(whole: Prediction) -> dict[str, float]:
    """Every summary whose scores of genes are known, by name."""
    return {score.name: score.function(whole) for score in SUMMARY_SCORES if set(score.needs) <= set(whole.by_gene)}
