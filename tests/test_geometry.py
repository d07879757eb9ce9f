"""Fields of view, affine maps and distances, by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from stpredict._geometry import PatchSpec, apply_affine, axis_scales, spot_pitch


def test_fields_of_view_are_floats_whatever_they_were_given_as():
    spec = PatchSpec(fov_um=[150, np.float32(300)])  # type: ignore[arg-type]
    assert spec.fov_um == (150.0, 300.0)
    assert {type(fov) for fov in spec.fov_um} == {float}


def test_published_pixels_become_um():
    assert PatchSpec.from_pixels((224, 448, 896), 0.686).fov_um == pytest.approx((153.664, 307.328, 614.656))
    assert PatchSpec.from_pixels((10, 20), 2.0, size_px=32) == PatchSpec(fov_um=(20.0, 40.0), size_px=32)


@pytest.mark.parametrize("spec", [PatchSpec(fov_um=(1 / 3, 7.7)), PatchSpec(fov_um=(5,), size_px=8, fill="reflect")])
def test_a_spec_survives_json(spec):
    assert PatchSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(("fields", "words"), [
    ({"fov_um": ()}, r"`fov_um` is \(\); give at least one side in µm, all positive, narrowest first, each once"),
    ({"fov_um": (0.0, 10.0)}, "all positive"),
    ({"fov_um": (300.0, 150.0)}, "narrowest first"),
    ({"fov_um": (150.0, 150.0)}, "each once"),
    ({"fov_um": (100.0,), "size_px": 7}, "`size_px` is 7; a patch needs at least 8 px"),
    ({"fov_um": (100.0,), "fill": "black"}, "`fill` is 'black'; allowed: 'white', 'reflect'"),
])  # fmt: skip
def test_specs_that_are_none(fields, words):
    with pytest.raises(ValueError, match=words):
        PatchSpec(**fields)


def test_affine_maps_columns():
    rotated_scaled_shifted = np.array([[0.0, -2.0, 5.0], [2.0, 0.0, 7.0], [0.0, 0.0, 1.0]])
    assert apply_affine(rotated_scaled_shifted, np.array([[1.0, 0.0], [0.0, 3.0]])).tolist() == [[5, 9], [-1, 7]]


def test_axis_scales_ignore_rotation_and_reflection():
    angle = 0.3
    turn = np.array([[math.cos(angle), -math.sin(angle), 9], [math.sin(angle), math.cos(angle), 9], [0, 0, 1]])
    assert axis_scales(turn @ np.diag([3.0, -0.5, 1.0])) == pytest.approx((3.0, 0.5))


def test_pitch_is_the_usual_distance_between_neighbours():
    grid = np.stack(np.meshgrid(np.arange(4) * 7.0, np.arange(3) * 9.0), axis=-1).reshape(-1, 2)
    assert spot_pitch(grid) == pytest.approx(7.0)
    assert spot_pitch(np.concatenate([grid, [[999.0, 999.0]]])) == pytest.approx(7.0)
    assert math.isnan(spot_pitch(grid[:1]))
