"""Patches against a slow reader that is plainly right, and what must hold of any reader."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from dask import array as da
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stpredict import _pixels
from stpredict._geometry import PatchSpec
from stpredict._pixels import PatchReader
from stpredict._slides import Level


def noise(height=60, width=83, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (3, height, width), dtype=np.uint8)


def coarser(pixels, factor):
    """Mean of blocks, float32; edge rows that fill no block are dropped."""
    c, h, w = (side // step for side, step in zip(pixels.shape, (1, factor, factor), strict=True))
    return pixels[:, : h * factor, : w * factor].reshape(c, h, factor, w, factor).astype(np.float32).mean(axis=(2, 4))


def levels_of(pixels, factors=(1,)):
    return [Level(pixels=pixels if f == 1 else coarser(pixels, f), factor=(f, f)) for f in factors]


def sample(pixels, i, j, fill):
    """One pixel of an image without end."""
    height, width = pixels.shape[1:]
    if fill == "reflect":
        i, j = (min(k % (2 * n), 2 * n - 1 - k % (2 * n)) for k, n in ((i, height), (j, width)))
    inside = 0 <= i < height and 0 <= j < width
    return pixels[:, i, j].astype(float) if inside else np.full(3, 255.0)


def area_average(pixels, factor, xy, side, size, fill="white"):
    """The patch, pixel by pixel: every output pixel is the mean of the image over the square that it covers."""
    step = side / size / factor
    left, top = (np.asarray(xy) - side / 2) / factor
    patch = np.empty((3, size, size))
    for r in range(size):
        for c in range(size):
            y0, x0 = top + r * step, left + c * step
            total, area = np.zeros(3), 0.0
            for i in range(int(np.floor(y0)), int(np.ceil(y0 + step))):
                for j in range(int(np.floor(x0)), int(np.ceil(x0 + step))):
                    part = (min(i + 1, y0 + step) - max(i, y0)) * (min(j + 1, x0 + step) - max(j, x0))
                    total, area = total + part * sample(pixels, i, j, fill), area + part
            patch[:, r, c] = total / area
    return patch


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    x=st.floats(-10, 95),
    y=st.floats(-10, 70),
    side=st.floats(4, 70),
    size=st.integers(8, 11),
    fill=st.sampled_from(["white", "reflect"]),
    factors=st.sampled_from([(1,), (1, 2, 4), (1, 3)]),
)
def test_patches_are_area_averages(x, y, side, size, fill, factors):
    pixels = noise()
    levels = levels_of(pixels, factors)
    found, _ = PatchReader(levels, 1.0, PatchSpec(fov_um=(side,), size_px=size, fill=fill)).read(np.array([[x, y]]))
    level = max((v for v in levels if v.factor[0] <= max(side / size, 1)), key=lambda v: v.factor)  # nearest finer
    wanted = area_average(np.asarray(level.pixels), level.factor[0], (x, y), side, size, fill)
    assert np.abs(found[0, 0] - wanted).max() <= 0.501 + 1e-3


def test_a_window_on_whole_pixels_is_the_image():
    pixels = noise()
    found, flagged = PatchReader(levels_of(pixels), 0.5, PatchSpec(fov_um=(4.0,), size_px=8)).read(np.array([[14, 20]]))
    np.testing.assert_array_equal(found[0, 0], pixels[:, 16:24, 10:18])
    assert not flagged


@pytest.mark.parametrize("fill", ["white", "reflect"])
@pytest.mark.parametrize("factors", [(1,), (1, 2, 4)])
def test_blocks_give_the_bytes_of_the_whole(monkeypatch, fill, factors):
    monkeypatch.setattr(_pixels, "CHUNK_PX", 16)
    xy = np.random.default_rng(1).uniform(-5, 85, (40, 2))
    spec = PatchSpec(fov_um=(9.0, 31.0, 64.0), size_px=9, fill=fill)
    whole, at_border = PatchReader(levels_of(noise(), factors), 1.0, spec).read(xy)
    blocks, at_border_too = PatchReader(levels_of(noise(), factors), 1.0, spec, budget_bytes=5_000).read(xy)
    np.testing.assert_array_equal(blocks, whole)
    np.testing.assert_array_equal(at_border, at_border_too)


def test_few_blocks_are_held_and_each_is_read_once_in_passing(monkeypatch):
    monkeypatch.setattr(_pixels, "CHUNK_PX", 16)

    class Counted:
        shape, dtype, reads = (3, 160, 160), np.dtype(np.uint8), 0

        def __getitem__(self, at):
            Counted.reads += 1
            return noise(160, 160)[at]

    reader = PatchReader([Level(pixels=Counted(), factor=(1, 1))], 1.0, PatchSpec(fov_um=(8.0,), size_px=8),
                         budget_bytes=4 * 3 * 16**2)  # fmt: skip
    centres = np.stack(np.meshgrid(np.arange(8, 160, 16.0), np.arange(8, 160, 16.0)), axis=-1).reshape(-1, 2)
    reader.read(np.random.default_rng(0).permutation(np.repeat(centres, 3, axis=0)))
    assert Counted.reads == 100
    assert len(next(iter(reader._blocks.values()))._held) == 4


def test_the_block_used_longest_ago_is_dropped(monkeypatch):
    monkeypatch.setattr(_pixels, "CHUNK_PX", 16)
    reader = PatchReader(levels_of(noise(160, 160)), 1.0, PatchSpec(fov_um=(8.0,), size_px=8), budget_bytes=1)
    for x in (8, 24, 40, 56, 8, 72):  # four are held; the first is used again before the fifth comes
        reader.read(np.array([[x - 0.5, 8.5]]))
    (blocks,) = reader._blocks.values()
    assert [column for _, column in blocks._held] == [2, 3, 0, 4]


@pytest.mark.parametrize("shift", [(3, 5), (16, 0), (0, 7)])
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


@pytest.mark.parametrize("factors", [(1,), (1, 2), (1, 2, 4, 8)])
def test_all_scales_share_a_centre(factors):
    y, x = np.mgrid[:128, :128].astype(np.float32)
    ramp = np.stack([x, y, np.zeros_like(x)]) + 0.5  # a pixel's value is the position of its centre
    xy = np.array([[63.2, 58.9], [70.0, 64.0]])
    found, _ = PatchReader(levels_of(ramp, factors), 1.0, PatchSpec(fov_um=(8, 24, 64), size_px=8)).read(xy)
    centres = found[:, :, :2].astype(float).mean(axis=(-1, -2))  # (n, s, 2)
    np.testing.assert_allclose(centres, np.broadcast_to(xy[:, None], centres.shape), atol=0.5)


@pytest.mark.parametrize(("side", "factor"), [(8, 1), (15.9, 1), (16, 2), (31, 2), (32, 4), (500, 4)])
def test_a_level_is_never_coarser_than_the_patch(side, factor):
    reader = PatchReader(levels_of(noise(256, 256), (1, 2, 4)), 1.0, PatchSpec(fov_um=(side,), size_px=8))
    assert reader._levels[0].factor == (factor, factor)


def test_a_level_that_shrinks_unevenly_counts_by_its_coarser_axis():
    levels = [Level(pixels=noise(64, 64), factor=(1, 1)), Level(pixels=noise(64, 16), factor=(1, 4))]
    narrow, wide = (PatchReader(levels, 1.0, PatchSpec(fov_um=(side,), size_px=8))._levels[0] for side in (24, 32))
    assert (narrow.factor, wide.factor) == ((1, 1), (1, 4))


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
    (np.zeros((2, 40, 40), np.uint8), r"'slide' is not H&E in colour \(2 channels, shape \(2, 40, 40\)\)"),
    (np.zeros((30, 40, 40), np.uint8), "select its channels"),
    (np.full((3, 40, 40), 300.0), r"Pixels of image 'slide' are float64 in \[300, 300\].*Rescale"),
    (np.full((3, 40, 40), -0.5), r"float64 in \[-0.5, -0.5\]"),
    (np.full((3, 40, 40), -1, np.int16), r"int16 in \[-1, -1\]"),
    (np.full((3, 40, 40), 70_000, np.int32), r"int32 in \[70000, 70000\]"),
    (np.full((3, 40, 40), np.inf), r"\[inf, inf\]"),
], ids=["grey", "two channels", "many channels", "above 255", "below 0", "negative", "above 16 bits", "infinite"]
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
    np.testing.assert_allclose(found[0, 0, :, :, 2:4], fifth, atol=1)


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
