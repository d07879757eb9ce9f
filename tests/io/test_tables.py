"""Text tables whose packing, separator and header are found out."""

from __future__ import annotations

import gzip
from itertools import product

import pytest

from stpredict.io._spots import HEADERS
from stpredict.io._tables import BARCODE, SPOT_NAME, mostly_match, parse_spot_name, read_table, spot_name


@pytest.fixture
def write(tmp_path):
    def make(text, name="a.tsv", *, packed=False):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        return path

    return make


def test_content_decides(write):
    for mark, end, name, packed in product("\t,; ", ("\n", "\r\n", "\r"), ("a.tsv", "a.csv.gz"), (False, True)):
        path = write(end.join(mark.join(row) for row in ("xyz", "123", "456")) + end, name, packed=packed)
        assert read_table(path, "table").to_dict("list") == {"x": [1, 4], "y": [2, 5], "z": [3, 6]}


@pytest.mark.parametrize("text", ["x\ty\nA\t1\t2\nB\t3\t4\n", "x\ty\t\nA\t1\t2\nB\t3\t4\n"])
def test_names_in_front_that_the_header_lacks(write, text):
    frame = read_table(write(text), "table")
    assert frame.iloc[:, 0].tolist() == ["A", "B"]
    assert frame[["x", "y"]].to_numpy().tolist() == [[1, 2], [3, 4]]


def test_empty_last_column_is_no_name_in_front(write):
    assert read_table(write("x\ty\t\n1\t2\t\n"), "table")["y"].tolist() == [2]


@pytest.mark.parametrize(("row", "columns"), [
    ("3 4", ["x", "y"]),
    ("3x4 10.5 11", ["spot", "pixel_x", "pixel_y"]),
    ("3 4 3.01 4.02 10 11 1", ["x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected"]),
])  # fmt: skip
def test_no_header(write, row, columns):
    frame = read_table(write(f"{row}\n{row}\n"), "spot file", HEADERS)
    assert list(frame.columns) == columns
    assert len(frame) == 2


def test_no_header_and_too_many_meanings(write):
    with pytest.raises(ValueError, match=r"'a\.tsv' has no header and 4 columns\. .*add a header line"):
        read_table(write("3\t4\t10\t11\n"), "spot file", HEADERS)


def test_byte_order_mark_is_skipped(write):
    assert list(read_table(write("\ufeffx\ty\n1\t2\n"), "table").columns) == ["x", "y"]


def test_names_of_spots():
    assert parse_spot_name('"16.92x9.015"') == (16.92, 9.015)
    assert parse_spot_name("17_9") == (17, 9)
    assert parse_spot_name("GAPDH") is None
    assert parse_spot_name("10x") is None
    assert spot_name(16.92, 9.015) == "17x9"


def test_half_of_the_names_decide():
    assert mostly_match(SPOT_NAME, ["10x13", "ACTB"])
    assert not mostly_match(SPOT_NAME, ["10x13", "ACTB", "TP53"])
    assert not mostly_match(SPOT_NAME, [])
    assert mostly_match(BARCODE, ["ACGTACGTACGTACGT-1", "ACGTACGTACGTACGTAC"])
    assert not mostly_match(BARCODE, ["GATA", "CAT", "ACTB"])  # genes that spell with the four letters are shorter


def test_no_text(tmp_path):
    path = tmp_path / "spots.tsv"
    for content in (b"PK\x03\x04\xff\xfe\x00", gzip.compress(b"x\ty\n1\t2\n")[:20], b"\x1f\x8bno"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"'spots\.tsv' cannot be read: .*(Give another|fetch it again)"):
            read_table(path, "spot file", HEADERS)
