from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stpredict.pp.raster import fit_raster

ROWS = {"square": (1.0, 0.0), "hexagonal": (np.sqrt(3) / 2, 0.5)}


def places(layout, n=20, pitch=1.0, angle=0.0, origin=(0.0, 0.0)):
    """Centres of an ``n`` x ``n`` lattice, turned about its first place."""
    apart, shift = ROWS[layout]
    row, column = (part.ravel() for part in np.mgrid[:n, :n])
    xy = pitch * np.column_stack([column + shift * (row % 2), row * apart])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return xy @ turn + np.asarray(origin)


def centres(raster):
    """Middle of the pixels of each place, in the coordinates of the places."""
    middle = [raster.column + raster.across / 2, raster.row + raster.down / 2, np.ones(len(raster.row))]
    return np.column_stack(middle) @ raster.matrix.T[:, :2]


def test_square_lattice_is_one_pixel_a_place():
    xy = np.array([[x, y] for y in (20.0, 23.0) for x in (10.0, 13.0, 16.0)])
    raster = fit_raster(xy)
    assert raster.layout == "square"
    np.testing.assert_allclose(raster.matrix, [[3, 0, 8.5], [0, 3, 18.5], [0, 0, 1]], atol=1e-12)
    painted = raster.paint(np.arange(12).reshape(6, 2))
    assert painted.dtype == np.float32
    np.testing.assert_array_equal(painted, [[[0, 2, 4], [6, 8, 10]], [[1, 3, 5], [7, 9, 11]]])


def test_hexagonal_lattice_is_two_pixels_a_place():
    raster = fit_raster(places("hexagonal", n=4, pitch=2.0))
    assert raster.layout == "hexagonal"
    assert (raster.down, raster.across) == (1, 2)
    painted = raster.paint(np.arange(16)[:, None])[0]
    np.testing.assert_array_equal(painted[0], [0, 0, 1, 1, 2, 2, 3, 3, np.nan])
    np.testing.assert_array_equal(painted[1], [np.nan, 4, 4, 5, 5, 6, 6, 7, 7])
    np.testing.assert_allclose(np.diag(raster.matrix), [1, np.sqrt(3), 1])


def test_columns_of_a_hexagonal_lattice_may_be_staggered():
    raster = fit_raster(places("hexagonal", n=6)[:, ::-1])
    assert (raster.down, raster.across) == (2, 1)
    np.testing.assert_allclose(centres(raster), places("hexagonal", n=6)[:, ::-1], atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(
    layout=st.sampled_from(["square", "hexagonal"]),
    angle=st.floats(-4, 4),
    pitch=st.floats(0.01, 1000),
    share=st.floats(0.3, 1),
    origin=st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)),
    seed=st.integers(0, 99),
)
def test_pixels_lie_on_their_places(layout, angle, pitch, share, origin, seed):
    """Turned, with gaps and in any order."""
    xy = places(layout, 20, pitch, angle, origin)
    xy = xy[np.random.default_rng(seed).permutation(len(xy))[: int(share * len(xy))]]
    raster = fit_raster(xy)
    assert raster.layout == layout
    np.testing.assert_allclose(centres(raster), xy, atol=1e-6 * pitch + 1e-9)
    assert np.linalg.det(raster.matrix) > 0  # not mirrored
    painted = raster.paint(np.arange(len(xy))[:, None])
    assert np.isfinite(painted).sum() == len(xy) * raster.down * raster.across


@pytest.mark.parametrize("layout", ["square", "hexagonal"])
def test_pixels_are_nearest_to_their_place(layout):
    xy = places(layout, 12, 3.0, 0.1)
    raster = fit_raster(xy)
    painted = raster.paint(np.arange(len(xy))[:, None])[0]
    row, column = np.nonzero(np.isfinite(painted))
    pixels = np.column_stack([column + 0.5, row + 0.5, np.ones(len(row))]) @ raster.matrix.T[:, :2]
    distance = np.linalg.norm(pixels[:, None] - xy, axis=2)
    np.testing.assert_array_equal(distance.argmin(axis=1), painted[row, column])


def test_pieces_far_apart_are_on_one_lattice():
    xy = places("square", 300, 4.0, 0.003)
    xy = xy[np.r_[0:40, 300:340, 600:640, len(xy) - 40 : len(xy)]]
    np.testing.assert_allclose(centres(fit_raster(xy)), xy, atol=1e-9)


def test_rounded_centres_are_on_a_lattice():
    xy = places("hexagonal", 60, 20.0, 0.01)
    np.testing.assert_allclose(centres(fit_raster(np.rint(xy))), xy, atol=0.2)


def test_places_in_one_row():
    raster = fit_raster(places("square")[:20])
    assert (raster.height, raster.width) == (1, 20)


@pytest.mark.parametrize("xy", [
    pytest.param(np.random.default_rng(0).random((500, 2)), id="scattered"),
    pytest.param(places("square") + np.random.default_rng(0).normal(0, 0.1, (400, 2)), id="too rough"),
    pytest.param(np.zeros((9, 2)), id="one place"),
    pytest.param(places("square")[:3], id="three"),
    pytest.param(np.concatenate([places("square"), places("square")[:1]]), id="twice"),
    pytest.param(places("square") * (1, 1.15), id="oblong"),
])  # fmt: skip
def test_no_lattice(xy):
    assert fit_raster(xy) is None or np.allclose(centres(fit_raster(xy)), xy)


@pytest.mark.parametrize("turned", [False, True])
def test_bands_together_are_the_picture(turned):
    xy = places("hexagonal", 9)[:, :: -1 if turned else 1]
    raster = fit_raster(xy)
    values = np.random.default_rng(0).random((len(xy), 2))
    bands = [raster.band(top, min(top + 4, raster.height)) for top in range(0, raster.height, 4)]
    painted = np.concatenate([part.paint(values[at]) for at, part in bands], axis=1)
    np.testing.assert_array_equal(painted, raster.paint(values))
