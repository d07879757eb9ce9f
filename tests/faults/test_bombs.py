"""Files that ask for more memory than there is are refused by what they say of their size, before it is allocated."""

from __future__ import annotations

import gzip
import json
import struct
import zlib

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from stpredict._checks import memory
from stpredict._checks.memory import limit_bytes, memory_bytes, memory_limit
from stpredict.io import read_st, read_wsi
from stpredict.io._tenx import read_matrix

pytestmark = pytest.mark.filterwarnings("ignore:The file of image")
REFUSED = r"needs about [\d,.]+ GB of memory, and at most 1.00 GB are used .*raise the limit by `max_memory_gb`"
IMPOSSIBLE = r"announces \d+ x \d+ pixels, and its [\d,]+ bytes cannot hold more than"


def png(path, width, height, *, n_bytes):
    """A header that claims a size, and data of another."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", bytes(n_bytes)) + chunk(b"IEND", b""))
    return path


def jpeg(path, width, height):
    Image.new("RGB", (64, 64), "white").save(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", height, width)
    path.write_bytes(content)
    return path


def tiff(path, **tags):
    """A small TIFF whose tags claim other sizes."""
    tifffile.imwrite(path, np.zeros((32, 32, 3), np.uint8), photometric="rgb", tile=(16, 16), metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name, value in tags.items():
            file.pages[0].tags[name].overwrite(value, dtype="I")
    return path


def ome_zarr(path, shape, chunks):
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", shape=shape, chunks=chunks, dtype="u1", fill_value=255)
    axes = [{"name": name} for name in "cyx"]
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [{"path": "0"}]}]
    return path


BOMBS = {
    "PNG of 1.6 gigapixels": (lambda folder: png(folder / "a.png", 40_000, 40_000, n_bytes=400_000), REFUSED),
    "PNG of a few bytes": (lambda folder: png(folder / "a.png", 40_000, 40_000, n_bytes=400), IMPOSSIBLE),
    "JPEG of 500 megapixels": (lambda folder: jpeg(folder / "a.jpg", 25_000, 20_000), IMPOSSIBLE),
    "TIFF of 2 to the 31 columns": (
        lambda folder: tiff(folder / "a.tif", ImageWidth=2**31 - 1, TileWidth=2**31 - 16), REFUSED + "|cannot be read",
    ),
    "OME-Zarr of 10 to the 11 rows": (lambda folder: ome_zarr(folder / "a", (3, 10**11, 9), (3, 512, 9)), REFUSED),
    "OME-Zarr with one chunk": (lambda folder: ome_zarr(folder / "a", (3, 90_000, 90_000), (3, 90_000, 90_000)),
                                REFUSED),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_slides(tmp_path, name):
    write, words = BOMBS[name]
    with pytest.raises(ValueError, match=words):
        read_wsi(write(tmp_path), max_memory_gb=1)


def test_a_packed_table_is_unpacked_up_to_the_limit(st_files, tmp_path):
    path = tmp_path / "counts.tsv.gz"
    for line in (b"\tA" * 300_000, b"\tA\n" + b"1x1\t0\n" * 6_000):
        path.write_bytes(gzip.compress(line))
        with pytest.raises(ValueError, match=r"counts file 'counts\.tsv\.gz' .*needs about .*max_memory_gb"):
            read_st(st_files["image"], path, st_files["spots"], name="A", max_memory_gb=0.01)
    path.write_bytes(gzip.compress(b"x\ty\n" * 400_000))
    with pytest.raises(ValueError, match=r"spot file 'counts\.tsv\.gz' \(over .*needs about .*max_memory_gb"):
        read_st(st_files["image"], st_files["counts"], path, name="A", max_memory_gb=0.01)


def test_a_matrix_market_file_that_announces_too_much(st_files, tmp_path):
    for name in ("barcodes", "features"):
        (tmp_path / f"{name}.tsv").write_text("1x1\n2x2\n" if name == "barcodes" else "A\nB\nC\n")
    path = tmp_path / "matrix.mtx"
    path.write_text("%%MatrixMarket matrix coordinate integer general\n3 2 100000000\n1 1 1\n")
    with pytest.raises(ValueError, match=r"Matrix 'matrix\.mtx' \(100,000,000 values\) needs about 6\.00 GB"):
        read_st(st_files["image"], path, st_files["spots"], name="A", max_memory_gb=1)
    path.write_text("%%MatrixMarket matrix coordinate integer general\n100000000000 2 1\n1 1 1\n")
    with pytest.raises(ValueError, match="is 100000000000 x 2, but its companion files name 2 spots and 3 genes"):
        read_st(st_files["image"], path, st_files["spots"], name="A", max_memory_gb=1)


def test_an_array_of_hdf5_that_was_never_written(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for name in ("features/name", "barcodes"):
            file[f"matrix/{name}"] = np.array(["A"], "S")
        file.create_dataset("matrix/data", shape=(10**9,), dtype="i4", chunks=(1000,))
    with (
        memory_limit(1),
        pytest.raises(
            ValueError, match=r"Array '/matrix/data' of 'a\.h5' \(1,000,000,000 numbers\) needs about 12\.00"
        ),
    ):
        read_matrix(path, all_features=False)


def test_the_limit_is_half_of_what_the_machine_container_or_process_has(tmp_path, monkeypatch):
    assert limit_bytes() == memory_bytes() // 2
    container = tmp_path / "memory.max"
    container.write_text("1000000\n")
    monkeypatch.setattr(memory, "CONTAINER_LIMITS", (str(container), str(tmp_path / "none")))
    assert limit_bytes() == 500_000
    container.write_text("max\n")
    assert memory_bytes() > 1_000_000
    with memory_limit(2.5):
        assert limit_bytes() == 2_500_000_000
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"`max_memory_gb` is .*Give gigabytes, above 0"):
            read_wsi(tmp_path, max_memory_gb=wrong)


def test_json_that_is_too_deep(st_files, tmp_path):
    from stpredict.io._platforms import read_numbers

    path = tmp_path / "a.json"
    for text in ("[" * 100_000 + "]" * 100_000, '{"a": ' + "1" * 6000 + "}", '{"a": null}', '{"a": NaN}', '{"a": -1}'):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"'a\.json' cannot be read: "):
            read_numbers(path, "file of numbers", ["a"])
    path.write_text(json.dumps({"a": 2, "b": "text"}))
    assert read_numbers(path, "file of numbers", ["a"]) == {"a": 2.0}
