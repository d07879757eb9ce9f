"""Predictions that are streamed to disk: the same values, taken up where they were left, readable by anndata."""

from __future__ import annotations

import errno
import shutil
import signal

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
import zarr

from stpredict._files import DamagedFileError, lock
from stpredict.datasets import synthetic
from stpredict.tl import Predictor, predict
from stpredict.tl._inference import compute, sinks

from .conftest import copied, divide

QUIET = {"device": "cpu", "precision": "32-true", "progress": False}


pytestmark = pytest.mark.usefixtures("small_partitions")


@pytest.fixture(scope="module")
def begun(small_sdata, trained, tmp_path_factory):
    """A store whose prediction was interrupted after the third partition."""
    write, left = sinks.StoreSink.write, iter([None, None, None, KeyboardInterrupt])
    store = tmp_path_factory.mktemp("begun") / "store"

    def counted(pieces):
        for values in sinks.split_partitions(pieces, 16):
            error = next(left)
            if error is not None:
                raise error
            yield values

    with pytest.MonkeyPatch.context() as context:
        divide(context)
        context.setattr(sinks.StoreSink, "write", lambda self, start, pieces: write(self, start, counted(pieces)))
        with pytest.raises(KeyboardInterrupt):
            predict(copied(small_sdata), Predictor.load(trained[0]), store=store, **QUIET)
    return store


@pytest.fixture(scope="module")
def complete(begun, small_sdata, trained, tmp_path_factory):
    """The same store after another call."""
    store = shutil.copytree(begun, tmp_path_factory.mktemp("complete") / "store")
    with pytest.MonkeyPatch.context() as context:
        divide(context)
        predict(copied(small_sdata), Predictor.load(trained[0]), store=store, **QUIET)
    return store


@pytest.fixture
def stopped(begun, tmp_path):
    """A copy of it that a test may change."""
    return shutil.copytree(begun, tmp_path / "store")


@pytest.fixture(scope="module")
def wanted(small_sdata, trained):
    """The prediction in memory."""
    sdata = copied(small_sdata)
    predict(sdata, Predictor.load(trained[0]), key_added="wanted", **QUIET)
    return sdata["wanted"]


def in_order(table, of):
    """Rows of a table in the order of another's."""
    return np.asarray(table[of.obs_names].X)


def test_the_values_are_those_of_a_prediction_in_memory(sdata, predictor, wanted, complete):
    predict(sdata, predictor, store=complete, **QUIET)  # is read
    table = sdata["predicted"]
    assert hasattr(table.X, "dask")
    np.testing.assert_allclose(in_order(table, wanted), wanted.X, atol=1e-6)
    again = table[wanted.obs_names]
    for column in wanted.obs:
        assert again.obs[column].tolist() == wanted.obs[column].tolist(), column
    np.testing.assert_array_equal(again.obsm["spatial"], wanted.obsm["spatial"])
    np.testing.assert_allclose(again.obsm["color"], wanted.obsm["color"])
    assert table.uns["predicted"] == wanted.uns["wanted"]


def test_the_store_is_an_anndata_and_holds_nothing_else(sdata, predictor, wanted, tmp_path):
    predict(sdata, predictor, store=tmp_path / "store", **QUIET)
    read, table = ad.read_zarr(tmp_path / "store"), sdata["predicted"]
    np.testing.assert_allclose(in_order(read, wanted), wanted.X, atol=1e-6)
    np.testing.assert_array_equal(read.X, np.asarray(table.X))
    assert read.obs_names.tolist() == table.obs_names.tolist()
    assert read.obs["at_border"].dtype == bool
    assert read.uns["spatialdata_attrs"]["instance_key"] == "spot_id"
    assert [path.name for path in tmp_path.iterdir() if path.name not in {"cache", "model"}] == ["store"]


def test_the_object_is_written_with_the_table_and_analysed(sdata, predictor, complete, tmp_path, through_disk):
    predict(sdata, predictor, store=complete, **QUIET)
    table = through_disk(sdata, tmp_path / "slide.zarr")["predicted"]
    np.testing.assert_array_equal(table.X, np.asarray(sdata["predicted"].X))
    sc.pp.pca(sdata["predicted"], n_comps=3, svd_solver="covariance_eigh")
    assert np.isfinite(np.asarray(sdata["predicted"].obsm["X_pca"])).all()


def test_partitions_are_chunks_and_each_is_marked(stopped):
    group = zarr.open_group(stopped, mode="r")
    assert group["X"].chunks == (16, 12)
    assert group["finished"][:].tolist() == [1, 1, 1, 0, 0]
    assert (group["X"][:48] != 0).any(axis=1).all()
    assert not group["X"][48:].any()


def test_what_was_finished_is_not_computed_again(stopped, sdata, predictor, wanted, monkeypatch):
    computed, compute_positions = [], compute.compute_positions

    def noted(plan, task, first, last):
        computed.append((first, last))
        return compute_positions(plan, task, first, last)

    monkeypatch.setattr(compute, "compute_positions", noted)
    predict(sdata, predictor, store=stopped, **QUIET)
    assert computed == [(48, 75)]
    np.testing.assert_allclose(in_order(sdata["predicted"], wanted), wanted.X, atol=1e-6)
    predict(sdata, predictor, store=stopped, **QUIET)
    assert computed == [(48, 75)]
    np.testing.assert_allclose(in_order(sdata["predicted"], wanted), wanted.X, atol=1e-6)


def test_gaps_are_filled(stopped, sdata, predictor, wanted):
    group = zarr.open_group(stopped, mode="r+")
    group["finished"][:] = [1, 0, 1, 0, 0]
    group["X"][16:32] = 0
    predict(sdata, predictor, store=stopped, **QUIET)
    np.testing.assert_allclose(in_order(sdata["predicted"], wanted), wanted.X, atol=1e-6)


@pytest.mark.parametrize("arguments", [{"n_views": 2}, {"shapes_key": "S0_spots"}, {"um_per_px": 8.1}])
def test_a_store_of_another_prediction_is_left_alone(stopped, sdata, predictor, arguments):
    with pytest.raises(FileExistsError, match=r"holds predictions of other spots, or by another predictor"):
        predict(sdata, predictor, store=stopped, **arguments, **QUIET)
    assert "predicted" not in sdata.tables
    assert zarr.open_group(stopped, mode="r")["finished"][:].tolist() == [1, 1, 1, 0, 0]


def test_a_store_of_other_patches_is_left_alone(stopped, sdata, predictor, monkeypatch):
    with monkeypatch.context() as context:
        for module in ("plan", "sinks"):
            context.setattr(f"stpredict.tl._inference.{module}.PATCH_VERSION", 2)
        message = r"was computed from patches of version 1, .* of version 2, so it cannot be resumed"
        with pytest.raises(FileExistsError, match=message):
            predict(sdata, predictor, store=stopped, **QUIET)
    attrs = zarr.open_group(stopped, mode="r+").attrs
    attrs["stpredict"] = {name: value for name, value in attrs["stpredict"].items() if name != "patch_version"}
    predict(sdata, predictor, store=stopped, **QUIET)  # as stores were written before there was a version


def test_a_folder_of_something_else_is_left_alone(sdata, predictor, tmp_path):
    place = tmp_path / "mine"
    place.mkdir()
    (place / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"by `stp\.tl\.predict`, so it is kept\. Give another `store`"):
        predict(sdata, predictor, store=place, **QUIET)
    assert [path.name for path in place.iterdir()] == ["notes.txt"]


def damaged(store, kind):
    """Damage a store."""
    chunk = store / "X/c/1/0"
    if kind == "chunk lost":
        chunk.unlink()
    elif kind == "bit flipped":
        data = bytearray(chunk.read_bytes())
        data[len(data) // 2] ^= 1
        chunk.write_bytes(data)
    elif kind == "attributes":
        (store / "zarr.json").write_text("{")
    elif kind == "array":
        (store / "X/zarr.json").write_text("[]")
    elif kind == "field":
        file = store / "zarr.json"
        file.write_text(file.read_text().replace('"finished": false', '"finished": 3').replace(": true", ": 3"))
    else:
        file = store / "X/zarr.json"
        file.write_text(file.read_text().replace("75", "60"))


@pytest.mark.parametrize("kind", ["attributes", "array", "field", "shape"])
@pytest.mark.parametrize("state", ["begun", "complete"])
def test_a_damaged_store_is_one_error(request, sdata, predictor, tmp_path, kind, state):
    store = shutil.copytree(request.getfixturevalue(state), tmp_path / "store")
    damaged(store, kind)
    with pytest.raises(DamagedFileError, match=r"is damaged.*\. Delete it, or give another `store`"):
        predict(sdata, predictor, store=store, **QUIET)
    assert "predicted" not in sdata.tables


def test_a_lost_chunk_is_computed_again_and_in_a_finished_store_it_is_an_error(stopped, sdata, predictor, wanted):
    damaged(stopped, "chunk lost")
    predict(sdata, predictor, store=stopped, **QUIET)
    np.testing.assert_allclose(in_order(sdata["predicted"], wanted), wanted.X, atol=1e-6)
    damaged(stopped, "chunk lost")
    with pytest.raises(DamagedFileError, match=r"'X': it is not as it was written\. Delete it"):
        predict(sdata, predictor, store=stopped, **QUIET)


def test_a_flipped_bit_is_noticed_by_every_reader(stopped, sdata, predictor, wanted):
    damaged(stopped, "bit flipped")
    predict(sdata, predictor, store=stopped, **QUIET)  # computes the partition again
    np.testing.assert_allclose(in_order(sdata["predicted"], wanted), wanted.X, atol=1e-6)
    damaged(stopped, "bit flipped")
    with pytest.raises(DamagedFileError, match=r"'X': it is not as it was written\. Delete it"):
        predict(sdata, predictor, store=stopped, **QUIET)
    with pytest.raises((ValueError, RuntimeError), match=r"(?i)checksum"):  # of zarr, or of zarrs
        ad.read_zarr(stopped)


def test_two_processes_do_not_compute_into_one_store(stopped, sdata, predictor):
    with (
        lock(stopped),
        pytest.raises(RuntimeError, match=r"Another process is computing into .*store.*give another `st"),
    ):
        predict(sdata, predictor, store=stopped, **QUIET)
    predict(sdata, predictor, store=stopped, **QUIET)
    assert {path.name for path in stopped.parent.iterdir()} == {"store"}


CREATE = """
import os, signal
import zarr
from stpredict.datasets import synthetic
from stpredict.tl import Predictor, predict
from stpredict.tl._inference import plan, sinks
plan.PARTITION_SIZE, plan.WINDOW_MARGIN = 16, 4
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
if MOMENT == "array":
    create = zarr.Group.create_array
    zarr.Group.create_array = lambda self, name, **k: kill() if name == "finished" else create(self, name, **k)
elif MOMENT == "partition":
    sinks.StoreSink.write = kill
elif MOMENT == "end":
    sinks.ad.io.write_elem = kill
predict(synthetic(n_slides=1, n_side=4, um_per_px=8.0), Predictor.load(MODEL), store="store", device="cpu",
        precision="32-true", progress=False)
"""


@pytest.mark.parametrize("moment", ["array", "partition", "end"])
def test_a_store_whose_process_was_killed_is_taken_up(python, predictor, tmp_path, trained, moment):
    process = python(f"MOMENT, MODEL = {moment!r}, {str(trained[0])!r}\n{CREATE}", tmp_path)
    process.join()
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "stderr").read_text()
    assert (tmp_path / "store").exists() == (moment != "array")
    if moment == "partition":  # as zarr leaves it
        (tmp_path / "store/X/c/0").mkdir(parents=True)
        (tmp_path / "store/X/c/0/0.0123456789abcdef.partial").touch()
    small = synthetic(n_slides=1, n_side=4, um_per_px=8.0)
    predict(small, predictor, key_added="wanted", **QUIET)
    predict(small, predictor, store=tmp_path / "store", **QUIET)
    np.testing.assert_allclose(in_order(small["predicted"], small["wanted"]), small["wanted"].X, atol=1e-6)
    assert {path.name for path in tmp_path.iterdir()} == {"store", "stdout", "stderr"}
    assert not list(tmp_path.rglob("*.partial"))


def test_a_store_is_no_layer(sdata, predictor, tmp_path):
    with pytest.raises(ValueError, match=r"`store` is for a table of its own, but `layer` is 'predicted'"):
        predict(sdata, predictor, layer="predicted", store=tmp_path / "store", **QUIET)
    assert not (tmp_path / "store").exists()


def test_too_much_for_memory_names_the_store(sdata, predictor, monkeypatch):
    monkeypatch.setattr("stpredict.tl._inference.sinks.LARGEST_TABLE_BYTES", 1024)
    with pytest.raises(ValueError, match=r"75 spots x 12 genes take .* GiB.*Give `store=`"):
        predict(sdata, predictor, **QUIET)


def test_a_disk_that_fails_leaves_what_is_finished(sdata, predictor, tmp_path, monkeypatch):
    calls = iter(range(100))
    write = sinks.StoreSink.write

    def failing(self, first, pieces):
        def until_full():
            for piece in pieces:
                yield piece
                if next(calls) == 0:
                    raise OSError(errno.ENOSPC, "No space left on device")

        write(self, first, until_full())

    monkeypatch.setattr(sinks.StoreSink, "write", failing)
    expected = r"No space left for '.*store': .* MiB are free on this disk, and up to 1 MiB more .* is kept: free some"
    with pytest.raises(OSError, match=expected):
        predict(sdata, predictor, store=tmp_path / "store", **QUIET)
    assert "predicted" not in sdata.tables
    assert zarr.open_group(tmp_path / "store", mode="r")["finished"][:].sum() >= 1
