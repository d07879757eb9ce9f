"""Transcripts and cells in spots: everything that counts is counted once, and what does not is said."""

from __future__ import annotations

import gzip
import logging
import os
import re
from pathlib import Path

import dask.dataframe as dd
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel, PointsModel
from spatialdata.transformations import Affine, Identity, Scale

import stpredict as stp
from stpredict._slides.slides import Selection, resolve
from stpredict.io._tables import BARCODE, SPOT_NAME
from stpredict.pp._pseudo_spots import CONTROLS
from stpredict.pp.lattice import PLATFORMS, SpotGeometry, SpotLattice

WIDTH, HEIGHT, UM = 400, 300, 0.5
TILES = {"diameter_um": 10, "pitch_um": 10, "outline": "square"}  # 20 px: they tile the image


def points(frame, transformation=None, n_partitions=1):
    table = dd.from_pandas(frame, npartitions=n_partitions)
    return PointsModel.parse(table, feature_key="gene", transformations={"global": transformation or Identity()})


def build(frame, transformation=None, image_to=None, n_partitions=1):
    image = Image2DModel.parse(np.zeros((3, HEIGHT, WIDTH), np.uint8), dims=("c", "y", "x"),
                               transformations={"global": image_to or Identity()})  # fmt: skip
    noted = {"stpredict": {"um_per_px": {"he": UM}}}
    return SpatialData(
        images={"he": image}, points={"transcripts": points(frame, transformation, n_partitions)}, attrs=noted
    )


def scattered(n=5000, seed=0):
    rng = np.random.default_rng(seed)
    genes = rng.choice(["A", "B", "C"], n)
    return pd.DataFrame({"x": rng.uniform(0, WIDTH, n), "y": rng.uniform(0, HEIGHT, n), "gene": genes})


def at(*places, gene="A"):
    return pd.DataFrame(places, columns=["x", "y"], dtype=float).assign(gene=gene)


def counted(sdata, key="pseudo_spots"):
    return sdata.attrs["stpredict"]["pseudo_spots"][key]


def test_squares_that_tile_the_image_count_everything():
    frame = scattered()
    sdata = build(frame)
    stp.pp.spots_from_transcripts(sdata, **TILES)
    table = sdata["pseudo_spots_counts"]
    assert table.X.sum() == 5000
    assert (table.X.format, table.X.dtype) == ("csr", np.int32)
    by_gene = frame["gene"].value_counts().sort_index()
    assert table.to_df().sum().to_dict() == by_gene.to_dict()
    where = frame.groupby([frame["y"] // 20, frame["x"] // 20]).size()
    places = list(zip(table.obs["array_row"], table.obs["array_col"], strict=True))
    assert where.loc[places].tolist() == table.obs["n_transcripts"].tolist()
    assert table.obs["n_transcripts"].tolist() == np.asarray(table.X.sum(axis=1)).ravel().tolist()


def test_partitions_do_not_matter():
    tables = []
    for n_partitions in (1, 7):
        sdata = build(scattered(), n_partitions=n_partitions)
        stp.pp.spots_from_transcripts(sdata, like="visium", diameter_um=14, pitch_um=20)
        tables.append(sdata["pseudo_spots_counts"])
    pd.testing.assert_frame_equal(tables[0].to_df(), tables[1].to_df())
    pd.testing.assert_frame_equal(tables[0].obs, tables[1].obs)


def test_sums_are_added_up_before_they_are_many(monkeypatch):
    whole = build(scattered())
    stp.pp.spots_from_transcripts(whole, **TILES)
    monkeypatch.setattr("stpredict.pp._transcript_counts.MAX_PENDING", 100)
    parts = build(scattered(), n_partitions=9)
    stp.pp.spots_from_transcripts(parts, **TILES)
    pd.testing.assert_frame_equal(parts["pseudo_spots_counts"].to_df(), whole["pseudo_spots_counts"].to_df())


@pytest.mark.parametrize(("place", "row", "column"), [
    ((20, 10), 0, 1), ((10, 20), 1, 0), ((20, 20), 1, 1), ((19.999, 19.999), 0, 0), ((0, 0), 0, 0), ((399, 299), 14, 19)
])  # fmt: skip
def test_on_the_border_of_squares_it_counts_once(place, row, column):
    sdata = build(at(place))
    stp.pp.spots_from_transcripts(sdata, **TILES)
    table = sdata["pseudo_spots_counts"]
    assert table.X.toarray().tolist() == [[1]]
    assert table.obs[["array_row", "array_col"]].to_numpy().tolist() == [[row, column]]


@pytest.mark.parametrize("layout", ["square", "hexagonal"])
def test_where_circles_touch_it_counts_once(layout):
    y = 10 if layout == "square" else 10 * 3**0.5 / 2
    sdata = build(at((20, y), (0, y), (10, 2 * y)))
    stp.pp.spots_from_transcripts(sdata, diameter_um=10, pitch_um=10, layout=layout)
    assert sdata["pseudo_spots_counts"].X.sum() == 3


def test_between_circles_it_is_dropped_and_said(caplog):
    sdata = build(at((10, 10), (20, 20), (15, 15), (17, 10)))
    with caplog.at_level(logging.INFO, "stpredict"):
        stp.pp.spots_from_transcripts(sdata, diameter_um=7, pitch_um=10)
    assert sdata["pseudo_spots_counts"].obs["n_transcripts"].tolist() == [
        2
    ]  # the last is 7 px off a centre: the border
    assert counted(sdata)["n_transcripts"] == {
        "all": 4, "controls": 0, "low_quality": 0, "outside": 2, "in_sparse_spots": 0
    }  # fmt: skip
    assert "4 transcripts; not counted: {'controls': 0, 'low_quality': 0, 'outside': 2" in caplog.text


@pytest.mark.parametrize("geometry", [
    PLATFORMS["visium_hd_8um"],
    SpotGeometry(diameter_um=10, pitch_um=10, layout="hexagonal"),
    SpotGeometry(diameter_um=8, pitch_um=10, layout="hexagonal", outline="square"),
    SpotGeometry(diameter_um=7, pitch_um=10),
])  # fmt: skip
def test_places_by_brute_force(geometry):
    spots = SpotLattice(geometry=geometry, um_per_px=UM, width_px=WIDTH, height_px=HEIGHT)
    xy = np.random.default_rng(1).uniform(-20, 420, (3000, 2))
    ids, centres = spots.within(np.array([0.0, 0.0, WIDTH, HEIGHT]))
    np.testing.assert_allclose(spots.centres(ids), centres)
    d = np.abs(xy[:, None] - centres)
    inside = (np.hypot(*d.T).T if geometry.outline == "circle" else d.max(axis=2)) <= geometry.diameter_um / UM / 2
    assert inside.sum(axis=1).max() == 1
    np.testing.assert_array_equal(spots.assign(xy), np.where(inside.any(axis=1), ids[inside.argmax(axis=1)], -1))


def test_points_without_a_place_lie_nowhere():
    spots = SpotLattice(geometry=PLATFORMS["visium"], um_per_px=UM, width_px=WIDTH, height_px=HEIGHT)
    assert spots.assign(np.array([[np.nan, 5.0], [np.inf, 5.0]])).tolist() == [-1, -1]


def test_the_grid_is_that_of_spot_grid():
    sdata = build(scattered(20_000))
    arguments = {"like": "visium", "diameter_um": 9, "pitch_um": 12}
    stp.pp.spots_from_transcripts(sdata, **arguments)
    stp.pp.spot_grid(sdata, **arguments)
    grid, spots = sdata["grid"], sdata["pseudo_spots"]
    assert set(spots.index) <= set(grid.index)
    assert len(spots) > 0.9 * len(grid)
    np.testing.assert_allclose(spots.get_coordinates(), grid.loc[spots.index].get_coordinates())
    assert spots["radius"].iloc[0] == grid["radius"].iloc[0] == 9


def test_transformations_of_points_and_image_count():
    plain = build(scattered())
    stp.pp.spots_from_transcripts(plain, **TILES)
    expected = plain["pseudo_spots_counts"].to_df()
    um = scattered()
    um[["x", "y"]] *= UM
    scaled = build(um, Scale([1 / UM, 1 / UM], ("x", "y")))
    turned = Affine([[0, -3, 900], [3, 0, -50], [0, 0, 1]], ("x", "y"), ("x", "y"))
    both = build(scattered(), turned, turned)
    for sdata in (scaled, both):
        stp.pp.spots_from_transcripts(sdata, **TILES)
        found = sdata["pseudo_spots_counts"].to_df()
        assert (
            np.abs(found.reindex_like(expected).fillna(0) - expected).to_numpy().sum() <= 2
        )  # rounded across a border
        assert found.to_numpy().sum() == 5000


def test_every_sample_has_spots_of_one_size():
    sdata = build(scattered())
    stp.pp.spots_from_transcripts(sdata, **TILES, um_per_px=0.25)
    (slide,) = resolve(sdata, Selection(um_per_px=0.25))
    assert slide.diameter_um == pytest.approx(10 * 2 / np.pi**0.5)
    assert counted(sdata)["um_per_px"] == 0.25


def test_controls_and_low_quality_do_not_count():
    frame = pd.concat([
        at((5, 5), (6, 6), gene="A").assign(qv=[20.0, 19.9]),
        at((5, 5), gene="NegControlProbe_00042").assign(qv=40.0),
        at((5, 5), gene="BLANK_0001").assign(qv=40.0),
        at((5, 5), gene="UnassignedCodeword_0001").assign(qv=5.0),
        at((5, 5), gene="BLNK").assign(qv=40.0),
    ])  # fmt: skip
    sdata = build(frame.reset_index(drop=True))
    stp.pp.spots_from_transcripts(sdata, **TILES)
    assert sdata["pseudo_spots_counts"].to_df().iloc[0].to_dict() == {"A": 1, "BLNK": 1}
    lost = counted(sdata)["n_transcripts"]
    assert (lost["all"], lost["controls"], lost["low_quality"]) == (6, 3, 1)
    stp.pp.spots_from_transcripts(sdata, **TILES, min_qv=None, exclude=None)
    assert sdata["pseudo_spots_counts"].X.sum() == 6


def test_genes_that_have_no_name_do_not_count():
    sdata = build(at((5, 5), (6, 6), (7, 7)).assign(gene=pd.Categorical(["A", None, "B"])))
    stp.pp.spots_from_transcripts(sdata, **TILES)
    assert sdata["pseudo_spots_counts"].X.sum() == 2
    assert counted(sdata)["n_transcripts"]["controls"] == 1


def test_spots_of_too_few_are_left_out():
    sdata = build(at((5, 5), (6, 6), (25, 5)))
    stp.pp.spots_from_transcripts(sdata, **TILES, min_transcripts=2)
    assert sdata["pseudo_spots"].index.tolist() == [0]
    assert counted(sdata)["n_transcripts"]["in_sparse_spots"] == 1


def test_names_do_not_depend_on_which_spots_are_kept():
    few, many = build(at((25, 25))), build(pd.concat([at((25, 25)), scattered()], ignore_index=True))
    for sdata in (few, many):
        stp.pp.spots_from_transcripts(sdata, **TILES)
    (name,) = few["pseudo_spots_counts"].obs_names
    assert name == "pseudo_spots_1x1"
    row = many["pseudo_spots_counts"].obs.loc[name]
    assert (row["spot_id"], row["array_row"], row["array_col"]) == (21, 1, 1)


def test_ready_for_training_and_for_zarr(tmp_path):
    sdata = build(scattered())
    stp.pp.spots_from_transcripts(sdata, like="visium", diameter_um=14, pitch_um=20)
    (slide,) = resolve(sdata, Selection())
    assert slide.diameter_um == pytest.approx(14)
    assert slide.counts.sum() == sdata["pseudo_spots_counts"].X.sum()
    np.testing.assert_allclose(slide.xy_px, sdata["pseudo_spots_counts"].obsm["spatial"])
    stp.pp.select_genes(sdata, n_genes=2, table_name="pseudo_spots_counts")
    del sdata.points["transcripts"]
    sdata.write(tmp_path / "a.zarr")
    assert read_zarr(tmp_path / "a.zarr")["pseudo_spots_counts"].X.sum() == slide.counts.sum()


def test_what_was_made_is_replaced_and_nothing_else_is():
    sdata = build(scattered())
    stp.pp.spots_from_transcripts(sdata, **TILES)
    stp.pp.spots_from_transcripts(sdata, **TILES, min_transcripts=10)
    assert sdata["pseudo_spots_counts"].obs["n_transcripts"].min() == 10
    assert len(sdata["pseudo_spots"]) == len(sdata["pseudo_spots_counts"])
    for name in ("he", "transcripts"):
        with pytest.raises(ValueError, match=f"already has an element '{name}'"):
            stp.pp.spots_from_transcripts(sdata, **TILES, key_added=name)
    sdata.tables["mine_counts"] = sdata["pseudo_spots_counts"].copy()
    with pytest.raises(ValueError, match="already has an element 'mine_counts', which is to hold the counts"):
        stp.pp.spots_from_transcripts(sdata, **TILES, key_added="mine")


@pytest.mark.parametrize(("arguments", "words"), [
    ({"diameter_um": 11, "pitch_um": 10}, "Spots overlap: a circle of 11 µm is wider than the 10 µm to the next"),
    ({**TILES, "layout": "hexagonal"}, r"a square of 10 µm is wider than the 8\.66 µm"),
    ({**TILES, "outline": "star"}, "`outline` is 'star'"),
    ({**TILES, "min_transcripts": 0}, "`min_transcripts` is 0; it must lie between 1 and"),
    ({**TILES, "min_transcripts": 9}, "No spot has 9 transcripts: 2 transcripts count, 2 of them lie in a spot"),
    ({**TILES, "points_key": "cells"}, r"no points element named 'cells'\. Found: 'transcripts'"),
    ({**TILES, "feature_key": "name"}, r"no gene column named 'name'\. Found: 'x', 'y', 'gene'"),
    ({**TILES, "exclude": "("}, r"`exclude` is '\(', no regular expression"),
])  # fmt: skip
def test_bad_input_is_refused_and_nothing_is_written(arguments, words):
    sdata = build(at((5, 5), (25, 5)))
    with pytest.raises(ValueError, match=words):
        stp.pp.spots_from_transcripts(sdata, **arguments)
    assert (list(sdata.shapes), list(sdata.tables)) == ([], [])
    assert sdata.attrs["stpredict"] == {"um_per_px": {"he": UM}}


def test_which_points_of_several():
    sdata = build(at((5, 5)))
    sdata["more"] = sdata["transcripts"]
    with pytest.raises(ValueError, match=r"Which points element is meant\? Found: 'transcripts', 'more'"):
        stp.pp.spots_from_transcripts(sdata, **TILES)


def test_no_resolution():
    sdata = build(at((5, 5)))
    sdata.attrs = {}
    with pytest.raises(ValueError, match="The resolution of image 'he' is not known"):
        stp.pp.spots_from_transcripts(sdata, **TILES)


def test_cells_are_summed(sdata):
    cells = sdata["observed"][sdata["observed"].obs["region"] == "S0_spots"]
    stp.pp.spots_from_cells(sdata, diameter_um=400, pitch_um=400, outline="square", shapes_key="S0_spots")
    table = sdata["pseudo_spots_counts"]
    assert (table.X.format, table.X.dtype, table.X.sum()) == ("csr", np.int32, cells.X.sum())
    assert table.obs["n_cells"].sum() == 36
    xy = cells.obsm["spatial"] // 100  # 400 µm
    total = pd.DataFrame(cells.X.toarray()).groupby([xy[:, 1], xy[:, 0]]).sum()
    places = list(zip(table.obs["array_row"], table.obs["array_col"], strict=True))
    np.testing.assert_array_equal(total.loc[places], table.X.toarray())
    assert list(table.var_names) == list(cells.var_names)
    assert counted(sdata)["n_cells"] == {"all": 36, "outside": 0, "in_sparse_spots": 0}


def test_cells_between_spots_are_said(sdata):
    stp.pp.spots_from_cells(sdata, diameter_um=400, pitch_um=400, shapes_key="S0_spots", min_cells=2)
    n, kept = counted(sdata)["n_cells"], sdata["pseudo_spots_counts"].obs["n_cells"]
    assert n["outside"] > 0
    assert n["all"] - n["outside"] - n["in_sparse_spots"] == kept.sum()
    assert kept.min() >= 2


@pytest.mark.parametrize(("arguments", "words"), [
    ({}, "Cells of several samples were found: 'S0_spots', 'S1_spots', 'S2_spots'"),
    ({"shapes_key": "S0_spots", "min_cells": 99}, "No spot has 99 cells: 36 cells count"),
    ({"shapes_key": "S0_spots", "layer": "rate"}, "Raw counts are needed"),
    ({"shapes_key": "S0_spots", "key_added": "S1_spots"}, "already has an element 'S1_spots'"),
])  # fmt: skip
def test_bad_cells_are_refused(sdata, arguments, words):
    with pytest.raises(ValueError, match=words):
        stp.pp.spots_from_cells(sdata, diameter_um=400, pitch_um=400, **arguments)
    assert list(sdata.tables) == ["observed"]


def test_sparse_and_integer_after_a_trip_to_disk(sdata, tmp_path, through_files):
    stp.pp.spots_from_cells(sdata, "observed", "st", diameter_um=190, pitch_um=190, shapes_key="S0_spots")
    table = through_files(sdata, tmp_path)["pseudo_spots_counts"]
    assert sparse.issparse(table.X)
    assert table.X.dtype == np.int32


LIKE_CONTROLS = [
    "NEGR1", "Negr1", "BLNK", "Blnk", "UNC5D", "DEPDC5", "DEPP1", "ANTXR1", "INTS1", "Intu", "GEN1", "SYS1", "FALEC",
    "FAS", "SYSTM", "ANTKMT", "UNASSIGNED1", "NEGATIVE", "BLANKA", "ANTISENSE", "CONTROL1", "H2AX-AS1", "MIR17HG",
    "4732440D04Rik", "FO538757.1", "HLA-DRB1", "T", "TAC1", "CACNA1A", "ATAT1", "GATAD2A", "ACTA2-AS1", "1-Mar",
]  # fmt: skip
"""Genes that resemble names of controls, barcodes or spots."""
PATTERNS = {"control": re.compile(CONTROLS), "barcode": BARCODE, "spot": SPOT_NAME}
"""All patterns by which a name is told from that of a gene."""


def genes_at_hand():
    """All names of genes in the package, and in the data sets that are there; the latter by file."""
    yield "package", [gene for name in ("her2st", "cscc", "hbc") for gene in stp.datasets.gene_panel(name)]
    yield "genes that resemble controls", LIKE_CONTROLS
    folder = os.environ.get("STPREDICT_DATA_DIR")
    for path in sorted(Path(folder).glob("**/*.tsv.gz")) if folder else []:
        with gzip.open(path, "rt") as file:
            yield path.name, file.readline().strip().split("\t")
    for path in sorted(Path(folder).glob("*/*.h5*")) if folder else []:
        with h5py.File(path) as file:
            names = file["matrix/features/name"] if "matrix" in file else file["var"][file["var"].attrs["_index"]]
            yield path.name, names.asstr()[:].tolist()


def test_no_pattern_hits_a_gene():
    known = dict(genes_at_hand())
    hits = {(file, kind, gene) for file, genes in known.items() for gene in genes for kind, pattern in PATTERNS.items()
            if pattern.fullmatch(gene)}  # fmt: skip
    assert hits == set()
    assert os.environ.get("STPREDICT_DATA_DIR") is None or len(set().union(*known.values())) > 10_000


@pytest.mark.parametrize("name", [
    "NegControlProbe_00042", "NegControlCodeword_0500", "NegControl_01", "BLANK_0006", "Blank-12", "Blank7",
    "UnassignedCodeword_0000", "DeprecatedCodeword_0318", "antisense_ULK3", "Intergenic_Region_1043", "GenomicControl1",
    "NegPrb3", "Negative10", "NegAdd1", "FalseCode23", "SystemControl12",
])  # fmt: skip
def test_names_of_controls(name):
    assert re.match(CONTROLS, name)
