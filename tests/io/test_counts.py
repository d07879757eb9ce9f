"""Counts in every layout give the same matrix; what is ambiguous or damaged gives one error."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.io import mmwrite

from stpredict.io._counts import read_counts

SPOTS = ["3x2", "4x2", "3x3"]
GENES = ["ERBB2", "ACTB", "CAT", "TP53"]
VALUES = np.array([[1, 0, 3, 4], [0, 5, 0, 6], [7, 0, 0, 0]], np.float32)
TABLE = pd.DataFrame(VALUES.astype(int), index=SPOTS, columns=GENES)
BARCODES = ["ACGTACGTACGTACGT-1", "TTTTACGTACGTACGT-1", "GGGGACGTACGTACGT-1"]


def same(counts, spots=SPOTS):
    assert (counts.spots, counts.genes) == (spots, GENES)
    assert isinstance(counts.matrix, sparse.csr_matrix)
    assert counts.matrix.dtype == np.float32
    np.testing.assert_array_equal(counts.matrix.toarray(), VALUES)


@pytest.mark.parametrize(("sep", "genes_in"), [("\t", None), (",", "columns"), (" ", None)])
def test_genes_in_columns(tmp_path, sep, genes_in):
    TABLE.to_csv(tmp_path / "a", sep=sep)
    same(read_counts(tmp_path / "a", genes_in=genes_in))


@pytest.mark.parametrize(("end", "genes_in"), [("", "rows"), (".gz", None)])
def test_genes_in_rows(tmp_path, end, genes_in):
    TABLE.T.to_csv(tmp_path / f"a.csv{end}")
    same(read_counts(tmp_path / f"a.csv{end}", genes_in=genes_in))


def test_header_without_a_corner_and_quotes(tmp_path):
    rows = ['"ERBB2"\t"ACTB"\t"CAT"\t"TP53"', *(f'"{s}"\t' + "\t".join(map(str, TABLE.loc[s])) for s in SPOTS)]
    (tmp_path / "a.tsv").write_text("\r\n".join(rows))
    same(read_counts(tmp_path / "a.tsv"))


def test_barcodes(tmp_path):
    TABLE.set_axis(BARCODES).T.to_csv(tmp_path / "a.csv")
    counts = read_counts(tmp_path / "a.csv")
    same(counts, BARCODES)
    assert not counts.by_position


def test_extension_is_not_believed(tmp_path):
    TABLE.to_csv(tmp_path / "a.tsv.gz", sep="\t", compression=None)
    same(read_counts(tmp_path / "a.tsv.gz"))
    (tmp_path / "b.tsv").write_bytes(gzip.compress((tmp_path / "a.tsv.gz").read_bytes()))
    same(read_counts(tmp_path / "b.tsv"))


@pytest.mark.parametrize(("rows", "columns"), [(["a", "b"], ["c", "d"]), (["1x1", "2x2"], ["3x3", "4x4"])])
def test_axes_that_names_do_not_tell(tmp_path, rows, columns):
    pd.DataFrame(np.eye(2, dtype=int), index=rows, columns=columns).to_csv(tmp_path / "a.csv")
    with pytest.raises(ValueError, match=r"not clear whether genes are the rows or the columns of 'a\.csv'.*genes_in="):
        read_counts(tmp_path / "a.csv")
    assert read_counts(tmp_path / "a.csv", genes_in="rows").spots == columns
    assert read_counts(tmp_path / "a.csv", genes_in="columns").spots == rows


def test_axis_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="`genes_in` is 'cols'; it must be 'rows', 'columns', or None"):
        read_counts(tmp_path / "a.csv", genes_in="cols")


def test_ids_become_symbols(tmp_path):
    ids = ["ENSG00000141736.13", "ENSG00000075624.2", "ENSG00000121691", "ENSG00000141510"]
    TABLE.set_axis(ids, axis=1).to_csv(tmp_path / "a.csv")
    symbols = {"ENSG00000141736": "ERBB2", "ENSG00000141510": "ERBB2"}
    counts = read_counts(tmp_path / "a.csv", symbols=symbols)
    assert counts.genes == ["ERBB2", "ENSG00000075624", "ENSG00000121691"]
    assert counts.matrix.toarray().tolist() == [[5, 0, 3], [6, 5, 0], [7, 0, 0]]


@pytest.fixture
def market(tmp_path):
    def make(matrix=VALUES.T, prefix="", *, packed=False, genes="features.tsv", spots=SPOTS):
        end = ".gz" if packed else ""
        mmwrite(tmp_path / "plain.mtx", sparse.coo_matrix(matrix.astype(int)))
        parts = {
            f"{prefix}matrix.mtx": (tmp_path / "plain.mtx").read_text(),
            f"{prefix}barcodes.tsv": "\n".join(spots) + "\n",
            f"{prefix}{genes}": "".join(f"{gene}\t{gene}\tGene Expression\n" for gene in GENES),
        }
        (tmp_path / "plain.mtx").unlink()
        for name, text in parts.items():
            (tmp_path / f"{name}{end}").write_bytes(gzip.compress(text.encode()) if packed else text.encode())
        return tmp_path / f"{prefix}matrix.mtx{end}"

    return make


@pytest.mark.parametrize("arguments", [
    {}, {"packed": True}, {"prefix": "GSM1_X1_", "packed": True}, {"genes": "genes.tsv"}, {"matrix": VALUES},
])  # fmt: skip
def test_matrix_market(market, arguments):
    same(read_counts(market(**arguments)))


def test_folder_of_cell_ranger(market):
    same(read_counts(market(packed=True, spots=BARCODES).parent), BARCODES)


@pytest.mark.parametrize("end", ["", ".gz"])
def test_only_genes_of_matrix_market(market, end):
    path = market(spots=BARCODES, packed=bool(end))
    features = path.with_name(f"features.tsv{end}")
    for old in path.parent.glob("*genes.tsv*"):
        old.unlink()
    kinds = ["Gene Expression", "Antibody Capture", "Gene Expression", "Negative Control Probe"]
    text = "".join(f"{gene}\t{gene}\t{kind}\n" for gene, kind in zip(GENES, kinds, strict=True))
    features.write_bytes(gzip.compress(text.encode()) if end else text.encode())
    counts = read_counts(path)
    assert counts.genes == ["ERBB2", "CAT"]
    np.testing.assert_array_equal(counts.matrix.toarray(), VALUES[:, [0, 2]])
    text = text.replace("Gene Expression", "Custom")
    features.write_bytes(gzip.compress(text.encode()) if end else text.encode())
    with pytest.raises(ValueError, match=r"no feature of type 'Gene Expression' \(found: 'Antibody Capture', 'Custom'"):
        read_counts(path)


def test_square_matrix_is_ambiguous(market):
    square = np.arange(16).reshape(4, 4)
    path = market(square, spots=[*SPOTS, "4x3"])
    with pytest.raises(ValueError, match=r"'matrix\.mtx' has 4 rows and 4 columns, so its shape does not say"):
        read_counts(path)
    np.testing.assert_array_equal(read_counts(path, genes_in="rows").matrix.toarray(), square.T)
    np.testing.assert_array_equal(read_counts(path, genes_in="columns").matrix.toarray(), square)


def test_matrix_without_companions(market, tmp_path):
    path = market()
    (tmp_path / "barcodes.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"'matrix\.mtx' needs 'barcodes\.tsv' .*beside it"):
        read_counts(path)
    (tmp_path / "features.tsv").unlink()
    with pytest.raises(FileNotFoundError, match=r"needs 'barcodes\.tsv', 'features\.tsv'"):
        read_counts(path)


def test_companions_of_another_matrix(market):
    with pytest.raises(ValueError, match=r"is 4 x 3, but its companion files name 2 spots and 4 genes"):
        read_counts(market(spots=SPOTS[:2]))


@pytest.mark.parametrize(("packed", "words"), [(False, "holds 5 values, but announces 6"), (True, "cannot be read")])
def test_matrix_cut_short(market, packed, words):
    path = market(packed=packed)
    whole = path.read_bytes()
    path.write_bytes(whole[:-12] if packed else whole[: whole.rindex(b"\n", 0, -1) + 1])
    with pytest.raises(ValueError, match=rf"'matrix\.mtx.*' {words}"):
        read_counts(path)


@pytest.mark.parametrize(("old", "new"), [
    ("coordinate", "array"), ("general", "symmetric"), ("4 3 6", "4 x 6"),
    ("4 3 6\n", "4 3 6\na b c\n"),
])  # fmt: skip
def test_matrix_of_another_kind_or_damaged(market, old, new):
    path = market()
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=r"counts file 'matrix\.mtx' cannot be read: .*Give another file"):
        read_counts(path)


def test_folder_without_a_matrix(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No counts file at '.*matrix\.mtx'"):
        read_counts(tmp_path)


def test_empty(tmp_path):
    for text in ("", "\n", "\tERBB2\tACTB\n", "3x2\n4x2\n"):
        (tmp_path / "a.tsv").write_text(text)
        with pytest.raises(ValueError, match=r"Counts file 'a\.tsv' is empty: \d spots, \d genes"):
            read_counts(tmp_path / "a.tsv")


def test_another_kind_of_file(tmp_path):
    for content in (b"PK\x03\x04\xff\xfe\x00\x01" * 9, b"\x1f\x8b" + b"no" * 9, b"\x89HDF\r\n\x1a\n" * 9):
        (tmp_path / "a.tsv").write_bytes(content)
        with pytest.raises(ValueError, match=r"file 'a\.tsv' cannot be read: .*(Give another file|fetch it again)"):
            read_counts(tmp_path / "a.tsv")
