"""Time and memory of dense maps, of several processes and of many slides.

    python benchmarks/scaling.py [--points 100000] [--only dense plan cluster cohort spots slides genes cells]

``dense``: positions 8 µm apart on a slide file of 20,000 x 20,000 px, streamed to a store while memory is sampled.
``plan``: a million positions on an image of 100,000 x 100,000 px: the grid, the plan and the first partitions.
``cluster``: a fortieth of the dense map, alternately in this process (all cores) and in one dask worker per core.
``cohort``: six slides with a Visium grid. The network is `m2ost_ridge`, untrained, with 250 genes.
``spots``, ``slides``, ``genes`` and ``cells``: large inputs for a small model, in `scaling_load.py`.
Every part runs in a process of its own. A run takes about twenty minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import dask.array as da
import numpy as np
import psutil
import scaling_load
import shapely
import zarr
from distributed import Client, LocalCluster
from end_to_end import untrained_predictor
from geopandas import GeoDataFrame
from patches import texture
from PIL import Image
from slide_files import SIDE, UM_PER_PX, write_slide
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Identity
from xarray import DataArray, Dataset, DataTree

import stpredict as stp
from stpredict._slides.slides import Selection, resolve
from stpredict.tl._inference.partitions import predict_positions
from stpredict.tl._inference.plan import PARTITION_SIZE, PredictionPlan

STEP_UM, FOV_UM = 8.0, 55.0
BIG_PX, MILLION = 100_000, 1_000_000
SLIDES, SLIDE_PX = 6, 6000
PARTS = ("dense", "plan", "cluster", "cohort")


def rss_mib():
    """Resident memory of this process."""
    return psutil.Process().memory_info().rss / 2**20


class Memory:
    """Samples the memory of this process within a `with` block."""

    def __enter__(self):
        self.samples, self._stop = [], threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(0.25):
            self.samples.append(rss_mib())

    def quarters(self):
        """Peak memory in MiB in each quarter of the time."""
        return [round(max(part)) for part in np.array_split(self.samples, 4)]


def add_tissue_square(sdata, n_points):
    """Add a tissue square in the middle that holds about ``n_points`` positions."""
    side = np.sqrt(n_points) * STEP_UM / UM_PER_PX
    low, high = SIDE / 2 - side / 2, SIDE / 2 + side / 2
    square = GeoDataFrame({"geometry": [shapely.box(low, low, high, high)]})
    name = next(iter(sdata.images))
    sdata.shapes["tissue"] = ShapesModel.parse(square, transformations={name: Identity()})


def dense_slide(folder, n_points):
    """A slide file with positions 8 µm apart."""
    path = folder / "slide.tif"
    write_slide(path)
    sdata = stp.io.read_wsi(path)
    add_tissue_square(sdata, n_points)
    stp.pp.spot_grid(sdata, diameter_um=STEP_UM, pitch_um=STEP_UM)
    return sdata


def dense(folder, n_points):
    """Predict a dense map and stream it to disk."""
    predictor = untrained_predictor("m2ost_ridge", FOV_UM)
    sdata = dense_slide(folder, n_points)
    warm = folder / "warm"
    sdata.shapes["few"] = sdata.shapes["grid"].iloc[:64]
    stp.tl.predict(sdata, predictor, shapes_key="few", key_added="warm", store=warm, progress=False)
    before, started = rss_mib(), time.perf_counter()
    with Memory() as memory:
        stp.tl.predict(sdata, predictor, shapes_key="grid", store=folder / "store", progress=False)
    took, n = time.perf_counter() - started, sdata["predicted"].n_obs
    return {
        "n_points": n,
        "seconds": took,
        "points_per_s": n / took,
        "before_mib": round(before),
        "quarters_mib": memory.quarters(),
        "in_memory_mib": round(n * 250 * 4 / 2**20),
    }


def plan(folder, _):
    """Plan a million positions, and predict the first partitions."""
    predictor = untrained_predictor("m2ost_ridge", FOV_UM)
    levels = {}
    for i in range(6):
        size = BIG_PX // 2**i
        array = zarr.create_array(
            folder / f"{i}", shape=(3, size, size), chunks=(3, 512, 512), dtype="u1", fill_value=200
        )
        pixels = DataArray(da.from_zarr(array), dims=("c", "y", "x"), coords={"c": ["r", "g", "b"]})
        levels[f"scale{i}"] = Dataset({"image": pixels})
    tree = DataTree.from_dict(levels)
    single = Image2DModel.parse(levels["scale0"]["image"], transformations={"big": Identity()})
    for level in tree:
        tree[level]["image"].attrs.update(single.attrs)
    sdata = SpatialData(images={"big": tree}, attrs={"stpredict": {"um_per_px": {"big": UM_PER_PX}}})
    found, started = {}, time.perf_counter()
    pitch = BIG_PX * UM_PER_PX / np.sqrt(MILLION)
    stp.pp.spot_grid(sdata, diameter_um=pitch, pitch_um=pitch)
    found["grid_s"] = time.perf_counter() - started
    started = time.perf_counter()
    slides = resolve(sdata, Selection(shapes_key="grid"), needs_table=False)
    planned = PredictionPlan.of(slides, predictor, stp.tl.PredictOptions())
    found["plan_s"] = time.perf_counter() - started
    found["n_points"], found["n_partitions"] = len(planned.order), planned.n_partitions
    found["before_mib"] = round(rss_mib())
    started = time.perf_counter()
    for _ in predict_positions(planned, predictor, 0, 8 * PARTITION_SIZE):
        pass
    found["points_per_s"] = 8 * PARTITION_SIZE / (time.perf_counter() - started)
    found["after_mib"] = round(rss_mib())
    return found


def local_cluster():
    """A dask cluster on this machine with one worker per core."""
    return LocalCluster(n_workers=os.cpu_count(), threads_per_worker=1, dashboard_address=":0")


def cluster(folder, n_points):
    """Predict the same map in one process with all threads, and with one dask worker per core."""
    predictor, sdata = untrained_predictor("m2ost_ridge", FOV_UM), dense_slide(folder, n_points // 40)
    rates = {"here": [], "cluster": []}
    with (
        local_cluster() as workers,
        Client(workers) as client,
    ):
        for _ in range(3):
            for name in rates:
                started = time.perf_counter()
                given = client if name == "cluster" else None
                stp.tl.predict(sdata, predictor, shapes_key="grid", client=given, progress=False)
                rates[name].append(sdata["predicted"].n_obs / (time.perf_counter() - started))
    rates = {name: values[1:] for name, values in rates.items()}  # without the first round, which imports and compiles
    ratios = [q / p for p, q in zip(*rates.values(), strict=True)]
    return {"n_points": sdata["predicted"].n_obs, "points_per_s": {k: float(np.mean(v)) for k, v in rates.items()},
            "ratio": float(np.mean(ratios)), "n_workers": os.cpu_count()}  # fmt: skip


def cohort(folder, _):
    """Time of each step on one slide, and of six slides in one process and on dask workers."""
    predictor = untrained_predictor("m2ost_ridge", FOV_UM)
    predictor.provenance = replace(predictor.provenance, pitch_um=100.0, layout="hexagonal")
    pixels = np.full((SLIDE_PX, SLIDE_PX, 3), 235, np.uint8)
    edge = SLIDE_PX // 6
    pixels[edge:-edge, edge:-edge] = np.moveaxis(texture(SLIDE_PX - 2 * edge), 0, -1)
    paths = [folder / f"slide{i}.png" for i in range(SLIDES)]
    for path in paths:
        Image.fromarray(pixels).save(path, compress_level=1)
    clock = [time.perf_counter()]
    sdata = stp.io.read_wsi(paths[0], um_per_px=UM_PER_PX)
    clock.append(time.perf_counter())
    stp.pp.tissue(sdata)
    clock.append(time.perf_counter())
    stp.pp.spot_grid(sdata, predictor)
    clock.append(time.perf_counter())
    stp.tl.predict(sdata, predictor, progress=False)
    clock.append(time.perf_counter())
    took = dict(zip(("read_wsi", "tissue", "spot_grid", "predict"), np.diff(clock).tolist(), strict=True))
    started = time.perf_counter()
    summary = stp.tl.predict_cohort(paths, predictor, folder / "out", um_per_px=UM_PER_PX, progress=False)
    here_s = time.perf_counter() - started
    if (summary["status"] != "done").any():
        raise SystemExit(summary["error"].dropna().iloc[0])
    with (
        local_cluster() as workers,
        Client(workers) as client,
    ):
        started = time.perf_counter()
        stp.tl.predict_cohort(paths, predictor, folder / "out2", um_per_px=UM_PER_PX, client=client, progress=False)
        cluster_s = time.perf_counter() - started
    n = int(summary["n_spots"].iloc[0])
    return {
        "n_spots": n,
        "first_call_s": took,
        "seconds_a_slide": summary["seconds"].iloc[1:].mean(),
        "slides_s": here_s,
        "cluster_s": cluster_s,
    }


def run_in_process(part, n_points):
    """Run one part in a process of its own."""
    command = [sys.executable, __file__, "--task", part, "--points", str(n_points)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


TEXTS = {
    "dense": """## A dense map, streamed to disk

{n_points:,} positions, 8 µm apart, took {seconds:.0f} s ({points_per_s:.0f} positions/s). The process used
{before_mib} MiB of memory before, and at most {quarters} MiB in the four quarters of the
run, of which up to 1024 MiB may be decoded image. The whole matrix in memory would take {in_memory_mib} MiB.
""",
    "plan": """## A million positions on 100,000 x 100,000 px

Making the grid of {n_points:,} positions took {grid_s:.1f} s and planning its {n_partitions} partitions {plan_s:.1f} s;
the process then used {before_mib} MiB. The first 8 partitions were predicted at {points_per_s:.0f} positions/s, after
which it used {after_mib} MiB. At this rate all partitions would take {hours:.1f} h. The pixels of this image are
constant, so decoding takes almost no time.
""",
    "cluster": """## One process with all threads, or one dask worker per core

{n_points:,} positions in {n_parts} partitions: {here:.0f} positions/s in one process, {there:.0f} on {n_workers} dask
workers with one thread each, {ratio:.2f} times as fast. A partition is never divided between workers, so with few
partitions some workers are idle.
""",
    "cohort": """## A cohort of slides

{n_slides} images of {side:,} x {side:,} px with {n_spots:,} Visium positions each took {seconds_a_slide:.1f} s
per slide in one process ({slides_s:.0f} s in total), and {cluster_s:.0f} s in total on dask workers, one per core. The
steps of the first slide, called one by one and including compilation: {first}.
""",
}


def table(result):
    """Format the results as a page."""
    found = {part: dict(result[part]) for part in PARTS if part in result}
    if "dense" in found:
        found["dense"]["quarters"] = ", ".join(map(str, found["dense"]["quarters_mib"]))
    if "plan" in found:
        found["plan"]["hours"] = found["plan"]["n_points"] / found["plan"]["points_per_s"] / 3600
    if "cluster" in found:
        rates = found["cluster"]["points_per_s"]
        n_parts = -(-found["cluster"]["n_points"] // PARTITION_SIZE)
        found["cluster"] |= {"here": rates["here"], "there": rates["cluster"], "n_parts": n_parts}
    if "cohort" in found:
        first = ", ".join(f"`{name}` {took:.1f} s" for name, took in found["cohort"]["first_call_s"].items())
        found["cohort"] |= {"first": first, "n_slides": SLIDES, "side": SLIDE_PX}
    head = f"""# Dense maps, several processes and many slides

{result["date"]}; {result["device"]}; torch {result["torch"]}. Made by `python benchmarks/scaling.py` with an
untrained `m2ost_ridge` and 250 genes.
"""
    return "\n".join([head, *(TEXTS[part].format(**values) for part, values in found.items()), *load_table(result)])


def load_table(result):
    """Format the large inputs, each a row."""
    found = {name: result[name] for name in scaling_load.ROWS if name in result}
    if not found:
        return []
    about = ", ".join(sorted({f"{each['date']}, {each['n_threads']} threads" for each in found.values()}))
    lines = [
        f"""## Large inputs

A small model (`ridge_color`) on small images, so that what grows is everything else. Each row is a process of its own;
memory before includes the imports ({about}).

| input | processor seconds | MiB before | MiB at most |
|---|--:|--:|--:|"""
    ]
    for name, each in found.items():
        words = scaling_load.ROWS[name].format(**each)
        lines.append(f"| {words} | {each['cpu_seconds']:.0f} | {each['before_mib']:,} | {each['peak_mib']:,} |")
    return ["\n".join(lines) + "\n"]


def main():
    """Measure and write JSON and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = (*PARTS, *scaling_load.ROWS)
    parser.add_argument("--points", type=int, default=100_000)
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--task", choices=parts, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        warnings.simplefilter("ignore", UserWarning)
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(run_task(args.task, Path(folder), args.points)))
        return
    file = args.out / "scaling.json"
    result = json.loads(file.read_text()) if file.is_file() else {}
    for part in args.only:
        result[part] = run_in_process(part, args.points)
        if part in PARTS:
            result |= {"date": result[part].pop("date"), "device": f"{platform.machine()}, {os.cpu_count()} cores",
                       "torch": version("torch")}  # fmt: skip
        file.write_text(json.dumps(result, indent=1) + "\n")
        (args.out / "scaling.md").write_text(table(result))
    print(table(result))


def run_task(name, folder, n_points):
    """What one part finds, with the date and the number of threads."""
    import torch

    found = getattr(scaling_load, name)(folder) if name in scaling_load.ROWS else globals()[name](folder, n_points)
    return {**found, "date": f"{datetime.now(UTC):%Y-%m-%d}", "n_threads": torch.get_num_threads()}


if __name__ == "__main__":
    main()
