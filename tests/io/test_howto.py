"""The code of the how-to pages of the platforms runs as it is printed, on made-up files."""

from __future__ import annotations

import gzip
import json
import re
import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import shapely
from scipy.ndimage import gaussian_filter
from shapely.geometry import mapping

import stpredict as stp

HERE = Path(__file__).parent
PAGES = HERE.parents[1] / "docs/howto"
made = SimpleNamespace(**runpy.run_path(str(HERE / "conftest.py")))
write = SimpleNamespace(**runpy.run_path(str(HERE / "slide_files.py")))
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # slides of noise, with a few spots


@pytest.fixture
def work(tmp_path, monkeypatch):
    """The folder in which the code runs."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def blocks(page):
    code = re.findall(r"```(?:python|text)\n(.*?)```", (PAGES / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    return [compile(each, f"{page}.md", "exec") for each in code]


def run(page, **names):
    """All blocks of a page one after another; what they define."""
    for block in blocks(page):
        exec(block, names)
    return SimpleNamespace(**names)


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
    assert run("visium").two["predicted"].n_obs == 40


def test_anndata(work):
    table = spots(5, 20)
    overview = np.random.default_rng(0).random((65, 65, 3), np.float32)
    factors = {"tissue_hires_scalef": 0.5, "spot_diameter_fullres": 8.0, "microns_per_pixel": 5.0}
    table.uns["spatial"] = {"brain": {"images": {"hires": overview}, "scalefactors": factors}}
    table.write_h5ad("visium.h5ad")
    made.draw(work / "he.tif", 130, 130)
    found = run("anndata")
    assert found.adata.layers["predicted"].shape == (25, 5)
    assert list(found.scores.index) == ["0", "1", "2", "3", "4"]
    assert list(found.sdata.attrs["stpredict"]["um_per_px"]) == ["brain_image"]


def test_visium_hd(hd_folder, work):
    made.write_coarse_bins(hd_folder)
    made.write_cells(hd_folder)
    hd_folder.rename("hd_sample")
    found = run("visium_hd")
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
    found = run("xenium")
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
    found = run("legacy_st")
    assert found.two["predicted"].n_obs == 20


@pytest.fixture
def slide(work):
    """A slide with a disc of tissue, and a predictor of spots of 100 µm."""
    y, x = np.mgrid[:600, :600]
    nuclei = gaussian_filter(np.random.default_rng(0).normal(size=(600, 600)), 1.0)
    density = ((y - 300) ** 2 + (x - 300) ** 2 < 220**2) * np.clip(nuclei / nuclei.std() * 0.4 + 0.5, 0, 2)
    pixels = np.rint(245 * np.exp(-density[..., None] * [0.65, 0.99, 0.4])).astype(np.uint8)
    write.svs(work / "slide.svs", [pixels], mpp=2.0)
    train = stp.datasets.synthetic(n_slides=1, n_side=4)
    stp.tl.fit(train, "ridge_color", config={"progress": False}, save_dir="my-predictor")


def test_plain_slide(slide):
    found = run("plain_slide")
    assert set(found.sdata["predicted"].obs["image_quality"]) <= {"good", "blurred", "folded", "inked", "empty"}


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
    first, second, third = blocks("qupath")
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
    found = run("pretrained")
    assert found.sdata["predicted"].uns["predicted"]["model"]["source"].startswith("lung@")
    assert "doi:…" in Path("my-predictor/README.md").read_text(encoding="utf-8")
