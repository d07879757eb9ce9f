"""Full-size `m2ost`, the network alone, trained on C2 to C4 of her2st and scored on C5 as in `her2st_c5.py`.

The present recipe (`stp.models.recipe`, without validation slides) runs in the default precision of the device for at
most 100 epochs or two minutes. The paper's recipe is Adam with learning rate 1e-4, batches of 96 spots, all genes as
targets, no stain jitter, no warm-up and no moving average.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from her2st_sections import SPACES, TEST, TRAIN, scores

import stpredict as stp

from . import slides, timing
from .package import (
    FitConfig,
    apply_ridge,
    color_statistics,
    default_precision,
    make_fabric,
    plan_training,
    read_spots,
    spot_share,
    train_members,
)

N_EPOCHS, MAX_TRAINING_S = 100, 120.0
EPOCH_END_S = 0.1
"""Time after every epoch in which the loop copies averages and weights."""
PRESENT, PAPER = "present recipe", "paper's recipe"
TINY = {"dim": 12, "depth": 1, "size_px": 32}
"""Options of `m2ost` in a trial."""


def recipe(title):
    """Fields of `FitConfig` and of `TargetSpec` that a recipe changes."""
    if title == PRESENT:
        return stp.models.recipe("m2ost"), {}
    adam = {"lr": 1e-4, "batch_size": 96, "weight_decay": 0.0, "warmup_epochs": 0.0, "ema_decay": 0.0}
    return {**adam, "stain_jitter": 0.0, "brightness_jitter": 0.0}, {"n_components": None}


def run(options, save):
    """Both recipes with one seed, for log1p CP10k."""
    return train_all(options, save, [("CP10k", PRESENT, 0), ("CP10k", PAPER, 0)])


def run_more_seeds(options, save):
    """Two more seeds, then the other target space, as far as time allows; epochs are not reduced."""
    jobs = [("CP10k", PRESENT, 1), ("CP10k", PRESENT, 2), ("panel CPM", PAPER, 0)]
    jobs += [("panel CPM", PRESENT, seed) for seed in range(3)]
    return train_all(options, save, jobs[2:4] if options.small else jobs, shorten=False)


def train_all(options, save, jobs, *, shorten=True):
    """One row for each job until the deadline; if time is short, with fewer epochs (``shorten``) or not at all."""
    if options.data is None and not options.small:
        return {"left_out": "--data was not given, the folder with the sections of her2st"}
    genes = stp.datasets.gene_panel("her2st")
    data = options.data or options.scratch / "her2st"
    if options.data is None and not data.is_dir():
        slides.write_tiny_her2st(data, genes)
    with ThreadPoolExecutor() as pool:
        *train, test = pool.map(lambda name: slides.read_her2st_slide(data, name), (*TRAIN, TEST))
    rows = []
    result = {"rows": rows, "n_spots": {slide.name: len(slide.xy_px) for slide in (*train, test)}}
    for i, (space, title, seed) in enumerate(jobs):
        row = {"space": space, "recipe": title, "seed": seed}
        left_s = options.deadline - time.monotonic()
        if left_s < 15 and not options.small:
            rows.append(row | {"left_out": "no time left"})
            continue
        limit_s = left_s * (0.65 if shorten and i < len(jobs) - 1 else 1.0)
        rows.append(row | train_and_score(row, train, test, genes, limit_s, options, shorten=shorten))
        save(result)
    return result


def train_and_score(row, train, test, genes, limit_s, options, *, shorten):
    """Train and score one network; also returns its epochs and seconds."""
    fields, of_target = recipe(row["recipe"])
    target = replace(SPACES[row["space"]], **of_target)
    common = {**fields, "validation": "none", "seed": row["seed"], "progress": False}
    shape = TINY if options.small else {}

    def fit_epochs(n_epochs):
        """Train a predictor for the given number of epochs."""
        config = FitConfig(**{**common, "n_epochs": n_epochs, "patience": 100_000})
        run = plan_training(train, "m2ost", config=config, target=target, genes=genes, model_options=shape)
        return train_members(run, options.scratch / f"{row['space']}-{row['recipe']}-{row['seed']}-{n_epochs}")

    started = time.perf_counter()
    speed = fit_epochs(2).history["spots_per_s"].iloc[-1]  # also the warm-up
    trial_s = time.perf_counter() - started
    epoch_s = sum(len(slide.xy_px) for slide in train) / speed + EPOCH_END_S
    wanted, possible = (
        int(np.clip(allowed_s / epoch_s, 1, N_EPOCHS)) for allowed_s in (MAX_TRAINING_S, limit_s - 2 * trial_s - 10)
    )
    if possible < wanted and not shorten and not options.small:
        return {"left_out": "no time left"}
    n_epochs = 3 if options.small else min(wanted, possible)
    started = time.perf_counter()
    predictor = fit_epochs(n_epochs)
    took_s = time.perf_counter() - started
    speeds = predictor.history["spots_per_s"]
    return {
        "epochs": n_epochs, "fit_s": round(took_s, 1), "train_spots_per_s": timing.median_range(speeds.to_numpy()[1:]),
        "precision": default_precision(timing.device()),
        **score_predictor(predictor, test),
    }  # fmt: skip


def score_predictor(predictor, test):
    """Scores on the test section of the predictor and of its baselines, mean profile and ridge on colour."""
    columns = [test.genes.index(gene) for gene in predictor.genes]
    observed = predictor.target.normalize(test.counts, columns)
    spots, _ = read_spots([test], predictor.patch, progress=False)
    colors = color_statistics(spots.patches, spot_share(predictor))
    predicted = predictor(spots, make_fabric(FitConfig()), n_views=8)
    rows = {
        "mean profile": np.broadcast_to(predictor.train_mean, observed.shape),
        "ridge on colour": apply_ridge(predictor.ridge_color, colors),
    }
    kept = np.asarray(test.counts[:, columns].sum(axis=1)).ravel() > 0  # as `stp.tl.evaluate` does
    return {
        "n_scored": int(kept.sum()),
        "scores": scores(observed[kept], predicted[kept]),
        "baselines": {name: scores(observed[kept], values[kept]) for name, values in rows.items()},
    }
