"""Patches against a slow reader that is plainly right, and what must hold of any reader."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import zarr
from dask import array as da
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spatialdata.models import Image2DModel

from stpredict import _chunks
from stpredict._geometry import PatchSpec
from stpredict._pixels import PatchReader, best_level
from stpredict._slides.slides import Level, pyramid


def noise(height=60, width=83, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)


def coarser(pixels, factor, *, drop="last"):
    """Mean of blocks, float32; edge rows that fill no block are dropped."""
    c, h, w = (side // step for side, step in zip(pixels.shape, (1, factor, factor), strict=True))
    y, x = (0, 0) if drop == "last" else (pixels.shape[1] - h * factor, pixels.shape[2] - w * factor)
    blocks = pixels[:, y : y + h * factor, x : x + w * factor].reshape(c, h, factor, w, factor)
    return blocks.astype(np.float32).mean(axis=(2, 4))


def levels_of(pixels, factors=(1,)):
    return [Level(pixels=pixels if f == 1 else np.rint(coarser(pixels, f)), factor=(f, f)) for f in factors]


def sample(pixels, i, j, fill):
    """One pixel of an image without end."""
    height, width = pixels.shape[1:]
    if fill == "reflect":
        i, j = (min(k % (2 * n), 2 * n - 1 - k % (2 * n)) for k, n in ((i, height), (j, width)))
    inside = 0 <= i < height and 0 <= j < width
    return pixels[:, i, j].astype(int) if inside else np.full(3, 255)


def cells(start, step):
    """In which pixels the centres of the 2048 cells of a patch pixel lie, and how many in each."""
    return zip(
        *np.unique(np.floor(start + step * (np.arange(2048) + 0.5) / 2048).astype(int), return_counts=True), strict=True
    )


def area_average(pixels, factor, xy, side, size, fill="white"):
    """The patch, pixel by pixel, in whole numbers: the mean of 2048 x 2048 cells, each as the pixel it lies in."""
    step = np.round(side / size / factor, 9)
    left, top = np.round(np.asarray(xy) / factor - step * size / 2, 6)
    if step == 1:  # nothing is blurred
        left, top = np.floor(left + 0.5), np.floor(top + 0.5)
    patch = np.empty((3, size, size), np.uint8)
    for r in range(size):
        for c in range(size):
            total = sum(
                int(n) * int(m) * sample(pixels, i, j, fill)
                for i, n in cells(top + r * step, step)
                for j, m in cells(left + c * step, step)
            )
            patch[:, r, c] = (2 * total + 2048**2) // (2 * 2048**2)  # halves up
    return patch


def exact_average(pixels, factor, xy, side, size):
    """The same with true areas instead of cells, unrounded, for windows within the image."""
    step = side / size / factor
    left, top = (np.asarray(xy) - side / 2) / factor
    weights = []
    for start, n in ((top, pixels.shape[1]), (left, pixels.shape[2])):
        edges = start + step * np.arange(size + 1)
        overlap = np.minimum(edges[1:, None], np.arange(n) + 1) - np.maximum(edges[:-1, None], np.arange(n))
        weights.append(overlap.clip(0) / step)
    return np.einsum("cyx,ry,sx->crs", pixels, *weights)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    x=st.floats(-10, 95),
    y=st.floats(-10, 70),
    side=st.one_of(st.floats(4, 70), st.sampled_from([8.0, 16.0, 22.0, 40.0])),
    size=st.integers(8, 11),
    fill=st.sampled_from(["white", "reflect"]),
    factors=st.sampled_from([(1,), (1, 2, 4), (1, 3)]),
)
def test_the_bytes_of_a_slow_reader(x, y, side, size, fill, factors):
    pixels = noise()
    levels = levels_of(pixels, factors)
    found, _ = PatchReader(levels, 1.0, PatchSpec(fov_um=(side,), size_px=size, fill=fill)).read(np.array([[x, y]]))
    level = max((v for v in levels if v.factor[0] <= max(side / size, 1)), key=lambda v: v.factor)  # nearest finer
    wanted = area_average(np.asarray(level.pixels), level.factor[0], (x, y), side, size, fill)
    np.testing.assert_array_equal(found[0, 0], wanted)


@pytest.mark.parametrize("side", [9.5, 13.7, 24.5, 40.0])
def test_cells_are_as_good_as_areas(side):
    xy = np.random.default_rng(0).uniform(25, 35, (20, 2))
    found, _ = PatchReader(levels_of(noise()), 1.0, PatchSpec(fov_um=(side,), size_px=9)).read(xy)
    wanted = [exact_average(noise(), 1, at, side, 9) for at in xy]
    assert np.abs(found[:, 0] - np.stack(wanted)).max() < 0.5 + 0.15  # a cell is 1/2048 of the side


@pytest.mark.parametrize("fill", ["white", "reflect"])
def test_overlapping_windows_that_are_copied_from_many_blocks(monkeypatch, fill):
    """A dense grid beyond all edges; each window lies in up to nine blocks. 16 bits."""
    monkeypatch.setattr(_chunks, "MIN_BLOCK_PX", 1)
    plain, stored = levels_of(noise(), (1, 2)), []
    for level in plain:
        pixels = np.asarray(level.pixels).astype(np.uint16) * 257
        stored.append(replace(level, pixels=da.from_array(pixels, chunks=(3, 16, 16))))
    x, y = np.meshgrid(np.arange(-9, 95, 6.5), np.arange(-9, 71, 6.25))
    xy = np.stack([x.ravel(), y.ravel()], axis=1)
    found, _ = PatchReader(stored, 1.0, PatchSpec(fov_um=(17.0, 34.0), size_px=17, fill=fill)).read(xy)
    for s, level in enumerate(plain):
        options = {"mode": "symmetric"} if fill == "reflect" else {"mode": "constant", "constant_values": 255}
        endless = np.pad(level.pixels, ((0, 0), (40, 40), (40, 40)), **options)
        for patch, corner in zip(found[:, s], np.floor(xy / level.factor - 17 / 2 + 0.5).astype(int) + 40, strict=True):
            np.testing.assert_array_equal(patch, endless[:, corner[1] : corner[1] + 17, corner[0] : corner[0] + 17])


def test_copied_windows_that_hold_a_missing_pixel_are_flagged(monkeypatch):
    monkeypatch.setattr(_chunks, "MIN_BLOCK_PX", 1)
    pixels = noise() / 255
    pixels[1, 31, 40] = np.nan
    x, y = np.meshgrid(np.arange(8, 76, 4), np.arange(8, 53, 4))
    xy = np.stack([x.ravel(), y.ravel()], axis=1).astype(float)
    stored = [Level(pixels=da.from_array(pixels, chunks=(3, 16, 16)), factor=(1, 1))]
    _, flagged = PatchReader(stored, 1.0, PatchSpec(fov_um=(16.0,), size_px=16)).read(xy)
    low = xy - 8
    np.testing.assert_array_equal(flagged, ((low <= (40, 31)) & (low + 16 > (40, 31))).all(axis=1))


def test_a_window_on_whole_pixels_is_the_image():
    pixels = noise()
    found, flagged = PatchReader(levels_of(pixels), 0.5, PatchSpec(fov_um=(4.0,), size_px=8)).read(np.array([[14, 20]]))
    np.testing.assert_array_equal(found[0, 0], pixels[:, 16:24, 10:18])
    assert not flagged


@pytest.mark.parametrize("shift", [(3, 5), (16, 0)])
def test_image_and_spots_shifted_together(shift):
    pixels, (dx, dy) = noise(60, 80), shift
    moved = np.zeros((3, 60 + dy, 80 + dx), np.uint8)
    moved[:, dy:, dx:] = pixels
    spec = PatchSpec(fov_um=(9.5, 20.0), size_px=8)
    xy = np.array([[30.3, 25.1], [41.0, 33.0], [55.5, 40.25]])
    here, there = (
        PatchReader(levels_of(image), 1.0, spec).read(at)[0] for image, at in ((pixels, xy), (moved, xy + shift))
    )
    np.testing.assert_array_equal(here, there)


def test_resolution_scales_the_window():
    spec = PatchSpec(fov_um=(12.0,), size_px=8)
    coarse, _ = PatchReader(levels_of(noise()), 1.0, spec).read(np.array([[30.0, 30.0]]))
    fine = np.repeat(np.repeat(noise(), 2, axis=1), 2, axis=2)  # the same tissue at twice the resolution
    found, _ = PatchReader(levels_of(fine), 0.5, spec).read(np.array([[60.0, 60.0]]))
    np.testing.assert_allclose(found.astype(int), coarse, atol=1)


@pytest.mark.parametrize("factors", [(1,), (1, 2, 4, 8)])
def test_all_scales_share_a_centre(factors):
    y, x = np.mgrid[:128, :128].astype(np.float32)
    ramp = np.stack([x, y, np.zeros_like(x)]) + 0.5  # a pixel's value is the position of its centre
    xy = np.array([[63.2, 58.9], [70.0, 64.0]])
    found, _ = PatchReader(levels_of(ramp, factors), 1.0, PatchSpec(fov_um=(8, 24, 64), size_px=8)).read(xy)
    centres = found[:, :, :2].astype(float).mean(axis=(-1, -2))  # (n, s, 2)
    off = np.abs(centres - xy[:, None]).max(axis=(0, 2))
    assert (off <= 0.5 + np.array([8, 24, 64]) / 8 / 2).all()  # a grey value, and half a pixel of the patch


@pytest.mark.parametrize(("side", "factor"), [(8, 1), (15.9, 1), (16, 2), (31, 2), (32, 4), (500, 4)])
def test_a_level_is_never_coarser_than_the_patch(side, factor):
    levels = levels_of(noise(256, 256), (1, 2, 4))
    assert levels[best_level(levels, side / 8)].factor == (factor, factor)


def test_a_level_that_shrinks_unevenly_counts_by_its_coarser_axis():
    levels = [Level(pixels=noise(64, 64), factor=(1, 1)), Level(pixels=noise(64, 16), factor=(1, 4))]
    assert [best_level(levels, ratio) for ratio in (3, 4)] == [0, 1]


def test_border_is_flagged_from_the_widest_scale():
    reader = PatchReader(levels_of(noise(60, 60)), 1.0, PatchSpec(fov_um=(8, 20), size_px=8))
    patches, flagged = reader.read(np.array([[10, 10], [9.9, 30], [50, 50], [30, 50.1], [-40, 30]]))
    assert flagged.tolist() == [False, True, False, True, True]
    assert (patches[4] == 255).all()


def test_beyond_the_image_is_white_or_mirrored():
    pixels = noise(40, 40)
    at_corner = np.array([[0.0, 0.0]])
    white, _ = PatchReader(levels_of(pixels), 1.0, PatchSpec(fov_um=(8,), size_px=8)).read(at_corner)
    assert (white[0, 0, :, :4] == 255).all()
    assert (white[0, 0, :, :, :4] == 255).all()
    np.testing.assert_array_equal(white[0, 0, :, 4:, 4:], pixels[:, :4, :4])
    mirrored, _ = PatchReader(levels_of(pixels), 1.0, PatchSpec(fov_um=(8,), size_px=8, fill="reflect")).read(at_corner)
    corner = pixels[:, :4, :4]
    np.testing.assert_array_equal(
        mirrored[0, 0], np.block([[corner[:, ::-1, ::-1], corner[:, ::-1]], [corner[:, :, ::-1], corner]])
    )


def test_order_of_spots_does_not_matter():
    xy = np.random.default_rng(2).uniform(0, 80, (30, 2))
    order = np.random.default_rng(3).permutation(30)
    reader = PatchReader(levels_of(noise()), 1.0, PatchSpec(fov_um=(9, 20), size_px=8))
    (a, flags), (b, shuffled) = reader.read(xy), reader.read(xy[order])
    np.testing.assert_array_equal(a[order], b)
    np.testing.assert_array_equal(flags[order], shuffled)


@pytest.mark.parametrize("backing", ["zarr", "dask"])
def test_lazy_pixels_equal_pixels_in_memory(tmp_path, backing):
    pixels = noise()
    if backing == "zarr":
        lazy = zarr.create_array(str(tmp_path / "a.zarr"), shape=pixels.shape, chunks=(3, 16, 16), dtype=pixels.dtype)
        lazy[:] = pixels
    else:
        lazy = da.from_array(pixels, chunks=(3, 16, 16))
    xy, spec = np.random.default_rng(1).uniform(0, 80, (10, 2)), PatchSpec(fov_um=(9, 20), size_px=8)
    found, wanted = (PatchReader(levels_of(p), 1.0, spec).read(xy)[0] for p in (lazy, pixels))
    np.testing.assert_array_equal(found, wanted)


def first_patch(pixels):
    reader = PatchReader(levels_of(pixels), 1.0, PatchSpec(fov_um=(8,), size_px=8), image_key="slide")
    return reader.read(np.array([[20.0, 20.0]]))


@pytest.mark.parametrize(("convert", "tolerance"), [
    pytest.param(lambda p: p.astype(np.uint16) * 257, 0, id="16 bits"),
    pytest.param(lambda p: p.astype(np.uint16) * 16 + 15, 1, id="12 bits"),
    pytest.param(lambda p: p.astype(np.int64), 0, id="8 bits in int64"),
    pytest.param(lambda p: p.astype(np.float32) / 255, 0, id="float to 1"),
    pytest.param(lambda p: p.astype(np.float64), 0, id="float to 255"),
])  # fmt: skip
def test_other_number_types_are_converted(convert, tolerance):
    pixels = noise(40, 40)
    pixels[:, 0, 0] = 255
    found, _ = first_patch(convert(pixels))
    assert np.abs(found.astype(int) - first_patch(pixels)[0]).max() <= tolerance


@pytest.mark.parametrize(("pixels", "words"), [
    (np.zeros((1, 40, 40), np.uint8), r"Image 'slide' is not H&E in colour \(grey: one channel"),
    (np.zeros((30, 40, 40), np.uint8), r"\(30 channels, shape \(30, 40, 40\)\).*select its channels"),
    (np.full((3, 40, 40), 300.0), r"Pixels of image 'slide' are float64 in \[300, 300\].*Rescale"),
    (np.full((3, 40, 40), -1, np.int16), r"int16 in \[-1, -1\]"),
    (np.full((3, 40, 40), np.inf), r"\[inf, inf\]"),
], ids=["grey", "many channels", "above 255", "negative", "infinite"]
)  # fmt: skip
def test_images_that_are_refused(pixels, words):
    with pytest.raises(ValueError, match=words):
        first_patch(pixels)


def test_transparent_pixels_are_white():
    rgba = np.concatenate([noise(40, 40), np.zeros((1, 40, 40), np.uint8)])
    rgba[3, :, 20:] = 255
    rgba[3, :, 18:20] = 51  # a fifth
    found, flagged = first_patch(rgba)
    assert not flagged
    assert (found[0, 0, :, :, :2] == 255).all()
    np.testing.assert_array_equal(found[0, 0, :, :, 4:], rgba[:3, 16:24, 20:24])
    fifth = np.rint(rgba[:3, 16:24, 18:20] * 0.2 + 255 * 0.8)
    np.testing.assert_array_equal(found[0, 0, :, :, 2:4], fifth)


def test_missing_pixels_are_white_and_flagged():
    pixels = noise(60, 60) / 255
    pixels[1, 20, 20] = np.nan
    reader = PatchReader(levels_of(pixels), 1.0, PatchSpec(fov_um=(8,), size_px=8))
    found, flagged = reader.read(np.array([[20.0, 20.0], [40.0, 40.0]]))
    assert flagged.tolist() == [True, False]
    assert (found[0, 0, :, 4, 4] == 255).all()
    np.testing.assert_array_equal(found[1, 0], noise(60, 60)[:, 36:44, 36:44])


def test_image_of_nothing_but_missing_pixels_is_white():
    found, flagged = first_patch(np.full((3, 40, 40), np.nan))
    assert flagged
    assert (found == 255).all()


TURNS = {
    "identity": np.eye(2),
    "mirror x": np.diag([-1.0, 1.0]),
    "mirror y": np.diag([1.0, -1.0]),
    "half turn": -np.eye(2),
    "transposed": np.array([[0.0, 1.0], [1.0, 0.0]]),
    "quarter turn": np.array([[0.0, -1.0], [1.0, 0.0]]),
    "quarter turn back": np.array([[0.0, 1.0], [-1.0, 0.0]]),
    "transposed across": np.array([[0.0, -1.0], [-1.0, 0.0]]),
}


def stored_as(pixels, xy, axes):
    """The same tissue stored flipped or turned: its pixels, and the spots in them."""
    height, width = pixels.shape[1:]
    swapped = axes[0, 0] == 0
    moved = pixels.swapaxes(1, 2) if swapped else pixels
    x, y = xy.T[::-1] if swapped else xy.T
    size_x, size_y = (height, width) if swapped else (width, height)
    if axes[0].sum() < 0:
        moved, x = moved[:, :, ::-1], size_x - x
    if axes[1].sum() < 0:
        moved, y = moved[:, ::-1], size_y - y
    return np.ascontiguousarray(moved), np.stack([x, y], axis=1)


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("side", [8.0, 13.7])
def test_however_the_image_is_stored_the_bytes_are_the_same(turn, side):
    axes, spec = TURNS[turn], PatchSpec(fov_um=(side,), size_px=8)
    pixels, xy = noise(), np.random.default_rng(0).uniform(-5, 85, (30, 2)).round(3)  # 4 decimals: no ties of rounding
    wanted, flags = PatchReader(levels_of(pixels), 1.0, spec).read(xy)
    moved, moved_xy = stored_as(pixels, xy, axes)
    found, moved_flags = PatchReader(levels_of(moved), 1.0, spec, axes=axes).read(moved_xy)
    np.testing.assert_array_equal(found, wanted)
    np.testing.assert_array_equal(moved_flags, flags)


def turned(pixels, xy, side, size, axes, fill):
    """Mean of bilinear samples on a grid in each patch pixel, one after the other."""
    step = np.round(axes[::-1, ::-1] * side / size, 9)
    n = max(2, int(np.ceil(np.abs(step).sum(axis=1).max())))
    patch = np.empty((3, size, size))
    for r, c in np.ndindex(size, size):
        total = np.zeros(3)
        for a, b in np.ndindex(n, n):
            y, x = xy[::-1] + step @ [r + (a + 0.5) / n - size / 2, c + (b + 0.5) / n - size / 2] - 0.5
            i, j = int(np.floor(y)), int(np.floor(x))
            corners = [[sample(pixels, i + k, j + m, fill) for m in (0, 1)] for k in (0, 1)]
            total += np.einsum("kmc,k,m->c", corners, [1 - (y - i), y - i], [1 - (x - j), x - j])
        patch[:, r, c] = total / n**2
    return np.floor(patch + 0.5)


@pytest.mark.parametrize("fill", ["white", "reflect"])
@pytest.mark.parametrize("axes", [
    pytest.param(np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]), id=f"{np.rad2deg(a):.0f} degrees")
    for a in (0.1, 2.0)
] + [pytest.param(np.array([[1.0, 0.3], [0.0, 1.0]]), id="shear")])  # fmt: skip
def test_other_turns_are_means_of_bilinear_samples(axes, fill):
    xy = np.random.default_rng(0).uniform(-4, 70, (6, 2))
    for side in (7.0, 19.0):
        reader = PatchReader(levels_of(noise()), 1.0, PatchSpec(fov_um=(side,), size_px=8, fill=fill), axes=axes)
        for found, at in zip(reader.read(xy)[0][:, 0], xy, strict=True):
            np.testing.assert_array_equal(found, turned(noise(), at, side, 8, axes, fill))


def test_a_turn_smaller_than_half_a_pixel_is_none():
    angle, spec = 0.04, PatchSpec(fov_um=(8.0,), size_px=8)
    axes = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    xy = np.array([[30.0, 30.0]])
    straight, slightly = (PatchReader(levels_of(noise()), 1.0, spec, axes=a).read(xy)[0] for a in (np.eye(2), axes))
    assert np.abs(slightly.astype(int) - straight).max() < 60  # an area average: bilinear samples would be far smoother
    assert PatchReader(levels_of(noise()), 1.0, spec, axes=axes)._scales[0].aligned
    assert (
        not PatchReader(levels_of(noise()), 1.0, spec, axes=np.array([[0.99, -0.14], [0.14, 0.99]]))._scales[0].aligned
    )


@pytest.mark.parametrize("size", [(301, 299), (511, 514)])
@pytest.mark.parametrize("drop", ["first", "last"])
def test_levels_of_odd_images_are_found_to_lack_their_first_or_last_pixels(size, drop):
    smooth = np.repeat(np.repeat(noise(*(side // 16 + 1 for side in size)), 16, axis=1), 16, axis=2)[
        :, : size[0], : size[1]
    ]
    levels = [Level(pixels=smooth, factor=(1, 1))]
    for factor in (2, 4):
        pixels = coarser(np.asarray(levels[-1].pixels), 2, drop=drop)
        levels.append(Level(pixels=np.rint(pixels).astype(np.uint8), factor=(factor, factor)))
    found = PatchReader(levels, 1.0, PatchSpec(fov_um=(32.0,), size_px=8)).levels
    for level in found[1:]:
        rest = [side - n * f for side, n, f in zip(size, level.pixels.shape[1:], level.factor, strict=True)]
        assert level.offset == (tuple(rest) if drop == "first" else (0, 0))


def test_spatialdata_pyramids_of_odd_images_are_aligned():
    y, x = np.mgrid[:301, :331]
    waves = 127 + 60 * np.sin(x / 9) + 60 * np.cos(y / 7)  # smooth: a shift is most of any difference
    pixels = np.broadcast_to(waves, (3, 301, 331)).astype(np.uint8)
    levels = pyramid(Image2DModel.parse(pixels, dims=("c", "y", "x"), scale_factors=[2, 2]))
    spec, xy = PatchSpec(fov_um=(66.0,), size_px=16), np.array([[150.0, 160.0], [101.0, 93.0]])
    coarse, fine = (PatchReader(some, 1.0, spec).read(xy)[0].astype(int) for some in (levels, levels[:1]))
    moved, _ = PatchReader(levels[:1], 1.0, spec).read(xy + 1)
    assert np.abs(coarse - fine).mean() < 0.4 * np.abs(moved - fine).mean()
