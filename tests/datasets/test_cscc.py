"""cscc: a small folder in the layout of GSE144240, whose arrays are staggered, and what is missing from it."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from stpredict.datasets import _fetch, cscc

GENES = ["A1BG", "A2M", "KRT5", "MMP9"]
AT = [(x, y) for x in range(1, 9) for y in range(1 + (x + 1) % 2, 9, 2)]  # every other position
ON_TISSUE = AT[4:-4]


def section(folder, gsm, name, *, seed=0, genes=GENES):
    """Files of a section as GEO serves them: all gzipped, counts of the whole array, spots on tissue."""
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(90, 250, (121, 141, 3), dtype=np.uint8)).save(folder / "image.jpg")
    (folder / f"{gsm}{name}.jpg.gz").write_bytes(gzip.compress((folder / "image.jpg").read_bytes()))
    (folder / "image.jpg").unlink()
    counts = pd.DataFrame(rng.integers(0, 9, (len(AT), 4)), index=[f"{x}x{y}" for x, y in AT], columns=genes)
    counts.to_csv(folder / f"{gsm}{name}_stdata.tsv.gz", sep="\t")
    columns = ["x", "y", "new_x", "new_y", "pixel_x", "pixel_y"]
    spots = pd.DataFrame([(x, y, x + 0.02, y - 0.01, 9 * x, 12 * y) for x, y in ON_TISSUE], columns=columns)
    spots.to_csv(folder / f"{gsm}spot_data-selection-{name}.tsv.gz", sep="\t", index=False)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(_fetch, "cache_dir", lambda: tmp_path / "cache")
    monkeypatch.delenv("STPREDICT_DATA_DIR", raising=False)
    path = tmp_path / "GSE144240_RAW"
    path.mkdir()
    section(path, "GSM4284325_", "P10_ST_rep1", seed=2, genes=[*GENES[::-1][:3], "OTHER"])
    section(path, "GSM4284316_", "P2_ST_rep1")
    section(path, "", "P2_ST_rep2", seed=1)  # renamed, as some keep them
    (path / "GSM4565823_P4_rep1_filtered_feature_bc_matrix.h5").write_bytes(b"of a Visium section")
    return path


def test_layout(folder):
    sdata = cscc(folder)
    names = ["P2_ST_rep1", "P2_ST_rep2", "P10_ST_rep1"]
    table = sdata["observed"]
    assert table.obs["section"].cat.categories.tolist() == names
    assert table.obs["patient"].cat.categories.tolist() == ["P2", "P10"]
    assert table.var_names.tolist() == GENES[1:]
    assert table.n_obs == 3 * len(ON_TISSUE)
    assert "label" not in table.obs
    um_per_px = list(sdata.attrs["stpredict"]["um_per_px"].values())
    assert um_per_px == pytest.approx([10] * 3)  # 150 µm over a diagonal of 15 px
    np.testing.assert_allclose(sdata["P2_ST_rep1_spots"]["radius"], 5.5)
    assert sdata["P2_ST_rep1_image"]["scale0"]["image"].shape == (3, 121, 141)


def test_values_belong_to_their_spots(folder):
    table = cscc(folder, "P2_ST_rep1")["observed"]
    counts = pd.read_csv(folder / "GSM4284316_P2_ST_rep1_stdata.tsv.gz", sep="\t", index_col=0)
    x, y = ON_TISSUE[3]
    row = table[f"P2_ST_rep1_{x}x{y}"]
    assert row.X.toarray().ravel().tolist() == counts.loc[f"{x}x{y}"].tolist()
    assert row.obsm["spatial"].tolist() == [[9 * x, 12 * y]]


def test_unpacked_files(folder):
    expected = cscc(folder, ["P2_ST_rep1"])["observed"].to_df()
    for path in folder.glob("GSM4284316_*"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    pd.testing.assert_frame_equal(cscc(folder, ["P2_ST_rep1"])["observed"].to_df(), expected)


def test_everything_that_is_missing_is_named_at_once(folder):
    (folder / "GSM4284316_P2_ST_rep1.jpg.gz").unlink()
    (folder / "GSM4284325_spot_data-selection-P10_ST_rep1.tsv.gz").unlink()
    words = (
        r"2 sections in .*GSE144240_RAW' lack files \(P2_ST_rep1: GSM…_P2_ST_rep1\.jpg; "
        r"P10_ST_rep1: GSM…_spot_data-selection-P10_ST_rep1\.tsv\)"
    )
    with pytest.raises(FileNotFoundError, match=words):
        cscc(folder)


def test_unknown_section(folder):
    with pytest.raises(ValueError, match="`sections` names 'P2'; there are 'P2_ST_rep1', 'P2_ST_rep2', 'P10_ST_rep1'"):
        cscc(folder, ["P2"])


def test_no_folder_or_nothing_in_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder '.*gone'"):
        cscc(tmp_path / "gone")
    with pytest.raises(
        FileNotFoundError, match="holds no section: no file is named like 'GSM…_<patient>_ST_<replicate>"
    ):
        cscc(tmp_path)
