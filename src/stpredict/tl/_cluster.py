"""A prediction spread over the processes of a dask cluster: stretches of partitions, each read where it is computed."""

from __future__ import annotations

from functools import cache
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._checks import prediction as check
from ._partitions import PARTITION, compute
from ._sinks import Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from distributed import Client, Future
    from numpy.typing import NDArray

    from ._partitions import Plan
    from ._predictor import Predictor
    from ._sinks import Sink

TASKS_PER_WORKER = 8
"""Stretches that each worker gets, about: many enough that all finish at the same time."""
MOST_LOSSES = 3
"""So many times everything that a worker held may be lost."""


def spread(client: Client, plan: Plan, predictor: Predictor, sink: Sink, took: Callable[[int], object]) -> None:
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
        Where the values go; workers write into a `Store` themselves, so its folder must be one that all can reach.
    took
        Called with a number of spots whenever so many are done.
    """
    path = sink.path if isinstance(sink, Store) else None
    stretches = _stretches(sink.todo(), n_workers(client) * TASKS_PER_WORKER)
    for _ in range(MOST_LOSSES):
        given = client.scatter([plan, predictor], broadcast=True, hash=False)
        futures = {client.submit(_stretch, *given, *each, path, pure=False): each for each in stretches}
        stretches = _gathered(futures, sink, took)
        if not stretches:
            return
    check.cluster_lost(len(stretches), MOST_LOSSES)


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


def _gathered(
    futures: dict[Future[Any], tuple[int, int]], sink: Sink, took: Callable[[int], object]
) -> list[tuple[int, int]]:
    """Take what comes; returns the stretches that were lost with all they were made of."""
    from distributed import as_completed

    lost = []
    try:
        for future in as_completed(futures):
            first, last = futures[future]
            if future.status == "finished":
                values = future.result()
                if values is not None:
                    sink.take(first, [values])
                took(last - first)
            elif future.status == "error":
                future.result()  # raises
            else:
                lost.append((first, last))
    finally:
        for future in futures:
            future.cancel()
    return lost


def _stretches(todo: Iterable[tuple[int, int]], n: int) -> list[tuple[int, int]]:
    """Contiguous runs of partitions, about ``n``."""
    runs = list(todo)
    total = sum(last - first for first, last in runs)
    step = max(1, -(-total // (n * PARTITION))) * PARTITION
    return [(start, min(start + step, last)) for first, last in runs for start in range(first, last, step)]


def _stretch(
    plan: Plan, predictor: Predictor, first: int, last: int, path: Path | None
) -> dict[str, NDArray[Any]] | None:
    """Compute a stretch in a worker, one at a time with all its threads: two networks at once are slower than one."""
    with _alone():
        torch.set_num_threads(_n_threads())
        if path is None:
            pieces = list(compute(plan, predictor, first, last))
            return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
        store = Store.open(path, plan)
        for start, stop in store.todo():  # not what a worker that was lost has written
            start, stop = max(start, first), min(stop, last)
            if start < stop:
                store.take(start, compute(plan, predictor, start, stop))
    return None


@cache
def _alone() -> Lock:
    return Lock()


def _n_threads() -> int:
    """Threads that the scheduler gave to this worker."""
    from distributed import get_worker

    return int(get_worker().state.nthreads)
