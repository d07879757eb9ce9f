"""Resolution from spots on a lattice, with known answers."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict._geometry import fit_lattice, is_staggered, neighbour_pitch
from stpredict.io._lattice import resolution_from_lattice

ARRAY = np.stack(np.meshgrid(np.arange(3.0, 17), np.arange(5.0, 18)), -1).reshape(-1, 2)


def rotation(degrees):
    a = np.deg2rad(degrees)
    return np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])


@pytest.mark.parametrize("degrees", [0, 7, 90, 181])
def test_pitch_of_a_rotated_lattice(degrees):
    found = fit_lattice(ARRAY, 290 * ARRAY @ rotation(degrees) + (40, -900))
    np.testing.assert_allclose(found.pitch_px, 290)
    assert found.error < 1e-9


def test_scatter_and_strays_hardly_matter():
    rng = np.random.default_rng(0)
    xy = 290 * ARRAY + rng.normal(0, 17, ARRAY.shape)
    xy[::20] += 3000  # spots attributed to a wrong position
    found = fit_lattice(ARRAY, xy)
    np.testing.assert_allclose(found.pitch_px, 290, rtol=0.004)
    assert 5e-4 < found.error < 3e-3
    assert resolution_from_lattice(ARRAY, xy, 200, given=None, name="a") == pytest.approx(200 / 290, rel=0.004)


def test_pixels_that_are_not_square_are_refused():
    with pytest.raises(ValueError, match=r"'a' is 290\.00 px along x and 295\.80 px along y \(2\.0 % apart"):
        resolution_from_lattice(ARRAY, ARRAY * (290, 295.8), 200, given=None, name="a")
    assert resolution_from_lattice(ARRAY, ARRAY * (290, 292), 200, given=None, name="a") == pytest.approx(200 / 291)


def test_a_given_resolution_wins_over_the_spots():
    assert resolution_from_lattice(ARRAY, ARRAY * 290, 200, given=0.7, name="a") == 0.7
    words = r"'a' is 0\.75 µm per pixel by .*, but 0\.6897 by its spot pitch \(\+8\.[78] %"
    with pytest.warns(UserWarning, match=words):
        assert resolution_from_lattice(ARRAY, ARRAY * 290, 200, given=0.75, name="a") == 0.75


@pytest.mark.parametrize("spots", [ARRAY[:1], ARRAY[:2], ARRAY[:14]])
def test_spots_in_a_line_say_nothing(spots):
    assert fit_lattice(spots, 290 * spots) is None
    assert resolution_from_lattice(spots, 290 * spots, 200, given=0.7, name="a") == 0.7
    with pytest.raises(ValueError, match=rf"'a' cannot be derived from the pitch of its {len(spots)} spots"):
        resolution_from_lattice(spots, 290 * spots, 200, given=None, name="a")


@pytest.mark.parametrize("kind", ["square", "hexagonal"])
def test_neighbour_pitch_is_unbiased_by_scatter(kind):
    rng = np.random.default_rng(0)
    skew = np.array([[1, 0], [0.5, np.sqrt(3) / 2]]) if kind == "hexagonal" else np.eye(2)
    xy = 100 * ARRAY @ skew
    assert neighbour_pitch(xy) == pytest.approx(100)
    assert neighbour_pitch(xy + rng.normal(0, 5, xy.shape)) == pytest.approx(100, rel=0.02)


def test_neighbour_pitch_of_one_spot():
    assert np.isnan(neighbour_pitch(ARRAY[:1]))


STAGGERED = ARRAY[ARRAY.sum(axis=1) % 2 == 0]
SHIFTED = STAGGERED + np.array([1, 0])


@pytest.mark.parametrize("degrees", [0, 7, 90])
def test_neighbours_on_a_staggered_array_are_diagonal(degrees):
    xy = STAGGERED * (24, 32) @ rotation(degrees)
    assert fit_lattice(STAGGERED, xy).diagonal_px == pytest.approx(40)
    assert resolution_from_lattice(STAGGERED, xy, 150, given=None, name="a") == pytest.approx(150 / 40)
    assert resolution_from_lattice(SHIFTED, xy, 150, given=None, name="a") == pytest.approx(150 / 40)


def test_staggered_arrays_are_told_by_parity():
    assert is_staggered(STAGGERED)
    assert is_staggered(SHIFTED)
    assert not is_staggered(ARRAY)
    assert not is_staggered(STAGGERED[:9])  # could be chance
    assert not is_staggered(np.empty((0, 2)))
