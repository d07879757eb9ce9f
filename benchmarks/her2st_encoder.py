"""Gain of a frozen encoder in an ensemble with M2OST: its weight is compared on C2 to C4 of her2st, C5 is scored.

    python benchmarks/her2st_encoder.py --weights FILE [--seeds 3] [--out benchmarks] [--models stpredict-benchmark]

Needs the sections (from ``STPREDICT_DATA_DIR`` or the internet) and the ImageNet weights of EfficientNet-Lite0 that
``zoo/weights.py`` writes. Weights of the encoder are compared by leave-one-section-out cross-validation on C2 to
C4; C5 is only scored, with the default. Predictors of an earlier run in ``--models`` are reused.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from her2st_c5 import COLUMNS, select_members
from her2st_sections import TEST, TRAIN

import stpredict as stp

HERE = Path(__file__).parent
ENCODER = "tf_efficientnet_lite0"
DEFAULT_SHARE = 0.5
SHARES = (0.0, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0)


def load_or_fit(train, place, weights, n_members):
    """Load the predictor of an earlier run, or train one."""
    if place.is_dir():
        return stp.tl.Predictor.load(place)
    return stp.tl.fit(
        stp.datasets.her2st(train),
        "m2ost_encoder",
        config=stp.tl.FitConfig(validation="none", n_members=n_members),
        model_options={"encoder_ridge": {"encoder": ENCODER, "weights": weights}},
        genes=stp.datasets.gene_panel("her2st"),
        save_dir=place,
    )


def predict_with_share(test, predictor, share):
    """Predicted expression of a section for one weight of the encoder."""
    rest = 1 - predictor.models["encoder_ridge"]
    members = tuple(
        replace(member, weight=share if member.model == "encoder_ridge" else (1 - share) * member.weight / rest)
        for member in select_members(predictor).members
    )
    stp.tl.predict(test, replace(predictor, members=members), n_views=8, progress=False)
    return test["predicted"].X


def score_values(test, values):
    """Scores of the given predicted values, and the noise ceiling."""
    test["predicted"].X = values
    found = stp.tl.evaluate(test)
    return stp.tl.summary(found).loc["model"].to_dict(), float(found["ceiling"].mean())


def compare_shares(weights, folder):
    """Gene-wise correlation by held-out section and weight of the encoder."""
    scores = {}
    for name in TRAIN:
        test, others = stp.datasets.her2st([name]), [other for other in TRAIN if other != name]
        predictor = load_or_fit(others, folder / f"encoder-without-{name}", weights, 1)
        network, encoder = (predict_with_share(test, predictor, share) for share in (0.0, 1.0))
        scores[name] = {
            share: score_values(test, ((1 - share) * network + share * encoder).astype(np.float32))[0]["gene_pearson"]
            for share in SHARES
        }
    return scores


def score_test_section(weights, folder, n_seeds):
    """Rows of the table of C5, and the noise ceiling."""
    test = stp.datasets.her2st([TEST])
    predictor = load_or_fit(TRAIN, folder / "encoder-C5", weights, n_seeds)
    rows, whole = {}, []
    for i in range(len(predictor.members) // len(predictor.models)):
        whole.append(predict_with_share(test, select_members(predictor, seed=i), DEFAULT_SHARE))
        rows[f"M2OST (tiny) and encoder, seed {i}"], ceiling = score_values(test, whole[-1])
    alone = predict_with_share(test, select_members(predictor, seed=0), 1.0)
    rows["encoder alone (ridge on its features)"], _ = score_values(test, alone)
    title = f"M2OST (tiny) and encoder, {len(whole)} seeds averaged"
    rows[title], _ = score_values(test, np.mean(whole, axis=0, dtype=np.float32))
    return rows, ceiling


def markdown(results):
    """Format the results as a page."""
    scores = pd.DataFrame(results["left_out"])
    rows = pd.DataFrame.from_dict(results["rows"], orient="index")[COLUMNS]
    share = rows["gene_pearson"] / results["ceiling"]
    return "\n".join([
        "# M2OST and a frozen encoder (her2st)", "",
        f"{results['date']}; `m2ost_encoder` with EfficientNet-Lite0 (ImageNet), made by",
        "`python benchmarks/her2st_encoder.py --weights FILE`. All sections are serial sections of one tumour.", "",
        "Gene-wise PCC (log1p CP10k) of each of C2 to C4, trained on the other two, by the weight of the encoder",
        "regression: 0 is `m2ost_ridge`, 1 is ridge regression on the encoder's features, 0.5 the default.", "",
        "| weight | " + " | ".join(scores.columns) + " | mean |", "|---|" + "---|" * (len(scores.columns) + 1),
        *(f"| {name} | " + " | ".join(f"{v:.4f}" for v in row) + f" | {row.mean():.4f} |"
          for name, row in scores.iterrows()), "",
        f"{TEST}, trained on {', '.join(TRAIN)}, default weight; noise ceiling {results['ceiling']:.3f}:", "",
        "| | gene-wise PCC | share of ceiling | top 50 variable | best 50 | spot-wise PCC | RMSE per spot |",
        "|---|---|---|---|---|---|---|",
        *(f"| {name} | {row.iloc[0]:.3f} | {share[name]:.3f} | " + " | ".join(f"{v:.3f}" for v in row.iloc[1:]) + " |"
          for name, row in rows.iterrows()), "",
    ])  # fmt: skip


def main():
    """Compare the weights, score C5 and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="file that zoo/weights.py wrote")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--models", type=Path, default=Path("stpredict-benchmark"))
    given = parser.parse_args()
    scores = compare_shares(given.weights, given.models)
    print(pd.DataFrame(scores))
    rows, ceiling = score_test_section(given.weights, given.models, given.seeds)
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"torch": torch.__version__, "stpredict": stp.__version__},
        "left_out": {name: {str(share): value for share, value in row.items()} for name, row in scores.items()},
        "rows": rows,
        "ceiling": ceiling,
    }
    (given.out / "her2st_encoder.json").write_text(json.dumps(results, indent=1))
    (given.out / "her2st_encoder.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
