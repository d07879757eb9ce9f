"""Speed of prediction from disk relative to its parts, and the training time until the network beats the ridge.

    python benchmarks/end_to_end.py [--full] [--rounds 3] [--only predict fit] [--out benchmarks]

`tl.predict` (reading, network, table), the network on patches in memory, and reading alone alternate in one process;
ratios are computed within a round. Sparse spots are those of her2st C4 and C5 if these are available (from
``STPREDICT_DATA_DIR`` or the internet), otherwise they are generated; dense spots lie on generated tissue. Training
uses C2 and C3 and is validated on C4 after every epoch; the time is measured from the call of `tl.fit`. ``--full`` adds
the larger networks and takes an hour on two cores; without it a run takes about four minutes.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from patches import texture
from spatialdata import SpatialData, read_zarr
from spatialdata.models import ShapesModel

import stpredict as stp
from stpredict._slides.slides import Selection, resolve
from stpredict._train.batches import BatchLimit
from stpredict._train.color import CHANNELS, apply_ridge, color_statistics, fit_ridge
from stpredict._train.data import read_pieces, read_spots
from stpredict._train.device import make_fabric
from stpredict.io.images import pyramid
from stpredict.metrics import pearson
from stpredict.models import build, config
from stpredict.models.registry import ensemble
from stpredict.pp.targets import Targets
from stpredict.tl._predictor.member import Member
from stpredict.tl._predictor.provenance import Provenance
from stpredict.tl._training import checkpoint as _checkpoint
from stpredict.tl._training.plan import drop_low_count_spots

TRAIN, VALIDATION = ["C2_spots", "C3_spots"], "C4_spots"
FOV_UM = (150.0, 300.0, 600.0)
"""Fields of view for her2st, whose spots measure 100 µm."""
PREDICTED = {
    "sparse, m2ost_ridge": ("m2ost_ridge", None, False),
    "dense, m2ost_ridge": ("m2ost_ridge", None, False),
    "dense, m2ost": ("m2ost", 64, False),
    "sparse, m2ost": ("m2ost", 64, True),
    "sparse, m2ost_small": ("m2ost_small", 64, True),
}
"""By title: network, number of spots (nearest the centre of the first slide; None for all), only with ``--full``."""
DENSE_PX = 5600
RUNS = {
    "m2ost_tiny": ("m2ost_tiny", {}, False),
    "m2ost_small": ("m2ost_small", {}, True),
    "m2ost": ("m2ost", {}, True),
}
"""By title: model, options, only with ``--full``."""
LIMIT_S = {False: 60.0, True: 1200.0}
"""Longest training in seconds, without and with ``--full``."""


class TargetReached(Exception):
    """Training has reached the target score, or its time limit."""


def sparse_slides(folder):
    """Legacy ST spots, 200 µm apart, read lazily from zarr, and their description."""
    try:
        return stp.datasets.her2st(["C4", "C5"]), "her2st C4 and C5, spots 200 µm apart"
    except (OSError, ValueError) as error:
        print(f"her2st is not available ({type(error).__name__}); generated slides are used")
    stp.datasets.synthetic(n_slides=2, n_side=14, um_per_px=0.7).write(folder / "sparse.zarr")
    return read_zarr(folder / "sparse.zarr"), "two generated slides of 14 x 14 spots, 200 µm apart"


def dense_slide(folder):
    """Visium spots, 100 µm apart, on generated tissue, read lazily from zarr, and their description."""
    xy = np.array([[700 + 200 * i + 100 * (j % 2), 700 + 173.2 * j] for j in range(25) for i in range(21)])
    image = pyramid(texture(DENSE_PX), "global")
    spots = ShapesModel.parse(xy, geometry=0, radius=55.0)
    attrs = {"stpredict": {"um_per_px": {"he": 0.5}}}
    SpatialData(images={"he": image}, shapes={"spots": spots}, attrs=attrs).write(folder / "dense.zarr")
    return read_zarr(folder / "dense.zarr"), f"generated tissue with {len(xy)} spots, 100 µm apart"


def select_spots(sdata, n):
    """The spots without their table: all, or the ``n`` nearest the centre of the first slide."""
    slides = resolve(sdata, Selection(), needs_table=False)
    chosen = {}
    for slide in slides if n is None else slides[:1]:
        shapes = sdata[slide.shapes_key].loc[slide.instances]
        distance = ((slide.xy_px - slide.xy_px.mean(axis=0)) ** 2).sum(axis=1)
        chosen[slide.shapes_key] = shapes.iloc[np.sort(np.argsort(distance)[:n])]
    return SpatialData(images=dict(sdata.images), shapes=chosen, attrs=sdata.attrs)


def untrained_predictor(name, diameter_um):
    """A model or ensemble of 250 genes with random weights, for spots of the given diameter."""
    rng, genes = np.random.default_rng(0), [f"gene{i}" for i in range(250)]
    targets = Targets.fit(stp.pp.TargetSpec(), genes, rng.random((50, 250), np.float32), np.zeros(50, int))
    weights = row.members if (row := ensemble(name)) else {name: 1.0}
    members = []
    for model, weight in weights.items():
        shape = config(model, targets.n_outputs)
        patch = stp.tl.PatchSpec(fov_um=tuple(diameter_um * fov for fov in shape.fov_spots), size_px=shape.size_px)
        members.append(Member(network=build(shape).eval(), targets=targets, model=model, patch=patch, weight=weight))
    color = {"channels": list(CHANNELS), "mean": [0.3] * 3, "std": [1.0] * 3}
    return stp.tl.Predictor(
        members=tuple(members),
        model=name,
        train_mean=targets.mean,
        ridge_color=np.zeros((250, 6 * 4 + 1), np.float32),
        provenance=Provenance(
            diameter_um=diameter_um,
            color=color,
            slides={"none": {"group": "none", "n_spots": 0, "um_per_px": 0.7, "sha256": ""}},
        ),
    )


def seconds(task):
    """Seconds that a function takes, until the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    task()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def median_range(values):
    """Median, minimum and maximum."""
    return [round(float(f(values)), 4) for f in (np.median, min, max)]


def measure_prediction(sdata, name, n_spots, n_rounds):
    """Spots per second of one network, of its parts, and their ratios within rounds."""
    sdata = select_spots(sdata, n_spots)
    keys = list(sdata.shapes)
    slides = resolve(sdata, Selection(shapes_key=keys), needs_table=False)
    predictor = untrained_predictor(name, round(slides[0].diameter_um, 3))
    fabric = make_fabric(stp.tl.FitConfig())
    spots, _ = read_spots(slides, predictor.patch, progress=False)
    limit = BatchLimit.of(None, fabric.device)
    parts = {
        "predict": lambda: stp.tl.predict(sdata, predictor, shapes_key=keys, progress=False),
        "network": lambda: predictor(spots, fabric, batch_size=limit),
        "reading": lambda: [len(p.rows) for slide in slides for p in read_pieces(slide, predictor.patch)],
    }
    for task in parts.values():
        task()  # warm-up
    names, rates = list(parts), {part: [] for part in parts}
    for i in range(n_rounds):
        for part in names[i % 3 :] + names[: i % 3]:
            rates[part].append(len(spots) / seconds(parts[part]))
    ratios = {part: [p / q for p, q in zip(rates["predict"], rates[part], strict=True)] for part in names[1:]}
    return {
        "n_spots": len(spots),
        "batch": limit.size,
        "spots_per_s": {part: median_range(values) for part, values in rates.items()},
        "of_network": median_range(ratios["network"]),
        "of_reading": median_range(ratios["reading"]),
        "limit": min(names[1:], key=lambda part: np.median(rates[part])),
    }


def ridge_score(sdata, spec, genes):
    """Gene-wise correlation of ridge regression on colour, on the validation section."""
    found = {}
    for part, keys in (("train", TRAIN), ("validation", [VALIDATION])):
        slides = drop_low_count_spots(resolve(sdata, Selection(shapes_key=keys)), stp.tl.FitConfig().min_library)
        spots, _ = read_spots(slides, stp.tl.PatchSpec(fov_um=FOV_UM, size_px=112), progress=False)
        values = [spec.normalize(s.counts, [s.genes.index(gene) for gene in genes]) for s in slides]
        found[part] = color_statistics(spots.patches, 100 / FOV_UM[0]), np.concatenate(values), spots
    colors, values, spots = found["train"]
    weights, _ = fit_ridge(colors, values, spots, spec)
    colors, values, _ = found["validation"]
    return float(np.nanmean(pearson(values, apply_ridge(weights, colors))))


def measure_training(sdata, model, options, genes, wanted, limit_s):
    """Seconds from the call of `tl.fit` until the validation score exceeds ``wanted``, and the curve until then."""
    started, curve, report = time.perf_counter(), [], _checkpoint.Reporter.report

    def report_and_check(self, state):
        report(self, state)
        curve.append((time.perf_counter() - started, state.history[-1]["val_pearson"]))
        if curve[-1][1] > wanted or curve[-1][0] > limit_s:
            raise TargetReached

    _checkpoint.Reporter.report = report_and_check
    try:
        with tempfile.TemporaryDirectory() as folder:
            stp.tl.fit(
                sdata,
                model,
                config=stp.tl.FitConfig(progress=False),
                genes=genes,
                model_options=options,
                shapes_key=[*TRAIN, VALIDATION],
                validate_on=[VALIDATION],
                save_dir=Path(folder) / "model",
            )
    except TargetReached:
        pass
    finally:
        _checkpoint.Reporter.report = report
    passed = curve[-1][1] > wanted
    return {
        "passed": passed,
        "seconds": round(curve[-1][0], 1),
        "epochs": len(curve),
        "best": round(max(score for _, score in curve), 4),
        "curve": [[round(s, 1), round(score, 4)] for s, score in curve],
    }


def measure_trainings(*, full):
    """Training time of every model until it beats ridge regression on colour."""
    try:
        sdata = stp.datasets.her2st(["C2", "C3", "C4"])
    except (OSError, ValueError) as error:
        return {"missing": f"her2st is not available: {type(error).__name__}"}
    genes, runs = stp.datasets.gene_panel("her2st"), {}
    wanted = ridge_score(sdata, stp.pp.TargetSpec(), genes)
    for title, (model, options, only_full) in RUNS.items():
        if not only_full or full:
            runs[title] = measure_training(sdata, model, options, genes, wanted, LIMIT_S[full])
            print(title, {key: value for key, value in runs[title].items() if key != "curve"}, flush=True)
    return {"ridge": round(wanted, 4), "runs": runs}


def import_seconds(n_rounds):
    """Import time of stpredict with all its modules beyond spatialdata, in new processes that alternate."""
    ours = "import spatialdata, stpredict as stp; [dir(getattr(stp, name)) for name in stp.__all__]"
    times = {"spatialdata": [], "stpredict": []}
    for _ in range(n_rounds):
        for name, code in (("spatialdata", "import spatialdata"), ("stpredict", ours)):
            code = f"{code}; import sys; sys.exit('torch' in sys.modules)"
            times[name].append(seconds(lambda code=code: subprocess.run([sys.executable, "-c", code], check=True)))
    beyond = [b - a for a, b in zip(*times.values(), strict=True)]
    return {"spatialdata_s": median_range(times["spatialdata"]), "beyond_s": median_range(beyond)}


def run_info():
    """Date, device and versions, without the name of the machine."""
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {cpu}",
        "versions": {"stpredict": stp.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }


def format_range(values, form="{:.1f}"):
    """Format median (minimum to maximum)."""
    median, least, most = (form.format(value) for value in values)
    return f"{median} ({least} to {most})"


def predict_rows(results):
    """Lines of the section on prediction."""
    heads = ("", "spots", "`tl.predict`, spots/s", "network alone, spots/s", "reading alone, spots/s",
             "relative to network", "relative to reading", "bottleneck")  # fmt: skip
    lines = [
        *(f"- {title}: {what}." for title, what in results["slides"].items()),
        "",
        f"Medians (minimum to maximum) of {results['rounds']} rounds. Targets: `tl.predict` reaches 90 % of the speed",
        "of the network alone where the network is the bottleneck, and 80 % of reading alone where reading is.",
        "",
        f"| {' | '.join(heads)} |",
        "|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for name, row in results["models"].items():
        cells = [format_range(rates) for rates in row["spots_per_s"].values()]
        cells += [format_range(row[key], "{:.2f}") for key in ("of_network", "of_reading")]
        lines.append(f"| {name} | {row['n_spots']} | {' | '.join(cells)} | {row['limit']} |")
    missing = [name for name in PREDICTED if name not in results["models"]]
    return [*lines, *(f"| {name} | not measured (`--full`) | | | | | | |" for name in missing)]


def fit_rows(results):
    """Lines of the section on training."""
    if "missing" in results:
        return [f"Not measured: {results['missing']}."]
    lines = [
        f"Ridge regression on colour, fitted on C2 and C3, reaches a gene-wise correlation of {results['ridge']:.3f}",
        "on C4. Times are measured from the call of `tl.fit` and include reading.",
        "",
        "| | beats the ridge after | epochs | best correlation until then |",
        "|---|--:|--:|--:|",
    ]
    for title in RUNS:
        row = results["runs"].get(title)
        if row is None:
            lines.append(f"| {title} | not measured on this device (`--full`) | | |")
            continue
        when = f"{row['seconds']:.0f} s" if row["passed"] else f"not within {row['seconds']:.0f} s"
        lines.append(f"| {title} | {when} | {row['epochs']} | {row['best']:.3f} |")
    return lines


def markdown(results):
    """Format the results as a page."""
    device = " ".join(f"{name} {version}" for name, version in results["versions"].items())
    parts = {"Prediction from disk": "predict", "Training until the network beats the ridge on colour": "fit"}
    lines = ["# End to end", "", f"{results['date']}; {results['device']}; {device}.", ""]
    for title, part in parts.items():
        if part in results:
            lines += [f"## {title}", "", *(predict_rows if part == "predict" else fit_rows)(results[part]), ""]
    took, beyond = results["import"]["spatialdata_s"], results["import"]["beyond_s"]
    lines += ["## Import", "", "Importing all modules (torch is not loaded) takes"]
    lines += [f"{format_range(beyond, '{:.2f}')} s beyond the {format_range(took, '{:.2f}')} s of spatialdata itself."]
    lines += ["Target: at most 1.5 s.", ""]
    return "\n".join([*lines, "Made by `python benchmarks/end_to_end.py`.", ""])


def main():
    """Measure and write JSON and page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the default")
    parser.add_argument("--full", action="store_true", help="include the larger networks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=("predict", "fit"), default=("predict", "fit"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)  # the weights are random
    results = run_info()
    if "predict" in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            slides = {"sparse": sparse_slides(Path(folder)), "dense": dense_slide(Path(folder))}
            models = {
                title: measure_prediction(slides[title.split(",")[0]][0], name, n_spots, arguments.rounds)
                for title, (name, n_spots, only_full) in PREDICTED.items()
                if arguments.full or not only_full
            }
            about = {title: what for title, (_, what) in slides.items()}
            results["predict"] = {"slides": about, "rounds": arguments.rounds, "models": models}
            print("\n".join(predict_rows(results["predict"])), flush=True)
    results["import"] = import_seconds(arguments.rounds)
    if "fit" in arguments.only:
        results["fit"] = measure_trainings(full=arguments.full)
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "end_to_end.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / "end_to_end.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
