"""Converted images: used when whole, made anew after an interruption, a loss or a change."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize("lost", ["receipt", "chunk", "store", "garbled receipt"])
def test_incomplete_cache_is_repaired(get, calls, tmp_path, st_files, lost):
    get()
    store, receipt = tmp_path / "zarr/X1.zarr", tmp_path / "zarr/X1.json"
    if lost == "receipt":
        receipt.unlink()
    elif lost == "garbled receipt":
        receipt.write_text('{"format"')
    elif lost == "store":
        shutil.rmtree(store)
    else:
        next(path for path in store.rglob("0") if path.is_file()).unlink()
    np.testing.assert_array_equal(get()["scale0"]["image"].values, read_image(st_files["image"]))
    assert len(calls) == 2


def test_remains_of_a_killed_process_are_swept_when_old(get, tmp_path):
    old, fresh = tmp_path / "zarr/.X1.zarr-old", tmp_path / "zarr/.X1.zarr-fresh"
    for folder in (old, fresh):
        (folder / "X1.zarr").mkdir(parents=True)
    os.utime(old, (0, 0))
    get()
    assert not old.exists()
    assert fresh.exists()
