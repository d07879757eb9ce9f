"""Embeddings that TRIDENT, HEST and LazySlide wrote: matched by barcode or place; what does not match is counted."""

from __future__ import annotations

import re

import anndata as ad
import geopandas as gpd
import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel

from stpredict.datasets import synthetic
from stpredict.io import read_embeddings

N, SIDE = 36, 56


@pytest.fixture
def sdata():
    """One slide of 6 x 6 spots, 100 µm in diameter, 25 px."""
    return synthetic(n_slides=1, n_side=6)


@pytest.fixture
def two():
    return synthetic(n_slides=2, n_side=4, um_per_px=8.0)


def numbered(n=N):
    """Features that tell which spot they are of."""
    return np.column_stack([np.arange(n), -np.arange(n), np.ones(n)]).astype(np.float32)


def written(path, centers, features, *, side=SIDE, name="features", **more):
    with h5py.File(path, "w") as file:
        file[name] = features
        file["coords"] = centers - side / 2
        if side:
            file["coords"].attrs["patch_size_level0"] = side
        for key, values in more.items():
            file[key] = values
    return path


def places(sdata):
    return sdata["observed"].obsm["spatial"]


def test_patches_of_trident_are_matched_by_place(sdata, tmp_path):
    """In another order, among others, and a little beside the spots."""
    rng = np.random.default_rng(0)
    order = rng.permutation(N)
    centers = np.concatenate([places(sdata)[order] + rng.uniform(-3, 3, (N, 2)), rng.uniform(0, 300, (20, 2)) - 500])
    features = np.concatenate([numbered()[order], np.full((20, 3), 99)])
    read_embeddings(sdata, written(tmp_path / "a.h5", centers, features[None]), key_added="X_uni", encoder="uni")
    np.testing.assert_array_equal(sdata["observed"].obsm["X_uni"], numbered())
    record = sdata["observed"].uns["X_uni"]
    assert (record["encoder"], record["fov_um"].tolist()) == ("uni", [SIDE * 4.0])


def test_numbers_of_rows_are_no_barcodes_where_places_contradict_them(sdata, tmp_path):
    order = np.random.default_rng(0).permutation(N)
    path = written(tmp_path / "a.h5", places(sdata)[order], numbered()[order], barcodes=np.arange(N).astype("S"))
    read_embeddings(sdata, path)
    np.testing.assert_array_equal(sdata["observed"].obsm["X_embeddings"], numbered())
    path = written(tmp_path / "b.h5", places(sdata), numbered(), barcodes=np.arange(N).astype("S"))
    read_embeddings(sdata, path, key_added="X_same")
    np.testing.assert_array_equal(sdata["observed"].obsm["X_same"], numbered())


def test_patches_of_hest_are_matched_by_barcode(sdata, tmp_path):
    """Wherever they lie."""
    order = np.random.default_rng(1).permutation(N)
    names = sdata["observed"].obs_names.to_numpy()[order].astype("S")[:, None]
    far = places(sdata) * 0
    path = written(tmp_path / "a.h5", far, numbered()[order], name="embeddings", side=0, barcodes=names)
    read_embeddings(sdata, path)
    np.testing.assert_array_equal(sdata["observed"].obsm["X_embeddings"], numbered())
    assert sdata["observed"].uns["X_embeddings"]["encoder"] == "unknown"
    path = written(tmp_path / "b.h5", far[1:], numbered()[order][1:], side=0, barcode=names[1:])
    missing = sdata["observed"].obs_names[order[0]]
    with pytest.raises(ValueError, match=rf"1 of 36 spots of 'S0_spots' do not have their barcode .*'{missing}'"):
        read_embeddings(sdata, path)


@pytest.mark.parametrize("table_first", [True, False])
def test_tables_of_lazyslide_are_matched_by_place(sdata, tmp_path, table_first):
    """Features in a table that annotates the polygons of tiles, whose ids are not in the order of the rows."""
    order = np.random.default_rng(2).permutation(N)
    boxes = [shapely.box(x - 28, y - 28, x + 28, y + 28) for x, y in places(sdata)]
    tiles = ShapesModel.parse(gpd.GeoDataFrame({"tile_id": range(N)}, geometry=boxes))
    obs = pd.DataFrame({"tile_id": order, "library_id": pd.Categorical(["tiles"] * N)}, index=order.astype(str))
    table = TableModel.parse(
        ad.AnnData(numbered()[order], obs=obs), region="tiles", region_key="library_id", instance_key="tile_id"
    )
    tables = {"uni_tiles": table, "conch_tiles": table.copy()}
    if table_first:
        del tables["conch_tiles"]
    SpatialData(shapes={"tiles": tiles}, tables=tables).write(tmp_path / "slide.zarr")
    if not table_first:
        with pytest.raises(ValueError, match=r"Which table of features in 'slide.zarr' is meant\?.*`patch_table`"):
            read_embeddings(sdata, tmp_path / "slide.zarr")
    read_embeddings(sdata, tmp_path / "slide.zarr", patch_table=None if table_first else "uni_tiles")
    np.testing.assert_array_equal(sdata["observed"].obsm["X_embeddings"], numbered())
    assert sdata["observed"].uns["X_embeddings"]["fov_um"].tolist() == [224.0]


def test_every_slide_has_its_file(two, tmp_path):
    xy = places(two)
    files = {
        f"S{i}_spots": written(tmp_path / f"{i}.h5", xy[16 * i :][:16], numbered(32)[16 * i :][:16]) for i in (1, 0)
    }
    read_embeddings(two, files)
    np.testing.assert_array_equal(two["observed"].obsm["X_embeddings"], numbered(32))
    with pytest.raises(ValueError, match=r"given for 'S0_spots', and the spots are those of 'S0_spots', 'S1_spots'"):
        read_embeddings(two, files["S0_spots"])
    read_embeddings(two, files["S1_spots"], shapes_key="S1_spots", key_added="X_one")
    np.testing.assert_array_equal(two["observed"].obsm["X_one"][16:], numbered(32)[16:])
    assert np.isnan(two["observed"].obsm["X_one"][:16]).all()
    files["S1_spots"] = written(tmp_path / "wide.h5", xy[16:], numbered(16)[:, :2])
    with pytest.raises(ValueError, match=r"files hold embeddings of different widths: 2, 3"):
        read_embeddings(two, files)


def test_spots_without_a_patch_are_counted(sdata, tmp_path):
    centers = places(sdata).copy()
    centers[:3] -= [10, 0]  # 40 µm
    path = written(tmp_path / "a.h5", centers, numbered())
    message = r"3 of 36 spots of 'S0_spots' do not have a patch within 25 µm \(nearest: 40 µm\) among the 36 patches"
    with pytest.raises(
        ValueError, match=message + r".*`tolerance_um`, remove these spots, or set `allow_missing=True`"
    ):
        read_embeddings(sdata, path)
    with pytest.warns(UserWarning, match=message + ".*Their embeddings are NaN: remove these rows"):
        read_embeddings(sdata, path, allow_missing=True)
    found = sdata["observed"].obsm["X_embeddings"]
    assert np.isnan(found[:3]).all()
    np.testing.assert_array_equal(found[3:], numbered()[3:])
    read_embeddings(sdata, path, tolerance_um=50)
    np.testing.assert_array_equal(sdata["observed"].obsm["X_embeddings"], numbered())


MOVED = {
    "scale": (0.5, (0, 0), 60),
    "offset": (1, (-112, 64), 60),
    "both": (2, (300, -40), 60),
    "micrometres": (4.0, (0, 0), 60),
    "odd scale": (1 / 0.37, (-20, 33), 0),  # found by the distances between patches, if these are those of the spots
}
"""Scale and offset of the coordinates in the file, and number of patches beside the spots."""


@pytest.mark.parametrize("case", MOVED)
def test_the_scale_and_offset_that_would_match_are_named_and_do(sdata, tmp_path, case):
    """Spots are not on a lattice, so there is one answer only; other patches lie around them."""
    scale, offset, n_others = MOVED[case]
    rng = np.random.default_rng(3)
    element = sdata["S0_spots"]
    xy = np.column_stack([element.geometry.x, element.geometry.y]) + rng.uniform(-15, 15, (N, 2))
    sdata["S0_spots"] = ShapesModel.parse(
        xy, geometry=0, radius=element["radius"].to_numpy(), index=element.index,
        transformations=dict(element.attrs["transform"]),
    )  # fmt: skip
    order = rng.permutation(N)
    centers = np.concatenate([xy[order], rng.uniform(-400, 800, (n_others, 2))]) * scale + offset
    path = written(tmp_path / "a.h5", centers, np.concatenate([numbered()[order], np.full((n_others, 3), 99)]))
    with pytest.raises(ValueError, match=r"of 36 spots of 'S0_spots' have no patch in 'a.h5' within 25 µm") as caught:
        read_embeddings(sdata, path)
    named = re.search(r"(\d+) spots would match with `scale=(\S+)` and `offset_px=\((\S+), (\S+)\)`", str(caught.value))
    n, *numbers = named.groups()
    assert int(n) == N
    found_scale, *found_offset = map(float, numbers)
    assert found_scale == pytest.approx(1 / scale, rel=1e-3)
    read_embeddings(sdata, path, scale=found_scale, offset_px=tuple(found_offset))
    np.testing.assert_array_equal(sdata["observed"].obsm["X_embeddings"], numbered())


def test_patches_of_another_slide_match_nowhere(sdata, tmp_path):
    centers = np.random.default_rng(4).uniform(5000, 6000, (N, 2))
    path = written(tmp_path / "a.h5", centers, numbered())
    with pytest.raises(ValueError, match=r"36 of 36 spots .* have no patch .* lie at x 51\d\d to .* of this slide"):
        read_embeddings(sdata, path)
    assert "X_embeddings" not in sdata["observed"].obsm


def test_corners_are_made_centres_by_the_side_of_the_patches(sdata, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"], file["coords"] = numbered(), places(sdata) - SIDE / 2
    with pytest.raises(ValueError, match=r"36 spots would match with `scale=1` and `offset_px=\(28.0, 28.0\)`"):
        read_embeddings(sdata, tmp_path / "a.h5")
    read_embeddings(sdata, tmp_path / "a.h5", patch_px=SIDE)
    np.testing.assert_array_equal(sdata["observed"].obsm["X_embeddings"], numbered())


def test_files_that_hold_something_else_are_refused(sdata, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["img"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"'a.h5' holds 'img'; embeddings of patches are 'features', 'embeddings'"):
        read_embeddings(sdata, tmp_path / "a.h5")
    path = written(tmp_path / "b.h5", places(sdata), numbered(35))
    with pytest.raises(ValueError, match=r"of shape \(35, 3\), 36 coordinates and 0 barcodes: there must be one row"):
        read_embeddings(sdata, path)
    (tmp_path / "c.h5").write_text("no HDF5")
    with pytest.raises(ValueError, match=r"The features of patches 'c.h5' cannot be read"):
        read_embeddings(sdata, tmp_path / "c.h5")
    sdata.write(tmp_path / "whole.zarr")
    del sdata["S0_spots"]
    images = synthetic(n_slides=1, n_side=6)
    elements = {"images": dict(images.images), "tables": dict(images.tables)}
    with pytest.warns(UserWarning, match="not present"):
        SpatialData(**elements).write(tmp_path / "bare.zarr")
    with pytest.warns(UserWarning, match="not present"), pytest.raises(ValueError, match=r"one element of shapes with"):
        read_embeddings(images, tmp_path / "bare.zarr")
