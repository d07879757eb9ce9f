"""The resolution is told, recorded or derived, in this order, and contradictions are errors."""

from __future__ import annotations

import numpy as np
import pytest
import spatialdata as sd
from spatialdata.transformations import Scale, set_transformation

from stpredict.pp import resolution


@pytest.fixture
def unknown(sdata):
    del sdata.attrs["stpredict"]
    return sdata


def noted(sdata):
    return sdata.attrs["stpredict"]["um_per_px"]


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


def test_known_platform(unknown):
    unknown.attrs["spatialdata_io_reader"] = "visium"
    resolution(unknown)
    assert noted(unknown) == pytest.approx(dict.fromkeys(IMAGES, 55 / 25))


def test_image_of_another_scale(unknown):
    set_transformation(unknown["S0_image"], Scale([2.0, 2.0], ("x", "y")), "S0")
    resolution(unknown, pitch_um=200, image_key="S0_image")
    set_transformation(unknown["S0_image"], sd.transformations.Identity(), "S0")
    assert noted(unknown) == pytest.approx({"S0_image": 8.0})


@pytest.mark.parametrize(("arguments", "words"), [
    ({"um_per_px": 4.4, "pitch_um": 200}, r"given as 4\.4 µm per pixel, but its spots say 4 \(\+10\.0 %"),
    ({"pitch_um": 100}, r"'S0_image' is given as 4 µm per pixel, but its spots say 2"),
    ({"um_per_px": -1}, "`um_per_px` is -1; it must be above 0"),
    ({"um_per_px": np.inf}, "is given as inf µm per pixel"),
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
