"""Samples of 10x Genomics: made-up samples of the same layout, from a server on this machine."""

from __future__ import annotations

import hashlib
import runpy
import tarfile
import threading
from dataclasses import replace
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from urllib.request import Request, urlopen

import numpy as np
import pytest

import stpredict as stp
from stpredict.datasets import _fetch, _tenx

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "io/conftest.py")))
visium_folder, hd_folder, xenium_folder = made.visium_folder, made.hd_folder, made.xenium_folder
SAMPLES = (_tenx.VISIUM, _tenx.VISIUM_HD, replace(_tenx.XENIUM, files=(*_tenx.XENIUM.files, _tenx.TRANSCRIPTS)))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path):
    (tmp_path / "www").mkdir()
    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "www")) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield SimpleNamespace(url=f"http://127.0.0.1:{server.server_port}", folder=tmp_path / "www")
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.delenv("STPREDICT_DATA_DIR", raising=False)
    monkeypatch.setattr(_fetch, "cache_dir", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def serve(sample, server, contents, monkeypatch, name):
    """Put made-up files under the names of a sample; what is pinned of a real file is pinned of them."""

    def pinned(file):
        content = (server.folder / file.remote).read_bytes()
        md5 = hashlib.md5(content).hexdigest() if file.md5 else None
        return replace(file, md5=md5, n_bytes=len(content) if file.n_bytes else None)

    for file in (sample.image, *sample.files):
        (server.folder / file.remote).write_bytes(contents[file.path].read_bytes())
    if sample.archive is not None:
        with tarfile.open(server.folder / sample.archive.remote, "w:gz") as archive:
            archive.add(contents[sample.unpacked], contents["arcname"])
    monkeypatch.setattr(
        _tenx,
        name,
        replace(
            sample,
            url=server.url,
            image=pinned(sample.image),
            files=tuple(map(pinned, sample.files)),
            archive=sample.archive and pinned(sample.archive),
        ),
    )


@pytest.fixture
def visium(visium_folder, server, monkeypatch):
    contents = {
        "tissue_image.tif": visium_folder / "image.tif",
        "filtered_feature_bc_matrix.h5": visium_folder / "filtered_feature_bc_matrix.h5",
        "spatial": visium_folder / "spatial",
        "arcname": "spatial",
    }
    serve(_tenx.VISIUM, server, contents, monkeypatch, "VISIUM")
    return visium_folder


def test_visium_is_fetched_once(visium, server, cache):
    sdata = stp.datasets.visium_breast(progress=False)
    expected = stp.io.read_visium(visium, name="visium_breast")
    np.testing.assert_array_equal(sdata["observed"].X.toarray(), expected["observed"].X.toarray())
    assert sdata["visium_breast_image"]["scale0"]["image"].shape == (3, 130, 220)
    assert sorted(path.name for path in (cache / "visium_breast").iterdir()) == [
        "filtered_feature_bc_matrix.h5",
        "spatial",
        "tissue_image.tif",
    ]
    for path in server.folder.iterdir():
        path.unlink()
    again = stp.datasets.visium_breast(progress=False)
    assert again["observed"].n_obs == expected["observed"].n_obs


def test_a_file_with_another_hash_is_not_kept(visium, server, cache):
    path = server.folder / _tenx.VISIUM.files[0].remote
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=r"filtered_feature_bc_matrix\.h5.* is corrupt: its MD5 is .* It was deleted"):
        stp.datasets.visium_breast(progress=False)
    assert not any(path.name.startswith("filtered") for path in (cache / "visium_breast").iterdir())


@pytest.mark.parametrize("arcname", ["square_008um", "binned_outputs/square_008um"])
def test_visium_hd(hd_folder, server, monkeypatch, cache, arcname):
    bins = hd_folder / "binned_outputs/square_008um"
    (bins / "raw_feature_bc_matrix.h5").touch()
    (bins / "analysis").mkdir()
    (bins / "analysis/clusters.csv").touch()
    contents = {
        "tissue_image.btf": hd_folder / "microscope_image/tissue.tif",
        "binned_outputs/square_008um": bins,
        "arcname": arcname,
    }
    serve(_tenx.VISIUM_HD, server, contents, monkeypatch, "VISIUM_HD")
    sdata = stp.datasets.visium_hd_colon(progress=False)
    assert sdata["observed"].n_obs == 36
    assert list(sdata.images) == ["visium_hd_colon_image"]
    names = {path.name for path in (cache / "visium_hd_colon/binned_outputs/square_008um").iterdir()}
    assert names == {"filtered_feature_bc_matrix.h5", "spatial"}


def test_an_archive_that_is_none(hd_folder, server, monkeypatch, cache):
    contents = {
        "tissue_image.btf": hd_folder / "microscope_image/tissue.tif",
        "binned_outputs/square_008um": hd_folder / "binned_outputs/square_008um",
        "arcname": "square_016um",
    }
    serve(_tenx.VISIUM_HD, server, contents, monkeypatch, "VISIUM_HD")
    with pytest.raises(ValueError, match=r"archive '.*' cannot be read: it holds no folder 'square_008um'\. Delete it"):
        stp.datasets.visium_hd_colon(progress=False)
    archive = cache / "visium_hd_colon/square_008um_outputs.tar.gz"
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"archive '.*' cannot be read: .* call again to fetch it once more"):
        stp.datasets.visium_hd_colon(progress=False)
    assert not (cache / "visium_hd_colon/binned_outputs/square_008um").exists()


def test_members_of_an_archive_stay_in_their_folder():
    assert _tenx._place_in("spatial", Path("spatial/../../../evil.csv")) is None
    assert str(_tenx._place_in("spatial", Path("/etc/spatial/a.csv"))) == "a.csv"


def test_xenium_in_the_users_folder(xenium_folder, server, monkeypatch, tmp_path):
    monkeypatch.setenv("STPREDICT_DATA_DIR", str(tmp_path / "mine"))
    contents = {path.name.removeprefix("X1_"): path for path in xenium_folder.iterdir()}
    serve(_tenx.XENIUM, server, contents, monkeypatch, "XENIUM")
    sdata = stp.datasets.xenium_breast(progress=False)
    assert (sdata["observed"].n_obs, list(sdata.points)) == (4, [])
    folder = tmp_path / "mine/xenium_breast"
    assert {path.name for path in folder.iterdir()} == {file.path for file in (*_tenx.XENIUM.files, _tenx.XENIUM.image)}
    (server.folder / _tenx.TRANSCRIPTS.remote).write_bytes(contents["transcripts.parquet"].read_bytes())
    assert list(stp.datasets.xenium_breast(transcripts=True, progress=False).points) == ["xenium_breast_transcripts"]
    (folder / "cells.parquet").write_bytes(b"short")
    with pytest.raises(ValueError, match=r"cells\.parquet' is corrupt: its size in bytes is 5, .* left as it is"):
        stp.datasets.xenium_breast(progress=False)


@pytest.mark.network
@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_the_real_files_are_on_the_server(sample):
    for file in (sample.image, *sample.files, *filter(None, [sample.archive])):
        request = Request(f"{sample.url}/{file.remote}", method="HEAD", headers={"User-Agent": "Mozilla"})
        with urlopen(request, timeout=60) as answer:
            assert file.n_bytes in {None, int(answer.headers["Content-Length"])}, file.remote


@pytest.mark.network
def test_the_real_visium_sample():
    sdata = stp.datasets.visium_breast()
    assert sdata["observed"].n_obs > 4000
