"""What every score gives a model, the mean profile, a blurred measured map and place alone.

    python benchmarks/scores.py [--data synthetic] [--pathways FILE.gmt]

``--data her2st`` trains on C2 to C4 and scores C5 (``STPREDICT_DATA_DIR`` names the folder of the data); a few seconds
of made-up slides otherwise. Writes the rows of that data set into scores.json, and scores.md.
"""

from __future__ import annotations

import argparse
import json
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

import stpredict as stp
from stpredict.metrics.scores import SUMMARY_SCORES

HERE = Path(__file__).parent
HEADS = {"synthetic": "Made-up slides", "her2st": "her2st, C5"}
SHOWN = (
    "gene_pearson", "gene_r2", "spot_pearson", "spot_r2", "moran_agreement", "moran_gap", "geary_gap", "svg_overlap",
    "gene_ssim", "coexpression", "domain_log_fold", "pathway_pearson", "coverage_gap", "gene_interval_skill",
)  # fmt: skip
ROWS = {
    "true map": "the noise-free rates, where they are known",
    "model": "`ridge_statistics`, which sees the image",
    "mean profile": "the mean of the training spots",
    "place alone": "`knn_spatial`, the spots nearest in position on the training slides",
    "measured, blurred": "mean of a spot and its neighbours, of the values to predict",
    "measured, blurred twice": "the same twice",
}


def load(name):
    """The object, elements to train on, the test element, and gene sets (None: not known)."""
    if name == "her2st":
        sdata = stp.datasets.her2st(["C2", "C3", "C4", "C5"])
        return sdata, ["C2_spots", "C3_spots", "C4_spots"], "C5_spots", None
    sdata = stp.datasets.synthetic(n_slides=4, n_side=14, n_genes=24, um_per_px=8.0)
    stain = sdata["observed"].var["stain"].astype(str)
    return sdata, ["S0_spots", "S1_spots", "S2_spots"], "S3_spots", {s: stain.index[stain == s] for s in set(stain)}


def blur(values, xy):
    """Mean over a spot and its 6 nearest neighbours, ties included."""
    from scipy.spatial import cKDTree

    tree = cKDTree(xy)
    reach = tree.query(xy, k=[7])[0][:, 0] * (1 + 1e-4)
    return np.stack([values[near].mean(axis=0) for near in tree.query_ball_point(xy, reach)]).astype(np.float32)


def measure(name, pathways):
    """Summaries of all maps of the test slide."""
    sdata, train, test, own = load(name)
    config = stp.tl.FitConfig(validation="slide", n_members=2, progress=False)
    genes = stp.datasets.gene_panel("her2st") if name == "her2st" else None
    predictor = stp.tl.fit(sdata, "ridge_statistics", config=config, shapes_key=train, genes=genes)
    stp.tl.domains(sdata, 4, "expression", shapes_key=test, n_seeds=1, progress=False)
    given = {"shapes_key": test, "domain_key": "domain", "pathways": pathways or own}
    stp.tl.predict(sdata, predictor, shapes_key=test, uncertainty="conformal", progress=False)
    found = {"model": stp.tl.evaluate(sdata, **given)}
    intervals = stp.tl.score_intervals(sdata, **given, progress=False)
    of_model = intervals[intervals["row"] == "model"].set_index("score")
    table = sdata["predicted"]
    del table.layers["predicted_lower"], table.layers["predicted_upper"]  # the other maps have no intervals
    measured, xy = sdata["observed"][table.obs_names], table.obsm["spatial"]
    observed = predictor.target.normalize(measured.X, measured.var_names.get_indexer(predictor.genes))
    place = stp.tl.fit(sdata, "knn_spatial", config={"progress": False}, shapes_key=train, genes=predictor.genes)
    stp.tl.predict(sdata, place, shapes_key=test, key_added="place", progress=False)
    maps = {
        "mean profile": np.tile(predictor.train_mean, (len(table), 1)),
        "place alone": sdata["place"].X,
        "measured, blurred": blur(observed, xy),
        "measured, blurred twice": blur(blur(observed, xy), xy),
    }
    if name == "synthetic":
        maps["true map"] = measured[:, predictor.genes].layers["rate"]
    for label, values in maps.items():
        table.X = np.asarray(values, np.float32)
        found[label] = stp.tl.evaluate(sdata, **given)
    rows = {label: stp.tl.summary(scores).loc["model"] for label, scores in found.items()}
    n_spots = int(found["model"].attrs["n_spots"])
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "spots": n_spots,
        "genes": len(predictor.genes),
        "ceiling": float(found["model"].attrs["ceiling"]),
        "n_blocks": intervals.attrs["n_blocks"],
        "intervals": {
            score: of_model.loc[score, ["low", "high"]].tolist() for score in SHOWN if score in of_model.index
        },
        "moran_observed": float(found["model"]["moran_observed"].mean()),
        "rows": {
            label: {score: float(row[score]) for score in SHOWN if score in row and np.isfinite(row[score])}
            | {"moran_predicted": float(found[label]["moran_predicted"].mean())}
            for label, row in rows.items()
        },
    }


def page(result):
    """The results as a page."""
    table = {score.name: score for score in SUMMARY_SCORES}
    lines = [
        """# What a model, a constant and a blurred map score

By `python benchmarks/scores.py`. Every column is one prediction of the same test slide. ↓: lower is better. The best
score of a row is bold. In brackets: 95 % interval of the model's score, by `stp.tl.score_intervals`.

| column | prediction |
|---|---|"""
    ]
    lines += [f"| {label} | {text} |" for label, text in ROWS.items()]
    for name, found in result.items():
        labels = [label for label in ROWS if label in found["rows"]]
        smoothness = ", ".join(
            f"{label} {found['rows'][label]['moran_predicted']:.2f}" for label in labels if label != "mean profile"
        )
        lines += [
            "",
            f"## {HEADS[name]}",
            "",
            (
                f"{found['date']}: {found['spots']} spots, {found['genes']} genes, noise ceiling "
                f"{found['ceiling']:.2f}; Moran's I {found['moran_observed']:.2f} as measured (mean over genes), "
                f"and {smoothness}. Intervals are from {found['n_blocks']} squares of spots."
            ),
            "",
            f"| score | {' | '.join(labels)} |",
            f"|---|{'--:|' * len(labels)}",
        ]
        for score in SHOWN:
            values = {label: found["rows"][label][score] for label in labels if score in found["rows"][label]}
            if values:
                lower = table[score].higher_is_better is False
                best = f"{(min if lower else max)(values.values()):.2f}"
                cells = [f"{values[label]:.2f}" if label in values else "–" for label in labels]
                cells = [f"**{cell}**" if cell == best else cell for cell in cells]
                low, high = found["intervals"][score]
                if np.isfinite(low):
                    cells[labels.index("model")] += f" ({low:.2f} to {high:.2f})"
                lines.append(f"| `{score}`{' ↓' if lower else ''} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main():
    """Measure one data set and write the page of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=HEADS, default="synthetic", help="which slides")
    parser.add_argument("--pathways", help="GMT file with gene sets")
    parser.add_argument("--out", type=Path, default=HERE, help="folder for scores.json and scores.md")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*was changed since it was predicted")  # on purpose
    file = options.out / "scores.json"
    result = json.loads(file.read_text()) if file.is_file() else {}
    result[options.data] = measure(options.data, options.pathways)
    result = {name: result[name] for name in HEADS if name in result}
    file.write_text(json.dumps(result, indent=1) + "\n")
    (options.out / "scores.md").write_text(page(result))
    print(page(result))


if __name__ == "__main__":
    main()
