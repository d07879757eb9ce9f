"""Reading a legacy ST section: layout, known values, and one clear error for each fault."""

from __future__ import annotations

import gzip
import logging
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from PIL import Image
from scipy.io import mmwrite
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


def test_labels_are_the_text_of_the_file(st_files, tmp_path):
    """Numbers stay as they are written though one is missing."""
    labels = tmp_path / "labels.csv"
    labels.write_text("x, y, label\n4, 3, 1\n5, 3,\n99, 99, 0 \n")
    obs = read_st(**st_files, name="X1", labels=labels)["observed"].obs
    assert obs["label"].dropna().to_dict() == {"X1_4x3": "1"}


def test_tables_as_spreadsheets_leave_them(st_files, section, tmp_path):
    """Empty lines, a separator at every end, quotes around all fields, blanks after commas."""
    lines = st_files["counts"].read_text().splitlines()
    for number, text in enumerate((
        "\n".join([*lines, "", "\t\t", ""]),
        "\r\n".join(["", *lines]) + "\r\n\r\n",
        "".join(f"{line}\t\n" for line in lines),
        "".join("\t".join(f'"{field}"' for field in line.split("\t")) + "\n" for line in lines),
    )):  # fmt: skip
        counts = tmp_path / f"{number}.tsv"
        counts.write_text(text)
        found = read_st(**{**st_files, "counts": counts}, name="X1")["observed"]
        np.testing.assert_array_equal(found.X.toarray(), section["observed"].X.toarray())
        assert list(found.var_names) == list(section["observed"].var_names)
    spots = tmp_path / "spots.csv"
    spots.write_text(st_files["spots"].read_text().replace("\t", ", "))
    found = read_st(**{**st_files, "spots": spots}, name="X1")["observed"]
    np.testing.assert_array_equal(found.obsm["spatial"], section["observed"].obsm["spatial"])


def test_zarr_round_trip(st_files, tmp_path):
    labels = tmp_path / "labels.tsv"
    labels.write_text("x\ty\tlabel\n4\t3\tstroma\n")
    section = read_st(**st_files, name="X1", labels=labels)
    section.write(tmp_path / "X1.zarr")
    again = sd.read_zarr(tmp_path / "X1.zarr")
    assert again.attrs["stpredict"] == section.attrs["stpredict"]
    pd.testing.assert_frame_equal(
        again["observed"].obs, section["observed"].obs, check_dtype=False, check_categorical=False
    )
    np.testing.assert_array_equal(again["observed"].obsm["spatial"], section["observed"].obsm["spatial"])
    np.testing.assert_array_equal(again["X1_image"]["scale2"]["image"], section["X1_image"]["scale2"]["image"])


FAULTS = {
    "columns": ("spots", "pixel_x", "px", r"no pixel columns .*found: 'x', 'y'.*give `affine`"),
    "coordinate": ("spots", "40\t40\t1", "40\tNA\t1", "missing or non-numeric values in 'pixel_y'"),
    "far away": ("spots", "40\t40\t1", "40\t1e308\t1", "some larger than any slide"),
    "position twice": ("spots", "4\t3\t4\t3", "3\t3\t4\t3", "more than one row for array position '3x3'"),
    "a gene among spots": ("counts", "4x3", "GAPDH", "Spot 'GAPDH' of 'X1.tsv' is no array coordinate .*`genes_in`"),
    "cut short": ("counts", "4x3\t4\t3\t0\t12", "4x3\t4\t3", "Row '4x3' .* has 2 readable numbers for 4 columns"),
    "text": (
        "counts",
        "4x3\t4\t3\t0\t12",
        "4x3\t4\tx\t0\t12",
        "Row '4x3' .* has 3 readable numbers and 'x' for 4 columns",
    ),
    "spot twice": ("counts", "4x3", "4x4", "more than one row for array position '4x4'"),
    "gene twice": ("counts", "\tA\tB", "\tA\tA", "Gene names in .* are not unique: 'A'"),
    "not whole": ("counts", "4x3\t4\t3", "4x3\t4\t0.5", "not whole numbers: 0.5 at spot '4x3', gene 'B'"),
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


def test_missing_file(st_files, tmp_path):
    for kind in st_files:
        with pytest.raises(FileNotFoundError, match="Give the path of an existing file"):
            read_st(**{**st_files, kind: tmp_path / "gone"}, name="X1")


@pytest.mark.parametrize("kind", ["image", "counts", "spots"])
def test_cut_gzip(st_files, kind):
    packed = gzip.compress(st_files[kind].read_bytes())
    st_files[kind] = st_files[kind].rename(st_files[kind].with_suffix(".xlsx"))  # the content decides, not the name
    assert read_st(**st_files, name="X1")["observed"].n_obs == 20
    st_files[kind].write_bytes(packed)
    assert read_st(**st_files, name="X1")["observed"].n_obs == 20
    st_files[kind].write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match=rf"{st_files[kind].name}' cannot be read: .*fetch it again"):
        read_st(**st_files, name="X1")


def test_another_file_in_its_place(st_files):
    for kind, other in {"image": "counts", "counts": "image", "spots": "image"}.items():
        with pytest.raises(ValueError, match=r"cannot be read: (it begins with|'utf-8').*Give another file"):
            read_st(**{**st_files, kind: st_files[other]}, name="X1")


def test_empty_spot_file(st_files):
    st_files["spots"].write_text("")
    with pytest.raises(ValueError, match=r"spot file 'X1_selection\.tsv' cannot be read"):
        read_st(**st_files, name="X1")


def test_lengths_are_positive(st_files):
    for argument in ("pitch_um", "diameter_um"):
        with pytest.raises(ValueError, match=f"`{argument}` is 0; it must be a finite length in µm above 0"):
            read_st(**st_files, name="X1", **{argument: 0})


def test_resolution_is_compared_with_the_spots(st_files):
    assert read_st(**st_files, name="X1", um_per_px=9.8).attrs["stpredict"]["um_per_px"]["X1_image"] == 9.8
    with pytest.warns(UserWarning, match="5 µm per pixel by the argument `um_per_px`, but 10 by its spot pitch"):
        sdata = read_st(**st_files, name="X1", um_per_px=5)
    assert sdata.attrs["stpredict"]["um_per_px"]["X1_image"] == 5


def test_layout_of_the_array_gives_pitch_and_diameter(st_files, tmp_path):
    rows = ["x\ty\tpixel_x\tpixel_y", *(f"{x}\t{y}\t{9 * x}\t{12 * y}" for x in range(8) for y in range(x % 2, 8, 2))]
    (tmp_path / "spots.tsv").write_text("\n".join(rows))
    names = [f"{x}x{y}" for x in range(8) for y in range(x % 2, 8, 2)]
    pd.DataFrame(1, index=names, columns=["A", "B"]).to_csv(tmp_path / "counts.csv")
    found = read_st(st_files["image"], tmp_path / "counts.csv", tmp_path / "spots.tsv", name="X1")
    assert found.attrs["stpredict"]["um_per_px"]["X1_image"] == pytest.approx(150 / 15)
    np.testing.assert_allclose(found["X1_spots"]["radius"], 5.5)
    other = read_st(st_files["image"], tmp_path / "counts.csv", tmp_path / "spots.tsv", name="X1", pitch_um=75)
    assert other.attrs["stpredict"]["um_per_px"]["X1_image"] == pytest.approx(75 / 15)


def test_genes_in_rows(st_files, section):
    pd.read_csv(st_files["counts"], sep="\t", index_col=0).T.to_csv(st_files["counts"], sep="\t")
    again = read_st(**st_files, name="X1", patient="X")
    pd.testing.assert_frame_equal(again["observed"].to_df(), section["observed"].to_df())


def test_ambiguous_axes(st_files):
    edit(st_files["counts"], "\tA\tB\tC\tD", "\t1x1\t1x2\t1x3\t1x4")
    with pytest.raises(ValueError, match="Give `genes_in='rows'` or `genes_in='columns'`"):
        read_st(**st_files, name="X1")
    assert read_st(**st_files, name="X1", genes_in="columns")["observed"].var_names.tolist() == [
        "1x1",
        "1x2",
        "1x3",
        "1x4",
    ]


def test_genes_are_renamed_and_summed(st_files, section):
    ids = [f"ENSG0000000000{i}.{i}" for i in range(1, 5)]
    edit(st_files["counts"], "\tA\tB\tC\tD", "\t" + "\t".join(ids))
    table = read_st(**st_files, name="X1")["observed"]
    assert table.var_names.tolist() == [gene[:-2] for gene in ids]
    table = read_st(**st_files, name="X1", gene_map={ids[0]: "A", ids[2]: "C", ids[3]: "A"})["observed"]
    assert table.var_names.tolist() == ["A", ids[1][:-2], "C"]
    known = section["observed"].to_df()
    np.testing.assert_array_equal(table.to_df()["A"], known["A"] + known["D"])


@pytest.mark.parametrize("kind", ["array", "file"])
def test_affine_instead_of_pixels(st_files, section, tmp_path, kind):
    frame = pd.read_csv(st_files["spots"], sep="\t")
    frame[["x", "y"]].to_csv(st_files["spots"], sep="\t", index=False, header=kind == "array")
    affine = np.array([[20, 0, -40], [0, 20, -20], [0, 0, 1]])
    np.savetxt(tmp_path / "affine.txt", affine)
    given = affine if kind == "array" else tmp_path / "affine.txt"
    for files in (st_files, {**st_files, "spots": None}):
        again = read_st(**files, name="X1", affine=given)["observed"]
        again = again[section["observed"].obs_names]  # without a spot file in the order of the counts
        pd.testing.assert_frame_equal(again.to_df(), section["observed"].to_df())
        np.testing.assert_allclose(again.obsm["spatial"], section["observed"].obsm["spatial"])


def test_nothing_says_where_spots_are(st_files):
    with pytest.raises(ValueError, match="Give `spots`, or `affine`"):
        read_st(st_files["image"], st_files["counts"], name="X1")


def test_barcodes_are_matched_by_the_first_column(st_files, section, tmp_path):
    spots, counts = (pd.read_csv(st_files[kind], sep="\t") for kind in ("spots", "counts"))
    names = ["ACGTACGTAC" + "".join("ACGT"[i // 4**k % 4] for k in range(3)) + "-1" for i in range(20)]
    barcodes = dict(zip(counts.iloc[:, 0], names, strict=True))
    spots.insert(0, "barcode", [barcodes[f"{x}x{y}"] for x, y in zip(spots["x"], spots["y"], strict=True)])
    spots.to_csv(st_files["spots"], sep="\t", index=False)
    mmwrite(tmp_path / "matrix.mtx", csr_matrix(counts.iloc[:, 1:].to_numpy()).T.tocoo())
    (tmp_path / "barcodes.tsv").write_text("\n".join(names))
    (tmp_path / "features.tsv").write_text("A\nB\nC\nD\n")
    again = read_st(st_files["image"], tmp_path / "matrix.mtx", st_files["spots"], name="X1")["observed"]
    pd.testing.assert_frame_equal(again.to_df(), section["observed"].to_df())
    spots.drop(columns="barcode").to_csv(st_files["spots"], sep="\t", index=False)
    with pytest.raises(
        ValueError, match=r"Counts name their spots by barcodes, but spot file .* has no column of names"
    ):
        read_st(st_files["image"], tmp_path, st_files["spots"], name="X1")


def test_image_at_another_size_than_pixel_coordinates(st_files, section):
    with Image.open(st_files["image"]) as image:
        image.resize((282, 242)).save(st_files["image"])
    with pytest.raises(ValueError, match=r"`pixel_frame` is 141 x 100, the image 282 x 242: a factor of 2.0000"):
        read_st(**st_files, name="X1", pixel_frame=(141, 100))
    found = read_st(**st_files, name="X1", pixel_frame=(141, 121))
    np.testing.assert_allclose(found["observed"].obsm["spatial"], 2 * section["observed"].obsm["spatial"])
    assert found.attrs["stpredict"]["um_per_px"]["X1_image"] == pytest.approx(5)


def test_frame_that_is_none(st_files):
    for frame in ((0, 5), (-1, -1), (100,)):
        with pytest.raises(ValueError, match=r"`pixel_frame` is .*; give \(width, height\) in pixels"):
            read_st(**st_files, name="X1", pixel_frame=frame)


def test_spots_off_the_image(st_files):
    frame = pd.read_csv(st_files["spots"], sep="\t")
    frame["pixel_x"] += 100
    frame.to_csv(st_files["spots"], sep="\t", index=False)
    words = r"12 of 20 spots of section 'X1' lie off its image \(141 x 121 px; spots reach x = 200, y = 80\)"
    with pytest.warns(UserWarning, match=words + r"\. They are kept\. .*pixel_frame"):
        assert read_st(**st_files, name="X1")["observed"].n_obs == 20
    frame["pixel_x"] += 100
    frame.to_csv(st_files["spots"], sep="\t", index=False)
    with pytest.raises(ValueError, match=r"20 of 20 spots of section 'X1' lie off its image .*give `pixel_frame="):
        read_st(**st_files, name="X1")


def test_image_without_colour(st_files, tmp_path):
    Image.new("1", (141, 121)).save(tmp_path / "image.tif")
    with pytest.raises(ValueError, match=r"'image\.tif' is black and white; H&E in 8-bit colour is needed"):
        read_st(**{**st_files, "image": tmp_path / "image.tif"}, name="X1")


@pytest.mark.parametrize("tag", [3, 6, 8])
@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "jpg.gz"])
def test_pixels_stay_as_stored_whatever_the_file_says_of_turning(st_files, tmp_path, kind, tag):
    pixels = np.full((121, 141, 3), 230, np.uint8)
    pixels[:40, :60] = [180, 90, 160]
    exif = Image.Exif()
    exif[274] = tag
    path = tmp_path / f"turned.{kind.removesuffix('.gz')}"
    options = {"subsampling": 0, "quality": 95} if kind.startswith("jpg") else {}
    Image.fromarray(pixels).save(path, exif=exif, **options)
    if kind.endswith(".gz"):
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path = path.with_name(path.name + ".gz")
    with pytest.warns(
        UserWarning, match=rf"'turned\.{kind}' says that its picture is to be turned .*\(orientation {tag}\)"
    ):
        sdata = read_st(**{**st_files, "image": path}, name="A")
    found = np.asarray(sdata["A_image"]["scale0"]["image"]).astype(int)
    assert np.abs(found - pixels.transpose(2, 0, 1))[:, ::10, 5::10].max() <= 6


def test_cmyk_image_is_converted(st_files, tmp_path):
    Image.new("RGB", (141, 121), (200, 120, 160)).convert("CMYK").save(tmp_path / "image.jpg", quality=95)
    found = read_st(**{**st_files, "image": tmp_path / "image.jpg"}, name="X1")
    pixels = found["X1_image"]["scale0"]["image"].values
    np.testing.assert_allclose(pixels.mean(axis=(1, 2)), (200, 120, 160), atol=4)


@pytest.fixture
def real():
    """Arguments for a real section, by the folder that holds it."""
    places = (os.environ.get("STPREDICT_DATA_DIR"), Path(__file__).parents[3] / "shared" / "data")

    def find(folder, **files):
        found = next((Path(place) / folder for place in places if place and (Path(place) / folder).is_dir()), None)
        if found is None:
            pytest.skip(f"needs the folder '{folder}' in STPREDICT_DATA_DIR or ../shared/data")
        return {kind: found / name for kind, name in files.items()}

    return find


def on_tissue(sdata, name):
    """Share of spots that are darker in the middle than the median of the image's border."""
    pixels = sdata[f"{name}_image"]["scale0"]["image"].values.astype(float).mean(axis=0)
    border = np.median(np.concatenate([pixels[:20].ravel(), pixels[:, :20].ravel()]))
    r = max(int(sdata[f"{name}_spots"]["radius"].iloc[0] / 2), 1)
    middles = [pixels[y - r : y + r, x - r : x + r].mean() for x, y in sdata["observed"].obsm["spatial"].astype(int)]
    return float(np.mean(np.array(middles) < border - 15)), pixels


def test_real_olfactory_bulb_on_a_square_array(real):
    files = real(
        "mob_stahl", image="Rep11.jpg", counts="Rep11.tsv.gz", spots="Rep11_spots.tsv", labels="Rep11_layers.tsv"
    )
    sdata = read_st(**files, name="Rep11")
    table = sdata["observed"]
    assert table.shape == (262, 16_218)
    assert sdata.attrs["stpredict"]["um_per_px"]["Rep11_image"] == pytest.approx(2.746, abs=0.002)
    assert on_tissue(sdata, "Rep11")[0] > 0.95
    again = read_st(**{**files, "labels": files["spots"]}, label_column="layer", name="Rep11")["observed"]
    assert table.obs["label"].notna().all()
    assert (again.obs["label"].astype(str) == table.obs["label"].astype(str)).all()


@pytest.mark.parametrize(("name", "n_spots"), [("MOB1", 379), ("MOB2", 407)])
def test_real_olfactory_bulbs_on_staggered_arrays(real, name, n_spots):
    files = real("mob_2k", image=f"{name}.jpg", counts=f"{name}.tsv.gz", spots=f"alignment_table_{name}.tsv")
    sdata = read_st(**files, name=name)
    assert sdata["observed"].shape == (n_spots, 1000)
    assert sdata["observed"].var_names[0] == "ENSMUSG00000064339"
    assert sdata.attrs["stpredict"]["um_per_px"][f"{name}_image"] == pytest.approx(4.636, abs=0.003)
    assert on_tissue(sdata, name)[0] > 0.95


def test_real_section_at_another_size_than_its_spots(real):
    files = real(
        "her2st_lowres",
        image="A1.png",
        counts="A1.tsv.gz",
        spots="A1_selection.tsv",
        labels="A1_labeled_coordinates.tsv",
    )
    with pytest.raises(ValueError, match="346 of 346 spots of section 'A1' lie off its image"):
        read_st(**files, name="A1")
    sdata = read_st(**files, name="A1", pixel_frame=(6954, 7435))
    table = sdata["observed"]
    assert table.shape == (346, 15_045)
    assert table.obs["label"].value_counts()["invasive cancer"] == 282
    assert sdata.attrs["stpredict"]["um_per_px"]["A1_image"] == pytest.approx(3.185, abs=0.002)
    black = sdata["A1_image"]["scale0"]["image"].values.max(axis=0) == 0
    x, y = table.obsm["spatial"].astype(int).T
    assert not black[y, x].any()  # the background is masked: a mirrored or shifted section would lie on black
    assert black[y, 1999 - x].mean() > 0.05
