"""Regions restrict tissue, training and scores to the spots that lie in them."""

from __future__ import annotations

import inspect

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Identity, Translation, set_transformation

import stpredict as stp
from stpredict._slides.slides import Selection, resolve

QUIET = {"progress": False}
pytestmark = pytest.mark.usefixtures("small_patches")


def draw(sdata, key, polygons, systems=("S0",), **columns):
    frame = gpd.GeoDataFrame(columns, geometry=list(polygons))
    sdata.shapes[key] = ShapesModel.parse(frame, transformations={name: Identity() for name in systems})


@pytest.fixture
def halves(sdata):
    """Left and right half of the first slide, and all of the second."""
    xy = resolve(sdata, Selection())[0].xy_px
    middle, edge = float(np.median(xy[:, 0])), float(xy.max() + 500)
    left, right = shapely.box(-500, -500, middle, edge), shapely.box(middle + 1, -500, edge, edge)
    draw(sdata, "drawn", [left, right], **{"class": ["Tumor", "Fat"], "name": ["one", "two"]})
    draw(sdata, "other", [shapely.box(-500, -500, edge, edge)], systems=("S1",))
    return sdata, middle


@pytest.mark.parametrize(
    "regions", [{"drawn": "Tumor"}, {"drawn": ["one"]}, {"drawn": ["Tumor", "one"], "other": None}]
)
def test_spots_are_those_whose_centre_lies_inside(halves, regions):
    sdata, middle = halves
    (whole,) = resolve(sdata, Selection(shapes_key="S0_spots"))
    (part,) = resolve(sdata, Selection(shapes_key="S0_spots", regions=regions))
    inside = whole.xy_px[:, 0] <= middle
    assert 0 < inside.sum() < len(inside)
    np.testing.assert_array_equal(part.xy_px, whole.xy_px[inside])
    np.testing.assert_array_equal(part.obs_names, whole.obs_names[inside])
    np.testing.assert_array_equal(part.counts.toarray(), whole.counts[inside].toarray())


@pytest.mark.parametrize("dtype", [int, float, "category", "Int64", object])
def test_classes_that_are_numbers(halves, dtype):
    sdata, middle = halves
    sdata["drawn"]["class"] = pd.Series([1, 2]).astype(dtype)
    asked = 1.0 if dtype is float else 1
    (slide,) = resolve(sdata, Selection(shapes_key="S0_spots", regions={"drawn": [asked]}))
    assert (slide.xy_px[:, 0] <= middle).all()
    with pytest.raises(ValueError, match=r"have no class or name '3' \(found: '1"):
        resolve(sdata, Selection(shapes_key="S0_spots", regions={"drawn": [3]}))


def test_counts_in_a_file(halves, tmp_path):
    """A table that is backed by a file has no views of views."""
    sdata, _ = halves
    asked = Selection(shapes_key="S0_spots", regions={"drawn": "Tumor"})
    (expected,) = resolve(sdata, asked)
    sdata["observed"].write_h5ad(tmp_path / "a.h5ad")
    table = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    table.uns["spatialdata_attrs"]["region"] = list(table.uns["spatialdata_attrs"]["region"])
    sdata.tables["observed"] = table
    (slide,) = resolve(sdata, asked)
    np.testing.assert_array_equal(slide.counts.toarray(), expected.counts.toarray())


def test_every_slide_has_its_own_regions(halves):
    sdata, _ = halves
    slides = resolve(sdata, Selection(shapes_key=["S0_spots", "S1_spots"], regions=["drawn", "other"]))
    assert [len(slide.xy_px) for slide in slides] == [36, 36]
    with pytest.raises(ValueError, match=r"`regions` names 'drawn', 'other', of which none shares .* with 'S2_spots'"):
        resolve(sdata, Selection(regions=["drawn", "other"]))


@pytest.mark.parametrize(("regions", "words"), [
    ({"drawn": "Stroma"}, r"have no class or name 'Stroma' \(found: 'Fat', 'Tumor', 'one', 'two'\)\. Choose"),
    ("absent", r"`regions` names 'absent', .* Read annotations of this slide with `stp.io.read_annotations`"),
    ("far", r"None of the 36 spots of 'S0_spots' lies in the regions 'far'\. Give other `regions`"),
    ("S0_spots", r"Shapes 'S0_spots' hold 'Point'; polygons are needed\. Give others as `regions`"),
])  # fmt: skip
def test_regions_without_spots(halves, regions, words):
    sdata, _ = halves
    draw(sdata, "far", [shapely.box(-900, -900, -800, -800)])
    with pytest.raises(ValueError, match=words):
        resolve(sdata, Selection(shapes_key="S0_spots", regions=regions))


def test_systems_in_which_other_spots_lie_inside(halves):
    sdata, middle = halves
    for key, shift in {"S0_spots": 0.0, "S0_image": 0.0, "drawn": middle / 2}.items():
        set_transformation(sdata[key], Translation([shift, 0], ("x", "y")), "aligned")
    selection = Selection(shapes_key="S0_spots", regions={"drawn": "Tumor"})
    with pytest.raises(ValueError, match=r"different spots lie .* \(\d+ in 'S0', \d+ in 'aligned'\)\. Give one"):
        resolve(sdata, selection)
    one = Selection(shapes_key="S0_spots", regions={"drawn": "Tumor"}, coordinate_system="S0")
    assert len(resolve(sdata, one)) == 1


def test_scores_are_those_of_the_spots_inside(halves, tmp_path):
    sdata, middle = halves
    predictor = stp.tl.fit(sdata, "ridge_color", shapes_key="S1_spots", config=QUIET, save_dir=tmp_path / "p")
    stp.tl.predict(sdata, predictor, progress=False)
    found = stp.tl.evaluate(sdata, shapes_key="S0_spots", regions={"drawn": "Tumor"}, n_splits=2)
    (whole,) = resolve(sdata, Selection(shapes_key="S0_spots"))
    kept = sdata["observed"].obs_names.isin(whole.obs_names[whole.xy_px[:, 0] <= middle])
    assert found.attrs["n_spots"] == kept.sum()
    some = sdata["observed"][kept].copy()
    del some.uns["spatialdata_attrs"]
    sdata.tables["some"] = TableModel.parse(some, region="S0_spots", region_key="region", instance_key="spot_id")
    expected = stp.tl.evaluate(sdata, table_name="some", n_splits=2)
    np.testing.assert_allclose(found["pearson"], expected["pearson"])
    np.testing.assert_allclose(found["rmse"], expected["rmse"])


@pytest.mark.parametrize("regions", ["other", {"other": None}, ["other"]])
def test_training_on_regions_is_recorded(halves, tmp_path, regions):
    sdata, _ = halves
    half = sdata["other"].geometry[0].intersection(shapely.box(-500, -500, halves[1], 1e5))
    sdata["other"].geometry = [half]
    predictor = stp.tl.fit(
        sdata, "ridge_color", shapes_key="S1_spots", regions=regions, config=QUIET, save_dir=tmp_path / "p"
    )
    (slide,) = predictor.provenance.slides.values()
    assert 0 < slide["n_spots"] < 36
    again = stp.tl.Predictor.load(tmp_path / "p")
    expected = regions if isinstance(regions, str) else {"other": None}
    assert again.provenance.selection.regions == expected


@pytest.fixture
def left(sdata):
    """The left half of each of three slides, and the names of the spots in it."""
    slides = resolve(sdata, Selection())
    edge = max(float(slide.xy_px.max()) for slide in slides) + 500
    middle = float(np.median(slides[0].xy_px[:, 0]))
    draw(sdata, "left", [shapely.box(-500, -500, middle, edge)], systems=("S0", "S1", "S2"))
    inside = {slide.name: slide.obs_names[slide.xy_px[:, 0] <= middle] for slide in slides}
    assert all(0 < len(names) < 36 for names in inside.values())
    return sdata, inside


@pytest.fixture(scope="module")
def ridge(synthetic_sdata, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictor") / "p"
    return stp.tl.fit(synthetic_sdata, "ridge_color", shapes_key="S0_spots", config=QUIET, save_dir=folder)


LEFT = {"regions": "left", **QUIET}


def filled(table, values):
    return table.obs_names[np.isfinite(np.asarray(values, np.float64)).all(axis=1)].tolist()


def test_every_function_that_selects_spots_takes_regions():
    """The others: a slide has its own `prepare`; superpixels cover gaps, which `tissue_key` cuts; images of tables."""
    selecting = {name for name in stp.tl.__all__ if "shapes_key" in inspect.signature(getattr(stp.tl, name)).parameters}
    taking = {name for name in stp.tl.__all__ if "regions" in inspect.signature(getattr(stp.tl, name)).parameters}
    assert selecting - taking == {"predict_cohort", "rasterize", "super_resolve"}
    assert taking <= selecting


def test_prediction_of_regions_and_of_other_regions(left, ridge):
    sdata, inside = left
    expected = [*inside["S1_spots"], *inside["S2_spots"]]
    stp.tl.predict(sdata, ridge, shapes_key=["S1_spots", "S2_spots"], key_added="whole", **QUIET)
    stp.tl.predict(sdata, ridge, shapes_key=["S1_spots", "S2_spots"], **LEFT)
    assert sdata["predicted"].obs_names.tolist() == expected
    np.testing.assert_array_equal(sdata["predicted"].X, sdata["whole"][expected].X)
    draw(sdata, "two", sdata["left"].geometry, systems=("S1", "S2"))  # the slide that was not predicted needs none
    assert stp.tl.evaluate(sdata, regions="two", n_splits=1).attrs["n_spots"] == len(expected)
    stp.tl.predict(sdata, ridge, layer="p", **QUIET)
    stp.tl.predict(sdata, ridge, shapes_key="S1_spots", layer="p", **LEFT)  # replaces the slide, as in a table
    table = sdata["observed"]
    of_others = table.obs_names[table.obs["region"] != "S1_spots"]
    assert set(filled(table, table.layers["p"])) == {*of_others, *inside["S1_spots"]}


def test_embeddings_of_one_region_after_another(left):
    sdata, inside = left
    names = [name for each in inside.values() for name in each]
    stp.tl.embed(sdata, "statistics", fov_um=100, size_px=16, key_added="E", **LEFT)
    table = sdata["observed"]
    assert filled(table, table.obsm["E"]) == names
    stp.tl.embed(sdata, "statistics", fov_um=200, size_px=16, key_added="E", **LEFT)  # no spot keeps the old ones
    predictor = stp.tl.fit(sdata, "encoder_ridge", features_key="E", regions="left", config=QUIET)
    assert sum(slide["n_spots"] for slide in predictor.provenance.slides.values()) == len(names)
    whole = shapely.box(-500, -500, 1e5, 1e5)
    draw(sdata, "right", [whole.difference(sdata["left"].geometry[0])], systems=("S0", "S1", "S2"))
    with pytest.raises(ValueError, match=rf"holds embeddings of {len(names)} other spots, and their fields"):
        stp.tl.embed(sdata, "statistics", fov_um=100, size_px=16, key_added="E", regions="right", **QUIET)
    stp.tl.embed(sdata, "statistics", fov_um=200, size_px=16, key_added="E", regions="right", **QUIET)
    assert filled(table, table.obsm["E"]) == table.obs_names.tolist()


def test_measured_spots_are_those_in_the_regions(left, ridge):
    sdata, inside = left
    table = sdata["observed"]
    measured = table.obs_names[table.obs["region"] == "S1_spots"][::3]
    n = int(np.isin(measured, inside["S1_spots"]).sum())
    assert 3 <= n < len(measured)
    asked = {"measured": measured, "shapes_key": "S1_spots", **LEFT}
    assert stp.tl.adapt(ridge, sdata, **asked).adaptation.description == f"S1_spots ({n} measured spots)"
    stp.tl.impute(sdata, **asked)
    assert sdata["imputed"].obs_names.tolist() == inside["S1_spots"].tolist()
    assert sdata["imputed"].obs["measured"].sum() == n


def test_calibration_on_regions_is_recorded(left, ridge):
    sdata, inside = left
    record = stp.tl.calibrate(ridge, sdata, shapes_key="S1_spots", **LEFT).calibration.record
    assert record["n_spots"] == [len(inside["S1_spots"])]
    assert record["regions"] == {"left": None}


def test_comparisons_on_regions(left, tmp_path):
    sdata, inside = left
    stp.tl.cross_validate(sdata, "mean_profile", key_added="cv", save_dir=tmp_path / "cv", **LEFT)
    table = sdata["observed"]
    assert filled(table, table.layers["cv"]) == [name for names in inside.values() for name in names]
    found = stp.tl.benchmark(sdata, ["mean_profile"], save_dir=tmp_path / "cv", **LEFT)  # of the same cells
    runs = found.runs[found.runs["model"] == "mean_profile"]
    assert sorted(runs["n_test"]) == sorted(map(len, inside.values()))
    with pytest.raises(ValueError, match="holds results with other 'slides'"):
        stp.tl.benchmark(sdata, ["mean_profile"], save_dir=tmp_path / "cv", **QUIET)


def test_domains_of_regions_and_their_scores(left):
    sdata, inside = left
    stp.tl.domains(sdata, 2, "expression", n_seeds=1, **LEFT)
    names = [name for each in inside.values() for name in each]
    obs = sdata["observed"].obs
    assert obs.index[obs["domain"].notna()].tolist() == names
    obs["label"] = np.arange(len(obs)) % 2
    obs["all"] = "1"
    scores = stp.tl.domain_scores(sdata, "label", key="all", regions="left", n_permutations=1)
    assert scores["n_spots"].tolist() == [*map(len, inside.values()), len(names)]


@pytest.mark.filterwarnings("ignore:54 of 108 spots hold no count")
def test_genes_are_chosen_and_judged_by_spots_of_the_regions(left):
    sdata, inside = left
    names = [name for each in inside.values() for name in each]
    only = sdata["observed"].copy()
    only.X[~only.obs_names.isin(names)] = 0  # spots without counts do not count
    sdata.tables["only"] = only
    orders, scores = [], []
    for options in ({"table_name": "only"}, {"table_name": "observed", "regions": "left"}, {"table_name": "observed"}):
        stp.pp.select_genes(sdata, n_genes=only.n_vars, min_fraction=0, **options)
        orders.append([*sdata[options["table_name"]].uns["stpredict"]["genes"]])
        scores.append(stp.tl.predictability(sdata, n_permutations=1, n_neighbors=2, **options, **QUIET))
    assert orders[0] == orders[1] != orders[2]
    np.testing.assert_allclose(*(each["moran"].loc[orders[0]] for each in scores[:2]))
    assert (scores[0]["moran"] != scores[2]["moran"].loc[scores[0].index]).all()


def test_self_training_uses_measurements_of_the_regions(left, tmp_path):
    sdata, inside = left
    other = stp.datasets.synthetic(n_slides=1, n_side=3, seed=1)
    predictor = stp.tl.self_train(
        sdata, other, "m2ost_tiny", rounds=1, shapes_key="S0_spots", regions="left", save_dir=tmp_path / "p",
        config={"n_epochs": 1, "validation": "none", **QUIET},
        model_options={"dim": 24, "depth": 1, "heads": 2, "size_px": 32, "patch_size": 8},
    )  # fmt: skip
    assert predictor.provenance.slides["S0_spots"]["n_spots"] == len(inside["S0_spots"])


@pytest.mark.filterwarnings("ignore:The resolution of image")  # the diameter is not that of Visium
def test_the_resolution_is_that_of_all_spots(sdata):
    """One spot has no pitch."""
    del sdata.attrs["stpredict"]["um_per_px"]
    sdata.attrs["stpredict"]["platform"] = {"S0_spots": "visium"}
    (whole,) = resolve(sdata, Selection(shapes_key="S0_spots"))
    x, y = whole.xy_px[7]
    draw(sdata, "one", [shapely.box(x - 1, y - 1, x + 1, y + 1)])
    (part,) = resolve(sdata, Selection(shapes_key="S0_spots", regions="one"))
    assert (part.obs_names.tolist(), part.um_per_px) == ([whole.obs_names[7]], whole.um_per_px)


def test_an_area_is_not_taken_for_spots(sdata):
    """Shapes of another program, which no table annotates."""
    xy = resolve(sdata, Selection(shapes_key="S0_spots"))[0].xy_px
    only = SpatialData(images={"S0_image": sdata["S0_image"]}, shapes={"S0_spots": sdata["S0_spots"]})
    only.attrs = sdata.attrs
    draw(only, "drawn", [shapely.box(-500, -500, float(np.median(xy[:, 0])), 1e5)])
    (slide,) = resolve(only, Selection(regions="drawn"), needs_table=False)
    assert (slide.shapes_key, slide.table_name) == ("S0_spots", None)
    assert 0 < len(slide.xy_px) < len(xy)


def test_tissue_is_cut_to_the_annotations(tmp_path):
    sdata = stp.datasets.synthetic(n_slides=1, n_side=6)
    stp.pp.tissue(sdata)
    whole = shapely.union_all(sdata["tissue"].geometry)
    x0, y0, x1, y1 = whole.bounds
    area = shapely.box(x0, y0, (x0 + x1) / 2, y1)
    draw(sdata, "drawn", [area, shapely.box(0, 0, 5, 5)], **{"class": ["Tumor", "Fat"]})
    stp.pp.tissue(sdata, annotations={"drawn": "Tumor"}, min_area_um2=1000, key_added="inside")
    assert shapely.union_all(sdata["inside"].geometry).symmetric_difference(whole.intersection(area)).area < 1
    assert sdata.attrs["stpredict"]["tissue"]["inside"]["annotations"] == {"drawn": ["Tumor"]}
    stp.pp.spot_grid(sdata, "visium", tissue_key="inside")
    with pytest.raises(ValueError, match=r"No piece of tissue of 1e\+06 µm² or more lies in the annotations 'drawn'"):
        stp.pp.tissue(sdata, annotations={"drawn": "Fat"}, min_area_um2=1e6, key_added="none")
    with pytest.raises(ValueError, match=r"There is no element with polygons named 'nothing'.*`annotations`"):
        stp.pp.tissue(sdata, annotations="nothing")
