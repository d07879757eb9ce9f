"""Prediction intervals: coverage and interval score by hand, and that the score is proper."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict import metrics


def test_by_hand_and_without_missing_spots():
    observed = np.array([[1.0, 0.0], [2.0, 4.0], [3.0, 9.0], [9.0, np.nan], [5.0, 5.0]])
    lower, upper = np.full((5, 2), 2.0), np.full((5, 2), 5.0)
    np.testing.assert_allclose(metrics.interval_coverage(observed, lower, upper), [3 / 4, 2 / 4])  # bounds count
    penalty = 2 / (1 - 0.8) * np.array([1.0, 2 + 4]) / 4
    np.testing.assert_allclose(metrics.interval_score(observed, lower, upper, coverage=0.8), 3 + penalty)


def test_the_true_quantiles_have_the_lowest_score():
    observed = np.random.default_rng(0).normal(size=(4000, 1))

    def score(low, high):
        ends = np.broadcast_to([[low]], observed.shape), np.broadcast_to([[high]], observed.shape)
        return metrics.interval_score(observed, *ends, coverage=0.8).item()

    low, high = np.quantile(observed, [0.1, 0.9])
    others = [score(low + a, high + b) for a in (-0.3, 0, 0.3) for b in (-0.3, 0, 0.3) if a or b]
    assert score(low, high) < min(others)


def test_bad_input():
    values = np.zeros((4, 2))
    with pytest.raises(ValueError, match=r"`upper` is below `lower` in 8 of 8 intervals.*predicted_lower"):
        metrics.interval_coverage(values, values + 1, values)
    for coverage in (0, 1, 90):
        with pytest.raises(ValueError, match=r"`coverage` is .*, but must lie between 0 and 1.*coverage=0\.9"):
            metrics.interval_score(values, values, values, coverage=coverage)
