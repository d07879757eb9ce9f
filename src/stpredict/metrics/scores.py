"""The scores of predictions, one row each: evaluation, benchmarks, reports, plots and the command line read them here.

A new score is a function, a row in one of the two tables, and a test.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from . import _table_functions as of
from ._error import mae, r2, rmse
from ._intervals import interval_coverage
from ._spatial import gearys_c_on, morans_i_on
from .correlation import pearson, spearman
from .inputs import nan_mean
from .top_genes import N_BEST, best

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from .inputs import Prediction, Spots


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
    inputs: Sequence[str] = ()
    """Fields of `Spots` or `Prediction` that it needs; it is left out where one of them is not given."""

    def has_inputs(self, given: Spots | Prediction) -> bool:
        """Whether all that it needs is given."""
        return all(getattr(given, name) is not None for name in self.inputs)


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
        name="r2",
        function=lambda spots: r2(spots.observed, spots.predicted),
        label="R² of a gene over spots",
        meaning="Share of the variation of a gene over the spots of a slide that is explained; 0 for its mean.",
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
        function=lambda spots: spots.ceiling,
        label="noise ceiling of a gene",
        higher_is_better=None,
        meaning="The Pearson correlation that a perfect model would reach, given the counting noise of the gene.",
        of_measurement=True,
        inputs=("ceiling",),
    ),
    Score(
        name="moran_observed",
        function=lambda spots: morans_i_on(spots.observed, spots.weights),
        label="Moran's I of a gene, observed",
        higher_is_better=None,
        meaning="Spatial autocorrelation of observed expression.",
        of_measurement=True,
    ),
    Score(
        name="moran_predicted",
        function=lambda spots: morans_i_on(spots.predicted, spots.weights),
        label="Moran's I of a gene, predicted",
        higher_is_better=None,
        meaning=(
            "Spatial autocorrelation of predicted expression. A perfect prediction has no counting noise and so a "
            "higher value than the measurement; that of a blurred map is higher still."
        ),
    ),
    Score(
        name="geary_observed",
        function=lambda spots: gearys_c_on(spots.observed, spots.weights),
        label="Geary's C of a gene, observed",
        higher_is_better=None,
        meaning="Differences between neighbouring spots in observed expression; 1 for a random arrangement.",
        of_measurement=True,
    ),
    Score(
        name="geary_predicted",
        function=lambda spots: gearys_c_on(spots.predicted, spots.weights),
        label="Geary's C of a gene, predicted",
        higher_is_better=None,
        meaning="Differences between neighbouring spots in predicted expression: near 0 for a blurred map.",
    ),
    Score(
        name="ssim",
        function=lambda spots: of.ssim_gain(spots.observed, spots.predicted, spots),
        label="structural similarity of a gene",
        meaning=(
            "Structural similarity of the observed and the predicted map of a gene, both at the same mean level, as a "
            "gain over a constant map: 0 for a constant, 1 for the measured map."
        ),
    ),
    Score(
        name="coverage",
        function=lambda spots: interval_coverage(spots.observed, spots.intervals.lower, spots.intervals.upper),
        label="coverage of a gene",
        higher_is_better=None,
        meaning="Share of the spots of a slide whose value of a gene lies in its prediction interval.",
        inputs=("intervals",),
    ),
    Score(
        name="interval_skill",
        function=lambda spots: of.interval_skill(spots.observed, spots.intervals),
        label="interval skill of a gene",
        meaning=(
            "How much better the prediction intervals of a gene are (narrow, with few values outside) than the best "
            "interval that is the same for all spots of the slide: 0 for that, 1 is perfect."
        ),
        inputs=("intervals",),
    ),
)
"""Scores of each gene on each slide, in the order of their columns."""


def gene_scores(spots: Spots) -> dict[str, NDArray[np.float64]]:
    """Scores ``(g,)`` of a prediction by name; those of the measurement if nothing is predicted."""
    wanted = (score for score in GENE_SCORES if score.of_measurement == (spots.predicted is None))
    return {score.name: score.function(spots) for score in wanted if score.has_inputs(spots)}


def all_gene_scores(spots: Spots) -> dict[str, NDArray[np.float64]]:
    """Scores ``(g,)`` of a prediction and of the measurement, in the order of the table."""
    found = gene_scores(spots) | gene_scores(replace(spots, predicted=None))
    return {score.name: found[score.name] for score in GENE_SCORES if score.name in found}


def _best_genes(n: int) -> Score:
    return Score(
        name=f"best{n}",
        function=lambda whole: best(whole.mean_by_gene("pearson"), n=min(n, whole.observed.shape[1])),
        label=f"best {n} genes",
        meaning=f"Gene-wise r of the {n} genes predicted best by this model: chosen by the score itself: optimistic.",
        needs=("pearson",),
    )


SUMMARY_SCORES: Final = (
    Score(
        name="gene_pearson",
        function=of.gene_pearson,
        label="gene-wise r",
        meaning=(
            "How well the pattern of a gene over the spots of a held-out section is predicted: Pearson correlation, "
            "mean over genes. 0 is no better than one constant value, 1 is perfect. Models are ranked by it."
        ),
        needs=("pearson",),
    ),
    Score(
        name="gene_pearson_top50",
        function=of.top_variable_pearson,
        label="top 50 variable",
        meaning="Gene-wise r of the 50 genes that vary most, the same genes for every model.",
        needs=("pearson",),
    ),
    *map(_best_genes, N_BEST),
    Score(
        name="spot_pearson",
        function=of.spot_pearson,
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
        function=of.share_of_ceiling,
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
        function=of.mean_moran_agreement,
        label="Moran's I agreement",
        meaning=(
            "Whether genes that are patterned in space are predicted as patterned: correlation over genes of Moran's "
            "I, predicted with observed. A blurred map scores high, because blur raises Moran's I of all genes alike: "
            "read it with the Moran gap."
        ),
        needs=("moran_observed", "moran_predicted"),
    ),
    Score(
        name="gene_r2",
        function=lambda whole: float(nan_mean(whole.mean_by_gene("r2"))),
        label="gene-wise R²",
        meaning=(
            "Share of the variation of a gene over the spots of a held-out section that is explained, mean over genes. "
            "Level and scale count too, so the mean profile scores 0 or less. Blurring the measured map itself scores "
            "high, because it contains the values to predict."
        ),
        needs=("r2",),
    ),
    Score(
        name="spot_r2",
        function=of.spot_r2,
        axis="spot",
        label="spot-wise R²",
        meaning=(
            "Share of the squared deviations of spots from the mean profile of their section that is explained, of all "
            "genes and spots. The mean profile scores 0 or less, unlike in the spot-wise r. Blurring the measured map "
            "itself scores high, because it contains the values to predict."
        ),
    ),
    Score(
        name="moran_gap",
        function=of.moran_gap,
        label="Moran gap",
        higher_is_better=False,
        meaning=(
            "Whether maps are as smooth as the tissue: absolute difference of predicted and observed Moran's I, mean "
            "over genes, after the predicted one is lowered as counting noise lowered the observed one. 0 for the true "
            "map; smoother and rougher maps are both worse, and a constant counts as the smoothest."
        ),
        needs=("moran_observed", "moran_predicted", "ceiling"),
    ),
    Score(
        name="geary_gap",
        function=of.geary_gap,
        label="Geary gap",
        higher_is_better=False,
        meaning=(
            "The same for Geary's C, which depends on differences between neighbouring spots and so on fine detail. 0 "
            "for the true map; smoother and rougher maps are both worse."
        ),
        needs=("geary_observed", "geary_predicted", "ceiling"),
    ),
    Score(
        name="svg_overlap",
        function=of.mean_svg_overlap,
        label="SVG overlap",
        meaning=(
            "Overlap of the 50 most spatially variable genes (of a small panel, half of them) by Moran's I, measured "
            "and predicted: 1 for the same genes, 0 for genes chosen at random and for a constant map. A blurred map "
            "scores high, because blur hardly changes which genes are patterned: read it with the Moran gap."
        ),
        needs=("moran_observed", "moran_predicted", "ceiling"),
    ),
    Score(
        name="gene_ssim",
        function=lambda whole: float(nan_mean(whole.mean_by_gene("ssim"))),
        label="map similarity",
        meaning=(
            "Structural similarity of observed and predicted maps, mean over genes, as a gain over a constant map: 0 "
            "for a constant, 1 for the measured map. Counting noise is part of the measured map, so the true map "
            "stays far below 1, and may not exceed a slightly blurred measured map, which contains that noise."
        ),
        needs=("ssim",),
    ),
    Score(
        name="coexpression",
        function=of.coexpression,
        label="coexpression",
        meaning=(
            "Agreement (concordance) of the gene-gene correlations of prediction and measurement, predicted ones "
            "lowered for counting noise. 0 for a constant map. A blurred map scores high, because genes that vary "
            "together still do after blurring, and so does a map with the right genes in the wrong places."
        ),
        needs=("ceiling",),
    ),
    Score(
        name="domain_log_fold",
        function=lambda whole: of.domain_log_fold(whole, whole.domains),
        label="log-fold change",
        meaning=(
            "Agreement (concordance) of the log-fold changes between domains, over genes and domains. 0 for a "
            "constant map; changes that are predicted too small lower it. A blurred map scores high, because a domain "
            "is averaged anyway: only its edge is blurred."
        ),
        inputs=("domains",),
    ),
    Score(
        name="pathway_pearson",
        function=lambda whole: of.pathway_pearson(whole, whole.pathways),
        label="pathway r",
        meaning=(
            "Correlation over spots of rank-based pathway scores, predicted with observed, mean over pathways. 0 for a "
            "constant map. Blurring the measured map itself scores high, because it contains the values to predict."
        ),
        inputs=("pathways",),
    ),
    Score(
        name="coverage_gap",
        function=lambda whole: of.coverage_gap(whole, whole.coverage),
        label="coverage gap",
        higher_is_better=False,
        meaning=(
            "How far the share of values in the prediction intervals is from the share that they should cover, mean "
            "over genes. Intervals of a constant can be calibrated too: read it with the interval skill."
        ),
        needs=("coverage",),
        inputs=("coverage",),
    ),
    Score(
        name="gene_interval_skill",
        function=lambda whole: float(nan_mean(whole.mean_by_gene("interval_skill"))),
        label="interval skill",
        meaning=(
            "How much better prediction intervals are (narrow, with few values outside) than the best interval that "
            "is the same for all spots, mean over genes. No constant scores above 0."
        ),
        needs=("interval_skill",),
        inputs=("coverage",),
    ),
)
"""Scores of a prediction as a whole, in the order of their columns."""


def summary_scores(whole: Prediction) -> dict[str, float]:
    """Every summary whose scores of genes are known, by name."""
    known = set(whole.by_gene)
    wanted = (score for score in SUMMARY_SCORES if set(score.needs) <= known and score.has_inputs(whole))
    return {score.name: score.function(whole) for score in wanted}
