"""Colour statistics with known answers, and the ridge on them: the same as the model ``ridge_color``."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stpredict import models
from stpredict._train.color import apply_ridge, color_statistics, fit_ridge
from stpredict.models import SpotBatch, image_statistics
from stpredict.models._closed_form import FALLBACK, PENALTIES
from stpredict.models.image_statistics import window_colors
from stpredict.pp import TargetSpec
from stpredict.pp.targets import Targets

PLAIN = TargetSpec(n_components=None)


def test_statistics_of_known_patches():
    patches = np.full((2, 2, 3, 8, 8), 255, np.uint8)
    patches[0, 0, 1, 2:6, 2:6] = 94  # optical density 0.998 in the central half of the green channel
    patches[0, 1, 2] = 0  # black counts as 1
    found = color_statistics(torch.from_numpy(patches), 0.5)
    assert found.shape == (2, 18)
    density = -np.log(94 / 255)
    spot, narrow, wide = found[0].reshape(3, 6)
    np.testing.assert_allclose(spot, [0, density, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(narrow, [0, density / 4, 0, 0, density * np.sqrt(3) / 4, 0], atol=1e-6)
    np.testing.assert_allclose(wide, [0, 0, np.log(255), 0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(found[1], 0, atol=1e-6)


@pytest.mark.parametrize(("size", "share"), [(20, 0.3), (23, 2 / 3), (20, 1.0)])
def test_statistics_are_those_of_numpy_with_and_without_histograms(monkeypatch, share, size):
    patches = np.random.default_rng(0).integers(0, 256, (7, 2, 3, size, size), dtype=np.uint8)
    density = -np.log(np.maximum(patches.astype(np.float64), 1) / 255)
    margin = round(size * (1 - share) / 2)
    spot = density[:, 0, :, margin : size - margin, margin : size - margin]
    parts = [(w.mean((-2, -1)), w.std((-2, -1))) for w in (spot, density[:, 0], density[:, 1])]
    wanted = np.hstack([each for pair in parts for each in pair])
    tensor = torch.from_numpy(patches)
    found = color_statistics(tensor, share)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found.dtype == np.float32
    for values_at_once in (1, 5000, 1 << 28):  # as on a GPU
        monkeypatch.setattr(image_statistics, "VALUES_AT_ONCE", values_at_once)
        np.testing.assert_allclose(window_colors(tensor.float() / 255, margin), wanted, atol=2e-6)


@pytest.mark.parametrize("share", [0.001, 3.0])
def test_spots_of_any_size_have_statistics(share):
    patches = torch.randint(0, 256, (3, 1, 3, 9, 9), dtype=torch.uint8)
    assert np.isfinite(color_statistics(patches, share)).all()


def data(n=60, d=4, g=3, noise=0.0):
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(n, d)) * [1, 10, 0.1, 3] + [0, 5, 0, -2]).astype(np.float32)
    observed = features @ rng.normal(size=(d, g)) + 4 + noise * rng.normal(size=(n, g))
    slide = torch.arange(3).repeat_interleave(n // 3)
    spots = SpotBatch(patches=torch.zeros(n, 1, 3, 1, 1, dtype=torch.uint8), xy_um=torch.rand(n, 2), slide=slide)
    return features, observed.astype(np.float32), spots


def test_prediction_is_the_plain_matrix_product():
    weights, features = np.array([[1.0, 2.0, 0.5]], np.float32), np.array([[3.0, 4.0], [0.0, 1.0]], np.float32)
    assert apply_ridge(weights, features).tolist() == [[3 + 8 + 0.5], [2.5]]


def test_ridge_recovers_a_linear_law():
    features, observed, spots = data()
    weights, penalty = fit_ridge(features, observed, spots, PLAIN)
    assert weights.shape == (3, 5)
    assert penalty == pytest.approx(min(PENALTIES))  # nothing to smooth
    np.testing.assert_allclose(apply_ridge(weights, features), observed, rtol=1e-3, atol=1e-3)


def test_ridge_solves_the_normal_equations():
    features, observed, spots = data(noise=0.5)
    weights, penalty = fit_ridge(features, observed, spots, PLAIN)
    x = (features - features.mean(0)) / features.std(0)
    centred = observed - observed.mean(0)
    slope = np.linalg.solve(x.T @ x + penalty * np.eye(4), x.T @ centred)  # the scale of a gene cancels out
    np.testing.assert_allclose(apply_ridge(weights, features), observed.mean(0) + x @ slope, rtol=1e-3)


def test_ridge_on_targets_of_low_rank():
    features, observed, spots = data(noise=0.5)
    weights, _ = fit_ridge(features, observed, spots, TargetSpec(n_components=1))
    assert np.linalg.matrix_rank(weights[:, :-1], tol=1e-4) == 1


def test_noise_alone_is_penalised_most():
    features, _, spots = data()
    observed = np.random.default_rng(1).normal(size=(60, 3)).astype(np.float32)
    weights, _ = fit_ridge(features, observed, spots, PLAIN)
    flat = apply_ridge(weights, features).std(axis=0)
    assert (flat < 0.5 * observed.std(axis=0)).all()


def test_constant_features_and_genes_and_small_folds_do_not_break_it():
    features, observed, spots = data()
    features[:, 1], observed[:, 2] = 7, 0
    few = replace(spots, group=(torch.arange(60) < 2).long())  # a group of two spots, and all others
    weights, penalty = fit_ridge(features, observed, few, PLAIN)
    assert penalty == FALLBACK  # no fold to choose by
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(apply_ridge(weights, features)[:, 2], 0, atol=1e-5)
    assert np.isfinite(fit_ridge(features, np.zeros_like(observed), spots, PLAIN)[0]).all()


@pytest.mark.parametrize("spec", [PLAIN, TargetSpec(n_components=2), TargetSpec(center="slide")])
@pytest.mark.parametrize("n_slides", [1, 3])
def test_baseline_beside_predictions_is_the_model_ridge_color(spec, n_slides):
    """The same statistics, the same penalty, the same predictions."""
    rng, n = np.random.default_rng(0), 60
    spots = SpotBatch(
        patches=torch.from_numpy(rng.integers(0, 256, (n, 3, 3, 16, 16), dtype=np.uint8)),
        xy_um=torch.from_numpy(rng.uniform(0, 1e3, (n, 2))).float(),
        slide=torch.arange(n_slides).repeat_interleave(n // n_slides),
        group=torch.arange(n_slides).repeat_interleave(n // n_slides),
    )
    colors = color_statistics(spots.patches, 1 / 1.5)
    observed = (colors @ rng.normal(size=(24, 5)) + rng.normal(size=(n, 5))).astype(np.float32)
    weights, penalty = fit_ridge(colors, observed, spots, spec)
    slide = spots.slide.numpy()
    targets = Targets.fit(spec, list("abcde"), observed, slide)
    model = models.build(models.config("ridge_color", targets.n_outputs, {"size_px": 16}))
    encoded = torch.from_numpy(targets.encode(observed, slide))
    model.initialize_from(iter([replace(spots, targets=encoded)]))
    assert float(model.ridge.penalty) == penalty
    predicted = targets.decode(model.eval()(spots).numpy())
    np.testing.assert_allclose(apply_ridge(weights, colors), predicted, atol=1e-4)
    assert predicted.std() > 0.01
