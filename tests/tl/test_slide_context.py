"""Models with slide context, from training to a store: results do not depend on partitions or processes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
import zarr

from stpredict._slides.slides import Selection, resolve
from stpredict.tl import FitConfig, PredictOptions, Predictor, fit, predict
from stpredict.tl._inference import plan as plan_module
from stpredict.tl._inference.partitions import PredictionTask, predict_positions, read_positions
from stpredict.tl._inference.plan import PredictionPlan
from stpredict.tl._inference.sinks import StoreSink
from stpredict.tl._training.checkpoint import Reporter

from .conftest import TESTED_ON, TRAINED_ON, copied

QUICK = {"accelerator": "cpu", "precision": "32-true", "progress": False}
QUIET = {"device": "cpu", "precision": "32-true", "progress": False}
TINY = {
    "histogene": {"dim": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "size_px": 16},
    "stflow": {"dim": 16, "depth": 1, "heads": 2, "size_px": 16},
}


def trained_on(sdata, name, folder, **arguments):
    config = FitConfig(n_epochs=3, lr=1e-2, window=12, progress=False, accelerator="cpu", precision="32-true")
    place = {} if "resume_from" in arguments else {"save_dir": folder}
    return fit(sdata, name, config=config, model_options=TINY[name], shapes_key=TRAINED_ON, **place, **arguments)


@pytest.fixture(scope="module", params=TINY)
def name(request):
    return request.param


one_model = pytest.mark.parametrize("name", ["histogene"], indirect=True)
"""For tests of what is the same for all models of slides."""


@pytest.fixture(scope="module")
def straight(name, small_sdata, tmp_path_factory):
    """A folder with a predictor that sees more than a spot."""
    folder = tmp_path_factory.mktemp(name) / "model"
    trained_on(copied(small_sdata), name, folder)
    return folder


@pytest.fixture
def predictor(straight):
    """One to which small differences matter."""
    predictor = Predictor.load(straight)
    with torch.random.fork_rng():
        torch.nn.init.normal_(predictor.members[0].network.head.weight, std=3.0)
    return predictor


@pytest.fixture
def embedded(sdata):
    """Spots with two kinds of embeddings."""
    draw = np.random.default_rng(0)
    for kind in ("one", "other"):
        sdata["observed"].obsm[kind] = draw.normal(size=(75, 3)).astype(np.float32)
    return sdata


def values(sdata, predictor, **arguments):
    """Predictions in the order of names."""
    predict(sdata, predictor, **arguments, **QUIET)
    table = sdata["predicted"]
    return np.asarray(table[sorted(table.obs_names)].X)


def stretch(plan, predictor, *ends):
    found = [piece["X"] for first, last in pairwise(ends) for piece in predict_positions(plan, predictor, first, last)]
    return np.concatenate(found)


# ---- prediction


@one_model
@pytest.mark.usefixtures("small_partitions")
def test_windows_hold_the_stretch_once_and_what_is_around(sdata, predictor):
    plan = PredictionPlan.of(resolve(sdata, Selection()), predictor, PredictOptions())
    for first, last in ((0, 75), (3, 60), (20, 21), (16, 32)):
        found = []
        for piece, inside in read_positions(plan, predictor, first, last):
            assert len(piece.rows) <= 16 + 4
            assert len(set(piece.rows)) == len(piece.rows)
            slide = int(piece.spots.slide[0])
            assert (piece.spots.slide == slide).all()
            found.append(piece.rows[inside] + plan.starts[slide])
        np.testing.assert_array_equal(np.concatenate(found), plan.order[first:last])


@pytest.mark.usefixtures("small_partitions")
def test_stretches_do_not_matter(sdata, predictor):
    plan = PredictionPlan.of(resolve(sdata, Selection()), predictor, PredictOptions(device="cpu", precision="32-true"))
    whole = stretch(plan, predictor, 0, 75)
    assert whole.shape == (75, 12)
    for ends in ((0, 16, 32, 48, 64, 75), (0, 1, 40, 75), (0, 25, 50, 75)):
        np.testing.assert_allclose(stretch(plan, predictor, *ends), whole, atol=1e-5)


@one_model
def test_spots_around_a_partition_matter(sdata, predictor, monkeypatch):
    monkeypatch.setattr(plan_module, "PARTITION_SIZE", 8)
    found = []
    for around in (0, 25):
        monkeypatch.setattr(plan_module, "WINDOW_MARGIN", around)
        found.append(values(sdata, predictor))
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_a_slide_whose_surroundings_are_the_slide_is_seen_whole(sdata, predictor, monkeypatch):
    wanted = values(sdata, predictor)
    assert np.array_equal(values(sdata, predictor), wanted)
    monkeypatch.setattr(plan_module, "PARTITION_SIZE", 8)
    np.testing.assert_allclose(values(sdata, predictor), wanted, atol=1e-4)


@one_model
@pytest.mark.usefixtures("small_partitions")
def test_slides_together_are_slides_alone(sdata, predictor):
    predict(sdata, predictor, key_added="together", **QUIET)
    together = sdata["together"]
    for name in (*TRAINED_ON, TESTED_ON):
        predict(sdata, predictor, shapes_key=name, **QUIET)
        alone = sdata["predicted"]
        np.testing.assert_allclose(alone.X, together[alone.obs_names].X, atol=1e-5)


@one_model
@pytest.mark.usefixtures("small_partitions")
def test_a_store_holds_what_memory_would_and_is_taken_up(sdata, predictor, tmp_path):
    wanted = values(sdata, predictor)
    np.testing.assert_allclose(values(sdata, predictor, store=tmp_path / "whole"), wanted, atol=1e-5)
    plan = PredictionPlan.of(resolve(sdata, Selection()), predictor, PredictOptions(device="cpu", precision="32-true"))
    begun = StoreSink.create(tmp_path / "begun", plan, PredictionTask(predictor))
    begun.write(16, predict_positions(plan, predictor, 16, 48))  # the second and third of five partitions
    assert zarr.open_group(tmp_path / "begun", mode="r")["finished"][:].tolist() == [0, 1, 1, 0, 0]
    np.testing.assert_allclose(values(sdata, predictor, store=tmp_path / "begun"), wanted, atol=1e-5)


@one_model
@pytest.mark.usefixtures("small_partitions")
def test_a_cluster_gives_the_same(sdata, predictor, client):
    wanted = values(sdata, predictor)
    np.testing.assert_allclose(values(sdata, predictor, client=client), wanted, atol=1e-5)


@one_model
def test_views_are_averaged(sdata, predictor):
    one, eight = values(sdata, predictor), values(sdata, predictor, n_views=8)
    assert np.isfinite(eight).all()
    assert eight.shape == one.shape


def test_other_embeddings_are_another_prediction(embedded, tmp_path):
    """Of a store that was begun with one, none is taken up with another."""
    options = {"config": FitConfig(n_epochs=1, **QUICK), "model_options": TINY["stflow"]}
    predictor = fit(embedded, "stflow", features_key="one", save_dir=tmp_path / "model", **options)
    predict(embedded, predictor, features_key="one", store=tmp_path / "store", **QUIET)
    with pytest.raises(FileExistsError, match="holds predictions of other spots"):
        predict(embedded, predictor, features_key="other", store=tmp_path / "store", **QUIET)


# ---- training


def test_same_seed_same_predictor(sdata, name, straight, tmp_path):
    assert trained_on(sdata, name, tmp_path / "again").hash == Predictor.load(straight).hash


def test_a_training_that_was_interrupted_goes_on(sdata, name, straight, tmp_path, monkeypatch):
    def interrupted(self, state):
        report(self, state)
        if state.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        report = Reporter.report
        patched.setattr(Reporter, "report", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained_on(sdata, name, tmp_path / "stopped")
    assert trained_on(sdata, name, None, resume_from=tmp_path / "stopped").hash == Predictor.load(straight).hash


def test_a_training_with_other_embeddings_is_another_one(embedded, tmp_path, monkeypatch):
    def interrupted(self, state):
        report(self, state)
        raise KeyboardInterrupt

    options = {"config": FitConfig(n_epochs=2, **QUICK), "model_options": TINY["stflow"]}
    with monkeypatch.context() as patched:
        report = Reporter.report
        patched.setattr(Reporter, "report", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(embedded, "stflow", features_key="one", save_dir=tmp_path / "stopped", **options)
    with pytest.raises(ValueError, match="slides"):
        fit(embedded, "stflow", features_key="other", resume_from=tmp_path / "stopped", **options)
