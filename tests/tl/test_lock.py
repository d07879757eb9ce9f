"""A place on disk that one process at a time may have."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from filelock import SoftFileLock

from stpredict import _files as _lock
from stpredict._files import lock


@pytest.mark.parametrize("kind", ["of the system", "of a file system without locks"])
def test_one_at_a_time_and_nothing_is_left(tmp_path, monkeypatch, kind):
    if kind != "of the system":
        monkeypatch.setattr(_lock, "FileLock", SoftFileLock)
    place = tmp_path / "new" / "place"
    for _ in range(2):
        with ExitStack() as first:
            assert first.enter_context(lock(place))
            with lock(place) as second:
                assert not second
            with lock(place.with_name("other")) as other:
                assert other
            assert [path.name for path in place.parent.iterdir()] == [".place.lock"]
        assert list(place.parent.iterdir()) == []


def test_what_is_raised_goes_through_and_lets_go(tmp_path):
    with pytest.raises(KeyError), lock(tmp_path / "place"):
        raise KeyError
    with lock(tmp_path / "place") as ours:
        assert ours
