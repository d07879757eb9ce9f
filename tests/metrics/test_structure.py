"""Coexpression, log-fold changes, pathways and spatially variable genes: by hand, and against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict import metrics
from stpredict.metrics.structure import autocorrelation_gap

RNG = np.random.default_rng(0)
OBSERVED = RNG.normal(size=(60, 2)) @ RNG.normal(size=(2, 7)) + RNG.normal(size=(60, 7))
PREDICTED = OBSERVED + RNG.normal(size=OBSERVED.shape)


def concordance(x, y):
    return 2 * np.cov(x, y, bias=True)[0, 1] / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


class TestCoexpression:
    """Of gene-gene correlations above the diagonal."""

    pairs = np.triu_indices(7, k=1)

    def test_is_the_concordance_of_two_matrices(self):
        found = [np.corrcoef(values.T)[self.pairs] for values in (OBSERVED, PREDICTED)]
        assert metrics.coexpression_agreement(OBSERVED, PREDICTED) == pytest.approx(concordance(*found))

    def test_a_ceiling_lowers_the_predicted_correlations(self):
        ceiling = np.linspace(0.4, 1, 7)
        lowered = (np.corrcoef(PREDICTED.T) * np.outer(ceiling, ceiling))[self.pairs]
        expected = concordance(np.corrcoef(OBSERVED.T)[self.pairs], lowered)
        found = metrics.coexpression_agreement(OBSERVED, PREDICTED, ceiling=[*ceiling[:-1], np.nan])
        assert found == pytest.approx(expected)  # what is not known is no noise

    def test_constant_genes_and_spots_that_are_missing(self):
        one = np.where(np.arange(7) == 3, 2.0, OBSERVED)
        kept = np.arange(7) != 3
        expected = metrics.coexpression_agreement(OBSERVED[:, kept], PREDICTED[:, kept])
        assert metrics.coexpression_agreement(one, PREDICTED) == pytest.approx(expected)
        assert metrics.coexpression_agreement(OBSERVED, np.ones_like(OBSERVED)) == 0
        assert np.isnan(metrics.coexpression_agreement(OBSERVED[:, :2], PREDICTED[:, :2]))
        missing = np.where(np.arange(60)[:, None] < 5, np.nan, PREDICTED)
        expected = metrics.coexpression_agreement(OBSERVED[5:], PREDICTED[5:])
        assert metrics.coexpression_agreement(OBSERVED, missing) == pytest.approx(expected)


def test_log_fold_changes_by_hand():
    domains = np.array(["a"] * 20 + ["b"] * 25 + ["c"] * 10 + ["rare"] * 2 + [None] * 3, object)
    labelled, changes = np.arange(57), []
    for values in (OBSERVED, PREDICTED):
        masks = [(domains[labelled] == name) for name in "abc"]
        changes.append(np.concatenate([values[:57][m].mean(axis=0) - values[:57][~m].mean(axis=0) for m in masks]))
    found = metrics.log_fold_agreement(OBSERVED, PREDICTED, domains)
    assert found == pytest.approx(concordance(*changes))
    assert metrics.log_fold_agreement(OBSERVED, np.zeros_like(OBSERVED), domains) == 0
    assert np.isnan(metrics.log_fold_agreement(OBSERVED, PREDICTED, np.repeat("a", 60)))


def test_pathway_scores_are_mean_ranks_of_scipy():
    from scipy.stats import rankdata

    values = np.round(OBSERVED, 0)  # with ties
    values[4, 0] = np.nan
    names = [f"G{i}" for i in range(7)]
    sets = {"one": ["G0", "G3", "G5", "other"], "few": ["G1", "G2"], "all": names}
    found = metrics.pathway_scores(values, names, sets)
    for spot in (0, 33):
        assert found[spot, 0] == pytest.approx((rankdata(values[spot])[[0, 3, 5]].mean() - 4) / 7)
    assert np.isnan(found[:, 1]).all()
    np.testing.assert_allclose(np.delete(found[:, 2], 4), 0, atol=1e-12)
    assert np.isnan(found[4]).all()
    np.testing.assert_allclose(metrics.pathway_scores(2 * values + 1, names, sets), found, atol=1e-12)


def test_overlap_is_corrected_for_chance():
    observed = np.array([0.9, 0.8, 0.7, 0.1, 0.0, -0.1, 0.2, 0.3, np.nan])
    assert metrics.svg_overlap(observed, observed, n=3) == 1
    assert metrics.svg_overlap(observed, -observed, n=3) == pytest.approx(-0.6)  # (0 - 3/8) / (1 - 3/8)
    assert metrics.svg_overlap(observed, np.full(9, np.nan), n=3) == 0  # a constant map
    assert metrics.svg_overlap(observed, observed[::-1], n=50) == pytest.approx(0.5)  # half of 8 genes, three shared
    rng = np.random.default_rng(0)
    by_chance = [metrics.svg_overlap(np.arange(40), rng.permutation(40), n=10) for _ in range(400)]
    assert abs(np.mean(by_chance)) < 0.03
    assert np.isnan(metrics.svg_overlap([0.4], [0.2]))


def test_gap_of_autocorrelation_by_hand():
    observed, ceiling = np.array([0.2, 0.3, np.nan]), np.sqrt([0.5, 1.0, 0.5])
    assert autocorrelation_gap(observed, np.array([0.4, 0.3, 0.9]), ceiling) < 1e-9  # as noise lowers it
    found = autocorrelation_gap(observed, np.array([0.8, 0.0, 0.9]), ceiling)
    assert found == pytest.approx((abs(0.4 - 0.2) + 0.3) / 1.5)  # two-sided: too smooth, too rough
    assert autocorrelation_gap(observed, np.full(3, np.nan), ceiling) == pytest.approx((0.3 + 0.7) / 1.5)
    assert autocorrelation_gap(observed, observed, np.full(3, np.nan)) == 0  # without counts there is no noise


def test_bad_input():
    with pytest.raises(ValueError, match=r"`ceiling` is of shape \(6,\), and a number for each of 7 genes.*morans_i"):
        metrics.coexpression_agreement(OBSERVED, PREDICTED, ceiling=np.ones(6))
    with pytest.raises(ValueError, match=r"`domains` is of 59 spots and `observed` of 60"):
        metrics.log_fold_agreement(OBSERVED, PREDICTED, ["a"] * 59)
    with pytest.raises(ValueError, match=r"`genes` has 2 names and `values` 7 columns.*adata\.var_names"):
        metrics.pathway_scores(OBSERVED, ["a", "b"], {})
    with pytest.raises(ValueError, match=r"No pathway has more than 1 of the 7 genes.*stp\.metrics\.pathway_scores"):
        metrics.pathway_scores(OBSERVED, list("abcdefg"), {"x": ["a", "X"]})
    with pytest.raises(ValueError, match=r"`predicted` is of shape \(2,\), and a number for each of 3 genes"):
        metrics.svg_overlap([1.0, 2, 3], [1.0, 2])
