"""hbc: a small folder in the layout of Mendeley Data 29ntw7sh4r, and one error for what is missing from it."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from PIL import Image

from stpredict.datasets import _fetch, hbc

ENSEMBL = ["ENSG00000141736", "ENSG00000075624", "ENSG00000121691", "ENSG00000141510"]
AT = [(x, y) for y in range(2, 6) for x in range(3, 8)]  # all spots of the array


def section(folder, prefix, name, *, genes=ENSEMBL, seed=0):
    """Files of a section as they are published: counts of all spots, coordinates of those under tissue."""
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(90, 250, (121, 141, 3), dtype=np.uint8)).save(folder / f"HE_{prefix}{name}.jpg")
    counts = pd.DataFrame(rng.integers(0, 9, (len(AT), 4)), index=[f"{x}x{y}" for x, y in AT], columns=genes)
    counts.to_csv(folder / f"BC{name}_stdata.tsv.gz", sep="\t")
    spots = pd.DataFrame([(20 * x - 40, 20 * y - 20) for x, y in AT[:-2]], columns=["X", "Y"], index=counts.index[:-2])
    spots.to_csv(folder / f"spots_{prefix}{name}.csv.gz")
    rows = [f"{name[-2:]}_{x}_{y}\t{x + 0.02}\t{y - 0.01}\tL1\t{'tumor' if x < 5 else 'non'}" for x, y in AT[:-2]]
    text = "\r".join(["xcoord\tycoord\tlab\ttumor", *rows])
    (folder / f"BC{name}_Coords.tsv.gz").write_bytes(gzip.compress(text.encode()))
    return counts


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Three sections of two patients; the prefix of some files is BT, that of others BC."""
    monkeypatch.setattr(_fetch, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.delenv("STPREDICT_DATA_DIR", raising=False)
    path = tmp_path / "29ntw7sh4r"
    path.mkdir()
    section(path, "BC", "23209_C1")
    section(path, "BC", "23209_C2", seed=1)
    section(path, "BT", "23287_D1", genes=[*ENSEMBL[1:], "ENSG00000000003"], seed=2)
    (path / "metadata.csv").write_text("type,patient,replicate\nLuminal_B,BC23209,C1\n")
    return path


def test_layout(folder):
    sdata = hbc(folder)
    names = ["BC23209_C1", "BC23209_C2", "BC23287_D1"]
    table = sdata["observed"]
    assert sorted(sdata.coordinate_systems) == names
    assert list(sdata.images) == [f"{name}_image" for name in names]
    assert table.obs["section"].cat.categories.tolist() == names
    assert table.obs["patient"].cat.categories.tolist() == ["BC23209", "BC23287"]
    assert table.var_names.tolist() == ENSEMBL[1:]
    assert table.n_obs == 3 * 18
    assert list(sdata.attrs["stpredict"]["um_per_px"].values()) == pytest.approx([10] * 3)
    np.testing.assert_allclose(sdata["BC23209_C1_spots"]["radius"], 5)


def test_values_belong_to_their_spots(folder):
    table = hbc(folder, ["BC23209_C2"])["observed"]
    counts = pd.read_csv(folder / "BC23209_C2_stdata.tsv.gz", sep="\t", index_col=0)
    assert table["BC23209_C2_4x3"].X.toarray().ravel().tolist() == counts.loc["4x3"].tolist()
    assert table["BC23209_C2_4x3"].obsm["spatial"].tolist() == [[40, 40]]
    assert (table.obs["label"] == np.where(table.obs["array_col"] < 5, "tumor", "non")).all()


@pytest.mark.parametrize("kind", ["file", "mapping"])
def test_symbols(folder, kind):
    symbols = {ENSEMBL[0]: "ERBB2", ENSEMBL[2]: "ERBB2"}
    (folder / "hgnc.tsv").write_text("".join(f"{symbol}\t{gene}\n" for gene, symbol in symbols.items()))
    table = hbc(folder, "BC23209_C1", gene_map=symbols if kind == "mapping" else folder / "hgnc.tsv")["observed"]
    counts = pd.read_csv(folder / "BC23209_C1_stdata.tsv.gz", sep="\t", index_col=0)
    assert table.var_names.tolist() == ["ERBB2", ENSEMBL[1], ENSEMBL[3]]
    assert table.to_df()["ERBB2"].sum() == counts.iloc[:-2][[ENSEMBL[0], ENSEMBL[2]]].to_numpy().sum()


def test_unpacked_files_in_folders_below(folder, tmp_path):
    for path in sorted(folder.glob("*C1*")):
        below = tmp_path / "mine" / path.name.split("_")[0]
        below.mkdir(parents=True, exist_ok=True)
        packed = path.suffix == ".gz"
        content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
        (below / (path.stem if packed else path.name)).write_bytes(content)
    again, first = hbc(tmp_path / "mine")["observed"], hbc(folder, ["BC23209_C1"])["observed"]
    pd.testing.assert_frame_equal(again.to_df(), first.to_df())
    pd.testing.assert_frame_equal(again.obs, first.obs)


def test_annotation_may_be_missing(folder):
    (folder / "BC23209_C1_Coords.tsv.gz").unlink()
    assert hbc(folder, ["BC23209_C1", "BC23287_D1"])["observed"].obs["label"].notna().sum() == 18


def test_everything_that_is_missing_is_named_at_once(folder):
    (folder / "HE_BC23209_C1.jpg").unlink()
    (folder / "spots_BC23209_C1.csv.gz").unlink()
    (folder / "BC23287_D1_stdata.tsv.gz").unlink()
    words = (
        r"2 sections in .* lack files \(BC23209_C1: HE_BC23209_C1\.jpg, spots_BC23209_C1\.csv; "
        r"BC23287_D1: BC23287_D1_stdata\.tsv\)"
    )
    with pytest.raises(FileNotFoundError, match=words):
        hbc(folder)
    assert list(hbc(folder, ["BC23209_C2"]).images) == ["BC23209_C2_image"]


def test_unknown_sections(folder):
    with pytest.raises(ValueError, match="`sections` names 'C1', 'BC1_X1'; there are 'BC23209_C1', 'BC23209_C2'"):
        hbc(folder, ["C1", "BC1_X1"])
    with pytest.raises(ValueError, match="`sections` names nothing"):
        hbc(folder, [])
    with pytest.raises(ValueError, match="names 'BC23209_C1' more than once"):
        hbc(folder, ["BC23209_C1", "BC23209_C1"])


def test_no_folder_or_nothing_in_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder '.*gone'. Give the folder that holds 'HE_BC"):
        hbc(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"holds no section: no file is named like 'HE_BC<patient>_<replicate>"):
        hbc(tmp_path)


def test_the_folder_is_left_as_it_is_and_the_image_is_cached(folder, tmp_path):
    before = sorted(path.name for path in folder.iterdir())
    hbc(folder, ["BC23209_C1"])
    assert sorted(path.name for path in folder.iterdir()) == before
    assert [path.name[:10] for path in (tmp_path / "cache/hbc-zarr").iterdir()] == ["BC23209_C1"]


def test_result_survives_zarr(folder, tmp_path):
    sdata = hbc(folder, ["BC23209_C1", "BC23287_D1"])
    sdata.write(tmp_path / "hbc.zarr")
    again = sd.read_zarr(tmp_path / "hbc.zarr")
    assert again.attrs["stpredict"] == sdata.attrs["stpredict"]
    assert (again["observed"].X != sdata["observed"].X).nnz == 0


def test_image_of_another_size_than_its_spots(folder):
    Image.new("RGB", (15, 15), "white").save(folder / "HE_BC23209_C1.jpg")
    with pytest.raises(ValueError, match="18 of 18 spots of section 'BC23209_C1' lie off its image"):
        hbc(folder, ["BC23209_C1"])
