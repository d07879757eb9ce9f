"""How images, spots and tables are found in SpatialData objects, and where spots lie in pixels."""

from __future__ import annotations

from copy import deepcopy

import anndata as ad
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from shapely import Point, box
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import Affine, Identity, MapAxis, Scale, Sequence, Translation, set_transformation

from stpredict._slides.slides import Selection, pyramid, resolve, shared_genes

XY = np.array([[10.0, 20.0], [30.0, 20.0], [10.0, 44.0]])
PIXELS = np.zeros((3, 50, 80), np.uint8)
NOTED = {"stpredict": {"um_per_px": {"he": 2.0}}}


def table(region="spots", n=3, genes=("A", "B")):
    counts = np.arange(1, n * len(genes) + 1, dtype=np.float32).reshape(n, len(genes))
    obs = pd.DataFrame({"region": pd.Categorical([region] * n), "spot_id": range(n)}, index=[f"r{i}" for i in range(n)])
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=list(genes)))
    return TableModel.parse(adata, region=region, region_key="region", instance_key="spot_id")


def image(transformation=None, system="global", pixels=PIXELS):
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={system: transformation or Identity()})


def circles(xy=XY, transformation=None, system="global", radius=5.0):
    return ShapesModel.parse(xy, geometry=0, radius=radius, transformations={system: transformation or Identity()})


def build(image_to=None, spots_to=None, **elements):
    parts = {"images": {"he": image(image_to)}, "shapes": {"spots": circles(transformation=spots_to)},
             "tables": {"observed": table()}, "attrs": NOTED}  # fmt: skip
    return SpatialData(**(parts | elements))


def only(sdata, **selection):
    (slide,) = resolve(sdata, Selection(**selection))
    return slide


def test_a_slide_as_it_is():
    sdata = build()
    slide = only(sdata)
    np.testing.assert_array_equal(slide.xy_px, XY)
    np.testing.assert_array_equal(slide.xy_um, 2 * XY)
    assert (slide.name, slide.image_key, slide.shapes_key, slide.table_name) == ("spots", "he", "spots", "observed")
    assert (slide.um_per_px, slide.diameter_um, slide.coordinate_system) == (2.0, 20.0, "global")
    assert (slide.genes, slide.group, slide.source) == (("A", "B"), "spots", sdata)
    assert slide.counts.toarray().tolist() == [[1, 2], [3, 4], [5, 6]]
    assert slide.obs_names.tolist() == ["r0", "r1", "r2"]


QUARTER = Affine([[0, -1, 0], [1, 0, 0], [0, 0, 1]], ("x", "y"), ("x", "y"))  # (x, y) -> (-y, x)
HALF = {"x": 0.5, "y": 0.5}


@pytest.mark.parametrize(("image_to", "spots_to", "wanted", "diameter_px"), [
    pytest.param(None, Translation([3, -4], ("x", "y")), XY - (-3, 4), 10, id="spots shifted"),
    pytest.param(Translation([3, -4], ("x", "y")), None, XY - (3, -4), 10, id="image shifted"),
    pytest.param(Scale([2, 2], ("x", "y")), None, XY / 2, 5, id="a pixel is two units"),
    pytest.param(Sequence([Scale([0.5, 0.5], ("x", "y")), Translation([1, 2], ("x", "y"))]), None,
                 2 * (XY - [1, 2]), 20, id="scaled and shifted"),
    pytest.param(Sequence([Scale([1, -1], ("x", "y")), Translation([0, 50], ("x", "y"))]), None,
                 np.column_stack([XY[:, 0], 50 - XY[:, 1]]), 10, id="upside down"),
    pytest.param(Sequence([QUARTER, Translation([60, 0], ("x", "y"))]), None,
                 np.column_stack([XY[:, 1], 60 - XY[:, 0]]), 10, id="quarter turn"),
    pytest.param(MapAxis({"x": "y", "y": "x"}), None, XY[:, ::-1], 10, id="axes swapped"),
    pytest.param(Scale([2, 2], ("x", "y")), Scale([4, 4], ("x", "y")), XY * 2, 20, id="both scaled"),
])  # fmt: skip
def test_centres_in_pixels(image_to, spots_to, wanted, diameter_px):
    slide = only(build(image_to, spots_to, images={"he": image(image_to, pixels=np.zeros((3, 120, 120), np.uint8))}))
    np.testing.assert_allclose(slide.xy_px, wanted, atol=1e-9)
    assert slide.diameter_um == pytest.approx(2 * diameter_px)


def test_polygons_are_spots():
    squares = ShapesModel.parse(gpd.GeoDataFrame(geometry=[box(x - 3, y - 3, x + 3, y + 3) for x, y in XY]))
    slide = only(build(shapes={"spots": squares}))
    np.testing.assert_allclose(slide.xy_px, XY)
    assert slide.diameter_um == pytest.approx(2 * 2 * 6 / np.sqrt(np.pi))  # of the circle of equal area, at 2 µm per px


@pytest.mark.parametrize("scale_factors", [None, [2]])
def test_labels_are_spots(scale_factors):
    labels = np.zeros((50, 80), np.int64)
    for name, (x, y) in zip((4, 7, 9), XY.astype(int), strict=True):
        labels[y - 3 : y + 3, x - 3 : x + 3] = name
    transformations = {"own": Identity()}
    element = Labels2DModel.parse(labels, dims=("y", "x"), scale_factors=scale_factors, transformations=transformations)
    observed = table()
    observed.obs["spot_id"] = [4, 7, 9]
    slide = only(build(shapes={}, labels={"spots": element}, images={"he": image(system="own")},
                       tables={"observed": observed}))  # fmt: skip
    np.testing.assert_allclose(slide.xy_px, XY)
    assert slide.instances.tolist() == [4, 7, 9]
    assert slide.diameter_um == pytest.approx(2 * 2 * 6 / np.sqrt(np.pi))


def test_rows_of_the_table_name_spots_in_any_order_and_may_leave_some_out():
    observed = table()[[2, 0]].copy()
    slide = only(build(tables={"observed": observed}))
    np.testing.assert_array_equal(slide.xy_px, XY[[2, 0]])
    assert slide.instances.tolist() == [2, 0]


@pytest.mark.parametrize(("shape", "scale_factors", "factors"), [
    ((64, 64), [2, 2], [1, 2, 4]),
    ((65, 67), [2, 2, 2], [1, 2, 4, 8]),  # odd rows are dropped: a level pixel still is 2, 4, 8 px
    ((1043, 517), [2, 4], [1, 2, 8]),
])  # fmt: skip
def test_true_factors_of_spatialdata_pyramids(shape, scale_factors, factors):
    pixels = np.zeros((3, *shape), np.uint8)
    element = Image2DModel.parse(pixels, dims=("c", "y", "x"), scale_factors=scale_factors)
    assert [level.factor for level in pyramid(element)] == [(f, f) for f in factors]


def test_other_pyramids_cover_the_whole_image():
    levels = [np.zeros((3, n, n), np.uint8) for n in (100, 30)]

    class Tree(dict):
        children = True

    tree = Tree(coarse={"image": levels[1]}, fine={"image": levels[0]})
    assert [level.factor for level in pyramid(tree)] == [(1, 1), (100 / 30, 100 / 30)]


def test_image_without_levels_has_one():
    (level,) = pyramid(image())
    assert (level.factor, level.pixels.shape) == ((1.0, 1.0), PIXELS.shape)


def test_resolution_argument_then_record_then_platform():
    sdata = build(attrs=deepcopy(NOTED), shapes={"spots": circles(radius=5.5)})
    assert only(sdata, um_per_px=3.0).um_per_px == 3.0
    assert only(sdata).um_per_px == 2.0
    assert only(sdata, in_px=True).um_per_px == 1.0
    sdata.attrs = {"spatialdata_io_reader": "visium"}
    assert only(sdata).um_per_px == pytest.approx(5)  # 100 µm are 20 px
    assert only(sdata).diameter_um == pytest.approx(55)


def test_group_is_the_slide_unless_a_column_names_it():
    sdata = build()
    sdata["observed"].obs["patient"] = pd.Categorical(["p"] * 3)
    assert only(sdata).group == "spots"
    assert only(sdata, group_key="patient").group == "p"


def test_slides_of_several_objects_are_groups_of_their_own(synthetic_sdata):
    one = Selection(shapes_key="S0_spots")
    assert [s.group for s in resolve([synthetic_sdata] * 2, one)] == ["0/S0_spots", "1/S0_spots"]
    named = Selection(shapes_key="S0_spots", group_key="patient")
    assert [s.group for s in resolve([synthetic_sdata] * 2, named)] == ["P0", "P0"]


def test_counts_come_from_the_layer_asked_for():
    sdata = build()
    sdata["observed"].layers["raw"] = np.full((3, 2), 7.0)
    assert only(sdata, layer="raw").counts.toarray().tolist() == [[7, 7]] * 3


def test_which_of_two_tables():
    other = table()
    other.X = other.X * 10
    sdata = build(tables={"a": table(), "b": other})
    assert only(sdata, table_name="b").counts.toarray().tolist() == [[10, 20], [30, 40], [50, 60]]
    sdata = build(tables={"observed": table(), "b": other})
    assert only(sdata).table_name == "observed"


def test_several_regions_in_the_order_of_the_table(synthetic_sdata):
    assert [s.name for s in resolve(synthetic_sdata, Selection())] == ["S0_spots", "S1_spots", "S2_spots"]
    assert [s.image_key for s in resolve(synthetic_sdata, Selection())] == ["S0_image", "S1_image", "S2_image"]
    chosen = resolve(synthetic_sdata, Selection(shapes_key=["S2_spots", "S0_spots"]))
    assert [s.name for s in chosen] == ["S2_spots", "S0_spots"]
    assert chosen[0].obs_names.tolist() == [n for n in synthetic_sdata["observed"].obs_names if n.startswith("S2")]


def test_several_objects_in_a_list_or_mapping():
    one, two = build(), build()
    assert [s.name for s in resolve([one, two], Selection())] == ["0/spots", "1/spots"]
    named = resolve({"a": one, "b": two}, Selection())
    assert [s.name for s in named] == ["a/spots", "b/spots"]
    assert [s.source for s in named] == [one, two]


def two_images():
    return build(images={"he": image(), "other": image()})


def test_which_of_two_images():
    sdata = two_images()
    with pytest.raises(ValueError, match=r"Spots 'spots' lie on several images: 'he', 'other'\. Say which with `image"):
        only(sdata, um_per_px=1.0)
    assert only(sdata, image_key="other", um_per_px=1.0).image_key == "other"
    assert only(sdata, image_key={"spots": "other"}, um_per_px=1.0).image_key == "other"


def test_coordinate_system_decides_between_images():
    sdata = two_images()
    set_transformation(sdata["other"], Translation([1, 1], ("x", "y")), "aligned")
    set_transformation(sdata["spots"], Identity(), "aligned")
    slide = only(sdata, coordinate_system="aligned", um_per_px=1.0)
    assert (slide.image_key, slide.coordinate_system) == ("other", "aligned")
    np.testing.assert_allclose(slide.xy_px, XY - 1)


def test_spots_without_a_table():
    sdata = build(tables={})
    (slide,) = resolve(sdata, Selection(), needs_table=False)
    assert (slide.counts, slide.genes, slide.table_name, slide.group) == (None, (), None, "spots")
    assert slide.obs_names.tolist() == ["0", "1", "2"]


def test_predictions_are_no_counts():
    predictions = table()
    predictions.uns["mine"] = {"target": {}}
    sdata = build(tables={"counts": table(), "mine": predictions})
    assert only(sdata).table_name == "counts"
    del sdata.tables["counts"]
    (slide,) = resolve(sdata, Selection(), needs_table=False)
    assert slide.table_name is None


def test_genes_that_all_slides_have():
    slides = resolve([build(), build(tables={"observed": table(genes=("C", "B", "A"))})], Selection())
    assert shared_genes(slides) == ["A", "B"]
    assert shared_genes(slides[::-1]) == ["B", "A"]


def test_nothing_is_changed():
    sdata = build()
    before = sdata["observed"].copy()
    resolve(sdata, Selection(um_per_px=3.0))
    assert sdata.attrs == NOTED
    pd.testing.assert_frame_equal(sdata["observed"].obs, before.obs)


def changed(obs=None, **elements):
    sdata = build(**elements)
    if obs is not None:
        sdata["observed"].obs[obs[0]] = obs[1]
    return sdata


def unlinked():
    adata = ad.AnnData(np.ones((3, 2), np.float32))
    return build(tables={"observed": adata})


def twice_indexed():
    sdata = build()
    sdata["spots"].index = [0, 0, 2]
    return sdata


def elsewhere():
    sdata = build()
    sdata["observed"].obs["region"] = pd.Categorical(["spots"] * 3, categories=["spots", "more"])
    sdata["observed"].uns["spatialdata_attrs"]["region"] = ["spots", "more"]
    sdata.shapes["more"] = circles()
    return sdata


points = gpd.GeoDataFrame({"radius": [5.0] * 3}, geometry=[Point(x, y) for x, y in XY], index=["a", "b", "c"])


@pytest.mark.filterwarnings("ignore:The table is annotating", "ignore:The annotated element")
@pytest.mark.parametrize(("make", "selection", "words"), [
    pytest.param(list, {}, "No slide was given: the list of objects is empty", id="nothing"),
    pytest.param(build, {"shapes_key": ["spots", "spots"]}, "named more than once: 'spots'", id="named twice"),
    pytest.param(lambda: build(tables={}), {}, "There is no table with counts in `sdata.tables`", id="no table"),
    pytest.param(lambda: build(tables={"a": table(), "b": table()}), {}, "Which table holds the counts.*'a', 'b'",
                 id="two tables"),
    pytest.param(build, {"table_name": "counts"}, "No table 'counts' in `sdata.tables` .found: 'observed'.*table_name",
                 id="unknown table"),
    pytest.param(build, {"table_name": "predicted"}, "No table 'predicted'.*Create it with `stp.tl.predict",
                 id="no prediction"),
    pytest.param(unlinked, {}, "Table 'observed' annotates no element.*TableModel.parse", id="unlinked table"),
    pytest.param(lambda: build(shapes={}), {}, "annotates 'spots', which is not in the object .shapes and labels: none",
                 id="spots are missing"),
    pytest.param(elsewhere, {"shapes_key": "more"}, "No row of table 'observed' annotates 'more'", id="no row"),
    pytest.param(build, {"shapes_key": "x"}, "`shapes_key` names 'x'; spots are in: 'spots'",
                 id="unknown spots"),
    pytest.param(build, {"image_key": "x"}, "No image 'x' in `sdata.images` .found: 'he'", id="unknown image"),
    pytest.param(build, {"layer": "x"}, r"No layer 'x' in the table \(found: none\)\. Give", id="unknown layer"),
    pytest.param(build, {"group_key": "x"}, "No column 'x' in `obs` .found: 'region', 'spot_id'", id="unknown column"),
    pytest.param(lambda: changed(("patient", ["p", "q", "p"])), {"group_key": "patient"},
                 "'spots' belong to 'p', 'q' by obs.'patient'.; one slide must be one group", id="two groups"),
    pytest.param(lambda: changed(("patient", ["p", None, "p"])), {"group_key": "patient"}, "'p' by .* and some to none",
                 id="a spot without group"),
    pytest.param(lambda: build(images={}), {}, "no image in this object, so spots 'spots' have no patches",
                 id="no image"),
    pytest.param(lambda: build(images={"he": image(system="S1")}), {},
                 r"\['global'\]. share none with the images .*'he': \['S1'\].*set_transformation",
                 id="no common system"),
    pytest.param(build, {"coordinate_system": "S9"}, "share none within 'S9'", id="unknown system"),
    pytest.param(lambda: changed(("spot_id", [0, 1, 99])), {},
                 "1 of 3 rows of table 'observed' name spots that 'spots' does not have .for instance 99;.*dtype int64",
                 id="unknown instance"),
    pytest.param(lambda: build(shapes={"spots": ShapesModel.parse(points)}), {},
                 "3 of 3 rows of table .* its index: 'a', 'b', 'c'", id="instances of another type"),
    pytest.param(twice_indexed, {}, "Spots of 'spots' share an index: 0", id="spots that share an index"),
    pytest.param(lambda: build(spots_to=Translation([900, 0], ("x", "y"))), {},
                 r"All 3 spots of 'spots' lie outside image 'he': they span \[910.0, 20.0\] to .* image 80 x 50 px",
                 id="all off the image"),
    pytest.param(lambda: build(Scale([1, 1.02], ("x", "y"))), {},
                 "Pixels of image 'he' are not square: one unit of 'global' is 1 px along x, but 0.9804 px along y",
                 id="pixels are not square"),
    pytest.param(lambda: build(attrs={}), {}, "resolution of image 'he' is not known.*stp.pp.resolution",
                 id="unknown resolution"),
    pytest.param(build, {"um_per_px": 0.0}, "resolution of image 'he' is given as 0.0 µm", id="no resolution"),
    pytest.param(build, {"um_per_px": float("nan")}, "given as nan", id="resolution is nan"),
])  # fmt: skip
def test_errors_say_what_was_given_and_what_to_do(make, selection, words):
    with pytest.raises(ValueError, match=words):
        resolve(make(), Selection(**selection))


@pytest.mark.parametrize("thing", ["slide.zarr", None, ad.AnnData()])
def test_only_spatialdata_is_taken(thing):
    with pytest.raises(TypeError, match=r"Expected a SpatialData \(or a list or mapping of them\), not"):
        resolve(thing, Selection())


def test_which_spots_where_no_table_says_so():
    sdata = build(tables={}, shapes={"a": circles(), "b": circles()})
    with pytest.raises(
        ValueError, match=r"Which element holds the spots.*shapes and labels found: 'a', 'b'\. Give `sh"
    ):
        resolve(sdata, Selection(), needs_table=False)
    assert len(resolve(sdata, Selection(shapes_key=["a", "b"]), needs_table=False)) == 2


def test_tissue_alone_is_no_spots():
    sdata = build(tables={}, shapes={"tissue": circles()})
    sdata.attrs["stpredict"] = {**sdata.attrs.get("stpredict", {}), "tissue": {"tissue": {}}}
    with pytest.raises(ValueError, match=r"No element holds spots;.* found: 'tissue'\. Lay .*`stp\.pp\.spot_grid`"):
        resolve(sdata, Selection(), needs_table=False)


def test_without_a_table_the_grid_holds_the_spots_and_tissue_never_does():
    sdata = build(tables={}, shapes={"spots": circles(), "tissue": circles()})
    sdata.attrs["stpredict"] = {**sdata.attrs.get("stpredict", {}), "tissue": {"tissue": {}}}
    assert [slide.shapes_key for slide in resolve(sdata, Selection(), needs_table=False)] == ["spots"]
    sdata.shapes["mine"] = circles()
    sdata.attrs["stpredict"]["grid"] = {"mine": {}}
    assert [slide.shapes_key for slide in resolve(sdata, Selection(), needs_table=False)] == ["mine"]


def test_elements_beside_those_of_the_table_have_none_unless_one_is_needed():
    sdata = build()
    (annotated,) = resolve(sdata, Selection())
    sdata.shapes["grid"] = sdata.shapes[annotated.shapes_key].copy()
    (grid,) = resolve(sdata, Selection(shapes_key="grid"), needs_table=False)
    assert (grid.table_name, grid.counts) == (None, None)
    (spots,) = resolve(sdata, Selection(shapes_key=annotated.shapes_key), needs_table=False)
    assert spots.table_name == annotated.table_name
    for options in ({"needs_table": True}, {"needs_table": False}):
        with pytest.raises(ValueError, match="nowhere"):
            resolve(sdata, Selection(shapes_key="nowhere"), **options)
    with pytest.raises(ValueError, match="grid"):
        resolve(sdata, Selection(shapes_key="grid"))


def test_long_lists_are_cut():
    with pytest.raises(ValueError, match=r"'g7', … \(40 in all\)"):
        resolve(build(images={f"g{i}": image() for i in range(40)}), Selection(image_key="x"))


TURNED = Affine(np.array([[0, -1, 50], [1, 0, 0], [0, 0, 1.0]]), ("x", "y"), ("x", "y"))


def in_systems(image_to, spots_to):
    """An image and spots that share several coordinate systems."""
    sdata = build()
    for system in image_to:
        set_transformation(sdata["he"], image_to[system], system)
        set_transformation(sdata["spots"], spots_to[system], system)
    return sdata


@pytest.mark.parametrize("other", ["aligned", "landmarks"])  # before and after "global" in the alphabet
def test_coordinate_systems_that_place_spots_differently(other):
    sdata = in_systems({other: Translation([30, 0], ("x", "y"))}, {other: Identity()})
    with pytest.raises(
        ValueError, match=rf"'global' .*{other}|{other}.* 'global'.*30 px.* Give one as `coordinate_sys"
    ):
        only(sdata)
    np.testing.assert_array_equal(only(sdata, coordinate_system="global").xy_px, XY)
    np.testing.assert_array_equal(only(sdata, coordinate_system=other).xy_px, XY - [30, 0])


@pytest.mark.parametrize("other", ["aligned", "landmarks"])
@pytest.mark.parametrize("both", [TURNED, Scale([0.25, 0.25], ("x", "y")), Translation([30, 0], ("x", "y"))])
def test_any_of_several_systems_that_agree(other, both):
    slide = only(in_systems({other: both}, {other: both}))
    np.testing.assert_allclose(slide.xy_px, XY, atol=1e-9)
    np.testing.assert_array_equal(slide.axes, np.eye(2))  # of a system in which the image is not turned


IDS = {
    "numbers": ([3, 1, 20], [3, 1, 20]),
    "texts": (["a", "b", "c"], ["a", "b", "c"]),
    "texts with zeros in front": (["007", "07", "7"], ["007", "07", "7"]),
    "numbers as texts": (["3", "1", "20"], [3, 1, 20]),
    "texts as numbers": ([3, 1, 20], ["3", "1", "20"]),
    "floats": ([3.0, 1.0, 20.0], [3, 1, 20]),
    "bytes": ([b"a", b"b", b"c"], ["a", "b", "c"]),
    "categories": (pd.Categorical(["b", "a", "c"]), ["b", "a", "c"]),
    "strings of pandas": (pd.array(["b", "a", "c"], dtype="string"), ["b", "a", "c"]),
    "unsigned": (np.array([3, 1, 20], "u4"), np.array([3, 1, 20], "i8")),
}


@pytest.mark.parametrize("kind", IDS)
def test_ids_of_every_type_keep_matching(kind):
    of_table, of_shapes = IDS[kind]
    sdata = build()
    order = [2, 0, 1]
    sdata["spots"].index = pd.Index(of_shapes)
    sdata["spots"] = sdata["spots"].iloc[order]
    sdata.tables["observed"].obs["spot_id"] = of_table
    slide = only(sdata)
    np.testing.assert_array_equal(slide.xy_px, XY)
    assert slide.instances.tolist() == list(of_shapes)
    assert slide.counts.toarray().tolist() == [[1, 2], [3, 4], [5, 6]]


def test_ids_that_only_look_alike():
    sdata = build()
    sdata["spots"].index = pd.Index(["01", "1", "2"])
    sdata.tables["observed"].obs["spot_id"] = [0, 1, 2]
    with pytest.raises(ValueError, match=r"1 of 3 rows of table 'observed' name spots .* \(for instance 0"):
        only(sdata)
