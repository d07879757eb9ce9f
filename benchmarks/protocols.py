"""One model under every protocol: how far gene sets, splits and labels move a score. Needs her2st and MOB.

    python benchmarks/protocols.py [--model ridge_statistics]

Writes protocols.json, protocols.md and docs/images/protocols.png.
"""

from __future__ import annotations

import argparse
import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from embeddings import mob_2k

import stpredict as stp

HERE = Path(__file__).parent
HEADLINES = ("gene_pearson", "best10", "best50", "best200", "spot_pearson")
PROTOCOLS = (None, "hest", "m2ost_code", "hmhvg", "spared", "spared_imputed", "smoothed")
PUBLISHED = {
    "hmhvg": {"best10": (0.773, 0.862), "best50": (0.714, 0.817), "best200": (0.565, 0.757)},
    "spared": {"gene_pearson": (0.009, 0.423), "spot_pearson": (0.599, 0.770)},
}
"""Lowest and highest published score (DriftST, arXiv 2607.04740, Table 2, HER2ST; HEXST, arXiv 2605.04682, Table 1)."""


def score(sdata, model, protocol):
    """Scores of a model and the mean profile under a protocol, with what the protocol leaks."""
    with TemporaryDirectory() as folder:
        kwargs = {"protocol": protocol} if protocol else {"by": "section"}
        found = stp.tl.benchmark(sdata, [model], save_dir=folder, progress=False, allow_leakage=True, **kwargs)
        summary = found.summary()
        columns = [*HEADLINES, "share_of_ceiling"]
        rows = {name: {column: float(summary.loc[name, column]) for column in columns}
                for name in (model, "mean_profile")}  # fmt: skip
        return {**rows, "n_genes": int(found.scores["gene"].nunique()), "note": summary.attrs["protocol_note"]}


def page(result):
    """The results as a page."""
    model, lines = result["model"], []
    lines.append(f"""# One model under every protocol

{result["date"]}. `{model}` on four sections of one patient (her2st C2 to C5) and on MOB1 and MOB2 (serial sections of
one bulb), by `python benchmarks/protocols.py`. The model is the same in all rows; genes, split and labels are those of
the protocol. What each protocol leaks or hides is below the tables. `stpredict` is the way of this package: 250 genes
chosen on training sections, log1p CP10k, one section held out.
""")
    for name, rows in result["data"].items():
        lines.append(f"## {name}\n")
        lines.append("| protocol | genes | gene-wise r | best 10 | best 50 | best 200 | spot-wise r | of a constant |")
        lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
        for protocol, found in rows.items():
            values = " | ".join(f"{found[model][column]:.3f}" for column in HEADLINES)
            constant = found["mean_profile"]["spot_pearson"]
            lines.append(f"| {protocol} | {found['n_genes']} | {values} | {constant:.3f} |")
        lines.append("")
    lines.append("## Published scores, to stand beside\n")
    lines.append("| protocol | score | lowest and highest published |\n|---|---|---|")
    for protocol, scores in PUBLISHED.items():
        for column, (low, high) in scores.items():
            lines.append(f"| {protocol} | {column} | {low:.3f} to {high:.3f} |")
    lines.append("""
`hmhvg`: six models on HER2ST, DriftST (arXiv 2607.04740), Table 2. `spared`: six models, means over seven data sets,
HEXST (arXiv 2605.04682), Table 1; labels imputed, splits as published.

## What each protocol leaks or hides
""")
    rows = next(iter(result["data"].values()))
    lines += [f"- `{protocol}`: {found['note']}" for protocol, found in rows.items() if found["note"]]
    return "\n".join(lines) + "\n"


def draw(result, path):
    """One row per protocol: the mean over genes, the best 50, and the published range."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    model, names = result["model"], [protocol or "stpredict" for protocol in PROTOCOLS]
    figure, axes = plt.subplots(1, len(result["data"]), figsize=(9, 3.4), sharey=True, layout="constrained")
    for ax, (title, rows) in zip(axes, result["data"].items(), strict=True):
        for protocol, found in rows.items():
            y = names.index(protocol)
            published = PUBLISHED.get(protocol, {}) if "her2st" in title else {}
            low_high = published.get("best50") or published.get("gene_pearson")
            if low_high:
                ax.plot(low_high, [y, y], color="0.75", linewidth=7, solid_capstyle="butt", zorder=0)
            ax.plot(found[model]["gene_pearson"], y, "o", color="#0072B2")
            ax.plot(found[model]["best50"], y, "D", color="#E69F00", markersize=5)
            ax.plot(found["mean_profile"]["spot_pearson"], y, "x", color="0.4")
        ax.set(title=title, xlabel="Pearson r", xlim=(0, 1))
        ax.set_yticks(range(len(names)), names)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    handles = [
        plt.Line2D([], [], marker="o", linestyle="", color="#0072B2", label="gene-wise, all genes"),
        plt.Line2D([], [], marker="D", linestyle="", color="#E69F00", label="gene-wise, best 50 genes"),
        plt.Line2D([], [], marker="x", linestyle="", color="0.4", label="spot-wise, of a constant"),
        plt.Line2D([], [], color="0.75", linewidth=7, label="published (hmhvg: best 50; spared: all genes)"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=200, facecolor="white")


def main():
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="ridge_statistics")
    parser.add_argument("--page-only", action="store_true", help="draw and write the page from the JSON")
    args = parser.parse_args()
    file = HERE / "protocols.json"
    if not args.page_only:
        logging.getLogger("stpredict").setLevel(logging.ERROR)
        data = {"her2st, C2 to C5": stp.datasets.her2st(["C2", "C3", "C4", "C5"]), "MOB1 and MOB2": mob_2k()[0]}
        result = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "model": args.model, "data": {}}
        for name, sdata in data.items():
            rows = result["data"].setdefault(name, {})
            for protocol in PROTOCOLS:
                if protocol == "m2ost_code" and name.startswith("MOB"):
                    continue  # it needs four sections
                rows[protocol or "stpredict"] = score(sdata, args.model, protocol)
                print(name, protocol, rows[protocol or "stpredict"][args.model], flush=True)
        file.write_text(json.dumps(result, indent=1) + "\n")
    result = json.loads(file.read_text())
    (HERE / "protocols.md").write_text(page(result))
    draw(result, HERE.parent / "docs" / "images" / "protocols.png")
    print(page(result))


if __name__ == "__main__":
    main()
