"""The page of `benchmarks/domains.py`: tables of its results, beside published figures and baselines."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime

import pandas as pd
import torch

METHODS = ("coordinates", "image", "expression", "smoothed", "joint", "staig", "mcgae")
SLIDES = {
    "Rep11": "mouse olfactory bulb, legacy ST, 262 spots, five layers (Ståhl et al. 2016)",
    "151510": "human cortex, Visium, 500 genes, image of 11 µm per pixel, six layers and white matter (Maynard 2021)",
    "A1": "HER2-positive breast cancer, legacy ST, five classes, one with 83 % of the spots (Andersson et al. 2021)",
    "H1": "another patient of the same study, six classes; no image",
}
BEFORE = (
    ("Rep11", "expression", "kmeans", "0.461 ± 0.002"),
    ("Rep11", "joint", "gmm", "0.555 ± 0.053 [0.521, 0.660]"),
    ("151510", "expression", "gmm", "0.404 ± 0.008"),
    ("151510", "smoothed", "kmeans", "0.428 ± 0.000"),
    ("151510", "smoothed", "gmm", "0.475 ± 0.028 [0.450, 0.510]"),
    ("A1", "expression", "kmeans", "0.623 ± 0.029"),
)
"""Adjusted Rand index of plain baselines that were measured before with other code: slide, method, clusterer."""
PUBLISHED = (
    ("STAIG, its paper (as transcribed from the supplement by others)", "0.69", "–", "–", "Nat Commun 16:1067, 2025"),
    ("STAIG, a user with the authors' data and notebook", "0.577", "–", "–", "issue 8 of y-itao/STAIG"),
    ("STAIG, re-implemented, other image features", "0.498", "–", "–", "GeoPatch-Multimodal-Integration"),
    ("MCGAE, its paper", "not readable", "–", "–", "Brief Bioinform 26:bbae608, 2025"),
    ("ADEPT", "0.480", "0.055", "0.186", "neutral benchmark"),
    ("STAGATE", "0.452", "0.117", "0.285", "neutral benchmark"),
    ("SpaGCN", "0.444", "0.098", "0.322", "neutral benchmark"),
    ("GraphST", "0.443", "0.266", "0.187", "neutral benchmark"),
    ("SEDR", "0.379", "0.093", "0.211", "neutral benchmark"),
    ("CCST", "0.373", "0.118", "0.239", "neutral benchmark"),
    ("DeepST (image)", "0.458", "0.119", "0.263", "neutral benchmark"),
    ("ConGI (image)", "0.324", "0.047", "0.467", "neutral benchmark"),
    ("conST (image)", "0.257", "0.110", "0.173", "neutral benchmark"),
)
"""Published adjusted Rand indices: method, 151510, A1, H1, source."""


def write_page(folder, seeds, out, speed):
    """Write the page, and its tables as JSON."""
    rows = kept_rows(SLIDES, METHODS, seeds, folder)
    joint = folder / "joint.csv"
    tables = {
        "rows": rows,
        "plain": kept_rows(SLIDES, ["plain"], seeds, folder),
        "predicted": kept_rows(["from_image_predicted", "from_image_observed"], METHODS, seeds, folder),
        "joint": pd.read_csv(joint) if joint.is_file() else None,
    }
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{torch.get_num_threads()} threads, {platform.machine()}",
        "seeds": seeds,
        "slides": [name for name in SLIDES if name in set(rows["slide"])],
        "speed": speed,
    }
    saved = {name: table.round(4).to_dict(orient="list") for name, table in tables.items() if table is not None}
    (out / "domains.json").write_text(json.dumps(results | saved, indent=1))
    (out / "domains.md").write_text(page(results, **tables), encoding="utf-8")


def kept_rows(names, kinds, seeds, folder):
    """Tables of some slides and kinds that are in the folder, with the name of the slide."""
    found = [
        pd.read_csv(path).assign(slide=name)
        for name in names
        for kind in kinds
        if (path := folder / f"{name}-{kind}-{seeds}.csv").is_file()
    ]
    return pd.concat(found, ignore_index=True) if found else None


def line(cells):
    """A line of a markdown table."""
    return f"| {' | '.join(cells)} |"


def spread(values):
    """Mean, standard deviation and range."""
    return f"{values.mean():.3f} ± {values.std():.3f} [{values.min():.3f}, {values.max():.3f}]"


def method_table(rows, score, columns, column):
    """Methods by slides, or by sources."""
    names = [name for name in columns if name in set(rows[column])]
    yield line(["method", *names])
    yield "|---|" + "---|" * len(names)
    for method in METHODS:
        cells = []
        for name in names:
            values = rows.loc[(rows["method"] == method) & (rows[column] == name), score]
            cells.append(spread(values) if len(values) else "–")
        yield line([method, *cells])


def page(results, rows, plain, predicted, joint):
    """Format the results."""
    main = rows[(rows["n_domains"] == rows["n_labels"]) & (rows["refine"] == 0)]
    gmm, kmeans, leiden = (main[main["clusterer"] == name] for name in ("gmm", "kmeans", "leiden"))
    voted = rows[rows["refine"] == 6]
    chance = [f"{name} {part['chance'].mean():.3f}" for name, part in gmm.groupby("slide", sort=False)]
    text = [
        "# Measurements of spatial domains", "",
        f"{results['date']}; {results['device']}. Made by `benchmarks/domains.py`.",
        f"Each cell is the mean of {results['seeds']} seeds ± their standard deviation, and their range. The number of",
        "domains is the number of label classes, which a user does not know. One set of options for all slides; they",
        "were looked at on Rep11 only. Spots without a label take part in clustering and are not scored.", "",
        *(f"- {name}: {SLIDES[name]}" for name in results["slides"]), "",
        "## Adjusted Rand index, tied Gaussian mixture, no refinement", "",
        *method_table(gmm, "ari", SLIDES, "slide"), "",
        "## Adjusted Rand index, k-means, no refinement", "",
        *method_table(kmeans, "ari", SLIDES, "slide"), "",
        "## Adjusted Rand index, Leiden, no refinement", "",
        "Resolution by bisection until the number of clusters is that of the label classes.", "",
        *method_table(leiden, "ari", SLIDES, "slide"), "",
        "## Published figures", "",
        *published(gmm), "",
        "## Normalised mutual information, tied Gaussian mixture", "",
        *method_table(gmm, "nmi", SLIDES, "slide"), "",
        "## After a vote of the six nearest spots (tied Gaussian mixture)", "",
        *method_table(voted, "ari", SLIDES, "slide"), "",
        "## Share of the held-out half of the molecules", "",
        *method_table(gmm, "held_out_share", SLIDES, "slide"), "",
        "## Other numbers of domains (k-means, seed 0)", "",
        *other_numbers(rows), "",
        "## Chance", "",
        "Adjusted Rand index after the map of domains was rotated and shifted over the slide, mean of all runs of the",
        f"first table: {', '.join(chance)}.", "",
        "## Plain baselines, as measured before", "",
        *baselines(main, plain), "",
    ]  # fmt: skip
    if predicted is not None:
        own = predicted[
            (predicted["refine"] == 0) & (predicted["clusterer"] == "kmeans") & (predicted["n_domains"] == 5)
        ]
        text += [
            "## Layers of a section from its image alone", "",
            f"Rep11, predicted by `{predicted['model'].iloc[0]}` that was trained on MOB1 and MOB2 (another laboratory",
            f"and array), {predicted['n_genes'].iloc[0]} genes; adjusted Rand index with the layers of the experts,",
            "k-means. The column *predicted* has no measurement of Rep11; its rows *image* and *coordinates* have no",
            "prediction either. The column *observed* has the counts of Rep11, of the genes in common.", "",
            *method_table(own, "ari", ("predicted", "observed"), "source"), "",
        ]  # fmt: skip
    if joint is not None:
        text += [
            "## Two sections together", "",
            "MOB1 and MOB2, five domains, one seed. Local inverse Simpson index (LISI): of slides, within domains (2",
            "is perfect mixing), and of domains (1 is perfect separation).", "",
            line(list(joint.columns)), "|---|" + "--:|" * (joint.shape[1] - 1),
            *(line([row.iloc[0], *(f"{value:.2f}" for value in row.iloc[1:])]) for _, row in joint.iterrows()), "",
        ]  # fmt: skip
    if results["speed"]:
        text += [
            "## Time and memory of STAIG", "",
            "Made-up expression on a square lattice, 512 negatives, image clusters; each row in its own process. Other",
            "work ran beside it, so processor time counts, not seconds.", "",
            line(["spots", "epochs", "seconds", "CPU seconds an epoch", "CPU minutes for 100 epochs",
                  "peak MiB", "of it added MiB", "threads"]),
            "|--:|--:|--:|--:|--:|--:|--:|--:|",
            *(line([f"{row['spots']:,}", f"{row['epochs']}", f"{row['seconds']:.0f}",
                    f"{row['cpu_seconds'] / row['epochs']:.2f}", f"{row['cpu_seconds'] / row['epochs'] * 100 / 60:.1f}",
                    f"{row['peak_mib']:.0f}", f"{row['grown_mib']:.0f}",
                    f"{row['threads']}"]) for row in results["speed"]), "",
        ]  # fmt: skip
    return "\n".join(text)


def baselines(main, plain):
    """The same recipe as in a measurement with other code, that measurement, and the defaults of `tl.domains`."""
    yield from [
        "A measurement with other code had the figures of the column *before*. Its recipe: genes in at least 5 spots,",
        "the 2,000 with the highest dispersion in bins of the mean, 20 components of log1p CP10k that is standardised",
        "and clipped at 10; 13 colour statistics beside them for *joint*; 20 starts of k-means, one of the mixture.",
        "The column *that recipe* runs it here, with the dispersion of scanpy (flavour seurat). The column *defaults*",
        "is that of the tables above, which differs in three things, none of which was chosen with labels:", "",
        "- Genes: the variance less the median of genes of similar mean, over the median absolute deviation. k-means",
        "  domains in these genes explain a little more of the held-out half of the molecules, also of the genes that",
        "  the other ranking puts first: 0.115 and 0.114 on Rep11, 0.012 and 0.009 on A1. The labels of A1, of which",
        "  one class has 83 % of the spots, would have chosen the other.",
        "- Image: 20 components of 54 statistics of colour and texture, which other functions use too.",
        "- Mixture: it starts from the best of 20 starts of k-means, not from the likeliest of its own 20 starts,",
        "  which makes a component of a few far spots.", "",
        line(["slide", "method", "clusterer", "before", "that recipe", "defaults"]), "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for slide, method, clusterer, before in BEFORE:
        cells = []
        for table in (plain, main):
            found = table[(table["slide"] == slide) & (table["method"] == method) & (table["clusterer"] == clusterer)]
            cells.append(spread(found["ari"]) if len(found) else "–")
        yield line([slide, method, clusterer, before, *cells])


def published(gmm):
    """Figures of papers and of a neutral benchmark beside the best and the median of the methods here."""
    yield line(["method", *(slides := ("151510", "A1", "H1")), "source"])
    yield "|---|---|---|---|---|"
    yield from (line(row) for row in PUBLISHED)
    for method in METHODS:
        values = [gmm.loc[(gmm["slide"] == name) & (gmm["method"] == method), "ari"] for name in slides]
        yield line([f"`{method}`, here", *(f"{each.mean():.3f}" if len(each) else "–" for each in values), "above"])
    yield from [
        "",
        "The neutral benchmark is Hu et al., Genome Biology 25:212 (2024): medians of 20 runs, computed from its raw",
        "files, with each method's own clusterer.", "",
        "Published figures hide two things. Settings differ from data set to data set (STAIG: temperature, epochs,",
        "layers, seed; MCGAE: weights, epochs, clusterer, refinement, seed) and were, by released code and supplement,",
        "chosen with the labels that are then reported: STAIG's 0.69 for 151510 is 0.577 when a user runs the authors'",
        "notebook on their data. Spots without a label are removed beforehand, and a vote of 15 to 100 neighbours is",
        "part of the method, while others are shown without it.", "",
        "Our 151510 has 500 of its genes, and an image of 11 µm per pixel.",
    ]  # fmt: skip


def other_numbers(rows):
    """Adjusted Rand index for two domains fewer to two more."""
    own = rows[(rows["clusterer"] == "kmeans") & (rows["seed"] == 0)]
    slides = [name for name in SLIDES if name in set(own["slide"])]
    offsets = (-2, -1, 0, 1, 2)
    yield line(["method", *(f"{name}: {k:+d}" for name in slides for k in offsets)])
    yield "|---|" + "--:|" * (len(slides) * len(offsets))
    for method in METHODS:
        cells = []
        for name in slides:
            part = own[(own["slide"] == name) & (own["method"] == method)]
            for k in offsets:
                value = part.loc[part["n_domains"] - part["n_labels"] == k, "ari"]
                cells.append(f"{value.iloc[0]:.2f}" if len(value) else "–")
        yield line([method, *cells])
