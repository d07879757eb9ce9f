"""Units: library sizes are taken as in training, whatever genes a table holds; nothing written is below zero."""

from __future__ import annotations

from copy import deepcopy

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

import stpredict as stp
from stpredict._slides.slides import Selection
from stpredict.pl._sources import sources
from stpredict.tl._domain_data.read import read_spots

QUIET = {"progress": False}
pytestmark = pytest.mark.usefixtures("small_patches")
GENES = 40


@pytest.fixture(scope="module")
def whole():
    return stp.datasets.synthetic(n_slides=3, n_side=5, n_genes=GENES, um_per_px=8.0)


@pytest.fixture(scope="module")
def panel(whole):
    return whole["observed"].var_names[:8].tolist()


@pytest.fixture(scope="module")
def predictor(whole, panel):
    return stp.tl.fit(whole, "ridge_color", genes=panel, shapes_key=["S0_spots", "S1_spots"], config=QUIET)


@pytest.fixture
def cut(whole, panel):
    """The same slides, with a table that holds the panel only."""
    from spatialdata import SpatialData

    table = whole["observed"][:, panel].copy()
    return SpatialData(
        images=dict(whole.images), shapes=dict(whole.shapes), tables={"observed": table}, attrs=deepcopy(whole.attrs)
    )


def with_library(cut, whole, name):
    cut["observed"].obs[name] = np.asarray(whole["observed"].X.sum(axis=1)).ravel()
    return cut


def uses(predictor):
    def evaluate(sdata, **arguments):
        stp.tl.predict(sdata, predictor, shapes_key="S2_spots", progress=False)
        return stp.tl.evaluate(sdata, **arguments)["rmse"].to_numpy()

    def calibrate(sdata, **arguments):
        found = stp.tl.calibrate(predictor, sdata, shapes_key="S2_spots", n_views=1, progress=False, **arguments)
        return found.calibration.quantile("conformal", 0.8)

    return {"evaluate": evaluate, "calibrate": calibrate}


@pytest.mark.filterwarnings("ignore:The colours of slide")
@pytest.mark.parametrize("use", ["evaluate", "calibrate"])
def test_a_table_cut_to_the_panel_is_refused_or_gives_the_same_numbers(whole, cut, predictor, use):
    call = uses(predictor)[use]
    with pytest.raises(ValueError, match=r"holds 8 genes; in training, library sizes were sums over 40.*library_key"):
        call(cut)
    expected = call(_copy(whole))
    np.testing.assert_allclose(call(with_library(cut, whole, "depth"), library_key="depth"), expected, rtol=1e-6)
    np.testing.assert_allclose(call(with_library(cut, whole, "total_counts")), expected, rtol=1e-6)
    cut["observed"].obs["total_counts"] /= 100  # below the counts of the table: not library sizes
    with pytest.raises(ValueError, match="library_key"):
        call(cut)


def test_super_resolution_takes_library_sizes_as_in_training(cut, whole, predictor):
    arguments = {"step_um": 50, "shapes_key": "S2_spots", "anchor": "observed", "progress": False}
    with pytest.raises(ValueError, match="holds 8 genes"):
        stp.tl.super_resolve(cut, predictor, **arguments)
    stp.tl.super_resolve(with_library(cut, whole, "total_counts"), predictor, **arguments)
    reference = _copy(whole)
    stp.tl.super_resolve(reference, predictor, **arguments)
    np.testing.assert_allclose(cut["super_resolved"].X, reference["super_resolved"].X, rtol=1e-4, atol=1e-5)


def test_slides_of_one_training_agree_in_their_library_sizes(whole, cut, panel):
    slides = {"whole": whole.filter_by_coordinate_system("S0"), "cut": cut.filter_by_coordinate_system("S1")}
    with pytest.raises(ValueError, match="slide 'cut/S1_spots' holds 8 genes"):
        stp.tl.fit(slides, "mean_profile", genes=panel, config=QUIET)
    over_panel = stp.pp.TargetSpec(over="panel")
    assert stp.tl.fit(slides, "mean_profile", genes=panel, target=over_panel, config=QUIET).units.endswith("panel")


@pytest.mark.filterwarnings("ignore:The colours of slide")
def test_a_predictor_of_a_cut_table_refuses_a_whole_one(whole, cut, panel):
    predictor = stp.tl.fit(cut, "mean_profile", shapes_key="S0_spots", config=QUIET)
    sdata = _copy(whole)
    stp.tl.predict(sdata, predictor, shapes_key="S2_spots", progress=False)
    with pytest.raises(ValueError, match="Cut the table to the genes of training"):
        stp.tl.evaluate(sdata)


@pytest.mark.filterwarnings("ignore:The colours of slide")
def test_library_sizes_of_training_may_be_a_column(whole, cut, panel, predictor):
    named = stp.tl.fit(
        with_library(cut, whole, "depth"),
        "ridge_color",
        shapes_key=["S0_spots", "S1_spots"],
        library_key="depth",
        config=QUIET,
    )
    np.testing.assert_allclose(named.train_mean, predictor.train_mean, rtol=1e-5)
    stp.tl.predict(cut, named, shapes_key="S2_spots", progress=False)
    stp.tl.evaluate(cut)  # the column of that name
    stp.tl.predict(whole_copy := _copy(whole), predictor, shapes_key="S2_spots", progress=False)
    drawn, expected = (
        sources(each, ("observed", "predicted"), Selection(shapes_key="S2_spots")) for each in (cut, whole_copy)
    )
    np.testing.assert_allclose(drawn[0].values(panel, drawn[1]), expected[0].values(panel, expected[1]), rtol=1e-5)
    del cut["observed"].obs["depth"]
    with pytest.raises(ValueError, match=r"obs\['depth'\].*has no such column"):
        stp.tl.evaluate(cut)


def test_domains_take_library_sizes_of_each_table(whole, panel):
    """Of slides with unequal tables the sum over all genes of each, not over those that they share."""
    first, second = (whole.filter_by_coordinate_system(name) for name in ("S0", "S1"))
    fewer = _copy(second)
    fewer.tables["observed"] = second["observed"][:, :25].copy()
    both = read_spots([first, fewer], Selection(in_px=True), stp.pp.TargetSpec())
    counts = first["observed"].X.toarray()
    scaled = np.log1p(1e4 * counts[:, :25] / counts.sum(axis=1, keepdims=True))
    found, expected = (np.sort(values.sum(axis=0)) for values in (both.expression[:25], scaled))  # in any order
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    fewer.tables["observed"] = second["observed"][:, panel].copy()
    with pytest.raises(ValueError, match="slide '1/S1_spots' holds 8 genes"):
        read_spots([first, fewer], Selection(in_px=True), stp.pp.TargetSpec())


@pytest.mark.filterwarnings("ignore:The colours of slide")
@pytest.mark.parametrize("where", [{}, {"layer": "L"}], ids=["table", "layer"])
def test_predictions_that_were_changed_are_noticed(whole, predictor, where):
    sdata = _copy(whole)
    stp.tl.predict(sdata, predictor, shapes_key="S2_spots", progress=False, **where)
    key, holder = ("L", sdata["observed"].layers) if where else ("predicted", None)
    wrote = holder["L"] if where else sdata["predicted"].X
    stp.tl.evaluate(sdata, predicted=key)
    for change in (np.log1p, lambda values: values / 3, lambda values: values + 0.1):
        if where:
            holder["L"] = change(wrote)
        else:
            sdata["predicted"].X = change(wrote)
        with pytest.warns(UserWarning, match=rf"'{key}' was changed since it was predicted \(.* for gene 'GENE0'"):
            stp.tl.evaluate(sdata, predicted=key)
    if not where:  # half precision and a part of the rows are no change
        sdata["predicted"].X = wrote.astype(np.float16).astype(np.float32)
        sdata.tables["predicted"] = sdata["predicted"][5:, ::-1].copy()
        stp.tl.evaluate(sdata)


@pytest.mark.filterwarnings("ignore:The colours of slide")
def test_antibodies_are_no_genes(whole, panel, predictor):
    sdata = _copy(whole)
    measured = sdata["observed"]
    antibodies = sparse.csr_matrix(np.full((measured.n_obs, 2), 50_000.0))
    table = ad.AnnData(sparse.hstack([measured.X, antibodies]).tocsr(), obs=measured.obs, uns=measured.uns)
    table.var_names = [*measured.var_names, "CD3_antibody", "CD8_antibody"]
    table.var["feature_types"] = ["Gene Expression"] * GENES + ["Antibody Capture"] * 2
    sdata.tables["observed"] = table
    again = stp.tl.fit(sdata, "ridge_color", genes=panel, shapes_key=["S0_spots", "S1_spots"], config=QUIET)
    np.testing.assert_array_equal(again.train_mean, predictor.train_mean)
    for each in (sdata, reference := _copy(whole)):
        stp.tl.predict(each, predictor, shapes_key="S2_spots", progress=False)
    np.testing.assert_array_equal(stp.tl.evaluate(sdata)["rmse"], stp.tl.evaluate(reference)["rmse"])
    stp.pp.select_genes(sdata, n_genes=GENES + 2, min_fraction=0)
    assert not sdata["observed"].var["target"].to_numpy()[-2:].any()
    with pytest.raises(ValueError, match="1 of 1 genes asked for are no genes of the table: 'CD3_antibody'"):
        stp.pp.select_genes(sdata, genes=["CD3_antibody"])


@pytest.mark.filterwarnings(
    "ignore:The colours of slide",
    "ignore:Intervals were calibrated",
    "ignore:.* hold no count at all",
    "ignore:.* genes are constant",
)
def test_nothing_below_zero_is_written(whole):
    sdata = _copy(whole)
    sdata["observed"].X = sparse.random(75, GENES, 0.1, random_state=0, data_rvs=lambda n: np.ones(n)).tocsr()
    config = {"progress": False, "min_library": 0.0}
    predictor = stp.tl.fit(sdata, "ridge_color", shapes_key="S0_spots", config=config)
    predictor = stp.tl.calibrate(predictor, sdata, shapes_key="S1_spots", n_views=1, progress=False)
    stp.tl.predict(sdata, predictor, shapes_key="S2_spots", uncertainty="conformal", progress=False)
    table = sdata["predicted"]
    assert min(table.X.min(), table.layers["predicted_lower"].min()) == 0
    assert table.uns["log1p"] == {}  # so that scanpy warns of a second logarithm
    table.X = table.X - table.X.mean(axis=0)
    with pytest.raises(ValueError, match=r"values below 0.*scaled or centred since"):
        stp.tl.evaluate(sdata)


def test_values_that_are_whole_but_for_rounding_are_counts(whole):
    sdata = _copy(whole)
    sdata["observed"].X = sdata["observed"].X.astype(np.float32) * np.float32(1 + 1e-6)
    stp.pp.select_genes(sdata, n_genes=5)
    sdata["observed"].X = sdata["observed"].X * 1.01
    with pytest.raises(ValueError, match=r"not whole numbers.*allow_fractional_counts"):
        stp.tl.fit(sdata, "mean_profile", config=QUIET)


@pytest.mark.filterwarnings("ignore:The colours of slide")
def test_fractional_counts_are_allowed_and_recorded(whole):
    sdata = _copy(whole)
    sdata["observed"].X = sdata["observed"].X * 0.987
    predictor = stp.tl.fit(sdata, "mean_profile", shapes_key="S0_spots", allow_fractional_counts=True, config=QUIET)
    assert predictor.provenance.counts["fractional"]
    stp.tl.predict(sdata, predictor, shapes_key="S2_spots", progress=False)
    assert np.isfinite(stp.tl.evaluate(sdata)["ceiling"]).any()
    stp.tl.calibrate(predictor, sdata, shapes_key="S1_spots", n_views=1, progress=False)


def _copy(sdata):
    from spatialdata import SpatialData

    tables = {"observed": sdata["observed"].copy()}
    return SpatialData(images=dict(sdata.images), shapes=dict(sdata.shapes), tables=tables, attrs=deepcopy(sdata.attrs))
