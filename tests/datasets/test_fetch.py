"""Files are found, fetched from a server on this machine, and never used when their hash is wrong."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest

from stpredict.datasets import _fetch
from stpredict.datasets._fetch import RemoteFile, fetch, writable_dir

CONTENT = b"spots and counts"
FILE = RemoteFile(
    path="data/a.tsv",
    git_blob_sha1=hashlib.sha1(b"blob 16\0" + CONTENT).hexdigest(),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
)
NOWHERE = "http://127.0.0.1:9"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    (tmp_path / "www/data").mkdir(parents=True)
    (tmp_path / "www/data/a.tsv").write_bytes(CONTENT)
    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "www")) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("STPREDICT_DATA_DIR", raising=False)
    monkeypatch.setattr(_fetch, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache/set/data/a.tsv"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    path = tmp_path / "mine/set/data/a.tsv"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    monkeypatch.setenv("STPREDICT_DATA_DIR", str(tmp_path / "mine"))
    return path


def test_hash_is_the_one_git_gives(tmp_path):
    empty = tmp_path / "empty"
    empty.touch()
    assert _fetch._checks(empty, FILE)[0][1] == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_the_users_file_needs_no_network(mine):
    assert fetch(FILE, "set", NOWHERE) == mine


def test_download_goes_to_the_cache_and_is_kept(server, cache):
    assert fetch(FILE, "set", server) == cache
    assert cache.read_bytes() == CONTENT
    assert fetch(FILE, "set", NOWHERE) == cache
    assert [path.name for path in cache.parent.iterdir()] == ["a.tsv"]


def test_download_goes_to_the_users_folder(server, mine):
    mine.unlink()
    assert fetch(FILE, "set", server) == mine


def test_a_folder_without_write_bits_is_left_alone(mine, tmp_path):
    folder = tmp_path / "mine"
    folder.chmod(0o555)
    assert writable_dir() == tmp_path / "cache"  # for an administrator too, who could write there
    folder.chmod(0o755)
    assert writable_dir() == folder


def test_flipped_byte_in_the_users_file(mine):
    mine.write_bytes(b"S" + CONTENT[1:])
    with pytest.raises(
        ValueError, match=rf"a\.tsv' is corrupt: its git blob SHA-1 is \w+, expected {FILE.git_blob_sha1}.*left"
    ):
        fetch(FILE, "set", NOWHERE)
    assert mine.read_bytes() == b"S" + CONTENT[1:]


def test_flipped_byte_in_our_cache_is_repaired(server, cache):
    fetch(FILE, "set", server)
    cache.write_bytes(b"S" + CONTENT[1:])
    assert fetch(FILE, "set", server).read_bytes() == CONTENT


def test_corrupt_download_is_deleted(server, cache, tmp_path):
    (tmp_path / "www/data/a.tsv").write_bytes(b"<html>sorry</html>")
    with pytest.raises(ValueError, match=r"is corrupt.*It was deleted; call again"):
        fetch(FILE, "set", server)
    assert list(cache.parent.iterdir()) == []


def test_sha256_is_compared_too(mine):
    wrong = RemoteFile(path=FILE.path, git_blob_sha1=FILE.git_blob_sha1, sha256="0" * 64)
    with pytest.raises(ValueError, match="its SHA-256 is"):
        fetch(wrong, "set", NOWHERE)


def test_md5_and_size_are_compared_where_they_are_known(mine):
    known = RemoteFile(path=FILE.path, md5=hashlib.md5(CONTENT).hexdigest(), n_bytes=16)
    assert fetch(known, "set", NOWHERE) == mine
    with pytest.raises(ValueError, match="its MD5 is"):
        fetch(RemoteFile(path=FILE.path, md5="0" * 32), "set", NOWHERE)
    with pytest.raises(ValueError, match="its size in bytes is 16, expected 17"):
        fetch(RemoteFile(path=FILE.path, n_bytes=17), "set", NOWHERE)


def test_a_download_that_ends_early_is_not_kept(server, cache, monkeypatch):
    monkeypatch.setattr(Quiet, "copyfile", lambda self, source, target: target.write(source.read()[:5]))
    with pytest.raises(ConnectionError, match=r"'data/a\.tsv' is not here"):
        fetch(RemoteFile(path=FILE.path), "set", server)
    assert list(cache.parent.iterdir()) == []


@pytest.mark.parametrize("how", ["no server", "no file"])
def test_neither_here_nor_there(how, server, mine, cache, tmp_path):
    mine.unlink()
    (tmp_path / "www/data/a.tsv").unlink()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = server if how == "no file" else f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(
            ConnectionError, match=r"'data/a.tsv' is not here \(looked in '.*mine/set', '.*cache/set'\)"
        ) as error:
            fetch(FILE, "set", url)
    assert "STPREDICT_DATA_DIR" in str(error.value)
    assert "\n" not in str(error.value)
    assert not [name for _, _, names in os.walk(tmp_path / "cache") for name in names]
