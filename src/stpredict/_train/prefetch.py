"""Prefetching: a background thread reads, gathers and copies the next items while a network computes."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@contextmanager
def prefetch[T](items: Iterable[T], depth: int = 1) -> Iterator[Iterator[T]]:
    """Iterate in a background thread, at most ``depth`` items in advance.

    An error of the iterable is raised when its item is requested. When the context ends, the thread has ended too.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="stpredict-prefetch") as thread:
        try:
            yield _results(thread, iter(items), depth)
        finally:
            thread.shutdown(cancel_futures=True)


def _results[T](thread: ThreadPoolExecutor, source: Iterator[T], depth: int) -> Iterator[T]:
    end = object()
    waiting = deque(thread.submit(next, source, end) for _ in range(depth))
    while (item := waiting.popleft().result()) is not end:
        waiting.append(thread.submit(next, source, end))
        yield item  # type: ignore[misc]  # it is not the end
