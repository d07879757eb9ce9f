"""A new slide is brought to the training donors: its stain, and mean and spread of its features, both shrunk."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

import stpredict as stp
from stpredict._slides.slides import Selection, resolve
from stpredict.tl._predictor import appearance as appearance_module
from stpredict.tl._predictor.appearance import (
    SPOTS_PER_SAMPLE,
    DonorMoments,
    Moments,
    measure_appearance,
    standardize_by_slide,
)

from .conftest import TINY

FAST = {"n_epochs": 1, "progress": False}


def moments(n_spots, mean, spread):
    return Moments(n_spots=n_spots, mean=np.array([mean], float), log_spread=np.log(np.array([spread], float)))


def shrunk(donors, own):
    found = donors.shrink(own)
    return float(found.mean[0]), float(np.exp(found.log_spread[0]))


def test_moments():
    values = np.random.default_rng(0).normal(3, 2, (50, 4))
    found = Moments.of(values)
    np.testing.assert_allclose(found.mean, values.mean(axis=0))
    np.testing.assert_allclose(np.exp(found.log_spread), values.std(axis=0))


def test_donors_have_equal_weight_whatever_their_number_of_slides():
    slides = [moments(100, 0, 1), moments(100, 0, 1), moments(100, 3, 1)]
    donors = DonorMoments.of(slides, ["A", "A", "B"])
    assert (donors.n_donors, donors.n_spots, donors.mean[0]) == (2, 300, 1.5)
    assert donors.mean_squares[0] == pytest.approx(2 * 1.5**2)


def test_both_limits():
    alike = DonorMoments.of([moments(400, 0.0, 1), moments(400, 0.01, 1)], ["A", "B"])
    assert shrunk(alike, moments(400, 0.05, 1.02)) == (pytest.approx(0.005), pytest.approx(1))  # donors' values
    apart = DonorMoments.of([moments(400, -50, 0.01), moments(400, 50, 100)], ["A", "B"])
    assert shrunk(apart, moments(400, 7, 3)) == (pytest.approx(7, rel=0.01), pytest.approx(3, rel=0.01))  # its own
    one = DonorMoments.of([moments(400, 0, 1)], ["A"])
    assert shrunk(one, moments(400, 40, 1))[0] == pytest.approx(40, rel=1e-3)  # far beyond sampling


def test_shrinkage_by_hand():
    donors = DonorMoments.of([moments(200, 0, 1), moments(200, 2, 1)], ["A", "B"])
    v, v_donors = SPOTS_PER_SAMPLE / 100, SPOTS_PER_SAMPLE / 400
    tau2 = (1 + 1 + 1.5**2) / 2 - v - v_donors
    expected = 1 + tau2 / (tau2 + v) * 1.5
    assert shrunk(donors, moments(100, 2.5, 1))[0] == pytest.approx(expected)
    log_ratio = math.log(2)
    tau2 = log_ratio**2 / 2 - v / 2 - v_donors / 2
    assert shrunk(donors, moments(100, 1, 2))[1] == pytest.approx(math.exp(tau2 / (tau2 + v / 2) * log_ratio))


@pytest.mark.parametrize("own", [None, moments(SPOTS_PER_SAMPLE - 1, 90, 7)])
def test_slides_with_few_spots_are_standardised_by_the_donors(own):
    donors = DonorMoments.of([moments(200, 0, 1), moments(200, 2, 1)], ["A", "B"])
    assert shrunk(donors, own) == (1, 1)


def test_a_shift_of_a_whole_slide_vanishes():
    rng = np.random.default_rng(0)
    tissue = rng.normal(size=(4000, 3))
    trained = [Moments.of(rng.normal(size=(4000, 3))) for _ in range(3)]
    donors = DonorMoments.of(trained, ["A", "B", "C"])
    slide = torch.zeros(4000, dtype=torch.int64)
    scanned = torch.from_numpy(tissue * 4 + 9)
    found = standardize_by_slide(scanned, slide, donors, [Moments.of(scanned.numpy())])
    np.testing.assert_allclose(found.numpy(), tissue, atol=0.15)


def test_donors_survive_saving():
    donors = DonorMoments.of([moments(200, 0, 1), moments(150, 2, 3)], ["A", "B"])
    loaded = DonorMoments.from_state_dict(donors.state_dict())
    assert shrunk(loaded, moments(60, 5, 2)) == shrunk(donors, moments(60, 5, 2))
    assert (loaded.n_donors, loaded.n_spots) == (2, 350)


@pytest.fixture(scope="module")
def slides():
    return stp.datasets.synthetic(n_slides=3, n_side=6)


@pytest.fixture(scope="module")
def ridge(slides, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ridge") / "predictor"
    return stp.tl.fit(
        slides,
        "ridge_statistics",
        shapes_key=["S0_spots", "S1_spots"],
        config={"progress": False},
        model_options={"standardize": "slide"},
        save_dir=folder,
    )


def test_a_slide_is_measured_once_and_parts_of_it_agree(slides, ridge, tmp_path, monkeypatch):
    stp.tl.predict(slides, ridge, shapes_key="S2_spots", progress=False)
    whole = slides["predicted"].to_df()
    monkeypatch.setattr("stpredict.tl._inference.plan.PARTITION_SIZE", 5)
    stp.tl.predict(slides, ridge, shapes_key="S2_spots", progress=False, store=tmp_path / "store", key_added="parts")
    parts = pd.DataFrame(np.asarray(slides["parts"].X.compute()), slides["parts"].obs_names, slides["parts"].var_names)
    np.testing.assert_allclose(parts.loc[whole.index], whole, atol=1e-5)


def test_a_predictor_that_standardises_survives_saving(slides, ridge, tmp_path):
    ridge.save(tmp_path / "saved")
    loaded = stp.tl.Predictor.load(tmp_path / "saved")
    assert loaded.hash == ridge.hash
    for name, predictor in (("before", ridge), ("after", loaded)):
        stp.tl.predict(slides, predictor, shapes_key="S2_spots", progress=False, key_added=name)
    np.testing.assert_array_equal(slides["before"].X, slides["after"].X)


def test_training_statistics_and_own_statistics_differ(slides, ridge):
    plain = stp.tl.fit(slides, "ridge_statistics", shapes_key=["S0_spots", "S1_spots"], config={"progress": False})
    assert plain.members[0].donors is None
    assert ridge.members[0].donors.n_donors == 2
    assert plain.hash != ridge.hash


def test_few_spots_are_said(ridge, caplog):
    few = stp.datasets.synthetic(n_slides=1, n_side=4)
    stp.tl.predict(few, ridge, progress=False)
    assert "has 16 spots; its own stain, mean and spread are used from 20 spots on" in caplog.text
    assert np.isfinite(few["predicted"].X).all()


def darker(sdata, gain):
    """The same slides with more stain: optical densities of each channel times ``gain``."""
    found = stp.datasets.synthetic(n_slides=3, n_side=6)
    for image in found.images.values():
        for scale in image.children.values():
            pixels = scale["image"]
            density = -np.log(np.maximum(pixels.values, 1) / 255)
            factor = np.array(gain)[:, None, None]
            pixels.values = np.rint(255 * np.exp(-density * factor)).astype(pixels.dtype)
    return found


def test_stain_of_a_new_slide_is_brought_to_that_of_training(slides, monkeypatch):
    monkeypatch.setattr(appearance_module, "SPOTS_PER_SAMPLE", 1)  # 36 spots are enough here
    train = {"shapes_key": ["S0_spots", "S1_spots"], "config": FAST}
    predictor = stp.tl.fit(slides, "m2ost_tiny", model_options=TINY, **train)
    fabric = stp.tl.PredictOptions(device="cpu").fabric
    dark = darker(slides, (1.5, 1.4, 1.6))
    slide = resolve(dark, Selection(shapes_key="S2_spots"))[0]
    appearance = measure_appearance(slide, predictor, fabric)
    assert appearance.recolor is not None
    training = resolve(slides, Selection(shapes_key="S0_spots"))[0]
    level = np.asarray(slide.levels[0].pixels[:, 200:400, 200:400])
    recoloured = appearance.recolor(level[None])[0]
    wanted = np.asarray(training.levels[0].pixels).mean()
    assert abs(recoloured.mean() - wanted) < abs(level.mean() - wanted)
    left = stp.tl.fit(slides, "m2ost_tiny", model_options={**TINY, "stain": "none"}, **train)
    assert measure_appearance(slide, left, fabric).recolor is None


@pytest.mark.parametrize(("key", "kinds"), [("patient", ["new donor", "same donor"]), (None, ["not stated"])])
def test_new_donors_are_scored_apart(key, kinds):
    sdata = stp.datasets.synthetic(n_slides=3, n_side=6)
    table = sdata["observed"]
    region = table.obs[table.uns["spatialdata_attrs"]["region_key"]].astype(str)
    table.obs["patient"] = region.map({"S0_spots": "A", "S1_spots": "A", "S2_spots": "B"}).to_numpy()
    with_key = {} if key is None else {"group_key": key}
    predictor = stp.tl.fit(sdata, "ridge_color", shapes_key="S0_spots", config={"progress": False}, **with_key)
    stp.tl.predict(sdata, predictor, shapes_key=["S1_spots", "S2_spots"], progress=False)
    both = ["S1_spots", "S2_spots"]
    found = stp.tl.summary(stp.tl.evaluate(sdata, shapes_key=both, by="donor"))
    assert list(found.index.get_level_values("donor").unique()) == kinds
    one = stp.tl.evaluate(sdata, shapes_key="S2_spots")
    expected = stp.tl.summary(one).loc["model"]
    if key is not None:
        pd.testing.assert_series_equal(found.loc[("new donor", "model")], expected, check_names=False)
        assert "cannot be known from this one" in predictor.provenance.donors_note
    with pytest.raises(ValueError, match="`by` is 'slide'"):
        stp.tl.evaluate(sdata, by="slide")


def test_donors_are_named_in_the_card(slides, ridge, tmp_path):
    ridge.save(tmp_path / "saved")
    assert "Donors trained on: not stated: name them with `group_key`" in (tmp_path / "saved/README.md").read_text()
    assert "donors: not stated" in repr(ridge)
