"""Pixels of which a part is missing or damaged: refused, with the file, the array and the chunk."""

from __future__ import annotations

import errno
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from spatialdata import read_zarr

from stpredict._chunks import Source
from stpredict._rgb import rgb_converter
from stpredict._slides.levels import Level
from stpredict.io import _wsi_tiff, read_wsi
from stpredict.io.images import read_image

write = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "io" / "slide_files.py")))
ROWS = 5


def decode(sdata):
    return [np.asarray(sdata["a"][scale]["image"]) for scale in sdata["a"]]


@pytest.fixture
def pixels():
    return write.painted(200, 240)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_a_missing_chunk_is_not_read_as_black(tmp_path, pixels, version):
    path = write.ome_zarr(tmp_path / "a.zarr", write.levels_of(pixels, (1, 2)), version=version)
    (path / ("0/0.1.2" if version == "0.4" else "0/c/0/1/2")).unlink()
    with pytest.raises(ValueError, match=r"level '0' lacks 1 of 16 chunks, such as '(c/)?0[./]1[./]2'.* read as 0 "):
        read_wsi(path)


@pytest.mark.parametrize("lost", [".zgroup", "0/.zarray", "0"])
def test_a_store_without_a_part_of_its_metadata(tmp_path, pixels, lost):
    path = write.ome_zarr(tmp_path / "a.zarr", [pixels])
    shutil.rmtree(path / lost) if lost == "0" else (path / lost).unlink()
    with pytest.raises(ValueError, match=r"'a\.zarr' (cannot be read: |names levels '0', of which '0' are missing)"):
        read_wsi(path)


def test_a_chunk_that_is_missing_from_a_white_array_is_white(tmp_path, pixels):
    path = write.ome_zarr(tmp_path / "a.zarr", [pixels])
    (path / "0/0.1.2").unlink()
    metadata = path / "0/.zarray"
    metadata.write_text(metadata.read_text().replace('"fill_value": 0', '"fill_value": 255'))
    assert (decode(read_wsi(path))[0][:, 64:128, 128:192] == 255).all()


@pytest.mark.parametrize("through", ["levels", "patches", "copy"])
def test_a_damaged_chunk_is_named(tmp_path, pixels, through):
    path = write.ome_zarr(tmp_path / "a.zarr", write.levels_of(pixels, (1, 2)))
    chunk = path / "0/0.1.2"
    chunk.write_bytes(chunk.read_bytes()[:40])
    calls = {
        "levels": lambda: decode(read_wsi(path, name="a")),
        "patches": lambda: Source(read_wsi(path, name="a")["a"]["scale0"]["image"]).read((0, 200), (0, 240)),
        "copy": lambda: read_wsi(path, name="a", to_zarr=tmp_path / "copy.zarr"),
    }
    with pytest.raises(ValueError, match=r"Array '0' of the store '.*a\.zarr' cannot be read: chunk 0/1/2: "):
        calls[through]()
    assert not (tmp_path / "copy.zarr").exists()


def test_a_damaged_chunk_of_a_spatialdata_store_is_named(tmp_path, pixels):
    read_wsi(write.picture(tmp_path / "a.png", pixels), um_per_px=0.5, to_zarr=tmp_path / "a.zarr")
    chunk = next(path for path in sorted((tmp_path / "a.zarr/images/a").rglob("0")) if path.is_file())
    chunk.write_bytes(b"no pixels")
    with pytest.raises(ValueError, match=r"of the store '.*a\.zarr.*' cannot be read: chunk 0/0/0: "):
        Source(read_zarr(tmp_path / "a.zarr")["a"]["scale0"]["image"]).read((0, 200), (0, 240))


def test_pixels_that_dask_reads(tmp_path, pixels):
    """Of a store that is changed before it is read, and to find out how bright an image is."""
    array = zarr.create_array(tmp_path / "a", shape=(4, 200, 240), chunks=(4, 64, 64), dtype="uint16")
    array[:] = 300
    (tmp_path / "a/c/0/1/2").write_bytes(b"no pixels")
    changed = da.from_zarr(array)[:, ::-1]
    with pytest.raises(ValueError, match=r"Pixels cannot be read \(rows 0 to 200, columns 0 to 240\): .* it again"):
        Source(changed).read((0, 200), (0, 240))
    with pytest.raises(ValueError, match=r"Pixels cannot be read \(image 'a'\): "):
        rgb_converter([Level(pixels=changed, factor=(1, 1))], "a")


@pytest.mark.parametrize("background", ["white", "tissue"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 2}])
def test_a_jpeg_whose_data_end_early(tmp_path, pixels, background, options):
    path = tmp_path / "a.jpg"
    if background == "white":
        pixels[100:] = 255
    Image.fromarray(pixels).save(path, **options)
    assert read_image(path).shape == (3, 200, 240)
    content = path.read_bytes()
    if not options.get("progressive"):
        path.write_bytes(content[: len(content) // 3] + b"\xff\xd9")
        with pytest.raises(ValueError, match=r"its data end before its last row|truncated"):
            read_image(path)
    at = content.index(b"\xff\xc2" if options.get("progressive") else b"\xff\xc0") + ROWS
    path.write_bytes(content[:at] + (600).to_bytes(2, "big") + content[at + 2 :])
    with pytest.raises(ValueError, match=r"its data end before its last row|truncated|broken"):
        read_image(path)


@pytest.mark.parametrize("fields", [
    {"axes": [{"name": "y"}, {"name": "y"}, {"name": "x"}]}, {"axes": 3}, {"datasets": [{"path": 0}]},
    {"datasets": None}, {"coordinateTransformations": [{"type": "scale", "scale": [1, 0, 1]}]},
    {"coordinateTransformations": [{"type": "scale", "scale": [1, float("nan"), 1]}]},
    {"axes": [{"name": "c"}, {"name": "y", "unit": 3}, {"name": "x"}]},
])  # fmt: skip
def test_metadata_of_other_types(tmp_path, pixels, fields):
    path = write.ome_zarr(tmp_path / "a.zarr", [pixels])
    group = zarr.open_group(path)
    group.attrs["multiscales"] = [{**group.attrs["multiscales"][0], **fields}]
    with pytest.raises(ValueError, match=r"'a\.zarr' cannot be read: of its OME metadata, .*Give another"):
        read_wsi(path)


def overwrite(path, **tags):
    """Change tags of the first page of a TIFF."""
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name, value in tags.items():
            file.pages[0].tags[name].overwrite(value)
    return path


@pytest.mark.parametrize(("compression", "large", "words"), [
    (None, False, "corrupted strip"), ("zlib", False, "columns 0 to 240"),
    (None, True, "strip 0 has 18000 bytes, where 36000 belong"),
])  # fmt: skip
def test_a_strip_that_ends_early(tmp_path, pixels, monkeypatch, compression, large, words):
    if large:
        monkeypatch.setattr(_wsi_tiff, "LARGE_STRIP_BYTES", 1)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=50, compression=compression, metadata=None)
    with tifffile.TiffFile(path) as file:
        counts = file.pages[0].tags["StripByteCounts"].value
    overwrite(path, StripByteCounts=[counts[0] // 2, *counts[1:]])
    with pytest.raises(ValueError, match=rf"'a\.tif' cannot be read: .*{words}"):
        decode(read_wsi(path, name="a", um_per_px=0.5))


@pytest.mark.parametrize(("tags", "words"), [
    ({"ImageLength": 4000}, "it holds 16 tiles or strips, where 252 belong"),
    ({"TileLength": 0}, "its tags give height, width, those of a tile, samples and bits as|division"),
])  # fmt: skip
def test_tags_that_do_not_agree(tmp_path, pixels, tags, words):
    path = overwrite(write.tiff(tmp_path / "a.tif", [pixels]), **tags)
    with pytest.raises(ValueError, match=rf"'a\.tif' cannot be read: .*({words})"):
        read_wsi(path, backend="tiffslide")


def test_no_room_in_the_temporary_folder(tmp_path, pixels, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", rowsperstrip=200, compression="zlib", metadata=None)
    monkeypatch.setattr(_wsi_tiff, "MAX_STRIP_BYTES", 1)
    monkeypatch.setattr(_wsi_tiff, "TemporaryPixels", full)
    with (
        pytest.warns(UserWarning, match="in strips that are too large to be decoded again"),
        pytest.raises(OSError, match=r"of pixels of 'a\.tif' do not fit into the temporary folder .*TMPDIR"),
    ):
        decode(read_wsi(path, name="a", um_per_px=0.5))
