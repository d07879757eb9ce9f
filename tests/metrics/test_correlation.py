"""Pearson and Spearman: against scipy and pandas, known answers, invariances, constants, missing spots, faults."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from stpredict import metrics
from stpredict.metrics import _rows

SCORES = [metrics.pearson, metrics.spearman]


@pytest.fixture(params=[0, 1, 2])
def pair(request):
    """Observed and predicted expression of 40 spots and 7 genes, with ties (counts) in the observed."""
    rng = np.random.default_rng(request.param)
    observed = rng.poisson(3, size=(40, 7)).astype(float)
    return observed, observed + rng.normal(0, 2, size=observed.shape)


@pytest.mark.parametrize(
    ("score", "reference"), [(metrics.pearson, scipy.stats.pearsonr), (metrics.spearman, scipy.stats.spearmanr)]
)
def test_matches_scipy_per_gene_and_per_spot(pair, score, reference):
    observed, predicted = pair
    per_gene = [reference(o, p).statistic for o, p in zip(observed.T, predicted.T, strict=True)]
    per_spot = [reference(o, p).statistic for o, p in zip(observed, predicted, strict=True)]
    np.testing.assert_allclose(score(observed, predicted), per_gene, atol=1e-12)
    np.testing.assert_allclose(score(observed, predicted, axis="spot"), per_spot, atol=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_matches_pandas_corrwith(pair, score):
    observed, predicted = map(pd.DataFrame, pair)
    expected = observed.corrwith(predicted, method=score.__name__)
    np.testing.assert_allclose(score(observed, predicted), expected, atol=1e-12)


def test_pearson_by_hand():
    observed = np.array([[1.0], [2.0], [3.0], [4.0]])
    predicted = np.array([[1.0], [3.0], [2.0], [4.0]])  # deviations -1.5 .5 -.5 1.5 -> sum of products 4, squares 5
    np.testing.assert_allclose(metrics.pearson(observed, predicted), [0.8])
    np.testing.assert_allclose(metrics.pearson(observed, -predicted), [-0.8])


def test_axes_answer_different_questions():
    """The mean profile explains nothing gene-wise and much spot-wise."""
    rng = np.random.default_rng(0)
    observed = rng.normal(np.linspace(0, 5, 20), 1, size=(50, 20))
    profile = np.tile(observed.mean(axis=0), (50, 1))
    np.testing.assert_array_equal(metrics.pearson(observed, profile), 0)
    assert metrics.pearson(observed, profile, axis="spot").mean() > 0.8


@pytest.mark.parametrize("score", SCORES)
def test_constant_rows(score):
    rng = np.random.default_rng(0)
    varying, constant = rng.normal(size=30), np.full(30, 0.1)
    observed = np.column_stack([varying, constant, constant, varying])
    predicted = np.column_stack([constant, varying, constant, -varying])
    np.testing.assert_allclose(score(observed, predicted), [0, np.nan, np.nan, -1])
    np.testing.assert_allclose(score(observed.T, predicted.T, axis="spot"), [0, np.nan, np.nan, -1])


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("level", [1e-30, 0.1, 7.0, 1e12])
def test_rounding_is_not_variation(score, level):
    rng = np.random.default_rng(0)
    observed = rng.normal(size=(100, 1))
    rounding = (level * (1 + rng.uniform(-2e-7, 2e-7, size=(100, 1)))).astype(np.float32)
    assert np.ptp(rounding) > 0
    np.testing.assert_array_equal(score(observed, rounding), 0)
    np.testing.assert_array_equal(score(rounding, observed), np.nan)
    assert score(observed, level * (1 + 1e-5 * observed))[0] == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-200, 1e-20, 1e150])
def test_pearson_of_extreme_magnitudes(pair, scale):
    observed, predicted = pair
    expected = metrics.pearson(observed, predicted)
    np.testing.assert_allclose(metrics.pearson(observed * scale, predicted / scale), expected, rtol=1e-10)


def test_pearson_invariant_to_positive_affine_maps_per_gene(pair):
    observed, predicted = pair
    rng = np.random.default_rng(9)
    scale, shift = rng.uniform(0.01, 100, size=7), rng.normal(0, 100, size=7)
    expected = metrics.pearson(observed, predicted)
    np.testing.assert_allclose(metrics.pearson(observed, predicted * scale + shift), expected, atol=1e-9)
    np.testing.assert_allclose(metrics.pearson(observed * scale + shift, predicted), expected, atol=1e-9)
    np.testing.assert_allclose(metrics.pearson(observed, -scale * predicted), -expected, atol=1e-9)


@pytest.mark.parametrize("monotone", [np.exp, np.arctan, lambda x: x**3], ids=["exp", "arctan", "cube"])
def test_spearman_invariant_to_monotone_maps(pair, monotone):
    observed, predicted = pair
    expected = metrics.spearman(observed, predicted)
    np.testing.assert_allclose(metrics.spearman(observed, monotone(predicted / 4)), expected, atol=1e-12)
    np.testing.assert_allclose(metrics.spearman(monotone(observed / 4), predicted), expected, atol=1e-12)
    assert not np.allclose(metrics.pearson(observed, monotone(predicted / 4)), metrics.pearson(observed, predicted))


@pytest.mark.parametrize("score", SCORES)
def test_symmetric_and_independent_of_the_order_of_spots_and_genes(pair, score):
    observed, predicted = pair
    rng = np.random.default_rng(3)
    spots, genes = rng.permutation(40), rng.permutation(7)
    expected = score(observed, predicted)
    np.testing.assert_allclose(score(predicted, observed), expected, atol=1e-12)
    np.testing.assert_allclose(score(observed[spots], predicted[spots]), expected, atol=1e-12)
    np.testing.assert_allclose(score(observed[:, genes], predicted[:, genes]), expected[genes], atol=1e-12)


@pytest.mark.parametrize("score", SCORES)
def test_spots_with_nan_are_left_out_for_all_genes(pair, score):
    observed, predicted = pair
    holes = predicted.copy()
    holes[3], holes[8, 2] = np.nan, np.nan
    observed[11, 0] = np.nan
    kept = np.setdiff1d(np.arange(40), [3, 8, 11])
    np.testing.assert_array_equal(score(observed, holes), score(observed[kept], holes[kept]))
    per_spot = score(observed, holes, axis="spot")
    assert np.flatnonzero(np.isnan(per_spot)).tolist() == [3, 8, 11]
    np.testing.assert_array_equal(per_spot[kept], score(observed[kept], holes[kept], axis="spot"))


@pytest.mark.parametrize("axis", ["gene", "spot"])
@pytest.mark.parametrize("score", SCORES)
def test_blocks_dtype_and_memory_layout_do_not_matter(pair, score, axis, monkeypatch):
    observed, predicted = (x.astype(np.float32) for x in pair)
    expected = score(observed, predicted, axis=axis)
    assert expected.dtype == np.float64
    np.testing.assert_array_equal(score(np.asfortranarray(observed), predicted.tolist(), axis=axis), expected)
    np.testing.assert_array_equal(score(observed.astype(int), predicted, axis=axis), expected)
    for block in (1, 90):
        monkeypatch.setattr(_rows, "BLOCK", block)
        np.testing.assert_array_equal(score(observed, predicted, axis=axis), expected)


@pytest.mark.parametrize("score", SCORES)
def test_inputs_are_not_modified(pair, score):
    before = [x.copy() for x in pair]
    score(*pair)
    for x, old in zip(pair, before, strict=True):
        np.testing.assert_array_equal(x, old)
