"""The largest inputs that people have, with networks and images so small that the rest shows.

Each function whose name is among `ROWS` is a row of the table of `scaling.py`, and runs in a process of its own.
"""

from __future__ import annotations

import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
from slide_files import peak_mib

import stpredict as stp
from stpredict._files import read_json, write_json

QUIET = {"device": "cpu", "precision": "32-true", "progress": False}
N_SPOTS, N_SLIDES, N_GENES, N_CELLS = 100_000, 200, 20_000, 5_000
ROWS = {
    "spots": "{n:,} spots of one image, 250 genes, streamed: `tl.predict(store=…)`",
    "slides": "{n:,} slides of {n_spots} spots: `tl.predict_cohort` in one process",
    "genes": "{n:,} genes in {n_spots} spots: `tl.fit`, `tl.predict`, `tl.evaluate`",
    "cells": "{n:,} cells of a benchmark, listed: `tl.Benchmark.load`",
}


@contextmanager
def measured(found):
    """Note the processor time of a block in seconds, and the memory of the process before it and at most in it."""
    Path("/proc/self/clear_refs").write_text("5")  # the kernel forgets the peak of what came before
    found["before_mib"], started = round(psutil.Process().memory_info().rss / 2**20), time.process_time()
    yield
    found.update({"cpu_seconds": time.process_time() - started, "peak_mib": round(peak_mib())})


def fit(folder, sdata, genes=None):
    """Closed-form regression on the colours around each spot."""
    config = {"accelerator": "cpu", "progress": False}
    return stp.tl.fit(sdata, "ridge_color", genes=genes, config=config, save_dir=folder / "model")


def spots(folder):
    """Stream spots to a store."""
    predictor = fit(folder, stp.datasets.synthetic(n_slides=2, n_side=10, n_genes=250, um_per_px=8.0))
    sdata = stp.datasets.synthetic(n_slides=1, n_side=40, um_per_px=2.0)
    side_um = 40 * 200.0
    stp.pp.spot_grid(sdata, diameter_um=20.0, pitch_um=side_um / N_SPOTS**0.5)
    found = {}
    with measured(found):
        stp.tl.predict(sdata, predictor, shapes_key="grid", store=folder / "store", **QUIET)
    return {**found, "n": sdata["predicted"].n_obs}


def slides(folder):
    """Predict a cohort of small slides."""
    predictor = fit(folder, stp.datasets.synthetic(n_slides=2, n_side=5, um_per_px=8.0))
    sdata = stp.datasets.synthetic(n_slides=1, n_side=5, um_per_px=8.0)
    del sdata.tables["observed"], sdata.shapes["S0_spots"]
    sdata.write(folder / "slide.zarr")
    found = {}
    with measured(found):
        summary = stp.tl.predict_cohort(
            {f"slide{i}": folder / "slide.zarr" for i in range(N_SLIDES)},
            predictor,
            folder / "out",
            prepare=lambda slide: stp.pp.spot_grid(slide, diameter_um=100.0, pitch_um=100.0),
            **QUIET,
        )
    if (summary["status"] != "done").any():
        raise SystemExit(summary["error"].dropna().iloc[0])
    return {**found, "n": len(summary), "n_spots": int(summary["n_spots"].iloc[0])}


def genes(folder):
    """Train on all genes of a genome, predict and score them."""
    sdata, found = stp.datasets.synthetic(n_slides=2, n_side=12, n_genes=N_GENES, um_per_px=8.0), {}
    with measured(found):
        predictor = fit(folder, sdata, list(sdata["observed"].var_names))
        stp.tl.predict(sdata, predictor, **QUIET)
        scores = stp.tl.evaluate(sdata)
    return {**found, "n": len(scores), "n_spots": sdata["predicted"].n_obs}


def cells(folder):
    """List a benchmark of many seeds, whose cells are copies of one."""
    sdata, place = stp.datasets.synthetic(n_slides=2, n_side=4, um_per_px=8.0), folder / "benchmark"
    stp.tl.benchmark(sdata, ["ridge_color"], save_dir=place, progress=False)
    originals = sorted(place.glob("*/fold-*-seed-0"))
    for number in range(1, -(-N_CELLS // len(originals))):
        for original in originals:
            copy = original.with_name(original.name.replace("seed-0", f"seed-{number}"))
            shutil.copytree(original, copy)
            run = read_json(copy / "run.json", {}, "")
            write_json(copy / "run.json", {**run, "seed": number})
    found = {}
    with measured(found):
        n = len(stp.tl.Benchmark.load(place).runs)
    return {**found, "n": n}
