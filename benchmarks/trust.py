"""Reliability of predictions on C2 to C4 of her2st: coverage of intervals, predictability, out-of-distribution patches.

Each section is held out once; predictors are trained and calibrated on the other two. C5 is not read. All sections are
of one patient and resemble each other; a new patient is harder. A run takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import platform
import warnings
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch

import stpredict as stp
from stpredict._slides.slides import Selection, resolve
from stpredict._train.data import read_spots
from stpredict.tl._predictor.ood import image_statistics
from stpredict.tl._training.plan import drop_low_count_spots, gene_columns

SECTIONS = ["C2", "C3", "C4"]
COVERAGE = 0.9
RIDGE = "ridge, cross-conformal"
QUIET = {"progress": False}


def options(model):
    """Model options that give all models patches of the same size."""
    return {"size_px": 112, "fov_spots": (1.5, 3.0, 6.0)} if model == "encoder_ridge" else {}


def fit_cross_conformal(sdata, train, model, config, folder, genes):
    """Fit two members, each calibrated on the training section of the other (cross-conformal)."""
    fit = stp.tl.FitConfig(validation="slide", n_members=2, progress=False, **config)
    return stp.tl.fit(
        sdata, model, config=fit, model_options=options(model), shapes_key=train, genes=genes, save_dir=folder
    )


def fit_split_conformal(sdata, train, model, config, folder, genes):
    """Fit on one section without validation, and calibrate on another with `tl.calibrate` (split conformal)."""
    fit = stp.tl.FitConfig(validation="none", progress=False, **config)
    predictor = stp.tl.fit(
        sdata, model, config=fit, model_options=options(model), shapes_key=train[:1], genes=genes, save_dir=folder
    )
    # one view, since patch statistics do not depend on flips and rotations
    return stp.tl.calibrate(predictor, sdata, shapes_key=train[1:], n_views=1, **QUIET)


def interval_coverage(sdata, test, predictor, kind):
    """Coverage and width of the prediction intervals of a test section."""
    stp.tl.predict(sdata, predictor, shapes_key=test, uncertainty=kind, coverage=COVERAGE, **QUIET)
    slide = drop_low_count_spots(resolve(sdata, Selection(shapes_key=test)), 0.05)[0]
    observed = predictor.target.normalize(slide.counts, gene_columns(slide, predictor.genes))
    table = sdata["predicted"][slide.obs_names]
    lower, upper = (table.layers[f"predicted_{end}"] for end in ("lower", "upper"))
    inside = (observed >= lower) & (observed <= upper)
    width = (upper - lower).mean(axis=1)
    order = np.argsort(width)
    third = len(order) // 3
    return {
        "coverage": float(inside.mean()),
        "genes_5": float(np.quantile(inside.mean(axis=0), 0.05)),
        "genes_95": float(np.quantile(inside.mean(axis=0), 0.95)),
        "narrow_third": float(inside[order[:third]].mean()),
        "wide_third": float(inside[order[-third:]].mean()),
        "width": float(width.mean()),
    }


def ood_shares(sdata, test, predictor):
    """Share of spots flagged as out-of-distribution: original, blurred over 5 pixels, ink over the left 40 pixels."""
    slides = resolve(sdata, Selection(shapes_key=test))
    patches = read_spots(slides, predictor.patch, progress=False)[0].patches
    blurred = torch.nn.functional.avg_pool2d(patches.float().flatten(0, 1), 5, 1, 2, count_include_pad=False)
    inked = patches.clone()
    inked[..., :40] = torch.tensor([30, 30, 120], dtype=torch.uint8)[:, None, None]
    share = predictor.provenance.diameter_um / predictor.patch.fov_um[0]
    kinds = {"as it is": patches, "blurred": blurred.reshape(patches.shape).byte(), "inked": inked}
    return {
        name: float((predictor.image_range.distances(image_statistics(some, share)) > 1).mean())
        for name, some in kinds.items()
    }


def compare_predictability(sdata, test, predictor, known):
    """Scores of a predictor by gene, compared with the predictability estimated before training."""
    stp.tl.predict(sdata, predictor, shapes_key=test, **QUIET)
    scores = stp.tl.evaluate(sdata, shapes_key=test)["pearson"].reindex(known.index).fillna(0.0)
    predictable = known["q_value"] <= 0.05
    return {
        "over_genes": float(np.corrcoef(known["predictability"], scores)[0, 1]),
        "predictability": float(known["predictability"].mean()),
        "reached": float(scores.mean()),
        "n_predictable": int(predictable.sum()),
        "reached_predictable": float(scores[predictable].mean()),
        "reached_others": float(scores[~predictable].mean()),
        "moran_over_genes": float(np.corrcoef(known["moran"], scores)[0, 1]),
    }


def run(epochs, folder):
    """All rows of the page, for every held-out section."""
    sdata, genes = stp.datasets.her2st(SECTIONS), stp.datasets.gene_panel("her2st")
    makers = {
        RIDGE: (fit_cross_conformal, "encoder_ridge", {}),
        "ridge, one section for `tl.calibrate`": (fit_split_conformal, "encoder_ridge", {}),
        f"m2ost_ridge ({epochs} epochs), cross-conformal": (fit_cross_conformal, "m2ost_ridge", {"n_epochs": epochs}),
    }
    if not epochs:
        makers = {name: maker for name, maker in makers.items() if maker[1] != "m2ost_ridge"}
    intervals, known_before, ood = [], [], []
    for test in SECTIONS:
        train = [f"{name}_spots" for name in SECTIONS if name != test]
        known = stp.tl.predictability(sdata, shapes_key=train, genes=genes, **QUIET)
        for name, (make, model, config) in makers.items():
            predictor = make(sdata, train, model, config, folder / f"{test}-{name[:12]}", genes)
            for kind in ("conformal", "conformal_groups"):
                found = interval_coverage(sdata, f"{test}_spots", predictor, kind)
                intervals.append({"model": name, "uncertainty": kind, "left_out": test, **found})
            if make is fit_cross_conformal:
                found = compare_predictability(sdata, f"{test}_spots", predictor, known)
                known_before.append({"model": name, "left_out": test, **found})
            if name == RIDGE:
                ood.append({"left_out": test, **ood_shares(sdata, f"{test}_spots", predictor)})
    return {"intervals": intervals, "predictability": known_before, "unlike": ood}


def table(rows, titles):
    """Format rows as a table, with three decimals."""
    frame = pd.DataFrame(rows)[list(titles)]
    shown = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in frame.to_numpy(object)]
    head = ["| " + " | ".join(titles.values()) + " |", "|" + "---|" * len(titles)]
    return [*head, *("| " + " | ".join(row) + " |" for row in shown)]


def markdown(results):
    """Format the results as a page."""
    of_intervals = {
        "model": "model", "uncertainty": "`uncertainty`", "left_out": "held out", "coverage": "coverage",
        "genes_5": "genes, 5 %", "genes_95": "genes, 95 %", "narrow_third": "narrowest third",
        "wide_third": "widest third", "width": "mean width",
    }  # fmt: skip
    of_genes = {
        "model": "model", "left_out": "held out", "over_genes": "r, predictability", "moran_over_genes": "r, Moran's I",
        "predictability": "predictability", "reached": "score", "n_predictable": "predictable genes",
        "reached_predictable": "their score", "reached_others": "score of others",
    }  # fmt: skip
    of_patches = {"left_out": "held out", "as it is": "original", "blurred": "blurred", "inked": "inked"}
    return "\n".join([
        "# Reliability of predictions (her2st, C2 to C4)",
        "",
        f"{results['date']}; {results['device']}. Made by `python benchmarks/trust.py`.",
        "Each section is held out once; training and calibration use the other two. The targets are the 250 genes of",
        "the M2OST authors in log1p CP10k. All sections are of one patient; a new patient is harder. C5 is not read.",
        "",
        f"## Coverage of {100 * COVERAGE:.0f} % prediction intervals",
        "",
        "Coverage of all values; coverage of genes, as 5th and 95th percentile; coverage of the third of the spots",
        "with the narrowest and of the third with the widest intervals; mean width of the intervals in log1p CP10k.",
        "",
        *table(results["intervals"], of_intervals),
        "",
        "## Predictability before training, and scores of models",
        "",
        "Scores are gene-wise Pearson correlations on the held-out section. `r` is the correlation, over genes, of the",
        "score with the predictability or with Moran's I on the training sections. Predictable genes have a q value of",
        "at most 0.05. All other columns are means over genes.",
        "",
        *table(results["predictability"], of_genes),
        "",
        "## Share of spots flagged as out-of-distribution",
        "",
        "Patches of the held-out section: original, blurred over 5 pixels, and with ink over 40 of 112 pixels.",
        "",
        *table(results["unlike"], of_patches),
        "",
    ])  # fmt: skip


def main():
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5, help="epochs of m2ost_ridge; 0 skips it")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*left out of training")
    with TemporaryDirectory() as folder:
        results = {
            "date": datetime.now(UTC).date().isoformat(),
            "device": f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}",
            **run(arguments.epochs, Path(folder)),
        }
    (arguments.out / "trust.json").write_text(json.dumps(results, indent=1))
    (arguments.out / "trust.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
