"""Decoding of image files, and pyramids against those of SpatialData."""

from __future__ import annotations

import gzip
import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation

from stpredict.io.images import halve, pyramid, read_image


@pytest.fixture
def pixels():
    return np.random.default_rng(1).integers(0, 256, (3, 1043, 517), dtype=np.uint8)


def test_levels_equal_those_of_spatialdata_where_nothing_is_trimmed():
    pixels = np.random.default_rng(1).integers(0, 256, (3, 1040, 520), dtype=np.uint8)
    ours, theirs = (
        pyramid(pixels, "C2"),
        Image2DModel.parse(pixels, dims=("c", "y", "x"), scale_factors=[2, 2, 2], chunks=(3, 512, 512)),
    )
    assert list(ours.children) == list(theirs.children) == ["scale0", "scale1", "scale2", "scale3"]
    for scale in ours.children:
        np.testing.assert_array_equal(ours[scale]["image"].values, theirs[scale]["image"].values)
    assert ours["scale0"]["image"].data.chunksize == (3, 512, 512)
    assert list(get_transformation(ours, get_all=True)) == ["C2"]
    Image2DModel().validate(ours)


def test_levels_of_odd_images_start_at_the_origin(pixels):
    tree = pyramid(pixels, "C2")
    for k in (1, 2, 3):
        level, block = tree[f"scale{k}"]["image"].values, pixels[:, : 2**k, : 2**k].astype(float)
        assert level.shape == (3, 1043 // 2**k, 517 // 2**k)
        np.testing.assert_allclose(level[:, 0, 0], block.mean(axis=(1, 2)), atol=3)


def test_levels_are_held_not_derived(pixels):
    level = pyramid(pixels, "C2")["scale3"]["image"].data
    assert len(level.dask) <= 1 + level.npartitions  # a lazy mean of means would need every finer chunk


def test_halve_truncates_and_trims():
    image = np.array([[[0, 1, 9], [1, 1, 9], [9, 9, 9]]], np.uint8)
    assert halve(image).tolist() == [[[0]]]
    full = np.full((3, 1030, 2), 255, np.uint8)
    assert halve(full).shape == (3, 515, 1)
    assert (halve(full) == 255).all()


def test_tiny_image_gets_fewer_levels():
    assert list(pyramid(np.zeros((3, 5, 9), np.uint8), "a").children) == ["scale0", "scale1"]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_lossless_formats_give_the_pixels(tmp_path, pixels, suffix):
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), pixels)


def test_size_guard_of_pil_is_lifted_only_here(tmp_path, pixels, monkeypatch):
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert read_image(tmp_path / "a.png").shape == pixels.shape
    assert Image.MAX_IMAGE_PIXELS == 100


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[:4] = (200, 10, 20, 255)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")
    assert found[:, 0, 0].tolist() == [200, 10, 20]
    assert found[:, 7, 7].tolist() == [255, 255, 255]


def test_palette_is_converted(tmp_path):
    Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[:, 3, 3].tolist() == [10, 200, 30]


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((8, 8), np.uint8), "is grey"),
        (np.zeros((8, 8), np.uint16), "is of mode I;16"),
        (np.zeros((8, 8), np.float32), "is floating point"),
    ],
)
def test_no_colour_is_refused(tmp_path, array, words):
    Image.fromarray(array).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=rf"'a.tif' {words}.*8-bit RGB"):
        read_image(tmp_path / "a.tif")


def test_upper_half_of_16_bit_colour(tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    deep = np.random.default_rng(0).integers(0, 65_536, (8, 9, 3)).astype(">u2")
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in deep))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 8, 16, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), deep.transpose(2, 0, 1) >> 8)


def test_gzipped_image(tmp_path, pixels):
    Image.fromarray(pixels.transpose(1, 2, 0)).save(tmp_path / "a.png")
    packed = gzip.compress((tmp_path / "a.png").read_bytes())
    (tmp_path / "a.png.gz").write_bytes(packed)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png.gz"), pixels)
    (tmp_path / "a.png.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=r"'a\.png\.gz' cannot be read"):
        read_image(tmp_path / "a.png.gz")


@pytest.mark.parametrize(("damage", "words"), [
    ("cut", "truncated .* Bytes are missing or wrong: fetch it again"),
    ("text", "begins with b'no image', as no JPEG, PNG or TIFF does. Give another file"),
])  # fmt: skip
def test_damaged_file_is_named(tmp_path, pixels, damage, words):
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    path.write_bytes(path.read_bytes()[:2000] if damage == "cut" else b"no image")
    with pytest.raises(ValueError, match=rf"'a\.jpg' cannot be read: .*{words}"):
        read_image(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No image at '.*a\.png'"):
        read_image(tmp_path / "a.png")
