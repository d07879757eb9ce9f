"""Out-of-distribution detection: the distance, its threshold, and where it is written."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity

from stpredict.tl import Predictor, predict
from stpredict.tl._predictor.ood import ImageRange, _ledoit_wolf, image_statistics

QUIET = {"device": "cpu", "precision": "32-true", "progress": False}


def spots(n, d=12, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).normal(size=(d, d))
    return (rng.normal(size=(n, d)) @ mixing * np.geomspace(0.1, 10, d) + shift).astype(np.float32)


def test_one_percent_of_left_out_spots_are_beyond_the_threshold():
    fold = np.repeat(["a", "b", "c", "d"], 500)
    known = ImageRange.of(spots(2000), fold)
    assert np.mean(known.distances(spots(5000, seed=1)) > 1) == pytest.approx(0.01, abs=0.006)
    assert np.mean(known.distances(spots(2000)) > 1) <= 0.012


def test_slides_that_differ_raise_the_threshold():
    fold = np.repeat(["a", "b", "c", "d"], 500)
    shift = np.random.default_rng(3).normal(size=(4, 12)).repeat(500, axis=0)
    together, apart = ImageRange.of(spots(2000), fold), ImageRange.of(spots(2000) + shift.astype(np.float32), fold)
    new = spots(500, seed=1) + np.random.default_rng(4).normal(size=12).astype(np.float32)
    assert np.mean(apart.distances(new) > 1) < np.mean(together.distances(new) > 1)


def test_it_is_a_mahalanobis_distance_where_spots_are_many():
    x = spots(50_000, d=4)
    known = ImageRange.of(x, np.repeat(["a", "b"], 25_000))
    away = x.astype(np.float64) - x.mean(axis=0)
    wanted = np.sqrt(np.einsum("nd,de,ne->n", away, np.linalg.inv(np.cov(x.T)), away))
    ratio = known.distances(x) / wanted
    np.testing.assert_allclose(ratio, ratio[0], rtol=0.02)


def test_few_spots_are_shrunk_and_constants_are_held_against_new_spots():
    x = spots(10, d=30)
    x[:, 3] = 7
    known = ImageRange.of(x, np.repeat(["a", "b"], 5))
    assert np.isfinite(known.distances(x)).all()
    assert np.linalg.eigvalsh(_ledoit_wolf(spots(10, d=30).astype(np.float64))).min() > 0
    other = x.copy()
    other[:, 3] = 1e6
    assert (known.distances(other) > 1).all()
    assert np.isfinite(ImageRange.of(np.ones((8, 5), np.float32), np.repeat(["a", "b"], 4)).distances(x[:, :5])).all()


def test_statistics_do_not_depend_on_how_many_are_computed_together():
    patches = torch.randint(0, 255, (40, 2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(image_statistics(patches, 0.7)[35:], image_statistics(patches[35:], 0.7), rtol=1e-5)


def test_foreign_pixels_are_flagged(sdata, predictor):
    predict(sdata, predictor, **QUIET)
    before = sdata["predicted"].obs
    assert before["unlike_training"].dtype == bool
    assert before["image_distance"].dtype == np.float32
    assert before["unlike_training"].mean() < 0.1
    pixels = sdata["S2_image"]["scale0"]["image"].values.copy()
    pixels[:, :, : pixels.shape[2] // 2] = np.array([20, 30, 140], np.uint8)[:, None, None]  # ink on the left half
    del sdata.images["S2_image"]
    sdata.images["S2_image"] = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={"S2": Identity()})
    with pytest.warns(UserWarning, match="lie outside the training range"):
        predict(sdata, predictor, shapes_key="S2_spots", **QUIET)
    table = sdata["predicted"]
    table = table[table.obs["region"] == "S2_spots"]  # the other slides stay as they were
    left = table.obsm["spatial"][:, 0] < pixels.shape[2] / 3
    assert table.obs["unlike_training"][left].all()
    assert (table.obs["unlike_training"] == (table.obs["image_distance"] > 1)).all()


def test_it_is_saved(sdata, quick, tmp_path):
    predictor, again = quick(sdata), Predictor.load(tmp_path / "model")
    np.testing.assert_array_equal(again.image_range.center, predictor.image_range.center)
    np.testing.assert_array_equal(again.image_range.whitening, predictor.image_range.whitening)
    assert again.image_range.center.shape == (108,)


def test_beside_a_layer(sdata, predictor):
    predict(sdata, predictor, layer="guess", shapes_key="S2_spots", **QUIET)
    obs = sdata["observed"].obs
    on_slide = (obs["region"] == "S2_spots").to_numpy()
    assert np.isfinite(obs["guess_image_distance"][on_slide]).all()
    assert obs["guess_image_distance"][~on_slide].isna().all()
    assert not obs["guess_unlike_training"][~on_slide].any()
