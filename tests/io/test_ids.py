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


def rename(matrix, names):
    """Give the barcodes of a matrix other names."""
    with h5py.File(matrix, "a") as file:
        del file["matrix/barcodes"]
        file["matrix/barcodes"] = np.array(names, "S")


def reader_case(reader, request, names, kind):
    """A sample in which the ids of one reader have some type: how to read it, and the ids and counts it must give."""
    folder = request.getfixturevalue(f"{reader}_folder")
    if reader == "xenium":
        new = [NAMES[names](i) for i in (7, 3, 12, 5)]
        rename(folder / "cell_feature_matrix.h5", new)
        cells = pd.read_parquet(folder / "cells.parquet")
        cells["cell_id"] = TYPES[kind](new)
        cells.iloc[::-1].to_parquet(folder / "cells.parquet")
        return lambda: stp.io.read_xenium(folder, transcripts=False), new, np.arange(16).reshape(4, 4)
    hd = "binned_outputs/square_008um/spatial/tissue_positions.parquet"
    path = folder / {"visium": "spatial/tissue_positions.csv", "hd": hd}[reader]
    frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    new = [NAMES[names](i) for i in range(100, 100 + len(frame))]
    path.unlink()
    frame.assign(barcode=TYPES[kind](new)).iloc[::-1].to_parquet(path.with_suffix(".parquet"))
    kept = frame["in_tissue"].to_numpy() == 1
    matrix = path.parents[1] / "filtered_feature_bc_matrix.h5"
    counts = np.arange(4 * len(frame)).reshape(-1, 4)
    made.write_matrix(matrix, np.array(new)[kept].tolist(), counts[kept])
    read = stp.io.read_visium if reader == "visium" else stp.io.read_visium_hd
    return lambda: read(folder), np.array(new)[kept].tolist(), counts[kept]


@pytest.mark.parametrize("reader", ["visium", "hd", "xenium"])
@pytest.mark.parametrize(("names", "kind"), CASES)
def test_ids_of_platforms(request, tmp_path, reader, names, kind):
    read, ids, counts = reader_case(reader, request, names, kind)
    sdata = read()
    sdata.write(tmp_path / "a.zarr")
    for found in (sdata, read_zarr(tmp_path / "a.zarr")):
        (slide,) = resolve(found, Selection())
        assert slide.obs_names.tolist() == ids
        np.testing.assert_array_equal(slide.counts.toarray(), counts)
        np.testing.assert_allclose(slide.xy_px, found["observed"].obsm["spatial"], atol=1e-6)


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
