from __future__ import annotations

import dask.array as da
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgba

from stpredict._slides.slides import Level, Selection, resolve
from stpredict.pl._slide_axes import (
    Window,
    _dim,
    _subsample_levels,
    draw_raster,
    draw_spots,
    draw_tissue,
    length_label,
    round_length,
    scale_bar,
    slide_panels,
)
from stpredict.pp.raster import fit_raster


@pytest.fixture
def slide(sdata):
    return resolve(sdata, Selection(shapes_key="S0_spots"))[0]


@pytest.mark.parametrize(
    ("most", "expected"), [(1, 1), (1.99, 1), (2, 2), (499, 200), (1000, 1000), (0.07, 0.05), (7300, 5000)]
)
def test_round_length(most, expected):
    assert round_length(most) == pytest.approx(expected)


def test_length_label():
    assert [length_label(x) for x in (0.5, 150, 1000, 2500)] == ["0.5 µm", "150 µm", "1 mm", "2.5 mm"]


def test_window_holds_every_spot_with_a_margin(slide):
    (ax,) = slide_panels(None, slide, [0.0], bars_in=0.0)
    left, right, bottom, top = *ax.get_xlim(), *ax.get_ylim()
    assert left == pytest.approx(slide.xy_um[:, 0].min() - 150)
    assert bottom == pytest.approx(slide.xy_um[:, 1].max() + 150)
    assert bottom - top == pytest.approx(right - left)


def test_window_of_one_spot_has_a_size():
    window = Window.around(np.array([[100.0, 50.0]]), 30)
    assert (window.x, window.y, window.width, window.height) == (70, 20, 60, 60)


def test_tissue_is_in_um_and_y_points_down(slide):
    _, ax = plt.subplots()
    window = Window(x=400, y=600, width=800, height=400)
    draw_tissue([ax], slide, window)
    assert ax.get_xlim() == (400, 1200)
    assert ax.get_ylim() == (1000, 600)
    assert ax.get_aspect() == 1
    assert not len(ax.get_xticks())
    assert not len(ax.get_yticks())
    x0, x1, y1, y0 = ax.images[0].get_extent()
    assert (x0, x1, y0, y1) == pytest.approx((400, 1200, 400, 1200))


def test_tissue_shows_the_pixels_of_its_window(slide):
    _, ax = plt.subplots()
    shown = 200 * slide.um_per_px
    draw_tissue([ax], slide, Window(x=100 * slide.um_per_px, y=40 * slide.um_per_px, width=shown, height=shown))
    expected = np.asarray(slide.levels[0].pixels)[:, 40:240, 100:300]
    np.testing.assert_array_equal(np.asarray(ax.images[0].get_array()), np.moveaxis(expected, 0, -1))


def test_beyond_the_image_is_white(slide):
    _, ax = plt.subplots()
    draw_tissue([ax], slide, Window(x=-5000, y=-5000, width=1000, height=1000))
    assert (np.asarray(ax.images[0].get_array()) == 255).all()


def test_dimming():
    pixels = np.array([[[200, 40, 120]]], np.uint8)
    assert (_dim(pixels, 1.0) == pixels).all()
    assert (_dim(pixels, 0.0) == 255).all()
    half = _dim(pixels, 0.5).astype(int)
    assert (half > pixels).all()
    assert np.ptp(half) < np.ptp(pixels.astype(int)) / 2  # paler and greyer


def test_one_coarse_level_is_thinned_lazily():
    pixels = da.zeros((3, 40_000, 40_000), chunks=(3, 1000, 1000), dtype=np.uint8)
    level = Level(pixels=pixels, factor=(1.0, 1.0))
    first, thin = _subsample_levels([level], ratio=50.0)
    assert first is level
    assert thin.factor == (25.0, 25.0)
    assert thin.pixels.shape == (3, 1600, 1600)
    assert _subsample_levels([level], ratio=3.0) == [level]


def test_spots_have_true_size():
    fig, ax = plt.subplots()
    draw_spots(ax, np.array([[500.0, 500.0]]), 300.0, "black")
    ax.set(xlim=(0, 1000), ylim=(1000, 0), aspect="equal")
    ax.set_axis_off()
    fig.canvas.draw()
    black = np.asarray(fig.canvas.buffer_rgba())[..., 0] < 128
    expected = 0.3 * ax.get_window_extent().width
    assert black.any(axis=0).sum() == pytest.approx(expected, abs=1.5)
    assert black.any(axis=1).sum() == pytest.approx(expected, abs=1.5)


def test_values_become_colours():
    fig, ax = plt.subplots()
    spots = draw_spots(ax, np.zeros((3, 2)), 1.0, np.array([2.0, 4.0, np.nan]), cmap="cividis", limits=(2, 4))
    fig.canvas.draw()
    low, high = plt.get_cmap("cividis")([0.0, 1.0])
    np.testing.assert_allclose(spots.get_facecolors(), [low, high, to_rgba("0.75")])


def test_many_spots_are_pixels_in_vector_files():
    _, ax = plt.subplots()
    assert not draw_spots(ax, np.zeros((10, 2)), 1.0, "red").get_rasterized()
    assert draw_spots(ax, np.zeros((10_001, 2)), 1.0, "red").get_rasterized()


def drawn(draw):
    """Pixels of axes from 0 to 400 µm, one a µm."""
    fig = plt.figure(figsize=(4, 4), dpi=100)
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, 400), ylim=(400, 0))
    ax.set_axis_off()
    draw(ax)
    fig.canvas.draw()
    return np.asarray(fig.canvas.buffer_rgba())[..., :3].astype(int)


@pytest.mark.parametrize("angle", [0.0, 0.3])
@pytest.mark.parametrize(("apart", "shift"), [(1.0, 0.0), (np.sqrt(3) / 2, 0.5)], ids=["square", "hexagonal"])
def test_raster_and_circles_agree(angle, apart, shift):
    """To a pixel: every circle lies in the pixels of its place, in the same colour, and gaps stay gaps."""
    row, column = (part.ravel() for part in np.mgrid[:16, :16])
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    xy = 16 * np.column_stack([column + shift * (row % 2), row * apart]) @ turn + [110 * (angle > 0) + 20, 20]
    rng = np.random.default_rng(0)
    xy = xy[rng.random(len(xy)) < 0.7]
    values = rng.random(len(xy))
    values[3] = np.nan
    circles = drawn(lambda ax: draw_spots(ax, xy, 13.0, values))
    raster = drawn(lambda ax: draw_raster(ax, fit_raster(xy), values))
    for x, y in xy.astype(int):
        near = np.s_[y - 3 : y + 4, x - 3 : x + 4]
        assert abs(circles[near] - raster[near]).max() <= 2
    inked, painted = (circles < 255).any(axis=2), (raster < 255).any(axis=2)
    assert (inked & ~painted).sum() <= 0.02 * inked.sum()  # smoothed rims
    assert painted.sum() == pytest.approx(len(xy) * 16 * 16 * apart, rel=0.03)


def test_shrunken_raster_has_no_rim():
    """Edges fade into what lies beneath, not into the colour of missing values."""
    xy = np.argwhere(np.ones((300, 300))).astype(float)[:, ::-1] + 50.5
    xy = xy[np.hypot(*(xy - 200).T) < 120]
    picture = drawn(lambda ax: (draw_raster(ax, fit_raster(xy), np.ones(len(xy)), cmap="Reds"), ax.set_xlim(0, 900)))
    red, green, _ = np.moveaxis(picture, -1, 0)
    assert (np.abs(red - green)[green < 200] > 15).all()


def test_white_is_not_read():
    _, ax = plt.subplots()
    draw_tissue([ax], None, Window(x=0, y=0, width=10, height=10), image_alpha=0)
    assert (np.asarray(ax.images[0].get_array()) == 255).all()


def test_scale_bar_is_as_long_as_it_says():
    _, ax = plt.subplots()
    window = Window(x=0, y=0, width=2400, height=1000)
    scale_bar(ax, window)
    (bar,) = [line for line in ax.lines if line.get_gid() == "scale bar"]
    assert np.ptp(bar.get_xdata()) * window.width == pytest.approx(500)
    assert [text.get_text() for text in ax.texts] == ["500 µm"]
