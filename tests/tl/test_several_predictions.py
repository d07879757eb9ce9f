"""Predictions side by side: what belongs to one is not touched by another, and slides are added one by one."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import stpredict as stp

pytestmark = pytest.mark.filterwarnings("ignore:The colours of slide")
QUIET = {"progress": False}
SLIDES = ["S0_spots", "S1_spots", "S2_spots"]


def train(sdata, slides, model="ridge_color", **arguments):
    return stp.tl.fit(sdata, model, shapes_key=slides, config=QUIET, **arguments)


def summary(sdata, predicted, **arguments):
    return stp.tl.summary(stp.tl.evaluate(sdata, predicted=predicted, **arguments))


def test_a_second_layer_leaves_the_first_as_it_was(sdata):
    first, second = train(sdata, SLIDES[:1]), train(sdata, SLIDES[1:2], "mean_profile")
    stp.tl.predict(sdata, first, layer="A", shapes_key=SLIDES[2:], progress=False)
    before, scores = sdata["observed"].copy(), summary(sdata, "A")
    stp.tl.predict(sdata, second, layer="B", shapes_key=SLIDES[2:], progress=False)
    pd.testing.assert_frame_equal(summary(sdata, "A"), scores)
    after = sdata["observed"]
    for part in ("obs", "var"):
        pd.testing.assert_frame_equal(getattr(after, part)[getattr(before, part).columns], getattr(before, part))
    for name in before.varm:
        np.testing.assert_array_equal(after.varm[name], before.varm[name])
    assert {"A_evaluation", "B"} <= set(after.uns)


@pytest.mark.parametrize("arguments", [{"layer": "loo"}, {"key_added": "loo"}], ids=["layer", "table"])
def test_slides_are_added_one_by_one(sdata, arguments, tmp_path, through_files):
    """The loop that everybody writes: each slide by a predictor that was not trained on it."""
    expected = {}
    for out in SLIDES:
        predictor = train(sdata, [name for name in SLIDES if name != out])
        stp.tl.predict(sdata, predictor, shapes_key=out, progress=False, **arguments)
        stp.tl.predict(sdata, predictor, key_added="alone", shapes_key=out, progress=False)
        expected[out] = summary(sdata, "alone", shapes_key=out)
        del sdata.tables["alone"]
    scores = stp.tl.evaluate(sdata, predicted="loo")
    assert scores.attrs["n_spots"] == 75
    for out in SLIDES:  # each with the baselines of its own predictor
        pd.testing.assert_frame_equal(summary(sdata, "loo", shapes_key=out), expected[out])
    again = through_files(sdata, tmp_path)
    pd.testing.assert_frame_equal(summary(again, "loo"), summary(sdata, "loo"))
    if "key_added" in arguments:  # a table with fewer genes keeps their baselines
        again.tables["loo"] = again["loo"][:, ["GENE7", "GENE2"]].copy()
        fewer = stp.tl.evaluate(again, predicted="loo")["pearson_ridge_color"]
        pd.testing.assert_series_equal(fewer, scores.loc[fewer.index, "pearson_ridge_color"], check_exact=False)


def test_a_slide_that_is_predicted_again_is_replaced(sdata):
    first, second = train(sdata, SLIDES[:1]), train(sdata, SLIDES[1:2])
    stp.tl.predict(sdata, first, progress=False)
    kept = ad.AnnData(sdata["predicted"].X.copy(), obs=sdata["predicted"].obs.copy())
    stp.tl.predict(sdata, second, shapes_key=SLIDES[2], progress=False)
    table = sdata["predicted"]
    assert table.shape == kept.shape
    same = table[table.obs["region"] != SLIDES[2]]
    np.testing.assert_array_equal(same.X, kept[same.obs_names].X)
    assert not np.array_equal(table[~table.obs_names.isin(same.obs_names)].X, kept[-25:].X)
    stp.tl.predict(sdata, second, progress=False)  # all of them: one prediction again
    assert "parts" not in sdata["predicted"].uns["predicted"]


def test_intervals_of_some_slides_only(sdata):
    predictor = stp.tl.calibrate(train(sdata, SLIDES[:1]), sdata, shapes_key=SLIDES[1], n_views=1, progress=False)
    stp.tl.predict(sdata, predictor, shapes_key=SLIDES[1], uncertainty="conformal", coverage=0.8, progress=False)
    stp.tl.predict(sdata, predictor, shapes_key=SLIDES[2], progress=False)
    table = sdata["predicted"]
    has_interval = np.isfinite(table.layers["predicted_lower"]).all(axis=1)
    assert set(table.obs["region"][has_interval]) == {SLIDES[1]}
    assert set(table.obs["region"][~has_interval]) == {SLIDES[2]}


@pytest.mark.parametrize("arguments", [{"layer": "p"}, {"key_added": "p"}], ids=["layer", "table"])
def test_units_and_genes_are_not_mixed(sdata, arguments):
    genes = sdata["observed"].var_names
    stp.tl.predict(sdata, train(sdata, SLIDES[:1]), shapes_key=SLIDES[1], progress=False, **arguments)
    for other in (
        train(sdata, SLIDES[:1], target=stp.pp.TargetSpec(target_sum=1e6)),
        train(sdata, SLIDES[:1], genes=genes[:5].tolist()),
    ):
        with pytest.raises(ValueError, match=r"holds predictions of other slides \(25 spots\)"):
            stp.tl.predict(sdata, other, shapes_key=SLIDES[2], progress=False, **arguments)


@pytest.mark.parametrize("stored", ["dense", "sparse", "in a file"])
def test_genes_in_another_order_keep_their_values(sdata, tmp_path, stored):
    genes = sdata["observed"].var_names.tolist()
    stp.tl.predict(sdata, train(sdata, SLIDES[:1]), shapes_key=SLIDES[1], progress=False)
    first = sdata["predicted"].to_df()
    if stored == "sparse":
        sdata["predicted"].X = csr_matrix(sdata["predicted"].X)
    elif stored == "in a file":
        sdata["predicted"].write_h5ad(tmp_path / "table.h5ad")
        table = ad.read_h5ad(tmp_path / "table.h5ad", backed="r")
        table.uns["spatialdata_attrs"]["region"] = SLIDES[1]
        sdata.tables["predicted"] = table
    second = train(sdata, SLIDES[:1], genes=genes[::-1])
    stp.tl.predict(sdata, second, shapes_key=SLIDES[2], progress=False)
    stp.tl.predict(sdata, second, key_added="alone", shapes_key=SLIDES[2], progress=False)
    expected = pd.concat([first, sdata["alone"].to_df()])
    table = sdata["predicted"]
    pd.testing.assert_frame_equal(table.to_df()[genes], expected.loc[table.obs_names, genes])
    pd.testing.assert_frame_equal(summary(sdata, "predicted", shapes_key=SLIDES[2]), summary(sdata, "alone"))


def test_imputed_slides_are_added_one_by_one(sdata, tmp_path):
    names, predictor = sdata["observed"].obs_names, train(sdata, SLIDES[:1])
    stp.tl.impute(sdata, predictor, measured=names[25:50:3], shapes_key=SLIDES[1], progress=False)
    first, expected = sdata["imputed"].copy(), summary(sdata, "imputed")
    stp.tl.impute(sdata, predictor, measured=names[50:75:4], shapes_key=SLIDES[2], progress=False)
    sdata["imputed"].write_h5ad(tmp_path / "table.h5ad")
    table = sdata["imputed"][first.obs_names]
    np.testing.assert_array_equal(table.X, first.X)
    np.testing.assert_array_equal(table.layers["standard_error"], first.layers["standard_error"])
    pd.testing.assert_frame_equal(summary(sdata, "imputed", shapes_key=SLIDES[1]), expected)
    parts = [*sdata["imputed"].uns["imputed"]["parts"].values()]
    assert [part["params"]["slide"] for part in parts] == SLIDES[1:]
    np.testing.assert_array_equal(parts[0]["noise"], first.var["noise"])
    with pytest.raises(ValueError, match=r"holds predictions of other slides \(25 spots\)"):
        stp.tl.impute(sdata, measured=names[25:50:3], shapes_key=SLIDES[1], genes=["GENE1"], progress=False)


def test_superpixels_of_other_slides_are_kept(sdata, tmp_path, through_files):
    predictor = train(sdata, SLIDES[:1])
    given = {"step_um": 50, "anchor": "predicted", "progress": False}
    stp.tl.super_resolve(sdata, predictor, shapes_key=SLIDES[1], genes=["GENE3", "GENE1"], **given)
    first = sdata["super_resolved"].to_df()
    assert sdata["super_resolved"].uns["log1p"] == {}
    stp.tl.super_resolve(sdata, predictor, shapes_key=SLIDES[2], genes=["GENE1", "GENE3"], **given)
    table = through_files(sdata, tmp_path)["super_resolved"]
    pd.testing.assert_frame_equal(table.to_df().loc[first.index, first.columns], first)
    assert set(table.obs["region"]) == {f"super_resolved_{name}" for name in SLIDES[1:]}
    assert set(table.uns["super_resolved"]["weights"]) == set(SLIDES[1:])
    with pytest.raises(ValueError, match=r"holds superpixels of 'super_resolved_S1_spots': 2 genes.*50 µm wide; this"):
        stp.tl.super_resolve(sdata, predictor, shapes_key=SLIDES[2], **{**given, "step_um": 40})


def test_folds_belong_to_their_layer(sdata):
    obs = sdata["observed"].obs
    obs["fold"], obs.index.name = "of another", "again_fold"
    stp.tl.cross_validate(sdata, "mean_profile", group_key=None, n_folds=2, key_added="again", progress=False)
    obs = sdata["observed"].obs
    assert set(obs["fold"]) == {"of another"}
    assert obs["again_fold"].nunique() == 2
    assert obs.index.name is None  # anndata could not write both


@pytest.mark.parametrize(
    ("place", "name", "function"),
    [("var", "mine", "predict"), ("uns", "mine", "predict"), ("var", "mine", "cross_validate"),
     ("obs", "mine_fold", "cross_validate")],
)  # fmt: skip
def test_what_a_table_holds_is_not_replaced(sdata, place, name, function):
    table = sdata["observed"]
    getattr(table, place)[name] = "of the user"
    calls = {
        "predict": lambda: stp.tl.predict(sdata, train(sdata, SLIDES[:1]), layer="mine", progress=False),
        "cross_validate": lambda: stp.tl.cross_validate(sdata, "mean_profile", key_added="mine", progress=False),
    }
    with pytest.raises(ValueError, match=rf"is 'mine', and the table already holds {place}\['{name}'\]"):
        calls[function]()
    assert "mine" not in table.layers


@pytest.mark.parametrize("function", ["impute", "super_resolve", "cross_validate"])
def test_names_with_a_meaning_of_their_own_are_refused(sdata, function):
    given = {
        "impute": {"measured": sdata["observed"].obs_names[:25:3], "shapes_key": SLIDES[0]},
        "super_resolve": {"predictor": "nowhere"},
        "cross_validate": {"model": "mean_profile"},
    }
    with pytest.raises(ValueError, match=r"`key_added` is 'log1p', and `uns\['log1p'\]` has another meaning"):
        getattr(stp.tl, function)(sdata, **given[function], key_added="log1p", progress=False)


@pytest.mark.parametrize(("index", "key"), [("spot_id", "instance_key"), ("region", "region_key")])
def test_a_table_with_keys_and_columns_of_its_own(sdata, index, key, tmp_path, through_files):
    """The index is called as a column of ours, and a column of the user's is called ``region``."""
    table = sdata["observed"]
    table.obs = table.obs.rename(columns={index: "other"}).rename_axis(index=index)
    table.uns["spatialdata_attrs"][key] = "other"
    if index == "spot_id":
        table.obs["where"] = table.obs["region"]
    else:
        table.obs["at_border"] = "as measured"
    sdata.tables["observed"] = table
    before = table.obs.copy()
    stp.tl.predict(sdata, train(sdata, SLIDES[:1]), progress=False)
    pd.testing.assert_frame_equal(sdata["observed"].obs, before)
    again = through_files(sdata, tmp_path)
    assert set(again["predicted"].obs["other"].astype(str)) == set(before["other"].astype(str))


def test_columns_that_are_called_as_the_index(sdata, tmp_path, through_files):
    """Each is written, and the name of the index is dropped, since anndata could not write both."""
    table, calls = sdata["observed"], {
        "split": lambda: stp.pp.split(sdata, by="region"),
        "target": lambda: stp.pp.select_genes(sdata, n_genes=5),
        "measured": lambda: stp.tl.impute(sdata, measured=table.obs_names[:9], shapes_key=SLIDES[0], progress=False),
    }  # fmt: skip
    for name, call in calls.items():  # others are in tests of their functions
        table.obs.index.name = table.var.index.name = name
        call()
        for each in sdata.tables.values():
            assert each.obs.index.name not in each.obs
            assert each.var.index.name not in each.var
    through_files(sdata, tmp_path)
