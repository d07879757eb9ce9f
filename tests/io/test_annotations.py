"""Annotations of QuPath and NDP.view come in as areas of the slide, and go out as they came."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import shapely
import tifffile
from shapely.geometry import mapping
from spatialdata.transformations import Affine, Scale, get_transformation, set_transformation

import stpredict as stp
from stpredict._slides.slides import Selection, resolve

HOLED = shapely.Polygon(
    [(100, 100), (700, 100), (700, 500), (100, 500)], [[(200, 200), (300, 200), (300, 300), (200, 300)]]
)
TWO = shapely.MultiPolygon([shapely.box(0, 0, 50, 50), shapely.box(60, 0, 90, 30)])
CROSSED = shapely.Polygon([(300, 600), (400, 700), (400, 600), (300, 700)])


def feature(geometry, **properties):
    return {"type": "Feature", "geometry": mapping(geometry), "properties": {"objectType": "annotation", **properties}}


DRAWN = [
    feature(HOLED, name="A1", classification={"name": "Tumor", "color": [200, 0, 0]}),
    feature(TWO, classification={"name": "Fat", "colorRGB": -377282}),  # as QuPath 0.2 writes it
    feature(CROSSED, name="crossed", color=[1, 2, 3], classification={"names": ["Tumor", "Positive"]}),
]


@pytest.fixture
def slide():
    return stp.datasets.synthetic(n_slides=1, n_side=6)


def write(path, features=DRAWN, **outer):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **outer}))
    return path


@pytest.mark.parametrize("kind", ["collection", "list", "gzip", "one"])
def test_qupath(slide, tmp_path, kind):
    path = write(tmp_path / "a.geojson")
    if kind == "list":
        path.write_text(json.dumps(DRAWN))
    elif kind == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes()))
    elif kind == "one":
        path.write_text(json.dumps(DRAWN[0]))
    stp.io.read_annotations(slide, path)
    found = slide["annotations"]
    n = 1 if kind == "one" else 3
    assert found["name"].where(found["name"].notna(), None).tolist() == ["A1", None, "crossed"][:n]
    assert found["class"].tolist() == ["Tumor", "Fat", "Tumor: Positive"][:n]
    assert found["color"].tolist() == ["#c80000", "#fa3e3e", "#010203"][:n]
    expected = [HOLED, TWO, shapely.make_valid(CROSSED)][:n]
    assert all(one.equals(other) for one, other in zip(found.geometry, expected, strict=True))
    assert slide.attrs["stpredict"]["annotations"] == {"annotations": {"file": "a.geojson", "image_key": "S0_image"}}
    assert resolve(slide, Selection())[0].shapes_key == "S0_spots"


@pytest.mark.parametrize(("properties", "expected"), [
    (None, [None] * 3),
    (["a"], [None] * 3),
    ({"classification": None, "name": None}, [None] * 3),
    ({"classification": "Tumor", "name": 5}, ["5", "Tumor", None]),
    ({"classification": ["Tumor"], "name": {"a": 1}}, [None] * 3),
    ({"classification": {"names": []}}, [None] * 3),
    ({"classification": {"names": ["A", None], "name": "B"}}, [None, "A", None]),
    ({"classification": {"name": 7, "color": [1, 2]}, "color": "red"}, [None, "7", None]),
    ({"color": [255.0, 0, 16]}, [None, None, "#ff0010"]),
    ({"color": "#FF0010"}, [None, None, "#FF0010"]),
    ({"color": [256, -1, 0]}, [None] * 3),
    ({"classification": {"name": "A", "colorRGB": "x"}}, [None, "A", None]),
])  # fmt: skip
def test_what_is_said_of_an_outline_never_refuses_it(slide, tmp_path, properties, expected):
    drawn = [{"type": "Feature", "geometry": mapping(HOLED), "properties": properties}]
    stp.io.read_annotations(slide, write(tmp_path / "a.geojson", drawn))
    row = slide["annotations"].iloc[0]
    assert [row["name"], row["class"], row["color"]] == expected
    assert row.geometry.equals(HOLED)
    stp.io.write_annotations(slide, tmp_path / "b.geojson", "annotations")


def test_they_lie_where_the_image_lies(slide, tmp_path):
    turn = Affine([[0, -1, 9], [1, 0, 5], [0, 0, 1]], ("x", "y"), ("x", "y"))
    set_transformation(slide["S0_image"], {"stage": turn, "S0": Scale([2, 2], ("x", "y"))}, set_all=True)
    stp.io.read_annotations(slide, write(tmp_path / "a.geojson"), key_added="drawn")
    placed = get_transformation(slide["drawn"], get_all=True)
    wanted = get_transformation(slide["S0_image"], get_all=True)
    assert set(placed) == {"stage", "S0"}
    for system, transformation in placed.items():
        matrices = [each.to_affine_matrix(("x", "y"), ("x", "y")) for each in (transformation, wanted[system])]
        np.testing.assert_array_equal(*matrices)


def test_what_has_no_area_is_left_out_with_a_count(slide, tmp_path):
    others = [
        feature(shapely.Point(3, 3)),
        feature(shapely.LineString([(0, 0), (9, 9)])),
        {**DRAWN[0], "geometry": None},
    ]
    with pytest.warns(UserWarning, match=r"3 of 6 annotations of 'a.geojson' have no area and are left out"):
        stp.io.read_annotations(slide, write(tmp_path / "a.geojson", [others[0], *DRAWN, *others[1:]]))
    assert slide["annotations"]["class"].tolist() == ["Tumor", "Fat", "Tumor: Positive"]
    with pytest.raises(ValueError, match=r"None of the 3 annotations of 'b.geojson' has an area"):
        stp.io.read_annotations(slide, write(tmp_path / "b.geojson", others))


@pytest.mark.parametrize(("content", "words"), [
    ('{"type": "FeatureCollection", "features": [{"type":', r"does not end in '}' .* Bytes are missing"),
    ("[{}]", r"holds no GeoJSON features, .* Give another file"),
    ('{"a": 1}', r"holds no GeoJSON features"),
    ("x y z", r"'a.geojson' cannot be read: .* Give another file"),
    ('[{"geometry": {"type": "Polygon", "coordinates": [[["a", 1]]]}, "properties": {}}]',
     "the geometry of feature 1 of 1 is not valid GeoJSON"),
    ('[{"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [NaN, 9], [9, 9]]]}}]', "a coordinate is not finite"),
    ('[{"geometry": {"type": "Polygon", "coordinates": [[[1%s, 0], [9, 9], [0, 9]]]}}]' % (400 * "0"), "not valid Geo"),
    ('[{"geometry": {"type": "Polygon", "coordinates": [[[1e308, 0], [9, 9], [0, 9]]]}}]', "larger than any slide"),
    ('[{"geometry": {"type": "Blob"}, "properties": {}}]', "not valid GeoJSON"),
    ("<annotations><ndpviewstate>", r"does not end in '</annotations>' .* Bytes are missing"),
    ("<annotations><b></annotations>", r"mismatched tag.* Give another file"),
    ("<annotations></annotations>", r"holds no <annotation>"),
])  # fmt: skip
def test_files_that_are_none(slide, tmp_path, content, words):
    (tmp_path / "a.geojson").write_text(content)
    with pytest.raises(ValueError, match=words):
        stp.io.read_annotations(slide, tmp_path / "a.geojson", offset_nm=(0, 0))
    assert list(slide.shapes) == ["S0_spots"]


def test_annotations_of_another_image(slide, tmp_path):
    path = write(tmp_path / "a.geojson", [feature(shapely.box(50_000, 9, 60_000, 99))])
    with pytest.raises(
        ValueError, match=r"No annotation of 'a.geojson' lies on image 'S0_image': they span x 50000 to"
    ):
        stp.io.read_annotations(slide, path)


def test_nothing_else_is_replaced(slide, tmp_path):
    path = write(tmp_path / "a.geojson")
    with pytest.raises(ValueError, match=r"'S0_spots' that `stp.io.read_annotations` did not make"):
        stp.io.read_annotations(slide, path, key_added="S0_spots")
    stp.io.read_annotations(slide, path)
    stp.io.read_annotations(slide, write(path, DRAWN[:1]))
    assert len(slide["annotations"]) == 1


# NDPA

NDPA = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
 <ndpviewstate id="1"><title>tumour</title><coordformat>nanometers</coordformat>
  <annotation type="freehand" color="#ff0000"><closed>1</closed><pointlist>{points}</pointlist></annotation>
 </ndpviewstate>
 <ndpviewstate id="2"><title></title><coordformat>nanometers</coordformat>
  <annotation type="circle" color="#00ff00"><x>{x}</x><y>{y}</y><radius>100000</radius></annotation></ndpviewstate>
 <ndpviewstate id="3"><title>ruler</title><coordformat>nanometers</coordformat>
  <annotation type="linearmeasure" color="#000000"><point><x>0</x><y>0</y></point></annotation></ndpviewstate>
</annotations>"""


def ndpa(path, corners_nm, centre_nm):
    points = "".join(f"<point><x>{x}</x><y>{y}</y></point>" for x, y in corners_nm)
    path.write_text(NDPA.format(points=points, x=centre_nm[0], y=centre_nm[1]))
    return path


@pytest.mark.parametrize("source", ["file", "argument"])
def test_ndpa_counts_from_the_centre_of_the_glass(tmp_path, source):
    um_per_px, offset = 0.5, (-3_000_000, 1_500_000)
    tags = [(65422, 9, 1, offset[0], True), (65423, 9, 1, offset[1], True)] if source == "file" else []
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((800, 1000, 3), np.uint8), photometric="rgb", resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER", extratags=tags, metadata=None,
    )  # fmt: skip
    sdata = stp.io.read_wsi(tmp_path / "a.tif")
    corners = np.array([(100, 100), (300, 100), (300, 250), (100, 250)], float)

    def to_nm(xy):
        return (np.asarray(xy) - (500, 400)) * 1000 * um_per_px + offset

    path = ndpa(tmp_path / "a.ndpi.ndpa", to_nm(corners), to_nm((600, 500)))
    if source == "argument":
        with pytest.raises(ValueError, match=r"not known how far .* Read the NDPI file itself .* or give `offset_nm`"):
            stp.io.read_annotations(sdata, path)
    with pytest.warns(UserWarning, match="1 of 3 annotations of 'a.ndpi.ndpa' have no area"):
        stp.io.read_annotations(sdata, path, offset_nm=None if source == "file" else offset)
    found = sdata["annotations"]
    np.testing.assert_allclose(shapely.get_coordinates(found.geometry[0])[:4], corners)
    assert (found["name"][0], found["color"].tolist()) == ("tumour", ["#ff0000", "#00ff00"])
    assert found.geometry[1].centroid.coords[0] == pytest.approx((600, 500))
    assert found.geometry[1].area == pytest.approx(np.pi * 200**2, rel=0.01)


@pytest.mark.parametrize(("old", "new", "words"), [
    ("nanometers", "pixels", r"coordinates are in 'pixels', where 'nanometers' are expected"),
    ("<radius>100000", "<radius>wide", r"annotation of type 'circle' has a coordinate that is no number"),
])  # fmt: skip
def test_ndpa_of_another_kind(slide, tmp_path, old, new, words):
    path = ndpa(tmp_path / "a.ndpa", [(0, 0), (9, 0), (9, 9)], (0, 0))
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=words):
        stp.io.read_annotations(slide, path, offset_nm=(0, 0))


# written for QuPath


def test_a_round_trip_keeps_everything(slide, tmp_path):
    stp.io.read_annotations(slide, write(tmp_path / "a.geojson"))
    stp.io.write_annotations(slide, tmp_path / "b.geojson", "annotations")
    stp.io.read_annotations(slide, tmp_path / "b.geojson", key_added="again")
    one, other = slide["annotations"], slide["again"]
    for column in ("name", "class", "color"):
        assert one[column].fillna("none").tolist() == other[column].fillna("none").tolist()
    assert all(a.symmetric_difference(b).area < 1 for a, b in zip(one.geometry, other.geometry, strict=True))


def test_domains_of_spots(slide, tmp_path):
    table = slide["observed"]
    domain = np.where(np.arange(table.n_obs) % 2, "edge", "core")
    table.obs["domain"] = np.where(np.arange(table.n_obs) == 3, None, domain)
    table.obs["domain"] = table.obs["domain"].astype("category")
    table.uns["domain_colors"] = ["#0000ff", "#ff8000"]
    stp.io.write_annotations(slide, tmp_path / "d.geojson", "S0_spots", class_key="domain")
    written = json.loads((tmp_path / "d.geojson").read_text())["features"]
    labels = [each["properties"].get("classification") for each in written]
    assert labels[:4] == [
        {"name": "core", "color": [0, 0, 255]}, {"name": "edge", "color": [255, 128, 0]},
        {"name": "core", "color": [0, 0, 255]}, None,
    ]  # fmt: skip
    assert {each["properties"]["objectType"] for each in written} == {"detection"}
    (measured,) = resolve(slide, Selection())
    centres = np.array([shapely.geometry.shape(each["geometry"]).centroid.coords[0] for each in written])
    np.testing.assert_allclose(centres, measured.xy_px, atol=0.02)
    radius = measured.diameter_um / 2 / measured.um_per_px
    assert shapely.geometry.shape(written[0]["geometry"]).area == pytest.approx(np.pi * radius**2, rel=0.01)


@pytest.mark.parametrize(("arguments", "words"), [
    ({"shapes_key": "nothing"}, "There is no element with shapes named 'nothing'"),
    ({"shapes_key": "S0_spots", "class_key": "leiden"}, r"No column 'leiden' in shapes 'S0_spots' .* `class_key`"),
    ({"shapes_key": "S0_spots", "class_key": "total"}, r"obs\['total'\] holds numbers with decimals, not classes"),
])  # fmt: skip
def test_what_cannot_be_written(slide, tmp_path, arguments, words):
    slide["observed"].obs["total"] = 0.5
    with pytest.raises(ValueError, match=words):
        stp.io.write_annotations(slide, tmp_path / "d.geojson", **arguments)
    assert list(tmp_path.iterdir()) == []
