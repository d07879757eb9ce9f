"""RMSE, MAE and R²: hand-computed numbers, the average of the M2OST paper, properties, missing spots."""

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


class TestR2:
    """Explained variation along both axes."""

    rng = np.random.default_rng(0)
    observed = rng.normal(size=(30, 5)) + np.arange(5)
    predicted = observed + 0.5 * rng.normal(size=(30, 5))

    def test_of_genes_is_that_of_scikit_learn(self):
        from sklearn.metrics import r2_score

        expected = r2_score(self.observed, self.predicted, multioutput="raw_values")
        np.testing.assert_allclose(metrics.r2(self.observed, self.predicted), expected)

    def test_of_spots_is_relative_to_the_means_of_genes(self):
        error = ((self.observed - self.predicted) ** 2).sum(axis=1)
        deviation = ((self.observed - self.observed.mean(axis=0)) ** 2).sum(axis=1)
        np.testing.assert_allclose(metrics.r2(self.observed, self.predicted, axis="spot"), 1 - error / deviation)

    @pytest.mark.parametrize("axis", ["gene", "spot"])
    def test_the_mean_profile_scores_0_and_the_truth_1(self, axis):
        profile = np.broadcast_to(self.observed.mean(axis=0), self.observed.shape)
        np.testing.assert_allclose(metrics.r2(self.observed, profile, axis=axis), 0, atol=1e-12)
        np.testing.assert_allclose(metrics.r2(self.observed, self.observed, axis=axis), 1)
        assert metrics.r2(self.observed, profile + 0.3, axis=axis).mean() < -0.05

    def test_constant_genes_and_missing_spots(self):
        observed = np.where(np.arange(5) == 2, 0.1, self.observed)
        assert np.isnan(metrics.r2(observed, self.predicted)).tolist() == [False, False, True, False, False]
        missing = np.where(np.arange(30)[:, None] == 7, np.nan, self.predicted)
        kept = np.arange(30) != 7
        expected = metrics.r2(self.observed[kept], self.predicted[kept], axis="spot")
        found = metrics.r2(self.observed, missing, axis="spot")
        np.testing.assert_allclose(found[kept], expected)
        assert np.isnan(found[7])
