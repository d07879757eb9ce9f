"""How far to trust a prediction, on C2 to C4 of her2st: coverage of intervals, predictability, unlike patches.

Each section is left out once: trained and calibrated on the other two, asked on the third. C5 is not read. All are of
one patient, so these are sections that resemble each other; a new patient is harder. About ten minutes on two cores.
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
FIRST = "ridge, cross-conformal"
QUIET = {"progress": False}


def options(model):
    """Patches of the same size for all."""
    return {"size_px": 112, "fov_spots": (1.5, 3.0, 6.0)} if model == "encoder_ridge" else {}


def fitted(sdata, train, model, config, folder, genes):
    """A predictor of two members, each calibrated on the section that the other was trained on."""
    fit = stp.tl.FitConfig(validation="slide", n_members=2, progress=False, **config)
    return stp.tl.fit(
        sdata, model, config=fit, model_options=options(model), shapes_key=train, genes=genes, save_dir=folder
    )


def split(sdata, train, model, config, folder, genes):
    """A predictor trained on one section without validation, and calibrated on another by `tl.calibrate`."""
    fit = stp.tl.FitConfig(validation="none", progress=False, **config)
    predictor = stp.tl.fit(
        sdata, model, config=fit, model_options=options(model), shapes_key=train[:1], genes=genes, save_dir=folder
    )
    return stp.tl.calibrate(predictor, sdata, shapes_key=train[1:], n_views=1, **QUIET)  # statistics know no turns


def covered(sdata, test, predictor, kind):
    """How many measured values lie in their intervals, and how wide these are."""
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


def flagged(sdata, test, predictor):
    """Share of spots that are flagged: as they are, blurred over 5 pixels, and with ink over the left 40 pixels."""
    slides = resolve(sdata, Selection(shapes_key=test))
    patches = read_spots(slides, predictor.patch, progress=False)[0].patches
    blurred = torch.nn.functional.avg_pool2d(patches.float().flatten(0, 1), 5, 1, 2, count_include_pad=False)
    inked = patches.clone()
    inked[..., :40] = torch.tensor([30, 30, 120], dtype=torch.uint8)[:, None, None]
    share = predictor.provenance["diameter_um"] / predictor.patch.fov_um[0]
    kinds = {"as it is": patches, "blurred": blurred.reshape(patches.shape).byte(), "inked": inked}
    return {
        name: float((predictor.image_range.distances(image_statistics(some, share)) > 1).mean())
        for name, some in kinds.items()
    }


def reached(sdata, test, predictor, known):
    """What a predictor scores gene by gene, against what was said before."""
    stp.tl.predict(sdata, predictor, shapes_key=test, **QUIET)
    scores = stp.tl.evaluate(sdata, shapes_key=test)["pearson"].reindex(known.index).fillna(0.0)
    surely = known["q_value"] <= 0.05
    return {
        "over_genes": float(np.corrcoef(known["predictability"], scores)[0, 1]),
        "predictability": float(known["predictability"].mean()),
        "reached": float(scores.mean()),
        "n_predictable": int(surely.sum()),
        "reached_predictable": float(scores[surely].mean()),
        "reached_others": float(scores[~surely].mean()),
        "moran_over_genes": float(np.corrcoef(known["moran"], scores)[0, 1]),
    }


def run(epochs, folder):
    """Every row, by section that is left out."""
    sdata, genes = stp.datasets.her2st(SECTIONS), stp.datasets.gene_panel("her2st")
    makers = {
        FIRST: (fitted, "encoder_ridge", {}),
        "ridge, one section for `tl.calibrate`": (split, "encoder_ridge", {}),
        f"m2ost_tiny ({epochs} epochs), cross-conformal": (fitted, "m2ost_tiny", {"n_epochs": epochs}),
    }
    if not epochs:
        makers = {name: maker for name, maker in makers.items() if maker[1] != "m2ost_tiny"}
    intervals, known_before, unlike = [], [], []
    for test in SECTIONS:
        train = [f"{name}_spots" for name in SECTIONS if name != test]
        known = stp.tl.predictability(sdata, shapes_key=train, genes=genes, **QUIET)
        for name, (make, model, config) in makers.items():
            predictor = make(sdata, train, model, config, folder / f"{test}-{name[:12]}", genes)
            for kind in ("conformal", "conformal_groups"):
                found = covered(sdata, f"{test}_spots", predictor, kind)
                intervals.append({"model": name, "uncertainty": kind, "left_out": test, **found})
            if make is fitted:
                found = reached(sdata, f"{test}_spots", predictor, known)
                known_before.append({"model": name, "left_out": test, **found})
            if name == FIRST:
                unlike.append({"left_out": test, **flagged(sdata, f"{test}_spots", predictor)})
    return {"intervals": intervals, "predictability": known_before, "unlike": unlike}


def table(rows, titles):
    """Rows of a page, figures with three decimals."""
    frame = pd.DataFrame(rows)[list(titles)]
    shown = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in row] for row in frame.to_numpy(object)]
    head = ["| " + " | ".join(titles.values()) + " |", "|" + "---|" * len(titles)]
    return [*head, *("| " + " | ".join(row) + " |" for row in shown)]


def markdown(results):
    """The results as a page."""
    of_intervals = {
        "model": "model", "uncertainty": "`uncertainty`", "left_out": "left out", "coverage": "covered",
        "genes_5": "of a gene, 5 %", "genes_95": "95 %", "narrow_third": "narrowest third of spots",
        "wide_third": "widest third", "width": "mean width",
    }  # fmt: skip
    of_genes = {
        "model": "model", "left_out": "left out", "over_genes": "r over genes: predictability and score",
        "moran_over_genes": "Moran's I and score", "predictability": "mean predictability", "reached": "mean score",
        "n_predictable": "genes with q of 0.05 or less", "reached_predictable": "their mean score",
        "reached_others": "mean score of the others",
    }  # fmt: skip
    return "\n".join([
        "# How far to trust a prediction (her2st, C2 to C4)",
        "",
        f"{results['date']}; {results['device']}. Each section is left out once, the other two are trained and",
        "calibrated on; the 250 genes of the M2OST authors, log1p CP10k. One patient: a new one is harder. C5 is not",
        "read. Made by `python benchmarks/trust.py`.",
        "",
        f"## Intervals that shall cover {100 * COVERAGE:.0f} %",
        "",
        *table(results["intervals"], of_intervals),
        "",
        "## What was said of genes before, and what models reach",
        "",
        "Scores are gene-wise Pearson correlations on the section that is left out.",
        "",
        *table(results["predictability"], of_genes),
        "",
        "## Share of spots that are flagged as unlike the training ones",
        "",
        "Patches of the section that is left out: as they are, blurred over 5 pixels, with ink over 40 of 112 pixels.",
        "",
        *table(results["unlike"], {name: name.replace("_", " ") for name in results["unlike"][0]}),
        "",
    ])  # fmt: skip


def main():
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5, help="of m2ost_tiny; 0 leaves it out")
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
