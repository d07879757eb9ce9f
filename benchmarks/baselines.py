"""Models without a network, in closed form: colour, texture, nuclei, place, and place with image. Needs her2st and MOB.

    python benchmarks/baselines.py

Writes baselines.json and baselines.md. The data sets and folds are those of `zoo/run.py`.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import stpredict as stp

HERE = Path(__file__).parent
sys.path.append(str(HERE / "zoo"))
from run import DATA  # noqa: E402  (of the folder that was added above)

MODELS = {
    "ridge_statistics": "ridge_statistics",
    "nuclei_ridge": "nuclei_ridge",
    "knn_spatial": "knn_spatial",
    "knn_spatial + ridge_statistics": ["knn_spatial", "ridge_statistics"],
    "nuclei_ridge + ridge_statistics": ["nuclei_ridge", "ridge_statistics"],
}
HEADS = {
    "her2st": "C2 to C5, sections of one tumour",
    "mob_2k": "MOB1 and MOB2, sections of one bulb",
    "patients": "patients C and A",
}


def main():
    """Measure and write."""
    logging.getLogger("stpredict").setLevel(logging.ERROR)
    result = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "data": {}}
    for name, load in DATA.items():
        sdata, options = load()
        with TemporaryDirectory() as folder:
            summary = stp.tl.benchmark(sdata, MODELS, save_dir=folder, progress=False, **options).summary()
        result["data"][name] = {
            model: {"gene_pearson": float(row["gene_pearson"]), "share_of_ceiling": float(row["share_of_ceiling"])}
            for model, row in summary.iterrows()
        }
        print(name, result["data"][name], flush=True)
    (HERE / "baselines.json").write_text(json.dumps(result, indent=1) + "\n")
    (HERE / "baselines.md").write_text(page(result))
    print(page(result))


def page(result):
    """The results as a page."""
    lines = [f"""# Models without a network

{result["date"]}; gene-wise Pearson correlation on held-out sections or patients and, in brackets, its
share of the noise ceiling, by `python benchmarks/baselines.py`. All rows are in closed form and have no
seed. `knn_spatial` knows the position on the section alone, which means something between serial sections
only; `nuclei_ridge` knows counts, sizes, darkness and distances of nuclei, `ridge_statistics` colour and
texture. A sum of two names is their mean.

| model | {" | ".join(HEADS[name] for name in result["data"])} |
|---|{"--:|" * len(result["data"])}"""]  # fmt: skip
    for model in ("mean_profile", "ridge_color", *MODELS):
        cells = (
            f"{found[model]['gene_pearson']:.3f} ({found[model]['share_of_ceiling']:.2f})"
            for found in result["data"].values()
        )
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
