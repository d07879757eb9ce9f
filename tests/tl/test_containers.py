"""AnnData and paths in place of SpatialData: the result is where the user has it, and nothing else changes."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from PIL import Image

import stpredict as stp

QUIET = {"device": "cpu", "precision": "32-true", "progress": False}
CONFIG = {"progress": False}
SLIDES = ("S0", "S1", "S2")
pytestmark = pytest.mark.filterwarnings("ignore:Slide .* is read from its overview")


def as_anndata(sdata, names=SLIDES):
    """What scanpy would hold of these slides; the overviews have the resolution of the positions."""
    table = sdata["observed"][sdata["observed"].obs["section"].isin(names)].copy()
    del table.uns["spatialdata_attrs"]
    table.obs = table.obs[["section", "patient"]].rename(columns={"section": "library_id"}).assign(region="cortex")
    table.uns["spatial"] = {
        name: {
            "images": {"hires": sdata[f"{name}_image"]["scale0"]["image"].to_numpy().transpose(1, 2, 0)},
            "scalefactors": {
                "tissue_hires_scalef": 1.0, "microns_per_pixel": 8.0, "spot_diameter_fullres": 12.5,
            },
        }
        for name in names
    }  # fmt: skip
    return table


@pytest.fixture
def adata(small_sdata):
    return as_anndata(small_sdata)


def test_an_anndata_has_the_predictions_of_a_spatialdata(sdata, adata, predictor):
    stp.tl.predict(sdata, predictor, **QUIET)
    before = adata.copy()
    assert stp.tl.predict(adata, predictor, **QUIET) is None
    np.testing.assert_array_equal(adata.layers["predicted"], sdata["predicted"].X)
    np.testing.assert_array_equal(adata.obs["predicted_image_distance"], sdata["predicted"].obs["image_distance"])
    assert adata.var["predicted"].all()
    assert adata.uns["predicted"]["units"] == "log1p CP10k"
    pd.testing.assert_frame_equal(adata.obs[before.obs.columns], before.obs)  # no link to spots is left
    assert set(adata.obs) - set(before.obs) == {
        f"predicted_{name}" for name in ("image_distance", "unlike_training", "at_border")
    }
    assert "spatialdata_attrs" not in adata.uns
    assert adata.var_names.equals(before.var_names)
    np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())
    np.testing.assert_array_equal(adata.obsm["spatial"], before.obsm["spatial"])

    expected, scores = stp.tl.evaluate(sdata, shapes_key="S2_spots"), stp.tl.evaluate(adata, shapes_key="S2_spots")
    pd.testing.assert_frame_equal(scores, expected)
    np.testing.assert_array_equal(adata.var["predicted_pearson"], scores["pearson"])
    assert "predicted_evaluation" in adata.uns


def test_an_anndata_survives_its_file_and_predicts_with_what_it_was_trained_on(adata, tmp_path):
    predictor = stp.tl.fit(adata, "ridge_color", config=CONFIG)
    assert adata.uns["stpredict"]["predictor"]["hash"] == predictor.hash
    adata.write_h5ad(tmp_path / "a.h5ad")
    found = stp.tl.predict(tmp_path / "a.h5ad", **QUIET)
    stp.tl.predict(adata, predictor, **QUIET)
    assert isinstance(found, ad.AnnData)
    np.testing.assert_array_equal(found.layers["predicted"], adata.layers["predicted"])
    adata.write_zarr(tmp_path / "a.zarr")
    with pytest.warns(UserWarning, match="trained on"):
        scores = stp.tl.evaluate(tmp_path / "a.zarr")
    with pytest.warns(UserWarning, match="trained on"):
        pd.testing.assert_frame_equal(scores, stp.tl.evaluate(adata))


def test_fit_takes_a_mapping_of_different_things(sdata, small_sdata, tmp_path):
    small = {name: as_anndata(small_sdata, [name]) for name in SLIDES[:2]}
    small["S1"].write_h5ad(tmp_path / "S1.h5ad")
    mixed = stp.tl.fit({"a": small["S0"], "b": tmp_path / "S1.h5ad"}, "ridge_color", config=CONFIG)
    together = stp.tl.fit(sdata, "ridge_color", shapes_key=["S0_spots", "S1_spots"], config=CONFIG)
    assert list(mixed.provenance.slides) == ["a/S0_spots", "b/S1_spots"]
    np.testing.assert_allclose(mixed.train_mean, together.train_mean)
    np.testing.assert_allclose(mixed.ridge_color, together.ridge_color, rtol=1e-5)


def test_cross_validation_writes_into_the_anndata(adata):
    scores = stp.tl.cross_validate(adata, "mean_profile", progress=False)
    assert scores["fold"].nunique() == 3
    assert np.isfinite(adata.layers["cross_validated"]).all()
    assert adata.obs["fold"].astype(str).tolist() == np.repeat(["0", "1", "2"], 25).tolist()
    assert "cortex" in adata.obs["region"].tolist()


def test_genes_that_an_anndata_lacks(adata, predictor):
    part = adata[:, [0, 3, 5]].copy()
    with pytest.warns(UserWarning, match=r"has no column for 9 of the predictor's 12 genes .* The others are written"):
        stp.tl.predict(part, predictor, **QUIET)
    stp.tl.predict(adata, predictor, **QUIET)
    np.testing.assert_array_equal(part.layers["predicted"], adata.layers["predicted"][:, [0, 3, 5]])
    np.testing.assert_array_equal(part.var["predicted_train_mean"], adata.var["predicted_train_mean"].iloc[[0, 3, 5]])
    with pytest.warns(UserWarning, match="has no column"):  # slide by slide, as in a leave-one-out loop
        stp.tl.predict(part, predictor, shapes_key="S1_spots", **QUIET)
    assert np.isfinite(part.layers["predicted"]).all()
    part.var_names = ["X", "Y", "Z"]
    with pytest.raises(ValueError, match=r"no column for 12 of .* Write a table of its own: `sdata = stp\.io\.from"):
        stp.tl.predict(part, predictor, key_added="other", **QUIET)


def test_a_panel_needs_all_its_genes(adata):
    target = stp.pp.TargetSpec(over="panel")
    predictor = stp.tl.fit(adata, "ridge_color", target=target, config=CONFIG)
    with pytest.raises(ValueError, match=r"no column for 11 of .* and library sizes are sums over all of them"):
        stp.tl.predict(adata[:, [0]].copy(), predictor, **QUIET)


@pytest.mark.filterwarnings("ignore:.*read_lazy:FutureWarning", "ignore:.*experimental")
def test_tables_that_are_not_in_memory(adata, predictor, tmp_path):
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    stp.tl.predict(backed, predictor, **QUIET)
    stp.tl.predict(adata, predictor, **QUIET)
    assert backed.isbacked
    np.testing.assert_array_equal(backed.layers["predicted"], adata.layers["predicted"])
    adata.write_zarr(tmp_path / "a.zarr")
    with pytest.raises(TypeError, match=r"read lazily, .* Load it first, `adata = adata\.to_memory\(\)`"):
        stp.tl.predict(ad.experimental.read_lazy(tmp_path / "a.zarr"), predictor, **QUIET)


def test_an_error_leaves_the_anndata_as_it_was(adata, predictor):
    before = adata.copy()
    with pytest.raises(ValueError, match="`shapes_key` names 'S9_spots'"):
        stp.tl.predict(adata, predictor, shapes_key="S9_spots", **QUIET)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.layers) == list(before.layers)


def test_the_path_of_a_store_is_read_and_not_changed(sdata, predictor, written):
    found = stp.tl.predict(str(written), predictor, **QUIET)
    stp.tl.predict(sdata, predictor, **QUIET)
    np.testing.assert_array_equal(found["predicted"].X, sdata["predicted"].X)
    assert "predicted" not in sd.read_zarr(written).tables


def test_a_slide_file_gets_a_grid_of_spots(small_sdata, predictor, tmp_path):
    pixels = small_sdata["S2_image"]["scale0"]["image"].to_numpy().transpose(1, 2, 0)
    Image.fromarray(pixels).save(tmp_path / "he.png")
    found = stp.tl.predict(tmp_path / "he.png", predictor, um_per_px=8.0, **QUIET)
    expected = stp.io.read_wsi(tmp_path / "he.png", um_per_px=8.0)
    stp.pp.tissue(expected)
    stp.pp.spot_grid(expected, predictor)
    stp.tl.predict(expected, predictor, **QUIET)
    assert found["predicted"].n_obs > 5
    np.testing.assert_array_equal(found["predicted"].X, expected["predicted"].X)


def test_what_is_neither(adata, predictor, tmp_path):
    with pytest.raises(TypeError, match=r"Expected a SpatialData, an AnnData or a path \(or a .*\), not int\. Read"):
        stp.tl.fit(3)
    with pytest.raises(TypeError, match=r"Expected a SpatialData, an AnnData or a path, not list\. Call the function"):
        stp.tl.predict([adata], predictor)
    with pytest.raises(TypeError, match=r"not AnnData\. Make one of it with `stp\.io\.from_anndata\(adata\)`"):
        stp.pp.tissue(adata)
    with pytest.raises(TypeError, match=r"not str\. Read a store with `spatialdata\.read_zarr\(path\)`, a slide with"):
        stp.pp.tissue("slide.svs")
    with pytest.raises(FileNotFoundError, match=r"Nothing is at '.*gone\.zarr'\. Give the path of a SpatialData or"):
        stp.tl.evaluate(tmp_path / "gone.zarr")
    (tmp_path / "outs" / "spatial").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"folder without zarr .*'spatial'\)\. Read it with `stp\.io\.read_visium"):
        stp.tl.fit(tmp_path / "outs")
    (tmp_path / "a.h5ad").write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"The AnnData 'a\.h5ad' cannot be read"):
        stp.tl.fit(tmp_path / "a.h5ad")
    with pytest.raises(ValueError, match=r"`um_per_px` is 8, and an AnnData was given.* `stp\.io\.from_ann"):
        stp.tl.predict(adata, predictor, um_per_px=8)
    with pytest.raises(ValueError, match=r"`store` is for a table of its own, but an AnnData was given"):
        stp.tl.predict(adata, predictor, store=tmp_path / "store.zarr")
