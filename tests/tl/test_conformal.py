"""Intervals: what they cover, how they are calibrated, saved, asked for and refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import anndata as ad
import numpy as np
import pytest
import torch
from spatialdata import SpatialData

import stpredict as stp
from stpredict.tl import FitConfig, Predictor, calibrate, fit, predict
from stpredict.tl._predictor.conformal import MAX_RANKS, Calibration, OrderStatistics

from .conftest import TINY, copied

QUIET = {"device": "cpu", "precision": "32-true", "progress": False}
RECORD = {"kind": "other slides", "leaks": False, "stain": None, "note": ""}


def of(residuals, spread, group=None, n_views=8):
    names = np.full(len(residuals), "a") if group is None else group
    return Calibration.of(
        residuals.astype(np.float32), spread.astype(np.float32), names, n_views=n_views, record=RECORD
    )


def observed(sdata):
    counts = sdata["observed"].X.toarray()
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def test_a_quantile_is_the_score_of_its_rank():
    ranked = OrderStatistics.of(np.arange(1, 100, dtype=np.float32)[::-1, None])
    assert ranked.n == 99
    assert ranked.quantile(0.9) == [90]  # (99 + 1) * 0.9
    assert ranked.quantile(0.901) == [91]
    assert ranked.quantile(0.99) == [99]
    with pytest.raises(ValueError, match=r"calibrated on 99 spots .* guarantee 0\.990 at most"):
        ranked.quantile(0.995)


@pytest.mark.parametrize("n", [MAX_RANKS, MAX_RANKS + 1, 7 * MAX_RANKS + 3])
def test_of_many_scores_some_are_kept_and_none_promises_too_much(n):
    scores = np.random.default_rng(0).exponential(size=(n, 3)).astype(np.float32)
    ranked, everything = OrderStatistics.of(scores), OrderStatistics.of(scores, n)
    assert len(ranked.ranks) == MAX_RANKS
    assert ranked.n == n
    for coverage in (0.02, 0.5, 0.9, 0.95):
        kept, exact = ranked.quantile(coverage), everything.quantile(coverage)
        assert (kept >= exact).all()
        assert (np.mean(scores <= kept, axis=0) <= coverage + 2 / MAX_RANKS).all()


@pytest.mark.parametrize(("n", "coverage"), [(19, 0.5), (60, 0.8), (400, 0.9)])
def test_exchangeable_spots_are_covered_as_often_as_said(n, coverage):
    """Over many draws of calibration and new spots, with noise that differs between spots and genes."""
    rng = np.random.default_rng(n)
    found = []
    for _ in range(30):
        spread = rng.uniform(0.5, 2, (n + 200, 40))
        residuals = spread * rng.standard_t(4, spread.shape)
        calibration = of(residuals[:n], spread[:n])
        predicted = np.full(residuals[n:].shape, 100.0)  # far from 0, where intervals end
        lower, upper = calibration.interval(predicted, spread[n:], calibration.quantile("conformal", coverage))
        found.append(((predicted + residuals[n:] >= lower) & (predicted + residuals[n:] <= upper)).mean())
    expected = np.ceil((n + 1) * coverage - 1e-9) / (n + 1)
    assert np.mean(found) == pytest.approx(expected, abs=0.01)
    assert expected >= coverage


def test_ninety_percent_intervals_cover_88_to_92_percent():
    rng = np.random.default_rng(0)
    spread = rng.uniform(0.2, 1, (3000, 100))
    rate = rng.uniform(2, 5, spread.shape)
    measured = rate + spread * rng.normal(size=spread.shape)
    calibration = of((measured - rate)[:1500], spread[:1500])
    lower, upper = calibration.interval(rate[1500:], spread[1500:], calibration.quantile("conformal", 0.9))
    inside = (measured[1500:] >= lower) & (measured[1500:] <= upper)
    assert 0.88 <= inside.mean() <= 0.92
    assert (np.abs(inside.mean(axis=0) - 0.9) < 0.05).all()


def test_intervals_hold_the_prediction_and_end_at_zero():
    calibration = of(np.ones((50, 2)), np.ones((50, 2)))
    predicted = np.array([[3.0, 0.5], [0.0, 0.4]], np.float32)
    lower, upper = calibration.interval(predicted, np.ones((2, 2), np.float32), calibration.quantile("conformal", 0.9))
    np.testing.assert_allclose(lower, [[2, 0], [0, 0]], atol=1e-6)
    np.testing.assert_allclose(upper, [[4, 1.5], [1, 1.4]], atol=1e-6)


def test_groups_that_differ_widen_the_intervals_of_groups():
    """A new group is covered with probability K / (K + 1): here 9 of 10."""
    rng, well, spots_well = np.random.default_rng(0), [], []
    for _ in range(300):
        group = np.repeat(np.arange(10), 40)
        residuals = rng.uniform(0.5, 2, 10)[group, None] * rng.normal(size=(400, 1))
        calibration = of(residuals[:360], np.ones((360, 1)), group[:360].astype(str))
        wide, narrow = (calibration.quantile(kind, 0.9) for kind in ("conformal_groups", "conformal"))
        assert (wide >= narrow).all()
        well.append((np.abs(residuals[360:]) <= wide).mean() >= 0.9 - 0.05)
        spots_well.append((np.abs(residuals[360:]) <= narrow).mean() >= 0.9 - 0.05)
    assert np.mean(well) >= 0.9
    assert np.mean(spots_well) < 0.75


@pytest.fixture(scope="module")
def fitted(small_sdata, tmp_path_factory):
    """Fit on slides by number, each set of them once. Predictors are not to be changed."""

    @cache
    def make(*numbers):
        sdata = copied(small_sdata)
        config = FitConfig(n_epochs=1, accelerator="cpu", precision="32-true", progress=False)
        return fit(sdata, "m2ost", config=config, model_options=TINY, shapes_key=[f"S{i}_spots" for i in numbers],
                   save_dir=tmp_path_factory.mktemp("fitted") / "model")  # fmt: skip

    return make


def test_it_is_saved_and_read_back(sdata, quick, tmp_path):
    predictor = quick(sdata, n_members=2, shapes_key=["S0_spots", "S1_spots"])
    again = Predictor.load(tmp_path / "model")
    assert again.hash == predictor.hash
    assert again.calibration.record == predictor.calibration.record
    assert again.calibration.record["kind"] == "held-out groups"
    assert again.calibration.record["n_spots"] == [25, 25]
    assert "chose the epoch" in again.calibration.record["note"]
    assert again.calibration.n_views == 8
    for kind in ("conformal", "conformal_groups"):
        np.testing.assert_array_equal(again.calibration.quantile(kind, 0.9), predictor.calibration.quantile(kind, 0.9))
    assert "calibrated on 50 spots of held-out groups" in repr(again)


def test_held_out_errors_are_those_of_a_prediction(sdata, quick):
    """What `fit` noted of the group that its only member did not see is what `calibrate` finds there."""
    predictor = quick(sdata, shapes_key=["S0_spots", "S1_spots"], validate_on=["S1_spots"])
    again = calibrate(predictor, sdata, shapes_key="S1_spots", allow_leakage=True, **QUIET)
    np.testing.assert_allclose(
        again.calibration.pooled.values, predictor.calibration.pooled.values, rtol=1e-4, atol=1e-5
    )
    assert again.calibration.record["leaks"]


def test_an_older_predictor_predicts_and_says_what_it_lacks(sdata, fitted, tmp_path):
    predictor = fitted(0, 1, 2)
    older = replace(predictor, calibration=None, image_range=None)
    older.save(tmp_path / "older")
    assert "calibration" not in json.loads((tmp_path / "older" / "config.json").read_text())
    loaded = Predictor.load(tmp_path / "older")
    assert loaded.calibration is None
    predict(sdata, loaded, **QUIET)
    assert not {"unlike_training", "image_distance"} & set(sdata["predicted"].obs)
    with pytest.raises(ValueError, match=r"was not calibrated: .*`stp\.tl\.calibrate`, or train it again"):
        predict(sdata, loaded, uncertainty="conformal", **QUIET)


def test_without_validation_nothing_is_calibrated(sdata, quick):
    predictor = quick(sdata, validation="none", shapes_key="S0_spots")
    assert predictor.calibration is None
    calibrated = calibrate(predictor, sdata, shapes_key=["S1_spots", "S2_spots"], **QUIET)
    assert predictor.calibration is None
    assert calibrated.hash != predictor.hash
    assert calibrated.calibration.record["groups"] == ["S1_spots", "S2_spots"]
    assert not calibrated.calibration.record["leaks"]


def test_slides_that_were_trained_on_are_refused(sdata, quick, fitted):
    predictor = fitted(0, 1)
    with pytest.raises(ValueError, match=r"trained or validated on 'S1_spots'.*`allow_leakage=True`"):
        calibrate(predictor, sdata, shapes_key=["S1_spots", "S2_spots"], **QUIET)
    sdata["observed"].obs["tissue"] = "one"
    leaking = quick(sdata, shapes_key="S0_spots", group_key="tissue", validation="none")
    with pytest.raises(ValueError, match=r"'S2_spots', or on another slide of the same group"):
        calibrate(leaking, sdata, shapes_key="S2_spots", group_key="tissue", **QUIET)


def test_a_renamed_slide_is_known_by_its_counts(sdata, quick):
    predictor = quick(sdata, shapes_key="S0_spots", validation="none")
    with pytest.raises(ValueError, match="trained or validated on 'other/S0_spots'"):
        calibrate(predictor, {"other": sdata}, shapes_key="S0_spots", group_key="section", **QUIET)


def test_wrong_arguments(sdata, fitted):
    predictor = fitted(0, 1, 2)
    with pytest.raises(TypeError, match=r"`predictor` is a SpatialData; .*calibrate\(predictor, sdata\)"):
        calibrate(sdata, predictor)
    with pytest.raises(ValueError, match="`n_views` is 9"):
        calibrate(predictor, sdata, n_views=9)
    with pytest.raises(ValueError, match=r"`uncertainty` is 'bayes'; allowed: 'conformal', 'conformal_groups'"):
        predict(sdata, predictor, uncertainty="bayes", **QUIET)
    with pytest.raises(ValueError, match=r"`coverage` is 1\.5"):
        predict(sdata, predictor, uncertainty="conformal", coverage=1.5, **QUIET)
    with pytest.raises(ValueError, match=r"calibrated on 25 spots .* guarantee 0\.962 at most"):
        predict(sdata, predictor, uncertainty="conformal", coverage=0.99, **QUIET)
    sdata["observed"] = sdata["observed"][:, 1:].copy()
    with pytest.raises(ValueError, match=r"Slide 'S0_spots' lacks 1 of the predictor's 12 genes: 'GENE0'"):
        calibrate(predictor, sdata, allow_leakage=True, **QUIET)


def test_blocks_of_trained_slides_are_warned_of(sdata, quick):
    predictor = quick(sdata, shapes_key="S0_spots", validation="block")
    with pytest.warns(UserWarning, match="calibrated on held-out blocks of slides that were also trained on"):
        predict(sdata, predictor, shapes_key="S1_spots", uncertainty="conformal", coverage=0.5, **QUIET)


def test_another_stain_is_warned_of(sdata, fitted):
    predictor = fitted(0, 1)
    with pytest.warns(UserWarning, match="calibrated with `stain=None`, and `stain` is 'reinhard'"):
        predict(sdata, predictor, shapes_key="S2_spots", uncertainty="conformal", stain="reinhard", **QUIET)


def test_what_is_written(sdata, quick):
    predictor = quick(sdata, n_members=2)
    predict(sdata, predictor, key_added="wanted", n_views=8, **QUIET)
    predict(sdata, predictor, uncertainty="conformal", coverage=0.8, **QUIET)
    table = sdata["predicted"]
    lower, upper = table.layers["predicted_lower"], table.layers["predicted_upper"]
    assert lower.dtype == upper.dtype == np.float32
    assert (lower <= table.X).all()
    assert (upper >= table.X).all()
    assert (lower >= np.minimum(table.X, 0)).all()
    np.testing.assert_allclose(table.X, sdata["wanted"].X, atol=1e-5)
    params = table.uns["predicted"]["params"]
    assert params["n_views"] == 8
    assert params["uncertainty"] == "conformal"
    assert params["coverage"] == 0.8
    assert params["n_calibration"] == 50  # members left out S2 and S1
    assert "predicted_lower" not in sdata["wanted"].layers


def test_beside_a_layer(sdata, fitted):
    predictor = fitted(0, 1, 2)
    predict(sdata, predictor, uncertainty="conformal", **QUIET)
    alone = sdata["predicted"]
    predict(sdata, predictor, layer="guess", uncertainty="conformal", **QUIET)
    table = sdata["observed"]
    for end in ("lower", "upper"):
        np.testing.assert_array_equal(table.layers[f"guess_{end}"], alone.layers[f"predicted_{end}"])
    predict(sdata, predictor, layer="guess", **QUIET)
    assert not {"guess_lower", "guess_upper"} & set(table.layers)
    table.layers["mine_lower"] = table.X.copy()
    with pytest.raises(ValueError, match=r"'mine_lower', which exists and was not written by"):
        predict(sdata, predictor, layer="mine", uncertainty="conformal", **QUIET)


def test_streamed_to_disk(sdata, fitted, tmp_path):
    predictor = fitted(0, 1, 2)
    predict(sdata, predictor, key_added="wanted", uncertainty="conformal", **QUIET)
    for _ in range(2):  # the second time nothing is computed
        predict(sdata, predictor, uncertainty="conformal", store=tmp_path / "store", **QUIET)
        table, wanted = sdata["predicted"], sdata["wanted"]
        for end in ("predicted_lower", "predicted_upper"):
            streamed = np.asarray(table[wanted.obs_names].layers[end])
            np.testing.assert_allclose(streamed, wanted.layers[end], atol=1e-5)
        again = table.obs.loc[wanted.obs_names, "image_distance"]
        np.testing.assert_allclose(again, wanted.obs["image_distance"], atol=1e-5)
    read = ad.read_zarr(tmp_path / "store")
    np.testing.assert_array_equal(read.layers["predicted_upper"], np.asarray(table.layers["predicted_upper"]))
    with pytest.raises(FileExistsError, match="with other options"):
        predict(sdata, predictor, uncertainty="conformal", coverage=0.8, store=tmp_path / "store", **QUIET)
    with pytest.raises(FileExistsError, match="with other options"):
        predict(sdata, predictor, store=tmp_path / "store", n_views=8, **QUIET)


def test_frozen_encoders_are_calibrated_with_one_view(sdata, tmp_path):
    config = FitConfig(validation="slide", n_members=2, progress=False, accelerator="cpu", precision="32-true")
    options = {"encoder": "statistics", "size_px": 32}
    predictor = fit(sdata, "encoder_ridge", config=config, model_options=options, save_dir=tmp_path / "ridge")
    assert predictor.calibration.n_views == 1
    predict(sdata, predictor, uncertainty="conformal", **QUIET)
    assert sdata["predicted"].uns["predicted"]["params"]["n_views"] == 1


def test_end_to_end_on_synthetic_slides(tmp_path):
    """Spots drawn from the same slides are exchangeable: calibrated on some, intervals cover the others as said."""
    torch.set_num_threads(1)
    sdata = stp.datasets.synthetic(n_slides=5, n_side=12, um_per_px=8.0)
    names = list(sdata.shapes)
    config = FitConfig(validation="slide", n_members=3, progress=False, accelerator="cpu", precision="32-true")
    options = {"encoder": "statistics", "size_px": 32}
    predictor = fit(sdata, "encoder_ridge", config=config, model_options=options, shapes_key=names[:3],
                    save_dir=tmp_path / "ridge")  # fmt: skip
    table, wanted = sdata["observed"], observed(sdata)
    rng, shares = np.random.default_rng(0), []
    for _ in range(4):
        drawn = rng.permutation(table.n_obs) % 2 == 0
        some = SpatialData(images=dict(sdata.images), shapes=dict(sdata.shapes),
                           tables={"observed": table[drawn].copy()}, attrs=sdata.attrs)  # fmt: skip
        each = calibrate(predictor, some, shapes_key=names[3:], n_views=1, **QUIET)
        predict(sdata, each, shapes_key=names[3:], uncertainty="conformal", **QUIET)
        lower, upper = (sdata["predicted"].layers[f"predicted_{end}"] for end in ("lower", "upper"))
        rows = table.obs_names.get_indexer(sdata["predicted"].obs_names)
        shares.append(((wanted[rows] >= lower) & (wanted[rows] <= upper))[~drawn[rows]].mean())
    assert 0.88 <= np.mean(shares) <= 0.92, shares
