"""Ensembles of models: one member is that member, the mean has the weights that were asked for, errors come first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict._pixels import PatchReader
from stpredict.models._variants import ENSEMBLES
from stpredict.pp import stain_normalization
from stpredict.tl import FitConfig, Predictor
from stpredict.tl._training import train_members as _train_members

from .conftest import copied

TINY = {"dim": 24, "depth": 1, "heads": 2, "size_px": 32, "patch_size": 8}
QUIET = {"n_epochs": 2, "accelerator": "cpu", "precision": "32-true", "progress": False}
HERE = {"device": "cpu", "precision": "32-true", "progress": False}
PAIR = ["m2ost", "ridge_color"]
OPTIONS = {"m2ost": TINY, "ridge_color": {"size_px": 32}}
TRAIN, TEST = ["S0_spots", "S1_spots"], "S2_spots"


def fit(sdata, model=PAIR, *, model_options=OPTIONS, config=(), **arguments):
    return stp.tl.fit(
        sdata, model, model_options=model_options, config={**QUIET, **dict(config)}, shapes_key=TRAIN, **arguments
    )


def predicted(sdata, predictor, **arguments):
    stp.tl.predict(sdata, predictor, shapes_key=TEST, key_added="found", **HERE, **arguments)
    return sdata.tables.pop("found")


@pytest.fixture(scope="module")
def pair(small_sdata):
    """An ensemble of two models with equal weights, that no test may change."""
    return fit(copied(small_sdata))


# ---- members and weights


def test_an_ensemble_of_one_is_that_model_bit_for_bit(sdata):
    one, listed = (fit(sdata, model, model_options=TINY) for model in ("m2ost", ["m2ost"]))
    assert one.hash == listed.hash
    assert np.array_equal(predicted(sdata, one).X, predicted(sdata, listed).X)
    heavy = fit(sdata, weights={"m2ost": 1.0})  # the other member has no weight
    assert np.array_equal(predicted(sdata, heavy).X, predicted(sdata, one).X)


def test_the_prediction_is_the_weighted_mean_of_what_the_models_predict_alone(sdata, pair):
    alone = [predicted(sdata, fit(sdata, name, model_options=OPTIONS[name])).X for name in PAIR]
    for predictor, expected in (
        (pair, (0.5, 0.5)),
        (fit(sdata, weights=[1, 3]), (0.25, 0.75)),
        (fit(sdata, weights={"ridge_color": 1, "m2ost": 4}), (0.8, 0.2)),
    ):
        assert list(predictor.models.values()) == pytest.approx(expected)
        table = predicted(sdata, predictor, members=True)
        np.testing.assert_allclose(table.X, sum(w * x for w, x in zip(expected, alone, strict=True)), atol=1e-5)
        for name, values in zip(PAIR, alone, strict=True):
            np.testing.assert_array_equal(table.layers[name], values)
    assert fit(sdata, weights="equal").hash == pair.hash


def test_networks_of_one_model_share_its_weight_and_have_seeds_of_their_own(sdata):
    predictor = fit(sdata, weights=[0.2, 0.8], config={"n_members": 2, "validation": "none"})
    assert [member.model for member in predictor.members] == ["m2ost", "m2ost", "ridge_color", "ridge_color"]
    assert [member.weight for member in predictor.members] == pytest.approx([0.1, 0.1, 0.4, 0.4])
    first, second = (next(iter(member.network.parameters())) for member in predictor.members[:2])
    assert not first.equal(second)
    assert predictor.history["member"].unique().tolist() == [0, 1, 2, 3]


def test_the_default_is_a_registered_ensemble_with_its_weights(sdata):
    options = {"m2ost_tiny": {**TINY, "fov_spots": (1.5, 3.0)}, "ridge_statistics": {"size_px": 32}}
    known = ENSEMBLES[stp.models.DEFAULT].members
    predictor = fit(sdata, stp.models.DEFAULT, model_options={name: options[name] for name in known},
                    config={"n_epochs": 1})  # fmt: skip
    assert predictor.models == pytest.approx(known)
    assert predictor.provenance.ensemble["weights_from"] == "registered"


def test_every_model_has_its_own_recipe(sdata):
    options = {"m2ost": TINY, "encoder_mlp": {"encoder": "statistics", "size_px": 32}}
    predictor = fit(sdata, list(options), model_options=options, config={"n_epochs": 1})
    models = {name: each["fit"] for name, each in predictor.provenance.ensemble["models"].items()}
    assert models["m2ost"]["lr"] == FitConfig().lr
    assert models["encoder_mlp"]["lr"] == stp.models.recipe("encoder_mlp")["lr"] != FitConfig().lr
    assert models["m2ost"]["n_epochs"] == models["encoder_mlp"]["n_epochs"] == 1


def test_a_model_that_sees_its_slide_stands_beside_one_that_does_not(sdata):
    names = ["ridge_color", "knn_spatial"]
    options = {name: {"size_px": 32} for name in names}
    predictor = fit(sdata, names, model_options=options)
    table = predicted(sdata, predictor, members=True)
    for name in names:
        alone = predicted(sdata, fit(sdata, name, model_options=options[name]))
        np.testing.assert_allclose(table.layers[name], alone.X, atol=1e-5)


def test_embeddings_go_to_the_members_that_take_them(sdata):
    table = sdata["observed"]
    table.obsm["X_mine"] = np.random.default_rng(0).normal(size=(table.n_obs, 4)).astype(np.float32)
    names = ["ridge_color", "encoder_ridge"]
    options = {name: {"size_px": 32} for name in names}
    predictor = fit(sdata, names, model_options=options, features_key="X_mine")
    found = predicted(sdata, predictor, members=True, features_key="X_mine")
    colour = predicted(sdata, fit(sdata, "ridge_color", model_options=options["ridge_color"]))
    np.testing.assert_allclose(found.layers["ridge_color"], colour.X, atol=1e-5)
    alone = fit(sdata, "encoder_ridge", model_options=options["encoder_ridge"], features_key="X_mine")
    np.testing.assert_allclose(
        found.layers["encoder_ridge"], predicted(sdata, alone, features_key="X_mine").X, atol=1e-5
    )
    with pytest.raises(ValueError, match="needs embeddings in the table: name their `obsm` as `features_key`"):
        predicted(sdata, predictor)


# ---- stacking


def test_stacked_weights_come_from_slides_that_were_left_out(sdata, tmp_path):
    """One member knows nothing: the mean of the training spots, of which it gets no more than shrinkage needs."""
    names = ["mean_profile", "ridge_color"]
    predictor = fit(sdata, names, model_options={name: {"size_px": 32} for name in names}, weights="stacked",
                    save_dir=tmp_path / "p")  # fmt: skip
    assert predictor.models["ridge_color"] > 0.6
    record = predictor.provenance.ensemble
    assert record["stacked"] == {"held_out": "groups", "n_folds": 2}
    assert "by stacking on held-out groups" in (tmp_path / "p" / "README.md").read_text(encoding="utf-8")
    assert predictor.history["member"].tolist() == [0, 1]  # not of the folds


def test_stacking_on_one_slide_is_marked_as_spatial_blocks(sdata):
    names = ["mean_profile", "ridge_color"]
    predictor = stp.tl.fit(sdata, names, model_options={name: {"size_px": 32} for name in names}, weights="stacked",
                           config=QUIET, shapes_key="S0_spots")  # fmt: skip
    assert predictor.provenance.ensemble["stacked"] == {"held_out": "spatial blocks", "n_folds": 4}


def test_networks_in_a_fold_see_nothing_of_it(sdata, monkeypatch):
    """Neither in training nor in early stopping, although the last fold leaves one slide to learn from."""
    seen, real = [], _train_members.train

    def watched(network, spots, validation, config, fabric, *, rows, **options):
        held_out = [] if validation is None else validation.rows.tolist()
        seen.append((set(rows.tolist()), set(held_out)))
        return real(network, spots, validation, config, fabric, rows=rows, **options)

    monkeypatch.setattr(_train_members, "train", watched)
    predictor = fit(sdata, weights="stacked", config={"n_epochs": 1, "batch_size": 8})
    assert len(predictor.members) == 2
    slides = [set(range(25)), set(range(25, 50))]
    folds = seen[2:]
    assert len(folds) == 4
    for (trained, validated), left_out in zip(folds, [slides[0], slides[0], slides[1], slides[1]], strict=True):
        assert not (trained | validated) & left_out
    assert all(validated for _, validated in folds[::2])  # the network stops early in each fold


# ---- files


def test_what_is_saved_comes_back(sdata, pair, tmp_path):
    pair.save(tmp_path / "pair")
    again = Predictor.load(tmp_path / "pair")
    assert again.hash == pair.hash
    assert (again.models, again.patches, again.model) == (pair.models, pair.patches, "m2ost+ridge_color")
    assert again.provenance.ensemble == pair.provenance.ensemble
    assert np.array_equal(predicted(sdata, again).X, predicted(sdata, pair).X)
    pd.testing.assert_frame_equal(again.history, pair.history, check_dtype=False)
    card = (tmp_path / "pair" / "README.md").read_text(encoding="utf-8")
    assert "Weighted mean of 0.5 m2ost, 0.5 ridge_color (equal weights)." in card
    assert "m2ost+ridge_color (0.50 m2ost + 0.50 ridge_color; 2 members" in repr(pair)


def test_weights_enter_the_hash(pair):
    moved = replace(pair, members=tuple(replace(m, weight=w) for m, w in zip(pair.members, (0.4, 0.6), strict=True)))
    assert moved.hash != pair.hash


STACKED = {"weights": "stacked", "config": {"n_epochs": 1, "batch_size": 8}}


@pytest.fixture(scope="module")
def stacked(small_sdata):
    return fit(copied(small_sdata), **STACKED)


@pytest.mark.parametrize("kill", [1, pytest.param(2, marks=pytest.mark.slow), 5])
def test_a_killed_training_goes_on_to_the_same_result(sdata, stacked, tmp_path, monkeypatch, kill):
    """Killed in one of six networks: the second of two members, the first and the last of two folds."""
    real, calls = _train_members.train, []

    def stopped(*given, **options):
        calls.append(1)
        if len(calls) == kill + 1:
            raise KeyboardInterrupt
        return real(*given, **options)

    monkeypatch.setattr(_train_members, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        fit(sdata, save_dir=tmp_path / "cut", **STACKED)
    monkeypatch.setattr(_train_members, "train", real)
    again = fit(sdata, resume_from=tmp_path / "cut", **STACKED)
    assert again.models == stacked.models
    assert np.array_equal(predicted(sdata, again).X, predicted(sdata, stacked).X)


def test_a_run_with_other_members_or_weights_is_not_resumed(sdata, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    real = _train_members.Checkpoint._end
    monkeypatch.setattr(_train_members.Checkpoint, "_end", lambda *_: None)
    monkeypatch.setattr(_train_members, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        fit(sdata, save_dir=tmp_path / "cut")
    monkeypatch.setattr(_train_members.Checkpoint, "_end", real)
    with pytest.raises(ValueError, match="begun with other 'weights'"):
        fit(sdata, weights=[1, 2], resume_from=tmp_path / "cut")
    with pytest.raises(ValueError, match="begun with other 'model', 'members'"):
        fit(sdata, ["m2ost", "ridge_statistics"], model_options={"m2ost": TINY}, resume_from=tmp_path / "cut")


# ---- prediction


def test_members_are_written_as_layers_of_an_existing_table_and_go_when_they_are_not_asked_for(sdata, pair):
    write = {"shapes_key": TEST, "layer": "L", **HERE}
    stp.tl.predict(sdata, pair, members=True, **write)
    table, rows = sdata["observed"], slice(50, None)
    apart = predicted(sdata, pair, members=True)
    for name in PAIR:
        np.testing.assert_array_equal(table[rows, pair.genes].layers[f"L_{name}"], apart.layers[name])
    assert list(table.uns["L"]["members"]) == PAIR
    stp.tl.predict(sdata, pair, **write)
    assert not {"L_m2ost", "L_ridge_color"} & set(table.layers)
    table.layers["L_m2ost"] = np.zeros(table.shape)
    with pytest.raises(ValueError, match="`layer` is 'L_m2ost', which exists and was not written by"):
        stp.tl.predict(sdata, pair, members=True, **write)


def test_members_are_streamed_too(sdata, pair, tmp_path, small_partitions):
    import anndata as ad

    expected = predicted(sdata, pair, members=True)
    streamed = predicted(sdata, pair, members=True, store=tmp_path / "store")
    stored = ad.read_zarr(tmp_path / "store")[expected.obs_names]
    for name in PAIR:
        np.testing.assert_allclose(stored.layers[name], expected.layers[name], atol=1e-5)
    assert set(streamed.layers) - {None} == set(PAIR)
    with pytest.raises(FileExistsError, match="with other options"):
        predicted(sdata, pair, store=tmp_path / "store")


def test_patches_are_read_once_for_all_members(sdata, monkeypatch):
    """The network and the regression on statistics see the same windows; that on colour needs one more."""
    names = ["m2ost_tiny", "ridge_statistics", "ridge_color"]
    options = {name: {"size_px": 32} for name in names} | {"m2ost_tiny": {**TINY, "fov_spots": (1.5, 3.0, 9.0)}}
    read, windows = PatchReader.read, []

    def counted(self, xy_px):
        windows.append(len(xy_px) * len(self.patch.fov_um))
        return read(self, xy_px)

    monkeypatch.setattr(PatchReader, "read", counted)
    predictor = fit(sdata, names, model_options=options, config={"n_epochs": 1})
    stain = sum(windows) - 50 * 4  # windows of another size, on which the stain of the slides is measured
    assert predictor.patches == (stp.tl.PatchSpec(fov_um=(150, 300, 600, 900), size_px=32),)
    assert [member.patch.fov_um for member in predictor.members] == [(150, 300, 900), (150, 300, 900), (150, 300, 600)]
    windows.clear()
    fit(sdata, "mean_profile", model_options={"size_px": 32})
    assert stain == sum(windows) - 50 * 3
    windows.clear()
    predicted(sdata, predictor)
    measured = stain_normalization.N_WINDOWS  # the stain of the slide, at some of its spots
    assert sum(windows) == 25 * 4 + measured
    assert predicted(sdata, predictor).obsm["color"].shape == (25, 6 * 4)  # of the patches of the first member


def test_models_that_disagree_have_wider_intervals(sdata, pair):
    calibrated = stp.tl.calibrate(pair, sdata, shapes_key=TEST, n_views=1, **HERE)
    table = predicted(sdata, calibrated, uncertainty="conformal", coverage=0.5, members=True)
    width = table.layers["predicted_upper"] - table.X
    apart = np.abs(table.layers["m2ost"] - table.layers["ridge_color"])
    quarter = 0.25 * np.mean([member.targets.scale for member in calibrated.members], axis=0)
    quantile = calibrated.calibration.pooled.quantile(0.5)
    np.testing.assert_allclose(width, quantile * (apart / 2 + quarter), rtol=1e-3, atol=1e-4)


def test_an_ensemble_is_calibrated_where_all_its_models_held_out(sdata):
    both = fit(sdata, config={"n_epochs": 1, "validation": "slide", "n_members": 2})
    assert both.calibration.pooled.n == 50
    assert both.calibration.record["kind"] == "held-out groups"
    assert fit(sdata, config={"n_epochs": 1}).calibration is None  # the regression held nothing out


# ---- comparisons


def test_a_benchmark_compares_ensembles_with_their_members(sdata, tmp_path):
    names = ["mean_profile", "ridge_color"]
    options = {name: {"size_px": 32} for name in names}
    rows = {"both": stp.tl.Entry(names, options=options, weights=[1, 3]), "stacked": stp.tl.Entry(
        names, options=options, weights="stacked")}  # fmt: skip
    found = stp.tl.benchmark(sdata, rows, save_dir=tmp_path, group_key=None, progress=False)
    assert set(found.runs["model"]) == {"both", "stacked", "mean_profile", "ridge_color"}
    assert len(found.failed) == 0
    parts = {name: found.table(name).X for name in (*names, "both")}
    assert found.summary().loc["both", "gene_pearson"] > 0
    assert parts["both"].shape == parts["ridge_color"].shape


def test_cross_validation_takes_a_list(sdata):
    names = ["mean_profile", "ridge_color"]
    scores = stp.tl.cross_validate(sdata, names, weights=[0, 1], group_key=None, progress=False,
                                   model_options={name: {"size_px": 32} for name in names})  # fmt: skip
    table = stp.tl.summary(scores)
    assert sdata["observed"].uns["cross_validated"]["model"]["name"] == "mean_profile+ridge_color"
    assert table.loc["mean_profile+ridge_color", "gene_pearson"] == pytest.approx(
        table.loc["ridge_color", "gene_pearson"], abs=1e-6
    )


# ---- bad input: before anything is read


@pytest.fixture
def unread(monkeypatch):
    def refuse(*_):
        pytest.fail("patches were read before the input was checked")

    monkeypatch.setattr(PatchReader, "read", refuse)


BAD = [
    ({"model": ["m2ost", "m2osst"]}, r"No model 'm2osst'\. Did you mean 'm2ost'"),
    ({"model": ["m2ost", "ridge_color", "m2ost"]}, r"'m2ost' is in the list of models more than once"),
    ({"model": ["m2ost", "m2ost_ridge"]}, r"'m2ost_ridge' is an ensemble itself.*'m2ost_tiny', 'ridge_statistics'"),
    ({"model": []}, r"`model` is an empty list"),
    ({"weights": [0.5, 0.2, 0.3]}, r"`weights` has 3 number\(s\), and 'm2ost\+ridge_color' has 2 member\(s\)"),
    ({"weights": [1, -0.5]}, r"`weights` is \{'m2ost': 1, 'ridge_color': -0.5\}\. Give numbers of at least 0"),
    ({"weights": [0, 0]}, r"not all of them 0"),
    ({"weights": [1, float("nan")]}, r"Give numbers of at least 0"),
    ({"weights": ["a", "b"]}, r"Give numbers of at least 0"),
    ({"weights": {"m2ost": 1, "bleep": 2}}, r"`weights` names 'bleep', and the members .* are 'm2ost', 'ridge_color'"),
    ({"weights": "stack"}, r"`weights` is 'stack'\. Give 'equal', 'stacked'"),
    ({"model": "m2ost", "model_options": TINY, "weights": [1, 2]}, r"`weights` has 2 number\(s\), and 'm2ost' has 1"),
    ({"model_options": {"depth": 3}}, r"`model_options` names 'depth', and the members .*`model_options=\{'m2ost'"),
    ({"model_options": {"m2ost": 3}}, r"`model_options\['m2ost'\]` is 3\. Give a mapping"),
    ({"model_options": {"m2ost": {"deph": 3}}}, r"has no field 'deph'"),
    ({"model": ["ridge_color", "encoder_ridge"], "model_options": {"encoder_ridge": {"encoder": "given"}}},
     r"needs embeddings in the table: name their `obsm` as `features_key`"),
    ({"patch": stp.tl.PatchSpec(fov_um=(100,), size_px=32)}, r"`patch` has 1 scale\(s\) of 32 px, 'm2ost' takes 3"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_mistakes_are_answered_before_anything_is_read(sdata, unread, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        fit(sdata, **arguments)


def test_embeddings_that_no_member_takes_are_refused(sdata, unread):
    table = sdata["observed"]
    table.obsm["X_mine"] = np.ones((table.n_obs, 4), np.float32)
    with pytest.raises(ValueError, match=r"`features_key` was given, but 'm2ost\+ridge_color' takes no embeddings"):
        fit(sdata, features_key="X_mine")


def test_closed_forms_cannot_be_students(sdata, unread):
    with pytest.raises(ValueError, match="'ridge_statistics' is not trained by steps"):
        stp.tl.self_train(sdata, sdata, "m2ost_ridge", config=QUIET)
