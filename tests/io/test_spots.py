"""Where spots lie and what they are: every layout of spot files, affine maps and annotations."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict.io._spots import read_affine, read_labels, read_spots, spots_from_names

AFFINE = np.array([[20.0, 1, 100], [-2, 30, 50], [0, 0, 1]])


@pytest.fixture
def write(tmp_path):
    def make(text, name="spots.tsv"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return make


SEEN = "3\t2\t3.1\t2\t60.5\t41\t1\n4\t2\t4\t2\t80\t40\t1\n9\t9\t9\t9\t0\t0\t0\n"
LAYOUTS = {
    "detector": f"x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n{SEEN}",
    "no header": SEEN,
    "He et al.": ",X,Y\n3x2,60.5,41\n4x2,80,40\n",
    "names and pixels": "spot pixel_x pixel_y\n3x2 60.5 41\n4x2 80 40\n",
    "names and pixels, no header": "3x2\t60.5\t41\n4x2\t80\t40\n",
    "not rounded": "x\ty\tpixel_x\tpixel_y\n2.97\t2.04\t60.5\t41\n4.02\t1.98\t80\t40\n",
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(write, layout):
    spots = read_spots(write(LAYOUTS[layout]))
    assert spots.names == ["3x2", "4x2"]
    assert spots.array_xy.tolist() == [[3, 2], [4, 2]]
    assert spots.xy_px.tolist() == [[60.5, 41], [80, 40]]
    assert spots.barcodes is None


def test_barcodes(write):
    spots = read_spots(write("barcode,x,y,pixel_x,pixel_y\nACGTACGTACGT,3,2,60,41\nTCGTACGTACGT,4,2,80,40\n"))
    assert spots.barcodes == ["ACGTACGTACGT", "TCGTACGTACGT"]
    assert spots.names == ["3x2", "4x2"]


@pytest.mark.parametrize("text", ["x\ty\n3\t2\n4\t2\n", "3 2\n4 2\n", "spot,note\n3x2,a\n4x2,b\n"])
def test_affine_places_spots(write, text):
    assert read_spots(write(text), affine=AFFINE).xy_px.tolist() == [[162, 104], [182, 102]]


def test_affine_maps_adjusted_coordinates(write):
    spots = read_spots(write("x\ty\tnew_x\tnew_y\n3\t2\t3.5\t2\n"), affine=AFFINE)
    assert spots.xy_px.tolist() == [[172, 103]]
    assert spots.names == ["3x2"]


def test_spots_from_the_names_of_counts(tmp_path):
    spots = spots_from_names(["3x2", "4.1x2"], AFFINE, tmp_path / "a.tsv")
    assert spots.names == ["3x2", "4x2"]
    np.testing.assert_allclose(spots.xy_px, [[162, 104], [184, 101.8]])
    with pytest.raises(ValueError, match="neither columns 'x' and 'y' nor a column of names such as '10x13'"):
        spots_from_names(["3x2", "ACGTACGTACGT"], AFFINE, tmp_path / "a.tsv")


def test_neither_pixels_nor_affine(write):
    with pytest.raises(ValueError, match=r"'spots\.tsv' has no pixel columns .*found: 'x', 'y'\).*or give `affine`"):
        read_spots(write("x\ty\n3\t2\n"))


def test_both_pixels_and_affine(write):
    with pytest.raises(ValueError, match="has pixel columns, and `affine` is given too"):
        read_spots(write(LAYOUTS["detector"]), affine=AFFINE)


def test_no_positions(write):
    with pytest.raises(
        ValueError, match=r"has neither columns 'x' and 'y' nor .*found: 'barcode', 'pixel_x', 'pixel_y'"
    ):
        read_spots(write("barcode\tpixel_x\tpixel_y\nACGTACGTACGT\t1\t2\n"))


def test_a_name_among_others_that_is_no_position(write):
    with pytest.raises(ValueError, match="missing or non-numeric values in 'spot'"):
        read_spots(write("spot\tpixel_x\tpixel_y\n3x2\t1\t2\n4x2\t1\t2\nedge\t1\t2\n"))


AFFINES = {
    "rows": "20 1 100\n-2 30 50\n0 0 1\n",
    "commas": "20,1,100\n-2,30,50\n0,0,1",
    "one line of row vectors": "20 -2 0 1 30 0 100 50 1",
    "one line of column vectors": "20 1 100 -2 30 50 0 0 1",
    "three lines of row vectors": "20\t-2\t0\n1\t30\t0\n100\t50\t1\n",
}


@pytest.mark.parametrize("layout", AFFINES)
def test_affine_from_a_file(write, layout):
    np.testing.assert_array_equal(read_affine(write(AFFINES[layout], "t.txt")), AFFINE)


def test_affine_from_numbers():
    for given in (AFFINE, AFFINE.tolist(), AFFINE[:2], AFFINE.T):
        np.testing.assert_array_equal(read_affine(given), AFFINE)


def test_affine_without_a_shift(write):
    shear = np.array([[20.0, 1, 0], [0, 30, 0], [0, 0, 1]])
    np.testing.assert_array_equal(read_affine(shear), shear)
    np.testing.assert_array_equal(read_affine(write("20 1 0\n0 30 0\n0 0 1", "t.txt")), shear)
    np.testing.assert_array_equal(read_affine(write("20 0 0 1 30 0 0 0 1", "t.txt")), shear)  # as the ST pipeline
    assert read_affine(None) is None


def test_no_affine():
    projective = [[1, 0, 5], [0, 1, 5], [0, 0.5, 1]]
    singular, not_finite = np.diag([1.0, 0, 1]), np.diag([1.0, np.nan, 1])
    for given in (np.eye(4), np.ones((3, 3)), singular, not_finite, projective, [1, 2, 3]):
        with pytest.raises(ValueError, match=r"`affine` is no affine map .*Nine numbers are needed"):
            read_affine(given)


def test_no_affine_in_a_file(write, tmp_path):
    with pytest.raises(ValueError, match=r"'t\.txt' is no affine map \(8 numbers\)"):
        read_affine(write("1 0 0 0 1 0 0 0", "t.txt"))
    with pytest.raises(ValueError, match=r"affine 't\.txt' cannot be read"):
        read_affine(write("a 0 0 0 1 0 0 0 1", "t.txt"))
    with pytest.raises(FileNotFoundError, match=r"No affine at '.*u\.txt'"):
        read_affine(tmp_path / "u.txt")


LABELS = {
    "positions": "x\ty\tlabel\n3.02\t1.98\ttumour\n5\t2\tstroma\n4\t2\t\n",
    "names": "spot,label\n3x2,tumour\n5x2,stroma\n4x2,\n",
    "a label a row": "\t3_2\t4_2\t5_2\ntumour\t1\t0\t0\nstroma\t0\t0\t1\n",
    "He et al.": "xcoord\tycoord\tlab\tlabel\rC1_3_2\t3.02\t1.98\tL1\ttumour\rC1_5_2\t5\t2\tL1\tstroma\r",
}  # fmt: skip


@pytest.mark.parametrize("layout", LABELS)
def test_labels(write, layout):
    array_xy = np.array([[3, 2], [4, 2], [5, 2]])
    assert read_labels(write(LABELS[layout]), array_xy) == ["tumour", None, "stroma"]


def test_label_column(write):
    path = write("x\ty\tlayer\n3\t2\tgranular\n")
    assert read_labels(path, np.array([[3, 2]]), "layer") == ["granular"]
    with pytest.raises(ValueError, match=r"no column 'label' \(found: 'x', 'y', 'layer'\)\. Name its columns"):
        read_labels(path, np.array([[3, 2]]))


def test_two_labels_of_a_spot(write):
    with pytest.raises(ValueError, match="gives more than one label to spot '4_2'"):
        read_labels(write("\t3_2\t4_2\na\t1\t1\nb\t0\t1\n"), np.array([[3, 2]]))


def test_labels_without_positions(write):
    with pytest.raises(ValueError, match=r"no column 'x', 'y' \(found: 'barcode', 'label'\)"):
        read_labels(write("barcode\tlabel\nACGTACGTACGT\ta\n"), np.array([[3, 2]]))
