"""Locks; files and folders that appear whole or not at all; own files that come back as written or with one error."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import zipfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from filelock import SoftFileLock
from safetensors import SafetensorError
from safetensors.torch import save_file

from stpredict import _files
from stpredict._files import (
    DamagedFileError,
    atomic_file,
    atomic_folder,
    check_fields,
    folder_sha256,
    lock,
    read_arrays,
    read_attributes,
    read_csv,
    read_json,
    read_tensors,
    report_full_disk,
    restore_folder,
    write_arrays,
    write_json,
    write_tensors,
)

ADVICE = "Write it again."


@pytest.mark.parametrize("kind", ["of the system", "of a file system without locks"])
def test_one_at_a_time_and_nothing_is_left(tmp_path, monkeypatch, kind):
    if kind != "of the system":
        monkeypatch.setattr(_files.writing, "FileLock", SoftFileLock)
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


def test_a_folder_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "folder"
    for content in ("old", "new"):
        with atomic_folder(path) as part:
            part.mkdir()
            (part / content).touch()
        assert [each.name for each in path.iterdir()] == [content]
        assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError), atomic_folder(path) as part:
        (part / "file").touch()
    assert [each.name for each in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


WRITE_FILE = "with _files.atomic_file(place) as part:\n    part.write_text('new')\n    moment()"
WRITE_FOLDER = "with _files.atomic_folder(place) as part:\n    part.mkdir()\n    (part / 'new').touch()\n    moment()"
KILL = "import os, signal\nfrom pathlib import Path\nfrom stpredict import _files\nplace = Path('place')\n"
KILL += "def kill(*_, **__):\n    os.kill(os.getpid(), signal.SIGKILL)\n"


@pytest.mark.parametrize("code", [WRITE_FILE, WRITE_FOLDER], ids=["file", "folder"])
def test_what_a_killed_writer_leaves_is_swept_at_the_next_call(tmp_path, python, code):
    process = python(f"{KILL}moment = kill\n{code}", tmp_path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    out = {"stdout", "stderr"}
    assert len({path.name for path in tmp_path.iterdir()} - out) == 2  # a part, and its lock
    unfinished = ExitStack()  # another process that writes the same
    part = unfinished.enter_context((atomic_file if code == WRITE_FILE else atomic_folder)(tmp_path / "place"))
    (part.write_text if code == WRITE_FILE else lambda _: part.mkdir())("mine")
    assert {path.name for path in tmp_path.iterdir()} - out == {part.name, f".{part.name}.lock"}
    _files.sweep(tmp_path / "place")
    unfinished.close()
    assert {path.name for path in tmp_path.iterdir()} - out == {"place"}


@pytest.mark.parametrize("renamed", [1, 2], ids=["between the two renames", "before the old one is removed"])
@pytest.mark.parametrize("recovered_by", ["reading", "writing"])
def test_a_killed_replacement_never_leaves_nothing(tmp_path, python, renamed, recovered_by):
    place = tmp_path / "place"
    place.mkdir()
    (place / "old").touch()
    after = "rename, calls = Path.rename, []\ndef renamed(self, to):\n    rename(self, to); calls.append(1)\n"
    after += f"    if len(calls) == {renamed}: kill()\nPath.rename, moment = renamed, list\n"
    process = python(f"{KILL}{after}{WRITE_FOLDER}", tmp_path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert place.exists() == (renamed == 2)
    if recovered_by == "reading":
        restore_folder(place)
        assert [path.name for path in place.iterdir()] == ["old" if renamed == 1 else "new"]
    with atomic_folder(place) as part:
        part.mkdir()
        (part / "newest").touch()
    assert [path.name for path in place.iterdir()] == ["newest"]
    assert {path.name for path in tmp_path.iterdir()} == {"place", "stdout", "stderr"}


@pytest.mark.parametrize("renamed", [1, 2])
def test_an_interrupted_replacement_keeps_one_of_the_two(tmp_path, monkeypatch, renamed):
    place, rename, calls = tmp_path / "place", Path.rename, []
    (place / "old").mkdir(parents=True)

    def interrupted(self, target):
        rename(self, target)
        calls.append(target)
        if len(calls) == renamed:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_folder(place) as part:
        (part / "new").mkdir(parents=True)
    assert [path.name for path in place.iterdir()] == ["old" if renamed == 1 else "new"]
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("broken", [True, False])
def test_a_symbolic_link_stays_one(tmp_path, broken):
    link, real, file = tmp_path / "link", tmp_path / "disk" / "real", tmp_path / "disk" / "file"
    real.parent.mkdir()
    if not broken:
        real.mkdir()
        file.touch()
    link.symlink_to(real)
    with atomic_folder(link) as part:
        part.mkdir()
        (part / "new").touch()
    (tmp_path / "file").symlink_to(file)
    with atomic_file(tmp_path / "file") as part:
        part.write_text("new")
    assert link.is_symlink()
    assert [path.name for path in real.iterdir()] == ["new"]
    assert (tmp_path / "file").is_symlink()
    assert file.read_text() == "new"


def test_names_may_be_as_long_as_the_system_allows(tmp_path):
    path = tmp_path / ("ä" * 127)
    for _ in range(2):
        with atomic_folder(path) as part:
            part.mkdir()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EFBIG, "File too large"), SafetensorError("I/O error: No space left on device (os error 28)"),
    RuntimeError("zarrs: File too large (os error 27)"),
], ids=str)  # fmt: skip
def test_a_full_disk_says_where_and_how_much_is_missing(tmp_path, error):
    place = tmp_path / "not" / "there"
    expected = rf"No space left for '{place}': [\d,]+ MiB are free on this disk, and up to 3 MiB more are needed\. Free"
    with pytest.raises(OSError, match=expected) as raised, report_full_disk(place, "Free some.", lambda: 3 << 20):
        raise error
    assert raised.value.errno == errno.ENOSPC


def test_other_errors_of_a_disk_stay_what_they_are(tmp_path):
    with pytest.raises(PermissionError), report_full_disk(tmp_path, ""):
        raise PermissionError(errno.EACCES, "Permission denied")


SCHEMA = {"name": str, "n": range(1, 9), "values": [float], "slides?": {str: {"kind": ("a", "b")}}, "flag?": bool}
VALUES = {"name": "x", "n": 3, "values": [1, 2.5], "slides": {"S": {"kind": "a"}}, "flag": True}


@pytest.mark.parametrize(("change", "field", "reason"), [
    ({"name": 3}, "name", "it is int '3', which does not fit str"),
    ({"name": None}, "name", "does not fit str"),
    ({"n": 9}, "n", "does not fit a whole number from 1 to 8"),
    ({"n": True}, "n", "does not fit a whole number"),
    ({"values": [1, "2"]}, "values[1]", "does not fit float"),
    ({"values": {"a": 1}}, "values", "does not fit a list"),
    ({"values": [True]}, "values[0]", "does not fit float"),
    ({"slides": {"S": {}}}, "slides.S.kind", "it is missing"),
    ({"slides": {"S": {"kind": "c"}}}, "slides.S.kind", r"does not fit \('a', 'b'\)"),
    ({"slides": []}, "slides", "does not fit a dictionary"),
])  # fmt: skip
def test_the_first_field_that_does_not_fit_is_named(tmp_path, change, field, reason):
    with pytest.raises(DamagedFileError, match=reason) as raised:
        check_fields({**VALUES, **change}, SCHEMA, tmp_path, ADVICE)
    assert raised.value.field == field


def test_optional_and_unknown_fields(tmp_path):
    check_fields({"name": "x", "n": 8, "values": [], "slides": None, "other": object}, SCHEMA, tmp_path, ADVICE)


def test_the_error_goes_to_another_process(tmp_path):
    error = pickle.loads(pickle.dumps(DamagedFileError(tmp_path, "n", "it is odd", ADVICE)))
    assert (error.path, error.field) == (tmp_path, "n")
    assert str(error) == f"{str(tmp_path)!r} is damaged at 'n': it is odd. {ADVICE}"


ARRAYS = {"a": np.arange(24, dtype=np.float32).reshape(4, 6), "names": np.array(["x", "yy"])}
TENSORS = {"a": torch.arange(24.0).reshape(4, 6), "half": torch.ones(3, dtype=torch.bfloat16), "n": torch.tensor(3)}
TABLE = pd.DataFrame({"gene": ["NA", "B", "nan"], "value": [0.5, np.nan, -1.25]})


def write_table(path):
    TABLE.to_csv(path, index=False)
    path.with_suffix(".sha256").write_text(_files.file_sha256(path))


def read_table(path):
    sha256 = path.with_suffix(".sha256").read_text()
    return read_csv(path, ADVICE, text=["gene"], numbers=["value"], sha256=sha256)


def read_named_tensors(path):
    tensors, metadata = read_tensors(path, ADVICE)
    return {**tensors, "text": metadata["text"]}


def write_group(path):
    zarr.open_group(path, mode="w").attrs.update(VALUES)


KINDS = {
    "json": (lambda path: write_json(path, VALUES), lambda path: read_json(path, SCHEMA, ADVICE)),
    "csv": (write_table, read_table),
    "npz": (lambda path: write_arrays(path, ARRAYS), lambda path: read_arrays(path, ["a"], ADVICE)),
    "safetensors": (lambda path: write_tensors(path, TENSORS, {"text": "x"}), read_named_tensors),
}


@pytest.fixture(params=list(KINDS))
def written(request, tmp_path):
    """A file of each kind, and what reads it."""
    write, read = KINDS[request.param]
    path = tmp_path / f"file.{request.param}"
    write(path)
    return path, read


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return all(map(same, one, other))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return one.equals(other) if isinstance(one, pd.DataFrame) else one == other


def test_what_is_written_is_read(written):
    path, read = written
    expected = {".json": VALUES, ".csv": TABLE, ".npz": ARRAYS, ".safetensors": {**TENSORS, "text": "x"}}
    assert same(expected[path.suffix], read(path))


def test_any_damage_is_noticed_or_changes_nothing(written):
    path, read = written
    data, expected, rng = path.read_bytes(), read(path), np.random.default_rng(0)
    noticed = []
    for kind in ("bit", "byte", "cut", "block", "twice") * 40:
        damaged, at = bytearray(data), int(rng.integers(len(data)))
        if kind == "bit":
            damaged[at] ^= 1 << int(rng.integers(8))
        elif kind == "byte":
            damaged[at] = int(rng.integers(256))
        elif kind == "cut":
            del damaged[at:]
        elif kind == "block":
            damaged[at : at + 16] = rng.bytes(16)
        else:
            damaged[at:at] = damaged[at : at + 8]
        path.write_bytes(damaged)
        try:
            found = read(path)
        except DamagedFileError as error:
            noticed.append(error.path)
        else:  # a damaged name of the digest is an unknown field
            known = {name: found[name] for name in VALUES} if path.suffix == ".json" else found
            assert same(expected, known), (kind, at)
    assert set(noticed) == {path}
    assert len(noticed) > 150


@pytest.mark.parametrize("damage", ["gone", "a folder", "empty"])
def test_files_that_are_no_files(written, damage):
    path, read = written
    path.unlink()
    if damage == "a folder":
        path.mkdir()
    elif damage == "empty":
        path.touch()
    with pytest.raises(DamagedFileError, match="is missing" if damage == "gone" else "is damaged: "):
        read(path)


@pytest.mark.parametrize(("text", "reason"), [
    ("[" * 100_000, "RecursionError"),
    ("[" * 40 + "]" * 40, "it is nested more than 32 levels deep"),
    (f'{{"n": {"9" * 6000}}}', "ValueError: Exceeds the limit"),
    (f'{{"n": {"9" * 19}}}', "it has a number with more than 18 digits"),
    ('{"n": NaN}', "it has a number that is nan"),
    ('{"n": 1e999}', "it has a number that is inf"),
    ("[1, 2]", "it is list '.1, 2.', which does not fit a dictionary"),
    ('{"name": "x"', "JSONDecodeError"),
], ids=range(8))  # fmt: skip
def test_json_that_nobody_writes(tmp_path, text, reason):
    (tmp_path / "file").write_text(text)
    with pytest.raises(DamagedFileError, match=reason):
        read_json(tmp_path / "file", {"n?": int}, ADVICE)


def test_a_huge_text_is_not_read(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        file.truncate(1 << 40)
    for read in (lambda path: read_json(path, {}, ADVICE), lambda path: read_csv(path, ADVICE)):
        with pytest.raises(DamagedFileError, match=r"it has 1,048,576 MiB, and no file of this kind has more than"):
            read(tmp_path / "file")


def test_older_versions_wrote_no_digest(tmp_path):
    (tmp_path / "json").write_text(json.dumps(VALUES))
    assert read_json(tmp_path / "json", SCHEMA, ADVICE) == VALUES
    np.savez(tmp_path / "npz.npz", **ARRAYS)
    assert same(read_arrays(tmp_path / "npz.npz", ["a"], ADVICE), ARRAYS)
    save_file(TENSORS, tmp_path / "tensors")
    assert same(read_tensors(tmp_path / "tensors", ADVICE)[0], TENSORS)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(tmp_path, value):
    save_file({"good": torch.zeros(2), "bad": torch.tensor([0.0, value])}, tmp_path / "tensors")
    with pytest.raises(DamagedFileError, match="'bad': it has values that are not finite"):
        read_tensors(tmp_path / "tensors", ADVICE)
    (tmp_path / "csv").write_text("gene,value,other\nA,1,2\nB,inf,text\n")
    with pytest.raises(DamagedFileError, match="'other': this column has values that are no finite numbers"):
        read_csv(tmp_path / "csv", ADVICE, text=["gene"])


def test_what_must_be_there(tmp_path):
    write_arrays(tmp_path / "npz", ARRAYS)
    with pytest.raises(DamagedFileError, match="'b': this array is missing"):
        read_arrays(tmp_path / "npz", ["a", "b"], ADVICE)
    write_table(tmp_path / "csv")
    with pytest.raises(DamagedFileError, match="'slide': this column is missing"):
        read_csv(tmp_path / "csv", ADVICE, text=["slide"])


def test_bombs_are_not_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(1 << 27, np.uint8))
    with pytest.raises(DamagedFileError, match="it would unpack to far more than"):
        read_arrays(tmp_path / "bomb.npz", ["a"], ADVICE)
    np.save(tmp_path / "a.npy", np.zeros(4, np.uint8))
    claims = (tmp_path / "a.npy").read_bytes().replace(b"(4,), }         ", b"(4000000000,), }")
    with zipfile.ZipFile(tmp_path / "claims.npz", "w") as file:
        file.writestr("a.npy", claims)
    with pytest.raises(DamagedFileError, match=r"other bytes than the shape \(4000000000,\) takes"):
        read_arrays(tmp_path / "claims.npz", ["a"], ADVICE)
    np.savez(tmp_path / "pickle.npz", a=np.array([os.getcwd], dtype=object))
    with pytest.raises(DamagedFileError):
        read_arrays(tmp_path / "pickle.npz", ["a"], ADVICE)


@pytest.mark.parametrize("damage", ["gone", "cut", "other json", "field", "an array", "infinite"])
def test_attributes_of_a_store(tmp_path, damage):
    path = tmp_path / "store"
    write_group(path)
    assert read_attributes(path, SCHEMA, ADVICE) == VALUES
    file = path / "zarr.json"
    if damage == "gone":
        shutil.rmtree(path)
    elif damage == "cut":
        file.write_text(file.read_text()[:-20])
    elif damage == "other json":
        file.write_text("[]")
    elif damage == "an array":
        shutil.rmtree(path)
        zarr.create_array(path, shape=(2,), dtype="u1")
    else:
        zarr.open_group(path, mode="r+").attrs.update({"n": 0 if damage == "field" else np.inf})
    with pytest.raises(DamagedFileError):
        read_attributes(path, SCHEMA, ADVICE)


def test_the_digest_of_a_folder_has_names_and_contents(tmp_path):
    folder, found = tmp_path / "folder", set()
    (folder / "in").mkdir(parents=True)
    for name, content in (("a", "1"), ("a", "2"), ("b", "2"), ("in/b", "2")):
        (folder / name).write_text(content)
        found.add(folder_sha256(folder))
    (folder / "b").unlink()
    found.add(folder_sha256(folder))
    assert len(found) == 5


def test_a_file_that_may_not_be_read_is_not_damaged(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    write_json(tmp_path / "file", VALUES)
    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(PermissionError):
        read_json(tmp_path / "file", SCHEMA, ADVICE)
