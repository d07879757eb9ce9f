"""The table of what each reader takes (docs/data_model.md) says what the readers do."""

from __future__ import annotations

import inspect
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest

import stpredict as stp
from stpredict._slides.slides import Selection, resolve

PAGE = Path(__file__).parents[2] / "docs/data_model.md"
KINDS = ["Gene Expression", "Antibody Capture", "Gene Expression", "Gene Expression"]
MATRICES = {"visium": ".", "visium_hd": "binned_outputs/square_008um", "xenium": "."}


HELD = {
    "features": {
        "genes, by `feature_type`": "platforms::test_only_genes_unless_all_features_are_asked_for",
        'all; `var["feature_types"]` says which are genes': "reader_table::test_an_anndata_keeps_all_and_counts_genes",
        "genes, by the third column of `features.tsv`; all where there is none":
            "counts::test_only_genes_of_matrix_market",
    },
    "others (antibodies, guides, proteins, controls)": {
        "`all_features=True`": "platforms::test_only_genes_unless_all_features_are_asked_for",
        "kept, never counted": "reader_table::test_an_anndata_keeps_all_and_counts_genes",
    },
    "gene names": {
        "symbols, made unique": "reader_table::test_platforms_keep_genes_and_make_symbols_unique",
        "made unique": "reader_table::test_an_anndata_keeps_all_and_counts_genes",
        "as in the file; must be unique": "reader_table::test_genes_of_read_st_must_be_unique",
    },
    "matrix": {
        "filtered, else raw": "reader_table::test_the_filtered_matrix_else_the_raw_one",
        "`cell_feature_matrix.h5`": "xenium::test_a_sample_is_ready_for_training",
        "`X` and layers": "anndata::test_counts_in_a_layer_without_x",
        "as given": "counts::test_extension_is_not_believed",
    },
    "spots": {
        "on tissue and on the image": "platforms::test_spots_beyond_the_image_are_left_out_with_a_count",
        "all cells of the matrix": "xenium::test_cells_are_matched_by_their_ids",
        "all; must lie on the image": "anndata::test_spots_off_the_image_either_way",
        "selected, with counts": "st::test_spots_off_tissue_and_without_counts_are_dropped",
    },
    "file names": {
        "exact, else after a prefix; two of a kind are an error":
            "platforms::test_the_exact_name_is_read_beside_a_prefixed_one",
        "the same": "platforms::test_the_exact_name_is_read_beside_a_prefixed_one",
        "as given": "counts::test_extension_is_not_believed",
    },
    "positions": {
        "header or not, CSV or parquet, by content": "platforms::test_positions_are_told_by_content",
        "the same": "platforms::test_positions_are_told_by_content",
        "`cells.parquet`, by id": "xenium::test_cells_are_matched_by_their_ids",
        "`obsm` or `obs`": "anndata::test_image_of_a_file_and_places_in_columns",
        "by content": "spots::test_layouts",
    },
    "not read": {
        "bin sizes and cells that are not asked for": "visium_hd::test_cells_and_other_bins_are_not_read",
        "outlines, labels, fluorescence": "xenium::test_a_sample_is_ready_for_training",
    },
    "pixels that are not square by the positions": {
        "refused; a warning with `um_per_px`": "visium::test_pixels_that_are_not_square",
        "the same": "visium_hd::test_pixels_that_are_not_square",
        "refused": "xenium::test_alignments_that_are_none",
        "refused on square arrays; a warning with `um_per_px`":
            "lattice::test_pixels_that_are_not_square_are_refused",
    },
}  # fmt: skip
"""The test that holds each cell, by row."""


def reader_table():
    """Cells by row and reader."""
    section = PAGE.read_text(encoding="utf-8").split("### What each reader takes")[1].split("###")[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    readers = [cell.strip("` |") for cell in lines[0]]
    rows = [[cell.strip(" |") for cell in line] for line in lines[1:]]
    return {row[0]: dict(zip(readers, [*row[1:], *[""] * 5], strict=False)) for row in rows}


TABLE = reader_table()


def read(name, request):
    folder = request.getfixturevalue({"visium": "visium", "visium_hd": "hd", "xenium": "xenium"}[name] + "_folder")
    matrix = sorted((folder / MATRICES[name]).glob("*feature*matrix.h5"))[0]  # the filtered one
    return getattr(stp.io, f"read_{name}"), folder, matrix


def adata(names, kinds):
    table = ad.AnnData(np.ones((2, len(names)), np.float32), obsm={"spatial": np.array([[9.0, 9], [30, 9]])})
    table.var_names = names
    table.var["feature_types"] = kinds
    return table


def test_columns_are_the_readers_with_counts():
    expected = {"read_visium", "read_visium_hd", "read_xenium", "from_anndata", "read_st"}
    assert all(set(row) == expected for row in TABLE.values())
    assert set(TABLE) >= {"features", "gene names", "matrix", "spots", "not read"}


def test_every_cell_is_held_by_a_test():
    assert {row: {cell for cell in cells.values() if cell} for row, cells in TABLE.items()} == {
        row: set(cells) for row, cells in HELD.items()
    }
    for test in {test for cells in HELD.values() for test in cells.values()}:
        file, name = test.split("::")
        assert f"def {name}(" in Path(__file__).with_name(f"test_{file}.py").read_text(encoding="utf-8"), test


@pytest.mark.parametrize("reader", TABLE["features"])
def test_other_features_are_kept_by_an_argument_where_the_table_says_so(reader):
    row = next(row for name, row in TABLE.items() if name.startswith("others"))
    accepted = "all_features" in inspect.signature(getattr(stp.io, reader)).parameters
    assert ("`all_features=True`" in row[reader]) == accepted


@pytest.mark.parametrize("name", MATRICES)
def test_platforms_keep_genes_and_make_symbols_unique(request, name):
    function, folder, matrix = read(name, request)
    assert TABLE["features"][f"read_{name}"] == "genes, by `feature_type`"
    assert TABLE["gene names"][f"read_{name}"] == "symbols, made unique"
    assert function(folder)["observed"].var_names.tolist() == ["A", "B", "B-1", "C"]
    with h5py.File(matrix, "a") as file:
        del file["matrix/features/feature_type"]
        file["matrix/features/feature_type"] = np.array(KINDS, "S")
    assert function(folder)["observed"].var_names.tolist() == ["A", "B", "C"]


@pytest.mark.parametrize("name", ["visium", "visium_hd"])
def test_the_filtered_matrix_else_the_raw_one(request, name):
    function, folder, matrix = read(name, request)
    assert TABLE["matrix"][f"read_{name}"] == "filtered, else raw"
    filtered, raw = (matrix.with_name(f"{kind}_feature_bc_matrix.h5") for kind in ("filtered", "raw"))
    expected = function(folder)["observed"]
    raw.unlink(missing_ok=True)
    filtered.rename(raw)
    np.testing.assert_array_equal(function(folder)["observed"].X.toarray(), expected.X.toarray())
    raw.unlink()
    words = r"looked for 'filtered_feature_bc_matrix\.h5', 'raw_feature_bc_matrix\.h5'"
    with pytest.raises(FileNotFoundError, match=words):
        function(folder)


def test_an_anndata_keeps_all_and_counts_genes():
    assert TABLE["features"]["from_anndata"] == 'all; `var["feature_types"]` says which are genes'
    assert TABLE["gene names"]["from_anndata"] == "made unique"
    table = adata(["A", "B", "B", "C"], KINDS)
    sdata = stp.io.from_anndata(table, np.full((3, 40, 50), 200, np.uint8), name="a", diameter_um=55, um_per_px=5)
    assert sdata["observed"].var_names.tolist() == ["A", "B", "B-1", "C"]
    assert resolve(sdata, Selection())[0].genes == ("A", "B-1", "C")


def test_genes_of_read_st_must_be_unique(st_files):
    assert TABLE["gene names"]["read_st"] == "as in the file; must be unique"
    st_files["counts"].write_text(st_files["counts"].read_text().replace("\tD", "\tA", 1))
    with pytest.raises(ValueError, match="'A'"):
        stp.io.read_st(**st_files, name="A")
