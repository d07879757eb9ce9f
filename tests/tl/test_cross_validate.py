"""Cross-validation: what is held out is predicted by who has not seen it, and written beside what was measured."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stpredict._cli._options import PROTOCOLS as OPTION_PROTOCOLS
from stpredict._files import lock
from stpredict._slides.slides import Selection, resolve
from stpredict.datasets import gene_panel, synthetic
from stpredict.metrics import noise_ceiling, pearson
from stpredict.pp import TargetSpec, select_genes
from stpredict.pp.normalization import normalize_slide
from stpredict.tl import FitConfig, benchmark, cross_validate, evaluate, fit, predict, summary
from stpredict.tl._benchmarking.protocols import PROTOCOLS, average_neighbors, fill_zeros
from stpredict.tl._benchmarking.study import plan_study

from .conftest import TINY, copied

ON_CPU = {"accelerator": "cpu", "precision": "32-true"}
QUICK = {"config": {**ON_CPU, "n_epochs": 1}, "model_options": TINY, "progress": False}
KEY = "cross_validated"


@pytest.fixture(scope="module")
def two():
    return synthetic(n_slides=2, n_side=4, um_per_px=8.0)


@pytest.fixture
def pair(two):
    """Two slides of 16 spots, of two patients."""
    return copied(two)


def contents(sdata):
    """What must stay as it is."""
    table = sdata["observed"]
    return (
        table.X.toarray().tobytes(),
        {name: table.obs[name].tolist() for name in table.obs if name != "fold"},
        [name for name in table.var if name != KEY],
        [name for name in table.layers if name != KEY],
        [*table.obsm, *table.varm, *(name for name in table.uns if name != KEY)],
        sorted(name for _, name, _ in sdata.gen_elements()),
        str(sdata.attrs),
    )


@pytest.fixture(scope="module")
def validated(small_sdata):
    """Genes differ from fold to fold: in each, what is taken is taken from the training slides."""
    sdata = copied(small_sdata)
    before = contents(sdata)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("stpredict.tl._benchmarking.study.DEFAULT_N_GENES", 5)
        scores = cross_validate(sdata, "m2ost", **QUICK)
    return sdata, scores, before


def test_input_is_untouched_but_for_the_layer(validated):
    sdata, _, before = validated
    assert contents(sdata) == before


def test_held_out_predictions_are_nan_outside_the_panel(validated):
    sdata, scores, _ = validated
    table = sdata["observed"]
    values = table.layers[KEY]
    assert values.dtype == np.float32
    assert table.obs["fold"].tolist() == ["0"] * 25 + ["1"] * 25 + ["2"] * 25
    for fold in "012":
        rows = (table.obs["fold"] == fold).to_numpy()
        genes = set(scores.loc[scores["fold"] == int(fold), "gene"])
        assert len(genes) == 5
        np.testing.assert_array_equal(np.isfinite(values[rows]), np.tile(table.var_names.isin(genes), (25, 1)))
    np.testing.assert_array_equal(table.var[KEY], np.isfinite(values).any(axis=0))
    assert table.uns[KEY]["folds"]["1"] == {"train": ["S0_spots", "S2_spots"], "test": ["S1_spots"]}
    assert table.uns[KEY]["units"] == "log1p CP10k"
    assert table.uns[KEY]["leaks"] is False


def test_scores_are_those_of_the_layer(validated):
    sdata, scores, _ = validated
    table = sdata["observed"]
    own = scores[(scores["model"] == "m2ost") & (scores["metric"] == "pearson")]
    assert len(own) == 15
    assert set(own["group"]) == {"P0", "P1", "P2"}
    normal = TargetSpec().normalize(table.X, np.arange(12))
    for row in own.itertuples():
        spots = (table.obs["fold"] == str(row.fold)).to_numpy()
        at = table.var_names.get_loc(row.gene)
        expected = pearson(normal[spots][:, [at]], table.layers[KEY][spots][:, [at]])[0]
        assert row.value == pytest.approx(expected, abs=1e-6)
    assert set(scores["metric"]) == {
        "pearson", "spearman", "r2", "rmse", "mae", "ceiling", "moran_observed", "moran_predicted", "geary_observed",
        "geary_predicted", "ssim",
    }  # fmt: skip
    assert set(summary(scores).index) == {"m2ost", "mean_profile", "ridge_color"}
    assert scores.attrs["unit"] == "patient"
    assert scores.attrs["leaks"] is False


def test_the_summary_is_of_the_rows_given(sdata, tmp_path):
    scores = cross_validate(sdata, "ridge_color", progress=False)
    whole = summary(scores)
    scores.to_csv(tmp_path / "scores.csv", index=False)
    pd.testing.assert_frame_equal(summary(pd.read_csv(tmp_path / "scores.csv")), whole, check_dtype=False)
    assert whole.notna().at["ridge_color", "spot_pearson"]
    some = scores[scores["gene"] != "GENE0"]
    rows = some[(some["model"] == "ridge_color") & (some["metric"] == "pearson")]
    found = summary(some)
    assert found.at["ridge_color", "gene_pearson"] == pytest.approx(rows["value"].mean())
    assert found["spot_pearson"].isna().all()  # of all genes of a spot
    assert summary(scores[scores["fold"] == 0]).notna().at["ridge_color", "spot_pearson"]


def test_a_fold_is_what_fit_and_predict_give(validated, small_sdata, tmp_path):
    validated, scores, _ = validated
    sdata = copied(small_sdata)
    genes = scores.loc[scores["fold"] == 0, "gene"].unique().tolist()
    config = FitConfig(**ON_CPU, n_epochs=1, progress=False)
    trained_on = ["S1_spots", "S2_spots"]
    predictor = fit(sdata, "m2ost", config=config, model_options=TINY, genes=genes, shapes_key=trained_on,
                    group_key="patient", save_dir=tmp_path / "m")  # fmt: skip
    predict(sdata, predictor, shapes_key="S0_spots", device="cpu", precision="32-true", progress=False)
    held = validated["observed"][:25, genes].layers[KEY]
    np.testing.assert_allclose(held, sdata["predicted"][:, genes].X, atol=1e-5)


def test_seeds_reproduce_and_differ(pair):
    quick = {**QUICK, "genes": ["GENE0", "GENE2", "GENE4"]}
    one = cross_validate(pair, "m2ost", seeds=(0, 7), **quick)
    values = pair["observed"].layers[KEY].copy()
    other = cross_validate(pair, "m2ost", seeds=(7,), **quick)
    assert not np.array_equal(pair["observed"].layers[KEY], values)
    kept = one[(one["seed"] == 7) & (one["model"] == "m2ost")].drop(columns="seed").reset_index(drop=True)
    again = other[other["model"] == "m2ost"].drop(columns="seed").reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, again)


def test_leaks_are_refused_or_marked(pair):
    pair["observed"].obs["patient"] = pd.Categorical(["P"] * 32)
    with pytest.raises(ValueError, match=r"All slides are of one group.*allow_leakage=True"):
        cross_validate(pair, "mean_profile", progress=False)
    assert KEY not in pair["observed"].layers
    scores = cross_validate(pair, "mean_profile", allow_leakage=True, progress=False)
    assert scores.attrs["leaks"] is True
    assert scores.attrs["unit"] == "section"
    assert pair["observed"].uns[KEY]["leaks"] is True


def test_one_slide_is_refused(sdata):
    with pytest.raises(ValueError, match=r"one slide only.*`stp\.pp\.split\(sdata, by='block'\)`"):
        cross_validate(sdata, "mean_profile", shapes_key="S0_spots", progress=False)


def test_a_layer_of_ours_is_overwritten_but_no_other_and_it_is_not_evaluated_as_one_model(pair):
    with pytest.raises(ValueError, match=r"Layer 'rate' exists and was not written by `stp\.tl\.cross_validate`"):
        cross_validate(pair, "mean_profile", key_added="rate", progress=False)
    select_genes(pair, n_genes=3)  # is not used: it may have seen test slides
    assert cross_validate(pair, "mean_profile", progress=False)["gene"].nunique() == 12
    named = cross_validate(pair, "ridge_color", genes=["GENE3", "GENE1"], progress=False)
    assert set(named["gene"]) == {"GENE1", "GENE3"}
    assert pair["observed"].uns[KEY]["model"]["name"] == "ridge_color"
    with pytest.raises(ValueError, match="'cross_validated' was cross-validated: every fold has its own predictor"):
        evaluate(pair, predicted=KEY)


def test_an_error_of_the_model_is_raised_and_nothing_is_written(pair):
    with pytest.raises(ValueError, match="`dim` is -1"):
        cross_validate(pair, "m2ost", model_options={"dim": -1}, progress=False)
    assert KEY not in pair["observed"].layers
    assert "fold" not in pair["observed"].obs


def test_another_process_at_a_fold_leaves_the_object_as_it_is(pair, tmp_path):
    before = contents(pair)
    with lock(tmp_path / "mean_profile/fold-1-seed-0") as ours:
        assert ours
        with pytest.raises(RuntimeError, match="running the same cross-validation: 'mean_profile/fold-1-seed-0'"):
            cross_validate(pair, "mean_profile", save_dir=tmp_path, progress=False)
    assert contents(pair) == before
    assert cross_validate(pair, "mean_profile", save_dir=tmp_path, progress=False)["fold"].nunique() == 2


def test_several_objects_are_written_each(two):
    sdatas = [copied(two) for _ in range(2)]
    sdatas[1]["observed"].X = sdatas[1]["observed"].X[::-1].copy()  # other counts: a slide is given once
    scores = cross_validate(sdatas, "ridge_color", group_key=None, n_folds=2, shapes_key="S0_spots",
                            progress=False)  # fmt: skip
    assert scores.attrs["unit"] == "section"
    for sdata in sdatas:
        table = sdata["observed"]
        assert np.isfinite(table.layers[KEY][:16]).all()
        assert np.isnan(table.layers[KEY][16:]).all()
        assert table.obs["fold"].isna().tolist() == [False] * 16 + [True] * 16


def test_the_layer_can_be_saved_and_drawn_from(pair, tmp_path, through_disk):
    cross_validate(pair, "ridge_color", protocol="hest", progress=False)
    pair["observed"].write_h5ad(tmp_path / "a.h5ad")
    through_disk(pair, tmp_path / "a.zarr")
    predictor = fit(pair, "mean_profile", target=TargetSpec(target_sum=None, n_components=None), group_key="patient",
                    save_dir=tmp_path / "m")  # fmt: skip
    predict(pair, predictor, progress=False)
    assert pair["predicted"].uns["predicted"]["units"] == "log1p counts"
    pair["predicted"].write_h5ad(tmp_path / "p.h5ad")
    with pytest.warns(UserWarning, match="was trained on"):
        assert evaluate(pair)["ceiling"].notna().all()


def test_protocol_m2ost_shows_the_constant(small_sdata):
    sdata = synthetic(n_slides=4, n_side=4, um_per_px=8.0)
    sdata["observed"].obs["patient"] = pd.Categorical(np.tile(np.repeat(["p", "q"], 16), 2))
    scores = cross_validate(sdata, "ridge_color", protocol="m2ost", progress=False)
    found = summary(scores)
    assert sdata["observed"].uns[KEY]["units"] == "log1p CPM over the panel"
    assert scores.attrs["leaks"] is True
    assert found.loc["ridge_color", "spot_pearson_of_constant"] == found.loc["mean_profile", "spot_pearson"]
    assert found.loc["mean_profile", "gene_pearson"] == 0
    assert "patients are on both sides" in scores.attrs["protocol_note"]
    order = ["S0", "S1", "S2", "S3"]
    random.Random(1553).shuffle(order)
    table = sdata["observed"]
    assert set(table.obs.loc[table.obs["fold"].notna(), "section"]) == set(order[2:])
    with pytest.raises(ValueError, match=r"`protocol='m2ost'` fixes the folds"):
        cross_validate(sdata, "ridge_color", protocol="m2ost", n_folds=2, progress=False)
    with pytest.raises(ValueError, match=r"fixes the target, but `target` has another 'target_sum', 'over'"):
        cross_validate(sdata, "ridge_color", protocol="m2ost", target=TargetSpec(), progress=False)
    with pytest.raises(ValueError, match="`protocol` is 'paper'; allowed: 'm2ost', 'm2ost_code', 'hest'"):
        cross_validate(small_sdata, "ridge_color", protocol="paper", progress=False)
    with pytest.raises(ValueError, match="splits sections by shares, and there are 3"):
        cross_validate(small_sdata, "ridge_color", protocol="m2ost", progress=False)


def test_genes_of_the_protocols(small_sdata):
    slides = resolve(small_sdata, Selection())
    rng = np.random.default_rng(0)
    panel = gene_panel("her2st")

    def measured(genes):
        return [
            replace(slide, genes=tuple(genes), counts=sparse.csr_matrix(rng.poisson(2.0, (25, len(genes)))))
            for slide in slides
        ]

    assert PROTOCOLS["m2ost"].genes(measured([*panel[::-1], "other"])) == panel
    drawn = PROTOCOLS["m2ost"].genes(measured([f"g{i:04}" for i in range(1600)]))
    assert len(drawn) == 250
    assert drawn == sorted(set(drawn))
    many = measured([f"g{i}" for i in range(80)])
    loud = [f"g{i}" for i in range(0, 80, 2)]
    for slide in many:
        slide.counts[:, ::2] = slide.counts[:, ::2].multiply(rng.integers(0, 9, (25, 40)))
    chosen = PROTOCOLS["hest"].genes(many)
    assert len(chosen) == 50
    assert set(loud) <= set(chosen)


def test_protocols_choose_genes_that_only_the_test_slide_shows(small_sdata):
    """A gene that is loud, or patterned, on one slide alone is chosen: what the notes call a leak."""
    slides, rng = resolve(small_sdata, Selection()), np.random.default_rng(0)
    names = tuple(f"g{i}" for i in range(400))
    counts = [rng.poisson(5.0, (25, 400)).astype(np.float64) for _ in slides]
    planted = slides[0].xy_px[:, 0] > np.median(slides[0].xy_px[:, 0])
    loud, patterned = [each.copy() for each in counts], [each.copy() for each in counts]
    loud[0][:, 7] += 500 * rng.random(25)
    patterned[0][:, 7] = 40 * planted

    def made(values):
        pairs = zip(slides, values, strict=True)
        return [replace(slide, genes=names, counts=sparse.csr_matrix(each)) for slide, each in pairs]

    assert PROTOCOLS["hmhvg"].genes(made(loud))[0] == "g7"
    assert len(PROTOCOLS["hmhvg"].genes(made(counts))) == 300
    assert PROTOCOLS["spared"].genes(made(patterned))[0] == "g7"
    assert len(PROTOCOLS["spared"].genes(made(counts))) == 128


def test_labels_of_protocols():
    xy = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), axis=-1).reshape(-1, 2)
    values = np.zeros((25, 2))
    values[12, 0] = 9.0  # one spot in the middle
    mean = average_neighbors(values, xy)[:, 0].reshape(5, 5)
    np.testing.assert_allclose(mean[1:4, 1:4], 1.0)
    values = np.arange(1.0, 26)[:, None] * [1, 0]
    values[12, 0] = 0
    filled = fill_zeros(values, xy)
    assert filled[12, 0] == np.median([7, 8, 9, 12, 0, 14, 17, 18, 19])  # its own zero counts
    np.testing.assert_array_equal(np.delete(filled[:, 0], 12), np.delete(values[:, 0], 12))
    assert (filled[:, 1] == 0).all()  # a gene without counts


def test_models_are_trained_and_scored_on_the_labels_of_a_protocol(pair):
    scores = cross_validate(pair, "ridge_color", protocol="smoothed", progress=False)
    assert scores.loc[scores["metric"] == "ceiling", "value"].isna().all()
    assert "8 nearest" in scores.attrs["protocol_note"]
    study = plan_study(pair, Selection(), by="group", n_folds=None, genes=None, common={}, target=None,
                       protocol="smoothed", allow_leakage=False)  # fmt: skip
    genes, record = study.panels[0], study.counts_record
    for slide in resolve(pair, Selection()):
        labels = normalize_slide(study.slides[slide.name], genes, study.target, record)
        before = normalize_slide(slide, genes, study.target, replace(record, fractional=False))
        np.testing.assert_allclose(labels, average_neighbors(before, slide.xy_px), atol=1e-5)
    with pytest.raises(ValueError, match=r"With zeros filled in, the 12 genes .* take `protocol='spared'`"):
        cross_validate(pair, "ridge_color", protocol="spared_imputed", progress=False)


def test_the_command_line_knows_every_protocol():
    assert set(OPTION_PROTOCOLS) == set(PROTOCOLS)


def test_hest_pools_the_spots_of_a_fold(small_sdata):
    sdata = copied(small_sdata)
    sdata["observed"].obs["patient"] = pd.Categorical(["p"] * 50 + ["q"] * 25)
    scores = cross_validate(sdata, "encoder_ridge", protocol="hest", progress=False)
    assert set(scores["slide"]) == {"all test spots"}
    table = sdata["observed"]
    rows = (table.obs["fold"] == "0").to_numpy()
    assert rows.sum() == 50
    counts = table.X.toarray()[rows]
    own = scores[(scores["model"] == "encoder_ridge") & (scores["fold"] == 0)].set_index(["metric", "gene"])["value"]
    together = pearson(np.log1p(counts), table.layers[KEY][rows])
    ceiling = noise_ceiling(counts[:, table.var_names.get_indexer(own["ceiling"].index)].astype(int), target_sum=None)
    np.testing.assert_allclose(own["pearson"].reindex(table.var_names), together, atol=1e-6)
    np.testing.assert_allclose(own["ceiling"], ceiling)


def test_the_recipe_of_hest_is_in_the_configuration(pair, tmp_path):
    benchmark(pair, ["encoder_ridge"], protocol="hest", save_dir=tmp_path, progress=False)
    config = json.loads((tmp_path / "encoder_ridge/fold-0-seed-0/config.json").read_text())
    shape = config["model_options"]["config"]
    assert (shape["n_components"], shape["penalty"], shape["intercept"]) == (256, "hest", False)
    assert config["patch"] == {**config["patch"], "fov_um": [112.0], "size_px": 224}
    assert config["target"] == {
        "target_sum": None, "over": "all", "log1p": True, "standardize": False, "n_components": None, "center": "all"
    }  # fmt: skip


def test_entry_points_settle_the_same_study(pair):
    given = {"by": "group", "n_folds": None, "genes": None, "common": {}, "target": None, "protocol": None,
             "allow_leakage": False}  # fmt: skip
    one, other = (plan_study(pair, Selection(group_key="patient"), **given) for _ in range(2))
    assert one.fingerprint == other.fingerprint
    assert plan_study(pair, Selection(), **given).fingerprint != one.fingerprint
