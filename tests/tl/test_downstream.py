"""Predicted tables go through scanpy, squidpy and a zarr round trip as they are."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from stpredict._palette import CATEGORIES
from stpredict._slides.slides import Selection, resolve
from stpredict.tl import domains, evaluate, predict
from stpredict.tl._inference.small_images import small_images


@pytest.mark.filterwarnings("ignore")  # theirs, not ours
def test_scanpy_squidpy_and_zarr(sdata, predictor, tmp_path, through_disk):
    sc, sq = pytest.importorskip("scanpy"), pytest.importorskip("squidpy")
    predict(sdata, predictor, device="cpu", precision="32-true", progress=False)
    scores = evaluate(sdata, shapes_key="S2_spots", n_splits=2)
    again = through_disk(sdata, tmp_path / "a.zarr")
    adata = again["predicted"]
    np.testing.assert_array_equal(adata.X, sdata["predicted"].X)
    assert adata.uns["predicted"]["units"] == "log1p CP10k"
    assert again.tables["predicted"].obs["region"].cat.categories.tolist() == ["S0_spots", "S1_spots", "S2_spots"]

    pd.testing.assert_frame_equal(evaluate(again, shapes_key="S2_spots", n_splits=2), scores, check_column_type=False)
    assert adata.uns["evaluation"]["ceiling"] == pytest.approx(scores.attrs["ceiling"])

    sc.pp.pca(adata, n_comps=5)
    sc.pp.neighbors(adata, n_neighbors=8, method="gauss")  # numba compiles UMAP for a quarter of a minute
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
    sc.tl.diffmap(adata, n_comps=4)
    assert adata.obsm["X_diffmap"].shape == (75, 4)
    assert adata.obs["leiden"].notna().all()

    sq.gr.spatial_neighbors(adata, library_key="region", coord_type="generic", n_neighs=4)
    sq.gr.spatial_autocorr(adata, mode="moran", n_perms=None, show_progress_bar=False)
    assert adata.uns["moranI"]["I"].between(-1, 1).all()

    domains(again, 3, "expression", table_name="predicted", n_seeds=1, clusterer="kmeans", progress=False)
    sq.gr.interaction_matrix(adata, cluster_key="domain")
    assert adata.uns["domain_interactions"].shape == (3, 3)
    ax = sc.pl.embedding(adata, "spatial", color="domain", show=False)
    drawn = [to_hex(handle.get_facecolor()[0]) for handle in ax.get_legend().legend_handles]
    assert drawn == [color.lower() for color in adata.uns["domain_colors"]] == [c.lower() for c in CATEGORIES[:3]]
    assert set(adata.uns["moranI"].index) == set(predictor.genes)

    predict(again, predictor, device="cpu", precision="32-true", progress=False)  # and again
    adata.write_h5ad(tmp_path / "a.h5ad")


@pytest.mark.filterwarnings("ignore")  # theirs, not ours
def test_spatial_plots_of_scanpy_and_squidpy_show_predictions_on_the_slide(sdata, predictor):
    sc, sq = pytest.importorskip("scanpy"), pytest.importorskip("squidpy")
    for region in ("S1_spots", "S2_spots"):  # one after the other: the second must not lose the image of the first
        predict(sdata, predictor, shapes_key=region, device="cpu", precision="32-true", progress=False)
    adata, gene = sdata["predicted"], predictor.genes[0]
    assert set(adata.uns["spatial"]) == {"S1_spots", "S2_spots"}
    kept = adata.uns["spatial"]["S1_spots"]
    pixels = np.asarray(sdata["S1_image"]["scale0"].image.transpose("y", "x", "c"))
    np.testing.assert_array_equal(kept["images"]["hires"], pixels)  # small enough to be kept as it is
    factors = kept["scalefactors"]
    assert factors == {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": pytest.approx(100 / 8)}

    for ax in sq.pl.spatial_scatter(adata, color=gene, library_key="region", return_ax=True):
        (image,) = ax.images
        assert image.get_array().shape[:2] == pixels.shape[:2]
    one = adata[adata.obs["region"] == "S1_spots"]
    (ax,) = sc.pl.spatial(one, color=gene, library_id="S1_spots", show=False)
    assert ax.images[0].get_array().shape[:2] == pixels.shape[:2]


def test_a_large_slide_is_kept_at_a_small_size(sdata, predictor):
    slide = resolve(sdata, Selection(shapes_key="S2_spots"), needs_counts=False)[0]
    whole = small_images([slide])["S2_spots"]
    side = slide.levels[0].pixels.shape[1]
    with patch("stpredict.tl._inference.small_images.SIDE_PX", side // 4):
        small = small_images([slide])["S2_spots"]
    ratio = whole["images"]["hires"].shape[0] / small["images"]["hires"].shape[0]
    assert 3.5 < ratio <= 4.1
    assert small["scalefactors"]["tissue_hires_scalef"] == pytest.approx(1 / ratio, rel=0.03)
    for record in (whole, small):  # the same tissue at the same place
        top = record["images"]["hires"][: record["images"]["hires"].shape[0] // 2]
        assert top.mean() == pytest.approx(
            whole["images"]["hires"][: whole["images"]["hires"].shape[0] // 2].mean(), abs=1
        )
