"""her2st with torch alone: choose a recipe inside C2 to C4, or score the full-size network on C5. For GPU machines.

    python benchmarks/her2st_torch.py select --data her2st/data --out results.json
    python benchmarks/her2st_torch.py test --data her2st/data --out benchmarks/her2st_c5_gpu.json

Needs torch, numpy, scipy, pandas, pillow, einops and lightning-fabric; neither anndata nor spatialdata. ``--data`` is
the ``data`` folder of the her2st repository, ``--panels`` the gene lists. ``select`` leaves out one of C2 to C4 after
the other and never opens C5. Runs several trainings at a time (``--workers``).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from PIL import Image
from scipy.sparse import csr_matrix

from stpredict._geometry import PatchSpec
from stpredict._pixels import PatchReader
from stpredict._train.config import FitConfig
from stpredict._train.device import default_precision
from stpredict._train.loop import TrainingState, ValidationSpots, outputs, seeded, train
from stpredict.metrics import best, pearson, rmse, top_variable
from stpredict.models import SpotBatch, build, config
from stpredict.pp.targets import Targets, TargetSpec

TRAIN, TEST = ("C2", "C3", "C4"), "C5"
FOV_UM = (150.0, 300.0, 600.0)
SPACES = {"CP10k": TargetSpec(), "panel CPM": TargetSpec(target_sum=1e6, over="panel")}
SELECTION = {
    "tiny": {},
    "tiny, genes in place of 5 components": {"target": {"n_components": None}},
    "tiny, 10 components": {"target": {"n_components": 10}},
    "tiny, 20 components": {"target": {"n_components": 20}},
    "tiny, 20 epochs": {"fit": {"n_epochs": 20}},
    "tiny, 20 epochs, rate 1e-3": {"fit": {"n_epochs": 20, "lr": 1e-3}},
    "tiny, 24 epochs, rate 7e-4": {"fit": {"n_epochs": 24, "lr": 7e-4}},
    "tiny, no stain jitter": {"fit": {"stain_jitter": 0.0, "brightness_jitter": 0.0}},
    "tiny, colour tokens": {"model_options": {"color_tokens": True}},
    "tiny, network alone": {"model_options": {"statistics_share": 0.0}},
    "tiny, statistics alone": {"model_options": {"statistics_share": 1 - 1e-9}, "fit": {"n_epochs": 1}},
    "tiny, width 48": {"model_options": {"dim": 48}},
    "tiny, narrowest scale only": {"model_options": {"fov_spots": (1.5,)}, "scales": [0]},
    "tiny, middle scale only": {"model_options": {"fov_spots": (3.0,)}, "scales": [1]},
    "tiny, widest scale only": {"model_options": {"fov_spots": (6.0,)}, "scales": [2]},
    "full size": {"model": "m2ost", "model_options": {"statistics_share": 0.5}},
    "full size, network alone": {"model": "m2ost"},
}
cached = {}


def section(data, name, size_px):
    """Patches, counts, genes and centres of one section, cached in this process."""
    if (name, size_px) in cached:
        return cached[name, size_px]
    Image.MAX_IMAGE_PIXELS = None
    path = next((data / "ST-imgs" / name[0] / name).glob("*.jpg"))
    image = np.asarray(Image.open(path)).transpose(2, 0, 1)
    levels = [image]
    for _ in range(3):
        last = levels[-1]
        height, width = last.shape[1] // 2 * 2, last.shape[2] // 2 * 2
        blocks = last[:, :height, :width].astype(np.uint16)
        total = sum(blocks[:, y::2, x::2] for y in (0, 1) for x in (0, 1))
        levels.append((total // 4).astype(np.uint8))
    spots = pd.read_csv(data / f"ST-spotfiles/{name}_selection.tsv", sep="\t")
    counts = pd.read_csv(data / f"ST-cnts/{name}.tsv.gz", sep="\t", index_col=0)
    ids = spots["x"].astype(str) + "x" + spots["y"].astype(str)
    library = counts.sum(axis=1)
    counts = counts[library >= 0.05 * library.median()]  # as FitConfig.min_library; also leaves two spots of C5 out
    spots = spots[(spots["selected"] == 1) & ids.isin(counts.index)]
    counts = counts.loc[spots["x"].astype(str) + "x" + spots["y"].astype(str)]
    pitch = [np.polyfit(spots[axis], spots[f"pixel_{axis}"], 1)[0] for axis in ("x", "y")]
    um_per_px = 200 / float(np.mean(pitch))
    pyramid = [SimpleNamespace(pixels=level, factor=(2.0**i, 2.0**i)) for i, level in enumerate(levels)]
    reader = PatchReader(pyramid, um_per_px, PatchSpec(fov_um=FOV_UM, size_px=size_px))
    patches, _ = reader.read(spots[["pixel_x", "pixel_y"]].to_numpy(np.float64))
    found = patches, csr_matrix(counts.to_numpy(np.float32)), list(counts.columns)
    cached[name, size_px] = found
    return found


def spots_of(job, names, spec, size_px):
    """All spots of some sections as one batch, with normalised expression."""
    patches, values, slide = [], [], []
    for i, name in enumerate(names):
        pixels, counts, genes = section(job["data"], name, size_px)
        patches.append(pixels if job.get("scales") is None else pixels[:, job["scales"]])
        values.append(spec.normalize(counts, [genes.index(gene) for gene in job["panel"]]))
        slide += [i] * len(pixels)
    batch = SpotBatch(
        patches=torch.from_numpy(np.concatenate(patches)),
        xy_um=torch.zeros(len(slide), 2),
        slide=torch.tensor(slide),
    )
    return batch, np.concatenate(values), np.array(slide)


def train_one(job):
    """Train on some sections and predict another."""
    torch.set_num_threads(job["threads"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    spec = replace(job["spec"], **job.get("target", {}))
    fit = FitConfig(validation="none", seed=job["seed"], **job.get("fit", {}))
    shape = config(job.get("model", "m2ost_tiny"), 1, job.get("model_options"))
    spots, values, slide = spots_of(job, job["train"], spec, shape.size_px)
    targets = Targets.fit(spec, job["panel"], values, slide)
    spots = replace(spots, patches=spots.patches.to(device), targets=torch.from_numpy(targets.encode(values, slide)))
    fabric = Fabric(accelerator=device, devices=1, precision=default_precision(device))
    with seeded(fit.seed, -1):
        network = build(replace(shape, n_outputs=targets.n_outputs))
    network.to(device).initialize_from([replace(spots, targets=spots.targets.to(device))])
    test, observed, _ = spots_of(job, [job["test"]], spec, shape.size_px)
    test = replace(test, patches=test.patches.to(device))
    started = time.perf_counter()
    held = ValidationSpots(spots=test, observed=observed, decode=targets.decode) if job["curve"] else None
    state = train(network, spots, held, fit, fabric, state=TrainingState(), report=id)
    seconds = time.perf_counter() - started
    network.load_state_dict(state.average)
    predicted = targets.decode(outputs(network, test, fabric, 64, symmetries=8).numpy())
    curve = [round(row.get("val_pearson", float("nan")), 4) for row in state.history]
    return {**job["label"], "predicted": predicted, "observed": observed, "seconds": seconds, "curve": curve}


def scores(observed, predicted):
    """One row of a table."""
    by_gene = pearson(observed, predicted)
    return {
        "gene_pearson": float(np.nanmean(by_gene)),
        "gene_pearson_top50": float(np.nanmean(by_gene[top_variable(observed)])),
        "best50": best(by_gene),
        "spot_pearson": float(np.nanmean(pearson(observed, predicted, axis="spot"))),
        "rmse": float(np.mean(rmse(observed, predicted, axis="spot"))),
    }


def select(common, arguments):
    """Leave out one of C2 to C4 after the other, for every setting."""
    jobs = [
        {**common, **setting, "spec": SPACES[space], "seed": seed, "curve": False, "test": held,
         "train": [name for name in TRAIN if name != held],
         "label": {"space": space, "setting": title, "held": held, "seed": seed}}
        for space in arguments.spaces for title, setting in SELECTION.items()
        for held in TRAIN for seed in range(arguments.seeds)
    ]  # fmt: skip
    rows = []
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        for result in pool.imap_unordered(train_one, jobs):
            row = {**scores(result.pop("observed"), result.pop("predicted")), **result}
            rows.append(row)
            print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if k != "curve"}, flush=True)
    frame = pd.DataFrame(rows).drop(columns="curve")
    table = frame.groupby(["space", "setting"])[["gene_pearson", "rmse", "seconds"]].mean().round(4)
    print(table.to_string())
    return table.reset_index().to_dict(orient="records")


def test(common, arguments):
    """Full-size rows on C5, for every seed and for their mean."""
    jobs = [
        {**common, "model": arguments.model, "spec": spec, "seed": seed, "curve": False, "train": list(TRAIN),
         "test": TEST, "label": {"space": space, "seed": seed}}
        for space, spec in SPACES.items() for seed in range(arguments.seeds)
    ]  # fmt: skip
    with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
        results = pool.map(train_one, jobs, chunksize=1)
    spaces = {space: {} for space in SPACES}
    for space, rows in spaces.items():
        mine = [result for result in results if result["space"] == space]
        for result in mine:
            name = f"M2OST (full size, GPU), seed {result['seed']}"
            rows[name] = scores(result["observed"], result["predicted"]) | {"seconds": result["seconds"]}
        mean = np.mean([result["predicted"] for result in mine], axis=0)
        rows[f"M2OST (full size, GPU), {arguments.seeds} seeds averaged"] = scores(mine[0]["observed"], mean)
    print(json.dumps(spaces, indent=1))
    return spaces


def main():
    """Select or test, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("select", "test"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--panels", type=Path, default=Path("src/stpredict/datasets/panels.json"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="m2ost")
    parser.add_argument("--spaces", nargs="+", choices=list(SPACES), default=list(SPACES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    panel = json.loads(arguments.panels.read_text())["panels"]["her2st"]
    common = {"data": arguments.data, "panel": panel, "threads": arguments.threads}
    found = {"select": select, "test": test}[arguments.what](common, arguments)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    arguments.out.write_text(json.dumps({"device": device, "torch": torch.__version__, "spaces": found}, indent=1))


if __name__ == "__main__":
    main()
