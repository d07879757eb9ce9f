"""RMSE and MAE: hand-computed numbers, the average of the M2OST paper, properties, missing spots."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict import metrics


def test_by_hand():
    observed = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    predicted = observed + np.array([[3.0, 0.0], [0.0, -4.0], [0.0, 0.0]])
    np.testing.assert_allclose(metrics.rmse(observed, predicted), [np.sqrt(3), 4 / np.sqrt(3)])
    np.testing.assert_allclose(metrics.mae(observed, predicted), [1, 4 / 3])
    np.testing.assert_allclose(metrics.rmse(observed, predicted, axis="spot"), [3 / np.sqrt(2), 4 / np.sqrt(2), 0])
    np.testing.assert_allclose(metrics.mae(observed, predicted, axis="spot"), [1.5, 2, 0])


def test_mean_over_spots_is_the_number_of_the_m2ost_paper():
    rng = np.random.default_rng(0)
    observed, predicted = rng.normal(size=(2, 30, 8))
    published = np.mean([np.sqrt(np.mean((o - p) ** 2)) for o, p in zip(observed, predicted, strict=True)])
    assert metrics.rmse(observed, predicted, axis="spot").mean() == pytest.approx(published)
    assert published < np.sqrt(np.mean((observed - predicted) ** 2))


@pytest.mark.parametrize("axis", ["gene", "spot"])
@pytest.mark.parametrize("error", [metrics.rmse, metrics.mae])
class TestProperties:
    """What holds for both errors along both axes."""

    rng = np.random.default_rng(0)
    observed, predicted = rng.normal(size=(2, 12, 6))

    def test_zero_only_if_equal_and_symmetric(self, error, axis):
        np.testing.assert_array_equal(error(self.observed, self.observed, axis=axis), 0)
        assert (error(self.observed, self.predicted, axis=axis) > 0).all()
        np.testing.assert_array_equal(
            error(self.observed, self.predicted, axis=axis), error(self.predicted, self.observed, axis=axis)
        )

    def test_scales_with_the_units_and_ignores_a_common_shift(self, error, axis):
        expected = error(self.observed, self.predicted, axis=axis)
        np.testing.assert_allclose(error(3 * self.observed, 3 * self.predicted, axis=axis), 3 * expected)
        np.testing.assert_allclose(error(self.observed + 5, self.predicted + 5, axis=axis), expected)

    def test_mae_is_at_most_rmse(self, error, axis):
        largest = np.abs(self.observed - self.predicted).max()
        value = error(self.observed, self.predicted, axis=axis)
        assert (metrics.mae(self.observed, self.predicted, axis=axis) <= value).all()
        assert (value <= largest).all()

    def test_transposed_axes_agree(self, error, axis):
        other = {"gene": "spot", "spot": "gene"}[axis]
        np.testing.assert_array_equal(
            error(self.observed, self.predicted, axis=axis), error(self.observed.T, self.predicted.T, axis=other)
        )


@pytest.mark.parametrize("error", [metrics.rmse, metrics.mae])
def test_constant_genes_single_spots_and_missing_spots(error):
    observed, predicted = np.full((4, 2), 2.0), np.full((4, 2), 5.0)
    np.testing.assert_allclose(error(observed, predicted), 3)
    np.testing.assert_allclose(error(observed[:1], predicted[:1]), 3)
    predicted[1, 0] = np.nan
    np.testing.assert_allclose(error(observed, predicted), 3)
    np.testing.assert_allclose(error(observed, predicted, axis="spot"), [3, np.nan, 3, 3])


def test_float32_and_integers_are_summed_in_double():
    observed = np.full((3, 200_000), 1e-3, dtype=np.float32)
    np.testing.assert_allclose(metrics.mae(observed, np.zeros_like(observed), axis="spot"), observed[0, 0], rtol=1e-12)
    assert metrics.rmse(np.array([[200]], np.uint8), np.array([[201]], np.uint8)) == [1]
