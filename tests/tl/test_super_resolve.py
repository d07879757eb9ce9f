"""`super_resolve`: known answers below spot size, exact means over spots, merged spots taken apart again, faults."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shapely
from geopandas import GeoDataFrame
from scipy.interpolate import griddata
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale, get_transformation, set_transformation

from stpredict._slides.slides import Selection, resolve
from stpredict.metrics import pearson
from stpredict.tl import FitConfig, fit, predict, rasterize, super_resolve
from stpredict.tl._super_resolution.superpixels import interpolation_grid, superpixels
from stpredict.tl._super_resolution.weak_supervision import KernelWeights, choose_weights, fit_residuals, standardize

if TYPE_CHECKING:
    from numpy.typing import NDArray

QUIET = {"device": "cpu", "precision": "32-true", "progress": False}
INSIDE = {**QUIET, "tissue_key": "corner"}
"""Gaps between spots are left out, which takes a fifth of the time."""
NETWORK = {"dim": 24, "depth": 1, "heads": 2, "size_px": 32, "patch_size": 8}
UM_PER_PX, PITCH_UM, RADIUS_UM, N_SIDE = 4.0, 200.0, 50.0, 10


def made_slide(seed: int = 0) -> tuple[SpatialData, NDArray[np.float64]]:
    """A slide whose expression follows two stains that vary over 25 µm, and the noise-free CP10k at every pixel."""
    rng = np.random.default_rng(seed)
    size = round((N_SIDE + 1) * PITCH_UM / UM_PER_PX)
    fields = np.stack([gaussian_filter(rng.standard_normal((size, size)), 25 / UM_PER_PX) for _ in range(2)])
    fields /= fields.std(axis=(1, 2), keepdims=True)
    density = np.stack([0.5 + 0.15 * fields[0], 0.6 + 0.15 * fields[1], 0.4 + 0.05 * fields[0]])
    image = np.clip(255 * np.exp(-density), 0, 255).astype(np.uint8)
    rate = np.exp(0.7 * np.stack([fields[0], -fields[0], fields[1], -fields[1]]))
    truth = 1e4 * rate / rate.sum(axis=0)  # (4, y, x)
    xy = (1 + np.stack(np.meshgrid(*2 * [np.arange(N_SIDE)]), axis=-1).reshape(-1, 2)) * PITCH_UM / UM_PER_PX
    y, x = np.mgrid[:size, :size] + 0.5
    means = np.stack(
        [truth[:, (x - a) ** 2 + (y - b) ** 2 <= (RADIUS_UM / UM_PER_PX) ** 2].mean(axis=1) for a, b in xy]
    )
    return assembled(image, xy, csr_matrix(rng.poisson(means))), truth


def assembled(image: NDArray[np.uint8], xy: NDArray[np.float64], counts: csr_matrix) -> SpatialData:
    n, systems = len(xy), {"global": Identity()}
    obs = pd.DataFrame(
        {"region": pd.Categorical(["spots"] * n), "spot_id": np.arange(n)}, index=[f"s{i}" for i in range(n)]
    )
    table = ad.AnnData(counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=list("ABCD")))
    return SpatialData(
        images={"image": Image2DModel.parse(image, dims=("c", "y", "x"), transformations=systems)},
        shapes={
            "spots": ShapesModel.parse(xy, geometry=0, radius=RADIUS_UM / UM_PER_PX, transformations=systems),
            "corner": ShapesModel.parse(GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)]), transformations=systems),
        },
        tables={"observed": TableModel.parse(table, region="spots", region_key="region", instance_key="spot_id")},
        attrs={"stpredict": {"um_per_px": {"image": UM_PER_PX}}},
    )


def merged(sdata: SpatialData) -> tuple[SpatialData, NDArray[np.intp]]:
    """Two by two spots as one, its area that of the four; and which merged spot each belongs to."""
    column, row = np.arange(N_SIDE**2) % N_SIDE, np.arange(N_SIDE**2) // N_SIDE
    of = (row // 2) * (N_SIDE // 2) + column // 2
    n = int(of.max()) + 1
    sums = csr_matrix((np.ones(len(of)), (of, np.arange(len(of))))) @ sdata["observed"].X
    circles = shapely.buffer(sdata["spots"].geometry.to_numpy(), sdata["spots"]["radius"].to_numpy())
    areas = [shapely.MultiPolygon(list(circles[of == i])) for i in range(n)]
    obs = pd.DataFrame(
        {"region": pd.Categorical(["merged"] * n), "spot_id": np.arange(n)}, index=[f"m{i}" for i in range(n)]
    )
    table = ad.AnnData(csr_matrix(sums).astype(np.float32), obs=obs, var=sdata["observed"].var.copy())
    shapes = ShapesModel.parse(GeoDataFrame(geometry=areas), transformations={"global": Identity()})
    linked = TableModel.parse(table, region="merged", region_key="region", instance_key="spot_id")
    return SpatialData(
        images=dict(sdata.images),
        shapes={"merged": shapes, "corner": sdata["corner"]},
        tables={"observed": linked},
        attrs=dict(sdata.attrs),
    ), of


def trained(sdata: SpatialData, folder):
    config = FitConfig(n_epochs=3, lr=2e-3, validation="none", accelerator="cpu", precision="32-true", progress=False)
    return fit(sdata, "m2ost_tiny", config=config, model_options=NETWORK, save_dir=folder)


def bare(shapes: GeoDataFrame) -> GeoDataFrame:
    """Shapes without what spatialdata notes on them."""
    frame = shapes.copy()
    frame.attrs = {}
    return frame


def copied(sdata: SpatialData) -> SpatialData:
    """A copy whose transformations can be changed too."""
    image = Image2DModel.parse(sdata["image"].values, dims=("c", "y", "x"), transformations={"global": Identity()})
    return SpatialData(
        images={"image": image},
        shapes={
            name: ShapesModel.parse(bare(shapes), transformations={"global": Identity()})
            for name, shapes in sdata.shapes.items()
        },
        tables={name: table.copy() for name, table in sdata.tables.items()},
        attrs=dict(sdata.attrs),
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    sdata, truth = made_slide()
    return SimpleNamespace(
        sdata=sdata, truth=truth, predictor=trained(sdata, tmp_path_factory.mktemp("made") / "model")
    )


@pytest.fixture
def slide(made):
    return copied(made.sdata)


def spot_means(table: ad.AnnData) -> pd.DataFrame:
    """Mean of linear values over the superpixels of each spot."""
    inside = table.obs["spot"].notna().to_numpy()
    linear = pd.DataFrame(np.expm1(table.X[inside].astype(np.float64)), columns=table.var_names)
    return linear.groupby(table.obs["spot"][inside].astype(str).to_numpy()).mean()


def log_cp10k(counts) -> NDArray[np.float64]:
    values = counts.toarray().astype(np.float64)
    return np.log1p(1e4 * values / values.sum(axis=1, keepdims=True))


def at_points(truth, xy_px) -> NDArray[np.float64]:
    smooth = [gaussian_filter(each, 8 / UM_PER_PX / 2) for each in truth]
    return np.log1p(
        np.stack([map_coordinates(each, xy_px.T[::-1] - 0.5, order=1, mode="nearest") for each in smooth], axis=1)
    )


def interpolated(xy, values, at, method) -> NDArray[np.float64]:
    near = griddata(xy, values, at, method="nearest")
    found = near if method == "nearest" else griddata(xy, values, at, method=method)
    return np.where(np.isnan(found), near, found)


@pytest.mark.parametrize("anchor", ["denoised", "observed"])
def test_details_smaller_than_a_spot_are_recovered(made, slide, anchor):
    super_resolve(slide, made.predictor, step_um=25, anchor=anchor, **INSIDE)
    table = slide["super_resolved"]
    xy, spots = table.obsm["spatial"], slide["observed"]
    truth = at_points(made.truth, xy)
    centres = np.column_stack([slide["spots"].geometry.x, slide["spots"].geometry.y])
    reached = pearson(truth, table.X)
    for method in ("nearest", "linear", "cubic"):
        assert (reached > pearson(truth, interpolated(centres, log_cp10k(spots.X), xy, method)) + 0.2).all()
    predict(slide, made.predictor, **QUIET)
    plain = griddata(centres, slide["predicted"].X, xy, method="nearest")
    assert (reached > pearson(truth, plain) + 0.2).all()
    inside = table.obs["spot"].notna().to_numpy()
    within = pd.DataFrame(truth[inside]).groupby(table.obs["spot"][inside].to_numpy(), observed=True)
    told = pd.DataFrame(table.X[inside]).groupby(table.obs["spot"][inside].to_numpy(), observed=True)
    assert (pearson(within.transform(lambda v: v - v.mean()).to_numpy(),
                    told.transform(lambda v: v - v.mean()).to_numpy()) > 0.6).all()  # fmt: skip


def test_means_over_spots_are_those_that_were_measured_or_predicted(made, slide):
    predict(slide, made.predictor, **QUIET)
    expected = {"observed": log_cp10k(slide["observed"].X), "predicted": slide["predicted"].X}
    for anchor, values in expected.items():
        super_resolve(slide, made.predictor, step_um=40, anchor=anchor, **INSIDE)
        found = spot_means(slide["super_resolved"]).loc[slide["observed"].obs_names]
        np.testing.assert_allclose(found, np.expm1(values.astype(np.float64)), rtol=1e-4)


def test_squares_tile_the_spots_and_the_gaps(made, slide):
    corner = [i for i in range(N_SIDE**2) if i % N_SIDE < 6 and i // N_SIDE < 6]
    slide["spots"], slide["observed"] = slide["spots"].iloc[corner], slide["observed"][corner].copy()
    super_resolve(slide, made.predictor, step_um=25, genes=["C", "A"], **QUIET)
    table, squares = slide["super_resolved"], slide["super_resolved_spots"]
    assert table.var_names.tolist() == ["C", "A"]
    assert table.X.dtype == np.float32
    assert np.isfinite(table.X).all()
    np.testing.assert_allclose(squares.area, (25 / UM_PER_PX) ** 2)
    assert not shapely.STRtree(squares.geometry).query(squares.geometry, predicate="overlaps").size
    inside = table.obs["spot"].notna().to_numpy()
    assert inside.sum() / len(slide["spots"]) == pytest.approx(np.pi * (RADIUS_UM / 25) ** 2, rel=0.1)
    hull = shapely.convex_hull(shapely.union_all(slide["spots"].geometry))
    assert shapely.union_all(squares.geometry).covers(hull)
    note = table.uns["super_resolved"]
    assert note["units"] == "log1p CP10k"
    assert note["params"]["anchor"] == "denoised"
    assert 0 < note["weights"]["spots"]["error"] < 0.6


def test_the_object_can_be_used_and_written_as_before(made, slide, tmp_path, through_files):
    before = slide["observed"].copy()
    for _ in range(2):
        super_resolve(slide, made.predictor, step_um=40, **INSIDE)
    predict(slide, made.predictor, **QUIET)
    rasterize(slide, ["A"], table_name="super_resolved")
    np.testing.assert_array_equal(slide["observed"].X.toarray(), before.X.toarray())
    pd.testing.assert_frame_equal(slide["observed"].obs, before.obs)
    again = through_files(slide, tmp_path)
    np.testing.assert_array_equal(again["super_resolved"].X, slide["super_resolved"].X)


def test_merged_spots_are_taken_apart_better_than_by_interpolation(made, tmp_path):
    whole, of = merged(made.sdata)
    predictor = trained(whole, tmp_path / "model")
    super_resolve(whole, predictor, step_um=25, **INSIDE)
    table, single = whole["super_resolved"], made.sdata["spots"]
    xy = np.column_stack([single.geometry.x, single.geometry.y])
    near = np.linalg.norm(table.obsm["spatial"][:, None] - xy, axis=-1) <= RADIUS_UM / UM_PER_PX
    found = np.log1p(np.stack([np.expm1(table.X[rows].astype(np.float64)).mean(axis=0) for rows in near.T]))
    observed = log_cp10k(made.sdata["observed"].X)
    centres = np.stack([xy[of == i].mean(axis=0) for i in range(of.max() + 1)])
    known = log_cp10k(whole["observed"].X)
    reached = pearson(observed, found)
    for method in ("nearest", "linear", "cubic"):
        told = pearson(observed, interpolated(centres, known, xy, method))
        assert reached.mean() > told.mean() + 0.08
    means = spot_means(table).loc[whole["observed"].obs_names].to_numpy()
    np.testing.assert_allclose(np.log1p(means), known, atol=0.5)


def test_slides_without_counts_are_held_to_the_prediction(made, slide):
    del slide.tables["observed"]
    with pytest.raises(ValueError, match=r"no table with counts annotates the spots\. Give `anchor='predicted'`"):
        super_resolve(slide, made.predictor, step_um=25, shapes_key="spots", **QUIET)
    predict(slide, made.predictor, shapes_key="spots", **QUIET)
    super_resolve(slide, made.predictor, step_um=40, shapes_key="spots", anchor="predicted", **INSIDE)
    found = spot_means(slide["super_resolved"]).loc[slide["predicted"].obs["spot_id"].astype(str)]
    np.testing.assert_allclose(found, np.expm1(slide["predicted"].X.astype(np.float64)), rtol=1e-4)


def test_failed_spots_are_not_learnt_from(made, slide):
    counts = slide["observed"].X.toarray()
    counts[30] = [3, 0, 0, 0]
    slide["observed"].X = csr_matrix(counts)
    super_resolve(slide, made.predictor, step_um=40, anchor="observed", **INSIDE)
    means = spot_means(slide["super_resolved"])
    assert means.loc["s30", "B"] > 100
    assert means.loc["s31", "B"] == pytest.approx(1e4 * counts[31, 1] / counts[31].sum(), rel=1e-4)


def test_gaps_off_the_tissue_are_left_out(made, slide):
    half = shapely.box(0, 0, (N_SIDE + 1) * PITCH_UM / UM_PER_PX / 2, (N_SIDE + 1) * PITCH_UM / UM_PER_PX)
    slide.shapes["tissue"] = ShapesModel.parse(GeoDataFrame(geometry=[half]), transformations={"global": Identity()})
    super_resolve(slide, made.predictor, step_um=40, **QUIET)
    table = slide["super_resolved"]
    off = table.obsm["spatial"][:, 0] > half.bounds[2]
    assert off.any()
    assert table.obs["spot"].notna()[off].all()
    assert table.obs["spot"].isna()[~off].any()


def test_other_coordinates_give_the_same(made, slide):
    scaled = copied(slide)
    for name in ("image", "spots", "corner"):
        set_transformation(scaled[name], Scale([0.5, 0.5], axes=("x", "y")), "global")
    for each in (slide, scaled):
        super_resolve(each, made.predictor, step_um=40, **INSIDE)
    np.testing.assert_allclose(scaled["super_resolved"].X, slide["super_resolved"].X, atol=1e-5)
    assert get_transformation(scaled["super_resolved_spots"], "global").to_affine_matrix("x", "x")[0, 0] == 0.5


FAULTS = [
    pytest.param({"step_um": 60}, r"more than the radius of the spots of 'spots' \(50 µm\).*8 to 50 µm", id="coarse"),
    pytest.param({"step_um": 7}, r"has 4 µm per pixel: a superpixel needs two pixels a side.*8 to 50", id="too fine"),
    pytest.param({"step_um": 0}, "give a length in µm above 0", id="no length"),
    pytest.param({"step_um": float("nan")}, "give a length in µm above 0", id="not a number"),
    pytest.param({"genes": ["A", "ERBB2"]}, "The predictor has no gene 'ERBB2'", id="unknown gene"),
    pytest.param({"genes": []}, "`genes` is empty", id="no gene"),
    pytest.param({"anchor": "mean"}, "`anchor` is 'mean'; allowed", id="unknown anchor"),
    pytest.param({"memory_bytes": 10**6}, r"need [\d,]+ bytes, `memory_bytes` allows 1,000,000", id="memory"),
    pytest.param({"key_added": "observed"}, "already has 'observed', which `stp.tl.super_resolve` did not", id="table"),
    pytest.param({"key_added": "spots"}, "already has 'spots'", id="element"),
    pytest.param({"n_views": 9}, "`n_views` is 9", id="views"),
    pytest.param({"batch_size": 0}, "`batch_size` is 0", id="batch"),
    pytest.param({"tissue_key": "nowhere"}, "'nowhere'", id="tissue"),
]


@pytest.mark.parametrize(("arguments", "words"), FAULTS)
def test_faults_are_refused_and_nothing_is_written(made, slide, arguments, words):
    before = sorted(name for _, name, _ in slide.gen_elements())
    with pytest.raises(ValueError, match=words):
        super_resolve(slide, made.predictor, **{"step_um": 10, **arguments, **QUIET})
    assert sorted(name for _, name, _ in slide.gen_elements()) == before


def test_what_the_slide_lacks_is_said(made, slide):
    slide["observed"] = slide["observed"][:, :3].copy()
    with pytest.raises(ValueError, match=r"lacks 1 of the predictor's 4 genes \('D'\).*`anchor` is 'denoised'"):
        super_resolve(slide, made.predictor, step_um=10, **QUIET)
    few = copied(made.sdata)
    few["observed"] = few["observed"][:5].copy()
    with pytest.raises(ValueError, match=r"'spots' has 5 spots to learn from; at least 8"):
        super_resolve(few, made.predictor, step_um=10, **QUIET)
    few["spots"]["radius"] = 2.0
    few["observed"] = made.sdata["observed"].copy()
    with pytest.raises(ValueError, match=r"spots of 16 µm cannot be divided with 4 µm per pixel|possible here: 8 to 8"):
        super_resolve(few, made.predictor, step_um=10, **QUIET)
    del few.shapes["spots"], few.shapes["corner"], few.tables["observed"]
    with pytest.raises(ValueError, match="No element holds spots"):
        super_resolve(few, made.predictor, step_um=10, **QUIET)


def test_polygons_that_are_too_small_are_named(made):
    sdata = copied(made.sdata)
    boxes = shapely.buffer(sdata["spots"].geometry.to_numpy(), RADIUS_UM / UM_PER_PX)
    boxes[7] = shapely.box(50.01, 50.01, 50.02, 50.02)
    sdata.shapes["spots"] = ShapesModel.parse(GeoDataFrame(geometry=boxes), transformations={"global": Identity()})
    slide = resolve(sdata, Selection())[0]
    with pytest.raises(ValueError, match=r"1 of 100 spots of 'spots' hold no superpixel of 25 µm \('s7'\)"):
        superpixels(slide, 25.0)


def test_bilinear_weights_are_exact_for_planes():
    rng = np.random.default_rng(0)
    xy = rng.uniform(-30, 70, (500, 2))
    nodes, weights = interpolation_grid(xy, 7.0)
    np.testing.assert_allclose(weights @ nodes, xy, atol=1e-9)
    np.testing.assert_allclose(np.asarray(weights.sum(axis=1)).ravel(), 1)


def test_head_is_that_of_the_textbook():
    """Against kriging written out in full, and ridge regression where neighbours tell nothing."""
    rng = np.random.default_rng(0)
    features, xy, values = rng.normal(size=(30, 4)), rng.uniform(0, 1000, (30, 2)), rng.normal(size=(30, 3))
    ridge = fit_residuals(features, xy, values, KernelWeights(features=2.0, places=0.0, length_um=1.0))
    centred, variance = features - features.mean(axis=0), features.var(axis=0).sum()
    slope = np.linalg.solve(
        centred.T @ centred + variance / 2.0 * np.eye(4), centred.T @ (values - values.mean(axis=0))
    )
    np.testing.assert_allclose(ridge.slope, slope)
    np.testing.assert_allclose(ridge.from_positions(xy), np.tile(values.mean(axis=0), (30, 1)))
    near = fit_residuals(features, xy, values, KernelWeights(features=0.0, places=1e8, length_um=300.0))
    np.testing.assert_allclose(near.from_positions(xy), values, atol=1e-4)  # without noise, spots keep their values


def test_weights_are_chosen_by_what_helps():
    rng = np.random.default_rng(0)
    side = np.stack(np.meshgrid(*2 * [np.arange(14.0)]), axis=-1).reshape(-1, 2) * 100
    features = rng.normal(size=(196, 5)) / np.sqrt(5)
    noise = rng.normal(size=(196, 20))
    told = features @ rng.normal(size=(5, 20)) * 2 + 0.5 * noise
    smooth = np.sin(side / 300) @ rng.normal(size=(2, 20)) + 0.3 * noise
    assert choose_weights(features, side, (told - told.mean(0)) / told.std(0)).features >= 0.3
    assert choose_weights(features, side, (smooth - smooth.mean(0)) / smooth.std(0)).places >= 0.3
    nothing = choose_weights(features, side, (noise - noise.mean(0)) / noise.std(0))
    assert (nothing.features, nothing.places) == (0.0, 0.0)
    assert nothing.error == pytest.approx(1.0, abs=0.02)


def test_features_are_standardised_and_outliers_pulled_in():
    values = np.random.default_rng(0).normal(3, 5, (70_000, 2)).astype(np.float16)
    values[0] = 1000
    values[:, 1] = 7
    found = standardize(values)
    assert found.max() == 4.0
    np.testing.assert_allclose([found[:, 0].astype(float).mean(), found[:, 0].astype(float).std()], [0, 1], atol=0.3)
    assert not found[:, 1].any()
