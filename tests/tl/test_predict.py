"""What `predict` writes, where, and what it leaves alone."""

from __future__ import annotations

import os
import threading
from copy import deepcopy
from dataclasses import replace
from shutil import copytree

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import TableModel
from spatialdata.transformations import get_transformation

import stpredict as stp
from stpredict._pixels import PatchReader
from stpredict._slides.slides import Selection, resolve
from stpredict._train.color import apply_ridge, color_statistics
from stpredict._train.data import read_pieces, read_spots
from stpredict.tl import predict
from stpredict.tl._inference import partitions

QUIET = {"device": "cpu", "precision": "32-true", "progress": False}
OF_IMAGE = ["image_distance", "unlike_training"]


@pytest.fixture
def alone(sdata):
    """One slide with spots and no table."""
    return SpatialData(
        images={"S0_image": sdata["S0_image"]}, shapes={"S0_spots": sdata["S0_spots"]}, attrs=deepcopy(sdata.attrs)
    )


def test_the_table_it_writes(sdata, predictor):
    assert predict(sdata, predictor, **QUIET) is None
    table, observed = sdata["predicted"], sdata["observed"]
    assert table.shape == (75, 12)
    assert table.X.dtype == np.float32
    assert np.isfinite(table.X).all()
    assert table.var_names.tolist() == predictor.genes
    assert table.obs_names.tolist() == observed.obs_names.tolist()
    for column in ("region", "spot_id", "section", "patient", "array_row", "array_col"):
        assert table.obs[column].astype(str).tolist() == observed.obs[column].astype(str).tolist(), column
    assert table.obs["patient"].dtype == "category"
    assert table.obs["at_border"].dtype == bool
    np.testing.assert_allclose(table.obsm["spatial"], observed.obsm["spatial"])
    np.testing.assert_array_equal(table.var["train_mean"], predictor.train_mean)
    assert table.varm["ridge_color"].shape == (12, 25)
    record = dict(table.uns["predicted"])
    sample = record.pop("sample")
    np.testing.assert_array_equal(sample["values"], table[sample["spots"], sample["genes"]].X)
    assert (len(sample["spots"]), sample["genes"]) == (16, predictor.genes)
    assert record == {
        "units": "log1p CP10k",
        "target": {"target_sum": 1e4, "over": "all", "log1p": True},
        "counts": predictor.provenance.counts,
        "params": {"n_views": 1, "stain": "as scanned", "fov_um": [150.0, 300.0, 600.0], "size_px": 32},
        "model": {
            "name": "m2ost",
            "hash": predictor.hash,
            "trained_on": ["S0_spots", "S1_spots"],
            "identities": [slide["identity"] for slide in predictor.provenance.slides.values()],
            "groups": ["S0_spots", "S1_spots"],
            "group_key": "",
        },
    }


def test_the_table_annotates_the_same_shapes(sdata, predictor):
    predict(sdata, predictor, **QUIET)
    attrs = sdata["predicted"].uns["spatialdata_attrs"]
    assert attrs["region"] == ["S0_spots", "S1_spots", "S2_spots"]
    table = sdata["predicted"]
    TableModel().validate(table)
    spots = sdata["S1_spots"].loc[table.obs.loc[table.obs["region"] == "S1_spots", "spot_id"]]
    xy = np.column_stack([spots.geometry.x, spots.geometry.y])
    np.testing.assert_allclose(table.obsm["spatial"][(table.obs["region"] == "S1_spots").to_numpy()], xy)


def test_values_are_those_of_the_networks_in_the_units_of_expression(sdata, predictor):
    predict(sdata, predictor, **QUIET)
    slides = resolve(sdata, Selection())
    spots, _ = read_spots(slides, predictor.patch, progress=False)
    networks = []
    for member in predictor.members:
        standard = member.network(spots).detach().numpy()
        components = np.eye(12) if member.targets.components is None else member.targets.components
        networks.append(standard @ components * member.targets.scale + member.targets.mean)
    np.testing.assert_allclose(sdata["predicted"].X, np.mean(networks, axis=0), atol=1e-4)
    assert sdata["predicted"].X.std(axis=0).min() > 1e-4  # not the mean profile


def test_colour_baseline_travels_with_the_table(sdata, predictor):
    predict(sdata, predictor, **QUIET)
    table = sdata["predicted"]
    slides = resolve(sdata, Selection())
    spots, _ = read_spots(slides, predictor.patch, progress=False)
    colors = color_statistics(spots.patches, 100 / 150)
    np.testing.assert_allclose(table.obsm["color"], colors, atol=1e-5)
    ridge = apply_ridge(table.varm["ridge_color"], table.obsm["color"])
    truth = sdata["observed"].layers["rate"]
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(ridge.T, truth.T, strict=True)]
    assert np.mean(r) > 0.7


def frozen(sdata):
    """Everything in an object, as values that can be compared after it was used."""
    held = {"attrs": deepcopy(sdata.attrs)}
    for key, image in sdata.images.items():
        held[key] = [image[scale]["image"].values.copy() for scale in image]
        held[f"{key} transformation"] = str(get_transformation(image, get_all=True))
    for key, shapes in sdata.shapes.items():
        held[key] = shapes.copy()
        held[f"{key} transformation"] = str(get_transformation(shapes, get_all=True))
    for key, table in sdata.tables.items():
        held[key] = table.copy()
    return held


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, list):
            for a, b in zip(value, other[key], strict=True):
                np.testing.assert_array_equal(a, b)
        elif isinstance(value, ad.AnnData):
            assert_same_table(value, other[key])
        elif isinstance(value, pd.DataFrame):
            assert value.equals(other[key]), key
        else:
            assert value == other[key], key


def assert_same_table(one, other, but=()):
    pd.testing.assert_frame_equal(one.obs, other.obs.drop(columns=list(but), errors="ignore"))
    pd.testing.assert_frame_equal(one.var, other.var.drop(columns=list(but), errors="ignore"))
    for held, now in ((one.layers, other.layers), (one.obsm, other.obsm), (one.varm, other.varm)):
        for key in held:
            a, b = (m.toarray() if sparse.issparse(m) else np.asarray(m) for m in (held[key], now[key]))
            np.testing.assert_array_equal(a, b)
    assert one.X is None or sparse.issparse(one.X) == sparse.issparse(other.X)
    assert one.uns.keys() == other.uns.keys() - set(but)


def test_nothing_else_is_changed(sdata, predictor, quick):
    before = frozen(sdata)
    quick(sdata)
    predict(sdata, **QUIET)
    noted = sdata.attrs["stpredict"].pop("predictor")
    assert set(noted) == {"path", "hash"}
    del sdata.tables["predicted"]
    assert_same(before, frozen(sdata))


def test_several_predictions_side_by_side_and_again(sdata, predictor):
    predict(sdata, predictor, key_added="mine", shapes_key="S1_spots", **QUIET)
    predict(sdata, predictor, **QUIET)
    first = sdata["predicted"]
    predict(sdata, predictor, **QUIET)  # its own table it may overwrite
    assert sdata["predicted"] is not first
    np.testing.assert_array_equal(sdata["predicted"].X, first.X)
    assert sdata["mine"].n_obs == 25
    assert "mine" in sdata["mine"].uns
    np.testing.assert_allclose(sdata["mine"].X, first.X[25:50], atol=1e-5)


def test_batches_and_pieces_do_not_matter(sdata, predictor, monkeypatch):
    found = []
    for batch_size, at_once in ((64, 512), (7, 512), (64, 11), (None, 30)):
        monkeypatch.setattr(partitions, "PIECE_BYTES", at_once * 3 * 3 * 32 * 32)
        predict(sdata, predictor, batch_size=batch_size, **QUIET)
        found.append(sdata["predicted"].X)
    np.testing.assert_allclose(found[1], found[0], atol=1e-5)
    np.testing.assert_allclose(found[2], found[0], atol=1e-5)
    np.testing.assert_allclose(found[3], found[0], atol=1e-5)


@pytest.mark.parametrize("n_views", [1, 3])
def test_one_forward_a_spot_and_view_and_one_reading_a_spot(sdata, predictor, monkeypatch, n_views):
    read, centres, computed = PatchReader.read, [], []
    monkeypatch.setattr(PatchReader, "read", lambda self, xy: (centres.extend(xy.tolist()), read(self, xy))[1])
    for member in predictor.members:
        member.network.head.register_forward_hook(lambda _, given, __: computed.append(len(given[0])))
    predict(sdata, predictor, n_views=n_views, **QUIET)
    assert sum(computed) == 75 * len(predictor.members) * n_views
    assert len(centres) == 75
    assert sorted(centres) == sorted(np.concatenate([s.xy_px for s in resolve(sdata, Selection())]).tolist())


def test_spots_are_read_while_others_are_computed(sdata, predictor, monkeypatch):
    """The second piece is read before the first is computed to its end."""
    second, waited = threading.Event(), []

    def reading(slide, patch, **arguments):
        for i, piece in enumerate(read_pieces(slide, patch, **arguments)):
            if i == 1:
                second.set()
            yield piece

    monkeypatch.setattr(partitions, "PIECE_BYTES", 5 * 3 * 3 * 32 * 32)
    monkeypatch.setattr(partitions, "read_pieces", reading)
    predictor.members[0].network.head.register_forward_hook(lambda *_: waited.append(second.wait(600)))
    predict(sdata, predictor, shapes_key="S0_spots", **QUIET)
    assert waited[0]


@pytest.mark.parametrize("batch_size", [None, 40])
def test_memory_that_runs_out_changes_nothing(sdata, predictor, batch_size):
    predict(sdata, predictor, key_added="wanted", **QUIET)
    tried = []

    def hungry(_, given, __):
        tried.append(len(given[0]))
        if tried[-1] > 6:
            msg = "out of memory"
            raise torch.OutOfMemoryError(msg)

    for member in predictor.members:
        member.network.head.register_forward_hook(hungry)
    predict(sdata, predictor, batch_size=batch_size, **QUIET)
    np.testing.assert_allclose(sdata["predicted"].X, sdata["wanted"].X, atol=1e-5)
    np.testing.assert_array_equal(sdata["predicted"].obsm["color"], sdata["wanted"].obsm["color"])
    assert 1 <= sum(n > 6 for n in tried) <= 3  # remembered


def test_a_single_spot_that_is_too_much(sdata, predictor):
    def full(*_):
        msg = "out of memory"
        raise torch.OutOfMemoryError(msg)

    predictor.members[0].network.head.register_forward_hook(full)
    with pytest.raises(MemoryError, match="does not hold the network and a single spot"):
        predict(sdata, predictor, **QUIET)
    assert "predicted" not in sdata.tables


def test_views_are_averaged(sdata, predictor):
    found = {}
    for n_views in (1, 2, 8):
        predict(sdata, predictor, n_views=n_views, **QUIET)
        found[n_views] = sdata["predicted"].X
    assert sdata["predicted"].uns["predicted"]["params"]["n_views"] == 8
    assert np.abs(found[1] - found[2]).max() > 1e-4
    slides = resolve(sdata, Selection())
    spots, _ = read_spots(slides, predictor.patch, progress=False)
    mirrored = [
        predictor(replace(spots, patches=patches), stp._train.device.make_fabric(stp.tl.FitConfig(accelerator="cpu")))
        for patches in (spots.patches, spots.patches.flip(-1))
    ]
    np.testing.assert_allclose(found[2], np.mean(mirrored, axis=0), atol=2e-2)


@pytest.mark.parametrize("arguments", [{"n_views": 0}, {"n_views": 9}, {"batch_size": 0}])
def test_options_that_are_refused(sdata, predictor, arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` is"):
        predict(sdata, predictor, **arguments, **QUIET)
    assert "predicted" not in sdata.tables


def test_layer_beside_the_counts(sdata, predictor):
    sdata["observed"] = sdata["observed"][:, [f"GENE{i}" for i in reversed(range(12))]].copy()
    before = sdata["observed"].copy()
    narrowed = predictor_of(predictor, ["GENE0", "GENE4"])
    predict(sdata, narrowed, layer="predicted", **QUIET)
    table = sdata["observed"]
    added = ["predicted", *(f"predicted_{name}" for name in ("train_mean", "at_border", *OF_IMAGE))]
    assert_same_table(before, table, but=added)
    assert table.var["predicted"].to_dict() == {g: g in {"GENE0", "GENE4"} for g in table.var_names}
    assert np.isnan(table.layers["predicted"][:, ~table.var["predicted"]]).all()
    predict(sdata, narrowed, **QUIET)
    np.testing.assert_allclose(table[:, ["GENE0", "GENE4"]].layers["predicted"], sdata["predicted"].X, atol=1e-6)
    np.testing.assert_array_equal(table[:, ["GENE0", "GENE4"]].var["predicted_train_mean"], narrowed.train_mean)
    assert table.var["predicted_train_mean"].isna().sum() == 10
    assert table.uns["predicted"]["units"] == "log1p CP10k"


def predictor_of(predictor, genes):
    """The same predictor for some of its genes."""
    columns = [predictor.genes.index(gene) for gene in genes]
    members = []
    for member in predictor.members:
        targets = member.targets
        components = np.eye(12, dtype=np.float32) if targets.components is None else targets.components
        targets = replace(targets, genes=tuple(genes), mean=targets.mean[columns], scale=targets.scale[columns],
                          components=components[:, columns])  # fmt: skip
        members.append(replace(member, targets=targets))
    return replace(predictor, members=tuple(members), train_mean=predictor.train_mean[columns],
                   ridge_color=predictor.ridge_color[columns])  # fmt: skip


def test_layer_of_some_slides_is_missing_elsewhere(sdata, predictor):
    predict(sdata, predictor, layer="predicted", shapes_key="S2_spots", **QUIET)
    table = sdata["observed"]
    asked = (table.obs["region"] == "S2_spots").to_numpy()
    assert np.isfinite(table.layers["predicted"][asked]).all()
    assert np.isnan(table.layers["predicted"][~asked]).all()
    predict(sdata, predictor, layer="predicted", **QUIET)  # its own layer it may overwrite
    assert np.isfinite(table.layers["predicted"]).all()


def test_layer_x_overwrites_the_counts_because_it_was_asked_to(sdata, predictor):
    predict(sdata, predictor, **QUIET)
    predict(sdata, predictor, layer="X", **QUIET)
    np.testing.assert_allclose(sdata["observed"].X, sdata["predicted"].X, atol=1e-6)
    assert sdata["observed"].var["predicted"].all()


def test_layer_brings_positions_where_the_table_has_none(sdata, predictor):
    known = sdata["observed"].obsm.pop("spatial")
    predict(sdata, predictor, layer="predicted", **QUIET)
    np.testing.assert_allclose(sdata["observed"].obsm["spatial"], known)


@pytest.mark.parametrize(("arguments", "words"), [
    ({"key_added": "spatial"}, r"`key_added` is 'spatial', and `uns\['spatial'\]` has another meaning"),
    ({"layer": "log1p"}, r"`layer` is 'log1p', and `uns\['log1p'\]` has another meaning"),
    ({"key_added": "observed"}, r"`key_added` is 'observed', which exists and was not written by `stp.tl.predict`"),
    ({"layer": "rate"}, r"`layer` is 'rate', which exists .*kept are: 'rate'.*; `layer='X'` overwrites X"),
])  # fmt: skip
def test_what_was_measured_is_not_overwritten(sdata, predictor, arguments, words):
    before = frozen(sdata)
    with pytest.raises(ValueError, match=words):
        predict(sdata, predictor, **arguments, **QUIET)
    assert_same(before, frozen(sdata))


def test_a_slide_without_a_table(alone, sdata, predictor):
    predict(alone, predictor, **QUIET)
    predict(sdata, predictor, shapes_key="S0_spots", **QUIET)
    assert alone["predicted"].obs_names.tolist() == [str(i) for i in range(25)]
    assert alone["predicted"].obs.columns.tolist() == ["region", "spot_id", "at_border", *OF_IMAGE]
    np.testing.assert_allclose(alone["predicted"].X, sdata["predicted"].X, atol=1e-6)
    predict(alone, predictor, **QUIET)  # the table is a prediction: it does not count as measured
    assert alone["predicted"].obs.columns.tolist() == ["region", "spot_id", "at_border", *OF_IMAGE]


def test_several_slides_without_a_table(sdata, predictor):
    del sdata.tables["observed"]
    predict(sdata, predictor, shapes_key=["S0_spots", "S2_spots"], **QUIET)
    assert sdata["predicted"].obs_names[[0, 25]].tolist() == ["S0_spots_0", "S2_spots_0"]
    assert sdata["predicted"].obs_names.is_unique


def test_one_spot(alone, predictor):
    alone.shapes["S0_spots"] = alone.shapes.pop("S0_spots").iloc[[12]]
    predict(alone, predictor, **QUIET)
    assert alone["predicted"].shape == (1, 12)


def test_spots_off_the_image_are_filled_and_flagged(alone, predictor):
    spots = alone.shapes.pop("S0_spots")
    spots.geometry = spots.geometry.translate(-60, 0)  # the first column leaves the image
    alone.shapes["S0_spots"] = spots
    predict(alone, predictor, **QUIET)
    table = alone["predicted"]
    x = table.obsm["spatial"][:, 0]
    assert x.min() < 0
    np.testing.assert_array_equal(table.obs["at_border"], x < 300 / 8)
    assert np.isfinite(table.X).all()


def test_recorded_predictor_is_used(sdata, trained, predictor):
    sdata.attrs["stpredict"]["predictor"] = dict(trained[1])
    predict(sdata, **QUIET)
    assert sdata["predicted"].uns["predicted"]["model"]["hash"] == predictor.hash


def test_a_folder_is_as_good_as_a_predictor(sdata, trained, predictor):
    predict(sdata, trained[0], key_added="a", **QUIET)
    predict(sdata, str(trained[0]), key_added="b", **QUIET)
    np.testing.assert_array_equal(sdata["a"].X, sdata["b"].X)


def test_no_predictor(sdata):
    with pytest.raises(
        ValueError,
        match=r"records none\. Pass one .*\n  Pretrained: none .* her2st .*'hf:owner/name'\n  Train one .*\.fit",
    ) as error:
        predict(sdata, **QUIET)
    assert "last" not in str(error.value)


def test_no_predictor_names_the_one_that_was_trained_last(sdata, trained, own_cache):
    for i, name in enumerate(("new", "old")):
        copytree(trained[0], own_cache / "stpredict/predictors" / name)
        os.utime(own_cache / "stpredict/predictors" / name / "config.json", (1e9 - i, 1e9 - i))
    with pytest.raises(ValueError, match=r"Trained last on this machine: predictor='.*/predictors/new'$") as error:
        predict(sdata, **QUIET)
    assert str(error.value).count("\n") == 3


def test_the_recorded_predictor_has_gone_or_changed(sdata, trained, predictor, tmp_path):
    sdata.attrs["stpredict"]["predictor"] = {**trained[1], "path": str(tmp_path / "model")}
    with pytest.raises(ValueError, match=r"records the predictor in '.*model', but that folder is gone\. Pass one"):
        predict(sdata, **QUIET)
    other = replace(predictor, train_mean=predictor.train_mean + 1)
    other.save(tmp_path / "model")
    with pytest.raises(ValueError, match="but that folder holds another predictor now"):
        predict(sdata, **QUIET)
    assert "predicted" not in sdata.tables


def test_a_slide_of_another_resolution_is_warned_of_with_figures(alone, predictor):
    with pytest.warns(UserWarning, match=r"'S0_spots' has 16 µm per pixel; the predictor was trained on 8 to 8"):
        predict(alone, predictor, um_per_px=16.0, **QUIET)
    assert alone["predicted"].n_obs == 25


def test_a_slide_of_other_colours_is_warned_of_with_figures(alone, predictor):
    image = alone.images.pop("S0_image")
    levels = [
        np.clip(image[scale]["image"].values * [[[0.5]], [[1]], [[1]]], 0, 255).astype(np.uint8) for scale in image
    ]
    alone.images["S0_image"] = stp.io.images.pyramid(levels[0], "S0")
    with pytest.warns(UserWarning, match=r"colours of slide 'S0_spots' lie outside the training range: .*red \d"):
        predict(alone, predictor, **QUIET)


@pytest.mark.parametrize("method", ["reinhard", "macenko"])
def test_stain_is_brought_to_that_of_training(alone, predictor, method):
    """Patches of a paler slide come closer to those of the slide as it was, and so do its predictions."""
    predict(alone, predictor, key_added="wanted", **QUIET)
    image = alone.images.pop("S0_image")
    paler = [np.rint(255 * (image[scale]["image"].values / 255) ** 0.7).astype(np.uint8) for scale in image]
    alone.images["S0_image"] = stp.io.images.pyramid(paler[0], "S0")
    with pytest.warns(UserWarning, match="colours of slide 'S0_spots' lie outside"):
        predict(alone, predictor, key_added="as_scanned", **QUIET)
    predict(alone, predictor, stain=method, **QUIET)
    wanted, off, near = (alone[name] for name in ("wanted", "as_scanned", "predicted"))
    assert np.abs(near.X - wanted.X).mean() < 0.5 * np.abs(off.X - wanted.X).mean()
    assert near.uns["predicted"]["params"]["stain"] == method
    assert off.uns["as_scanned"]["params"]["stain"] == "as scanned"


def test_a_name_that_another_element_has(sdata, predictor):
    """Said before anything is computed, not when the table is put in its place."""
    with pytest.raises(ValueError, match=r"`key_added` is 'S0_spots', which exists"):
        predict(sdata, predictor, key_added="S0_spots", **QUIET)


def test_an_unknown_way_to_normalise(alone, predictor):
    with pytest.raises(ValueError, match=r"`stain` is 'vahadane'; allowed: 'macenko', 'reinhard'"):
        predict(alone, predictor, stain="vahadane", **QUIET)
    assert "predicted" not in alone.tables


def test_genes_that_were_not_measured_are_warned_of(sdata, predictor):
    sdata["observed"] = sdata["observed"][:, 2:].copy()
    with pytest.warns(UserWarning, match=r"Table 'observed' lacks 2 of the 12 predicted genes \('GENE0', 'GENE1'\)"):
        predict(sdata, predictor, **QUIET)
    assert sdata["predicted"].n_vars == 12
    with pytest.raises(ValueError, match=r"has no column for 2 of the predictor's 12 genes: 'GENE0', 'GENE1'\. Leave"):
        predict(sdata, predictor, layer="predicted", **QUIET)


def test_rows_of_the_same_name(sdata, predictor):
    sdata["observed"].obs_names = [f"spot{i % 25}" for i in range(75)]
    with pytest.raises(ValueError, match=r"Rows of table 'observed' share a name: 'spot0'.*obs_names_make_unique\(\)"):
        predict(sdata, predictor, **QUIET)


def test_progress_is_shown(sdata, predictor, capfd):
    predict(sdata, predictor, device="cpu", precision="32-true")
    assert "predict 3 slides" in capfd.readouterr().err


def test_only_one_object_at_a_time(sdata, predictor):
    with pytest.raises(TypeError, match="Expected a SpatialData"):
        predict([sdata], predictor, **QUIET)
