"""Copy the results of `run.py` to the pages of the models: `python benchmarks/zoo/pages.py`."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
PAGES = HERE.parents[1] / "docs" / "models"
MARK = "<!-- measured here: rows of the comparison of all models -->\n"
END = "<!-- end of what was measured -->\n"
LABELS = {
    "backbones": ("resnet50", "vit_b_16", "swin_t", "convnext_t", "crossvit_small"),
    "baselines": ("mean_profile", "ridge_color", "knn_spatial"),
    "bleep": ("bleep",),
    "deepspace": ("deepspace",),
    "deepspot": ("deepspot",),
    "frozen_encoders": (
        "encoder_ridge", "encoder_mlp", "encoder_ridge, ImageNet", "encoder_mlp, ImageNet",
    ),
    "hist2st": ("hist2st",),
    "histogene": ("histogene",),
    "istar": ("istar",),
    "m2ort": ("m2ort",),
    "m2ost": (
        "m2ost_ridge", "m2ost_encoder, ImageNet", "m2ost", "m2ost_plain_embedding", "m2ost_joint_attention",
        "m2ost_concat", "m2ost_dense", "m2ost, scale 0", "m2ost, scale 1", "m2ost, scale 2", "m2ost_reference",
    ),
    "stflow": ("stflow",),
    "stnet": ("stnet",),
    "triplex": ("triplex",),
}  # fmt: skip
"""Rows of the comparison, by page."""
INTRODUCTION = """Gene-wise PCC (log1p CP10k) on held-out slides, measured by `benchmarks/zoo/run.py` with
configurations that are small enough for a CPU. [Results](../results.md) lists all models, with intervals and costs.
"""


def block(tables, page):
    """The rows of a page, with the best row and the noise ceiling of each data set."""
    known = [label for label in LABELS[page] if any(label in each["rows"] for each in tables.values())]
    sizes = {label: row["configuration"] for each in tables.values() for label, row in each["rows"].items()}
    best = {
        name: max(each["rows"], key=lambda label: each["rows"][label]["gene_pearson"]) for name, each in tables.items()
    }
    lines = [
        INTRODUCTION,
        line("", "configuration", tables),
        "|---|---|" + "--:|" * len(tables),
        *(line(label, sizes[label], [score(each, label) for each in tables.values()]) for label in known),
        line("best row", "", [f"{best[name]}: {score(each, best[name])}" for name, each in tables.items()]),
        line("noise ceiling", "", [f"{each['ceiling']:.3f}" for each in tables.values()]),
    ]
    return "\n".join(lines) + "\n"


def line(label, configuration, values):
    """Format a row of a table."""
    return f"| {label} | {configuration} | {' | '.join(values)} |"


def score(table, label):
    """Format one score."""
    return f"{table['rows'][label]['gene_pearson']:.3f}" if label in table["rows"] else "–"


def with_block(text, tables, page):
    """Replace the block of a page."""
    head, rest = text.split(MARK)
    return head + MARK + block(tables, page) + END + rest.split(END)[-1]


def main():
    """Update all pages."""
    tables = json.loads((HERE / "zoo.json").read_text(encoding="utf-8"))
    for page in LABELS:
        path = PAGES / f"{page}.md"
        path.write_text(with_block(path.read_text(encoding="utf-8"), tables, page), encoding="utf-8")


if __name__ == "__main__":
    main()
