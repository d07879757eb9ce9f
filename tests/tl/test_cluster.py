"""Predictions on a real dask cluster of two processes: the same values, and workers may die."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import time
from contextlib import suppress
from types import SimpleNamespace

import dask
import numpy as np
import pytest
import zarr
from distributed import Client, Scheduler, Worker
from distributed.comm import CommClosedError
from spatialdata import read_zarr

from stpredict._chunks import Source
from stpredict._slides.slides import Selection, pyramid, resolve
from stpredict.io import read_wsi
from stpredict.pp import spot_grid
from stpredict.tl import PredictOptions, predict
from stpredict.tl._inference import cluster
from stpredict.tl._inference.plan import PredictionPlan
from stpredict.tl._predictor import serialization
from stpredict.tl._predictor.serialization import package_version

from .conftest import local_cluster

QUIET = {"device": "cpu", "precision": "32-true", "progress": False}


@pytest.fixture
def on_disk(written):
    return read_zarr(written)


def test_values_are_those_of_this_process(on_disk, predictor, client):
    predict(on_disk, predictor, key_added="wanted", **QUIET)
    predict(on_disk, predictor, client=client, **QUIET)
    np.testing.assert_allclose(on_disk["predicted"].X, on_disk["wanted"].X, atol=1e-6)
    np.testing.assert_array_equal(on_disk["predicted"].obsm["color"], on_disk["wanted"].obsm["color"])
    assert on_disk["predicted"].obs.equals(on_disk["wanted"].obs)
    predict(on_disk, predictor, layer="predicted", client=client, **QUIET)
    filled = on_disk["observed"][:, predictor.genes].layers["predicted"]
    np.testing.assert_allclose(filled, on_disk["wanted"].X, atol=1e-6)


def test_a_store_that_was_opened_by_a_relative_path_is_read_in_another_folder(sdata, written, tmp_path, monkeypatch):
    monkeypatch.chdir(written.parent)
    slides = resolve(read_zarr(written.name), Selection())
    cluster.make_stores_absolute(slides)
    sent = pickle.dumps(slides[0].without_counts())
    monkeypatch.chdir(tmp_path)
    levels = pickle.loads(sent).levels
    assert (Source(levels[0].pixels).read((0, 2), (0, 2)) == pyramid(sdata["S0_image"])[0].pixels[:, :2, :2]).all()


def test_images_in_memory_are_sent(sdata, predictor, client):
    predict(sdata, predictor, key_added="wanted", **QUIET)
    predict(sdata, predictor, client=client, **QUIET)
    np.testing.assert_allclose(sdata["predicted"].X, sdata["wanted"].X, atol=1e-6)


@pytest.mark.slow
def test_a_slide_file_is_opened_by_the_workers(sdata, predictor, client, tmp_path):
    """A tiled TIFF, which no store stands for."""
    tifffile = pytest.importorskip("tifffile")
    pixels = np.moveaxis(np.asarray(pyramid(sdata["S0_image"])[0].pixels), 0, -1)
    tifffile.imwrite(tmp_path / "slide.tif", pixels, tile=(128, 128), photometric="rgb")
    slide = read_wsi(tmp_path / "slide.tif", um_per_px=8.0)
    spot_grid(slide, diameter_um=100.0, pitch_um=100.0)
    predict(slide, predictor, key_added="wanted", **QUIET)
    predict(slide, predictor, client=client, **QUIET)
    np.testing.assert_allclose(slide["predicted"].X, slide["wanted"].X, atol=1e-6)


def test_an_image_file_is_opened_by_the_workers(on_disk, predictor):
    """A plan carries where pixels lie, not pixels: less than one patch."""
    import cloudpickle

    from stpredict._slides.slides import Selection, resolve

    slides = resolve(on_disk, Selection())
    n_pixels = sum(np.prod(level.pixels.shape) for slide in slides for level in slide.levels)
    plan = PredictionPlan.of(slides, predictor, PredictOptions())
    assert len(cloudpickle.dumps(plan)) < n_pixels / 10


@pytest.mark.slow
def test_a_worker_that_dies_costs_nothing_but_time(on_disk, predictor, client, tmp_path):
    """One of two is killed while it computes: the result is whole, and what it had written is not computed again."""
    predict(on_disk, predictor, key_added="wanted", **QUIET)
    predictor.members[0].network.head.register_forward_hook(Killer(tmp_path / "killed"))
    predict(on_disk, predictor, client=client, store=tmp_path / "store", **QUIET)
    client.wait_for_workers(2)  # the next test finds two again
    assert (tmp_path / "killed").exists()
    table, wanted = on_disk["predicted"], on_disk["wanted"]
    np.testing.assert_allclose(np.asarray(table[wanted.obs_names].X), wanted.X, atol=1e-6)


class Killer:
    """A hook that kills its process, the first time any process calls it."""

    def __init__(self, mark):
        self.mark = mark

    def __call__(self, *_):
        try:
            self.mark.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


def test_an_error_in_a_worker_is_raised_here(on_disk, predictor, client):
    predictor.members[0].network.head.register_forward_hook(refuse)
    with pytest.raises(ArithmeticError, match="no such luck"):
        predict(on_disk, predictor, client=client, **QUIET)
    assert "predicted" not in on_disk.tables


def refuse(*_):
    msg = "no such luck"
    raise ArithmeticError(msg)


def asks_dask(x):
    import dask
    import dask.array as da
    from distributed import get_client

    with cluster.exclusive_worker():
        get_client()
        total = int((da.ones(10, chunks=3) * x).sum().compute())
        return total, dask.base.get_scheduler().__name__


def test_dask_inside_of_a_task_does_not_wait_for_the_cluster(client):
    """Tasks would fill the threads of the workers, and wait for what can only be computed in these."""
    found = client.gather(client.map(asks_dask, range(6)))
    assert found == [(10 * x, "get_sync") for x in range(6)]


def test_what_is_no_client(sdata, predictor):
    with pytest.raises(TypeError, match=r"`client` is a str; give a `dask\.distributed\.Client`"):
        predict(sdata, predictor, client="tcp://somewhere", **QUIET)


def test_a_cluster_without_workers(sdata, predictor):
    empty = SimpleNamespace(submit=None, scatter=None, nthreads=dict)
    with pytest.raises(ValueError, match=r"cluster of `client` has no workers"):
        predict(sdata, predictor, client=empty, **QUIET)


@pytest.mark.parametrize("n_failures", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_connection_that_closes_while_data_are_sent(on_disk, predictor, client, monkeypatch, n_failures):
    """As when a worker dies at this moment: what is not done is sent again, a few times."""
    failures, scatter = (
        iter([CommClosedError("in scatter"), TimeoutError, CommClosedError][:n_failures]),
        client.scatter,
    )

    def closed(*arguments, **named):
        for error in failures:
            raise error
        return scatter(*arguments, **named)

    predict(on_disk, predictor, key_added="wanted", **QUIET)
    monkeypatch.setattr(client, "scatter", closed)
    if n_failures == cluster.MAX_ATTEMPTS:
        with pytest.raises(RuntimeError, match=r"Workers of the cluster were lost 3 times, and \d+ parts of"):
            predict(on_disk, predictor, client=client, **QUIET)
        return
    predict(on_disk, predictor, client=client, **QUIET)
    np.testing.assert_allclose(on_disk["predicted"].X, on_disk["wanted"].X, atol=1e-6)


def test_workers_without_the_package_are_refused():
    found = {"tcp://a": package_version(), "tcp://b": ModuleNotFoundError("No module named 'stpredict'")}
    with pytest.raises(ValueError, match=r"'tcp://b' has no stpredict that can be used \(Module"):
        cluster.check_worker_versions(SimpleNamespace(run=lambda function, on_error: found))


@pytest.mark.parametrize("n", [1, 4, 100])
def test_tasks_are_ranges_of_whole_partitions(n):
    missing = [(0, 5 * 1024), (7 * 1024, 9 * 1024 + 7)]
    ranges = cluster._task_ranges(missing, n, 1024)
    assert [i for start, stop in ranges for i in range(start, stop)] == [i for a, b in missing for i in range(a, b)]
    assert all(start % 1024 == 0 for start, _ in ranges)
    assert len(ranges) <= n + len(missing)


@pytest.mark.usefixtures("small_partitions")
@pytest.mark.slow
def test_a_slow_worker_delays_only_its_own_part(on_disk, predictor, client, tmp_path):
    """The first that computes does not go on before the other has computed; every partition is a chunk."""
    predict(on_disk, predictor, key_added="wanted", **QUIET)
    predictor.members[0].network.head.register_forward_hook(Waiter(tmp_path))
    predict(on_disk, predictor, client=client, store=tmp_path / "store", **QUIET)
    assert len(list(tmp_path.glob("computed-*"))) == 2
    assert zarr.open_group(tmp_path / "store", mode="r")["X"].chunks == (16, 12)
    table, wanted = on_disk["predicted"], on_disk["wanted"]
    np.testing.assert_allclose(np.asarray(table[wanted.obs_names].X), wanted.X, atol=1e-6)


class Waiter:
    """A hook that notes each process that calls it, and lets the first one wait for another one."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, *_):
        (self.folder / f"computed-{os.getpid()}").touch()
        with suppress(FileExistsError):
            (self.folder / "first").touch(exist_ok=False)
            while len(list(self.folder.glob("computed-*"))) < 2:
                time.sleep(0.005)


@pytest.mark.usefixtures("forkserver")
@pytest.mark.slow
def test_a_worker_that_reaches_its_limit_of_memory(on_disk, predictor):
    """Dask ends it, and the error says what to do."""
    predictor.members[0].network.head.register_forward_hook(fill_memory)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        local_cluster(1, memory_limit="1GiB") as own,
        pytest.raises(RuntimeError, match=r"1 workers died while .* too little memory\. Give each worker more memory"),
    ):
        predict(on_disk, predictor, client=own, **QUIET)
    assert "predicted" not in on_disk.tables


def fill_memory(*_):
    filled = np.ones(1 << 30, np.uint8)
    while filled.any():
        time.sleep(0.005)


@pytest.mark.usefixtures("forkserver")
@pytest.mark.slow
def test_a_cluster_that_shrinks_to_nothing_and_grows_again(on_disk, predictor, tmp_path):
    """With the last worker goes all that was sent and all that was not fetched."""
    shared, tasks = [np.arange(3)], [(i,) for i in range(20)]
    with local_cluster(1) as own:
        results = cluster.run_tasks(own, add, shared, tasks)
        found = [next(results)]
        own.cluster.scale(0)
        while own.nthreads():
            time.sleep(0.005)
        own.cluster.scale(1)
        found += results
    assert sorted(task for task, _, _ in found) == tasks
    assert all(error is None and value.tolist() == [i, i + 1, i + 2] for (i,), value, error in found)


def add(array, number):
    return array + number


def test_many_tasks_and_a_worker_that_dies(client, tmp_path):
    tasks = [(i,) for i in range(200)]
    found = list(cluster.run_tasks(client, kill_at_first, [Killer(tmp_path / "killed")], tasks))
    client.wait_for_workers(2)
    assert (tmp_path / "killed").exists()
    assert sorted((task, value, error) for task, value, error in found) == [((i,), i, None) for i in range(200)]


def kill_at_first(killer, number):
    killer()
    return number


def test_a_worker_of_another_version_is_refused_before_it_computes(on_disk, predictor, client):
    worker = next(iter(client.nthreads()))
    own, words = package_version(), rf"Worker '{worker}' has stpredict 0\.0\.1 .* 1 of 2 workers differ"
    client.run(set_version, "0.0.1", workers=[worker])
    try:
        with pytest.raises(ValueError, match=words):
            predict(on_disk, predictor, client=client, **QUIET)
    finally:
        client.run(set_version, own, workers=[worker])
    assert "predicted" not in on_disk.tables


def set_version(number):
    serialization.version = lambda name: number


@pytest.mark.slow
def test_a_scheduler_that_is_killed(forkserver):
    """One error from here, and not from deep inside of dask."""
    ours, theirs = forkserver.Pipe()
    scheduler = forkserver.Process(target=run_scheduler, args=(theirs,))
    scheduler.start()
    address = ours.recv()
    worker = forkserver.Process(target=run_worker, args=(address,))
    worker.start()
    with Client(address, set_as_default=False) as own:
        own.wait_for_workers(1)
        results = cluster.run_tasks(own, add, [np.arange(3)], [(i,) for i in range(20)])
        next(results)
        scheduler.kill()
        own._timeout = 0.1  # it would look for the scheduler for half a minute
        with (
            dask.config.set({"distributed.comm.timeouts.connect": "100ms"}),
            pytest.raises(RuntimeError, match=r"scheduler of `client` was lost, and \d+ parts .*Start the cluster"),
        ):
            list(results)
    worker.kill()
    for process in (scheduler, worker):
        process.join()


def run_scheduler(connection):
    async def run():
        async with Scheduler(port=0, dashboard=False) as scheduler:
            connection.send(scheduler.address)
            await scheduler.finished()

    asyncio.run(run())


def run_worker(address):
    async def run():
        async with Worker(address, nthreads=1, dashboard=False) as worker:
            await worker.finished()

    asyncio.run(run())
