"""Compute a task with the workers of a dask cluster, each of which reads the images by itself."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from threading import Lock
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import torch
from zarr.storage import LocalStore

from ..._chunks import Source, StoredLevel
from .._predictor.serialization import package_version
from .partitions import compute_positions
from .sinks import StoreSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from distributed import Client, Future
    from numpy.typing import NDArray

    from ..._slides.slides import Slide
    from .partitions import SpotTask
    from .plan import PredictionPlan
    from .sinks import Sink

TASKS_PER_WORKER = 8
"""Tasks per worker, about: enough that all workers finish at the same time."""
WORKER_LOCK = Lock()
"""Held by the task that a worker computes."""
MAX_ATTEMPTS = 3
"""Most attempts at tasks whose arguments were lost together with every worker that held them."""
RESUME = "with `store=` what is written already is not computed again."


def compute_on_cluster(
    client: Client, plan: PredictionPlan, task: SpotTask, sink: Sink, on_progress: Callable[[int], object]
) -> None:
    """Compute what a sink lacks on a cluster, calling ``on_progress`` with the number of spots of each finished task.

    Workers write into a `StoreSink` themselves, so its folder must be one that all of them can reach.
    """
    path = sink.path if isinstance(sink, StoreSink) else None
    make_stores_absolute(plan.slides)
    ranges = _task_ranges(sink.missing_ranges(), count_workers(client) * TASKS_PER_WORKER, plan.partition_size)
    tasks = [(start, stop, path) for start, stop in ranges]
    for (start, stop, _), values, error in run_tasks(client, _compute_range, [plan, task], tasks):
        if error is not None:
            raise error
        if values is not None:
            sink.write(start, [values])
        on_progress(stop - start)


def make_stores_absolute(slides: Iterable[Slide]) -> None:
    """Give stores that were opened by a relative path their absolute one: workers may run in another folder."""
    for level in (level for slide in slides for level in slide.levels):
        pixels = Source(level.pixels).pixels
        store = pixels.array.store if isinstance(pixels, StoredLevel) else None
        if isinstance(store, LocalStore):
            store.root = store.root.absolute()


def run_tasks[*Task](
    client: Client, function: Callable[..., Any], shared: Sequence[Any], tasks: Sequence[tuple[*Task]]
) -> Iterator[tuple[tuple[*Task], Any, BaseException | None]]:
    """Call ``function(*shared, *task)`` on the workers; yields each task with its result, and with what it raised.

    The shared arguments are sent to every worker once. Tasks start again if they or their results are lost: all workers
    died that held the shared arguments, or one while it got them. A client without scheduler looks for it for a while.
    """
    from distributed import as_completed

    check_worker_versions(client)
    lost = _connection_errors()
    reason: Exception | None = None
    for _ in range(MAX_ATTEMPTS):
        if client.status == "closed":
            break
        try:  # waits for a worker if there is none
            scattered = client.scatter(list(shared), broadcast=True, hash=False)
            futures = {client.submit(function, *scattered, *task, pure=False): task for task in tasks}
        except lost as error:
            reason = _require_lost(error, client)
            continue
        tasks = []
        try:
            for future in as_completed(futures, loop=client.loop):  # without a loop it needs a default client
                try:
                    raised = _task_error(future)
                    value = None if raised else future.result()
                except lost as error:
                    reason = _require_lost(error, client)
                    tasks.append(futures[future])
                else:
                    yield futures[future], value, raised
        finally:
            with suppress(*lost):  # the scheduler is gone
                for future in futures:
                    future.cancel()
        if not tasks:
            return
    msg = (
        f"Workers of the cluster were lost {MAX_ATTEMPTS} times, and {len(tasks)} parts of the result are missing. "
        f"Give them more memory, and call again: {RESUME}"
    )
    if client.status != "running":
        msg = (
            f"The connection to the scheduler of `client` was lost, and {len(tasks)} parts of the result are missing. "
            f"Start the cluster and a client anew, and call again: {RESUME}"
        )
    raise RuntimeError(msg) from reason


def _connection_errors() -> tuple[type[Exception], ...]:
    """What a client raises that has lost a worker or its scheduler, among others: see `_require_lost`."""
    from distributed import CancelledError
    from distributed.client import ClosedClientError

    return CancelledError, ClosedClientError, OSError, RuntimeError


def _require_lost(error: Exception, client: Client) -> Exception:
    """Raise an error again unless it is about lost data or connections; closed ones are mere runtime errors."""
    if isinstance(error, RuntimeError) and client.status == "running":
        raise error
    return error


def _task_error(future: Future[Any]) -> BaseException | None:
    """What a task raised, or what to do if every worker that computed it died; None for a task that is done or lost."""
    from distributed import KilledWorker

    error: BaseException | None = future.exception()
    if not isinstance(error, KilledWorker):
        return None if error is None else error.with_traceback(future.traceback())
    msg = (
        f"{error.allowed_failures + 1} workers died while they computed the same part of the result, the last at "
        f"{error.last_worker.address}: most often they have too little memory. Give each worker more memory, and call "
        f"again: {RESUME}"
    )
    return RuntimeError(msg)


def check_worker_versions(client: Client) -> None:
    """Refuse workers with another version of this package, or without it."""
    own = package_version()
    try:
        found = client.run(package_version, on_error="return")
    except OSError:  # a worker died meanwhile
        return
    if other := {worker: version for worker, version in found.items() if version != own}:
        worker, version = next(iter(other.items()))
        has = "has no stpredict that can be used" if isinstance(version, BaseException) else f"has stpredict {version}"
        msg = (
            f"Worker {worker!r} {has} ({version!r}), and this process has {own}: {len(other)} of {len(found)} workers "
            "differ, and so may their results. Install the same version on all workers, and start them again."
        )
        raise ValueError(msg)


def check_client(client: object) -> None:
    """Refuse anything but a dask client, or None."""
    if client is not None and not (hasattr(client, "submit") and hasattr(client, "scatter")):
        msg = (
            f"`client` is a {type(client).__name__}; give a `dask.distributed.Client`, for instance "
            "`Client(LocalCluster(n_workers=2))`."
        )
        raise TypeError(msg)


def count_workers(client: Client) -> int:
    """Number of workers of a cluster; none is an error."""
    n = len(client.nthreads())
    if n == 0:
        msg = "The cluster of `client` has no workers. Scale it up, or call `client.wait_for_workers(1)` first."
        raise ValueError(msg)
    return n


@contextmanager
def exclusive_worker() -> Iterator[None]:
    """Use all threads of the worker for one task at a time: two networks at once are slower.

    Inside, dask computes in this thread. Sent to the cluster, a computation would wait for this very worker.
    """
    from distributed import get_client, get_worker

    get_client()  # the first call makes the worker's client the scheduler of dask, which the next line overrides
    with WORKER_LOCK, dask.config.set(scheduler="synchronous"):
        torch.set_num_threads(int(get_worker().state.nthreads))
        yield


def _task_ranges(ranges: Iterable[tuple[int, int]], n_tasks: int, partition_size: int) -> list[tuple[int, int]]:
    """Split ranges of positions into about ``n_tasks`` ranges of whole partitions."""
    ranges = list(ranges)
    total = sum(stop - start for start, stop in ranges)
    step = max(1, -(-total // (n_tasks * partition_size))) * partition_size
    return [(first, min(first + step, stop)) for start, stop in ranges for first in range(start, stop, step)]


def _compute_range(
    plan: PredictionPlan, task: SpotTask, start: int, stop: int, path: Path | None
) -> dict[str, NDArray[Any]] | None:
    """Compute a range in a worker; returned, or written into the store at ``path``."""
    with exclusive_worker():
        if path is None:
            pieces = list(compute_positions(plan, task, start, stop))
            return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        store = StoreSink.open(path, plan)
        for first, last in store.missing_ranges():  # a worker that died may have written some partitions
            first, last = max(first, start), min(last, stop)
            if first < last:
                store.write(first, compute_positions(plan, task, first, last))
    return None
