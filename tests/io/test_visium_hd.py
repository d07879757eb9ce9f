"""Visium HD: a small folder in Space Ranger's layout; and clear words on damage."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import shapely
from spatialdata import read_zarr

import stpredict as stp
from stpredict._slides.slides import Selection, resolve

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("conftest.py"))))
BIN = "binned_outputs/square_008um"
FACTORS = f"{BIN}/spatial/scalefactors_json.json"


def rewrite(folder, **changes):
    path = folder / FACTORS
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_sample_is_ready_for_training(hd_folder):
    sdata = stp.io.read_visium_hd(hd_folder, patient="p")
    (slide,) = resolve(sdata, Selection())
    assert [name for _, name, _ in sdata.gen_elements()] == ["HD_image", "HD_square_008um", "observed"]
    assert (slide.um_per_px, slide.counts.shape, slide.levels[0].pixels.shape) == (0.5, (36, 4), (3, 140, 190))
    assert slide.diameter_um == pytest.approx(8 * 2 / np.pi**0.5)  # of a circle as large as the square
    assert sdata.attrs["stpredict"]["um_per_px_from"] == {"HD_image": "'scalefactors_json.json'"}
    stp.pp.resolution(sdata)


def test_every_bin_has_its_own_counts_and_place(hd_folder):
    sdata = stp.io.read_visium_hd(hd_folder, name="a")
    table = sdata["observed"]
    places = pd.read_parquet(hd_folder / BIN / "spatial/tissue_positions.parquet").set_index("barcode")
    assert (places.loc[table.obs_names, "in_tissue"] == 1).all()
    number = places.index.get_indexer(table.obs_names)
    np.testing.assert_array_equal(table.X.toarray(), np.arange(216).reshape(54, 4)[number] % 5)
    centres = sdata["a_square_008um"].loc[table.obs["spot_id"]].centroid
    expected = places.loc[table.obs_names, ["pxl_col_in_fullres", "pxl_row_in_fullres"]]
    np.testing.assert_allclose(np.column_stack([centres.x, centres.y]), expected)


def test_a_prefix_of_the_files(hd_folder):
    places = hd_folder / BIN / "spatial/tissue_positions.parquet"
    places.rename(places.with_name("S7_tissue_positions.parquet"))
    assert list(stp.io.read_visium_hd(hd_folder, name="x").shapes) == ["x_square_008um"]


def test_bins_that_are_not_on_tissue_are_left_out(hd_folder):
    path = hd_folder / BIN / "spatial/tissue_positions.parquet"
    places = pd.read_parquet(path)
    places.loc[places.index[:30], "in_tissue"] = 0
    places.to_parquet(path)
    assert stp.io.read_visium_hd(hd_folder)["observed"].n_obs == 16


def test_bin_sizes_are_named(hd_folder):
    with pytest.raises(ValueError, match=r"`bin_um` is 2; '.*binned_outputs' has bins of 8, 16 µm"):
        stp.io.read_visium_hd(hd_folder, bin_um=2)
    with pytest.raises(FileNotFoundError, match=r"No matrix of counts in '.*square_016um'"):
        stp.io.read_visium_hd(hd_folder, bin_um=16)


def test_the_places_decide_over_scale_factors(hd_folder):
    rewrite(hd_folder, microns_per_pixel=0.6)
    words = r"is 0\.5 µm per pixel by its spot pitch, but 0\.6 by 'scalefactors_json\.json' \(-16\.7 %"
    with pytest.warns(UserWarning, match=words):
        sdata = stp.io.read_visium_hd(hd_folder)
    assert sdata.attrs["stpredict"]["um_per_px"] == pytest.approx({"HD_image": 0.5})
    assert sdata["HD_square_008um"].area.to_numpy() == pytest.approx(16**2)
    rewrite(hd_folder, microns_per_pixel=1.0)
    with pytest.raises(ValueError, match=r"but 1 by 'scalefactors_json\.json' .* factor of 1\.5"):
        stp.io.read_visium_hd(hd_folder)
    sdata = stp.io.read_visium_hd(hd_folder, um_per_px=0.52)
    assert sdata.attrs["stpredict"]["um_per_px"] == {"HD_image": 0.52}


def test_pixels_that_are_not_square(hd_folder):
    path = hd_folder / BIN / "spatial/tissue_positions.parquet"
    places = pd.read_parquet(path)
    places["pxl_row_in_fullres"] *= 0.97
    places.to_parquet(path)
    with pytest.raises(ValueError, match=r"'HD' are not square: .* wide and .* high"):
        stp.io.read_visium_hd(hd_folder)
    with pytest.warns(UserWarning, match=r"'HD' are not square: .*`um_per_px=0\.5` is used for both"):
        stp.io.read_visium_hd(hd_folder, um_per_px=0.5)


def test_image_is_missing_or_not_the_one(hd_folder, tmp_path):
    (hd_folder / "microscope_image/tissue.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"No full-resolution image in .* fetch .*'Microscope image'"):
        stp.io.read_visium_hd(hd_folder)
    small = np.zeros((60, 60, 3), np.uint8)
    with pytest.raises(ValueError, match=r"spots lie off image 'small.tif': .* it is 60 x 60 px"):
        stp.io.read_visium_hd(hd_folder, saved(small, tmp_path / "small.tif"))


def saved(pixels, path):
    import tifffile

    tifffile.imwrite(path, pixels, photometric="rgb")
    return path


@pytest.mark.parametrize("file", ["filtered_feature_bc_matrix.h5", "spatial/tissue_positions.parquet"])
def test_a_truncated_or_missing_file_is_named(hd_folder, file):
    path = hd_folder / BIN / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=f"{re.escape(path.name)}.* cannot be read: .* Bytes are missing"):
        stp.io.read_visium_hd(hd_folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"No [fm].* in .*{re.escape(path.name)}"):
        stp.io.read_visium_hd(hd_folder)


def test_wrong_folder(hd_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'.*nowhere' does not exist\. Give the folder of a Visium HD sample"):
        stp.io.read_visium_hd(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"No folder of bins in .*looked for 'binned_outputs'"):
        stp.io.read_visium_hd(hd_folder / "binned_outputs")


def test_cells_and_other_bins_are_not_read(hd_folder):
    cells = hd_folder / "segmented_outputs"
    cells.mkdir()
    for name in ("cell_segmentations.geojson", "filtered_feature_cell_matrix.h5"):
        (cells / name).write_text("cut sho")
    (hd_folder / "binned_outputs/square_016um/filtered_feature_bc_matrix.h5").write_text("cut sho")
    assert list(stp.io.read_visium_hd(hd_folder).shapes) == ["HD_square_008um"]


# cells of Space Ranger 4, and several bin sizes


@pytest.fixture
def cells_folder(hd_folder):
    made.write_cells(hd_folder)
    return hd_folder


@pytest.mark.parametrize("field", [int, str, "cellid_{:09}-1".format])
def test_cells_have_their_own_outlines_and_counts(hd_folder, field):
    made.write_cells(hd_folder, field=field)
    sdata = stp.io.read_visium_hd(hd_folder, bin_um=None, cells=True, patient="p")
    assert [name for _, name, _ in sdata.gen_elements()] == ["HD_image", "HD_cells", "observed"]
    table, outlines = sdata["observed"], sdata["HD_cells"]
    assert table.obs["spot_id"].tolist() == [2, 7, 11]
    np.testing.assert_array_equal(table.X.toarray(), np.array([[2], [7], [11]]) * [1, 2, 3, 4])
    for number, geometry in zip(table.obs["spot_id"], outlines.loc[table.obs["spot_id"]].geometry, strict=True):
        assert geometry.equals(made.CELL_AREAS[number])
    (slide,) = resolve(sdata, Selection())
    np.testing.assert_allclose(slide.xy_px, [(66, 46), (28, 25), (105, 97)])
    assert (slide.um_per_px, slide.diameter_um) == (0.5, pytest.approx(2 * np.sqrt(144 / np.pi) * 0.5))


def test_bins_and_cells_in_one_object(cells_folder, tmp_path):
    made.write_coarse_bins(cells_folder)
    alone = stp.io.read_visium_hd(cells_folder)
    sdata = stp.io.read_visium_hd(cells_folder, bin_um=[8, 16], cells=True, patient="p")
    assert list(sdata.shapes) == ["HD_square_008um", "HD_square_016um", "HD_cells"]
    assert list(sdata.tables) == ["observed", "HD_square_016um_counts", "HD_cells_counts"]
    np.testing.assert_array_equal(sdata["observed"].X.toarray(), alone["observed"].X.toarray())
    assert sdata["HD_square_016um"].area.to_numpy() == pytest.approx(32**2)
    assert [len(resolve(sdata, Selection(table_name=name))[0].xy_px) for name in sdata.tables] == [36, 15, 3]
    assert set(sdata["HD_cells_counts"].obs["patient"]) == {"p"}
    stp.pp.resolution(sdata)
    predictor = stp.tl.fit(
        sdata, "mean_profile", table_name="HD_square_016um_counts", config={"progress": False}, save_dir=tmp_path / "p"
    )
    stp.tl.predict(sdata, predictor, table_name="HD_cells_counts", progress=False)
    assert sdata["predicted"].obs["spot_id"].tolist() == [2, 7, 11]
    sdata.write(tmp_path / "a.zarr")
    again = read_zarr(tmp_path / "a.zarr")
    assert resolve(again, Selection(table_name="HD_cells_counts"))[0].instances.tolist() == [2, 7, 11]


def test_cells_beyond_the_image_are_left_out(cells_folder):
    made.write_cells(cells_folder, made.CELL_AREAS | {7: shapely.box(500, 20, 520, 30)})
    for place in (cells_folder / BIN / "spatial", cells_folder / "segmented_outputs/spatial"):
        made.draw(place / "tissue_hires_image.png", 95, 70)
    with pytest.warns(UserWarning, match="1 of 39 spots lie off image 'tissue.tif'"):
        sdata = stp.io.read_visium_hd(cells_folder, cells=True)
    assert sdata["HD_cells"].index.tolist() == [2, 11]
    assert sdata["HD_cells_counts"].obs["spot_id"].tolist() == [2, 11]


def test_outlines_that_cross_themselves_or_have_no_area(hd_folder):
    crossed = shapely.Polygon([(60, 40), (70, 50), (70, 40), (60, 50)])
    made.write_cells(
        hd_folder, made.CELL_AREAS | {2: crossed, 11: shapely.Polygon([(9, 9), (20, 20), (9, 9)]), 7: None}
    )
    with pytest.warns(UserWarning, match=r"2 of 3 cells of 'cell_segmentations.geojson' have no area"):
        sdata = stp.io.read_visium_hd(hd_folder, bin_um=None, cells=True)
    assert sdata["HD_cells"].index.tolist() == [2]
    assert sdata["HD_cells"].area.tolist() == [pytest.approx(50)]


def test_cells_without_outlines(hd_folder):
    with pytest.raises(FileNotFoundError, match=r"No folder of segmented cells in .*looked for 'segmented_outputs'"):
        stp.io.read_visium_hd(hd_folder, cells=True)
    place = made.write_cells(hd_folder, {2: made.CELL_AREAS[2]})
    words = r"2 of 3 cells with counts have no outline .* instance 'cellid_000000007-1', .*Give the matrix and the outl"
    with pytest.raises(ValueError, match=words):
        stp.io.read_visium_hd(hd_folder, cells=True)
    path = place / "cell_segmentations.geojson"
    made.write_cells(hd_folder)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"'cell_segmentations.geojson' cannot be read: .* Bytes are missing"):
        stp.io.read_visium_hd(hd_folder, cells=True)
    with pytest.raises(ValueError, match=r"`bin_um` is None, and `cells` is False, so nothing is read\. Give"):
        stp.io.read_visium_hd(hd_folder, bin_um=None)
