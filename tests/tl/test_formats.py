"""From a slide file to a table that scanpy analyses, in every format that can be written or is available."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scanpy as sc
from PIL import Image

from stpredict.datasets import synthetic
from stpredict.io import read_wsi
from stpredict.pp import spot_grid, tissue
from stpredict.tl import Predictor, predict

write = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[1] / "io" / "slide_files.py")))
pytestmark = pytest.mark.filterwarnings("ignore:The colours of slide 'grid'", "ignore:Slide 'grid' has")  # as they do
QUIET = {"device": "cpu", "precision": "32-true", "progress": False}
UM_PER_PX = 8.0


@pytest.fixture(scope="module")
def pixels():
    """`(y, x, 3)`: a synthetic slide on glass, at 8 µm per pixel."""
    sdata = synthetic(n_slides=1, n_side=8, um_per_px=UM_PER_PX, seed=7)
    image = next(iter(sdata.images.values()))["scale0"]["image"].values.transpose(1, 2, 0)
    return np.pad(image, ((60, 60), (60, 60), (0, 0)), constant_values=245)


FORMATS = {
    "SVS": lambda folder, levels: write.svs(folder / "a.svs", levels, mpp=UM_PER_PX),
    "generic TIFF": lambda folder, levels: write.tiff(folder / "a.tif", levels, um_per_px=UM_PER_PX),
    "OME-TIFF": lambda folder, levels: write.ome_tiff(folder / "a.ome.tif", levels, um_per_px=UM_PER_PX),
    "OME-Zarr 0.4": lambda folder, levels: write.ome_zarr(folder / "a.zarr", levels, um_per_px=UM_PER_PX),
    "OME-Zarr 0.5": lambda folder, levels: write.ome_zarr(
        folder / "a.zarr", levels, version="0.5", um_per_px=UM_PER_PX
    ),
    "JPEG": lambda folder, levels: write.picture(folder / "a.jpg", levels[0], quality=98, subsampling=0),
}


def predicted(sdata, predictor):
    """From a slide to the predicted table."""
    tissue(sdata)
    spot_grid(sdata, predictor)
    predict(sdata, predictor, shapes_key="grid", **QUIET)
    return sdata["predicted"]


@pytest.fixture(scope="module")
def wanted(pixels, trained, tmp_path_factory):
    """What the same pixels give as PNG, analysed by scanpy."""
    path = write.picture(tmp_path_factory.mktemp("wanted") / "a.png", pixels)
    table = predicted(read_wsi(path, um_per_px=UM_PER_PX), Predictor.load(trained[0]))
    sc.pp.pca(table, n_comps=5)
    sc.pp.neighbors(table, n_neighbors=5, method="gauss")  # numba compiles UMAP for a quarter of a minute
    assert table.obsp["connectivities"].nnz > 0
    return table


@pytest.mark.parametrize("kind", list(FORMATS))
def test_every_format_gives_the_same_prediction(tmp_path, pixels, predictor, wanted, kind):
    path = FORMATS[kind](tmp_path, write.levels_of(pixels))
    table = predicted(read_wsi(path, um_per_px=UM_PER_PX), predictor)
    assert table.n_obs > 40
    if kind != "JPEG":
        assert table.obs_names.equals(wanted.obs_names)
        np.testing.assert_allclose(table.X, wanted.X, atol=0.05)  # coarser levels are rounded, or truncated


def test_a_copy_as_zarr_gives_the_same_prediction(tmp_path, pixels, predictor):
    path = write.tiff(tmp_path / "a.tif", write.levels_of(pixels), um_per_px=UM_PER_PX)
    one, other = (predicted(read_wsi(path, to_zarr=to), predictor) for to in (None, tmp_path / "copy.zarr"))
    np.testing.assert_array_equal(one.X, other.X)


@pytest.fixture
def real(her2st_dir):
    """Folder with slides of scanners."""
    if not (her2st_dir / "wsi").is_dir():
        pytest.skip("needs real slides in the folder 'wsi' beside 'her2st'")
    return her2st_dir / "wsi"


@pytest.mark.parametrize("file", ["CMU-1-Small-Region.svs", "camelyon_level.dcm"])
def test_slides_of_scanners(real, predictor, file):
    sdata = read_wsi(real / file)
    table = predicted(sdata, predictor)
    assert np.isfinite(table.X).all()
    assert table.n_obs > 10


def test_a_photograph_of_a_legacy_slide(her2st_dir, predictor, tmp_path):
    path = her2st_dir / "her2st/data/ST-imgs/C/C2"
    photo = next(path.glob("*.jpg")) if path.is_dir() else pytest.skip("needs section C2")
    small = read_wsi(photo, um_per_px=0.69)
    small = small[next(iter(small.images))]["scale3"]["image"].values.transpose(1, 2, 0)
    Image.fromarray(small).save(tmp_path / "C2.jpg", quality=95)
    table = predicted(read_wsi(tmp_path / "C2.jpg", um_per_px=0.69 * 8), predictor)
    assert np.isfinite(table.X).all()
    assert table.n_obs > 100
