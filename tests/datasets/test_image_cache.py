"""Converted images: used when whole, made anew after an interruption, a loss or a change."""

from __future__ import annotations

import errno
import shutil

import numpy as np
import pytest

from stpredict.datasets import _image_cache
from stpredict.datasets._image_cache import cached_image
from stpredict.io.images import read_image


@pytest.fixture
def calls():
    return []


@pytest.fixture
def get(st_files, tmp_path, calls):
    def fetch():
        calls.append(1)
        return st_files["image"]

    return lambda source="abc": cached_image("X1", source, tmp_path / "zarr", fetch)


def test_converted_once_and_read_lazily(get, calls, st_files):
    first, again = get(), get()
    assert len(calls) == 1
    for image in (first, again):
        np.testing.assert_array_equal(image["scale0"]["image"].values, read_image(st_files["image"]))
    assert type(again["scale0"]["image"].data).__module__.startswith("dask")


def test_another_image_is_another_cache(get, calls):
    get(), get("def"), get("def")
    assert len(calls) == 2


def test_another_format_is_another_cache(get, calls, monkeypatch):
    get()
    monkeypatch.setattr(_image_cache, "CACHE_VERSION", 99)
    get()
    assert len(calls) == 2


def test_interrupted_conversion_leaves_nothing_that_is_used(get, calls, tmp_path, monkeypatch):
    def interrupted(store, source):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_image_cache, "_receipt", interrupted)
        with pytest.raises(KeyboardInterrupt):
            get()
    assert list((tmp_path / "zarr").iterdir()) == []
    get()
    assert len(calls) == 2


@pytest.mark.parametrize(
    "lost", ["receipt", "chunk", "half a chunk", "one letter of metadata", "store", "garbled receipt", "everything"]
)
def test_incomplete_cache_is_repaired(get, calls, tmp_path, st_files, lost):
    get()
    place = tmp_path / "zarr/X1-abc"
    store, receipt = place / "image.zarr", place / "receipt.json"
    chunk = max((path for path in store.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
    if lost == "receipt":
        receipt.unlink()
    elif lost == "garbled receipt":
        receipt.write_text('{"format"')
    elif lost == "chunk":
        chunk.unlink()
    elif lost == "one letter of metadata":
        metadata = store / "images/X1_image/s0/zarr.json"
        metadata.write_text(metadata.read_text().replace("uint8", "uint9"))
    elif lost == "half a chunk":
        chunk.write_bytes(chunk.read_bytes()[:100])
    else:
        shutil.rmtree(store if lost == "store" else place)
    np.testing.assert_array_equal(get()["scale0"]["image"].values, read_image(st_files["image"]))
    assert len(calls) == 2
    assert [path.name for path in (tmp_path / "zarr").iterdir()] == ["X1-abc"]


def test_a_store_that_others_may_be_reading_is_never_replaced(get, calls, tmp_path, st_files, monkeypatch):
    """A process that found no cache, and only then got the lock, uses the one that was made meanwhile."""
    reading = get()["scale0"]["image"]  # nothing is read yet
    is_valid, answers = _image_cache._is_valid, iter([False])
    monkeypatch.setattr(_image_cache, "_is_valid", lambda *given: next(answers, None) is None and is_valid(*given))
    get("abc")
    get("def")
    assert len(calls) == 2
    np.testing.assert_array_equal(reading.values, read_image(st_files["image"]))


CONVERT = """
from pathlib import Path
from stpredict.datasets._image_cache import cached_image
import numpy as np, os, signal, time
def fetch():
    Path(f"fetched-{NUMBER}").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    if NUMBER == KILLED:
        from spatialdata import SpatialData
        write = SpatialData.write
        def killed(self, path):
            write(self, path)
            os.kill(os.getpid(), signal.SIGKILL)
        SpatialData.write = killed
    return Path(IMAGE)
Path(f"begun-{NUMBER}").touch()
image = cached_image("X1", "abc", Path("zarr"), fetch)
np.save(f"pixels-{NUMBER}.npy", image["scale0"]["image"].values)
"""


@pytest.mark.parametrize("killed", [False, True])
def test_processes_on_a_fresh_cache_convert_once_and_read_whole_images(python, tmp_path, st_files, killed):
    """Also where the first of them is killed at the end of its conversion: the next one starts again."""
    code = f"IMAGE, KILLED = {str(st_files['image'])!r}, {0 if killed else None}\n{CONVERT}"
    processes = [python(f"NUMBER = 0\n{code}", tmp_path)]
    while not (tmp_path / "fetched-0").exists():  # the first has the lock
        processes[0].join(0.01)
    for number in (1, 2):
        processes.append(python(f"NUMBER = {number}\n{code}", tmp_path))
        while not (tmp_path / f"begun-{number}").exists():
            processes[-1].join(0.01)
    (tmp_path / "go").touch()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [-9 if killed else 0, 0, 0]
    assert len(list(tmp_path.glob("fetched-*"))) == 1 + killed
    for file in tmp_path.glob("pixels-*.npy"):
        np.testing.assert_array_equal(np.load(file), read_image(st_files["image"]))
    assert [path.name for path in (tmp_path / "zarr").iterdir()] == ["X1-abc"]


def test_a_full_disk_says_where_and_how_much_is_missing(get, calls, tmp_path, monkeypatch):
    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("spatialdata.SpatialData.write", full)
        with pytest.raises(OSError, match=r"No space left for '.*X1-abc': .*up to 1 MiB more .* by STPREDICT_DATA_DIR"):
            get()
    assert list((tmp_path / "zarr").iterdir()) == []
    get()
