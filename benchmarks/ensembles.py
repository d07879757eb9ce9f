"""Members of an ensemble alone, and their mean with equal, registered and stacked weights, on held-out sections.

    python benchmarks/ensembles.py [--only NAME …] [--folder stpredict-benchmark/ensembles] [--out benchmarks]

Needs ``STPREDICT_DATA_DIR`` with the sections. Every ensemble is trained once with stacked weights; the other weights
are put on the same networks. Predictors in ``--folder`` are used again. One run takes about half an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

import stpredict as stp

HERE = Path(__file__).parent
MODELS = ("m2ost_tiny", "ridge_statistics", "ridge_color")
WEIGHTS = {"equal": (1, 1, 1), "equal, without the network": (0, 1, 1), "m2ost_ridge": (0.3, 0.7, 0)}
"""Weights of the rows of means, besides stacked ones."""


def her2st(train, test):
    """Sections of her2st, serial sections of one tumour; 250 genes of the M2OST authors."""
    return stp.datasets.her2st(train), stp.datasets.her2st(test), stp.datasets.gene_panel("her2st")


def mob():
    """Sections of the olfactory bulb of two mice, in two stains."""
    where = Path(os.environ["STPREDICT_DATA_DIR"]) / "mob_2k"
    sections = {
        name: stp.io.read_st(image=where / f"{name}.jpg", counts=where / f"{name}.tsv.gz",
                             spots=where / f"alignment_table_{name}.tsv", name=name, patient=patient)
        for name, patient in {"MOB1": "first", "MOB2": "first", "MOB3": "second"}.items()
    }  # fmt: skip
    return {name: sections[name] for name in ("MOB1", "MOB2")}, sections["MOB3"], None


SETTINGS = {
    **{
        f"{test} from {' and '.join(train)}": (lambda train=train, test=test: her2st(train, [test]))
        for test, train in {"C4": ["C2", "C3"], "C3": ["C2", "C4"], "C2": ["C3", "C4"]}.items()
    },
    "MOB3 from MOB1 and MOB2": mob,
}


def score(test, predictor):
    """Gene-wise correlation and noise ceiling."""
    stp.tl.predict(test, predictor, progress=False)
    found = stp.tl.evaluate(test)
    return {"gene_pearson": stp.tl.summary(found).loc["model", "gene_pearson"], "ceiling": found.attrs["ceiling"]}


def with_weights(predictor, weights):
    """The same networks with other weights, by model."""
    kept = [member for member in predictor.members if weights[member.model]]
    return replace(predictor, members=tuple(replace(member, weight=weights[member.model]) for member in kept))


def measure(name, folder):
    """All rows of one setting."""
    train, test, genes = SETTINGS[name]()
    place = folder / name.replace(" ", "-")
    if place.is_dir():
        predictor = stp.tl.Predictor.load(place)
    else:
        predictor = stp.tl.fit(train, MODELS, weights="stacked", genes=genes, group_key="patient", save_dir=place)
    rows = {model: {each: float(each == model) for each in MODELS} for model in MODELS}
    rows |= {title: dict(zip(MODELS, weights, strict=True)) for title, weights in WEIGHTS.items()}
    rows["stacked"] = predictor.models
    scores = {title: score(test, with_weights(predictor, weights)) for title, weights in rows.items()}
    return {
        "scores": {title: found["gene_pearson"] for title, found in scores.items()},
        "ceiling": scores["stacked"]["ceiling"],
        "stacked": predictor.models,
        "held_out": predictor.provenance.ensemble["stacked"]["held_out"],
    }


def markdown(results):
    """Format the results as a page."""
    settings = results["settings"]
    table = pd.DataFrame({name: found["scores"] for name, found in settings.items()})
    lines = [
        f"{results['date']}, one seed; gene-wise PCC (log1p CP10k), made by `python benchmarks/ensembles.py`.", "",
        "|  | " + " | ".join(table.columns) + " |", "|---|" + "--:|" * len(table.columns),
        *(f"| {title} | " + " | ".join(f"{value:.3f}" for value in row) + " |" for title, row in table.iterrows()),
        "| noise ceiling | " + " | ".join(f"{found['ceiling']:.3f}" for found in settings.values()) + " |", "",
        "Stacked weights of " + ", ".join(f"`{model}`" for model in MODELS) + ": " + "; ".join(
            f"{name} " + ", ".join(f"{found['stacked'][model]:.2f}" for model in MODELS)
            for name, found in settings.items()) + ".",
        "Held out to find them: " + ", ".join(sorted({found["held_out"] for found in settings.values()})) + ".", "",
    ]  # fmt: skip
    return "\n".join(lines)


def main():
    """Measure the settings and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SETTINGS), default=list(SETTINGS), metavar="NAME")
    parser.add_argument("--folder", type=Path, default=Path("stpredict-benchmark/ensembles"))
    parser.add_argument("--out", type=Path, default=HERE)
    given = parser.parse_args()
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"torch": torch.__version__, "stpredict": stp.__version__},
        "settings": {name: measure(name, given.folder) for name in given.only},
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "ensembles.json").write_text(json.dumps(results, indent=1) + "\n")
    (given.out / "ensembles.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
