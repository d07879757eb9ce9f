"""Data that tests share: synthetic slides built once, small legacy ST files, real sections where they are at hand.

Imported on machines that have a GPU and little else: what not every test needs is imported where it is used.
"""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import multiprocessing
import os
from copy import deepcopy
from dataclasses import replace
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest

import stpredict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess

    from spatialdata import SpatialData

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is first imported
os.environ.setdefault("MPLBACKEND", "Agg")
CACHE = TemporaryDirectory(prefix="stpredict-tests-")  # of each process its own; doctests save there too
os.environ["XDG_CACHE_HOME"] = CACHE.name
# Fabric reads the entry points of all installed packages whenever it is made, which takes longer than small fits
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)


def pytest_collection_finish() -> None:
    """Nothing that was imported is garbage, so it is not looked through again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def forkserver() -> Iterator[ForkServerContext]:
    """Starts new processes in a moment: forks of a process that has imported the package, and has called nothing.

    The workers of dask clusters are such processes too.
    """
    import dask

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([
        "distributed", "scipy.stats", "stpredict._resample", "stpredict._slides.slides",
        "stpredict.datasets._synthetic", "stpredict.models.m2ost", "stpredict.tl._benchmarking.runner",
        "stpredict.tl._cohort.runner", "stpredict.tl._fit", "stpredict.tl._predict", "tifffile",
    ])  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:  # sets of strings have another order there than here
        patched.setenv("PYTHONHASHSEED", "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1")
        ensure_running()
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield context


@pytest.fixture
def python(forkserver: ForkServerContext) -> Callable[[str, Path], BaseProcess]:
    """Start code in a new process, in a folder, where it writes ``stdout`` and ``stderr``."""

    def start(code: str, folder: Path) -> BaseProcess:
        inside = f"import os, sys; os.chdir({str(folder)!r}); sys.path.insert(0, '')\n"
        for number, name in enumerate(("stdout", "stderr"), start=1):
            inside += f"os.dup2(os.open({name!r}, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), {number})\n"
        process = forkserver.Process(target=exec, args=(f"{inside}import torch; torch.set_num_threads(1)\n{code}", {}))
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def small_patches() -> Iterator[None]:
    """Models without steps see patches of 32 px, a tenth of the pixels, where a test asks for no other size."""
    from stpredict.models import registry

    with pytest.MonkeyPatch.context() as patched:
        for name in ("mean_profile", "ridge_color", "ridge_statistics", "encoder_ridge", "knn_spatial"):
            row = registry._KNOWN[name]
            patched.setitem(registry._KNOWN, name, replace(row, overrides={**row.overrides, "size_px": 32}))
        yield


@pytest.fixture(scope="session")
def synthetic_sdata() -> SpatialData:
    return stpredict.datasets.synthetic(n_slides=3, n_side=6)


@pytest.fixture
def sdata(synthetic_sdata: SpatialData) -> SpatialData:
    """A copy that a test may change, except for the pixels."""
    from spatialdata import SpatialData

    return SpatialData(
        images=dict(synthetic_sdata.images),
        shapes={name: shapes.copy() for name, shapes in synthetic_sdata.shapes.items()},
        tables={name: table.copy() for name, table in synthetic_sdata.tables.items()},
        attrs=deepcopy(synthetic_sdata.attrs),
    )


@pytest.fixture(scope="session")
def through_files() -> Callable[[SpatialData, Path], SpatialData]:
    """Write the tables of an object and read them again; as HDF5, which takes a twentieth of the time of zarr."""
    import anndata as ad
    from spatialdata import SpatialData

    def again(sdata: SpatialData, folder: Path) -> SpatialData:
        found = SpatialData(images=dict(sdata.images), shapes=dict(sdata.shapes), attrs=deepcopy(sdata.attrs))
        for name, table in sdata.tables.items():
            table.write_h5ad(folder / f"{name}.h5ad")
            read = ad.read_h5ad(folder / f"{name}.h5ad")
            region = read.uns["spatialdata_attrs"]["region"]
            read.uns["spatialdata_attrs"]["region"] = region if isinstance(region, str) else list(region)
            found.tables[name] = read
        return found

    return again


@pytest.fixture(scope="session")
def through_disk() -> Callable[[SpatialData, Path], SpatialData]:
    """Write an object and read it again, but for its images: they take most of the time, and are put back."""
    from spatialdata import read_zarr

    def again(sdata: SpatialData, path: Path) -> SpatialData:
        images = {name: sdata.images.pop(name) for name in list(sdata.images)}
        sdata.write(path)
        found = read_zarr(path)
        for each in (sdata, found):
            each.images.update(images)
        return found

    return again


@pytest.fixture
def her2st_dir(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with real sections, set as ``STPREDICT_DATA_DIR``."""
    for place in (os.environ.get("STPREDICT_DATA_DIR"), Path(__file__).parents[2] / "shared" / "data"):
        if place and (Path(place) / "her2st/data/ST-imgs").is_dir():
            monkeypatch.setenv("STPREDICT_DATA_DIR", str(place))
            return Path(place)
    pytest.skip("needs real sections: set STPREDICT_DATA_DIR to a folder with her2st/data, or lay it at ../shared/data")


@pytest.fixture
def st_files(tmp_path: Path) -> dict[str, Path]:
    """A legacy ST section of 4 x 5 spots, 20 px apart, in three files."""
    from PIL import Image

    files = {"image": tmp_path / "X1.jpg", "counts": tmp_path / "X1.tsv", "spots": tmp_path / "X1_selection.tsv"}
    Image.fromarray(np.random.default_rng(0).integers(90, 250, (121, 141, 3), dtype=np.uint8)).save(files["image"])
    spots, counts = ["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected", ""], ["\tA\tB\tC\tD", ""]
    for x, y in [(x, y) for y in range(2, 6) for x in range(3, 8)]:
        spots.insert(-1, f"{x}\t{y}\t{x}\t{y}\t{20 * x - 40}\t{20 * y - 20}\t1")
        counts.insert(1, f"{x}x{y}\t{x}\t{y}\t0\t{x * y}")
    files["spots"].write_text("\n".join(spots))
    files["counts"].write_text("\n".join(counts))
    return files


@pytest.fixture(scope="session")
def compared():
    """Make what plots and reports read of a benchmark: models of known quality, without training any."""
    import anndata as ad
    import pandas as pd

    def make(quality, *, n_side=6, n_genes=8, slides=("S0", "S1"), baseline="ridge_color", interval=0.05, leaks=False):
        rng, genes = np.random.default_rng(0), [f"GENE{i}" for i in range(n_genes)]
        n, tables, rows, runs = n_side**2, {}, [], []
        truth = rng.normal(size=(len(slides) * n, n_genes))
        x, y = np.meshgrid(np.arange(n_side), np.arange(n_side))
        for model, r in quality.items():
            values = r * truth + np.sqrt(1 - r**2) * rng.normal(size=truth.shape)
            obs = pd.DataFrame({"slide": np.repeat(slides, n), "fold": np.repeat(range(len(slides)), n)})
            obs.index = [f"{slide}_{i}" for slide in slides for i in range(n)]
            table = ad.AnnData(values if r else np.ones_like(truth), obs, pd.DataFrame(index=genes))
            table.layers["observed"] = truth.copy()
            table.obsm["spatial"] = np.tile(100.0 * np.column_stack([x.ravel(), y.ravel()]), (len(slides), 1))
            tables[model] = table
            for fold, slide in enumerate(slides):
                row = {"model": model, "fold": fold, "seed": 0}
                runs.append({**row, "n_test": n, "gene_pearson": r, "ceiling": 0.8, "fit_s": 2.0})
                for metric, slope in (("pearson", 0.01), ("ceiling", 0.0)):
                    values = (0.8 if metric == "ceiling" else r) + slope * np.arange(n_genes)
                    of_metric = {**row, "slide": slide, "group": f"P{fold}", "metric": metric}
                    rows += [{**of_metric, "gene": gene, "value": v} for gene, v in zip(genes, values, strict=True)]
        mean = pd.Series(quality, dtype=float)
        gain = mean - mean.get(baseline, np.nan)
        summary = pd.DataFrame({
            "gene_pearson": mean, "low": mean - interval, "high": mean + interval, "difference": gain,
            "difference_low": gain - interval, "difference_high": gain + interval, "share_of_ceiling": mean / 0.8,
            "parameters": 1_000_000, "macs": 2_000, "train_spots_per_s": 30.0, "predict_spots_per_s": 300.0,
            "peak_memory_mib": 100.0,
        })  # fmt: skip
        summary.attrs = {"unit": "patient", "baseline": baseline if baseline in quality else None, "leaks": leaks,
                         "n_units": len(slides), "protocol": None}  # fmt: skip
        study = {
            "target": {"target_sum": 1e4, "over": "all", "log1p": True}, "genes": [genes] * len(slides),
            "slides": {slide: {"group": slide, "sha256": 64 * "0", "um_per_px": 0.5} for slide in slides},
            "folds": [{"test": [slide]} for slide in slides],
        }  # fmt: skip
        return SimpleNamespace(
            folder=Path("nowhere"),
            scores=pd.DataFrame(rows),
            runs=pd.DataFrame(runs),
            failed=pd.DataFrame(columns=["model", "fold", "seed", "error"]),
            note={"leaks": leaks, "protocol": None, "protocol_note": "", "study": study},
            summary=summary.copy,
            table=lambda model, seed=None: tables[model],
        )

    return make
