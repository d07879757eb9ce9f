"""Embeddings that came with the spots, in ``obsm``: trained on, saved, predicted from; and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stpredict.tl import FitConfig, Predictor, fit, predict

QUICK = {"accelerator": "cpu", "precision": "32-true", "progress": False}
TRAINED_ON, TESTED_ON = ["S0_spots", "S1_spots"], "S2_spots"
MODELS = {
    "encoder_ridge": ({}, {}),
    "encoder_mlp": ({"hidden": 32}, {"n_epochs": 40, "lr": 3e-3}),
    "bleep": ({"dim": 32, "top_k": 5}, {"n_epochs": 60, "batch_size": 50, "lr": 3e-3}),
}


@pytest.fixture
def embedded(sdata):
    """Embeddings that tell the rate of every gene, mixed."""
    table = sdata["observed"]
    rate = np.asarray(table.layers["rate"])
    rng = np.random.default_rng(0)
    mixed = (rate - rate.mean(axis=0)) @ rng.normal(size=(rate.shape[1], 20)) + 0.1 * rng.normal(size=(len(rate), 20))
    table.obsm["X_uni"] = mixed.astype(np.float32)
    table.obsm["X_narrow"] = table.obsm["X_uni"][:, :7]
    return sdata


def fitted(sdata, name, folder, **arguments):
    options, recipe = MODELS[name]
    config = FitConfig(**{**QUICK, **recipe, "validation": "none"})
    return fit(
        sdata,
        name,
        config=config,
        model_options={"size_px": 16, "fov_spots": (1.5,), **options},
        shapes_key=TRAINED_ON,
        save_dir=folder,
        **arguments,
    )


@pytest.mark.parametrize("name", MODELS)
def test_trained_saved_loaded_predicted(embedded, tmp_path, name):
    predictor = fitted(embedded, name, tmp_path / "model", features_key="X_uni")
    assert (predictor.model_config.encoder, predictor.model_config.n_features) == ("given", 20)
    loaded = Predictor.load(tmp_path / "model")
    assert loaded.hash == predictor.hash
    tables = []
    for key, used in {"before": predictor, "after": loaded}.items():
        predict(embedded, used, features_key="X_uni", shapes_key=TESTED_ON, key_added=key, progress=False)
        tables.append(embedded[key])
    assert np.array_equal(tables[0].X, tables[1].X)
    there = embedded["observed"].obs["region"] == TESTED_ON
    rate = np.asarray(embedded["observed"][there.to_numpy(), predictor.genes].layers["rate"])
    r = [np.corrcoef(tables[1].X[:, j], rate[:, j])[0, 1] for j in range(rate.shape[1])]
    assert np.mean(r) > 0.7


def test_embeddings_do_not_change_how_the_network_is_trained(embedded, tmp_path):
    """The network of an ensemble is that of a fit without embeddings: same steps, on patches turned alike."""
    options = {"size_px": 16, "fov_spots": (1.5,), "dim": 24, "depth": 1, "heads": 2, "patch_size": 8}
    common = {"config": FitConfig(**QUICK, n_epochs=2, validation="none"), "shapes_key": TRAINED_ON}
    beside = fit(embedded, "m2ost_encoder", model_options={"m2ost_tiny": options, "encoder_ridge": {"size_px": 16}},
                 features_key="X_uni", save_dir=tmp_path / "beside", **common)  # fmt: skip
    alone = fit(embedded, "m2ost_tiny", model_options=options, save_dir=tmp_path / "alone", **common)
    found, wanted = (each.members[0].network.state_dict() for each in (beside, alone))
    torch.testing.assert_close(found, wanted)


def test_rows_of_embeddings_are_those_of_the_spots(embedded, tmp_path):
    """Shuffled rows of the table are the same spots with the same embeddings."""
    predictor = fitted(embedded, "encoder_ridge", tmp_path / "model", features_key="X_uni")
    predict(embedded, predictor, features_key="X_uni", shapes_key=TESTED_ON, progress=False)
    whole = embedded["predicted"].to_df()
    table = embedded["observed"]
    embedded.tables["observed"] = table[np.random.default_rng(1).permutation(len(table))].copy()
    predict(embedded, predictor, features_key="X_uni", shapes_key=TESTED_ON, key_added="again", progress=False)
    again = embedded["again"].to_df()
    np.testing.assert_allclose(again.loc[whole.index], whole, atol=1e-5)


def test_embeddings_are_needed_and_of_the_same_width_when_predicting(embedded, tmp_path):
    predictor = fitted(embedded, "encoder_ridge", tmp_path / "model", features_key="X_uni")
    with pytest.raises(ValueError, match=r"`encoder='given'` needs embeddings .*`features_key`"):
        predict(embedded, predictor, progress=False)
    with pytest.raises(ValueError, match=r"have 7 features, 'encoder_ridge' takes 20: they are of another encoder"):
        predict(embedded, predictor, features_key="X_narrow", progress=False)
    with pytest.raises(ValueError, match=r"No obsm\['X_conch'\] for the spots of"):
        predict(embedded, predictor, features_key="X_conch", progress=False)
    assert "predicted" not in embedded.tables


def test_embeddings_that_do_not_fit_are_refused_before_training(embedded, tmp_path):
    folder = tmp_path / "model"
    with pytest.raises(ValueError, match=r"No obsm\['X_conch'\] for the spots of .* \(found: .*'X_uni'"):
        fitted(embedded, "encoder_ridge", folder, features_key="X_conch")
    with pytest.raises(ValueError, match="takes no embeddings: it reads patches"):
        fit(embedded, "m2ost_tiny", features_key="X_uni", save_dir=folder)
    with pytest.raises(ValueError, match=r"and `encoder='resnet18'` too: features come from one of them"):
        fit(embedded, "encoder_ridge", model_options={"encoder": "resnet18"}, features_key="X_uni", save_dir=folder)
    with pytest.raises(ValueError, match=r"`encoder='given'` needs embeddings"):
        fit(embedded, "encoder_ridge", model_options={"encoder": "given"}, save_dir=folder)
    embedded["observed"].obsm["X_uni"][3, 2] = np.nan
    with pytest.raises(ValueError, match=r"holds NaN or infinite values at 1 of 25 spots: '.*'\. Embed them"):
        fitted(embedded, "encoder_ridge", folder, features_key="X_uni")
    assert not folder.exists()


def test_slides_embedded_differently_are_refused(embedded, small_sdata, tmp_path):
    from .conftest import copied

    other = copied(small_sdata)
    other["observed"].obsm["X_uni"] = embedded["observed"].obsm["X_narrow"]
    with pytest.raises(ValueError, match=r"than those of 'one/S0_spots': they have 7 features, not 20"):
        fit({"one": embedded, "two": other}, "encoder_ridge", features_key="X_uni", save_dir=tmp_path / "model")


def test_predictor_that_reads_patches_takes_no_embeddings(embedded, predictor):
    with pytest.raises(ValueError, match="takes no embeddings: it reads patches"):
        predict(embedded, predictor, features_key="X_uni", progress=False)
