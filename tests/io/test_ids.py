"""A table and its shapes keep matching, whatever type files give to ids: for every reader, in memory and on disk."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from spatialdata import read_zarr
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity

import stpredict as stp
from stpredict._slides.slides import Selection, resolve

made = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("conftest.py"))))

TYPES = {
    "text": lambda names: pd.Series(names, dtype=object),
    "pandas strings": lambda names: pd.Series(names, dtype="str"),
    "arrow strings": lambda names: pd.Series(names, dtype="string[pyarrow]"),
    "bytes": lambda names: pd.Series([name.encode() for name in names], dtype=object),
    "categories": lambda names: pd.Series(pd.Categorical(names)),
    "integers": lambda names: pd.Series([int(name) for name in names]),
    "unsigned": lambda names: pd.Series(np.array([int(name) for name in names], np.uint32)),
}
"""Ids of a column, from names; whole numbers only where the names are such."""
NAMES = {"barcodes": "{:04}-1".format, "leading zeros": "00{:03}".format, "numbers": str}
CASES = [
    (names, kind) for names in NAMES for kind in TYPES if kind not in {"integers", "unsigned"} or names == "numbers"
]
READERS = {
    "visium": stp.io.read_visium,
    "hd": stp.io.read_visium_hd,
    "xenium": lambda folder: stp.io.read_xenium(folder, transcripts=False),
}


def rename(matrix, names):
    """Give the barcodes of a matrix other names."""
    with h5py.File(matrix, "a") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array(names, "S")


def prepare(reader, folder, names):
    """Rename what one reader reads: how to write its ids as another type, and the ids and counts it must give."""
    if reader == "xenium":
        new = [NAMES[names](i) for i in (7, 3, 12, 5)]
        rename(folder / "cell_feature_matrix.h5", new)
        path, column, kept = folder / "cells.parquet", "cell_id", np.ones(4, bool)
        frame, counts = pd.read_parquet(path), np.arange(16).reshape(4, 4)
    else:
        hd = "binned_outputs/square_008um/spatial/tissue_positions.parquet"
        old, column = folder / {"visium": "spatial/tissue_positions.csv", "hd": hd}[reader], "barcode"
        frame = pd.read_csv(old) if old.suffix == ".csv" else pd.read_parquet(old)
        old.unlink()
        path, kept = old.with_suffix(".parquet"), frame["in_tissue"].to_numpy() == 1
        new, counts = [NAMES[names](i) for i in range(100, 100 + len(frame))], np.arange(4 * len(frame)).reshape(-1, 4)
        made.write_matrix(path.parents[1] / "filtered_feature_bc_matrix.h5", np.array(new)[kept].tolist(), counts[kept])

    def write(kind):
        frame.assign(**{column: TYPES[kind](new)}).iloc[::-1].to_parquet(path)

    return write, np.array(new)[kept].tolist(), counts[kept]


def on_disk(sdata, path):
    """Table and shapes after a trip to disk; pixels have no ids."""
    images = {name: sdata.images.pop(name) for name in list(sdata.images)}
    sdata.write(path)
    found = read_zarr(path)
    found.images.update(images)
    return found


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("names", NAMES)
def test_ids_of_platforms(request, tmp_path, reader, names):
    folder = request.getfixturevalue(f"{reader}_folder")
    write, ids, counts = prepare(reader, folder, names)
    first = None
    for kind in (kind for given, kind in CASES if given == names):
        write(kind)
        sdata = READERS[reader](folder)
        (shapes,), table = sdata.shapes.values(), sdata["observed"]
        if first is None:  # whatever they were, ids are then the same in every respect, so one goes to disk
            first = shapes.index, table.obs
            sdata = on_disk(sdata, tmp_path / "a.zarr") if reader == "visium" else sdata
        pd.testing.assert_index_equal(shapes.index, first[0])
        pd.testing.assert_frame_equal(table.obs, first[1])
        (slide,) = resolve(sdata, Selection())
        assert slide.obs_names.tolist() == ids, kind
        np.testing.assert_array_equal(slide.counts.toarray(), counts)
        np.testing.assert_allclose(slide.xy_px, sdata["observed"].obsm["spatial"], atol=1e-6)


@pytest.mark.parametrize(("names", "kind"), CASES)
def test_ids_of_a_table_and_its_shapes_differ_in_type(names, kind):
    """As after other readers: the shapes hold one type, the table another."""
    ids = [NAMES[names](i) for i in (7, 3, 12, 5)]
    xy = np.array([[10.0, 10], [30, 10], [10, 30], [30, 30]])
    sdata = stp.io.from_anndata(
        ad.AnnData(np.eye(4, dtype=np.float32), obsm={"spatial": xy}),
        np.full((3, 40, 50), 200, np.uint8), name="a", diameter_um=55, um_per_px=5,
    )  # fmt: skip
    index = pd.Index(TYPES[kind](ids))
    del sdata.shapes["a_spots"]
    system = {"a": Identity()}
    sdata.shapes["a_spots"] = ShapesModel.parse(
        xy[::-1], geometry=0, radius=5, index=index[::-1], transformations=system
    )
    table = sdata["observed"]
    for column in (ids, TYPES["categories"](ids).to_numpy()):
        table.obs["spot_id"] = pd.Series(column, index=table.obs_names, dtype=object)
        (slide,) = resolve(sdata, Selection())
        np.testing.assert_array_equal(slide.xy_px, xy)


@pytest.mark.parametrize("names", NAMES)
@pytest.mark.parametrize("field", [str, "cellid_{}-1".format])
def test_ids_of_segmented_cells(hd_folder, names, field):
    numbers = [12, 3, 7]
    place = hd_folder / "segmented_outputs"
    (place / "spatial").mkdir(parents=True)
    made.write_matrix(place / "filtered_feature_cell_matrix.h5", [f"cellid_{n:09}-1" for n in numbers], np.eye(3, 4))
    square = [[[20, 20], [30, 20], [30, 30], [20, 20]]]
    features = [
        {"properties": {"cell_id": field(NAMES[names](n))}, "geometry": {"type": "Polygon", "coordinates": square}}
        for n in sorted(numbers)
    ]
    (place / "cell_segmentations.geojson").write_text(json.dumps(features))
    factors = hd_folder / "binned_outputs/square_008um/spatial/scalefactors_json.json"
    (place / "spatial" / factors.name).write_text(factors.read_text())
    if names == "barcodes" and field is not str:
        pytest.skip("a name with two endings")
    sdata = stp.io.read_visium_hd(hd_folder, bin_um=None, cells=True)
    assert resolve(sdata, Selection())[0].instances.tolist() == numbers


@pytest.mark.parametrize("kind", ["integers", "text", "categories"])
def test_names_of_an_anndata(kind):
    xy = np.array([[10.0, 10], [30, 10], [10, 30]])
    names = ["7", "03", "12"] if kind == "text" else ["7", "3", "12"]
    adata = ad.AnnData(np.eye(3, dtype=np.float32), obs=pd.DataFrame(index=pd.Index(names)), obsm={"spatial": xy})
    adata.obs["id"] = TYPES[kind](names).to_numpy()
    sdata = stp.io.from_anndata(adata, np.full((3, 40, 50), 200, np.uint8), name="a", diameter_um=55, um_per_px=5)
    (slide,) = resolve(sdata, Selection())
    assert slide.obs_names.tolist() == names
    np.testing.assert_array_equal(slide.xy_px, xy)


@pytest.mark.parametrize("kind", ["integers", "floats", "text"])
def test_names_of_array_positions(st_files, kind):
    """Spots of `read_st` are matched by their place in the array, whatever the table writes it as."""
    expected = stp.io.read_st(**st_files, name="A")
    lines = st_files["spots"].read_text().splitlines()
    if kind == "floats":
        rows = [row.split("\t") for row in lines[1:] if row]
        lines[1:] = ["\t".join([f"{x}.0", f"{y}.0", *rest]) for x, y, *rest in rows]
    elif kind == "text":
        counts = st_files["counts"].read_text().replace("x", "_")
        st_files["counts"].write_text(counts)
    st_files["spots"].write_text("\n".join(lines))
    found = stp.io.read_st(**st_files, name="A")
    np.testing.assert_array_equal(found["observed"].X.toarray(), expected["observed"].X.toarray())
    np.testing.assert_array_equal(found["observed"].obsm["spatial"], expected["observed"].obsm["spatial"])


def test_a_table_of_numbers_beside_shapes_of_text_on_disk(tmp_path):
    sdata = stp.datasets.synthetic(n_slides=1, n_side=4, um_per_px=8.0)
    before = resolve(sdata, Selection())[0].xy_px
    shapes = sdata.shapes.pop("S0_spots")
    sdata.shapes["S0_spots"] = shapes.set_index(shapes.index.astype(str))
    sdata.write(tmp_path / "a.zarr")
    np.testing.assert_array_equal(resolve(read_zarr(tmp_path / "a.zarr"), Selection())[0].xy_px, before)
