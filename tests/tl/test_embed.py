"""Embeddings computed once: the values are those of the encoder, streamed, resumed, recorded and checked."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import torch
import zarr
from spatialdata import read_zarr

from stpredict import pp
from stpredict._slides.slides import Selection, resolve
from stpredict._train import data
from stpredict._train.data import read_spots
from stpredict.models.encoder import Encoder
from stpredict.tl import Entry, FitConfig, PatchSpec, Predictor, benchmark, calibrate, embed, fit, predict
from stpredict.tl._inference import compute, sinks

from .conftest import TESTED_ON, TRAINED_ON, copied

QUIET = {"device": "cpu", "precision": "32-true", "progress": False}
SMALL = {"fov_um": (150, 300), "size_px": 16}
CONFIG = FitConfig(accelerator="cpu", precision="32-true", progress=False)
PATCH = PatchSpec(fov_um=(150, 300), size_px=16)
OPTIONS = {"size_px": 16, "fov_spots": (1.5, 3.0)}


def by_hand(sdata, shapes_key):
    """Statistics of each field of view, side by side."""
    spots, _ = read_spots(resolve(sdata, Selection(shapes_key=shapes_key)), PATCH, progress=False)
    encoder = Encoder("statistics", "none", 16, frozen=True)
    return torch.cat([encoder(spots.patches[:, scale]) for scale in range(2)], dim=1).numpy()


def rows_of(table, shapes_key):
    return (table.obs["region"] == shapes_key).to_numpy()


def fitted(sdata, folder, **arguments):
    return fit(sdata, "encoder_ridge", config=CONFIG, model_options=OPTIONS, save_dir=folder, **arguments)


def test_features_of_all_fields_of_view_lie_side_by_side(sdata):
    embed(sdata, "statistics", **SMALL, **QUIET)
    table = sdata["observed"]
    assert table.obsm["X_statistics"].dtype == np.float32
    for shapes_key in ("S0_spots", "S2_spots"):
        found = table.obsm["X_statistics"][rows_of(table, shapes_key)]
        np.testing.assert_allclose(found, by_hand(sdata, shapes_key), atol=1e-5)


def test_a_model_on_embeddings_is_the_model_with_its_encoder(sdata, tmp_path):
    """Same encoder, same patches: the same predictions."""
    embed(sdata, "statistics", **SMALL, **QUIET)
    for name, key in {"own": None, "given": "X_statistics"}.items():
        predictor = fitted(sdata, tmp_path / name, shapes_key=TRAINED_ON, features_key=key)
        predict(sdata, predictor, key_added=name, shapes_key=TESTED_ON, features_key=key, **QUIET)
    np.testing.assert_allclose(sdata["given"].X, sdata["own"].X, atol=1e-4)
    assert np.ptp(sdata["own"].X, axis=0).max() > 0.1


def test_encoders_of_a_list_lie_side_by_side(sdata, tmp_path):
    """As in a model that takes the list; the same encoders in another order are other embeddings."""
    pytest.importorskip("timm")
    names = ["statistics", "test_vit"]
    message = r"The image encoder 'test_vit' is frozen and its weights are random"
    with pytest.warns(UserWarning, match=message):
        embed(sdata, names, weights="none", **SMALL, **QUIET)
    with pytest.warns(UserWarning, match=message):
        embed(sdata, names[::-1], weights="none", key_added="X_turned", **SMALL, **QUIET)
    table = sdata["observed"]
    width = 54 + Encoder("test_vit", "none", 16, frozen=True).n_features
    assert table.obsm["X_statistics+test_vit"].shape == (75, 2 * width)
    found = table.obsm["X_statistics+test_vit"][rows_of(table, "S1_spots")]
    for scale in range(2):
        mine = by_hand(sdata, "S1_spots")[:, 54 * scale :][:, :54]
        np.testing.assert_allclose(found[:, scale * width :][:, :54], mine, atol=1e-5)
    predictor = fitted(sdata, tmp_path / "model", shapes_key=TRAINED_ON, features_key="X_statistics+test_vit")
    assert [each["encoder"] for each in predictor.provenance.features[0]["encoders"]] == names
    with pytest.raises(ValueError, match="encoder is 'test_vit', 'statistics', not 'statistics', 'test_vit'"):
        predict(sdata, predictor, shapes_key=TESTED_ON, features_key="X_turned", **QUIET)


def test_default_fields_of_view_are_those_of_the_model(sdata, tmp_path):
    embed(sdata, "statistics", size_px=16, **QUIET)
    predictor = fit(sdata, "encoder_ridge", config=CONFIG, features_key="X_statistics", save_dir=tmp_path / "model")
    assert sdata["observed"].uns["X_statistics"]["fov_um"].tolist() == list(predictor.patch.fov_um)


@pytest.mark.usefixtures("small_partitions")
def test_a_store_is_resumed_and_is_an_anndata(sdata, tmp_path, monkeypatch):
    embed(sdata, "statistics", key_added="X_wanted", **SMALL, **QUIET)
    wanted = sdata["observed"].obsm["X_wanted"]
    split, left = sinks.split_partitions, iter([None, None, KeyboardInterrupt])

    def stopping(pieces, size):
        for values in split(pieces, size):
            if error := next(left):
                raise error
            yield values

    with monkeypatch.context() as context:
        context.setattr(sinks, "split_partitions", stopping)
        with pytest.raises(KeyboardInterrupt):
            embed(sdata, "statistics", store=tmp_path / "store", **SMALL, **QUIET)
    assert "X_statistics" not in sdata["observed"].obsm
    assert zarr.open_group(tmp_path / "store", mode="r")["finished"][:].tolist() == [1, 1, 0, 0, 0]
    with pytest.raises(FileExistsError, match="holds embeddings of other spots, or by another encoder"):
        embed(sdata, "statistics", store=tmp_path / "store", fov_um=150, size_px=16, **QUIET)
    computed, compute_positions = [], compute.compute_positions

    def noted(plan, task, first, last):
        computed.append((first, last))
        return compute_positions(plan, task, first, last)

    monkeypatch.setattr(compute, "compute_positions", noted)
    embed(sdata, "statistics", store=tmp_path / "store", **SMALL, **QUIET)
    assert computed == [(32, 75)]
    found = sdata["observed"].obsm["X_statistics"]
    assert hasattr(found, "dask")
    np.testing.assert_allclose(np.asarray(found), wanted, atol=1e-6)
    stored = ad.read_zarr(tmp_path / "store")
    rows = stored.obs["region"].astype(str) + "_" + stored.obs["spot_id"].astype(str)
    known = sdata["observed"].obs
    places = (known["region"].astype(str) + "_" + known["spot_id"].astype(str)).tolist()
    np.testing.assert_allclose(stored.X, wanted[[places.index(row) for row in rows]], atol=1e-6)
    assert stored.obs["at_border"].dtype == bool


def test_embeddings_of_a_store_are_written_with_the_object(sdata, tmp_path, through_disk):
    embed(sdata, "statistics", store=tmp_path / "store", **SMALL, **QUIET)
    again = through_disk(sdata, tmp_path / "slides.zarr")
    predictor = fitted(again, tmp_path / "model", shapes_key=TRAINED_ON, features_key="X_statistics")
    (record,) = predictor.provenance.features
    assert (record["origin"], record["encoders"][0]["encoder"]) == ("stpredict", "statistics")
    assert Predictor.load(tmp_path / "model").provenance.features == predictor.provenance.features
    predict(again, predictor, shapes_key=TESTED_ON, features_key="X_statistics", **QUIET)
    assert again["predicted"].uns["predicted"]["features"] == ["X_statistics: statistics, 150, 300 µm"]


def test_a_cluster_gives_the_same(written, client, tmp_path):
    on_disk = read_zarr(written)
    embed(on_disk, "statistics", key_added="X_wanted", **SMALL, **QUIET)
    embed(on_disk, "statistics", client=client, **SMALL, **QUIET)
    embed(on_disk, "statistics", key_added="X_stored", client=client, store=tmp_path / "store", **SMALL, **QUIET)
    table = on_disk["observed"]
    for key in ("X_statistics", "X_stored"):
        np.testing.assert_allclose(np.asarray(table.obsm[key]), table.obsm["X_wanted"], atol=1e-6)


def test_slides_are_embedded_one_after_the_other(sdata, tmp_path):
    """Rows that are not embedded are NaN, those embedded before stay, and another way is refused."""
    embed(sdata, "statistics", shapes_key="S0_spots", **SMALL, **QUIET)
    table = sdata["observed"]
    first = table.obsm["X_statistics"].copy()
    assert np.isfinite(first).all(axis=1).tolist() == rows_of(table, "S0_spots").tolist()
    with pytest.raises(ValueError, match=r"holds NaN or infinite values at 25 of 25 spots: "):
        fitted(sdata, tmp_path / "model", shapes_key=["S0_spots", "S1_spots"], features_key="X_statistics")
    with pytest.raises(ValueError, match=r"embeddings of 25 other spots, and their fields of view are .* 150\.0 µm"):
        embed(sdata, "statistics", shapes_key="S1_spots", fov_um=150, size_px=16, **QUIET)
    embed(sdata, "statistics", shapes_key="S1_spots", store=tmp_path / "store", **SMALL, **QUIET)
    both = np.asarray(table.obsm["X_statistics"])
    np.testing.assert_array_equal(both[rows_of(table, "S0_spots")], first[rows_of(table, "S0_spots")])
    np.testing.assert_allclose(both[rows_of(table, "S1_spots")], by_hand(sdata, "S1_spots"), atol=1e-5)
    assert np.isnan(both[rows_of(table, "S2_spots")]).all()
    assert sorted(table.uns["X_statistics"]["slides"]) == ["S0_spots", "S1_spots"]


def test_spots_without_a_table_get_one_without_genes(sdata, tmp_path, through_disk):
    embed(sdata, "statistics", **SMALL, **QUIET)
    predictor = fitted(sdata, tmp_path / "model", shapes_key=TRAINED_ON, features_key="X_statistics")
    plain = copied(sdata)
    del plain.tables["observed"]
    for name in ("S0", "S1"):
        del plain[f"{name}_spots"], plain[f"{name}_image"]
    embed(plain, "statistics", **SMALL, **QUIET)
    assert plain["embeddings"].shape == (25, 0)
    predict(plain, predictor, features_key="X_statistics", **QUIET)
    predict(sdata, predictor, shapes_key=TESTED_ON, features_key="X_statistics", **QUIET)
    np.testing.assert_allclose(plain["predicted"].X, sdata["predicted"].X, atol=1e-5)
    del plain.tables["predicted"]
    again = through_disk(plain, tmp_path / "plain.zarr")
    assert again["embeddings"].obsm["X_statistics"].shape == (25, 108)


def test_a_grid_beside_measured_spots_gets_a_table_of_its_own(sdata, tmp_path):
    embed(sdata, "statistics", **SMALL, **QUIET)
    predictor = fitted(sdata, tmp_path / "model", features_key="X_statistics")
    pp.spot_grid(sdata, image_key="S0_image", diameter_um=100.0, pitch_um=300.0, key_added="grid")
    for _ in range(2):  # again: into the same table
        embed(sdata, "statistics", shapes_key="grid", **SMALL, **QUIET)
    assert set(sdata.tables) == {"observed", "embeddings"}
    predict(sdata, predictor, shapes_key="grid", features_key="X_statistics", **QUIET)
    assert sdata["predicted"].n_obs == len(sdata["grid"])
    assert fitted(sdata, tmp_path / "again", features_key="X_statistics").hash == predictor.hash


DIFFERENT = {
    "fov_um": ({"fov_um": (150, 320)}, r"fields of view are 150\.0, 320\.0 µm, not 150\.0, 300\.0 µm"),
    "size": ({"size_px": 24}, "patches have 24 px a side, not 16"),
    "encoder": (
        {"encoder": "test_vit", "weights": "none", "fov_um": (150,)},
        "encoder is 'test_vit', not 'statistics'",
    ),
}


@pytest.mark.parametrize("case", DIFFERENT)
@pytest.mark.filterwarnings("ignore:The image encoder")
def test_embeddings_made_in_another_way_are_refused(sdata, tmp_path, case):
    changed, message = DIFFERENT[case]
    if "encoder" in changed:
        pytest.importorskip("timm")
    embed(sdata, "statistics", **SMALL, **QUIET)
    predictor = fitted(sdata, tmp_path / "model", shapes_key=TRAINED_ON, features_key="X_statistics")
    embed(sdata, **{"encoder": "statistics", "key_added": "X_other", **SMALL, **changed}, **QUIET)
    with pytest.raises(
        ValueError, match=f"holds other embeddings than the predictor was trained on: .*{message}.*stp.tl.embed"
    ):
        predict(sdata, predictor, shapes_key=TESTED_ON, features_key="X_other", **QUIET)
    with pytest.raises(ValueError, match=f"holds other embeddings than the predictor was trained on: .*{message}"):
        calibrate(predictor, sdata, shapes_key=TESTED_ON, features_key="X_other", **QUIET)
    other = copied(sdata)
    other["observed"].obsm["X_statistics"] = sdata["observed"].obsm["X_other"]
    other["observed"].uns["X_statistics"] = sdata["observed"].uns["X_other"]
    with pytest.raises(ValueError, match=f"than those of 'one/S0_spots': .*{message}"):
        fit({"one": sdata, "two": other}, "encoder_ridge", features_key="X_statistics", save_dir=tmp_path / "b")


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("revision", "abc", r"'revision' of their encoder 'statistics' is 'abc', not 'def'"),
        ("weights", "abc", r"'weights' of their encoder 'statistics' is 'abc', not 'def'"),
        ("patch_version", 7, r"patches are of version 7, not"),
    ],
)
def test_another_revision_or_version_of_patches_is_refused(sdata, tmp_path, entry, value, message):
    import json

    embed(sdata, "statistics", **SMALL, **QUIET)
    record = sdata["observed"].uns["X_statistics"]

    def with_entry(text):
        return json.dumps([{**json.loads(record["encoders"])[0], entry: text}])

    if entry != "patch_version":
        record["encoders"] = with_entry("def")
    predictor = fitted(sdata, tmp_path / "model", shapes_key=TRAINED_ON, features_key="X_statistics")
    if entry == "patch_version":
        record["patch_version"] = value
    else:
        record["encoders"] = with_entry(value)
    with pytest.raises(ValueError, match=message):
        predict(sdata, predictor, shapes_key=TESTED_ON, features_key="X_statistics", **QUIET)


def test_embeddings_of_unknown_origin_are_taken_and_marked(sdata, tmp_path):
    embed(sdata, "statistics", **SMALL, **QUIET)
    table = sdata["observed"]
    predictor = fitted(sdata, tmp_path / "model", shapes_key=TRAINED_ON, features_key="X_statistics")
    table.obsm["X_mine"] = table.obsm["X_statistics"]
    predict(sdata, predictor, shapes_key=TESTED_ON, features_key="X_mine", **QUIET)
    assert sdata["predicted"].uns["predicted"]["features"] == ["X_mine: 108 features of unknown origin"]
    assert fitted(sdata, tmp_path / "mine", features_key="X_mine").provenance.features[0]["origin"] == "unknown"


def test_what_is_not_ours_is_not_overwritten(sdata):
    sdata["observed"].obsm["X_statistics"] = np.zeros((75, 3))
    with pytest.raises(ValueError, match=r"which exists in `obsm` of table 'observed' and was not written by"):
        embed(sdata, "statistics", **SMALL, **QUIET)


def test_a_matrix_that_is_no_matrix_of_numbers_is_refused(sdata, tmp_path):
    sdata["observed"].obsm["X_mine"] = np.zeros((75, 3, 2))
    with pytest.raises(ValueError, match=r"of shape \(25, 3, 2\)\. Give a dense matrix \(n_spots, n_features\)"):
        fitted(sdata, tmp_path / "model", features_key="X_mine")


def test_nan_features_are_refused_where_they_arise(sdata, monkeypatch):
    monkeypatch.setattr(Encoder, "forward", lambda self, patches: torch.full((len(patches), 54), torch.nan))
    with pytest.raises(ValueError, match=r"gives NaN or infinite features at 25 spots of 'S\d_spots': .*precision"):
        embed(sdata, "statistics", **SMALL, **QUIET)


def test_models_on_one_embedding_read_and_encode_no_patch(sdata, tmp_path, monkeypatch):
    """Patches that the encoder sees, and its passes: all by `embed`, none by the models, however many."""
    encoded, forward = [], Encoder.forward

    def counted(self, patches):
        encoded.append(len(patches))
        return forward(self, patches)

    monkeypatch.setattr(Encoder, "forward", counted)
    embed(sdata, "statistics", batch_size=25, **SMALL, **QUIET)
    assert (sum(encoded), len(encoded)) == (2 * 75, 3)  # two fields of view of 75 spots, in three passes
    models = {f"ridge {n}": Entry("encoder_ridge", options={**OPTIONS, "n_components": n}) for n in (2, 3)}
    given = {"features_key": "X_statistics", "shapes_key": TRAINED_ON}
    found = benchmark(sdata, models, **given, save_dir=tmp_path, progress=False)
    assert len(found.failed) == 0
    assert set(models) < set(found.runs["model"])
    assert (sum(encoded), len(encoded)) == (2 * 75, 3)


def test_models_that_share_an_encoder_encode_each_patch_once(sdata, tmp_path, monkeypatch):
    """In training; each of them alone gives the same."""
    encoded, read, forward, read_all = [], [], Encoder.forward, data._read_all

    def counted(self, patches):
        encoded.append(len(patches))
        return forward(self, patches)

    def noted(slides, *arguments, **options):
        read.append(sum(len(slide.xy_px) for slide in slides))
        return read_all(slides, *arguments, **options)

    monkeypatch.setattr(Encoder, "forward", counted)
    monkeypatch.setattr(data, "_read_all", noted)
    models = ["encoder_ridge", "encoder_mlp"]
    options = dict.fromkeys(models, OPTIONS)
    config = FitConfig(**{**CONFIG.to_dict(), "n_epochs": 1, "validation": "none"})
    both = fit(sdata, models, config=config, model_options=options, save_dir=tmp_path / "both")
    assert (sum(encoded), read) == (2 * 75, [75])  # two fields of view
    for member, name in zip(both.members, models, strict=True):
        alone = fit(sdata, name, config=config, model_options=OPTIONS, save_dir=tmp_path / name)
        torch.testing.assert_close(member.network.state_dict(), alone.members[0].network.state_dict())
    assert sum(encoded) == 3 * 2 * 75
