"""her2st: the registry, small stand-ins of its files, and one real section where it is at hand."""

from __future__ import annotations

import gzip
import logging
import shutil
import sys

import pandas as pd
import pytest
import spatialdata as sd

from stpredict.datasets import _fetch, her2st
from stpredict.datasets._fetch import RemoteFile
from stpredict.datasets._her2st import read_registry

_her2st = sys.modules["stpredict.datasets._her2st"]


def blob(path, name):
    file = RemoteFile(path=name, git_blob_sha1="")
    return RemoteFile(path=name, git_blob_sha1=_fetch._checks(path, file)[0][1])


@pytest.fixture
def stand_in(st_files, tmp_path, monkeypatch):
    """Two sections of two patients, one of them annotated, where ``STPREDICT_DATA_DIR`` points."""
    folder, known = tmp_path / "mine/her2st", {}
    for name in ("A1", "B2"):
        known[name] = {}
        for kind, source in st_files.items():
            path = folder / f"data/{kind}/{name}{source.suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, path)
            if kind == "counts" and name == "B2":
                path.write_text(path.read_text().replace("\tA\tB\tC\tD", "\tD\tB\tC\tOTHER"))
            known[name][kind] = blob(path, str(path.relative_to(folder)))
    labels = folder / "data/lbl/A1.tsv"
    labels.parent.mkdir()
    labels.write_text("x\ty\tlabel\n4.01\t3.02\tinvasive cancer\n")
    known["A1"]["labels"] = blob(labels, "data/lbl/A1.tsv")
    monkeypatch.setattr(_her2st, "read_registry", lambda: known)
    monkeypatch.setattr(_her2st, "BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(_fetch, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setenv("STPREDICT_DATA_DIR", str(tmp_path / "mine"))
    return folder


def test_registry_knows_every_section():
    known = read_registry()
    assert "".join(known) == "A1A2A3A4A5A6B1B2B3B4B5B6C1C2C3C4C5C6D1D2D3D4D5D6E1E2E3F1F2F3G1G2G3H1H2H3"
    for name, kinds in known.items():
        assert {"image", "counts", "spots"} <= set(kinds)
        for file in kinds.values():
            assert f"/{name}" in file.path
            assert len(bytes.fromhex(file.git_blob_sha1)) == 20
    assert [name for name in known if "labels" in known[name]] == ["A1", "B1", "C1", "D1", "E1", "F1", "G2", "H1"]
    assert known["C3"]["image"].path == "data/ST-imgs/C/C3/5714_HE_BT_D1.jpg"
    assert known["C3"]["image"].sha256.startswith("0005a926")
    assert known["A1"]["counts"].sha256 is None


def test_two_sections(stand_in, caplog):
    with caplog.at_level(logging.INFO, "stpredict"):
        sdata = her2st(["A1", "B2"])
    table = sdata["observed"]
    assert "Kept 3 genes that all 2 sections have; 2 others were dropped." in caplog.text
    assert table.var_names.tolist() == ["B", "C", "D"]
    assert table["A1_4x3"].X.toarray().ravel().tolist() == [3, 0, 12]
    assert table["B2_4x3"].X.toarray().ravel().tolist() == [3, 0, 4]  # another order of columns
    assert table.obs["patient"].cat.categories.tolist() == ["A", "B"]
    assert table.obs["label"].dropna().to_dict() == {"A1_4x3": "invasive cancer"}
    assert table.obs.groupby("region", observed=True)["spot_id"].max().to_dict() == {"A1_spots": 19, "B2_spots": 19}
    assert sorted(sdata.coordinate_systems) == ["A1", "B2"]
    assert set(sdata.attrs["stpredict"]["um_per_px"]) == {"A1_image", "B2_image"}


def test_result_survives_zarr(stand_in, tmp_path):
    sdata = her2st(["A1", "B2"])
    sdata.write(tmp_path / "both.zarr")
    again = sd.read_zarr(tmp_path / "both.zarr")
    assert again.attrs["stpredict"] == sdata.attrs["stpredict"]
    assert (again["observed"].X != sdata["observed"].X).nnz == 0


def test_second_call_needs_no_image(stand_in):
    her2st(["A1"])
    (stand_in / "data/image/A1.jpg").unlink()
    assert list(her2st("A1").images) == ["A1_image"]


def test_read_only_folder_is_not_written_to(stand_in, tmp_path):
    stand_in.parent.chmod(0o555)
    her2st(["A1"])
    stand_in.parent.chmod(0o755)
    assert [path.name for path in stand_in.parent.iterdir()] == ["her2st"]
    assert list((tmp_path / "cache/her2st-zarr").glob("A1-*"))


def test_flipped_byte_is_noticed(stand_in):
    path = stand_in / "data/image/A1.jpg"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(ValueError, match=r"A1\.jpg' is corrupt: its git blob SHA-1"):
        her2st(["A1"])


def test_missing_file_without_network(stand_in):
    (stand_in / "data/counts/A1.tsv").unlink()
    with pytest.raises(ConnectionError, match=r"'data/counts/A1\.tsv' is not here .* set STPREDICT_DATA_DIR"):
        her2st(["A1"])


def test_every_unknown_section_is_named():
    with pytest.raises(ValueError, match="`sections` names 'C7', 'J1'; there are 'A1', 'A2'"):
        her2st(["C2", "C7", "J1"])
    with pytest.raises(ValueError, match="`sections` names nothing"):
        her2st([])
    with pytest.raises(ValueError, match=r"names 'C2' more than once\. Give each name once"):
        her2st(["C2", "C2"])


def test_a_real_section(her2st_dir):
    sdata = her2st(["C5"])
    table = sdata["observed"]
    assert sdata.attrs["stpredict"]["um_per_px"]["C5_image"] == pytest.approx(0.686, abs=0.01)
    assert sdata["C5_image"]["scale0"]["image"].shape == (3, 9901, 9272)
    assert sdata["C5_image"]["scale0"]["image"].data.chunksize == (3, 512, 512)
    with gzip.open(her2st_dir / "her2st/data/ST-cnts/C5.tsv.gz") as file:
        counts = pd.read_csv(file, sep="\t", index_col=0)
    names = table.obs["array_col"].astype(str) + "x" + table.obs["array_row"].astype(str)
    assert table.X.sum() == counts.loc[names].to_numpy().sum()
    assert table.n_obs == 181


@pytest.mark.parametrize(("name", "n_spots", "um_per_px"), [("C2", 187, 0.689), ("C3", 180, 0.686), ("C4", 184, 0.686)])
def test_spots_and_resolution_of_real_sections(her2st_dir, name, n_spots, um_per_px):
    section = _her2st._section(name, read_registry()[name])
    assert len(section.xy_px) == n_spots
    assert section.um_per_px == pytest.approx(um_per_px, abs=0.001)
    assert 15_000 < len(section.genes) < 16_500
