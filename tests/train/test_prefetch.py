"""Prefetched items: in order, a bounded number, and nothing left running."""

from __future__ import annotations

import threading

import pytest

from stpredict._train.prefetch import prefetch


def running():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stpredict-prefetch")]


@pytest.mark.parametrize("depth", [1, 2, 9])
def test_all_items_in_order(depth):
    with prefetch(range(5), depth) as items:
        assert list(items) == [0, 1, 2, 3, 4]
    assert not running()


def test_items_are_drawn_in_another_thread_while_this_one_works():
    drawn, second = [], threading.Event()

    def source():
        for i in range(3):
            drawn.append(threading.current_thread().name)
            if i == 1:
                second.set()
            yield i

    with prefetch(source()) as items:
        assert next(items) == 0
        assert second.wait(timeout=600)  # drawn, although it has not been requested; only a fault waits so long
    assert all(name.startswith("stpredict-prefetch") for name in drawn)


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_are_drawn_than_may_wait(depth):
    drawn = []
    with prefetch((drawn.append(i) or i for i in range(20)), depth) as items:
        for taken in range(1, 4):
            next(items)
            assert taken <= len(drawn) <= taken + depth
    assert len(drawn) <= 3 + depth  # the thread has ended


def test_an_error_comes_with_its_item():
    def source():
        yield 1
        msg = "unreadable"
        raise OSError(msg)

    with prefetch(source(), 2) as items:
        assert next(items) == 1
        with pytest.raises(OSError, match="unreadable"):
            next(items)
    assert not running()


@pytest.mark.parametrize("reason", [KeyboardInterrupt, ValueError, None])
def test_whoever_stops_early_leaves_nothing_running(reason):
    closed, drawn = [], []

    def source():
        try:
            for i in range(100):
                drawn.append(i)
                yield i
        finally:
            closed.append(True)

    def use():
        with prefetch(source(), 2) as items:
            next(items)
            if reason is not None:
                raise reason

    if reason is None:
        use()
    else:
        with pytest.raises(reason):
            use()
    assert not running()
    assert len(drawn) <= 3
    assert closed == [True]
