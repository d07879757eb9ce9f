"""Predicted objects in other tools of the ecosystem: spatialdata-plot, and readers of parts of a store.

`test_downstream` has scanpy and squidpy.
"""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
import zarr
from scipy.stats import spearmanr

from stpredict.tl import predict

QUIET = {"device": "cpu", "precision": "32-true", "progress": False}


@pytest.mark.filterwarnings("ignore")  # theirs, not ours
def test_spatialdata_plot_draws_a_prediction_on_the_slide(sdata, predictor):
    pytest.importorskip("spatialdata_plot")
    predict(sdata, predictor, shapes_key="S2_spots", **QUIET)
    gene = predictor.genes[0]
    figure, axes = plt.subplots()
    shapes = sdata.pl.render_images("S2_image").pl.render_shapes("S2_spots", color=gene, table_name="predicted")
    shapes.pl.show(coordinate_systems="S2", ax=axes, title=gene)
    assert axes.get_title() == gene
    (spots,) = axes.collections
    values = sdata["predicted"][:, gene].X.ravel()
    luminance = spots.get_facecolor()[:, :3] @ [0.2126, 0.7152, 0.0722]  # of viridis, it grows with the value
    assert spearmanr(luminance, values).statistic > 0.99
    plt.close(figure)


def test_rows_of_a_streamed_prediction_are_read_from_disk(sdata, predictor, tmp_path):
    """As loaders of batches such as annbatch read: blocks of rows of X by zarr, and the table backed or lazily."""
    predict(sdata, predictor, store=tmp_path / "store.zarr", **QUIET)
    expected = np.asarray(sdata["predicted"].X)
    matrix = zarr.open_group(tmp_path / "store.zarr", mode="r")["X"]
    np.testing.assert_array_equal(matrix[10:20], expected[10:20])
    whole = ad.read_zarr(tmp_path / "store.zarr")
    np.testing.assert_array_equal(whole.X, expected)
    assert whole.obs_names.tolist() == sdata["predicted"].obs_names.tolist()

    whole.write_h5ad(tmp_path / "table.h5ad")
    backed = ad.read_h5ad(tmp_path / "table.h5ad", backed="r")
    assert backed.isbacked
    np.testing.assert_array_equal(backed[[3, 40, 70]].to_memory().X, expected[[3, 40, 70]])
    backed.file.close()


@pytest.mark.filterwarnings("ignore")  # theirs, not ours
def test_a_prediction_is_a_lazy_table(sdata, predictor, tmp_path):
    predict(sdata, predictor, store=tmp_path / "store.zarr", **QUIET)
    lazy = ad.experimental.read_lazy(tmp_path / "store.zarr")
    np.testing.assert_array_equal(lazy.X[5:9].compute(), np.asarray(sdata["predicted"].X)[5:9])
