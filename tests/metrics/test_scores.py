"""The table of scores: every row is computed, named and explained, and one more row is all that a new score needs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stpredict.metrics import noise_ceiling, pearson, scores
from stpredict.metrics._table_functions import moran_agreement
from stpredict.metrics.inputs import Intervals, Prediction, Spots, nan_mean
from stpredict.metrics.scores import GENE_SCORES, SUMMARY_SCORES, Score


@pytest.fixture
def spots():
    rng = np.random.default_rng(0)
    counts = rng.poisson(5.0, (40, 6))
    observed = np.log1p(counts).astype(np.float32)
    predicted = observed + rng.normal(size=observed.shape).astype(np.float32)
    return Spots(
        observed=observed,
        predicted=predicted,
        xy=rng.uniform(size=(40, 2)),
        ceiling=noise_ceiling(counts),
        intervals=Intervals(lower=predicted - 1, upper=predicted + 1, coverage=0.8),
    )


def whole_of(spots):
    by_gene = {name: values[None] for name, values in scores.all_gene_scores(spots).items()}
    genes = [f"G{i}" for i in range(spots.observed.shape[1])]
    return Prediction(
        observed=spots.observed,
        predicted=spots.predicted,
        by_gene=by_gene,
        slides=[np.ones(len(spots.observed), bool)],
        genes=genes,
        domains=np.where(spots.xy[:, 0] < spots.xy[:, 0].mean(), "left", "right"),
        pathways={"first": genes[: len(genes) // 2], "second": genes[len(genes) // 2 :]},
        coverage=0.8,
    )


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
    bare = Spots(observed=spots.observed, xy=spots.xy, ceiling=spots.ceiling)
    assert set(scores.gene_scores(bare)) == {"ceiling", "moran_observed", "geary_observed"}


def test_a_summary_is_left_out_where_its_scores_are_not_known(spots):
    whole = Prediction(
        observed=spots.observed,
        predicted=spots.predicted,
        by_gene={"pearson": pearson(spots.observed, spots.predicted)[None]},
        slides=[np.ones(40, bool)],
    )
    unknown = {"share_of_ceiling", "moran_agreement", "domain_log_fold", "pathway_pearson", "coverage_gap"}
    assert set(scores.summary_scores(whole)).isdisjoint(unknown)
    without = {score.name for score in GENE_SCORES if "intervals" in score.inputs}
    assert without == {"coverage", "interval_skill"}
    assert without.isdisjoint(scores.all_gene_scores(replace(spots, intervals=None)))


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
    assert moran_agreement(one, 2 * one + 1) == pytest.approx(1)
    assert np.isnan(moran_agreement(one, np.array([np.nan, 1, 2, 3])))
    assert np.isnan(moran_agreement(one, np.ones(4)))


def test_nan_mean_ignores_what_is_not_known():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 5.0, np.nan]])
    np.testing.assert_array_equal(nan_mean(values, axis=0), [2, 5, np.nan])
    assert nan_mean(values) == 3


def blurred(values, xy):
    """Mean over a spot and the spots around it."""
    near = np.abs(xy[:, None] - xy[None]).max(axis=2) <= 1
    return near @ values / near.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def known():
    """Summaries of six predictions of counts whose rates are known: two domains, and detail inside them."""
    from scipy.ndimage import gaussian_filter

    rng, side, n_genes = np.random.default_rng(0), 20, 24
    y, x = np.divmod(np.arange(side**2), side)
    xy = np.column_stack([x, y]).astype(float)
    detail = np.stack([gaussian_filter(rng.normal(size=(side, side)), 0.7, mode="wrap").ravel() for _ in range(3)], 1)
    domain = (x + 3 * np.sin(y / 3) > side / 2).astype(int)
    loadings = rng.normal(size=(3, n_genes)) * (rng.uniform(size=(3, n_genes)) < 0.6)
    effects = 0.5 * rng.normal(size=(2, n_genes))
    rates = 5 * np.exp(0.5 * rng.normal(size=n_genes) + 0.5 * detail / detail.std() @ loadings + effects[domain])
    counts, section = rng.poisson(rates), rng.poisson(rates)  # a serial section, for what is known of the place
    observed, truth = np.log1p(counts), np.log1p(rates)
    maps = {
        "truth": truth,
        "model": 0.7 * truth + 0.3 * truth.mean(axis=0) + 0.2 * truth.std(axis=0) * rng.normal(size=truth.shape),
        "blurred": blurred(observed, xy),
        "twice blurred": blurred(blurred(observed, xy), xy),
        "place": blurred(np.log1p(section), xy),
        "mean profile": np.broadcast_to(np.log1p(section).mean(axis=0), truth.shape),
    }
    ceiling = noise_ceiling(counts, target_sum=None)
    found = {}
    for name, predicted in maps.items():
        spots = Spots(observed=observed, predicted=predicted, xy=xy, ceiling=ceiling)
        found[name] = scores.summary_scores(replace(whole_of(spots), domains=domain))
    return found


NEW = ("gene_r2", "spot_r2", "gene_ssim", "coexpression", "svg_overlap", "domain_log_fold", "pathway_pearson")


def test_no_constant_map_scores_above_0(known):
    found = known["mean profile"]
    assert max(found[name] for name in NEW) == pytest.approx(0, abs=1e-6)
    for name in ("moran_gap", "geary_gap"):
        assert found[name] == max(each[name] for each in known.values())  # the larger the worse


def test_the_true_map_has_the_smallest_gap_and_blur_makes_it_larger(known):
    for name in ("moran_gap", "geary_gap"):
        order = sorted(known, key=lambda each: known[each][name])
        assert order[:2] == ["truth", "model"]
        assert known["truth"][name] < 0.5 * known["blurred"][name] < 0.5 * known["twice blurred"][name]


def test_what_a_model_a_blurred_map_and_place_alone_score(known):
    """The model predicts the true map with noise and too little contrast; blur and place know the measured values."""
    expected = {
        "gene_r2": (0.57, 0.52, 0.45), "spot_r2": (0.63, 0.56, 0.50), "moran_gap": (0.05, 0.27, 0.27),
        "geary_gap": (0.06, 0.27, 0.27), "svg_overlap": (0.67, 0.83, 0.67), "gene_ssim": (0.51, 0.32, 0.29),
        "coexpression": (0.99, 0.94, 0.94), "domain_log_fold": (0.92, 0.99, 0.99),
        "pathway_pearson": (0.83, 0.65, 0.60),
    }  # fmt: skip
    for name, values in expected.items():
        found = [known[each][name] for each in ("model", "blurred", "place")]
        assert found == pytest.approx(values, abs=0.02), name


def test_scores_that_blur_can_win_say_so(known):
    """Of the others the true map has the best score."""
    sign = {score.name: 1 if score.higher_is_better else -1 for score in SUMMARY_SCORES}
    won = {
        score.name
        for score in SUMMARY_SCORES
        if score.name in known["truth"]
        and max(known, key=lambda name: sign[score.name] * np.nan_to_num(known[name][score.name], nan=-9)) != "truth"
    }
    assert won == {"moran_agreement", "svg_overlap"}
    meaning = {score.name: score.meaning for score in SUMMARY_SCORES}
    assert all("blurred map scores high" in meaning[name] for name in (*won, "coexpression", "domain_log_fold"))


def test_intervals_of_a_constant_have_no_skill():
    rng = np.random.default_rng(0)
    rate = rng.gamma(2, size=(300, 6))
    observed = rate + rng.normal(size=rate.shape)
    ends = np.quantile(observed, [0.1, 0.9], axis=0)
    flat = [np.broadcast_to(end, observed.shape) for end in ends]
    bounds = {
        "constant": flat,
        "true": [rate - 1.2816, rate + 1.2816],
        "too wide": [rate - 8, rate + 8],
    }
    found = {}
    for name, (lower, upper) in bounds.items():
        intervals = Intervals(lower=lower, upper=upper, coverage=0.8)
        spots = Spots(observed=observed, predicted=rate, xy=rng.uniform(size=(300, 2)), intervals=intervals)
        found[name] = scores.summary_scores(whole_of(spots))
    assert found["constant"]["gene_interval_skill"] == pytest.approx(0)
    assert found["constant"]["coverage_gap"] < 0.01  # calibrated, so this score alone says little
    assert found["true"]["gene_interval_skill"] > 0.3
    assert found["true"]["coverage_gap"] < 0.04
    assert found["too wide"]["gene_interval_skill"] < 0
    assert found["too wide"]["coverage_gap"] == pytest.approx(0.2)
