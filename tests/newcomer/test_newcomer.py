"""What a new user does in the first hour, on made-up tissue: three scripts, each of which ends in a picture.

Run as they are printed; set ``STPREDICT_PICTURES`` to a folder to keep the pictures and look at them.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import ndimage

import stpredict as stp

HERE = Path(__file__).parent
made = SimpleNamespace(**runpy.run_path(str(HERE.parent / "io/conftest.py")))
GENES = ["EPCAM", "ERBB2", "KRT8", "VIM", "COL1A1", "PTPRC", "CD3E", "ACTB"]
UM_PER_PX = 4.0
COHORT = {"organ": "breast", "platform": "Visium", "licence": "CC0-1.0", "citation": "made-up tissue"}
pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # small slides, and what scanpy and squidpy say of themselves
    pytest.mark.usefixtures("small_patches"),
]


@pytest.fixture(scope="module")
def sample():
    """Make a Visium sample whose genes follow the colours of the tissue around a spot."""

    def make(seed):
        slide = stp.datasets.synthetic(n_slides=1, n_side=8, um_per_px=UM_PER_PX, seed=seed)
        pixels = slide["S0_image"]["scale0"]["image"].to_numpy()
        rows = [(row, col) for row in range(19) for col in range(row % 2, 34, 2)]
        places = pd.DataFrame(rows, columns=["array_row", "array_col"])
        places["pxl_row_in_fullres"] = (360 + places["array_row"] * 50 * 3**0.5) / UM_PER_PX
        places["pxl_col_in_fullres"] = (330 + places["array_col"] * 50) / UM_PER_PX
        places.insert(0, "in_tissue", 1)
        places.index = pd.Index([f"AAAC{i:04}-1" for i in range(len(places))], name="barcode")
        xy = places[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy()
        side = round(110 / UM_PER_PX)
        around = [ndimage.uniform_filter(channel.astype(float), side) for channel in pixels]
        color = np.column_stack([channel[xy[:, 1].astype(int), xy[:, 0].astype(int)] for channel in around])
        color = (color - color.mean(axis=0)) / color.std(axis=0)
        weights = np.random.default_rng(0).normal(size=(3, len(GENES)))  # the same in all samples
        shares = np.exp(0.5 * color @ weights / np.linalg.norm(weights, axis=0))
        library = 3000 * shares / shares.sum(axis=1, keepdims=True)
        counts = np.random.default_rng(seed + 1).poisson(library)
        return SimpleNamespace(pixels=pixels.transpose(1, 2, 0), places=places, xy=xy, counts=counts)

    return make


FACTORS = {
    "spot_diameter_fullres": 65 / UM_PER_PX,
    "fiducial_diameter_fullres": 80 / UM_PER_PX,
    "tissue_hires_scalef": 0.5,
    "tissue_lowres_scalef": 0.25,
}


def write_visium(folder, sample):
    """The sample as Space Ranger writes it."""
    (folder / "spatial").mkdir(parents=True)
    sample.places.to_csv(folder / "spatial/tissue_positions.csv")
    made.write_matrix(folder / "filtered_feature_bc_matrix.h5", sample.places.index.tolist(), sample.counts, GENES)
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(FACTORS))
    image = Image.fromarray(sample.pixels)
    image.save(folder / "image.tif")
    for kind, factor in (("hires", 2), ("lowres", 4)):
        image.resize((image.width // factor, image.height // factor)).save(folder / f"spatial/tissue_{kind}_image.png")
    return folder


def as_scanpy_holds_it(sample, name):
    """The sample as the data sets of scanpy are: overviews of floats from 0 to 1."""
    image = Image.fromarray(sample.pixels)
    images = {
        kind: np.asarray(image.resize((image.width // factor, image.height // factor)), np.float32) / 255
        for kind, factor in (("hires", 2), ("lowres", 4))
    }
    obs = sample.places[["in_tissue", "array_row", "array_col"]]
    adata = ad.AnnData(sample.counts.astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))
    adata.obsm["spatial"] = sample.xy.round().astype(int)
    adata.uns["spatial"] = {name: {"images": images, "scalefactors": FACTORS, "metadata": {"source_image_path": ""}}}
    return adata


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a script with arguments, the last of which is where it saves its picture."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def run(name, *arguments):
        picture = Path(os.environ.get("STPREDICT_PICTURES", tmp_path)) / f"{name}.png"
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments), str(picture)])
        found = runpy.run_path(str(HERE / f"{name}.py"))
        pixels = np.asarray(Image.open(picture).convert("RGB"))
        assert min(pixels.shape[:2]) > 300
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 2000  # tissue and a colour map
        return SimpleNamespace(**found)

    return run


def titles(figure):
    found = [axis.get_title() or axis.get_title(loc="left") for axis in figure.axes]
    return [title.replace("$", "").replace(r"\it{", "").replace(r"\mathit{", "").replace("}", "") for title in found]


def test_a_slide_file_becomes_a_map(run, sample, tmp_path, monkeypatch):
    measured = [
        stp.io.from_anndata(as_scanpy_holds_it(sample(seed), f"P{seed}"), sample(seed).pixels) for seed in (0, 2)
    ]
    registry = tmp_path / "registry"
    stp.tl.pretrain(measured, "tumour", registry, cohort=COHORT, model="ridge_statistics", progress=False)
    monkeypatch.setenv("STPREDICT_PRETRAINED", str(registry))
    assert "tumour" in stp.models.pretrained().index
    slide = sample(1)
    write_slide(tmp_path / "slide.tif", slide.pixels)
    found = run("slide_to_map", tmp_path / "slide.tif", "tumour", "ERBB2")
    assert found.sdata["predicted"].uns["predicted"]["model"]["source"].startswith("tumour@")
    assert found.sdata["predicted"].n_obs > 50
    image, predicted = titles(found.figure)[:2]
    assert image == "H&E"
    assert "ERBB2" in predicted
    assert "predicted" in predicted


def write_slide(path, pixels):
    """A TIFF that states its resolution."""
    import tifffile

    per_cm = 10_000 / UM_PER_PX
    tifffile.imwrite(path, pixels, photometric="rgb", tile=(256, 256), resolution=(per_cm, per_cm), resolutionunit=3)


def test_visium_samples_become_scores_and_clusters(run, sample, tmp_path):
    folders = [write_visium(tmp_path / f"sample_{seed}", sample(seed)) for seed in (0, 1)]
    found = run("visium_to_clusters", *folders)
    assert found.summary.loc["model", "gene_pearson"] > 0.4
    assert found.adata.obs["leiden"].nunique() > 1
    clusters, gene = titles(found.figure)[:2]
    assert clusters == "Leiden clusters of predicted expression"
    assert gene == f"{found.best}, predicted (held-out r = {found.scores['pearson'].max():.2f})"


def test_an_anndata_becomes_a_prediction(run, sample, tmp_path):
    for seed in (0, 1):
        as_scanpy_holds_it(sample(seed), f"P{seed}").write_h5ad(tmp_path / f"{seed}.h5ad")
    found = run("anndata_to_prediction", tmp_path / "0.h5ad", tmp_path / "1.h5ad", "ERBB2")
    assert found.adata.layers["predicted"].shape == found.adata.shape
    assert found.scores["pearson"].mean() > 0.4
    assert titles(found.figure)[0] == "ERBB2, observed"
    assert titles(found.figure)[1].startswith("ERBB2, predicted (r = 0.")
