"""Regions restrict tissue, training and scores to the spots that lie in them."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Identity, Translation, set_transformation

import stpredict as stp
from stpredict._slides.slides import Selection, resolve

QUIET = {"progress": False}


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
