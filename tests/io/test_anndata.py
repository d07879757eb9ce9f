"""An AnnData with pixel coordinates and its image become a SpatialData, unless they do not fit."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import sparse

import stpredict as stp
from stpredict._slides.slides import Selection, resolve

PIXELS = np.random.default_rng(0).integers(0, 255, (60, 100, 3), dtype=np.uint8)
XY = np.array([[10, 10], [30, 10], [90, 10], [10, 30], [30, 30], [50, 50]])
SPOTS = {"name": "a", "diameter_um": 55}


@pytest.fixture
def adata():
    obs = pd.DataFrame({"row": XY[:, 1], "col": XY[:, 0]}, index=[f"s{i}" for i in range(6)])
    return ad.AnnData(sparse.csc_matrix(np.arange(18.0).reshape(6, 3)), obs=obs, obsm={"spatial": XY})


@pytest.mark.parametrize("image", [PIXELS, PIXELS.transpose(2, 0, 1)])
def test_ready_for_training(adata, image):
    sdata = stp.io.from_anndata(adata, image, pitch_um=100, **SPOTS)
    (slide,) = resolve(sdata, Selection())
    assert (slide.um_per_px, slide.diameter_um, slide.genes) == (5.0, 55.0, ("0", "1", "2"))
    np.testing.assert_array_equal(slide.xy_px, XY)
    np.testing.assert_array_equal(slide.levels[0].pixels, PIXELS.transpose(2, 0, 1))
    np.testing.assert_array_equal(slide.counts.toarray(), np.arange(18).reshape(6, 3))
    assert sdata.attrs["stpredict"]["um_per_px_from"] == {"a_image": "spot pitch"}


def test_the_table_given_is_not_changed(adata):
    before = adata.copy()
    stp.io.from_anndata(adata, PIXELS, um_per_px=5, **SPOTS)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    assert list(adata.uns) == []
    assert adata.X.format == "csc"


def test_image_of_a_file_and_places_in_columns(adata, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "he.png")
    del adata.obsm["spatial"]
    sdata = stp.io.from_anndata(adata, tmp_path / "he.png", xy=("col", "row"), um_per_px=5, patient="p", **SPOTS)
    np.testing.assert_array_equal(sdata["observed"].obsm["spatial"], XY)
    assert sdata["observed"].obs["patient"].unique().tolist() == ["p"]
    assert sdata.attrs["stpredict"]["um_per_px_from"] == {"a_image": "argument"}


def test_the_file_of_the_image_may_say_how_large_a_pixel_is(adata, tmp_path):
    import tifffile

    path = tmp_path / "he.tif"
    tifffile.imwrite(path, PIXELS, photometric="rgb", resolution=(2000, 2000), resolutionunit="CENTIMETER")
    sdata = stp.io.from_anndata(adata, path, **SPOTS)
    assert sdata.attrs["stpredict"]["um_per_px"] == pytest.approx({"a_image": 5})
    assert sdata.attrs["stpredict"]["um_per_px_from"] == {"a_image": "image metadata"}
    with pytest.raises(
        ValueError, match=r"is 10 µm per pixel by its spot pitch, but 5 by image metadata .* factor of 1\.5"
    ):
        stp.io.from_anndata(adata, path, pitch_um=200, **SPOTS)


def test_swapped_axes_are_recognised(adata):
    with pytest.raises(ValueError, match=r"^1 of 6 spots lie off the image of 100 x 60 px") as error:
        stp.io.from_anndata(adata, PIXELS, xy=("row", "col"), um_per_px=5, **SPOTS)
    assert "`xy=('col', 'row')`" in str(error.value)
    adata.obsm["spatial"] = XY[:, ::-1]
    with pytest.raises(ValueError, match="all lie on it with x and y swapped: x seems to be the row"):
        stp.io.from_anndata(adata, PIXELS, um_per_px=5, **SPOTS)


def test_spots_off_the_image_either_way(adata):
    adata.obsm["spatial"] = XY * 3
    with pytest.raises(ValueError, match=r"4 of 6 spots lie off the image .* \(4 with x and y swapped\)"):
        stp.io.from_anndata(adata, PIXELS, um_per_px=5, **SPOTS)


@pytest.mark.parametrize(("arguments", "words"), [
    ({}, "The resolution of 'a' is not known. Give `um_per_px`"),
    ({"um_per_px": -1}, "`um_per_px` is -1; it must be a finite length in µm above 0"),
    ({"um_per_px": 5, "xy": "places"}, r"`xy` is 'places'; it must be a key of `obsm` \(found: 'spatial'\)"),
    ({"um_per_px": 5, "xy": ("col", "y")}, r"`xy` is \('col', 'y'\); .*two columns of `obs` \(found: 'row', 'col'\)"),
])  # fmt: skip
def test_what_is_not_known_or_contradicts(adata, arguments, words):
    with pytest.raises(ValueError, match=words):
        stp.io.from_anndata(adata, PIXELS, **SPOTS, **arguments)


def test_a_given_resolution_wins_over_the_pitch(adata):
    with pytest.warns(UserWarning, match=r"is 5 µm per pixel by the argument `um_per_px`, but 10 by its spot pitch"):
        sdata = stp.io.from_anndata(adata, PIXELS, um_per_px=5, pitch_um=200, **SPOTS)
    assert sdata.attrs["stpredict"]["um_per_px"] == {"a_image": 5}


@pytest.mark.parametrize("value", [np.nan, 1e308])
def test_spots_without_a_place(adata, value):
    adata.obsm["spatial"] = np.where(np.arange(12).reshape(6, 2) == 3, value, XY)
    with pytest.raises(ValueError, match="1 of 6 spots have no finite coordinates"):
        stp.io.from_anndata(adata, PIXELS, um_per_px=5, **SPOTS)


def test_columns_of_the_user_are_kept(adata):
    adata.obs["region"], adata.obs["patient"] = "cortex", ["p", "q"] * 3
    table = stp.io.from_anndata(adata, PIXELS, um_per_px=5, **SPOTS)["observed"]
    assert table.obs["region"].tolist() == ["cortex"] * 6
    assert table.obs["patient"].tolist() == ["p", "q"] * 3
    assert table.uns["spatialdata_attrs"]["region_key"] == "stpredict_region"


@pytest.mark.parametrize(("image", "words"), [
    (PIXELS.astype(np.uint16), "Image 'a' is of type uint16; H&E in 8-bit"),
    (PIXELS[..., 0], r"Image 'a' has shape \(60, 100\)"),
    (PIXELS[..., :2], r"Image 'a' has shape \(60, 100, 2\)"),
])  # fmt: skip
def test_images_that_are_none(adata, image, words):
    with pytest.raises(ValueError, match=words):
        stp.io.from_anndata(adata, image, um_per_px=5, **SPOTS)


def test_files_that_are_none(adata, tmp_path):
    with pytest.raises(FileNotFoundError, match="No image at"):
        stp.io.from_anndata(adata, tmp_path / "gone.jpg", um_per_px=5, **SPOTS)
    Image.fromarray(PIXELS).save(tmp_path / "he.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "he.png").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"image 'cut\.png' cannot be read"):
        stp.io.from_anndata(adata, tmp_path / "cut.png", um_per_px=5, **SPOTS)


def test_real_spots_and_cells(her2st_dir):
    visium, xenium = her2st_dir / "visium_fullres_crop", her2st_dir / "xenium_NCBI858"
    if not (visium.is_dir() and xenium.is_dir()):
        pytest.skip("needs visium_fullres_crop and xenium_NCBI858")
    spots = ad.read_h5ad(visium / "test_data.h5ad")
    sdata = stp.io.from_anndata(spots, visium / "test_img.jpg", name="brain", diameter_um=55, pitch_um=100)
    assert sdata.attrs["stpredict"]["um_per_px"]["brain_image"] == pytest.approx(100 / 138)  # 65 µm are 89.44 px
    assert resolve(sdata, Selection())[0].counts.shape == (49, 1999)
    cells, image = ad.read_h5ad(xenium / "NCBI858.h5ad"), xenium / "NCBI858.jpg"
    kwargs = {"name": "lung", "diameter_um": 10, "um_per_px": 0.36}
    with pytest.raises(ValueError, match=r"16 of 200 spots .* with x and y swapped: x_pixel seems to be the row"):
        stp.io.from_anndata(cells, image, xy=("x_pixel", "y_pixel"), **kwargs)
    sdata = stp.io.from_anndata(cells, image, xy=("y_pixel", "x_pixel"), **kwargs)
    assert resolve(sdata, Selection())[0].counts.shape == (200, 338)


def lazy(kind, adata, tmp_path):
    """The table, held in another way."""
    import dask.array as da

    dense = adata.X.toarray()
    if kind == "backed":
        adata.write_h5ad(tmp_path / "a.h5ad")
        return ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    if kind == "lazy":
        adata.X = sparse.csr_matrix(adata.X)
        adata.write_zarr(tmp_path / "a.zarr")
        return ad.experimental.read_lazy(tmp_path / "a.zarr")
    adata.X = {
        "dask over CSR": lambda: da.from_array(dense, chunks=(4, 3)).map_blocks(sparse.csr_matrix),
        "dask": lambda: da.from_array(dense, chunks=(2, 2)),
        "objects": lambda: dense.astype(object),
    }[kind]()
    return adata


@pytest.mark.parametrize("kind", ["backed", "lazy", "dask over CSR", "dask", "objects"])
@pytest.mark.filterwarnings("ignore:.*read_lazy:FutureWarning", "ignore:.*experimental")
def test_tables_that_are_not_in_memory(adata, kind, tmp_path):
    expected = adata.X.toarray()
    sdata = stp.io.from_anndata(lazy(kind, adata, tmp_path), PIXELS, um_per_px=5, **SPOTS)
    (slide,) = resolve(sdata, Selection())
    np.testing.assert_array_equal(slide.counts.toarray(), expected)
    np.testing.assert_array_equal(slide.xy_px, XY)
    stp.pp.select_genes(sdata, n_genes=2)
    assert sdata["observed"].var["target"].sum() == 2
    stp.pp.spots_from_cells(sdata, diameter_um=200, pitch_um=200, outline="square")
    assert sdata["pseudo_spots_counts"].X.sum() == expected[[0, 1, 3, 4]].sum()  # those in the only whole square


def test_counts_in_a_layer_without_x(adata):
    adata.layers["counts"], adata.X = adata.X.toarray(), None
    sdata = stp.io.from_anndata(adata, PIXELS, um_per_px=5, **SPOTS)
    with pytest.raises(ValueError, match=r"X of the table is None\. Give the `layer` that holds raw counts"):
        stp.pp.select_genes(sdata, n_genes=2)
    stp.pp.select_genes(sdata, n_genes=2, layer="counts")
    assert resolve(sdata, Selection(layer="counts"))[0].counts.sum() == 153
