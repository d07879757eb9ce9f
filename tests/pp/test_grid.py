"""Grids of spots: places by hand, the area rule, stable positions, and predictions on a slide without spots."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
from geopandas import GeoDataFrame
from scipy.spatial import cKDTree
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Affine, Identity, Scale, get_transformation

import stpredict as stp
from stpredict.pp import spot_grid
from stpredict.pp._grid import MAX_PLACES
from stpredict.pp._tissue_fraction import tissue_fraction
from stpredict.pp.lattice import infer_lattice


def slide(width=400, height=300, um_per_px=2.0, *, transformation=None, system="global"):
    """An image without any spots."""
    pixels, systems = np.zeros((3, height, width), np.uint8), {system: transformation or Identity()}
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=systems)
    return SpatialData(images={"he": image}, attrs={"stpredict": {"um_per_px": {"he": um_per_px}}})


def polygons(*areas, system="global"):
    return ShapesModel.parse(GeoDataFrame(geometry=list(areas)), transformations={system: Identity()})


def centres(sdata, key="grid"):
    centroid = sdata[key].geometry.centroid
    return np.column_stack([centroid.x, centroid.y])


def test_square_lattice_by_hand():
    sdata = slide(width=400, height=260)  # 800 x 520 µm
    spot_grid(sdata, "st")
    by_hand = [(x, y) for y in (50, 150, 250) for x in (50, 150, 250, 350)]  # a step is 100 px
    np.testing.assert_allclose(centres(sdata), by_hand)
    assert sdata["grid"].index.tolist() == list(range(12))
    assert set(sdata["grid"]["radius"]) == {25.0}


def test_hexagonal_lattice_by_hand():
    sdata = slide(width=130, height=100)  # a step is 50 px, a row 43.3 px
    spot_grid(sdata, "visium")
    row = 25 * np.sqrt(3)
    by_hand = [(25, row / 2), (75, row / 2), (125, row / 2), (50, 1.5 * row), (100, 1.5 * row)]
    np.testing.assert_allclose(centres(sdata), by_hand)
    assert sdata["grid"].index.tolist() == [0, 1, 2, 3, 4]
    assert set(sdata["grid"]["radius"]) == {13.75}


def test_a_centre_on_the_far_edge_is_outside():
    sdata = slide(width=100, height=100)
    spot_grid(sdata, "visium")
    assert centres(sdata)[:, 0].tolist() == [25, 75, 50]
    spot_grid(sdata, diameter_um=10, pitch_um=80)  # 40 px: the third centre would be at 100
    assert sorted(set(centres(sdata)[:, 0])) == [20, 60]


def test_positions_count_places_beyond_the_image_too():
    """A short second row leaves a gap, so that row and column follow from the index."""
    sdata = slide(width=130, height=120)
    spot_grid(sdata, "visium")
    ids, note = sdata["grid"].index.to_numpy(), sdata.attrs["stpredict"]["grid"]["grid"]
    assert ids.tolist() == [0, 1, 2, 3, 4, 6, 7, 8]
    row, column = np.divmod(ids, note["n_columns"])
    np.testing.assert_allclose(centres(sdata)[:, 0], (column + 0.5 + 0.5 * (row % 2)) * 50)


def test_neighbours_of_a_hexagonal_lattice_are_six_and_equally_far():
    sdata = slide(width=800, height=800)
    spot_grid(sdata, "visium")
    xy = centres(sdata)
    middle = xy[np.all(np.abs(xy - 400) < 200, axis=1)]
    distance, _ = cKDTree(xy).query(middle, k=8)
    np.testing.assert_allclose(distance[:, 1:7] * 2, 100)
    assert (distance[:, 7] * 2 > 170).all()


@pytest.mark.parametrize(("name", "side_um"), [("visium_hd_8um", 8.0), ("visium_hd_16um", 16.0)])
def test_bins_tile_the_image(name, side_um):
    sdata = slide(width=80, height=48)
    spot_grid(sdata, name)
    bins = sdata["grid"].geometry
    assert len(bins) == round(160 / side_um) * round(96 / side_um)
    np.testing.assert_allclose(bins.area, (side_um / 2) ** 2)
    assert bins.iloc[0].bounds == (0.0, 0.0, side_um / 2, side_um / 2)
    assert shapely.union_all(bins.to_numpy()).equals(shapely.box(0, 0, 80, 48))


def test_geometry_of_one_s_own():
    sdata = slide()
    spot_grid(sdata, diameter_um=20, pitch_um=50, layout="hexagonal")
    spot_grid(sdata, "st", diameter_um=60, pitch_um=100, layout="hexagonal", key_added="other")
    distance, _ = cKDTree(centres(sdata)).query(centres(sdata), k=2)
    np.testing.assert_allclose(distance[:, 1], 25)
    noted = sdata.attrs["stpredict"]["grid"]
    assert {name: noted["other"][name] for name in ("diameter_um", "pitch_um", "layout", "outline")} == {
        "diameter_um": 60.0, "pitch_um": 100.0, "layout": "hexagonal", "outline": "circle"}  # fmt: skip
    assert noted["grid"]["layout"] == "hexagonal"
    assert json.loads(json.dumps(noted)) == noted


@pytest.mark.parametrize(("provenance", "arguments", "expected"), [
    ({"diameter_um": 100.0}, {}, (100, 200)),
    ({"diameter_um": 55.0, "pitch_um": 100.0}, {}, (55, 100)),
    ({"diameter_um": 55.0, "pitch_um": 100.0}, {"pitch_um": 25}, (55, 25)),
    ({}, {"diameter_um": 10}, (10, 20)),
])  # fmt: skip
def test_like_a_predictor(provenance, arguments, expected):
    sdata = slide()
    spot_grid(sdata, SimpleNamespace(provenance=provenance), **arguments)
    note = sdata.attrs["stpredict"]["grid"]["grid"]
    assert (note["diameter_um"], note["pitch_um"], note["layout"]) == (*expected, "square")
    xy = centres(sdata)
    assert (xy[1, 0] - xy[0, 0]) * 2 == pytest.approx(expected[1])


def test_layout_of_a_predictor():
    sdata = slide()
    like = SimpleNamespace(provenance={"diameter_um": 55.0, "pitch_um": 100.0, "layout": "hexagonal"})
    spot_grid(sdata, like)
    spot_grid(sdata, "visium", key_added="visium")
    assert sdata["grid"].equals(sdata["visium"])
    spot_grid(sdata, like, layout="square")
    assert sdata.attrs["stpredict"]["grid"]["grid"]["layout"] == "square"


@pytest.mark.parametrize("angle", [0.0, 0.3])
@pytest.mark.parametrize(("name", "pitch", "layout"), [("visium", 100, "hexagonal"), ("st", 200, "square")])
def test_lattice_of_measured_spots(name, pitch, layout, angle):
    """Turned, jittered, with one spot in five missing, as arrays on tissue are."""
    sdata = slide(width=1000, height=1000)
    spot_grid(sdata, name)
    rng = np.random.default_rng(0)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    xy = (centres(sdata) * 2 + rng.normal(0, 0.02 * pitch, (len(sdata["grid"]), 2))) @ turn
    found = infer_lattice(xy[rng.uniform(size=len(xy)) > 0.2])
    assert found == (pytest.approx(pitch, rel=0.02), layout)


def test_few_spots_are_no_lattice():
    assert infer_lattice(np.zeros((1, 2))) == (None, "square")
    assert infer_lattice(np.array([[0.0, 0.0], [3.0, 4.0]])) == (5.0, "square")


def test_spots_with_enough_of_their_area_on_tissue():
    """Tissue ends at x = 150, through the middle of the second spot of a row: half of it is on tissue."""
    found = []
    for edge in (149, 150, 151):
        sdata = slide(width=400, height=100)
        sdata.shapes["tissue"] = polygons(shapely.box(-10, -10, edge, 500))
        spot_grid(sdata, "st")
        found.append(sdata["grid"].index.tolist())
    assert found == [[0], [0, 1], [0, 1]]
    for min_tissue, kept in ((0.0, [0, 1, 2, 3]), (0.01, [0, 1]), (0.6, [0]), (1.0, [0])):
        spot_grid(sdata, "st", min_tissue=min_tissue)
        assert sdata["grid"].index.tolist() == kept


def test_share_of_area_of_circles_and_squares():
    tissue = shapely.box(0, 0, 10, 10)
    xy = np.array([[5, 5], [0, 5], [10, 10], [-3, 5], [10.5, 5]], float)
    np.testing.assert_allclose(tissue_fraction(xy, 2.0, "square", tissue), [1, 0.5, 0.25, 0, 0.25], atol=1e-7)
    segment = (np.arccos(0.5) - 0.5 * np.sqrt(0.75)) / np.pi  # of a circle cut at half its radius
    np.testing.assert_allclose(tissue_fraction(xy, 2.0, "circle", tissue), [1, 0.5, 0.25, 0, segment], atol=1e-7)


@pytest.mark.parametrize("diameter", [3.0, 150.0])
def test_share_of_area_on_ragged_tissue_with_holes(diameter):
    """Against the plain intersection with all of the tissue, for spots smaller and larger than the tissue."""
    rng = np.random.default_rng(0)
    angle = np.linspace(0, 2 * np.pi, 900, endpoint=False)
    radius = 30 + 6 * np.sin(5 * angle) + rng.normal(0, 0.05, 900)
    outer = shapely.Polygon(np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])).buffer(0)
    tissue = outer.difference(shapely.MultiPoint(rng.uniform(-20, 20, (20, 2))).buffer(1.5)).union(
        shapely.box(50, 0, 60, 9)
    )
    xy = rng.uniform(-40, 65, (600 if diameter < 10 else 150, 2))
    for outline, spots in (
        ("circle", shapely.buffer(shapely.points(xy), diameter / 2, quad_segs=256)),
        ("square", shapely.box(*(xy - diameter / 2).T, *(xy + diameter / 2).T)),
    ):
        expected = shapely.area(shapely.intersection(spots, tissue)) / shapely.area(spots)
        np.testing.assert_allclose(tissue_fraction(xy, diameter, outline, tissue), expected, atol=2e-5)
        assert ((expected > 0) & (expected < 1)).any()


def test_positions_do_not_depend_on_tissue():
    whole, part = slide(), slide()
    part.shapes["tissue"] = polygons(shapely.box(120, 90, 300, 200), shapely.box(310, 210, 390, 290))
    for sdata in (whole, part):
        spot_grid(sdata, "visium", pitch_um=60)
    all_spots, kept = whole["grid"], part["grid"]
    assert 10 < len(kept) < len(all_spots) / 2
    assert all_spots.loc[kept.index].geometry.geom_equals(kept.geometry).all()


def test_the_same_call_gives_the_same_grid_and_replaces_it():
    sdata = slide()
    spot_grid(sdata, "visium")
    first = sdata["grid"]
    spot_grid(sdata, "visium")
    assert first.equals(sdata["grid"])
    spot_grid(sdata, "st")
    assert len(sdata["grid"]) < len(first)
    assert sdata.attrs["stpredict"]["grid"]["grid"]["pitch_um"] == 200.0


def test_a_grid_is_written_and_read_with_its_object(tmp_path):
    sdata = slide()
    spot_grid(sdata, "visium_hd_16um", key_added="bins")
    sdata.write(tmp_path / "a.zarr")
    read = SpatialData.read(tmp_path / "a.zarr")
    assert read["bins"].geometry.geom_equals(sdata["bins"].geometry).all()
    assert read["bins"].index.equals(sdata["bins"].index)
    spot_grid(read, "visium", key_added="bins")
    assert "radius" in read["bins"]


def test_no_tissue_covers_the_image():
    sdata = slide()
    sdata.shapes["tissue"] = polygons(shapely.box(0, 0, 100, 100))
    spot_grid(sdata, "st", tissue_key=None)
    assert len(sdata["grid"]) == 12
    spot_grid(sdata, "st")
    assert sdata["grid"].index.tolist() == [0]


def test_invalid_tissue_is_repaired():
    sdata = slide(width=400, height=400)
    sdata.shapes["tissue"] = polygons(shapely.Polygon([(0, 0), (400, 400), (400, 0), (0, 400)]))  # a bow tie
    spot_grid(sdata, "st", min_tissue=0.9)
    assert sdata["grid"].index.tolist() == [4, 7, 8, 11]  # left and right, not above or below


FLIPPED = Affine([[-0.5, 0, 200], [0, 0.5, 0], [0, 0, 1]], input_axes=("x", "y"), output_axes=("x", "y"))


@pytest.mark.parametrize("transformation", [Scale([3.0, 3.0], ("x", "y")), FLIPPED], ids=["scaled", "flipped"])
def test_transformation_of_the_image(transformation):
    """Spots lie on the same pixels, whatever the coordinates of the image; tissue is found through these."""
    sdata, plain = slide(transformation=transformation, system="mm"), slide()
    matrix = transformation.to_affine_matrix(("x", "y"), ("x", "y"))
    corner = shapely.box(0, 0, 130, 110)
    plain.shapes["tissue"] = polygons(corner)
    moved = shapely.transform(corner, lambda xy: xy @ matrix[:2, :2].T + matrix[:2, 2])
    sdata.shapes["tissue"] = polygons(moved, system="mm")
    for one in (sdata, plain):
        spot_grid(one, "visium")
    assert len(plain["grid"]) > 3
    assert sdata["grid"].equals(plain["grid"])
    both = [get_transformation(sdata[key], "mm").to_affine_matrix(("x", "y"), ("x", "y")) for key in ("grid", "he")]
    np.testing.assert_allclose(*both)


def test_resolution_by_argument_counts_and_is_not_recorded():
    sdata = slide(um_per_px=2.0)
    spot_grid(sdata, "st", um_per_px=4.0)
    assert set(sdata["grid"]["radius"]) == {12.5}
    assert sdata.attrs["stpredict"]["um_per_px"] == {"he": 2.0}


def test_one_image_of_several(sdata):
    spot_grid(sdata, "st", image_key="S1_image")
    assert set(get_transformation(sdata["grid"], get_all=True)) == {"S1"}
    spot_grid(sdata, "st", coordinate_system="S2")
    assert set(get_transformation(sdata["grid"], get_all=True)) == {"S2"}


def test_a_slide_without_spots_is_predicted():
    train = stp.datasets.synthetic(n_slides=2, n_side=4, um_per_px=8.0)
    config = stp.tl.FitConfig(n_epochs=1, progress=False, accelerator="cpu", precision="32-true")
    options = {"dim": 24, "depth": 1, "heads": 2, "size_px": 32, "patch_size": 8}
    predictor = stp.tl.fit(train, "m2ost", config=config, model_options=options)
    image = stp.datasets.synthetic(n_slides=1, n_side=4, um_per_px=8.0, seed=1)
    sdata = SpatialData(images={"S0_image": image["S0_image"]}, attrs=image.attrs)
    sdata.shapes["tissue"] = polygons(shapely.box(40, 20, 190, 110), system="S0")
    for like, arguments, pitch_px in ((predictor, {}, 25), ("visium_hd_16um", {"pitch_um": 160}, 20)):
        spot_grid(sdata, like, **arguments)
        assert cKDTree(centres(sdata)).query(centres(sdata), k=2)[0][:, 1] == pytest.approx(pitch_px)
        stp.tl.predict(sdata, predictor, shapes_key="grid", device="cpu", precision="32-true", progress=False)
        table = sdata["predicted"]
        assert table.shape == (len(sdata["grid"]), 12)
        assert table.obs["spot_id"].tolist() == sdata["grid"].index.tolist()
        np.testing.assert_allclose(table.obsm["spatial"], centres(sdata))
        assert np.isfinite(table.X).all()


def two_images(sdata):
    sdata.images["other"] = sdata["he"]


def tissue_of_points(sdata):
    sdata.shapes["tissue"] = ShapesModel.parse(
        np.ones((3, 2)), geometry=0, radius=1.0, transformations={"global": Identity()}
    )


def tissue_elsewhere(sdata):
    sdata.shapes["tissue"] = polygons(shapely.box(0, 0, 9, 9), system="elsewhere")


def little_tissue(sdata):
    sdata.shapes["tissue"] = polygons(shapely.box(0, 0, 9, 9))


def tissue_without_area(sdata):
    sdata.shapes["tissue"] = polygons(shapely.Polygon([(0, 0), (100, 0), (200, 0)]))


def taken(sdata):
    sdata.shapes["grid"] = polygons(shapely.box(0, 0, 9, 9))


def unknown_resolution(sdata):
    del sdata.attrs["stpredict"]


def not_square(sdata):
    sdata.images["he"].attrs["transform"] = {"global": Scale([1.0, 2.0], ("x", "y"))}


NOT_TRAINED = SimpleNamespace(provenance={})


@pytest.mark.parametrize(("change", "like", "arguments", "message"), [
    (None, "visum", {}, r"`like` is 'visum'; allowed: 'visium', 'st', 'visium_hd_8um'"),
    (None, None, {"diameter_um": 50}, r"`diameter_um` is 50 and `pitch_um` is None; without `like` both are needed"),
    (None, NOT_TRAINED, {}, r"does not record the diameter .*Give `diameter_um`"),
    (None, "st", {"pitch_um": 0}, r"`pitch_um` is 0; it must be a finite length in µm above 0"),
    (None, "st", {"pitch_um": np.inf}, r"`pitch_um` is inf; it must be a finite length"),
    (None, "st", {"layout": "round"}, r"`layout` is 'round'; allowed: 'hexagonal', 'square'"),
    (None, "st", {"min_tissue": 1.5}, r"`min_tissue` is 1.5; it must lie between"),
    (None, "st", {"tissue_key": "tisue"}, r"no element with tissue named 'tisue'\. Found: none\. Add one first"),
    (None, "st", {"image_key": "hes"}, r"no image named 'hes'\. Did you mean 'he'\? Found: 'he'"),
    (None, "st", {"image_key": "he", "coordinate_system": "mm"}, r"no image of coordinate system 'mm' named 'he'"),
    (None, "st", {"coordinate_system": "mm"}, r"There is no image of coordinate system 'mm'. Found: none"),
    (None, "st", {"pitch_um": 5000}, r"The grid is empty: image 'he' has no spot on it.*smaller `pitch_um`"),
    (None, "st", {"key_added": "he"}, r"has an element 'he' that .*Give another name as `key_added`"),
    (two_images, "st", {}, r"Which image is meant\? Found: 'he', 'other'. Give one of these as `image_key`"),
    (tissue_of_points, "st", {}, r"Shapes 'tissue' hold 'Point'; polygons are needed"),
    (tissue_elsewhere, "st", {}, r"Shapes 'tissue' and image 'he' share no coordinate system"),
    (little_tissue, "st", {}, r"The grid is empty: image 'he' has no spot with 0.5 of its area on 'tissue'. Lower"),
    (tissue_without_area, "st", {}, r"The grid is empty"),
    (taken, "st", {}, r"has an element 'grid' that `stp.pp.spot_grid` did not make \(it made: none"),
    (unknown_resolution, "st", {}, r"resolution of image 'he' is not known.*stp.pp.resolution"),
    (not_square, "st", {}, r"Pixels of image 'he' are not square"),
])  # fmt: skip
def test_bad_input_is_refused_and_nothing_written(change, like, arguments, message):
    sdata = slide()
    if change is not None:
        change(sdata)
    before, attrs = {name: element for _, name, element in sdata.gen_elements()}, json.dumps(sdata.attrs)
    with pytest.raises(ValueError, match=message):
        spot_grid(sdata, like, **arguments)
    assert {name: id(element) for _, name, element in sdata.gen_elements()} == {k: id(v) for k, v in before.items()}
    assert json.dumps(sdata.attrs) == attrs


def test_what_is_no_predictor_is_refused():
    with pytest.raises(TypeError, match=r"`like` is of type float; give a predictor, .*`stp.tl.fit`"):
        spot_grid(slide(), 55.0)
    with pytest.raises(TypeError, match="Expected a SpatialData"):
        spot_grid(slide()["he"], "st")


def test_a_grid_that_was_taken_out_is_made_anew():
    sdata = slide()
    spot_grid(sdata, "st")
    del sdata.shapes["grid"]
    spot_grid(sdata, "visium")
    assert sdata.attrs["stpredict"]["grid"]["grid"]["pitch_um"] == 100.0


def test_more_places_than_memory_holds_are_refused_at_once():
    image = Image2DModel.parse(np.zeros((3, 100, 100), np.uint8), dims=("c", "y", "x"))
    sdata = SpatialData(images={"he": image})
    words = r"The lattice has 100,000,000 places at a pitch of 0.01 µm; at most 50,000,000 .*larger `pitch_um`"
    with pytest.raises(ValueError, match=words):
        spot_grid(sdata, diameter_um=0.01, pitch_um=0.01, um_per_px=1.0)
    assert MAX_PLACES == 50_000_000
    sdata.shapes["tissue"] = polygons(shapely.box(10, 10, 11, 11))
    spot_grid(sdata, diameter_um=0.01, pitch_um=0.01, um_per_px=1.0)  # on little tissue there are few
    assert len(sdata["grid"]) == 10_000


def test_spots_that_overlap_a_lot():
    """A ring of 1200 edges under 10,000 spots, each as wide as 13 steps of the lattice."""
    sdata = slide(width=1000, height=1000, um_per_px=1.0)
    sdata.shapes["tissue"] = polygons(
        shapely.Point(500, 500).buffer(460, quad_segs=300).difference(shapely.Point(500, 500).buffer(200))
    )
    spot_grid(sdata, diameter_um=110, pitch_um=8)
    inside = np.pi * (460**2 - 200**2) / 8**2
    assert len(sdata["grid"]) == pytest.approx(inside, rel=0.02)


def test_a_million_bins_at_once():
    image = Image2DModel.parse(np.zeros((3, 4, 4), np.uint8), dims=("c", "y", "x"))
    sdata = SpatialData(images={"he": image})
    spot_grid(sdata, "visium_hd_8um", um_per_px=2.0, diameter_um=0.008, pitch_um=0.008, tissue_key=None)
    assert len(sdata["grid"]) == 1_000_000
    assert sdata["grid"].index[-1] == 999_999
