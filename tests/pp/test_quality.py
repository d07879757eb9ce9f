"""Windows that are blurred, folded, inked or empty are found on a made-up slide, whatever its stain and pyramid."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Scale

import stpredict as stp
from stpredict._slides.slides import Selection, resolve

UM = 1.0
FAULTS = {"blurred": (slice(600, 800), slice(400, 800)), "folded": (slice(1000, 1200), slice(400, 800)),
          "inked": (slice(600, 800), slice(1000, 1400)), "empty": (slice(0, 600), slice(0, 1600))}  # fmt: skip


@cache
def optical_density(strength=1.0):
    """Nuclei on eosin, sharp to a pixel, with four faults and a white margin above."""
    rng = np.random.default_rng(0)
    nuclei = gaussian_filter(rng.normal(size=(1400, 1600)), 1.2)
    nuclei = np.clip(nuclei / nuclei.std(), 0, 2)[..., None] * [0.15, 0.3, 0.1]
    eosin = 1 + 0.35 * np.sin(np.arange(1600) / 30)[:, None] * np.sin(np.arange(1400) / 30)[:, None, None]
    density = strength * (nuclei + eosin * np.array([0.05, 0.25, 0.08]))
    at = FAULTS["blurred"]
    density[at] = gaussian_filter(density, (4, 4, 0))[at]
    density[FAULTS["folded"]] *= 2.3
    density[:600] = 0
    density[650:750, 1016:1384] = [1.6, 0.9, 0.3]  # a blue pen
    density.setflags(write=False)
    return density


def slide_of(density, background=240, scale_factors=(2, 2)):
    pixels = np.rint((background + 1) * np.exp(-density) - 1).clip(0, 255).astype(np.uint8)
    image = Image2DModel.parse(
        pixels.transpose(2, 0, 1), dims=("c", "y", "x"), c_coords=["r", "g", "b"], scale_factors=list(scale_factors)
    )
    return SpatialData(images={"he": image}, attrs={"stpredict": {"um_per_px": {"he": UM}}})


def expected_flags():
    """Of seven rows of eight windows of 200 µm."""
    flags = np.full((7, 8), "good", object)
    for name, (rows, columns) in FAULTS.items():
        flags[rows.start // 200 : rows.stop // 200, columns.start // 200 : columns.stop // 200] = name
    return flags.ravel().tolist()


@pytest.mark.parametrize(
    ("strength", "background", "scale_factors"),
    [(0.7, 240, (2, 2)), (0.7, 205, ()), (1.4, 240, ()), (1.4, 205, (2, 2))],
)
def test_every_fault_is_found_and_nothing_else(strength, background, scale_factors):
    sdata = slide_of(optical_density(strength), background, scale_factors)
    stp.pp.quality(sdata)
    found = sdata["quality"]
    assert found["flag"].tolist() == expected_flags()
    assert found.geometry[25].bounds == (200, 600, 400, 800)
    sharp = found["sharpness"].to_numpy()[[24, 32, 46]]
    assert (sharp > 0.25).all()
    assert (found["sharpness"].to_numpy()[[26, 27]] < 0.15).all()
    assert found["density_ratio"].to_numpy()[[42, 43]] == pytest.approx(2.3, rel=0.1)
    assert found["coverage"].to_numpy()[:24].max() == 0


def test_a_slide_that_is_blurred_as_a_whole():
    density = gaussian_filter(optical_density(), (4, 4, 0))
    sdata = slide_of(density)
    stp.pp.quality(sdata)
    assert set(sdata["quality"]["flag"][24:28]) == {"blurred"}


def test_windows_at_the_edge_are_smaller():
    sdata = slide_of(optical_density()[:950, :1530], scale_factors=())
    stp.pp.quality(sdata, window_um=100)
    assert len(sdata["quality"]) == 10 * 16
    assert sdata["quality"].geometry.iloc[-1].bounds == (1500, 900, 1530, 950)
    assert sdata["quality"].area.sum() == 950 * 1530


def test_it_is_recorded_and_replaced_and_holds_no_spots():
    sdata = slide_of(optical_density())
    sdata.shapes["mine"] = ShapesModel.parse(np.array([[1300.0, 1300]]), geometry=0, radius=9)
    stp.pp.quality(sdata)
    stp.pp.quality(sdata, window_um=500)
    record = sdata.attrs["stpredict"]["quality"]["quality"]
    assert (record["image_key"], record["window_px"], record["n_columns"]) == ("he", [500, 500], 4)
    (slide,) = resolve(sdata, Selection(), needs_table=False)
    assert (slide.shapes_key, slide.image_quality.tolist()) == ("mine", ["good"])
    with pytest.raises(ValueError, match=r"'mine' that `stp.pp.quality` did not make"):
        stp.pp.quality(sdata, key_added="mine")


def test_overviews_show_too_little():
    sdata = slide_of(optical_density(), scale_factors=())
    with pytest.raises(ValueError, match=r"'he' has 9 µm per pixel; quality is measured at 2, .* full-resol"):
        stp.pp.quality(sdata, um_per_px=9)


@pytest.fixture
def predicted(tmp_path):
    train = stp.datasets.synthetic(n_slides=2, n_side=5, um_per_px=8.0)
    predictor = stp.tl.fit(train, "mean_profile", config={"progress": False}, save_dir=tmp_path / "p")
    sdata = slide_of(optical_density())
    xy = np.array([(x, y) for y in range(100, 1400, 200) for x in range(100, 1600, 200)], float)
    sdata.shapes["grid"] = ShapesModel.parse(xy, geometry=0, radius=20)
    return sdata, predictor


@pytest.mark.filterwarnings("ignore:The colours of slide", "ignore:Slide 'grid' has")
def test_predictions_carry_the_flag_of_their_window(predicted):
    sdata, predictor = predicted
    stp.tl.predict(sdata, predictor, shapes_key="grid", progress=False)
    assert "image_quality" not in sdata["predicted"].obs
    stp.pp.quality(sdata)
    sdata.shapes["quality"] = sdata.shapes.pop("quality").drop(index=55)
    stp.tl.predict(sdata, predictor, shapes_key="grid", progress=False)
    flags = sdata["predicted"].obs["image_quality"]
    assert flags.astype(object).where(flags.notna(), None).tolist() == [*expected_flags()[:-1], None]


@pytest.mark.filterwarnings("ignore:The colours of slide")
def test_layers_and_later_slides_carry_it_too(tmp_path):
    sdata = stp.datasets.synthetic(n_slides=2, n_side=5, um_per_px=4.0)
    predictor = stp.tl.fit(sdata, "mean_profile", config={"progress": False}, save_dir=tmp_path / "p")
    stp.tl.predict(sdata, predictor, shapes_key="S0_spots", progress=False)
    stp.pp.quality(sdata, image_key="S1_image")
    stp.tl.predict(sdata, predictor, shapes_key="S1_spots", progress=False)
    flags = sdata["predicted"].obs["image_quality"]
    of_second = sdata["predicted"].obs["region"] == "S1_spots"
    assert flags[~of_second].isna().all()
    assert flags[of_second].notna().all()
    stp.tl.predict(sdata, predictor, layer="made", progress=False)
    column = sdata["observed"].obs["made_image_quality"]
    assert column[sdata["observed"].obs["region"] == "S1_spots"].tolist() == flags[of_second].tolist()
    sdata["observed"].write_h5ad(tmp_path / "a.h5ad")  # missing flags can be written
    stp.tl.predict(sdata, predictor, progress=False)
    assert "made_image_quality" not in sdata["predicted"].obs


def test_scaled_coordinates():
    sdata = slide_of(optical_density())
    from spatialdata.transformations import set_transformation

    set_transformation(sdata["he"], Scale([0.5, 0.5], ("x", "y")), set_all=False)
    sdata.shapes["spots"] = ShapesModel.parse(np.array([[300.0, 350]]), geometry=0, radius=9)
    stp.pp.quality(sdata)
    (slide,) = resolve(sdata, Selection(shapes_key="spots"), needs_table=False)
    assert slide.image_quality.tolist() == ["blurred"]
