"""Tissue on drawn slides, whose mask is known, and on real sections, where measured spots must lie in it."""

from __future__ import annotations

import json
import re

import geopandas as gpd
import numpy as np
import pytest
import shapely
from scipy.ndimage import gaussian_filter
from shapely.geometry import Point
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel, Labels2DModel, ShapesModel
from spatialdata.transformations import Affine, Identity, Scale, get_transformation

import stpredict as stp
from stpredict._slides.slides import Level
from stpredict.pp._tissue_mask import find_tissue, found_polygons
from stpredict.pp.thumbnails import thumbnail

SIDE = 400
UM = 8.0
WHITE, GREY, PINK = (245, 245, 245), (130, 131, 128), (236, 219, 235)
Y, X = np.mgrid[:SIDE, :SIDE] + 0.5
DISC = ((200, 200, 80),)


def disc(y: float, x: float, radius: float) -> np.ndarray:
    return (Y - y) ** 2 + (X - x) ** 2 < radius**2


def drawn(background=WHITE, discs=DISC, hole=None, haze=0.0, seed=0) -> tuple[np.ndarray, np.ndarray]:
    """A slide at 8 µm per pixel, ``(y, x, 3)`` uint8, and where its tissue is."""
    rng = np.random.default_rng(seed)
    mask = np.logical_or.reduce([disc(*each) for each in discs]) if discs else np.zeros((SIDE, SIDE), bool)
    if hole:
        mask &= ~disc(*hole)
    nuclei = gaussian_filter(rng.normal(size=(SIDE, SIDE)), 1.0)
    nuclei = np.clip(nuclei / nuclei.std() * 0.4 + 0.5, 0, 2)[..., None]
    density = mask[..., None] * (nuclei * [0.65, 0.70, 0.29] + 0.4 * np.array([0.07, 0.99, 0.11]))
    dye = haze * np.exp(-((Y - 200) ** 2 + (X - 300) ** 2) / (2 * 90**2))[..., None] * [0.05, 1.0, 0.3]
    rgb = np.array(background) * np.exp(-density - dye) + rng.normal(0, 1.5, (SIDE, SIDE, 3))
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8), mask


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def found(rgb: np.ndarray) -> np.ndarray:
    return find_tissue(rgb.astype(np.float32), UM, 20_000.0, 20_000.0).mask


def as_object(rgb: np.ndarray, transformations=None, scale_factors=None) -> SpatialData:
    image = Image2DModel.parse(
        rgb.transpose(2, 0, 1), dims=("c", "y", "x"), transformations=transformations, scale_factors=scale_factors
    )
    return SpatialData(images={"slide": image})


def rasterised(sdata: SpatialData, step: float = 1.0, key: str = "tissue") -> np.ndarray:
    union = shapely.union_all(sdata[key].geometry.to_numpy())
    return shapely.contains_xy(union, X * step, Y * step)


@pytest.mark.parametrize(
    ("background", "haze"), [(WHITE, 0.0), (GREY, 0.0), (GREY, 0.2), (PINK, 0.2)], ids=["white", "grey", "haze", "pink"]
)
def test_disc_on_any_background(background, haze):
    rgb, mask = drawn(background, haze=haze)
    assert iou(found(rgb), mask) > (0.92 if haze else 0.96)


def test_background_is_that_of_the_slide():
    rgb, _ = drawn(GREY)
    np.testing.assert_allclose(find_tissue(rgb.astype(np.float32), UM, 2e4, 2e4).background, GREY, atol=1)


@pytest.mark.parametrize(
    ("ink", "background"),
    [((30, 60, 180), PINK), ((30, 140, 70), GREY), ((20, 20, 20), WHITE), ((90, 90, 90), PINK)],
    ids=["blue", "green", "black", "grey"],
)
def test_pen_is_left_out(ink, background):
    rgb, mask = drawn(background)
    wave = np.abs(Y - 50 - 15 * np.sin(X / 20)) < 7
    wave |= np.abs(X - 350) < 10
    rgb[wave] = np.minimum(rgb[wave], ink)
    assert iou(found(rgb), mask) > 0.93


def test_stroke_in_the_colours_of_tissue_is_kept():
    rgb, mask = drawn()
    rough = np.random.default_rng(1).uniform(0.6, 1.0, (SIDE, SIDE, 1))
    stroke = np.abs(Y - 50) < 10
    rgb[stroke] = (np.array([190, 80, 150]) * rough)[stroke]  # eosin and nuclei, not ink
    assert iou(found(rgb), mask | stroke) > 0.9


def test_lattice_of_dark_dots():
    rgb, mask = drawn(PINK, haze=0.1)
    dots = ((Y % 25 - 12) ** 2 + (X % 25 - 12) ** 2 < 6**2) & ~disc(200, 200, 90)
    rgb[dots] = rgb[dots] * 0.5
    assert iou(found(rgb), mask) > 0.9


def test_small_stained_dots_are_no_pieces():
    rgb, mask = drawn()
    dots = ((Y % 50 - 25) ** 2 + (X % 50 - 25) ** 2 < 3**2) & ~disc(200, 200, 90)
    rgb[dots] = (120, 50, 130)
    assert iou(found(rgb), mask) > 0.93


def test_haze_alone_and_dust_alone_are_no_tissue():
    for background in (WHITE, GREY, PINK):
        rgb, _ = drawn(background, discs=(), haze=0.3)
        assert not found(rgb).any()
    rgb, _ = drawn(discs=())
    rgb[100:104, 100:104] = (120, 50, 130)
    assert not found(rgb).any()


@pytest.mark.parametrize("value", [0, 255])
def test_constant_image(value):
    assert not found(np.full((50, 60, 3), value, np.uint8)).any()


def test_black_outside_is_not_tissue():
    rgb, mask = drawn()
    rgb[~disc(200, 200, 120)] = 0
    assert iou(found(rgb), mask) > 0.9


def test_pieces_and_a_hole():
    rgb, mask = drawn(discs=((110, 110, 70), (300, 300, 60), (90, 320, 30)), hole=(110, 110, 30))
    sdata = as_object(rgb)
    stp.pp.tissue(sdata, um_per_px=UM)
    shapes = sdata["tissue"]
    assert [len(polygon.interiors) for polygon in shapes.geometry] == [1, 0, 0]
    expected = [np.pi * (70**2 - 30**2), np.pi * 60**2, np.pi * 30**2]
    np.testing.assert_allclose(shapes["area_um2"], np.array(expected) * UM**2, rtol=0.15)
    np.testing.assert_allclose(shapes["area_um2"], shapes.area * UM**2)
    assert shapes.is_valid.all()
    assert iou(rasterised(sdata), mask) > 0.9


def test_minimal_area_drops_pieces_and_fills_holes():
    rgb, _ = drawn(discs=((110, 110, 70), (300, 300, 60), (90, 320, 30)), hole=(110, 110, 30))
    sdata = as_object(rgb)
    least = np.pi * 40**2 * UM**2
    stp.pp.tissue(sdata, um_per_px=UM, min_area_um2=least, min_hole_um2=least)
    assert [len(polygon.interiors) for polygon in sdata["tissue"].geometry] == [0, 0]


def test_other_pixel_types_give_the_same():
    rgb, _ = drawn()
    first, second = (as_object(image) for image in (rgb, rgb.astype(np.uint16) * 257))
    for sdata in (first, second):
        stp.pp.tissue(sdata, um_per_px=UM)
    assert first["tissue"].geometry.equals(second["tissue"].geometry)


@pytest.mark.parametrize("scale_factors", [None, [2, 2, 2]], ids=["one level", "pyramid"])
def test_fine_image_is_averaged_down(scale_factors):
    rgb, mask = drawn()
    fine = rgb.repeat(4, axis=0).repeat(4, axis=1)
    sdata = as_object(fine, scale_factors=scale_factors)
    stp.pp.tissue(sdata, um_per_px=UM / 4)
    assert iou(rasterised(sdata, 4.0), mask) > 0.93
    coarse = as_object(rgb)
    stp.pp.tissue(coarse, um_per_px=UM)
    assert shapely.equals_exact(
        sdata["tissue"].geometry[0], shapely.affinity.scale(coarse["tissue"].geometry[0], 4, 4, origin=(0, 0)), 1e-6
    )


def test_block_means_with_a_rest():
    pixels = np.random.default_rng(0).integers(0, 255, (3, 5001, 7), dtype=np.uint8)
    level = Level(pixels=pixels, factor=(1.0, 1.0))
    small = thumbnail((level,), 0.5, 1.7, "slide")
    assert small.rgb.shape == (1667, 3, 3)
    assert small.step == (3.0, 3.0)
    assert small.um_per_px == 1.5
    np.testing.assert_allclose(small.rgb[1000, 1], pixels[:, 3000:3003, 3:6].mean(axis=(1, 2)), rtol=1e-6)
    np.testing.assert_allclose(small.rgb[-1, -1], pixels[:, 4998:, 6:].mean(axis=(1, 2)), rtol=1e-6)


def test_tissue_at_the_edge_ends_there():
    rgb, _ = drawn(discs=((200, 0, 100),))
    sdata = as_object(rgb.repeat(3, axis=0).repeat(3, axis=1)[:, :-1])
    stp.pp.tissue(sdata, um_per_px=UM / 3)
    assert sdata["tissue"].total_bounds[0] == 0
    rgb, _ = drawn(discs=((200, 400, 100),))
    sdata = as_object(rgb.repeat(3, axis=0).repeat(3, axis=1)[:, :-1])
    stp.pp.tissue(sdata, um_per_px=UM / 3)
    assert sdata["tissue"].total_bounds[2] == 1199


@pytest.mark.parametrize("first", [True, False], ids=["first row dropped", "last row dropped"])
def test_levels_of_odd_images_are_aligned(first):
    """A level that lacks a row lies where its pixels say: the tissue is that of the whole image."""
    rgb, _ = drawn(discs=((200, 200, 120),))
    fine = rgb.repeat(5, axis=0).repeat(5, axis=1)[:-1, :-1]  # 1999 pixels
    part = fine[1:, 1:] if first else fine[:-1, :-1]
    half = part.reshape(999, 2, 999, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8)
    quarter = (half[1:, 1:] if first else half[:-1, :-1]).reshape(499, 2, 499, 2, 3).mean(axis=(1, 3))
    levels = [
        Level(pixels=pixels.transpose(2, 0, 1), factor=(factor, factor))
        for pixels, factor in ((fine, 1.0), (half, 2.0), (quarter.round().astype(np.uint8), 4.0))
    ]
    whole, _ = found_polygons((levels[0],), 2.0, "slide")
    small = thumbnail(tuple(levels), 2.0, 8.0, "slide")
    assert small.origin == ((3.0, 3.0) if first else (0.0, 0.0))
    coarse, _ = found_polygons(tuple(levels), 2.0, "slide")
    np.testing.assert_allclose(coarse.geometry[0].bounds, whole.geometry[0].bounds, atol=4.1)
    centres = [frame.geometry[0].centroid for frame in (coarse, whole)]
    np.testing.assert_allclose(*([point.x, point.y] for point in centres), atol=0.5)


def test_pale_fat_leaves_no_small_holes():
    rgb, _ = drawn(discs=((200, 200, 150),))
    for y, x, radius in ((150, 200, 14), (260, 220, 18), (230, 130, 30)):  # 39,000, 65,000 and 181,000 µm²
        rgb[disc(y, x, radius)] = WHITE
    holes = []
    for least in (0.0, 100_000.0, 1_000_000.0):
        sdata = as_object(rgb)
        stp.pp.tissue(sdata, um_per_px=UM, min_hole_um2=least)
        holes.append(len(sdata["tissue"].geometry[0].interiors))
        assert sdata.attrs["stpredict"]["tissue"]["tissue"]["min_hole_um2"] == least
    assert holes == [3, 1, 0]


SHIFTED = Affine([[2, 0, 100], [0, 2, 50], [0, 0, 1]], ("x", "y"), ("x", "y"))


@pytest.mark.parametrize("scale_factors", [None, [2, 2]], ids=["one level", "pyramid"])
def test_labels_as_mask(scale_factors):
    """Labels of a quarter of the image's resolution, registered in micrometres."""
    rgb, mask = drawn(discs=((110, 110, 70), (300, 300, 60)), hole=(110, 110, 30))
    sdata = as_object(rgb.repeat(4, axis=0).repeat(4, axis=1), {"um": SHIFTED})
    labels = mask.astype(np.uint16)
    labels[200:] *= 7
    place = Affine([[8, 0, 100], [0, 8, 50], [0, 0, 1]], ("x", "y"), ("x", "y"))
    sdata.labels["mine"] = Labels2DModel.parse(
        labels, dims=("y", "x"), transformations={"um": place}, scale_factors=scale_factors
    )
    stp.pp.tissue(sdata, um_per_px=2.0, mask_key="mine", resolution_um=8.0)
    assert [len(polygon.interiors) for polygon in sdata["tissue"].geometry] == [1, 0]
    assert iou(rasterised(sdata, 4.0), mask) > 0.98
    record = sdata.attrs["stpredict"]["tissue"]["tissue"]
    assert (record["method"], record["mask_key"]) == ("mask", "mine")
    stp.pp.tissue(sdata, um_per_px=2.0, mask_key="mine", resolution_um=40.0)
    assert iou(rasterised(sdata, 4.0), mask) > 0.9


def test_polygons_as_mask():
    sdata = as_object(drawn()[0], {"um": SHIFTED})
    own = [Point(500, 500).buffer(200), Point(600, 500).buffer(150), Point(1400, 1400).buffer(150)]  # 2 overlap
    sdata.shapes["mine"] = ShapesModel.parse(gpd.GeoDataFrame(geometry=own), transformations={"um": Identity()})
    stp.pp.tissue(sdata, um_per_px=UM, mask_key="mine")
    union = shapely.affinity.affine_transform(shapely.union_all(own), [0.5, 0, 0, 0.5, -50, -25])
    inside = union.intersection(shapely.box(0, 0, SIDE, SIDE))
    assert shapely.union_all(sdata["tissue"].geometry.to_numpy()).symmetric_difference(inside).area < 1e-6
    assert len(sdata["tissue"]) == len(shapely.get_parts(inside))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of scikit-image, in squidpy
def test_mask_of_squidpy():
    detect_tissue = pytest.importorskip("squidpy.experimental.im", exc_type=ImportError).detect_tissue
    rgb, _ = drawn(discs=((130, 130, 80), (300, 300, 60)))
    sdata = as_object(rgb, scale_factors=[2])
    detect_tissue(sdata, "slide", new_labels_key="found")
    theirs = np.asarray(sdata["found"]["scale0"]["image"]) > 0
    stp.pp.tissue(sdata, um_per_px=UM, mask_key="found", min_hole_um2=0, resolution_um=UM)
    assert iou(rasterised(sdata), theirs) > 0.98
    assert 0.02 < theirs.mean() < 0.98


def test_masks_that_cannot_be_used():
    sdata = as_object(drawn()[0])
    empty = np.zeros((SIDE, SIDE), np.uint8)
    sdata.labels["empty"] = Labels2DModel.parse(empty, dims=("y", "x"))
    sdata.labels["elsewhere"] = Labels2DModel.parse(empty + 1, dims=("y", "x"), transformations={"b": Identity()})
    sdata.shapes["points"] = ShapesModel.parse(np.ones((3, 2)), geometry=0, radius=1.0)
    sdata.shapes["beyond"] = ShapesModel.parse(gpd.GeoDataFrame(geometry=[Point(900, 900).buffer(90)]))
    for key, words in {
        "gone": r"no element with tissue named 'gone'\. Found: 'empty', 'elsewhere', 'points', 'beyond'",
        "empty": "Mask 'empty' holds no piece of 20000 µm² or more",
        "beyond": "Mask 'beyond' holds no piece",
        "elsewhere": "Shapes 'elsewhere' and image 'slide' share no coordinate system.*`mask_key`",
        "points": "Shapes 'points' hold 'Point'; polygons are needed.*`mask_key`",
    }.items():
        with pytest.raises(ValueError, match=words):
            stp.pp.tissue(sdata, um_per_px=UM, mask_key=key)
    with pytest.raises(ValueError, match="`min_hole_um2` is -1; it must lie between 0 and"):
        stp.pp.tissue(sdata, um_per_px=UM, min_hole_um2=-1)
    with pytest.raises(ValueError, match=r"`resolution_um` is 0; it must be above 0\."):
        stp.pp.tissue(sdata, um_per_px=UM, resolution_um=0)
    assert "tissue" not in sdata.shapes


def test_transformations_are_those_of_the_image():
    affine = Affine([[0, 2, 5], [-2, 0, 7], [0, 0, 1]], ("x", "y"), ("x", "y"))
    systems = {"a": Identity(), "b": Scale([0.5, 0.5], ("x", "y")), "c": affine}
    for scale_factors in (None, [2]):
        sdata = as_object(drawn()[0], systems, scale_factors)
        stp.pp.tissue(sdata, um_per_px=UM)
        got = get_transformation(sdata["tissue"], get_all=True)
        assert set(got) == {"a", "b", "c"}
        for name, transformation in systems.items():
            matrices = [t.to_affine_matrix(("x", "y"), ("x", "y")) for t in (got[name], transformation)]
            np.testing.assert_allclose(*matrices)
        assert isinstance(got["a"], Identity)


def test_what_is_recorded_and_written_survives_disk(tmp_path):
    rgb, _ = drawn()
    sdata = as_object(rgb)
    sdata.attrs["stpredict"] = {"um_per_px": {"slide": UM}, "other": 1}
    stp.pp.tissue(sdata, min_area_um2=30_000, key_added="mask")
    ours = sdata.attrs["stpredict"]
    assert ours["other"] == 1
    record = json.loads(json.dumps(ours))["tissue"]["mask"]
    assert record["image_key"] == "slide"
    assert (record["um_per_px"], record["resolution_um"], record["min_area_um2"]) == (UM, 8.0, 30_000.0)
    assert record["threshold"] >= 0.02
    sdata.write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    assert again["mask"].geometry.geom_equals_exact(sdata["mask"].geometry, 1e-9).all()
    assert again.attrs["stpredict"]["tissue"]["mask"] == record


def test_its_own_result_is_replaced_and_the_same():
    sdata = as_object(drawn()[0])
    stp.pp.tissue(sdata, um_per_px=UM)
    first = sdata["tissue"].copy()
    stp.pp.tissue(sdata, um_per_px=UM)
    assert first.equals(sdata["tissue"])
    stp.pp.tissue(sdata, um_per_px=UM, resolution_um=20)
    assert not first.equals(sdata["tissue"])
    assert sdata.attrs["stpredict"]["tissue"]["tissue"]["resolution_um"] == 20


def test_foreign_element_is_not_overwritten():
    sdata = as_object(drawn()[0])
    sdata.shapes["tissue"] = ShapesModel.parse(gpd.GeoDataFrame({"geometry": [Point(1, 1).buffer(1)]}))
    with pytest.raises(ValueError, match=r"already has an element 'tissue' that `stp.pp.tissue` did not make"):
        stp.pp.tissue(sdata, um_per_px=UM)
    with pytest.raises(ValueError, match="already has an element 'slide'"):
        stp.pp.tissue(sdata, um_per_px=UM, key_added="slide")
    assert len(sdata["tissue"]) == 1


def test_blank_slide_is_an_error_and_leaves_the_object():
    sdata = as_object(drawn(PINK, discs=())[0])
    with pytest.raises(ValueError, match=r"No tissue on image 'slide': .* blank: leave it out.*min_area_um2"):
        stp.pp.tissue(sdata, um_per_px=UM)
    assert not list(sdata.shapes)
    assert not sdata.attrs.get("stpredict")


def test_resolution_must_be_known():
    sdata = as_object(drawn()[0])
    for reader in ({}, {"spatialdata_io_reader": "visium"}):
        sdata.attrs = reader
        with pytest.raises(ValueError, match=re.escape("`stp.pp.resolution(sdata, um_per_px=…)`")):
            stp.pp.tissue(sdata)


def test_image_must_be_clear_and_in_colour():
    rgb, _ = drawn()
    sdata = as_object(rgb)
    sdata.images["other"] = Image2DModel.parse(rgb[..., :1].transpose(2, 0, 1), dims=("c", "y", "x"))
    with pytest.raises(ValueError, match=r"Which image is meant\? Found: 'slide', 'other'.*`image_key`"):
        stp.pp.tissue(sdata, um_per_px=UM)
    with pytest.raises(ValueError, match="no image named 'gone'"):
        stp.pp.tissue(sdata, um_per_px=UM, image_key="gone")
    with pytest.raises(ValueError, match="not H&E in colour"):
        stp.pp.tissue(sdata, um_per_px=UM, image_key="other")
    with pytest.raises(ValueError, match="There is no image"):
        stp.pp.tissue(SpatialData(), um_per_px=UM)
    for name in ("resolution_um", "min_area_um2"):
        with pytest.raises(ValueError, match=f"`{name}` is 0"):
            stp.pp.tissue(sdata, **{name: 0})


@pytest.mark.parametrize("section", ["C2", "C5"])
def test_measured_spots_of_real_sections_lie_in_the_tissue(her2st_dir, section):
    sdata = stp.datasets.her2st([section])
    stp.pp.tissue(sdata)
    union = shapely.union_all(sdata["tissue"].geometry.to_numpy())
    inside = shapely.contains_xy(union, *sdata["observed"].obsm["spatial"].T)
    _, height, width = sdata.images[f"{section}_image"]["scale0"]["image"].shape
    assert inside.mean() >= 0.97
    assert 0.15 < union.area / (height * width) < 0.2  # haze and dots cover the rest
    assert len(sdata["tissue"]) == 1
