"""The resolution is told, recorded or derived, in this order, and contradictions are errors."""

from __future__ import annotations

import numpy as np
import pytest
import spatialdata as sd
from spatialdata.models import Image2DModel
from spatialdata.transformations import Scale, set_transformation

from stpredict._slides.slides import Selection, resolve
from stpredict.pp import resolution, spot_grid


@pytest.fixture
def unknown(sdata):
    del sdata.attrs["stpredict"]
    return sdata


def noted(sdata):
    return sdata.attrs["stpredict"]["um_per_px"]


def origin(sdata):
    return sdata.attrs["stpredict"]["um_per_px_from"]


IMAGES = ["S0_image", "S1_image", "S2_image"]


@pytest.mark.parametrize(
    "arguments", [{"um_per_px": 4.0}, {"pitch_um": 200}, {"diameter_um": 100}, {"pitch_um": 200, "diameter_um": 100}]
)
def test_every_source_gives_the_same(unknown, arguments):
    assert resolution(unknown, **arguments) is None
    assert noted(unknown) == pytest.approx(dict.fromkeys(IMAGES, 4.0))


def test_the_argument_wins_over_the_record(sdata):
    resolution(sdata, um_per_px=5.0, image_key="S1_image")
    assert noted(sdata) == {"S0_image": 4.0, "S1_image": 5.0, "S2_image": 4.0}


def test_the_record_wins_over_the_platform(sdata):
    resolution(sdata, pitch_um=204)
    assert noted(sdata) == dict.fromkeys(IMAGES, 4.0)


def test_nothing_known(unknown):
    with pytest.raises(ValueError, match=r"The resolution of image 'S0_image' is not known"):
        resolution(unknown)
    assert "stpredict" not in unknown.attrs


def visium(sdata, ratio=0.55):
    """Spots, 50 px apart, of a diameter that is so many pitches."""
    for name in ["S0_spots", "S1_spots", "S2_spots"]:
        sdata[name]["radius"] = 50 * ratio / 2
    sdata.attrs["spatialdata_io_reader"] = "visium"
    return sdata


@pytest.mark.parametrize("ratio", [0.55, 0.65])
def test_known_platform(unknown, ratio):
    resolution(visium(unknown, ratio))
    assert noted(unknown) == pytest.approx(dict.fromkeys(IMAGES, 2.0))
    assert origin(unknown) == dict.fromkeys(IMAGES, "spot pitch")


def test_bins_are_known_by_their_name(unknown):
    unknown["S0_square_016um"] = unknown["S0_spots"]
    unknown["S0_square_016um"]["radius"] = 25.0
    del unknown.tables["observed"]
    unknown.attrs["spatialdata_io_reader"] = "visium_hd"
    resolution(unknown, shapes_key="S0_square_016um")
    assert noted(unknown) == pytest.approx({"S0_image": 16 / 50})


def test_order_of_sources_and_their_origin(unknown):
    visium(unknown).attrs["stpredict"] = {"slide": {"S0_image": {"um_per_px": [2.01, 2.02]}}}
    resolution(unknown)
    assert noted(unknown) == pytest.approx({"S0_image": 2.015, "S1_image": 2.0, "S2_image": 2.0})
    assert origin(unknown) == {"S0_image": "image metadata", "S1_image": "spot pitch", "S2_image": "spot pitch"}
    unknown.attrs["stpredict"]["um_per_px"]["S0_image"] = 1.98
    resolution(unknown)
    assert noted(unknown)["S0_image"] == 1.98
    resolution(unknown, um_per_px=2.04, image_key="S0_image")
    assert (noted(unknown)["S0_image"], origin(unknown)["S0_image"]) == (2.04, "argument")


def test_a_slide_without_spots_is_known_by_its_file(unknown):
    for name in ["S0_spots", "S1_spots", "S2_spots"]:
        del unknown.shapes[name]
    del unknown.tables["observed"]
    with pytest.raises(ValueError, match=r"The resolution of image 'S0_image' is not known"):
        resolution(unknown)
    unknown.attrs["stpredict"] = {"slide": {name: {"um_per_px": 0.25} for name in IMAGES}}
    resolution(unknown)
    assert noted(unknown) == dict.fromkeys(IMAGES, 0.25)


def test_pixels_that_are_not_square(unknown):
    unknown.attrs["stpredict"] = {"slide": {"S0_image": {"um_per_px": [0.25, 0.253]}}}
    with pytest.raises(ValueError, match=r"'S0_image' are not square: 0\.25 µm wide and 0\.253 µm high \(-1\.2 %"):
        resolution(unknown, image_key="S0_image")


@pytest.mark.parametrize(("told", "um_per_px", "words"), [
    ({"um_per_px": 2.2}, 2.2, r"is 2\.2 µm per pixel by the argument `um_per_px`, but 2 by its spot pitch \(\+10\.0 %"),
    ({}, 2.0, r"is 2 µm per pixel by its spot pitch, but 2\.3 by what the object records \(-13\.0 %"),
])  # fmt: skip
def test_the_pitch_of_a_known_platform_decides_unless_told(unknown, told, um_per_px, words):
    visium(unknown).attrs["stpredict"] = {"um_per_px": {"S0_image": 2.3}}
    with pytest.warns(UserWarning, match=words):
        (slide,) = resolve(unknown, Selection(shapes_key="S0_spots", **told))
    assert slide.um_per_px == pytest.approx(um_per_px)
    with pytest.warns(UserWarning, match=words):
        resolution(unknown, image_key="S0_image", **told)
    assert noted(unknown) == pytest.approx({"S0_image": um_per_px})


def test_metadata_that_cannot_be_of_the_image_of_the_spots(unknown):
    visium(unknown).attrs["stpredict"] = {"slide": {"S0_image": {"um_per_px": 0.5}}}
    with pytest.raises(ValueError, match=r"is 2 µm per pixel by its spot pitch, but 0\.5 by image metadata .* of 1\.5"):
        resolution(unknown)
    with pytest.warns(UserWarning, match=r"is 0\.5 µm per pixel by the argument"):
        resolution(unknown, um_per_px=0.5, image_key="S0_image")


def test_pitch_and_diameter_that_no_platform_has(unknown):
    visium(unknown, ratio=0.3)
    with pytest.raises(
        ValueError, match=r"is 2 µm per pixel by its spot pitch, but 4\.333 by a spot diameter of 65 µm"
    ):
        resolution(unknown)
    resolution(unknown, um_per_px=7.0)  # a choice of spots, or other spots: they say nothing
    assert noted(unknown) == dict.fromkeys(IMAGES, 7.0)


def test_a_grid_beside_the_spots_of_a_platform_says_nothing(unknown):
    visium(unknown).attrs["stpredict"] = {"um_per_px": dict.fromkeys(IMAGES, 2.0)}
    spot_grid(unknown, image_key="S0_image", diameter_um=13, pitch_um=20)
    (slide,) = resolve(unknown, Selection(shapes_key="grid", image_key="S0_image"), needs_table=False)
    assert (slide.um_per_px, slide.diameter_um) == pytest.approx((2.0, 13))


def test_one_of_several_images_with_the_same_spots(unknown):
    half = {"S0": Scale([2.0, 2.0], ("x", "y"))}
    pixels = np.zeros((3, 240, 240), np.uint8)
    unknown["S0_half"] = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=half)
    resolution(unknown, pitch_um=200, image_key="S0_half")
    resolution(unknown, pitch_um=200, image_key="S0_image")
    assert noted(unknown) == pytest.approx({"S0_half": 8.0, "S0_image": 4.0})


def test_image_of_another_scale(unknown):
    set_transformation(unknown["S0_image"], Scale([2.0, 2.0], ("x", "y")), "S0")
    resolution(unknown, pitch_um=200, image_key="S0_image")
    set_transformation(unknown["S0_image"], sd.transformations.Identity(), "S0")
    assert noted(unknown) == pytest.approx({"S0_image": 8.0})


@pytest.mark.parametrize(("arguments", "words"), [
    ({"pitch_um": 100}, r"'S0_image' is 2 µm per pixel by its spot pitch, but 4 by what the object records"),
    ({"pitch_um": 200, "diameter_um": 55}, r"is 4 µm per pixel by its spot pitch, but 2\.2 by its spot diameter"),
    ({"um_per_px": -1}, "`um_per_px` is -1; it must be a finite length in µm above 0"),
    ({"um_per_px": np.inf}, "`um_per_px` is inf; it must be a finite length"),
    ({"um_per_px": 1.0, "image_key": "S9"}, "No image 'S9'"),
    ({"pitch_um": 200, "image_key": "S9"}, "No image 'S9'"),
    ({"pitch_um": 200, "image_key": "S0_image", "shapes_key": "S1_spots"}, "No spots lie on image 'S0_image'"),
])  # fmt: skip
def test_contradictions(sdata, arguments, words):
    before = dict(noted(sdata))
    with pytest.raises(ValueError, match=words):
        resolution(sdata, **arguments)
    assert noted(sdata) == before


def test_what_is_written_survives_zarr(unknown, tmp_path):
    resolution(unknown, pitch_um=200)
    unknown.write(tmp_path / "a.zarr")
    assert sd.read_zarr(tmp_path / "a.zarr").attrs["stpredict"]["um_per_px"] == pytest.approx(noted(unknown))
