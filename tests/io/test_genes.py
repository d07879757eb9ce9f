"""Names of genes: versions, maps of every layout, sums of what comes to share a name."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from stpredict.io.genes import read_gene_map, rename_genes, without_version

ERBB2, ACTB, MOUSE = "ENSG00000141736", "ENSG00000075624", "ENSMUSG00000064339"


def test_versions_are_cut_off_ids_only():
    assert without_version(f"{ERBB2}.13") == ERBB2
    assert without_version(f"{MOUSE}.1") == MOUSE
    assert without_version("FO538757.1") == "FO538757.1"
    assert without_version(f"{ERBB2}.13_PAR_Y") == f"{ERBB2}.13_PAR_Y"


FILES = {
    "two columns": f"{ERBB2}\tERBB2\n{ACTB}\tACTB\n",
    "the other way round, headed, commas": f"symbol,id\nERBB2,{ERBB2}.13\nACTB,{ACTB}\n",
    "HGNC": f"HGNC ID\tApproved symbol\tEnsembl gene ID\nHGNC:3430\tERBB2\t{ERBB2}\nHGNC:132\tACTB\t{ACTB}\n",
    "features of Cell Ranger": f"{ERBB2}\tERBB2\tGene Expression\n{ACTB}\tACTB\tGene Expression\n",
    "an id without a symbol": f"{ERBB2}\tERBB2\n{ACTB}\tACTB\n{MOUSE}\t\n",
}


@pytest.mark.parametrize("layout", FILES)
def test_map_from_a_file(tmp_path, layout):
    (tmp_path / "map.txt").write_text(FILES[layout])
    assert read_gene_map(tmp_path / "map.txt") == {ERBB2: "ERBB2", ACTB: "ACTB"}
    assert read_gene_map(str(tmp_path / "map.txt")) == {ERBB2: "ERBB2", ACTB: "ACTB"}


def test_map_from_a_mapping():
    assert read_gene_map({f"{ERBB2}.1": "ERBB2", ACTB: ""}) == {ERBB2: "ERBB2"}
    assert read_gene_map(None) == {}


@pytest.mark.parametrize("text", ["", "ERBB2\tACTB\n", f"{ERBB2}\n", f"a\tid\tb\nx\t{ERBB2}\ty\n"])
def test_a_file_that_is_no_map(tmp_path, text):
    (tmp_path / "map.txt").write_text(text)
    with pytest.raises(ValueError, match=r"'map\.txt' is no map of genes .*one of symbols"):
        read_gene_map(tmp_path / "map.txt")


def test_shared_names_are_summed_in_the_place_of_the_first():
    matrix = sparse.csr_matrix(np.array([[1, 2, 3, 4], [0, 5, 0, 6]], np.float32))
    summed, names = rename_genes(matrix, [f"{ERBB2}.1", "X", f"{ERBB2}.2", ACTB], {ACTB: "X"})
    assert names == [ERBB2, "X"]
    assert summed.toarray().tolist() == [[4, 6], [0, 11]]
    assert summed.dtype == np.float32
    assert summed.format == "csr"


def test_nothing_to_sum():
    matrix = sparse.csr_matrix(np.eye(2, dtype=np.float32))
    same, names = rename_genes(matrix, [ERBB2, "GENE"], {ERBB2: "ERBB2"})
    assert same is matrix
    assert names == ["ERBB2", "GENE"]
