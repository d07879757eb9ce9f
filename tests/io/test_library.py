"""Images that an AnnData holds as scanpy writes them: which is used, at which resolution, and what is missing."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

import stpredict as stp
from stpredict._slides.slides import Selection, resolve

UM_PER_PX = 5.0


@pytest.fixture
def visium(visium_folder):
    """The sample as ``scanpy.read_visium`` holds it: floats from 0 to 1, positions in full-resolution pixels."""
    places = pd.read_csv(visium_folder / "spatial/tissue_positions.csv", index_col=0)
    pixels = {
        kind: np.asarray(Image.open(visium_folder / f"spatial/tissue_{kind}_image.png"), np.float32) / 255
        for kind in ("hires", "lowres")
    }
    factors = {
        "spot_diameter_fullres": 65 / UM_PER_PX,
        "fiducial_diameter_fullres": 20.0,
        "tissue_hires_scalef": 0.5,
        "tissue_lowres_scalef": np.float32(0.25),
    }
    obs = places[["array_row", "array_col"]].assign(in_tissue=1)
    adata = ad.AnnData(np.arange(96.0).reshape(48, 2), obs=obs)
    adata.obsm["spatial"] = places[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()
    adata.uns["spatial"] = {"V 1": {"images": pixels, "scalefactors": factors, "metadata": {}}}
    return adata


def resolutions(sdata):
    return sdata.attrs["stpredict"]["um_per_px"]


def test_the_overview_with_its_resolution(visium, visium_folder):
    with pytest.warns(UserWarning, match=r"overview 'hires' at 10 µm per pixel: a spot of 55 µm is 5\.5 pixels wide"):
        sdata = stp.io.from_anndata(visium)
    assert list(sdata.images) == ["V_1_image"]
    assert resolutions(sdata) == pytest.approx({"V_1_image": 10.0}, rel=1e-3)
    (slide,) = resolve(sdata, Selection())
    assert (slide.diameter_um, slide.um_per_px) == pytest.approx((55.0, 10.0), rel=1e-3)
    np.testing.assert_allclose(slide.xy_px, visium.obsm["spatial"] / 2)
    hires = np.asarray(Image.open(visium_folder / "spatial/tissue_hires_image.png"))
    np.testing.assert_array_equal(slide.levels[0].pixels, hires.transpose(2, 0, 1))
    assert sdata.attrs["stpredict"]["platform"] == {"V_1_spots": "visium"}


def test_an_overview_that_is_asked_for(visium):
    assert resolutions(stp.io.from_anndata(visium, "lowres", name="a")) == pytest.approx({"a_image": 20.0}, rel=1e-3)


def test_the_source_image_if_it_is_there(visium, visium_folder, caplog):
    visium.uns["spatial"]["V 1"]["metadata"]["source_image_path"] = str(visium_folder / "image.tif")
    with caplog.at_level(logging.INFO, "stpredict"):
        sdata = stp.io.from_anndata(visium)
    assert sdata["V_1_image"]["scale0"]["image"].shape == (3, 130, 220)
    assert resolutions(sdata) == pytest.approx({"V_1_image": 5.0}, rel=1e-3)
    assert "48 spots on an image of 220 x 130 px, 5 µm per pixel" in caplog.text
    tifffile.imwrite(visium_folder / "image.tif", np.zeros((65, 110, 3), np.uint8), photometric="rgb")
    with pytest.warns(UserWarning, match="overview 'hires'"), caplog.at_level(logging.INFO, "stpredict"):
        stp.io.from_anndata(visium)
    assert "is 110 x 65 px, but the positions refer to an image of about 220 x 130 px" in caplog.text


def test_visium_by_its_spot_diameter_without_array_coordinates(visium):
    visium.obs = visium.obs[["in_tissue"]]
    sdata = stp.io.from_anndata(visium, "hires")
    assert resolutions(sdata) == pytest.approx({"V_1_image": 10.0}, rel=1e-3)


def test_other_platforms_by_their_scale_factors(visium):
    visium.obs = visium.obs[["in_tissue"]]
    visium.uns["spatial"]["V 1"]["scalefactors"] |= {"microns_per_pixel": 0.5, "spot_diameter_fullres": 16.0}
    (slide,) = resolve(stp.io.from_anndata(visium, "hires"), Selection())
    assert (slide.um_per_px, slide.diameter_um) == pytest.approx((1.0, 8.0))
    del visium.uns["spatial"]["V 1"]["scalefactors"]["spot_diameter_fullres"]
    with pytest.raises(ValueError, match=r"diameter of the spots of 'V_1' is not known: .* Give `diameter_um`"):
        stp.io.from_anndata(visium)
    (slide,) = resolve(stp.io.from_anndata(visium, "hires", um_per_px=0.25, diameter_um=2), Selection())
    assert (slide.um_per_px, slide.diameter_um) == pytest.approx((0.5, 2.0))


def test_a_given_image_is_that_of_the_only_sample(visium, visium_folder):
    visium.obs = visium.obs[["in_tissue"]]
    visium.uns["spatial"]["V 1"]["scalefactors"] |= {"microns_per_pixel": 0.5, "spot_diameter_fullres": 16.0}
    (slide,) = resolve(stp.io.from_anndata(visium, visium_folder / "image.tif"), Selection())
    assert (slide.name, slide.um_per_px, slide.diameter_um) == ("V_1_spots", 0.5, 8.0)
    pixels = np.asarray(Image.open(visium_folder / "image.tif"))
    assert list(stp.io.from_anndata(visium, pixels, um_per_px=0.25).attrs["stpredict"]["um_per_px"].values()) == [0.25]


def test_several_samples_in_one_table(visium):
    other = visium.copy()
    other.uns["spatial"] = {"B": other.uns["spatial"]["V 1"]}
    both = ad.concat({"V 1": visium, "B": other}, label="library_id", uns_merge="unique", index_unique="-")
    both.obs["patient"] = "P9"
    sdata = stp.io.from_anndata(both, "hires")
    slides = resolve(sdata, Selection(group_key="patient"))
    assert [(slide.name, slide.image_key, len(slide.xy_px), slide.group) for slide in slides] == [
        ("V_1_spots", "V_1_image", 48, "P9"),
        ("B_spots", "B_image", 48, "P9"),
    ]
    np.testing.assert_array_equal(slides[1].counts.toarray(), visium.X)
    with pytest.raises(ValueError, match=r"`name` is 'x', but `uns\['spatial'\]` holds 2 images .* Leave `name` out"):
        stp.io.from_anndata(both, name="x")
    del both.obs["library_id"]
    with pytest.raises(ValueError, match=r"holds 2 images \('V 1', 'B'\), and no column of `obs` says which spot"):
        stp.io.from_anndata(both)


def test_what_is_missing_is_named(visium):
    factors = visium.uns["spatial"]["V 1"]["scalefactors"]
    del factors["tissue_lowres_scalef"]
    with pytest.raises(ValueError, match=r"holds no 'lowres' image with its scale factor \(images: 'hires', 'lowres'"):
        stp.io.from_anndata(visium, "lowres")
    del factors["tissue_hires_scalef"]
    with pytest.raises(ValueError, match=r"holds no 'hires', 'lowres' image .* Give the H&E image"):
        stp.io.from_anndata(visium)
    del visium.uns["spatial"]
    with pytest.raises(ValueError, match=r"AnnData holds no image: `uns\['spatial'\]` is missing .* Give the H&E"):
        stp.io.from_anndata(visium)


def test_spots_off_the_overview(visium):
    visium.obsm["spatial"] = visium.obsm["spatial"] + 100
    with pytest.raises(ValueError, match=r"spots lie off the image of 222 x 132 px"):
        stp.io.from_anndata(visium)


def several(visium, names):
    """Samples with an image each, one below the other."""
    parts = {}
    for name in names:
        part = visium.copy()
        part.uns["spatial"] = {name: visium.uns["spatial"]["V 1"]}
        parts[name] = part
    return ad.concat(parts, label="sample", uns_merge="unique", index_unique="-")


@pytest.mark.filterwarnings("ignore:.*overview")
def test_a_subset_of_samples_keeps_the_images_of_its_spots(visium):
    joined = several(visium, "ABC")
    sdata = stp.io.from_anndata(joined[joined.obs["sample"] != "B"].copy())
    assert list(sdata.images) == ["A_image", "C_image"]
    assert sdata["observed"].obs["section"].value_counts().to_dict() == {"A": 48, "C": 48}
    one = stp.io.from_anndata(joined[joined.obs["sample"] == "C"].copy())
    assert list(one.images) == ["C_image"]


def test_spots_of_a_sample_without_an_image_are_not_put_on_another(visium):
    joined = several(visium, "ABC")
    del joined.uns["spatial"]["B"]
    with pytest.raises(ValueError, match=r"obs\['sample'\] says .* has none of 'B' \(images: 'A', 'C'\). Add these"):
        stp.io.from_anndata(joined)
    del joined.uns["spatial"]["C"]
    with pytest.raises(ValueError, match=r"has none of 'B', 'C' \(images: 'A'\)"):
        stp.io.from_anndata(joined)
