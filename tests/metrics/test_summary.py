"""Which genes are averaged: best by score, most variable by observation."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict import metrics


def test_best_averages_the_highest_and_ignores_nan():
    scores = np.array([0.5, np.nan, -0.2, 0.9, 0.1])
    assert metrics.best(scores, n=2) == pytest.approx(0.7)
    assert metrics.best(scores, n=50) == pytest.approx(np.nanmean(scores))
    assert metrics.best(scores, n=1) == np.nanmax(scores)
    assert isinstance(metrics.best(scores), float)
    assert np.isnan(metrics.best([np.nan, np.nan]))
    assert metrics.best(np.arange(100.0)) == pytest.approx(np.arange(50, 100).mean())


def test_best_of_a_random_prediction_is_optimistic_and_top_variable_is_not():
    rng = np.random.default_rng(0)
    observed, predicted = rng.normal(size=(2, 100, 1000))
    scores = metrics.pearson(observed, predicted)
    assert metrics.best(scores) > 0.15
    assert abs(scores[metrics.top_variable(observed)].mean()) < 0.05


def test_top_variable_marks_the_largest_variances():
    observed = np.random.default_rng(0).normal(size=(200, 6)) * [1, 5, 2, 9, 0, 3] + 100
    mask = metrics.top_variable(observed, n=3)
    assert mask.dtype == bool
    assert np.flatnonzero(mask).tolist() == [1, 3, 5]
    assert metrics.top_variable(observed).tolist() == [True, True, True, True, False, True]  # never a constant gene


def test_top_variable_takes_the_first_of_equals_and_leaves_out_missing_spots():
    observed = np.array([[0.0, 1, 0, 0], [1, 0, 5, 1], [0, 1, 0, 0], [np.nan, 90, 0, 0]])
    assert np.flatnonzero(metrics.top_variable(observed, n=2)).tolist() == [0, 2]
