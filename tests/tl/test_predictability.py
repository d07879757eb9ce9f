"""Predictability: genes that follow colour are found; noise, and smooth genes that the image does not show, are not."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.ndimage import gaussian_filter

import stpredict as stp
from stpredict.pp.targets import standardize_within_slides
from stpredict.tl import predictability
from stpredict.tl._predictability.image_graph import (
    ImageSpace,
    pearson_within_slides,
    torus_shift_permutation,
)
from stpredict.tl._predictability.predictability import _scores

QUIET = {"progress": False}


@pytest.fixture(autouse=True, scope="module")
def few_pixels():
    """Not here: what is predictable is measured on patches of the usual size."""


@pytest.fixture(scope="module")
def original():
    """Two slides with 12 genes of the image, ten of noise, ten that are smooth in space and not in the image."""
    sdata = stp.datasets.synthetic(n_slides=2, n_side=10, um_per_px=8.0)
    table, rng = sdata["observed"], np.random.default_rng(0)
    share = 0.03 * np.asarray(table.X.sum(axis=1)).reshape(-1, 1)  # else other genes dilute these
    noise = rng.poisson(np.repeat(share, 10, axis=1))
    fields = [gaussian_filter(rng.standard_normal((30, 30)), 2)[10:20, 10:20].ravel() for _ in range(20)]
    smooth = np.concatenate([np.column_stack(fields[:10]), np.column_stack(fields[10:])])
    hidden = rng.poisson(share * np.exp(0.6 * smooth / smooth.std(axis=0)))
    counts = np.concatenate([table.X.toarray(), noise, hidden], axis=1).astype(np.float32)
    genes = [*table.var_names, *(f"NOISE{i}" for i in range(10)), *(f"SMOOTH{i}" for i in range(10))]
    sdata.tables["observed"] = ad.AnnData(
        sparse.csr_matrix(counts), obs=table.obs.copy(), var=pd.DataFrame(index=genes), uns=dict(table.uns),
        obsm=dict(table.obsm),
    )  # fmt: skip
    return sdata


@pytest.fixture(scope="module", params=[None, "S0_spots"], ids=["two slides", "one slide"])
def found(original, request):
    return predictability(original, shapes_key=request.param, **QUIET)


def kind(found, name):
    return found[found.index.str.startswith(name)]


def test_genes_of_the_image_are_predictable(found):
    genes = kind(found, "GENE")
    assert (genes["predictability"] > 0.4).all()
    assert (genes["q_value"] < 0.05).all()
    assert (genes["z"] > 3).all()
    assert genes["share_of_ceiling"].between(0.4, 1).all()


def test_noise_is_not(found):
    genes = kind(found, "NOISE")
    assert abs(genes["predictability"].mean()) < 0.1
    assert (genes["q_value"] < 0.05).sum() <= 1


def test_smooth_genes_that_no_image_shows_are_not(found):
    genes = kind(found, "SMOOTH")
    assert (genes["moran"] > 0.4).all()
    assert genes["predictability"].mean() < 0.1
    assert genes["p_value"].median() > 0.3
    assert (genes["q_value"] < 0.05).sum() <= 2


def test_what_is_returned_and_written(original):
    some = [f"GENE{i}" for i in range(4)]
    before = original["observed"].X.copy()
    found = predictability(original, genes=some, n_permutations=19, **QUIET)
    assert sorted(found.index) == some
    assert found["predictability"].is_monotonic_decreasing
    assert found.columns.tolist() == [
        "predictability", "z", "p_value", "q_value", "ceiling", "share_of_ceiling", "moran",
    ]  # fmt: skip
    table = original["observed"]
    for name in found.columns:
        column = name if name == "predictability" else f"predictability_{name}"
        np.testing.assert_array_equal(table.var.loc[found.index, column], found[name])
        assert table.var[column].isna().sum() == table.n_vars - 4
    assert table.uns["predictability"]["neighbors"] == "other groups"
    assert found.attrs["features"] == "colour and texture"
    assert (before != table.X).nnz == 0
    pd.testing.assert_frame_equal(found, predictability(original, genes=some, n_permutations=19, **QUIET))


def test_embeddings_in_place_of_patches(original):
    table = original["observed"]
    rate = np.log1p(table[:, "GENE3"].X.toarray())
    noise = np.random.default_rng(1).normal(size=(200, 2))
    table.obsm["X_seen"] = np.concatenate([10 * rate, noise], axis=1).astype(np.float32)
    found = predictability(original, features_key="X_seen", genes=["GENE3", "NOISE0"], n_permutations=99, **QUIET)
    assert found.index[0] == "GENE3"
    assert found.loc["GENE3", "predictability"] > 0.5
    assert found.loc["NOISE0", "predictability"] < 0.3
    assert found.attrs["features"] == "X_seen"


def test_one_group_of_slides_and_wrong_arguments(original):
    original["observed"].obs["who"] = "one"
    found = predictability(original, genes=["GENE0"], group_key="who", n_permutations=1, **QUIET)
    assert found.attrs["neighbors"] == "other slides"
    with pytest.raises(ValueError, match="`n_neighbors` is 0"):
        predictability(original, n_neighbors=0)
    with pytest.raises(ValueError, match="`n_permutations` is 0"):
        predictability(original, n_permutations=0)
    with pytest.raises(ValueError, match="1 of 1 genes asked for are no genes of the table"):
        predictability(original, genes=["ERBB2"])


def test_small_slides_are_refused():
    sdata = stp.datasets.synthetic(n_slides=1, n_side=3, um_per_px=8.0)
    with pytest.raises(ValueError, match="no other spot that is at least two spot distances away"):
        predictability(sdata, n_permutations=1, **QUIET)
    two = stp.datasets.synthetic(n_slides=2, n_side=4, um_per_px=8.0)
    two["observed"] = two["observed"][:18].copy()
    with pytest.raises(ValueError, match="A slide has 2 spots with counts"):
        predictability(two, n_permutations=1, **QUIET)


def grid(side, slide=0):
    y, x = np.divmod(np.arange(side**2), side)
    return np.column_stack([x, y]).astype(float), np.full(side**2, slide)


def test_neighbours_are_elsewhere():
    xy, index = grid(6)
    features = np.random.default_rng(0).normal(size=(72, 3)).astype(np.float32)
    both = {"xy_um": np.concatenate([xy, xy]), "slide": np.concatenate([index, index + 1]), "pitch_um": 1.0}
    for group in (np.repeat(["a", "b"], 36), np.repeat(["a", "a"], 36)):
        found = ImageSpace(features=features, group=group, **both).neighbors(5)
        assert found.shape == (72, 5)
        assert (both["slide"][found] != both["slide"][:, None]).all()
    alone = ImageSpace(features=features[:36], xy_um=xy, slide=index, group=np.full(36, "a"), pitch_um=1.0)
    found = alone.neighbors(5)
    away = np.linalg.norm(xy[:, None] - xy[found], axis=-1)
    assert (away > 2).all()
    distance = np.linalg.norm(features[:36, None] - features[:36], axis=-1)
    distance[np.linalg.norm(xy[:, None] - xy, axis=-1) < 2.05] = np.inf
    np.testing.assert_array_equal(np.sort(found, axis=1), np.sort(np.argsort(distance, axis=1)[:, :5], axis=1))


def smooth_fields(rng, side, n_slides, n):
    """``(n_slides * side ** 2, n)`` noise that is alike over about two spots."""
    fields = gaussian_filter(rng.standard_normal((n_slides, n, 3 * side, 3 * side)), (0, 0, 2, 2))
    inside = fields[:, :, side : 2 * side, side : 2 * side].reshape(n_slides, n, -1)
    return inside.transpose(0, 2, 1).reshape(-1, n).astype(np.float32)


def test_permuted_values_stay_together_and_on_their_slide():
    xy, index = grid(20)
    places, slide = np.concatenate([xy, xy]), np.concatenate([index, index + 1])
    field = smooth_fields(np.random.default_rng(0), 20, 2, 30)
    rng, kept, agreement = np.random.default_rng(0), [], []
    for _ in range(40):
        taken = torus_shift_permutation(places, slide, rng)
        assert (slide[taken] == slide).all()
        kept.append(stp.metrics.morans_i(field[taken][:400], xy).mean())
        agreement.append(pearson_within_slides(field[taken], field, slide).mean())
    assert stp.metrics.morans_i(field[:400], xy).mean() - np.mean(kept) < 0.1
    assert abs(np.mean(agreement)) < 0.1


@pytest.mark.parametrize("n_slides", [1, 2])
def test_smooth_genes_are_called_predictable_as_often_as_p_says(n_slides):
    """Smooth features, and smooth genes that have nothing to do with them."""
    rng, p_values = np.random.default_rng(0), []
    xy, index = np.tile(grid(14)[0], (n_slides, 1)), np.repeat(np.arange(n_slides), 196)
    for seed in range(6):
        features = standardize_within_slides(smooth_fields(rng, 14, n_slides, 5), index)
        spots = ImageSpace(features=features, xy_um=xy, slide=index, group=index.astype(str), pitch_um=1.0)
        scores, chance = _scores(smooth_fields(rng, 14, n_slides, 50), spots, 10, 99, seed)
        p_values.append((1 + (chance >= scores).sum(axis=0)) / 100)
    assert np.mean(np.concatenate(p_values) <= 0.05) < 0.12
    assert 0.35 < np.mean(p_values) < 0.65
