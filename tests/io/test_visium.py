"""Visium: counts, places, resolution and image of every generation of slides; and clear words on damage."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict._geometry import PatchSpec
from stpredict._pixels import PatchReader
from stpredict._slides.slides import Selection, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from spatialdata import SpatialData


def only(sdata: SpatialData, **selection: str):
    (slide,) = resolve(sdata, Selection(**selection))
    return slide


def rewrite(folder: Path, **changes: float) -> None:
    path = folder / "spatial/scalefactors_json.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_sample_is_ready_for_training(visium_folder):
    sdata = stp.io.read_visium(visium_folder)
    assert [name for _, name, _ in sdata.gen_elements()] == ["V_1_image", "V_1_spots", "observed"]
    slide = only(sdata)
    assert slide.um_per_px == pytest.approx(5, rel=1e-4)
    assert slide.diameter_um == pytest.approx(55)
    assert (slide.genes, slide.counts.shape) == (("A", "B", "B-1", "C"), (40, 4))
    assert slide.levels[0].pixels.shape == (3, 130, 220)
    assert sdata.attrs["stpredict"]["um_per_px_from"] == {"V_1_image": "spot pitch"}


def test_every_spot_has_its_own_counts_and_place(visium_folder):
    table = stp.io.read_visium(visium_folder, name="a", patient="p")["observed"]
    places = pd.read_csv(visium_folder / "spatial/tissue_positions.csv", index_col="barcode").loc[table.obs_names]
    np.testing.assert_array_equal(table.obsm["spatial"], places[["pxl_col_in_fullres", "pxl_row_in_fullres"]])
    number = table.obs_names.str[4:8].astype(int).to_numpy()
    np.testing.assert_array_equal(table.X.toarray(), np.arange(192).reshape(48, 4)[number] % 7)
    assert table.obs["patient"].unique().tolist() == ["p"]
    assert table.var["gene_ids"].tolist() == ["ENSG0", "ENSG1", "ENSG2", "ENSG3"]


def test_raw_counts_are_read_for_spots_on_tissue_only(visium_folder):
    filtered = stp.io.read_visium(visium_folder)["observed"]
    (visium_folder / "filtered_feature_bc_matrix.h5").unlink()
    raw = stp.io.read_visium(visium_folder)["observed"]
    assert raw.n_obs == 40
    np.testing.assert_array_equal(raw[filtered.obs_names].X.toarray(), filtered.X.toarray())


def test_layout_of_space_ranger_1(visium_folder):
    spatial = visium_folder / "spatial"
    new = stp.io.read_visium(visium_folder, name="a")
    pd.read_csv(spatial / "tissue_positions.csv").to_csv(
        spatial / "tissue_positions_list.csv", header=False, index=False
    )
    (spatial / "tissue_positions.csv").unlink()
    (spatial / "tissue_hires_image.png").unlink()
    old = stp.io.read_visium(visium_folder, name="a")
    pd.testing.assert_frame_equal(old["observed"].to_df(), new["observed"].to_df())
    np.testing.assert_array_equal(old["observed"].obsm["spatial"], new["observed"].obsm["spatial"])


@pytest.mark.parametrize("kind", ["index of parquet", "numbers of rows"])
def test_positions_that_pandas_wrote_again(visium_folder, kind):
    wanted = stp.io.read_visium(visium_folder)["observed"]
    path = visium_folder / "spatial/tissue_positions.csv"
    places = pd.read_csv(path)
    path.unlink()
    if kind == "numbers of rows":
        places.to_csv(path)
    else:
        places.set_index("barcode").to_parquet(path.with_suffix(".parquet"))
    found = stp.io.read_visium(visium_folder)["observed"]
    assert list(found.obs_names) == list(wanted.obs_names)
    np.testing.assert_array_equal(found.obsm["spatial"], wanted.obsm["spatial"])


def test_files_that_macos_leaves_beside_others_are_no_files_of_the_sample(visium_folder):
    for name in ("._image.tif", "._GSM1_filtered_feature_bc_matrix.h5", "._tissue_positions.csv"):
        (visium_folder / name).write_bytes(b"Mac OS X")
    matrix = visium_folder / "filtered_feature_bc_matrix.h5"
    matrix.rename(visium_folder / "GSM1_filtered_feature_bc_matrix.h5")
    assert only(stp.io.read_visium(visium_folder)).um_per_px == pytest.approx(5, rel=1e-4)


def test_a_prefix_of_the_matrix(visium_folder):
    (visium_folder / "raw_feature_bc_matrix.h5").unlink()
    old = visium_folder / "filtered_feature_bc_matrix.h5"
    old.rename(visium_folder / "S7_filtered_feature_bc_matrix.h5")
    assert list(stp.io.read_visium(visium_folder, name="x").images) == ["x_image"]


def test_overviews_have_their_own_resolution_and_the_same_spots(visium_folder):
    sdata = stp.io.read_visium(visium_folder, name="a", overviews=True)
    um = sdata.attrs["stpredict"]["um_per_px"]
    assert um == pytest.approx({"a_image": 5, "a_hires_image": 10, "a_lowres_image": 20}, rel=1e-4)
    full, hires = only(sdata, image_key="a_image"), only(sdata, image_key="a_hires_image")
    np.testing.assert_allclose(hires.xy_px, full.xy_px / 2)
    np.testing.assert_allclose(hires.xy_um, full.xy_um)
    stp.pp.resolution(sdata, image_key="a_hires_image")
    assert sdata.attrs["stpredict"]["um_per_px"] == um


def test_an_overview_on_demand(visium_folder):
    sdata = stp.io.read_visium(visium_folder, "lowres", name="a")
    assert list(sdata.images) == ["a_image"]
    assert only(sdata).um_per_px == pytest.approx(20, rel=1e-4)
    assert only(sdata).diameter_um == pytest.approx(55)


def test_without_a_full_image_the_message_says_what_to_fetch(visium_folder):
    (visium_folder / "image.tif").unlink()
    words = (
        r"No full-resolution image .* only overviews \(hires, lowres\).* fetch 'Input image \(TIFF\)'.*image='hires'"
    )
    with pytest.raises(FileNotFoundError, match=words):
        stp.io.read_visium(visium_folder)
    (visium_folder / "spatial/tissue_hires_image.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"No 'hires' image in .* \(there is 'lowres'\)"):
        stp.io.read_visium(visium_folder, "hires")


def test_several_images_are_not_guessed_among(visium_folder):
    shutil.copy(visium_folder / "image.tif", visium_folder / "other.tif")
    with pytest.raises(ValueError, match=r"Which image is it\? .* holds 'image.tif', 'other.tif'"):
        stp.io.read_visium(visium_folder)
    assert stp.io.read_visium(visium_folder, visium_folder / "other.tif")


def test_an_image_that_is_missing(visium_folder):
    with pytest.raises(FileNotFoundError, match=r"No image at '.*gone\.tif'"):
        stp.io.read_visium(visium_folder, "gone.tif")


@pytest.mark.parametrize("diameter_um", [55, 60, 65, 70])
def test_theoretical_spots_of_every_generation(visium_folder, diameter_um):
    rewrite(visium_folder, spot_diameter_fullres=diameter_um / 5)
    assert stp.io.read_visium(visium_folder, name="a").attrs["stpredict"]["um_per_px"]["a_image"] == pytest.approx(
        5, rel=1e-4
    )


def test_the_pitch_decides_over_a_diameter_of_no_generation(visium_folder):
    rewrite(visium_folder, spot_diameter_fullres=10.0)
    words = (
        r"is 5 µm per pixel by its spot pitch, but 6\.5 by a spot diameter of 65 µm \(-23\.1 %\)\. The first is used"
    )
    with pytest.warns(UserWarning, match=words):
        assert only(stp.io.read_visium(visium_folder)).um_per_px == pytest.approx(5, rel=1e-4)
    rewrite(visium_folder, spot_diameter_fullres=8.0)  # far from every generation
    with pytest.raises(
        ValueError, match=r"8\.125 by a spot diameter of 65 µm .* differ by a factor of 1\.5\. Give .* `um_"
    ):
        stp.io.read_visium(visium_folder)
    sdata = stp.io.read_visium(visium_folder, um_per_px=5.01)
    assert only(sdata).um_per_px == 5.01
    few = sdata["observed"].obs["array_row"] % 2 == 0  # rows further apart: the array says where they belong
    sdata["observed"] = sdata["observed"][few.to_numpy()].copy()
    assert only(sdata).um_per_px == 5.01


def test_a_given_resolution_wins_over_the_pitch(visium_folder):
    sdata = stp.io.read_visium(visium_folder, name="a", um_per_px=5.1)
    assert sdata.attrs["stpredict"]["um_per_px"] == {"a_image": 5.1}
    assert sdata.attrs["stpredict"]["um_per_px_from"] == {"a_image": "argument"}
    words = r"is 4\.231 µm per pixel by the argument `um_per_px`, but 5 by its spot pitch"
    with pytest.warns(UserWarning, match=words):
        sdata = stp.io.read_visium(visium_folder, um_per_px=55 / 13)
    assert sdata.attrs["stpredict"]["um_per_px"] == {"V_1_image": 55 / 13}


def test_pixels_that_are_not_square(visium_folder):
    path = visium_folder / "spatial/tissue_positions.csv"
    places = pd.read_csv(path)
    places["pxl_row_in_fullres"] *= 0.98
    places.to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"'V 1' are not square: 5 µm wide and 5\.102 µm high \(-2\.0 %"):
        stp.io.read_visium(visium_folder)
    with pytest.warns(UserWarning, match=r"'V 1' are not square: 5 µm wide .*`um_per_px=5\.05` is used for both"):
        sdata = stp.io.read_visium(visium_folder, um_per_px=5.05)
    assert sdata.attrs["stpredict"]["um_per_px"] == {"V_1_image": 5.05}


MISSING = {
    "filtered_feature_bc_matrix.h5": "No matrix of counts in",
    "spatial/tissue_positions.csv": "No file of positions in",
    "spatial/scalefactors_json.json": "No file of scale factors in",
}


@pytest.mark.parametrize("file", MISSING)
def test_a_missing_file_is_named(visium_folder, file):
    (visium_folder / "raw_feature_bc_matrix.h5").unlink()
    (visium_folder / file).unlink()
    name = file.split("/")[-1]
    with pytest.raises(FileNotFoundError, match=f"{MISSING[file]}.*looked for .*{re.escape(name)}"):
        stp.io.read_visium(visium_folder)


TRUNCATED = {
    "filtered_feature_bc_matrix.h5": "The matrix of counts .*filtered.* cannot be read",
    "spatial/scalefactors_json.json": "The file of scale factors .* cannot be read",
    "spatial/tissue_positions.csv": r"\d+ of 40 spots with counts have no position in '.*tissue_positions.csv'",
    "image.tif": r"The slide 'image\.tif' cannot be read: it is cut short",
}


@pytest.mark.parametrize("file", TRUNCATED)
def test_a_truncated_file_is_named(visium_folder, file):
    path = visium_folder / file
    content = path.read_bytes()
    at = content.rfind(b"\n", 0, len(content) // 2) + 1 if path.suffix == ".csv" else len(content) // 2
    path.write_bytes(content[:at])
    with pytest.raises(ValueError, match=TRUNCATED[file]):
        stp.io.read_visium(visium_folder)


def test_a_matrix_that_lost_values(visium_folder):
    import h5py

    with h5py.File(visium_folder / "filtered_feature_bc_matrix.h5", "a") as file:
        few = file["matrix/data"][:5]
        del file["matrix/data"]
        file["matrix/data"] = few
    with pytest.raises(
        ValueError, match=r"it names 40 barcodes and 137 values, but holds 40 and 5 .*Bytes are missing"
    ):
        stp.io.read_visium(visium_folder)


def test_wrong_folder(visium_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'.*nowhere' does not exist\. Give the folder of a Visium sample"):
        stp.io.read_visium(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"image.tif' is a file\. Give the folder"):
        stp.io.read_visium(visium_folder / "image.tif")
    with pytest.raises(FileNotFoundError, match=r"it holds 'image.tif'|it holds .*'tissue_positions.csv'"):
        stp.io.read_visium(visium_folder / "spatial")


def test_no_spot_on_tissue(visium_folder):
    path = visium_folder / "spatial/tissue_positions.csv"
    pd.read_csv(path).assign(in_tissue=0).to_csv(path, index=False)
    with pytest.raises(ValueError, match="No spot with counts lies on tissue"):
        stp.io.read_visium(visium_folder)


def test_16_bit_image(visium_folder):
    import tifffile

    pixels = tifffile.imread(visium_folder / "image.tif")
    eight = windows(stp.io.read_visium(visium_folder))
    tifffile.imwrite(visium_folder / "image.tif", pixels.astype(np.uint16) * 257, photometric="rgb")
    np.testing.assert_array_equal(windows(stp.io.read_visium(visium_folder)), eight)


def windows(sdata: SpatialData) -> np.ndarray:
    slide = only(sdata)
    reader = PatchReader(slide.levels, slide.um_per_px, PatchSpec(fov_um=(80,), size_px=16))
    return reader.read(slide.xy_px)[0]


def test_grey_image(visium_folder):
    import tifffile

    tifffile.imwrite(visium_folder / "image.tif", np.zeros((130, 220), np.uint8))
    with pytest.raises(ValueError, match=r"'image\.tif' is not H&E in colour \(grey"):
        stp.io.read_visium(visium_folder)


def test_nothing_is_written(visium_folder):
    before = {file: file.stat().st_mtime_ns for file in visium_folder.rglob("*")}
    stp.io.read_visium(visium_folder, overviews=True)
    assert {file: file.stat().st_mtime_ns for file in visium_folder.rglob("*")} == before


def test_real_targeted_sample(her2st_dir):
    folder = her2st_dir / "visium_targeted_breast"
    if not folder.is_dir():
        pytest.skip("needs visium_targeted_breast")
    with pytest.raises(FileNotFoundError, match=r"only overviews \(lowres\)"):
        stp.io.read_visium(folder)
    slide = only(stp.io.read_visium(folder, "lowres", name="breast"))
    assert slide.counts.shape == (4325, 1056)
    assert slide.um_per_px * 0.024752475 == pytest.approx(100 / 273.75, rel=2e-3)  # not 55 / 177.5, which is 0.31
    inside = (slide.xy_px > 0) & (slide.xy_px < 600)
    assert inside.all()


def test_real_slice_of_an_early_space_ranger(her2st_dir):
    folder = her2st_dir / "dlpfc_151510"
    if not folder.is_dir():
        pytest.skip("needs dlpfc_151510")
    slide = only(stp.io.read_visium(folder, "lowres", name="cortex"))
    assert (slide.counts.shape, slide.diameter_um) == ((4634, 500), pytest.approx(55))
    assert slide.um_per_px * 0.045004502 == pytest.approx(100 / 138.7, rel=2e-3)  # a spot of 96.9 px is 70 µm wide
