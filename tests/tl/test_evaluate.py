"""Scores with known answers: perfect predictions, mean profiles, baselines, ceilings, and what is left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict._train.color import apply_ridge
from stpredict.metrics import (
    coexpression_agreement,
    log_fold_agreement,
    morans_i,
    noise_ceiling,
    pathway_scores,
    pearson,
    r2,
)
from stpredict.tl import Predictor, evaluate, predict, summary

from .conftest import copied

QUIET = {"device": "cpu", "precision": "32-true", "progress": False}
NEW = "S2_spots"


@pytest.fixture(scope="module")
def original(small_sdata, trained):
    sdata = copied(small_sdata)
    predict(sdata, Predictor.load(trained[0]), **QUIET)
    return sdata


@pytest.fixture
def predicted(original):
    """Slides with a prediction, which a test may change."""
    return copied(original)


def log_cp10k(counts):
    dense = counts.toarray()
    return np.log1p(1e4 * dense / dense.sum(axis=1, keepdims=True)).astype(np.float32)


def rows_of(sdata, region=NEW):
    return (sdata["observed"].obs["region"] == region).to_numpy()


def score(sdata, **arguments):
    return evaluate(sdata, **{"shapes_key": NEW, "n_splits": 2, **arguments})


CHANGED = pytest.mark.filterwarnings("ignore:'predicted' was changed")


@CHANGED
def test_a_perfect_prediction_scores_1(predicted):
    predicted["predicted"].X = log_cp10k(predicted["observed"].X)
    scores = score(predicted)
    for column, wanted in {"pearson": 1, "spearman": 1, "rmse": 0, "mae": 0}.items():
        np.testing.assert_allclose(scores[column], wanted, atol=1e-5)
    np.testing.assert_allclose(scores["moran_predicted"], scores["moran_observed"], atol=1e-6)
    for name in ("r2", "ssim", "moran_agreement", "spot_r2"):
        np.testing.assert_allclose(scores[name], 1, atol=1e-5)
    model = summary(scores).loc["model"]
    assert model["gene_pearson"] == pytest.approx(1)
    assert model["spot_pearson"] == pytest.approx(1)
    assert model["share_of_ceiling"] == pytest.approx(1 / scores.attrs["ceiling"])


def test_the_mean_profile_scores_0_across_spots_but_not_across_genes(predicted, predictor):
    scores = score(predicted)
    profile = summary(scores).loc["mean_profile"]
    assert profile[["gene_pearson", "gene_pearson_top50", "best50", "share_of_ceiling"]].tolist() == [0, 0, 0, 0]
    observed = log_cp10k(predicted["observed"].X)[rows_of(predicted)]
    r = [np.corrcoef(spot, predictor.train_mean)[0, 1] for spot in observed]
    assert profile["spot_pearson"] == pytest.approx(np.mean(r), abs=1e-5)
    error = np.sqrt(((observed - predictor.train_mean) ** 2).mean(axis=1))
    assert profile["rmse"] == pytest.approx(error.mean(), rel=1e-5)


def test_the_ridge_on_colour_is_a_matrix_product(predicted):
    scores, table = score(predicted), predicted["predicted"]
    ridge = table.obsm["color"] @ table.varm["ridge_color"][:, :-1].T + table.varm["ridge_color"][:, -1]
    rows = rows_of(predicted)
    observed = log_cp10k(predicted["observed"].X)[rows]
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(observed.T, ridge[rows].T, strict=True)]
    np.testing.assert_allclose(scores["pearson_ridge_color"], r, atol=1e-5)
    assert summary(scores).at["ridge_color", "gene_pearson"] == pytest.approx(np.mean(r), abs=1e-5)
    assert np.mean(r) > 0.7


def test_every_column_is_what_metrics_give(predicted):
    scores, rows = score(predicted, n_splits=3, seed=4), rows_of(predicted)
    counts, table = predicted["observed"].X[rows], predicted["predicted"]
    observed = log_cp10k(counts)
    np.testing.assert_allclose(scores["pearson"], pearson(observed, table.X[rows]), rtol=1e-6)  # float32 inside
    np.testing.assert_allclose(scores["moran_predicted"], morans_i(table.X[rows], table.obsm["spatial"][rows]))
    total = np.asarray(counts.sum(axis=1)).ravel()
    np.testing.assert_allclose(scores["ceiling"], noise_ceiling(counts, total=total, n_splits=3, seed=4))
    assert scores.index.name == "gene"
    whole = ["moran_agreement", "gene_r2", "moran_gap", "geary_gap", "svg_overlap", "gene_ssim", "coexpression"]
    of_spots = ["pearson", "rmse", "mae", "r2"]
    assert list(scores.columns[:14]) == ["pearson", "spearman", "r2", "rmse", "mae", "ceiling", "moran_observed",
                                         "moran_predicted", "geary_observed", "geary_predicted", "ssim",
                                         "pearson_ridge_color", "pearson_mean_profile", "variance"]  # fmt: skip
    assert set(scores.columns[14:]) == {"n_genes", *(f"{name}{row}" for row in ("_mean_profile", "_ridge_color", "")
                                        for name in [*whole, *(f"spot_{each}" for each in of_spots)])}  # fmt: skip
    assert list(summary(scores).columns) == [
        "gene_pearson", "gene_pearson_top50", "best10", "best50", "best200", "spot_pearson", "rmse", "mae",
        "share_of_ceiling", "moran_agreement", "gene_r2", "spot_r2", "moran_gap", "geary_gap", "svg_overlap",
        "gene_ssim", "coexpression",
    ]  # fmt: skip
    found = summary(scores).loc["ridge_color"]
    ridge = apply_ridge(table.varm["ridge_color"], table.obsm["color"][rows])
    assert found["gene_r2"] == pytest.approx(r2(observed, ridge).mean(), abs=1e-5)
    assert found["coexpression"] == pytest.approx(
        coexpression_agreement(observed, ridge, ceiling=scores["ceiling"]), abs=1e-5
    )
    assert scores.attrs["units"] == "log1p CP10k"
    assert scores.attrs["n_spots"] == 25


def test_library_size_over_the_panel(sdata, quick):
    genes = ["GENE0", "GENE1", "GENE2"]
    quick(sdata, genes=genes, target=stp.pp.TargetSpec(over="panel", target_sum=1e6), shapes_key="S0_spots")
    predict(sdata, shapes_key=NEW, **QUIET)
    scores, rows = score(sdata), rows_of(sdata)
    counts = sdata["observed"][rows, genes].X.toarray()
    observed = np.log1p(1e6 * counts / counts.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(scores["pearson"], pearson(observed, sdata["predicted"].X), atol=1e-5)
    np.testing.assert_allclose(scores["ceiling"], noise_ceiling(counts, target_sum=1e6, n_splits=2))


@CHANGED
@pytest.mark.filterwarnings("ignore:The predictor was trained on")
def test_slides_are_scored_apart_and_averaged(predicted):
    table = predicted["predicted"]
    table.X = log_cp10k(predicted["observed"].X)
    mirrored = rows_of(predicted, "S1_spots")
    table.X[mirrored] = table.X[mirrored].max() - table.X[mirrored]  # the correlation is that of the negative
    scores = score(predicted, shapes_key=["S1_spots", NEW])
    np.testing.assert_allclose(scores["pearson"], 0, atol=1e-6)
    apart = [score(predicted, shapes_key=key) for key in ("S1_spots", NEW)]
    np.testing.assert_allclose(scores["ceiling"], (apart[0]["ceiling"] + apart[1]["ceiling"]) / 2)
    assert summary(scores).at["model", "gene_pearson"] == pytest.approx(0, abs=1e-6)


def test_scores_are_written_beside_the_prediction(predicted):
    before = predicted["observed"].copy()
    scores, table = score(predicted), predicted["predicted"]
    for column in scores.columns[:13]:
        np.testing.assert_array_equal(table.var[f"predicted_{column}"], scores[column])
    stored = pd.DataFrame.from_dict(table.uns["evaluation"]["summary"], orient="index")
    pd.testing.assert_frame_equal(stored, summary(scores))
    pd.testing.assert_frame_equal(predicted["observed"].var, before.var)


def test_slides_seen_in_training_are_warned_of(predicted):
    with pytest.warns(
        UserWarning, match=r"was trained on 'S0_spots', 'S1_spots': these scores measure how well it rememb"
    ):
        scores = score(predicted, shapes_key=None)
    assert scores.attrs["n_spots"] == 75
    with pytest.warns(UserWarning, match=r"was trained on 'S1_spots'"):
        score(predicted, shapes_key="S1_spots")


def test_constant_genes_are_nan_and_left_out_of_means(predicted):
    counts = predicted["observed"].X.toarray()
    counts[:, 3] = 0
    predicted["observed"].X = counts
    scores = score(predicted)
    constant = ["pearson", "spearman", "r2", "ceiling", "moran_observed", "geary_observed", "ssim",
                "pearson_ridge_color", "pearson_mean_profile"]  # fmt: skip
    assert scores.loc["GENE3", constant].isna().all()
    assert scores.drop(index="GENE3", columns="moran_agreement_mean_profile").notna().all(axis=None)
    assert summary(scores).at["model", "gene_pearson"] == pytest.approx(scores["pearson"].mean())
    assert scores.attrs["ceiling"] == pytest.approx(scores["ceiling"].mean())


def test_no_gene_that_varies_is_no_score_and_no_warning(predicted):
    predicted["observed"].X = np.ones((75, 12), np.float32)
    scores = score(predicted)
    assert scores["pearson"].isna().all()
    assert np.isnan(scores.attrs["ceiling"])
    assert summary(scores)["gene_pearson"].isna().all()
    assert summary(scores)["share_of_ceiling"].isna().all()


def test_spots_without_counts_are_left_out_and_counted(predicted):
    counts = predicted["observed"].X.toarray()
    counts[[0, 50, 60]] = 0  # one on another slide
    predicted["observed"].X = counts
    scores = score(predicted)
    assert (scores.attrs["n_empty"], scores.attrs["n_spots"]) == (2, 23)
    kept = rows_of(predicted) & (counts.sum(axis=1) > 0)
    observed = np.log1p(1e4 * counts[kept] / counts[kept].sum(axis=1, keepdims=True))
    np.testing.assert_allclose(scores["pearson"], pearson(observed, predicted["predicted"].X[kept]), atol=1e-6)


def test_spots_without_counts_of_the_panel_are_left_out(sdata, quick):
    counts = sdata["observed"].X.toarray()
    counts[55, :3] = 0
    sdata["observed"].X = counts
    quick(sdata, genes=["GENE0", "GENE1", "GENE2"], shapes_key="S0_spots")
    predict(sdata, shapes_key=NEW, **QUIET)
    assert score(sdata).attrs["n_empty"] == 1


def test_order_of_rows_and_genes_does_not_matter(predicted):
    wanted = score(predicted)
    order = np.random.default_rng(0).permutation(75)
    predicted["observed"] = predicted["observed"][order, [f"GENE{i}" for i in reversed(range(12))]].copy()
    found = score(predicted)
    with_ceiling = ["ceiling", *wanted.filter(regex="gap|overlap|coexpression")]  # of other random halves
    np.testing.assert_allclose(found.drop(columns=with_ceiling), wanted.drop(columns=with_ceiling), atol=1e-5)
    np.testing.assert_allclose(found[with_ceiling], wanted[with_ceiling], atol=0.05)


def test_a_layer_is_scored_like_a_table(predicted, predictor):
    wanted = score(predicted)
    predict(predicted, predictor, layer="mine", **QUIET)
    pd.testing.assert_frame_equal(score(predicted, predicted="mine"), wanted, atol=1e-5)
    assert "mine_pearson" in predicted["observed"].var


def test_a_layer_of_one_slide_is_scored_there(sdata, predictor):
    predict(sdata, predictor, layer="mine", shapes_key=NEW, **QUIET)
    assert evaluate(sdata, predicted="mine", n_splits=2).attrs["n_spots"] == 25


def test_counts_from_a_layer_and_a_table_of_another_name(predicted):
    wanted = score(predicted)
    predicted["observed"].layers["raw"] = predicted["observed"].X
    predicted["observed"].X = np.zeros((75, 12), np.float32)
    predicted["counts"] = predicted["observed"]
    del predicted.tables["observed"]
    pd.testing.assert_frame_equal(score(predicted, layer="raw", table_name="counts"), wanted)


def test_two_genes_have_no_correlation_over_genes(sdata, quick):
    quick(sdata, genes=["GENE0", "GENE1"], shapes_key="S0_spots")
    predict(sdata, shapes_key=NEW, **QUIET)
    table = summary(score(sdata))
    assert table["spot_pearson"].isna().all()
    assert table["gene_pearson"].notna().all()


def test_slides_with_one_or_two_spots_are_left_out(predicted):
    keep = rows_of(predicted) | (np.arange(75) % 25 < 2)
    predicted["observed"] = predicted["observed"][keep].copy()
    with pytest.warns(UserWarning, match="was trained on 'S0_spots', 'S1_spots'"):
        scores = score(predicted, shapes_key=None)
    assert scores["pearson"].notna().all()


def test_genes_that_were_not_measured_are_not_scored(predicted):
    predicted["observed"] = predicted["observed"][:, 2:].copy()
    with pytest.warns(UserWarning, match=r"lacks 2 of the 12 predicted genes \('GENE0', 'GENE1'\)"):
        scores = score(predicted)
    assert scores.index[0] == "GENE2"
    assert predicted["predicted"].var["predicted_pearson"].isna().tolist() == [True, True] + [False] * 10


@pytest.fixture
def halves(predicted):
    """Each slide has two domains, and a few spots without one."""
    obs = predicted["observed"].obs
    obs["domain"] = np.where(obs["array_col"] < 2, "left", np.where(obs["array_col"] < 4, "right", None))
    return predicted


def test_domains_and_pathways_are_scored_too(halves, tmp_path):
    genes = halves["predicted"].var_names.tolist()
    sets = {"one": genes[:4], "two": [*genes[3:9], "ABSENT"], "small": genes[:2]}
    found = summary(score(halves, domain_key="domain", pathways=sets))
    rows = rows_of(halves)
    observed, model = log_cp10k(halves["observed"].X)[rows], halves["predicted"].X[rows]
    domains = halves["observed"].obs["domain"].to_numpy()[rows]
    expected = log_fold_agreement(observed, model, domains)
    assert found.at["model", "domain_log_fold"] == pytest.approx(expected, abs=1e-5)
    of_spots = [pathway_scores(values, genes, sets)[:, :2] for values in (observed, model)]
    assert found.at["model", "pathway_pearson"] == pytest.approx(pearson(*of_spots).mean(), abs=1e-5)
    assert found.loc["mean_profile", ["domain_log_fold", "pathway_pearson"]].tolist() == [0, 0]
    (tmp_path / "sets.gmt").write_text("".join(f"{name}\tnote\t{chr(9).join(sets[name])}\n" for name in sets))
    of_file = summary(score(halves, domain_key="domain", pathways=tmp_path / "sets.gmt"))
    pd.testing.assert_frame_equal(of_file, found)


def test_domains_of_new_donors_stay_with_their_spots(halves):
    whole = summary(score(halves, domain_key="domain"))
    found = summary(score(halves, domain_key="domain", by="donor"))
    pd.testing.assert_frame_equal(found.loc["not stated"], whole, check_names=False)


def test_intervals_are_scored_where_predictions_have_them(predicted):
    table = predicted["predicted"]
    assert not {"coverage", "coverage_gap"} & set(score(predicted))
    table.layers["predicted_lower"], table.layers["predicted_upper"] = table.X - 0.5, table.X + 0.5
    table.uns["predicted"]["params"]["coverage"] = 0.8
    scores, rows = score(predicted), rows_of(predicted)
    inside = np.abs(log_cp10k(predicted["observed"].X)[rows] - table.X[rows]) <= 0.5
    np.testing.assert_allclose(scores["coverage"], inside.mean(axis=0), atol=0.041)  # a value may lie on a bound
    found = summary(scores)
    assert found.at["model", "coverage_gap"] == pytest.approx(np.abs(scores["coverage"] - 0.8).mean())
    assert found.at["model", "gene_interval_skill"] == pytest.approx(scores["interval_skill"].mean())
    assert found.loc["mean_profile", ["coverage_gap", "gene_interval_skill"]].isna().all()


def rename_genes(sdata):
    sdata["observed"].var_names = [f"ENSG{i}" for i in range(12)]


def rename_spots(sdata):
    sdata["observed"].obs_names = [f"spot{i}" for i in range(75)]


def forget_target(sdata):
    del sdata["predicted"].uns["predicted"]


def log_counts(sdata):
    sdata["observed"].X = np.log1p(sdata["observed"].X.toarray())


def same_names(sdata):
    sdata["observed"].obs_names = ["a"] * 75


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize(("change", "arguments", "words"), [
    pytest.param(str, {"predicted": "mine"},
                 r"No prediction 'mine': no such table .found: .*'observed'.* \(found: 'rate'\).*key_added='mine'",
                 id="no prediction"),
    pytest.param(str, {"predicted": "observed"}, "'observed' was not written by `stp.tl.predict`", id="counts"),
    pytest.param(forget_target, {}, r"`uns\['predicted'\]` does not say how expression was normalised", id="no target"),
    pytest.param(str, {"table_name": "counts"}, "No table 'counts'", id="no counts"),
    pytest.param(str, {"layer": "raw"}, "No layer 'raw' in the table .found: 'rate'", id="no layer"),
    pytest.param(str, {"layer": "rate"}, "Raw counts are needed, but values are not whole", id="no whole numbers"),
    pytest.param(log_counts, {}, "they are log1p of whole numbers", id="log counts"),
    pytest.param(str, {"shapes_key": "S9_spots"}, "`shapes_key` names 'S9_spots'", id="unknown slide"),
    pytest.param(rename_genes, {}, r"None of the 12 predicted genes .* is among the 12 measured ones \('ENSG0'",
                 id="other gene names"),
    pytest.param(rename_spots, {}, "No slide has more than 0 spots with both counts and predictions.*obs_names",
                 id="other spot names"),
    pytest.param(same_names, {}, "Rows of table 'observed' share a name: 'a'", id="one name for all"),
    pytest.param(str, {"domain_key": "layer"}, "`domain_key`", id="no domains"),
    pytest.param(str, {"domain_key": "region"}, "no scored slide has two domains .*`stp.tl.domains`", id="one domain"),
    pytest.param(str, {"pathways": {"a": ["GENE0", "X", "Y"]}},
                 r"None of the 1 `pathways` has 3 of the 12 predicted genes \('GENE0'.*stp\.tl\.fit", id="other sets"),
])  # fmt: skip
def test_errors(predicted, change, arguments, words):
    change(predicted)
    with pytest.raises(ValueError, match=words):
        score(predicted, **arguments)
    assert "evaluation" not in predicted["predicted"].uns


def test_only_what_evaluate_returned_can_be_summarised():
    with pytest.raises(ValueError, match=r"lacks the columns 'pearson_ridge_color'.*what `stp\.tl\.evaluate`"):
        summary(pd.DataFrame({"pearson": [1.0]}))


def test_the_summary_is_of_the_rows_given(predicted, tmp_path):
    scores, ten = score(predicted), [f"GENE{i}" for i in range(10)]
    scores.to_csv(tmp_path / "scores.csv")
    pd.testing.assert_frame_equal(summary(pd.read_csv(tmp_path / "scores.csv")), summary(scores))
    found = summary(scores.loc[ten])
    assert found.at["model", "gene_pearson"] == pytest.approx(scores.loc[ten, "pearson"].mean())
    assert found.at["model", "share_of_ceiling"] == pytest.approx(
        scores.loc[ten, "pearson"].mean() / scores.loc[ten, "ceiling"].mean()
    )
    assert found[["spot_pearson", "rmse", "mae", "gene_r2", "moran_gap"]].isna().all(axis=None)  # of all genes
