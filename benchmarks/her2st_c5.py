"""Train on sections C2 to C4 of her2st, predict C5, and compare the scores with baselines and ceiling.

    python benchmarks/her2st_c5.py [--seeds 3] [--out benchmarks]

Needs the sections (from ``STPREDICT_DATA_DIR`` or the internet). No hyperparameter is chosen here: the recipe was
selected by leave-one-section-out cross-validation on C2 to C4 (``her2st_select.md``), and C5 is only scored. It takes
about four minutes per seed on two cores; predictors of an earlier run in ``--models`` are reused. The full-size network
is trained by ``gpu.py``.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from her2st_sections import SPACES, TEST, TRAIN, scores

import stpredict as stp
from stpredict._slides.slides import Selection, resolve
from stpredict._train.color import apply_ridge, color_statistics, fit_ridge
from stpredict._train.data import read_spots
from stpredict.tl._training.plan import drop_low_count_spots

COLUMNS = ["gene_pearson", "gene_pearson_top50", "best50", "spot_pearson", "rmse"]


def ridge_row(train, test, predictor, spec, genes):
    """Scores of the ridge regression on colour for targets of full rank or of another rank."""
    slides, target = drop_low_count_spots(resolve(train, Selection()), 0.05), resolve(test, Selection())[0]
    share = predictor.provenance.diameter_um / predictor.patch.fov_um[0]
    spots, _ = read_spots(slides, predictor.patch, progress=False)
    values = np.concatenate([spec.normalize(s.counts, [s.genes.index(g) for g in genes]) for s in slides])
    colors = color_statistics(spots.patches, share)
    weights, penalty = fit_ridge(colors, values, spots, spec)
    spots, _ = read_spots([target], predictor.patch, progress=False)
    predicted = apply_ridge(weights, color_statistics(spots.patches, share))
    observed = spec.normalize(target.counts, [target.genes.index(g) for g in genes])
    kept = np.asarray(target.counts[:, [target.genes.index(g) for g in genes]].sum(axis=1)).ravel() > 0
    return scores(observed[kept], predicted[kept]) | {"penalty": penalty}


def select_members(predictor, model=None, seed=None):
    """A predictor with the networks of one model only, or of one seed; weights stay in proportion."""
    found = []
    for name in predictor.models:
        members = [member for member in predictor.members if member.model == name]
        found += [] if model not in (None, name) else members if seed is None else members[seed : seed + 1]
    return replace(predictor, members=tuple(found))


def score_space(space, spec, n_seeds, folder):
    """All rows of one target space."""
    genes = stp.datasets.gene_panel("her2st")
    train, test = stp.datasets.her2st(TRAIN), stp.datasets.her2st([TEST])
    config = stp.tl.FitConfig(validation="none", n_members=n_seeds)
    place = folder / space.replace(" ", "-")
    if place.is_dir():  # trained by an earlier run
        predictor = stp.tl.Predictor.load(place)
    else:
        predictor = stp.tl.fit(train, "m2ost_ridge", config=config, target=spec, genes=genes, save_dir=place)
    rows, n_seeds = {}, len(predictor.members) // len(predictor.models)
    for i in range(n_seeds):
        stp.tl.predict(test, select_members(predictor, seed=i), n_views=8, progress=False)
        rows[f"M2OST (tiny), seed {i}"] = stp.tl.summary(stp.tl.evaluate(test)).loc["model"].to_dict()
    for title, model in (("network alone", "m2ost_tiny"), ("statistics alone", "ridge_statistics")):
        stp.tl.predict(test, select_members(predictor, model), n_views=8, progress=False)
        name = f"M2OST (tiny), {title}, {n_seeds} seeds averaged"
        rows[name] = stp.tl.summary(stp.tl.evaluate(test)).loc["model"].to_dict()
    stp.tl.predict(test, predictor, n_views=8, progress=False)
    final = stp.tl.evaluate(test)
    table = stp.tl.summary(final)
    head = {
        "mean profile": table.loc["mean_profile"].to_dict(),
        "ridge on colour, full rank": ridge_row(train, test, predictor, replace(spec, n_components=None), genes),
        "ridge on colour, 5 components": table.loc["ridge_color"].to_dict(),
    }
    rows[f"M2OST (tiny), {n_seeds} seeds averaged"] = table.loc["model"].to_dict()
    return {"rows": head | rows, "ceiling": float(final["ceiling"].mean()), "seeds": n_seeds}


def renew_baselines(kept, fresh):
    """Replace the baselines of earlier results; the new run of seed 0 must reproduce the earlier scores of seed 0."""
    for space, result in kept["spaces"].items():
        rows, again = result["rows"], fresh["spaces"][space]["rows"]
        for name in ("mean profile", "ridge on colour, full rank", "ridge on colour, 5 components"):
            rows[name] = again[name]
        seed, before = again["M2OST (tiny), seed 0"], rows["M2OST (tiny), seed 0"]
        # the tolerance allows for rounding, which depends on the number of threads
        differing = [name for name in COLUMNS if abs(seed[name] - before[name]) > 2e-3]
        if differing:
            msg = f"seed 0 of {space} scores differently than before ({', '.join(differing)}): run all seeds"
            raise SystemExit(msg)
    return kept | {"baselines": f"{fresh['date']}; {fresh['device']}"}


def mean_std(values):
    """Format mean and standard deviation."""
    return f"{values.mean():.3f} ± {values.std():.3f}" if len(values) > 1 else f"{values.mean():.3f}"


def markdown(results):
    """Format the results as a page."""
    lines = [
        "# C5 from C2 to C4 (her2st)",
        "",
        f"{results['date']}; {results['device']}; trained on {', '.join(TRAIN)}, scored on {TEST}; the 250",
        "genes of the M2OST authors. All four sections are of one patient: the scores show how well serial sections",
        "of a known tumour are predicted, not how well a new patient is. Two spots of C5 have no counts in the panel",
        "(2 and 3 counts in total) and are excluded from all rows.",
        "Made by `python benchmarks/her2st_c5.py`. The scores of the full-size network are in `gpu.md`.",
        *([f"Baselines computed again with `--baselines`: {results['baselines']}."] if "baselines" in results else []),
        "",
    ]
    for space, result in results["spaces"].items():
        table = pd.DataFrame.from_dict(result["rows"], orient="index")[COLUMNS]
        singles = table[table.index.str.contains("tiny.*seed \\d")]
        lines += [
            f"## {space}",
            "",
            "| | gene-wise PCC | top 50 variable | best 50 | spot-wise PCC | RMSE per spot |",
            "|---|---|---|---|---|---|",
            *(f"| {name} | " + " | ".join(f"{v:.3f}" for v in row) + " |" for name, row in table.iterrows()),
            f"| noise ceiling | {result['ceiling']:.3f} | | | | |",
            "",
            f"{len(singles)} seed(s): gene-wise PCC {mean_std(singles.gene_pearson)}, spot-wise PCC",
            f"{mean_std(singles.spot_pearson)}, RMSE {mean_std(singles.rmse)} (mean ± standard deviation).",
            "",
        ]
    return "\n".join(lines)


def main():
    """Run both target spaces and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--models", type=Path, default=Path("stpredict-benchmark"))
    parser.add_argument("--baselines", action="store_true", help="compute only the baselines again (one seed)")
    arguments = parser.parse_args()
    n_seeds = 1 if arguments.baselines else arguments.seeds
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{torch.get_num_threads()} threads, {platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "versions": {"torch": torch.__version__},
        "spaces": {space: score_space(space, spec, n_seeds, arguments.models) for space, spec in SPACES.items()},
    }
    if arguments.baselines:
        results = renew_baselines(json.loads((arguments.out / "her2st_c5.json").read_text()), results)
    (arguments.out / "her2st_c5.json").write_text(json.dumps(results, indent=1))
    (arguments.out / "her2st_c5.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
