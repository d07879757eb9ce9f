"""Reading a legacy ST section: layout, known values, and one clear error for each fault."""

from __future__ import annotations

import gzip
import logging

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from scipy.sparse import csr_matrix

from stpredict.io import read_st


@pytest.fixture
def section(st_files):
    return read_st(**st_files, name="X1", patient="X")


def edit(path, old, new, count=1):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def test_layout(section):
    table = section["observed"]
    assert list(section.images) == ["X1_image"]
    assert list(section.shapes) == ["X1_spots"]
    assert section.coordinate_systems == ["X1"]
    assert section["X1_image"]["scale0"]["image"].shape == (3, 121, 141)
    assert isinstance(table.X, csr_matrix)
    assert table.X.dtype == np.float32
    assert table.uns["spatialdata_attrs"] == {
        "region": ["X1_spots"], "region_key": "region", "instance_key": "spot_id",
    }  # fmt: skip
    assert section.attrs == {"stpredict": {"um_per_px": {"X1_image": pytest.approx(10.0)}}}
    np.testing.assert_allclose(section["X1_spots"]["radius"], 5.0)
    for column, value in {"region": "X1_spots", "section": "X1", "patient": "X"}.items():
        assert list(table.obs[column].cat.categories) == [value]
    assert "label" not in table.obs


def test_values_belong_to_their_spots(section):
    table = section["observed"]
    row = table["X1_4x3"]
    assert row.X.toarray().ravel().tolist() == [4, 3, 0, 12]
    assert (row.obs["array_col"].item(), row.obs["array_row"].item()) == (4, 3)
    assert row.obsm["spatial"].tolist() == [[40.0, 40.0]]
    circle = section["X1_spots"].loc[row.obs["spot_id"].item()].geometry
    assert (circle.x, circle.y) == (40.0, 40.0)


def test_totals_equal_those_of_pandas(section, st_files):
    assert section["observed"].X.sum() == pd.read_csv(st_files["counts"], sep="\t", index_col=0).to_numpy().sum()


def test_gzip_and_rounded_names(st_files, tmp_path, section):
    text = st_files["counts"].read_text().replace("4x3", "4.02x2.98")
    packed = tmp_path / "X1.tsv.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    again = read_st(st_files["image"], packed, st_files["spots"], name="X1")
    assert (again["observed"].X != section["observed"].X).nnz == 0


def test_spots_off_tissue_and_without_counts_are_dropped(st_files, caplog):
    edit(st_files["spots"], "40\t40\t1", "40\t40\t0")
    edit(st_files["counts"], "3x2\t3\t2\t0\t6\n", "")
    with caplog.at_level(logging.INFO, "stpredict"):
        table = read_st(**st_files, name="X1")["observed"]
    assert table.n_obs == 18
    assert not {"X1_4x3", "X1_3x2"} & set(table.obs_names)
    assert "Section X1: 1 of 19 selected spots have no counts" in caplog.text


def test_spot_file_without_selection(st_files):
    frame = pd.read_csv(st_files["spots"], sep="\t").drop(columns=["selected", "new_x", "new_y"])
    frame.to_csv(st_files["spots"], sep="\t", index=False)
    assert read_st(**st_files, name="X1")["observed"].n_obs == 20


def test_labels_are_matched_by_rounded_position(st_files, tmp_path):
    labels = tmp_path / "labels.tsv"
    labels.write_text("Row.names\tx\ty\tlabel\na\t4.02\t2.98\tstroma\nb\t5.0\t3.0\t\nc\t99\t99\ttumour\n")
    obs = read_st(**st_files, name="X1", labels=labels)["observed"].obs
    assert obs["label"].dropna().to_dict() == {"X1_4x3": "stroma"}
    assert list(obs["label"].cat.categories) == ["stroma"]


@pytest.mark.parametrize("labelled", [False, True])
def test_zarr_round_trip(st_files, tmp_path, labelled):
    labels = tmp_path / "labels.tsv"
    labels.write_text("x\ty\tlabel\n4\t3\tstroma\n")
    section = read_st(**st_files, name="X1", labels=labels if labelled else None)
    section.write(tmp_path / "X1.zarr")
    again = sd.read_zarr(tmp_path / "X1.zarr")
    assert again.attrs["stpredict"] == section.attrs["stpredict"]
    pd.testing.assert_frame_equal(
        again["observed"].obs, section["observed"].obs, check_dtype=False, check_categorical=False
    )
    np.testing.assert_array_equal(again["observed"].obsm["spatial"], section["observed"].obsm["spatial"])
    np.testing.assert_array_equal(again["X1_image"]["scale2"]["image"], section["X1_image"]["scale2"]["image"])


FAULTS = {
    "columns": ("spots", "pixel_x", "px", r"no column 'pixel_x' \(found: 'x', 'y'"),
    "coordinate": ("spots", "40\t40\t1", "40\tNA\t1", "missing or non-numeric values in 'pixel_y'"),
    "position twice": ("spots", "4\t3\t4\t3", "3\t3\t4\t3", "more than one row for array position '3x3'"),
    "transposed": ("counts", "4x3", "GAPDH", "Row 'GAPDH' .* is no array coordinate .*transpose"),
    "cut short": ("counts", "4x3\t4\t3\t0\t12", "4x3\t4\t3", "Row '4x3' .* has 2 readable numbers for 4 genes"),
    "text": ("counts", "4x3\t4\t3\t0\t12", "4x3\t4\tx\t0\t12", "Row '4x3' .* has 0 readable numbers for 4 genes"),
    "spot twice": ("counts", "4x3", "4x4", "more than one row for array position '4x4'"),
    "gene twice": ("counts", "\tA\tB", "\tA\tA", "Gene names in .* are not unique: 'A'"),
    "negative": ("counts", "4x3\t4\t3", "4x3\t4\t-3", "values are negative: -3 at spot '4x3', gene 'B'"),
    "not whole": ("counts", "4x3\t4\t3", "4x3\t4\t0.5", "not whole numbers: 0.5 at spot '4x3', gene 'B'"),
    "missing": ("counts", "4x3\t4\t3", "4x3\t4\tnan", "values are not finite: nan at spot '4x3', gene 'B'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults(st_files, fault):
    file, old, new, message = FAULTS[fault]
    edit(st_files[file], old, new)
    with pytest.raises(ValueError, match=message):
        read_st(**st_files, name="X1")


def test_positions_that_do_not_match(st_files):
    edit(st_files["counts"], "x", "x1", count=-1)
    with pytest.raises(ValueError, match="none of 20 selected spots is among 20 rows"):
        read_st(**st_files, name="X1")


@pytest.mark.parametrize("kind", ["image", "counts", "spots"])
def test_missing_file(st_files, kind):
    st_files[kind].unlink()
    with pytest.raises(FileNotFoundError, match="Give the path of an existing file"):
        read_st(**st_files, name="X1")


def test_damaged_gzip(st_files, tmp_path):
    packed = tmp_path / "bad.tsv.gz"
    packed.write_bytes(gzip.compress(st_files["counts"].read_bytes())[:60])
    with pytest.raises(ValueError, match=r"counts file 'bad\.tsv\.gz' cannot be read"):
        read_st(st_files["image"], packed, st_files["spots"], name="X1")


def test_empty_spot_file(st_files):
    st_files["spots"].write_text("")
    with pytest.raises(ValueError, match=r"spot file 'X1_selection\.tsv' cannot be read"):
        read_st(**st_files, name="X1")


@pytest.mark.parametrize("argument", ["pitch_um", "diameter_um"])
def test_lengths_are_positive(st_files, argument):
    with pytest.raises(ValueError, match=f"`{argument}` is 0; it must be above 0"):
        read_st(**st_files, name="X1", **{argument: 0})


def test_resolution_is_compared_with_the_spots(st_files):
    assert read_st(**st_files, name="X1", um_per_px=9.8).attrs["stpredict"]["um_per_px"]["X1_image"] == 9.8
    with pytest.raises(ValueError, match="given as 5 µm per pixel, but its spots say 10"):
        read_st(**st_files, name="X1", um_per_px=5)
