"""The table of scores: every row is computed, named and explained, and one more row is all that a new score needs."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict.metrics import pearson, scores
from stpredict.metrics.scores import GENE_SCORES, SUMMARY_SCORES, Prediction, Score, Spots


@pytest.fixture
def spots():
    rng = np.random.default_rng(0)
    counts = rng.poisson(5.0, (40, 6))
    observed = np.log1p(counts).astype(np.float32)
    predicted = observed + rng.normal(size=observed.shape).astype(np.float32)
    return Spots(observed=observed, predicted=predicted, xy=rng.uniform(size=(40, 2)), counts={"counts": counts})


def whole_of(spots):
    by_gene = {name: values[None] for name, values in scores.all_gene_scores(spots).items()}
    return Prediction(observed=spots.observed, predicted=spots.predicted, by_gene=by_gene)


def test_every_row_is_computed_named_and_explained(spots):
    assert list(scores.all_gene_scores(spots)) == [score.name for score in GENE_SCORES]
    assert list(scores.summary_scores(whole_of(spots))) == [score.name for score in SUMMARY_SCORES]
    for table in (GENE_SCORES, SUMMARY_SCORES):
        assert len({score.name for score in table}) == len(table)
        assert all(score.label and score.meaning.endswith(".") for score in table)
    known = {score.name for score in GENE_SCORES}
    assert all(set(score.needs) <= known for score in SUMMARY_SCORES)


def test_scores_of_the_measurement_need_no_prediction(spots):
    assert set(scores.gene_scores(spots)) == {score.name for score in GENE_SCORES if not score.of_measurement}
    bare = Spots(observed=spots.observed, xy=spots.xy, counts=spots.counts)
    assert set(scores.gene_scores(bare)) == {"ceiling", "moran_observed"}


def test_a_summary_is_left_out_where_its_scores_are_not_known(spots):
    whole = Prediction(
        observed=spots.observed,
        predicted=spots.predicted,
        by_gene={"pearson": pearson(spots.observed, spots.predicted)[None]},
    )
    assert set(scores.summary_scores(whole)).isdisjoint({"share_of_ceiling", "moran_agreement"})


def test_a_new_row_is_all_that_a_new_score_needs(spots, monkeypatch):
    bias = Score(
        name="bias",
        function=lambda given: np.mean(given.predicted - given.observed, axis=0),
        axis="gene",
        label="bias of a gene",
        higher_is_better=None,
        meaning="Mean error.",
    )
    monkeypatch.setattr(scores, "GENE_SCORES", (*GENE_SCORES, bias))
    found = scores.all_gene_scores(spots)["bias"]
    np.testing.assert_allclose(found, (spots.predicted - spots.observed).mean(axis=0))


def test_moran_agreement():
    one = np.array([0.1, 0.2, 0.6, np.nan])
    assert scores.moran_agreement(one, 2 * one + 1) == pytest.approx(1)
    assert np.isnan(scores.moran_agreement(one, np.array([np.nan, 1, 2, 3])))
    assert np.isnan(scores.moran_agreement(one, np.ones(4)))


def test_nan_mean_ignores_what_is_not_known():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    np.testing.assert_array_equal(scores.nan_mean(values, axis=0), [2, 5, np.nan])
    assert scores.nan_mean(values) == 3
