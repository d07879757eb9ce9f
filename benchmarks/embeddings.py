"""What embeddings of two encoders are worth, alone and side by side, and what they cost: real sections, three seeds.

    python benchmarks/embeddings.py --weights FILE [--seeds 3] [--data her2st mob_2k] [--out benchmarks]
                                    [--folder stpredict-benchmark/embeddings]

Needs ``STPREDICT_DATA_DIR`` with the sections, and the ImageNet weights of EfficientNet-Lite0 that ``zoo/weights.py``
writes. Spots are embedded once, by `stp.tl.embed`; all models are trained on the embeddings (``features_key``).
Embeddings and cells are kept in ``--folder``, so a run can be stopped and continued. About ten minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

import stpredict as stp
from stpredict._slides.slides import Selection, resolve
from stpredict._train.data import read_spots

HERE = Path(__file__).parent
NETWORK = "tf_efficientnet_lite0"
KEYS = {"X_statistics": "colour and texture statistics", "X_lite0": "EfficientNet-Lite0, ImageNet", "X_both": "both"}
OPTIONS = {"size_px": 32, "fov_spots": (1.5,)}
"""Patches that are read beside the embeddings, for the baselines and the colours of the slide: small ones."""


def her2st():
    """C2 to C5, serial sections of one tumour, and the 250 genes of the M2OST authors."""
    return stp.datasets.her2st(["C2", "C3", "C4", "C5"]), {"genes": stp.datasets.gene_panel("her2st")}


def mob_2k():
    """Two sections of the olfactory bulb of one mouse, 2k arrays."""
    where = Path(os.environ["STPREDICT_DATA_DIR"]) / "mob_2k"
    sections = {
        name: stp.io.read_st(
            where / f"{name}.jpg", where / f"{name}.tsv.gz", where / f"alignment_table_{name}.tsv", name=name,
            patient="mouse",
        )
        for name in ("MOB1", "MOB2")
    }  # fmt: skip
    return sections, {}


DATA = {"her2st": her2st, "mob_2k": mob_2k}


def objects(data):
    """The objects of a data set."""
    return list(data.values()) if isinstance(data, dict) else [data]


def embed(data, weights, folder):
    """Embed all spots, or read the embeddings of an earlier run; returns the costs, processor time in ms per spot."""
    costs_file = folder / "costs.json"
    costs = json.loads(costs_file.read_text()) if costs_file.is_file() else {}
    for number, sdata in enumerate(objects(data)):
        (table,) = sdata.tables.values()
        for key, arguments in {"X_statistics": ("statistics", None), "X_lite0": (NETWORK, weights)}.items():
            file = folder / f"{key}-{number}.npz"
            if file.is_file():
                with np.load(file) as saved:
                    table.obsm[key] = saved["features"]
                continue
            began = time.process_time()
            stp.tl.embed(sdata, arguments[0], weights=arguments[1], key_added=key, device="cpu", progress=False)
            costs.setdefault(key, []).append(1e3 * (time.process_time() - began) / table.n_obs)
            np.savez_compressed(file, features=table.obsm[key])
        table.obsm["X_both"] = np.hstack([table.obsm["X_statistics"], table.obsm["X_lite0"]])
    if "read" not in costs:
        for sdata in objects(data):
            slides = resolve(sdata, Selection())
            patch = stp.tl.PatchSpec(fov_um=tuple(fov * slides[0].diameter_um for fov in (1.5, 3.0, 9.0)))
            began = time.process_time()
            spots, _ = read_spots(slides, patch, progress=False)
            costs.setdefault("read", []).append(1e3 * (time.process_time() - began) / len(spots))
    costs_file.write_text(json.dumps(costs))
    return {key: float(np.mean(values)) for key, values in costs.items()}


def compare(data, options, seeds, folder):
    """Gene-wise correlation of every model on every matrix: mean over folds, by seed."""
    found = {}
    for key in KEYS:
        for model, some in {"encoder_ridge": [0], "encoder_mlp": list(range(seeds))}.items():
            entry = stp.tl.Entry(model, options=OPTIONS)
            done = stp.tl.benchmark(
                data, {model: entry}, by="section", allow_leakage=True, features_key=key, seeds=some,
                save_dir=folder / key / model, progress=False, **options,
            )  # fmt: skip
            runs = done.runs[done.runs["model"] == model]
            found[f"{key} {model}"] = runs.groupby("seed")["gene_pearson"].mean().tolist()
            found["mean_profile"] = [float(done.runs.loc[done.runs["model"] == "mean_profile", "gene_pearson"].mean())]
            found["ridge_color"] = [float(done.runs.loc[done.runs["model"] == "ridge_color", "gene_pearson"].mean())]
            found["ceiling"] = [float(runs["ceiling"].mean())]
            print(key, model, found[f"{key} {model}"], flush=True)
    return found


def cell(values):
    """Mean and, of several seeds, standard deviation."""
    return f"{np.mean(values):.3f}" + (f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else "")


def cost(value):
    """Milliseconds per spot, if they were measured."""
    return "not measured" if value is None else f"{value:.1f}"


def markdown(results):
    """Format the results as a page."""
    names = list(results["scores"])
    lines = [
        "# Embeddings computed once", "",
        f"{results['date']}; `python benchmarks/embeddings.py --weights FILE`. Each section is predicted from the",
        "others of its data set, which are of the same donor. Gene-wise Pearson correlation, mean over sections; of",
        f"the multilayer perceptron mean ± standard deviation over {results['seeds']} seeds.", "",
        "| embeddings | model | " + " | ".join(names) + " |", "|---|---|" + "--:|" * len(names),
    ]  # fmt: skip
    for key, title in KEYS.items():
        for model in ("encoder_ridge", "encoder_mlp"):
            values = [cell(results["scores"][name][f"{key} {model}"]) for name in names]
            lines.append(f"| {title} | `{model}` | " + " | ".join(values) + " |")
    for row, title in {"ridge_color": "ridge on colour, without embeddings", "ceiling": "noise ceiling"}.items():
        lines.append(f"| {title} | | " + " | ".join(cell(results["scores"][name][row]) for name in names) + " |")
    lines += [
        "", "Processor time in ms per spot, one thread (three fields of view of 224 px); embedding includes reading.",
        "",
        "| | " + " | ".join(names) + " |", "|---|" + "--:|" * len(names),
    ]  # fmt: skip
    for key, title in {"read": "reading patches", **KEYS}.items():
        if key != "X_both":
            lines.append(f"| {title} | " + " | ".join(cost(results["costs"][name].get(key)) for name in names) + " |")
    return "\n".join([*lines, ""])


def main():
    """Embed, compare, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="file that zoo/weights.py wrote")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--folder", type=Path, default=Path("stpredict-benchmark/embeddings"))
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    scores, costs = {}, {}
    for name in given.data:
        data, options = DATA[name]()
        folder = given.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        costs[name] = embed(data, given.weights, folder)
        print(name, costs[name], flush=True)
        scores[name] = compare(data, options, given.seeds, folder)
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"torch": torch.__version__, "stpredict": stp.__version__, "python": platform.python_version()},
        "seeds": given.seeds,
        "scores": scores,
        "costs": costs,
    }
    (given.out / "embeddings.json").write_text(json.dumps(results, indent=1))
    (given.out / "embeddings.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
