"""Lattices as images: where pixels lie, what they hold, what is refused, and that others can read them."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix
from shapely import points
from spatialdata import get_extent, read_zarr, transform
from spatialdata.models import Image2DModel, TableModel
from spatialdata.transformations import Affine, get_transformation, set_transformation

import stpredict as stp
from stpredict._slides.slides import Selection, resolve
from stpredict.tl import _raster as module
from stpredict.tl import rasterize

from .conftest import copied

GENES = ["A", "B", "C"]


def annotate(sdata, name, region):
    """A table of three genes on most places of an element, in no order."""
    ids = np.random.default_rng(0).permutation(sdata[region].index.to_numpy())[: len(sdata[region]) * 9 // 10]
    values = np.random.default_rng(1).normal(size=(len(ids), 3)).astype(np.float32)
    obs = pd.DataFrame({"region": pd.Categorical([region] * len(ids)), "spot": ids}, index=ids.astype(str))
    table = AnnData(values, obs=obs, var=pd.DataFrame(index=GENES))
    sdata[name] = TableModel.parse(table, region=region, region_key="region", instance_key="spot")


@pytest.fixture(scope="module", params=["square", "hexagonal"])
def original(request):
    sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    stp.pp.spot_grid(sdata, diameter_um=40, pitch_um=50, layout=request.param, tissue_key=None)
    annotate(sdata, "predicted", "grid")
    return sdata


@pytest.fixture
def lattice(original):
    return copied(original)


def pixels(sdata, key, system):
    """Centres ``(n, 2)`` in a coordinate system and values ``(n, c)`` of the pixels that have any."""
    image = sdata[key]
    _, row, column = np.nonzero(np.isfinite(image.values[:1]))
    matrix = get_transformation(image, system).to_affine_matrix(("x", "y"), ("x", "y"))
    xy = np.column_stack([column + 0.5, row + 0.5, np.ones(len(row))]) @ matrix.T[:, :2]
    return xy, image.values[:, row, column].T


def spots(sdata, name, region, system):
    """Centres and values of the places that a table annotates."""
    table = sdata[name]
    centre = transform(sdata[region], to_coordinate_system=system).geometry.centroid.loc[table.obs["spot"]]
    return np.column_stack([centre.x, centre.y]), np.asarray(table.X)


def assert_on_places(sdata, key, system, genes):
    xy, values = pixels(sdata, key, system)
    places, expected = spots(sdata, "predicted", "grid", system)
    distance = np.linalg.norm(xy[:, None] - places, axis=2)
    nearest = distance.argmin(axis=1)
    np.testing.assert_array_equal(values, expected[nearest][:, [GENES.index(gene) for gene in genes]])
    each = np.bincount(nearest, minlength=len(places))
    assert set(each) == {len(xy) // len(places)}
    middle = np.column_stack([np.bincount(nearest, part) / each for part in xy.T])
    np.testing.assert_allclose(middle, places, atol=1e-9 * np.ptp(places))


def test_pixels_lie_on_their_places(lattice):
    rasterize(lattice, ["C", "A"])
    image = lattice["predicted_raster"]
    assert image.dims == ("c", "y", "x")
    assert image.dtype == np.float32
    assert image.c.values.tolist() == ["C", "A"]
    assert_on_places(lattice, "predicted_raster", "S0", ["C", "A"])
    Image2DModel().validate(image)


def test_every_coordinate_system(lattice):
    turned = Affine([[0.3, -2.0, 5], [2.0, 0.3, -70], [0, 0, 1]], ("x", "y"), ("x", "y"))
    set_transformation(lattice["grid"], turned, "aligned")
    rasterize(lattice)
    for system in ("S0", "aligned"):
        assert_on_places(lattice, "predicted_raster", system, GENES)


def test_extent_is_that_of_bins():
    sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    stp.pp.spot_grid(sdata, "visium_hd_16um", tissue_key=None)
    annotate(sdata, "predicted", "grid")
    rasterize(sdata, ["A"])
    bins, image = get_extent(sdata["grid"], "S0"), get_extent(sdata["predicted_raster"], "S0")
    np.testing.assert_allclose([*image["x"], *image["y"]], [*bins["x"], *bins["y"]])


@pytest.mark.parametrize("sparse", [False, True])
def test_lazy_tables_give_lazy_images(lattice, monkeypatch, sparse):
    rasterize(lattice, key_added="eager")
    table = lattice["predicted"]
    table.X = da.from_array(table.X, chunks=(17, 3))
    if sparse:
        table.X = table.X.map_blocks(csr_matrix)
    monkeypatch.setattr(module, "BAND_BYTES", 4000)
    monkeypatch.setattr(module, "CHUNK_GENES", 2)
    rasterize(lattice, key_added="lazy")
    assert isinstance(lattice["lazy"].data, da.Array)
    assert lattice["lazy"].data.numblocks[0] == 2
    assert lattice["lazy"].data.numblocks[1] > 2
    np.testing.assert_array_equal(lattice["lazy"].values, lattice["eager"].values)


def test_written_and_read(lattice, tmp_path):
    lattice["predicted"].X = da.from_array(lattice["predicted"].X, chunks=(50, 3))
    rasterize(lattice)
    expected = lattice["predicted_raster"].values
    lattice.write(tmp_path / "slide.zarr")
    back = read_zarr(tmp_path / "slide.zarr")
    np.testing.assert_array_equal(back["predicted_raster"].values, expected)
    assert back["predicted_raster"].c.values.tolist() == GENES
    assert_on_places(back, "predicted_raster", "S0", GENES)
    rasterize(back, ["B"])  # is known to be ours, and is replaced
    assert back["predicted_raster"].shape[0] == 1


@pytest.mark.filterwarnings("ignore:The set_(bad|under|over|extremes) function:PendingDeprecationWarning")
def test_drawn_by_spatialdata_plot(lattice):
    pytest.importorskip("spatialdata_plot")
    from matplotlib import pyplot as plt

    rasterize(lattice, ["B"])
    gaps = np.isnan(lattice["predicted_raster"].values)
    rasterize(lattice, ["B"], fill=0)
    assert gaps.any()
    assert lattice["predicted_raster"].dtype == np.float32
    assert not lattice["predicted_raster"].values[gaps].any()
    _, ax = plt.subplots()
    drawing = lattice.pl.render_images("predicted_raster", channel="B")
    drawing.pl.show(ax=ax, coordinate_systems="S0")
    extent = get_extent(lattice["predicted_raster"], "S0")
    assert ax.get_xlim() == pytest.approx(extent["x"])
    assert ax.images
    plt.close("all")


def test_layers_regions_and_notes(sdata):
    with pytest.raises(ValueError, match=r"'observed' annotates 3 elements: 'S0_spots', .*Give one as `shapes_key`"):
        rasterize(sdata, table_name="observed")
    rasterize(sdata, ["GENE7"], table_name="observed", layer="rate", shapes_key="S1_spots", key_added="rate")
    table = sdata["observed"]
    rows = (table.obs["region"] == "S1_spots").to_numpy()
    np.testing.assert_array_equal(sdata["rate"].values.ravel(), table.layers["rate"][rows, 7].astype(np.float32))
    note = {"table_name": "observed", "layer": "rate", "shapes_key": "S1_spots", "layout": "square"}
    assert sdata.attrs["stpredict"]["raster"] == {"rate": note}


def test_counts_are_taken_as_they_are(sdata):
    rasterize(sdata, ["GENE2"], table_name="observed", shapes_key="S0_spots")
    table = sdata["observed"]
    rows = (table.obs["region"] == "S0_spots").to_numpy()
    np.testing.assert_array_equal(sdata["observed_raster"].values.ravel(), table.X[rows][:, [2]].toarray().ravel())


def test_rasters_are_not_taken_for_slides(lattice):
    rasterize(lattice)
    stp.pl.expression(lattice, "A", keys="predicted")
    stp.pp.spot_grid(lattice, "visium", key_added="other")
    stp.pp.resolution(lattice, um_per_px=4.0)
    assert list(lattice.attrs["stpredict"]["um_per_px"]) == ["S0_image"]
    (slide,) = resolve(lattice, Selection(shapes_key="grid"), needs_table=False)
    assert slide.image_key == "S0_image"


def test_faults(lattice, monkeypatch):
    before = set(lattice.images)
    with pytest.raises(TypeError, match="Expected a SpatialData"):
        rasterize(lattice["predicted"])
    with pytest.raises(ValueError, match=r"No table 'guess' in `sdata\.tables`"):
        rasterize(lattice, table_name="guess")
    with pytest.raises(ValueError, match=r"has no gene 'D', 'E' \(3 genes\)\. There are 'A', 'B', 'C'"):
        rasterize(lattice, ["A", "D", "E"])
    with pytest.raises(ValueError, match=r"some are repeated: 'B'"):
        rasterize(lattice, ["B", "A", "B"])
    with pytest.raises(ValueError, match=r"`genes` is empty"):
        rasterize(lattice, [])
    with pytest.raises(ValueError, match=r"does not annotate 'S0_spots' \(but: 'grid'\)"):
        rasterize(lattice, shapes_key="S0_spots")
    with pytest.raises(ValueError, match=r"No layer 'rate' in the table"):
        rasterize(lattice, layer="rate")
    lattice["predicted"].layers["values"], lattice["predicted"].X = lattice["predicted"].X, None
    with pytest.raises(ValueError, match=r"X of table 'predicted' is None \(layers found: 'values'\)\. Give"):
        rasterize(lattice)
    lattice["predicted"].X = lattice["predicted"].layers["values"]
    for key in ("S0_image", "grid"):
        with pytest.raises(ValueError, match=rf"already has an element '{key}'"):
            rasterize(lattice, key_added=key)
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(ValueError, match=r"All 3 genes .* of 0\.0 GiB .*`stp\.tl\.rasterize\(sdata, genes=\[…\]\)`"):
        rasterize(lattice)
    rasterize(lattice, GENES)
    assert set(lattice.images) == before | {"predicted_raster"}


def test_faults_of_places(lattice):
    scattered = np.random.default_rng(0).random((len(lattice["grid"]), 2))
    lattice["grid"].geometry = points(100 * scattered)
    with pytest.raises(ValueError, match=r"places of 'grid' lie on no regular lattice: .*`stp\.pp\.spot_grid`"):
        rasterize(lattice)
    del lattice.shapes["grid"]
    with pytest.raises(ValueError, match=r"annotates 'grid', which is not among the shapes of the object"):
        rasterize(lattice)
    assert "raster" not in lattice.attrs["stpredict"]
