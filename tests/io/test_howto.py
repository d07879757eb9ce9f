"""The code of pages that read files runs as it is printed, on made-up files."""

from __future__ import annotations

import gzip
import json
import runpy
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import distributed
import numpy as np
import pandas as pd
import pytest
import shapely
from scipy.ndimage import gaussian_filter
from shapely.geometry import mapping

import stpredict as stp

HERE = Path(__file__).parent
pages = SimpleNamespace(**runpy.run_path(str(HERE.parent / "pages.py")))
made = SimpleNamespace(**runpy.run_path(str(HERE / "conftest.py")))
write = SimpleNamespace(**runpy.run_path(str(HERE / "slide_files.py")))
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),  # slides of noise, with a few spots
    pytest.mark.usefixtures("small_patches"),
]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The folder in which the code runs."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def spots(n_side, step_px, columns=None):
    """A table of spots on a square lattice."""
    x, y = (step_px * (part.ravel() + 1.0) for part in np.meshgrid(np.arange(n_side), np.arange(n_side)))
    counts = np.random.default_rng(0).poisson(20, (n_side**2, 5)).astype(np.float32)
    table = ad.AnnData(counts, obsm={"spatial": np.column_stack([x, y])})
    if columns:
        table.obs = pd.DataFrame({columns[0]: x, columns[1]: y}, index=table.obs_names)
    return table


def test_visium(visium_folder, work):
    rng = np.random.default_rng(0)
    for number in (1, 2):
        folder = Path(shutil.copytree(visium_folder, f"sample_{number}"))
        names = [f"AAAC{i:04}-1" for i in range(48)]
        made.write_matrix(folder / "filtered_feature_bc_matrix.h5", names, rng.poisson(20, (48, 4)))
        (folder / "image.tif").rename(f"he_{number}.tif")
    assert pages.run("howto/visium").two["predicted"].n_obs == 40


def test_anndata(work):
    table = spots(5, 20)
    overview = np.random.default_rng(0).random((65, 65, 3), np.float32)
    factors = {"tissue_hires_scalef": 0.5, "spot_diameter_fullres": 8.0, "microns_per_pixel": 5.0}
    table.uns["spatial"] = {"brain": {"images": {"hires": overview}, "scalefactors": factors}}
    table.write_h5ad("visium.h5ad")
    made.draw(work / "he.tif", 130, 130)
    found = pages.run("howto/anndata")
    assert found.adata.layers["predicted"].shape == (25, 5)
    assert list(found.scores.index) == ["0", "1", "2", "3", "4"]
    assert list(found.sdata.attrs["stpredict"]["um_per_px"]) == ["brain_image"]


def test_visium_hd(hd_folder, work):
    made.write_coarse_bins(hd_folder)
    made.write_cells(hd_folder)
    hd_folder.rename("hd_sample")
    found = pages.run("howto/visium_hd")
    assert found.sdata["cells"].obs["spot_id"].tolist() == [2, 7, 11]


def test_xenium(xenium_folder, work):
    rng, folder, n = np.random.default_rng(0), Path(xenium_folder.rename("xenium_sample")), 6000
    made.draw(folder / "X1_he_image.ome.tif", 1200, 1200)  # 600 µm a side
    np.savetxt(folder / "X1_he_imagealignment.csv", [[0, 2, 0], [-2, 0, 2400], [0, 0, 1]], delimiter=",")
    pd.DataFrame({
        "transcript_id": np.arange(n, dtype="u8"), "cell_id": ["UNASSIGNED"] * n, "qv": 40.0, "overlaps_nucleus": 0,
        "feature_name": rng.choice(["A", "B", "C", "NegControlProbe_00001"], n),
        "x_location": rng.uniform(1, 599, n), "y_location": rng.uniform(1, 599, n), "z_location": 1.0,
    }).to_parquet(folder / "transcripts.parquet")  # fmt: skip
    spots(10, 30, columns=("y_pixel", "x_pixel")).write_h5ad("cells.h5ad")
    made.draw(work / "he.jpg", 340, 340)
    found = pages.run("howto/xenium")
    assert found.sdata["pseudo_spots_counts"].var_names.tolist() == ["A", "B", "C"]
    assert found.lung["pseudo_spots_counts"].shape == (4, 5)


def test_legacy_st(st_files, work):
    rng = np.random.default_rng(0)
    for name in ("A1", "A2"):
        shutil.copy(st_files["image"], f"{name}.jpg")
        shutil.copy(st_files["spots"], f"{name}_spots.tsv")
        header, *lines, _ = st_files["counts"].read_text().split("\n")
        rows = [f"{line.split()[0]}\t" + "\t".join(map(str, rng.poisson(20, 4))) for line in lines]
        with gzip.open(f"{name}.tsv.gz", "wt") as file:
            file.write("\n".join([header, *rows, ""]))
    found = pages.run("howto/legacy_st")
    assert found.two["predicted"].n_obs == 20


def write_slide(path, side):
    """A disc of tissue on a square slide of 2 µm per pixel."""
    y, x = np.mgrid[:side, :side] - side // 2
    nuclei = gaussian_filter(np.random.default_rng(0).normal(size=(side, side)), 1.0)
    density = (y**2 + x**2 < (0.37 * side) ** 2) * np.clip(nuclei / nuclei.std() * 0.4 + 0.5, 0, 2)
    pixels = np.rint(245 * np.exp(-density[..., None] * [0.65, 0.99, 0.4])).astype(np.uint8)
    write.svs(path, [pixels], mpp=2.0)


@pytest.fixture
def slide(work):
    """A slide with a disc of tissue, and a predictor of spots of 100 µm."""
    write_slide(work / "slide.svs", 600)
    train = stp.datasets.synthetic(n_slides=1, n_side=4)
    stp.tl.fit(train, "ridge_color", config={"progress": False}, save_dir="my-predictor")


def test_plain_slide(slide):
    found = pages.run("howto/plain_slide")
    assert set(found.sdata["predicted"].obs["image_quality"]) <= {"good", "blurred", "folded", "inked", "empty"}


@pytest.mark.slow
def test_many_slides(slide):
    Path("slides").mkdir()
    for number in (1, 2):
        shutil.copy("slide.svs", f"slides/slide_{number}.svs")
    found = pages.run("howto/many_slides")
    assert found.adata.obs["slide"].value_counts().nunique() == 1


@pytest.mark.slow
def test_few_spots(slide):
    new = stp.datasets.synthetic(n_slides=1, n_side=5, seed=1)
    new.write("new.zarr")
    Path("measured.txt").write_text("\n".join(new["observed"].obs_names[::2]))
    found = pages.run("howto/few_spots")
    assert found.sdata["imputed"].n_obs == 25
    assert Path("my-predictor-adapted").is_dir()


def test_qupath(slide):
    areas = {"Tumor": shapely.box(150, 150, 300, 450), "Stroma": shapely.box(300, 150, 450, 450)}
    features = [
        {"type": "Feature", "geometry": mapping(area), "properties": {"classification": {"name": name}}}
        for name, area in areas.items()
    ]
    Path("slide.geojson").write_text(json.dumps(features))
    train, test = (stp.datasets.synthetic(n_slides=1, n_side=4, seed=seed) for seed in (0, 1))
    for sdata in (train, test):
        stp.io.read_annotations(sdata, "slide.geojson")
    names = {"train": train, "test": test}
    first, second, third = pages.blocks("howto/qupath")
    exec(first, names)
    sdata = names["sdata"]
    stp.pp.spot_grid(sdata, stp.tl.Predictor.load("my-predictor"))
    stp.tl.predict(sdata, "my-predictor", progress=False)
    sdata["predicted"].obs["domain"] = "1"
    exec(second, names)
    exec(third, names)
    assert len(json.loads(Path("domains.geojson").read_text())["features"]) == sdata["predicted"].n_obs


def test_pretrained(slide, monkeypatch):
    monkeypatch.setenv("STPREDICT_PRETRAINED", "set by the page")
    stp.datasets.synthetic(n_slides=2, n_side=3, um_per_px=8.0).write("measured.zarr")
    found = pages.run("howto/pretrained")
    assert found.sdata["predicted"].uns["predicted"]["model"]["source"].startswith("lung@")
    assert "doi:…" in Path("my-predictor/README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_napari(slide):
    found = pages.run("howto/napari")
    assert found.again["predicted_raster"].sizes["c"] == 3


@pytest.mark.slow
def test_scaling(work, monkeypatch):
    """Two genes are named on the page; the workers are threads."""
    train = stp.datasets.synthetic(n_slides=1, n_side=4, n_genes=2)
    train["observed"].var_names = ["ERBB2", "CD24"]
    stp.tl.fit(train, "ridge_color", config={"progress": False}, save_dir="her2-m2ost")
    write_slide(work / "slide.svs", 240)
    Path("slides").mkdir()
    shutil.copy("slide.svs", "slides/slide.svs")
    monkeypatch.setattr(distributed, "LocalCluster", partial(distributed.LocalCluster, processes=False))
    found = pages.run("scaling")
    assert list(found.summary["status"]) == ["done"]
    assert found.sdata["predicted"].n_obs > 100


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what scanpy says of itself
def test_front_page(slide, monkeypatch):
    """Real sections are made up, and the network is trained for one epoch."""
    panel = stp.datasets.gene_panel("her2st")

    def her2st(sections):
        made_up = stp.datasets.synthetic(n_slides=len(sections), n_side=6, n_genes=len(panel))
        made_up["observed"].var_names = panel
        return made_up

    monkeypatch.setattr(stp.datasets, "her2st", her2st)
    monkeypatch.setattr(stp.tl, "fit", partial(stp.tl.fit, config={"n_epochs": 1}))
    found = pages.run("README")
    assert found.adata.obs["leiden"].notna().all()
    assert found.new["predicted"].var_names.tolist() == list(panel)
