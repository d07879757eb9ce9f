"""A prediction spread over the processes of a dask cluster: stretches of partitions, each read where it is computed."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import dask
import numpy as np
import torch

from ..._checks import prediction as check
from .plan import PARTITION, compute
from .sinks import StoreSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from distributed import Client, Future
    from numpy.typing import NDArray

    from .._predictor.predictor import Predictor
    from .plan import PredictionPlan
    from .sinks import Sink

TASKS_PER_WORKER = 8
"""Stretches that each worker gets, about: many enough that all finish at the same time."""
MOST_LOSSES = 3
"""So many times everything that a worker held may be lost."""


def spread(
    client: Client, plan: PredictionPlan, predictor: Predictor, sink: Sink, took: Callable[[int], object]
) -> None:
    """Compute what is not there yet on a cluster.

    Predictor and plan are sent to every worker once. What a lost worker had not finished is given to others.

    Parameters
    ----------
    client
        Client of the cluster.
    plan
        What to predict.
    predictor
        The predictor.
    sink
        Where the values go; workers write into a `StoreSink` themselves, so its folder must be one that all can reach.
    took
        Called with a number of spots whenever so many are done.
    """
    path = sink.path if isinstance(sink, StoreSink) else None
    stretches = _stretches(sink.todo(), n_workers(client) * TASKS_PER_WORKER)
    tasks = [(first, last, path) for first, last in stretches]
    for (first, last, _), future in on_cluster(client, _stretch, [plan, predictor], tasks):
        values = future.result()  # or raises what was raised there
        if values is not None:
            sink.take(first, [values])
        took(last - first)


def on_cluster[*Task](
    client: Client, function: Callable[..., Any], given: Sequence[Any], tasks: Sequence[tuple[*Task]]
) -> Iterator[tuple[tuple[*Task], Future[Any]]]:
    """Call a function for each of some tasks in the workers of a cluster.

    Parameters
    ----------
    client
        Client of the cluster.
    function
        What is called.
    given
        Its first arguments, sent to every worker once.
    tasks
        Its other arguments.

    Yields
    ------
    Tasks that came to an end, and their futures, finished or failed. Tasks whose given arguments were lost, with all
    workers that had them, are begun anew.
    """
    from distributed import as_completed

    for _ in range(MOST_LOSSES):
        sent = client.scatter(list(given), broadcast=True, hash=False)
        futures = {client.submit(function, *sent, *task, pure=False): task for task in tasks}
        tasks = []
        try:
            for future in as_completed(futures):
                if future.status in {"finished", "error"}:
                    yield futures[future], future
                else:
                    tasks.append(futures[future])
        finally:
            for future in futures:
                future.cancel()
        if not tasks:
            return
    check.cluster_lost(len(tasks), MOST_LOSSES)


def n_workers(client: Client) -> int:
    """How many workers a cluster has.

    Parameters
    ----------
    client
        Its client.

    Returns
    -------
    Their number, at least 1.
    """
    found = len(client.nthreads())
    check.has_workers(found)
    return found


@contextmanager
def alone() -> Iterator[None]:
    """Compute in a worker while no other task of it does, with all its threads: two networks at once are slower.

    What dask is asked for inside is computed here: given to the cluster it would wait for the very worker that asks.

    Yields
    ------
    Nothing.
    """
    from distributed import get_client, get_worker

    get_client()  # the worker's own, which makes itself dask's scheduler when it is first asked for
    with _lock(), dask.config.set(scheduler="synchronous"):
        torch.set_num_threads(int(get_worker().state.nthreads))
        yield


@cache
def _lock() -> Lock:
    return Lock()


def _stretches(todo: Iterable[tuple[int, int]], n: int) -> list[tuple[int, int]]:
    """Contiguous runs of partitions, about ``n``."""
    runs = list(todo)
    total = sum(last - first for first, last in runs)
    step = max(1, -(-total // (n * PARTITION))) * PARTITION
    return [(start, min(start + step, last)) for first, last in runs for start in range(first, last, step)]


def _stretch(
    plan: PredictionPlan, predictor: Predictor, first: int, last: int, path: Path | None
) -> dict[str, NDArray[Any]] | None:
    """Compute a stretch in a worker."""
    with alone():
        if path is None:
            pieces = list(compute(plan, predictor, first, last))
            return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        store = StoreSink.open(path, plan)
        for start, stop in store.todo():  # not what a worker that was lost has written
            start, stop = max(start, first), min(stop, last)
            if start < stop:
                store.take(start, compute(plan, predictor, start, stop))
    return None
