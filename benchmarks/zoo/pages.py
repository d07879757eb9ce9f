"""Write `zoo.md` and the rows on the pages of the models from `zoo.json`: `python benchmarks/zoo/pages.py`."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
PAGES = HERE.parents[1] / "docs" / "models"
MARK = "<!-- measured here: rows of the comparison of all models -->\n"
END = "<!-- end of what was measured -->\n"
LABELS = {
    "backbones": ("resnet50", "vit_b_16", "swin_t", "convnext_t", "crossvit_small"),
    "baselines": ("mean_profile", "ridge_color", "ridge_statistics", "nuclei_ridge", "knn_spatial"),
    "bleep": ("bleep",),
    "deepspace": ("deepspace",),
    "deepspot": ("deepspot",),
    "frozen_encoders": (
        "encoder_ridge", "encoder_mlp", "encoder_ridge, ImageNet", "encoder_mlp, ImageNet",
    ),
    "hexst": ("hexst",),
    "hist2st": ("hist2st",),
    "histogene": ("histogene",),
    "istar": ("istar",),
    "m2ort": ("m2ort",),
    "m2ost": (
        "m2ost_statistics", "m2ost_ridge", "m2ost_encoder, ImageNet", "m2ost_tiny", "m2ost", "m2ost_plain_embedding",
        "m2ost_joint_attention", "m2ost_concat", "m2ost_dense", "m2ost, scale 0", "m2ost, scale 1", "m2ost, scale 2",
        "m2ost_reference",
    ),
    "stflow": ("stflow",),
    "stnet": ("stnet",),
    "triplex": ("triplex",),
}  # fmt: skip
"""Rows of the comparison, by page."""
NAMES = {
    "her2st": "one tumour (her2st)",
    "mob_2k": "one mouse (MOB)",
    "patients": "two patients (her2st)",
    "her2st_select": "one tumour, without C5 (her2st)",
}
"""Data sets by what is held out of them."""
SCORES = {
    "rank": "rank", "gene_pearson": "gene-wise PCC", "n_seeds": "seeds", "seed_range": "range over seeds",
    "interval": "95 % interval", "difference": "minus best baseline", "share_of_ceiling": "share of ceiling",
}  # fmt: skip
OTHER_SCORES = {
    "gene_pearson_top50": "top 50", "best50": "best 50", "spot_pearson": "spot-wise PCC", "rmse": "RMSE",
    "moran_agreement": "Moran agreement",
}  # fmt: skip
COSTS = {
    "parameters": "parameters", "macs": "MACs per spot", "fit_s": "fit (s)", "peak_memory_mib": "memory (MiB)",
}  # fmt: skip
RATES = {"train_spots_per_s": "training spots/s", "predict_spots_per_s": "prediction spots/s"}
RANK = """The range over seeds is the largest mean score of a row minus the smallest. Two rows are told apart if their
scores differ by more than the larger of their two ranges; a row that ran once takes the largest range of the table. The
column of ranks gives the best and the worst rank that a row may have."""
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
        line("", "configuration", [NAMES[name] for name in tables]),
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


def comparison(tables):
    """Format `zoo.md`; the documentation includes the part of each data set, and the part after `<!-- cost -->`."""
    any_table = next(iter(tables.values()))
    text = [
        "# Comparison of all models", "",
        f"CPU, threads: {any_table['threads']}. Made by `python benchmarks/zoo/run.py`;",
        "configurations and training recipes are in `rows.py`. All models are small enough to train on two CPU cores:",
        "the scores are those of these configurations, not of the published ones, which use GPUs and pretrained",
        "weights. Times include the effect of other processes on the machine. The interval is the 95 % bootstrap",
        "interval of the gene-wise PCC. Fast models ran with three seeds, those of about three minutes a cell and more",
        "with one: the column of seeds says which.",
        "Networks train in bfloat16 where the processor has it, as the default of `precision` chooses.",
        "",
    ]  # fmt: skip
    for name, each in tables.items():
        text += [f"<!-- {name} -->", "", *scores_of(name, each), f"<!-- end of {name} -->", ""]
    text += ["<!-- cost -->", ""]
    for name, each in tables.items():
        text += [f"## Cost on {NAMES[name]}", "", *folded(lines_of(each["rows"], COSTS, cost)), ""]
        text += [f"### Speed on {NAMES[name]}", "", *folded(lines_of(each["rows"], RATES, cost)), ""]
    configurations = {
        label: each["rows"][label]["configuration"]
        for each in tables.values()
        for label in dict.fromkeys(run["model"] for run in each["runs"])
        if label in each["rows"]
    }
    text += ["## Configurations", "", "| model | configuration |", "|---|---|"]
    return "\n".join([*text, *(f"| {label} | {note} |" for label, note in configurations.items())]) + "\n"


def scores_of(name, each):
    """Format the scores of all models on one data set."""
    ranks = ranks_of(each["rows"])
    rows = {
        label: row | {"interval": interval(row), "rank": "–\N{WORD JOINER}".join(map(str, ranks[label]))}
        for label, row in each["rows"].items()
    }
    leak = "**Leakage: test and training sections are of the same patients.** " if each["leaks"] else ""
    known = any(row["interval"] for row in rows.values())  # of two units there is none
    spread = f"; intervals over {count(each['n_units'], each['unit'])}" if known else ""
    scores = {key: name for key, name in SCORES.items() if known or key != "interval"}
    slides = {slide: slide for slide in next(iter(each["sections"].values()))}
    first = [label for label in rows if ranks[label][0] == 1]
    text = [
        f"## All models on {NAMES[name]}", "",
        f"{each['about']}", "",
        f"{leak}{each['n_folds']} folds{spread}.",
        f"Best baseline: {each['baseline']}; noise ceiling {each['ceiling']:.3f}. {best_rows(first)}", "",
        RANK, "",
        *lines_of(rows, scores), "",
        *dates(rows), "",
        f"### Other scores on {NAMES[name]}", "", *folded(lines_of(rows, OTHER_SCORES)), "",
        f"### By held-out section of {NAMES[name]}", "",
        *folded(lines_of(each["sections"], slides), ", gene-wise PCC"), "",
    ]  # fmt: skip
    failed = [f"- {one['model']}, fold {one['fold']}: {one['error']}" for one in each["failed"]]
    return text + (["Failed:", "", *failed, ""] if failed else [])


def ranks_of(rows):
    """The best and the worst rank that each row may have, given how far seeds move the scores."""
    known = [row["seed_range"] for row in rows.values() if row["seed_range"] is not None]
    widths = {label: max(known, default=0.0) if row["seed_range"] is None else row["seed_range"]
              for label, row in rows.items()}  # fmt: skip
    found = {}
    for label, row in rows.items():
        gaps = {
            other: row["gene_pearson"] - each["gene_pearson"]
            for other, each in rows.items()
            if abs(row["gene_pearson"] - each["gene_pearson"]) > max(widths[label], widths[other])
        }
        n_better = sum(gap < 0 for gap in gaps.values())
        n_worse = len(gaps) - n_better
        found[label] = tuple(dict.fromkeys((n_better + 1, len(rows) - n_worse)))
    return found


def best_rows(first):
    """The best row, and those from which it is not told apart."""
    others = f", not told apart from {', '.join(first[1:])}" if first[1:] else ""
    return f"Best row: **{first[0]}**{others}."


def dates(rows):
    """When each row was measured, in one sentence."""
    by_date = {}
    for label, row in rows.items():
        by_date.setdefault(row["date"], []).append(label)
    newest = max(by_date)
    older = "".join(f" {', '.join(by_date[date])}: {date}." for date in sorted(by_date) if date != newest)
    return [f"Measured {newest}.{older}"]


def count(number, noun):
    """Format a number of things."""
    return f"{number} {noun}" + "s" * (number != 1)


def folded(table, scores=""):
    """Put a table where a click opens it."""
    return ["<details>", f"<summary>All models{scores}</summary>", "", *table, "", "</details>"]


def lines_of(rows, columns, written=None):
    """Format rows, given by their label, as a table."""
    written = written or number
    yield "| model | " + " | ".join(columns.values()) + " |"
    yield "|---|" + "--:|" * len(columns)
    for label, row in rows.items():
        yield f"| {label} | " + " | ".join(written(row[key]) for key in columns) + " |"


def number(value):
    """Format a number; text stays as it is."""
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, int):
        return str(value)
    if abs(value) >= 1e6:
        return f"{value / 1e6:.2f} M"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def cost(value):
    """Format a count, a time or a rate; tenths below ten."""
    if not value or 10 <= value < 1e6:
        return "–" if value is None else f"{value:,.0f}"
    return f"{value / 1e6:.2f} M" if value > 10 else f"{value:.1f}"


def interval(row):
    """Format the bounds of a bootstrap interval."""
    return None if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}".replace(" ", "\N{NO-BREAK SPACE}")


def main():
    """Update all pages."""
    tables = json.loads((HERE / "zoo.json").read_text(encoding="utf-8"))
    (HERE / "zoo.md").write_text(comparison(tables), encoding="utf-8")
    for page in LABELS:
        path = PAGES / f"{page}.md"
        path.write_text(with_block(path.read_text(encoding="utf-8"), tables, page), encoding="utf-8")


if __name__ == "__main__":
    main()
