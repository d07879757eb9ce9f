"""Xenium: a small folder in the layout of version 2; H&E placed by its alignment."""

from __future__ import annotations

import json
import re

import numpy as np
import pandas as pd
import pytest
from spatialdata import read_zarr

import stpredict as stp
from stpredict._geometry import apply_affine
from stpredict._slides.slides import Selection, resolve

CELLS = np.array([[20.0, 10.0], [40.0, 30.0], [60.0, 20.0], [30.0, 50.0]])  # µm
TO_HE = np.array([[0, -0.5, 150], [0.5, 0, -2], [0, 0, 1]])  # inverse of the alignment


def test_a_sample_is_ready_for_training(xenium_folder):
    sdata = stp.io.read_xenium(xenium_folder, patient="p")
    names = [name for _, name, _ in sdata.gen_elements()]
    assert names == ["X1_image", "X1_transcripts", "X1_cells", "observed"]
    (slide,) = resolve(sdata, Selection())
    assert slide.um_per_px == pytest.approx(0.5)  # 0.25 µm a pixel of the morphology image, which is twice as fine
    assert slide.diameter_um == pytest.approx(10, rel=1e-3)
    pixels = np.column_stack([CELLS * 4, np.ones(4)]) @ TO_HE.T
    np.testing.assert_allclose(slide.xy_px, pixels[:, :2])
    np.testing.assert_allclose(sdata["observed"].obsm["spatial"], pixels[:, :2])
    np.testing.assert_array_equal(slide.counts.toarray(), np.arange(16).reshape(4, 4))
    assert slide.genes == ("A", "B", "B-1", "C")
    origin = sdata.attrs["stpredict"]["um_per_px_from"]
    assert origin == {"X1_image": "'experiment.xenium' and the alignment"}


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # dask asks pandas for it
def test_what_is_read_is_written_and_read(xenium_folder, tmp_path):
    stp.io.read_xenium(xenium_folder).write(tmp_path / "a.zarr")
    assert len(read_zarr(tmp_path / "a.zarr")["X1_transcripts"]) == 40


def test_without_transcripts(xenium_folder):
    (xenium_folder / "transcripts.parquet").unlink()
    assert not stp.io.read_xenium(xenium_folder, transcripts=False).points
    with pytest.raises(FileNotFoundError, match=r"No table in .*'transcripts\.parquet'"):
        stp.io.read_xenium(xenium_folder)


def test_image_and_alignment_by_argument(xenium_folder, tmp_path):
    image, matrix = xenium_folder / "X1_he_image.ome.tif", xenium_folder / "X1_he_imagealignment.csv"
    expected = stp.io.read_xenium(xenium_folder)["observed"].obsm["spatial"]
    (tmp_path / "he.tif").write_bytes(image.read_bytes())
    (tmp_path / "matrix.csv").write_bytes(matrix.read_bytes())
    image.unlink()
    values = np.loadtxt(matrix, delimiter=",")
    for alignment in (tmp_path / "matrix.csv", values, values.tolist()):
        sdata = stp.io.read_xenium(xenium_folder, tmp_path / "he.tif", alignment=alignment)
        np.testing.assert_allclose(sdata["observed"].obsm["spatial"], expected)
    with pytest.raises(FileNotFoundError, match=r"No alignment of 'he\.tif'\. Give `alignment`"):
        stp.io.read_xenium(xenium_folder, tmp_path / "he.tif")


def test_no_he_image(xenium_folder):
    (xenium_folder / "X1_he_image.ome.tif").unlink()
    with pytest.raises(FileNotFoundError, match=r"No H&E image .* fluorescence\. Fetch .*Post-Xenium H&E image"):
        stp.io.read_xenium(xenium_folder)
    with pytest.raises(FileNotFoundError, match="No image at"):
        stp.io.read_xenium(xenium_folder, "gone.tif")


@pytest.mark.parametrize(("matrix", "words"), [
    (np.eye(2), r"no affine matrix \(shape \(2, 2\)\)"),
    (np.diag([0.0, 1, 1]), "no affine matrix"),
    (np.array([[1, 0, 0], [0, 1, 0], [0, 1, 1.0]]), "no affine matrix"),
    (np.diag([2.0, 2.04, 1]), r"not square: 0\.5 µm wide and 0\.51 µm high"),
    (np.array([[2.0, 0, 9000], [0, 2, 0], [0, 0, 1]]), "No cell lies on .* as `alignment` places it. Give the"),
])  # fmt: skip
def test_alignments_that_are_none(xenium_folder, matrix, words):
    with pytest.raises(ValueError, match=words):
        stp.io.read_xenium(xenium_folder, alignment=matrix)


def test_an_inverse_alignment_is_recognised(xenium_folder):
    right = np.array([[2.0, 0, 50], [0, 2, 20], [0, 0, 1]])
    stp.io.read_xenium(xenium_folder, alignment=right)
    with pytest.raises(ValueError, match=r"With its inverse 100 % do: give the inverse"):
        stp.io.read_xenium(xenium_folder, alignment=np.linalg.inv(right))


@pytest.mark.parametrize("file", ["cells.parquet", "transcripts.parquet", "X1_he_imagealignment.csv"])
def test_a_truncated_or_missing_file_is_named(xenium_folder, file):
    path = xenium_folder / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    words = f"{re.escape(path.name)}.* cannot be read|alignment '.*{re.escape(path.name)}' is no affine matrix"
    with pytest.raises(ValueError, match=words):
        stp.io.read_xenium(xenium_folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"No table .*{path.name}|No alignment of"):
        stp.io.read_xenium(xenium_folder)


def test_no_resolution(xenium_folder):
    path = xenium_folder / "experiment.xenium"
    path.write_text(json.dumps({"analysis_sw_version": "xenium-2.0.0.6"}))
    with pytest.raises(ValueError, match=r"experiment\.xenium' cannot be read: it has no field 'pixel_size'"):
        stp.io.read_xenium(xenium_folder)


def test_wrong_folder(xenium_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"does not exist\. Give the folder of a Xenium sample"):
        stp.io.read_xenium(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"No description of the run in .*whole output of one sample"):
        stp.io.read_xenium(tmp_path)


def test_16_bit_image(xenium_folder):
    import tifffile

    tifffile.imwrite(xenium_folder / "X1_he_image.ome.tif", np.zeros((145, 150, 3), np.uint16), photometric="rgb")
    assert stp.io.read_xenium(xenium_folder)["X1_image"]["scale0"]["image"].dtype == np.uint16  # patches are 8-bit


@pytest.mark.parametrize(("separator", "encoding"), [(",", "utf-8-sig"), (";", "utf-8"), ("\t", "utf-16")])
def test_an_alignment_that_was_saved_by_a_spreadsheet(xenium_folder, separator, encoding):
    path = xenium_folder / "X1_he_imagealignment.csv"
    expected = stp.io.read_xenium(xenium_folder)["observed"].obsm["spatial"]
    path.write_text(path.read_text().replace(",", separator), encoding=encoding)
    np.testing.assert_allclose(stp.io.read_xenium(xenium_folder)["observed"].obsm["spatial"], expected)


KEYPOINTS = np.array([[20.0, 10], [120, 20], [130, 130], [15, 120], [70, 70]])  # px of the H&E image


def keypoint_file(folder, errors_um, n=5):
    """Pairs of keypoints that are off by so many µm along x in the morphology image."""
    fixed = apply_affine(np.linalg.inv(TO_HE), KEYPOINTS) + np.column_stack([np.asarray(errors_um) / 0.25, np.zeros(5)])
    pairs = pd.DataFrame(np.hstack([fixed, KEYPOINTS]), columns=["fixedX", "fixedY", "alignmentX", "alignmentY"])
    pairs[:n].to_csv(folder / "X1_he_imagealignment.csv", index=False)
    return pairs


def test_keypoints_give_the_matrix_with_the_least_squares(xenium_folder):
    expected = stp.io.read_xenium(xenium_folder)
    pairs = keypoint_file(xenium_folder, np.zeros(5))
    for given in (None, pairs.to_numpy(), pairs.assign(note=1)[["note", *pairs.columns[[2, 3, 0, 1]]]]):
        found = stp.io.read_xenium(xenium_folder, alignment=given)
        np.testing.assert_allclose(found["observed"].obsm["spatial"], expected["observed"].obsm["spatial"], atol=1e-6)
        assert found.attrs["stpredict"]["alignment"]["X1_image"]["residuals_um"] == pytest.approx(np.zeros(5), abs=1e-3)
    assert "alignment" not in expected.attrs["stpredict"]
    keypoint_file(xenium_folder, [0, 0.1, 0, 0.1, -0.2])
    residuals = stp.io.read_xenium(xenium_folder).attrs["stpredict"]["alignment"]["X1_image"]["residuals_um"]
    design = np.column_stack([KEYPOINTS, np.ones(5)])
    errors = np.array([0, 0.1, 0, 0.1, -0.2])
    expected_residuals = np.abs(errors - design @ np.linalg.lstsq(design, errors, rcond=None)[0])
    assert residuals == pytest.approx(expected_residuals, abs=1e-3)


def test_keypoints_that_do_not_fit_are_named(xenium_folder):
    keypoint_file(xenium_folder, [0, 0, 0, 0, 60])
    words = r"5 pairs of keypoints .* farthest are 5 \(48 µm\), .* away from their partners, and 20 µm are allowed"
    with pytest.raises(ValueError, match=words):
        stp.io.read_xenium(xenium_folder)


@pytest.mark.parametrize(("pairs", "words"), [
    (np.ones((2, 4)), r"holds 2 pairs of keypoints; at least three are needed, not all on one line\. Set more"),
    (np.arange(20.0).reshape(5, 4), r"holds 5 pairs of keypoints; at least three are needed"),
    (np.column_stack([np.arange(5.0), np.arange(5.0), KEYPOINTS]), r"holds 5 pairs .* not all on one line"),
    (np.empty((0, 4)), "holds 0 pairs of keypoints"),
    (np.full((4, 4), np.nan), r"has keypoints without coordinates, or .* Remove these pairs"),
    (np.diag([1e308, 1, 1, 1]), r"or with some larger than any slide"),
])  # fmt: skip
def test_too_few_keypoints(xenium_folder, pairs, words):
    with pytest.raises(ValueError, match=words):
        stp.io.read_xenium(xenium_folder, alignment=pairs)


def test_cells_without_a_place(xenium_folder):
    path = xenium_folder / "cells.parquet"
    pd.read_parquet(path).assign(x_centroid=1e308).to_parquet(path)
    with pytest.raises(ValueError, match=r"4 of 4 cells have no coordinates in '.*cells.parquet', or some larger"):
        stp.io.read_xenium(xenium_folder)


def test_three_keypoints_fit_exactly(xenium_folder):
    keypoint_file(xenium_folder, np.zeros(5), n=3)
    with pytest.warns(UserWarning, match=r"three pairs of keypoints, which every affine map fits exactly"):
        stp.io.read_xenium(xenium_folder)


@pytest.mark.parametrize(("text", "words"), [
    ("some,text\n", r"3 x 3 numbers are needed, but .*'some'\. Give another file"),
    ("fixedX,fixedY,alignmentX,alignmentY\n1,2,3,x\n", r"numbers are needed, but .*'x'\. Give another file"),
    ("fixedX,fixedY,alignmentX,alignmentY\n1,2,3\n", r"its header has 4 fields, but line 2 has 3\. Give another"),
])  # fmt: skip
def test_alignments_of_something_else(xenium_folder, text, words):
    (xenium_folder / "X1_he_imagealignment.csv").write_text(text)
    with pytest.raises(ValueError, match=words):
        stp.io.read_xenium(xenium_folder)


def test_cells_are_matched_by_their_ids(xenium_folder):
    path = xenium_folder / "cells.parquet"
    expected = stp.io.read_xenium(xenium_folder)["observed"]
    cells = pd.read_parquet(path)
    cells.iloc[::-1].to_parquet(path)
    found = stp.io.read_xenium(xenium_folder)["observed"]
    np.testing.assert_array_equal(found.obsm["spatial"], expected.obsm["spatial"])
    cells.iloc[1:].to_parquet(path)
    with pytest.raises(
        ValueError, match=r"1 of 4 cells with counts are not in .*'aaaaaaab-1'; it holds 3.* of one run"
    ):
        stp.io.read_xenium(xenium_folder)
