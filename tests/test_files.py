"""Locks, and files and folders that appear whole or not at all."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from filelock import SoftFileLock

from stpredict import _files
from stpredict._files import atomic_file, atomic_folder, lock


@pytest.mark.parametrize("kind", ["of the system", "of a file system without locks"])
def test_one_at_a_time_and_nothing_is_left(tmp_path, monkeypatch, kind):
    if kind != "of the system":
        monkeypatch.setattr(_files, "FileLock", SoftFileLock)
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


@pytest.mark.parametrize("existed", [True, False])
def test_a_file_is_written_whole_or_not_at_all(tmp_path, existed):
    path = tmp_path / "new" / "file.txt"
    if existed:
        path.parent.mkdir()
        path.write_text("old")
    with pytest.raises(UnicodeEncodeError), atomic_file(path) as part:
        part.write_text("half \ud800", "utf-8")
    assert [each.read_text() for each in path.parent.iterdir()] == ["old"] * existed
    with atomic_file(path) as part:
        part.write_text("whole")
    assert [each.read_text() for each in path.parent.iterdir()] == ["whole"]


@pytest.mark.parametrize("locked", [True, False])
def test_a_folder_is_written_whole_or_not_at_all(tmp_path, locked):
    path = tmp_path / "folder"
    for content in ("old", "new"):
        if locked:  # as a killed process leaves it
            (tmp_path / ".folder.part").mkdir()
        with atomic_folder(path, locked=locked) as part:
            part.mkdir()
            (part / content).touch()
        assert [each.name for each in path.iterdir()] == [content]
        assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError), atomic_folder(path, locked=locked) as part:
        (part / "file").touch()
    assert [each.name for each in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]
