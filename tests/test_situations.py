"""Situations from public reports: what people hold that is not as our own data sets are."""

from __future__ import annotations

import json
from copy import deepcopy

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import spatialdata as sd
from spatialdata import SpatialData, read_zarr
from spatialdata.models import TableModel

import stpredict as stp
from stpredict._slides import expression
from stpredict._slides.slides import Selection, resolve

pytestmark = [pytest.mark.filterwarnings("ignore:The colours of slide"), pytest.mark.usefixtures("small_patches")]
QUIET = {"progress": False}
TRAIN, TEST = "S0_spots", "S1_spots"


@pytest.fixture(scope="module")
def original():
    return stp.datasets.synthetic(n_slides=2, n_side=5, um_per_px=8.0)


@pytest.fixture
def sdata(original):
    return SpatialData(
        images=dict(original.images),
        shapes=dict(original.shapes),
        tables={"observed": original["observed"].copy()},
        attrs=deepcopy(original.attrs),
    )


@pytest.fixture(scope="module")
def predictor(original):
    return stp.tl.fit(original, "ridge_color", shapes_key=TRAIN, config=QUIET)


def scores(sdata, predictor):
    stp.tl.predict(sdata, predictor, shapes_key=TEST, progress=False)
    return stp.tl.evaluate(sdata)


@pytest.fixture(scope="module")
def expected(original, predictor):
    return scores(original, predictor)


def in_blocks(table, folder):
    table.X = da.from_array(table.X.toarray(), chunks=(7, 5)).map_blocks(sp.csr_matrix)


def dense_blocks(table, folder):
    table.X = da.from_array(table.X.toarray(), chunks=(7, 5))


def read_only(table, folder):
    table.X = table.X.toarray()
    table.X.setflags(write=False)


def in_a_layer(table, folder):
    table.layers["counts"], table.X = table.X, None


def lazy(table, folder):
    """X as `read_lazy` opens it; spatialdata takes no table whose rows are lazy too."""
    table.write_zarr(folder / "table.zarr")
    table.X = ad.experimental.read_lazy(folder / "table.zarr").X


STORED = {
    "dask of sparse": in_blocks,
    "dask of dense": dense_blocks,
    "read-only": read_only,
    "a layer": in_a_layer,
    "csc": lambda table, folder: setattr(table, "X", sp.csc_matrix(table.X)),
    "integers": lambda table, folder: setattr(table, "X", table.X.astype(np.int32)),
    "float64": lambda table, folder: setattr(table, "X", table.X.astype(np.float64)),
    "half precision": lambda table, folder: setattr(table, "X", table.X.toarray().astype(np.float16)),
    "sparse array": lambda table, folder: setattr(table, "X", sp.csr_array(table.X)),
    "texts": lambda table, folder: setattr(table, "X", table.X.toarray().astype(int).astype(str).astype(object)),
    "lazy": lazy,
    "booleans and objects": lambda table, folder: setattr(table, "X", table.X.toarray().astype(object)),
}


@pytest.mark.parametrize("kind", STORED)
@pytest.mark.filterwarnings(
    "ignore:.*object dtype", "ignore:X.dtype", "ignore:.*read_lazy:FutureWarning", "ignore:.*experimental"
)
def test_counts_however_they_are_stored(sdata, original, predictor, expected, tmp_path, kind):
    STORED[kind](sdata["observed"], tmp_path)
    layer = "counts" if kind == "a layer" else None
    stp.pp.select_genes(sdata, n_genes=5, layer=layer)
    del sdata["observed"].uns["stpredict"]
    for slide, known in zip(resolve(sdata, Selection(layer=layer)), resolve(original, Selection()), strict=True):
        np.testing.assert_array_equal(slide.counts.toarray(), known.counts.toarray())
    if kind in ("a layer", "dask of sparse"):
        again = stp.tl.fit(sdata, "ridge_color", shapes_key=TRAIN, layer=layer, config=QUIET)
        np.testing.assert_allclose(again.train_mean, predictor.train_mean, rtol=1e-6)
    stp.tl.predict(sdata, predictor, shapes_key=TEST, progress=False)
    found = stp.tl.evaluate(sdata, layer=layer)
    np.testing.assert_allclose(found["pearson"], expected["pearson"], rtol=1e-5)
    stp.pp.spots_from_cells(
        sdata, diameter_um=400, pitch_um=400, outline="square", shapes_key=TRAIN, table_name="observed", layer=layer
    )
    inside = original["observed"][original["observed"].obs["region"] == TRAIN].X.sum()
    assert 0 < sdata["pseudo_spots_counts"].X.sum() <= inside
    if layer:
        with pytest.raises(ValueError, match="X of the table is None"):
            stp.tl.evaluate(sdata)


def test_complex_numbers_are_no_counts(sdata):
    sdata["observed"].X = sdata["observed"].X.toarray().astype(complex)
    with pytest.raises(ValueError, match=r"X of the table holds complex128, not numbers\. Give the `layer`"):
        stp.pp.select_genes(sdata, n_genes=5)


def test_a_table_backed_by_a_file(sdata, original, predictor, tmp_path):
    path = tmp_path / "table.h5ad"
    sdata["observed"].write_h5ad(path)
    table = ad.read_h5ad(path, backed="r")
    table.uns["spatialdata_attrs"]["region"] = list(table.uns["spatialdata_attrs"]["region"])
    sdata.tables["observed"] = table
    stp.pp.select_genes(sdata, n_genes=5)
    pd.testing.assert_frame_equal(scores(sdata, predictor), scores(original, predictor))


def test_a_dense_matrix_in_a_file_is_read_by_pieces(sdata, tmp_path, monkeypatch):
    expected = [slide.counts.toarray() for slide in resolve(sdata, Selection())]
    table, read = sdata["observed"], []
    n_genes, numeric_matrix = table.n_vars, expression.check.numeric_matrix

    def spy(values, name):
        read.append(values.shape)
        return numeric_matrix(values, name)

    monkeypatch.setattr(expression, "PIECE", 7 * n_genes + 3)
    monkeypatch.setattr(expression.check, "numeric_matrix", spy)
    table.X = table.X.toarray()
    table.write_h5ad(tmp_path / "table.h5ad")
    backed = ad.read_h5ad(tmp_path / "table.h5ad", backed="r")
    backed.uns["spatialdata_attrs"]["region"] = list(backed.uns["spatialdata_attrs"]["region"])
    sdata.tables["observed"] = backed
    for slide, counts in zip(resolve(sdata, Selection()), expected, strict=True):
        np.testing.assert_array_equal(slide.counts.toarray(), counts)
    assert set(read) == {(7, n_genes), (backed.n_obs % 7, n_genes)}


def test_sparse_predictions_are_scored(sdata, predictor, expected):
    pd.testing.assert_frame_equal(scores(sdata, predictor), expected)
    sdata["predicted"].X = sp.csr_matrix(sdata["predicted"].X)
    pd.testing.assert_frame_equal(stp.tl.evaluate(sdata), expected)


def test_the_default_table_of_spatialdata_io(sdata, predictor):
    sdata.tables["table"] = sdata.tables.pop("observed")
    assert len(scores(sdata, predictor)) == 12
    stp.pp.select_genes(sdata, n_genes=5)  # the predicted table is no candidate


def test_rows_off_the_tissue_do_not_count(sdata, predictor):
    table = sdata["observed"]
    table.obs["in_tissue"] = 1
    off = np.flatnonzero(table.obs["region"] == TRAIN)[:5]
    table.obs.iloc[off, table.obs.columns.get_loc("in_tissue")] = 0
    kept = stp.tl.fit(sdata, "mean_profile", shapes_key=TRAIN, config=QUIET)
    assert kept.provenance.slides[TRAIN]["n_spots"] == 20
    stp.tl.predict(sdata, predictor, progress=False)
    assert sdata["predicted"].n_obs == 45


@pytest.mark.parametrize("marks", [[1, 0], [1.0, 0.0], [True, False], ["1", "0"], ["True", "False"]], ids=str)
@pytest.mark.parametrize("dtype", [None, "category"])
def test_marks_of_tissue_however_they_are_stored(marks, dtype):
    table = ad.AnnData(np.ones((2, 1)), obs=pd.DataFrame({"in_tissue": pd.Series(marks, ["a", "b"], dtype=dtype)}))
    assert expression.on_tissue(table).tolist() == [True, False]


def test_what_reads_no_counts_needs_none(sdata):
    sdata["observed"].X = None
    stp.pp.resolution(sdata, um_per_px=8.0)
    patch = stp.tl.PatchSpec(fov_um=(150.0,), size_px=16)
    assert len(stp.pl.patches(sdata, "S0_0x0", patch=patch)) == 2


def test_two_rows_for_a_spot_are_noticed_before_anything_is_computed(sdata, predictor):
    table = sdata["observed"]
    ids = table.obs["spot_id"].to_numpy().copy()
    ids[1] = ids[0]
    table.obs["spot_id"] = ids
    for call in (
        lambda: stp.tl.fit(sdata, "ridge_color", shapes_key=TRAIN, config=QUIET),
        lambda: stp.tl.predict(sdata, predictor, progress=False),
    ):
        with pytest.raises(ValueError, match="several rows for a spot of 'S0_spots'"):
            call()
    assert list(sdata.tables) == ["observed"]


def keep_first_spots(sdata, n):
    table = sdata["observed"][sdata["observed"].obs["region"] == TEST][:n].copy()
    table.uns["spatialdata_attrs"]["region"] = TEST
    table.obs["region"] = table.obs["region"].cat.remove_unused_categories()
    sdata.tables["observed"] = table


def test_fewer_rows_than_spots(sdata, predictor):
    keep_first_spots(sdata, 12)
    assert scores(sdata, predictor).attrs["n_spots"] == 12


def test_one_gene(sdata):
    gene = sdata["observed"].var_names[0]
    target = stp.pp.TargetSpec(target_sum=None)
    predictor = stp.tl.fit(sdata, "ridge_color", genes=[gene], target=target, shapes_key=TRAIN, config=QUIET)
    assert scores(sdata, predictor).index.tolist() == [gene]


@pytest.mark.filterwarnings("ignore:.* spots")
def test_two_spots_are_predicted(sdata, predictor):
    keep_first_spots(sdata, 2)
    stp.tl.predict(sdata, predictor, progress=False)
    assert sdata["predicted"].shape == (2, 12)
    with pytest.raises(ValueError, match="at least 3 are needed"):
        stp.tl.evaluate(sdata)


def test_a_box_of_a_slide(sdata, predictor):
    box = sdata.query.bounding_box(
        axes=("x", "y"), min_coordinate=[0, 0], max_coordinate=[130, 400], target_coordinate_system="S1"
    )
    stp.tl.predict(box, predictor, shapes_key=TEST, progress=False)
    stp.tl.predict(sdata, predictor, shapes_key=TEST, progress=False)
    inside = box["predicted"][~box["predicted"].obs["at_border"]]
    assert 0 < inside.n_obs < 25
    np.testing.assert_allclose(inside.X, sdata["predicted"][inside.obs_names].X, atol=1e-5)


def test_concatenated_objects(sdata, predictor):
    parts = [sdata.filter_by_coordinate_system(name) for name in ("S0", "S1")]
    joined = sd.concatenate(parts, region_key="region", instance_key="spot_id", concatenate_tables=True)
    joined.attrs.update(deepcopy(sdata.attrs))
    pd.testing.assert_frame_equal(scores(joined, predictor), scores(sdata, predictor))


def test_a_table_matched_to_an_element(sdata, predictor):
    matched = sd.match_table_to_element(sdata, TEST, table_name="observed")
    sdata.tables["observed"] = TableModel.parse(
        ad.AnnData(matched.X, matched.obs, matched.var), region=TEST, region_key="region", instance_key="spot_id"
    )
    assert scores(sdata, predictor).attrs["n_spots"] == 25


def test_predictions_are_written_to_a_store_that_was_read(sdata, predictor, tmp_path, through_disk):
    stored = through_disk(sdata, tmp_path / "store.zarr")
    stp.tl.predict(stored, predictor, shapes_key=TEST, progress=False)
    stored.write_element("predicted")
    again = read_zarr(tmp_path / "store.zarr")
    pd.testing.assert_frame_equal(stp.tl.evaluate(again), stp.tl.evaluate(stored))


def test_measured_and_predicted_joined_by_scanpy(sdata, predictor):
    scores(sdata, predictor)
    both = ad.concat({"measured": sdata["observed"], "predicted": sdata["predicted"]}, label="kind", index_unique="-")
    assert both.n_obs == 75
    assert set(both.obs["kind"]) == {"measured", "predicted"}


def test_a_list_where_one_object_is_meant(sdata, predictor):
    for call in (lambda: stp.tl.predict([sdata], predictor), lambda: stp.tl.evaluate([sdata])):
        with pytest.raises(TypeError, match=r"Expected a SpatialData, an AnnData or a path, not list\. Call"):
            call()


def test_a_panel_is_looked_up_once_not_once_a_gene(sdata, predictor, monkeypatch):
    """A set of all gene names is built a fixed number of times, however many genes are predicted."""
    rng = np.random.default_rng(0)
    n = 3_000
    measured = sdata["observed"]
    extra = sp.csr_matrix(rng.poisson(1.0, (measured.n_obs, n)).astype(np.float32))
    wide = ad.AnnData(sp.hstack([measured.X, extra]).tocsr(), obs=measured.obs, uns=measured.uns)
    wide.var_names = [*measured.var_names, *(f"X{i}" for i in range(n))]
    sdata.tables["observed"] = wide
    passes = 0
    iterate = pd.Index.__iter__

    def counted(self):
        nonlocal passes
        passes += len(self) > n
        return iterate(self)

    monkeypatch.setattr(pd.Index, "__iter__", counted)
    counts = []
    for n_genes in (5, 200):
        some = stp.tl.fit(sdata, "mean_profile", genes=list(wide.var_names[:n_genes]), shapes_key=TRAIN, config=QUIET)
        before = passes
        stp.tl.predict(sdata, some, key_added=f"p{n_genes}", shapes_key=TEST, progress=False)
        stp.tl.evaluate(sdata, predicted=f"p{n_genes}")
        counts.append(passes - before)
    assert counts[1] <= counts[0] + 2


SEEDED = """
import hashlib
import stpredict as stp
sdata = stp.datasets.synthetic(n_slides=2, n_side=4, um_per_px=8.0)
sdata["observed"].obs["patient"] = sdata["observed"].obs["region"].astype(str).str[:2]
options = {"config": {"progress": False}, "model_options": {"size_px": 32}}
predictor = stp.tl.fit(sdata, "ridge_color", group_key="patient", save_dir="p", **options)
stp.tl.predict(sdata, predictor, progress=False)
stp.tl.evaluate(sdata)
result = [hash("S0_spots"), predictor.hash, hashlib.sha256(sdata["predicted"].X.tobytes()).hexdigest()]
"""


@pytest.mark.filterwarnings("ignore:.*trained on:UserWarning")
def test_results_do_not_depend_on_the_hash_seed(python, tmp_path, monkeypatch):
    """Sets of strings have another order in a process with another seed."""
    here, other = {}, tmp_path / "other"
    other.mkdir()
    process = python(f"{SEEDED}import json; open('result.json', 'w').write(json.dumps(result))", other)
    monkeypatch.chdir(tmp_path)
    exec(SEEDED, here)
    process.join()
    assert process.exitcode == 0, (other / "stderr").read_text()
    there = json.loads((other / "result.json").read_text())
    assert there[0] != here["result"][0]
    assert there[1:] == here["result"][1:]
