"""Work done ahead: one background thread that reads, gathers and sends what comes next while a network computes."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@contextmanager
def prefetch[T](items: Iterable[T], depth: int = 1) -> Iterator[Iterator[T]]:
    """Draw items from an iterable in a background thread, a bounded number before they are asked for.

    An error of the iterable is raised where its item is asked for. When the context is left, for whatever reason, no
    further item is drawn and the thread has ended.

    Parameters
    ----------
    items
        What to draw from; only the thread touches it.
    depth
        Items that may wait, at least 1.

    Yields
    ------
    The items, in order.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="stpredict-ahead") as thread:
        try:
            yield _drawn(thread, iter(items), depth)
        finally:
            thread.shutdown(cancel_futures=True)


def _drawn[T](thread: ThreadPoolExecutor, source: Iterator[T], depth: int) -> Iterator[T]:
    end = object()
    waiting = deque(thread.submit(next, source, end) for _ in range(depth))
    while (item := waiting.popleft().result()) is not end:
        waiting.append(thread.submit(next, source, end))
        yield item  # type: ignore[misc]  # it is not the end
