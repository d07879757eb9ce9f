"""Spatial domains against labels: every method on every labelled slide, and domains of slides that were only predicted.

    python benchmarks/domains.py [--slides Rep11 151510 A1 H1] [--seeds 5] [--gene-map FILE] [--donors FOLDER]
                                 [--folder stpredict-benchmark/domains] [--out benchmarks] [--speed]

Needs ``STPREDICT_DATA_DIR`` with ``mob_stahl``, ``dlpfc_151510``, ``her2st_lowres``, ``her2st_counts_labels`` and
``mob_2k``. ``--gene-map`` names Ensembl ids and symbols of mouse genes, for the section that is predicted from its
image alone; ``--donors`` is the folder of `benchmarks/donors.py`, whose predictor of Rep11 is used if it is there.
Scores are kept in ``--folder``, so that a run can be stopped and continued. ``--speed`` measures time and memory of
STAIG.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path

import adapt
import donors
import geopandas as gpd
import numpy as np
import pandas as pd
import spatialdata as sd
import torch
from shapely import points
from spatialdata.models import ShapesModel, TableModel

import stpredict as stp
from stpredict._domains.clusters import CLUSTERERS, refine
from stpredict._domains.methods import CONFIGS, NEED_IMAGE, DomainTask, find_domains
from stpredict._slides.slides import Selection
from stpredict.models.registry import DEFAULT
from stpredict.tl._domain_data.read import read_spots
from stpredict.tl._predictability.image_graph import torus_shift_permutation

METHODS = ("coordinates", "image", "expression", "smoothed", "joint", "staig", "mcgae")
SLIDES = {
    "Rep11": "mouse olfactory bulb, legacy ST, 262 spots, five layers (Ståhl et al. 2016)",
    "151510": "human cortex, Visium, 500 genes, image of 11 µm per pixel, six layers and white matter (Maynard 2021)",
    "A1": "HER2-positive breast cancer, legacy ST, five classes, one with 83 % of the spots (Andersson et al. 2021)",
    "H1": "another patient of the same study, six classes; no image",
}
BEFORE = {
    ("Rep11", "joint", "gmm"): "0.555 ± 0.053 (13 colour statistics)",
    ("151510", "smoothed", "gmm"): "0.475 ± 0.028",
    ("A1", "expression", "kmeans"): "0.623 ± 0.029",
}
"""Adjusted Rand index of plain baselines in a measurement that was made before, with other code."""


def folder_of(name):
    """Folder with data."""
    return Path(os.environ["STPREDICT_DATA_DIR"]) / name


def read_rep11():
    """Rep11 with its layers."""
    sdata = donors.read_section("Rep11")
    layers = pd.read_csv(folder_of("mob_stahl") / "Rep11_layers.tsv", sep="\t", index_col=0)
    layers.columns = [f"Rep11_{name.replace('_', 'x')}" for name in layers.columns]
    return sdata, layers.idxmax(axis=0)


def read_151510():
    """DLPFC 151510 with its layers."""
    sdata = stp.io.read_visium(folder_of("dlpfc_151510"), image="lowres")
    layers = pd.read_csv(folder_of("dlpfc_151510") / "layers.tsv", sep="\t", index_col=0)["layer"]
    return sdata, layers


def classes(folder, name):
    """Class of each spot by its place in the array, without spots that the pathologist left undetermined."""
    path = next(folder_of(folder).glob(f"{name}_labeled_coordinates.tsv"))
    table = pd.read_csv(path, sep="\t").dropna(subset=["x", "y"])
    place = table["x"].round().astype(int).astype(str) + "x" + table["y"].round().astype(int).astype(str)
    labels = pd.Series(table["label"].to_numpy(), index=f"{name}_" + place)
    return labels[labels != "undetermined"][lambda found: ~found.index.duplicated()]


def read_a1():
    """A1 of her2st with the classes of the pathologist."""
    return donors.read_section("A1"), classes("her2st_lowres", "A1")


def read_h1():
    """H1 of her2st: counts and places, no image."""
    where = folder_of("her2st_counts_labels")
    counts = pd.read_csv(where / "H1.tsv.gz", sep="\t", index_col=0)
    spots = pd.read_csv(where / "H1_selection.tsv", sep="\t")
    spots.index = spots["x"].astype(str) + "x" + spots["y"].astype(str)
    counts = counts[counts.index.isin(spots.index) & (counts.sum(axis=1) > 0)]
    places = spots.loc[counts.index, ["pixel_x", "pixel_y"]].to_numpy(float)
    shapes = ShapesModel.parse(gpd.GeoDataFrame({"radius": np.full(len(counts), 70.0)}, geometry=points(places)))
    import anndata as ad

    table = ad.AnnData(counts.to_numpy(np.float32), var=pd.DataFrame(index=counts.columns))
    table.obs_names = [f"H1_{name}" for name in counts.index]
    table.obs["region"], table.obs["spot_id"] = pd.Categorical(["H1_spots"] * len(counts)), np.arange(len(counts))
    table = TableModel.parse(table, region="H1_spots", region_key="region", instance_key="spot_id")
    return sd.SpatialData(shapes={"H1_spots": shapes}, tables={"observed": table}), classes(
        "her2st_counts_labels", "H1"
    )


READ = {"Rep11": read_rep11, "151510": read_151510, "A1": read_a1, "H1": read_h1}


def measure(spots, labels, methods, seeds, n_domains):
    """One row for each method, seed, clusterer, refinement and number of domains."""
    names = np.concatenate([slide.obs_names for slide in spots.slides])
    truth = labels.reindex(names).to_numpy()
    rng, rows = np.random.default_rng(0), []
    for method in methods:
        task = DomainTask(
            method=method, n_domains=n_domains, xy=spots.xy, slide=spots.slide, whole=spots.whole, half=spots.half,
            image=spots.image, options=CONFIGS[method]() if method in CONFIGS else None,
        )  # fmt: skip
        for seed in range(seeds):
            found = find_domains(task, seed)
            made = {("gmm", 0, n_domains): found.domains, ("gmm", 6, n_domains): refined(found.domains, task)}
            made["kmeans", 0, n_domains] = CLUSTERERS["kmeans"](found.features, n_domains, seed)
            if seed == 0:
                for other in (-2, -1, 1, 2):
                    if n_domains + other > 1:
                        made["kmeans", 0, n_domains + other] = CLUSTERERS["kmeans"](
                            found.features, n_domains + other, 0
                        )
            for (clusterer, neighbors, k), domains in made.items():
                homogeneity, completeness = stp.metrics.homogeneity_completeness(truth, domains)
                rows.append({
                    "method": method, "seed": seed, "clusterer": clusterer, "refine": neighbors, "n_domains": k,
                    "ari": stp.metrics.ari(truth, domains), "nmi": stp.metrics.nmi(truth, domains),
                    "homogeneity": homogeneity, "completeness": completeness,
                    "chance": stp.metrics.ari(truth, domains[torus_shift_permutation(spots.xy, spots.slide, rng)]),
                    "held_out_share": found.held_out_share if (clusterer, neighbors) == ("gmm", 0) else np.nan,
                    "n_epochs": found.n_epochs, "seconds": found.seconds,
                })  # fmt: skip
            print(method, seed, f"{rows[-1]['seconds']:.0f} s", flush=True)
    return pd.DataFrame(rows)


def refined(domains, task):
    """Domains after a vote of six neighbours."""
    return refine(domains, task.xy, task.slide, 6)


def slide_rows(name, seeds, folder):
    """Scores of all methods on a slide, from the folder or computed."""
    path = folder / f"{name}-{seeds}.csv"
    if not path.is_file():
        sdata, labels = READ[name]()
        has_image = bool(sdata.images)
        methods = [method for method in METHODS if has_image or method not in NEED_IMAGE]
        spots = read_spots(sdata, Selection(), stp.pp.TargetSpec(), with_image=methods if has_image else [])
        measure(spots, labels, methods, seeds, labels.nunique()).assign(slide=name).to_csv(path, index=False)
    return pd.read_csv(path, dtype={"slide": str})


def predicted_rows(gene_map, seeds, folder, donors_folder):
    """Layers of Rep11 from its image alone: of predicted expression, and of image features."""
    path = folder / f"predicted-{seeds}.csv"
    if path.is_file():
        return pd.read_csv(path)
    (setting,) = (each for each in donors.SETTINGS if each.letter == "b" and each.test == ("Rep11",))
    read = donors.sections(setting, gene_map)
    predictor = adapt.default_of_parts("b", setting.train, donors_folder)
    if predictor is None:
        train = {name: read[name] for name in setting.train}
        predictor = stp.tl.fit(train, DEFAULT, config={"progress": False}, group_key="patient")
    _, labels = read_rep11()
    rep11 = read["Rep11"]
    stp.tl.predict(rep11, predictor, progress=False)
    found = []
    for table_name in ("predicted", "observed"):
        spots = read_spots(rep11, Selection(table_name=table_name), stp.pp.TargetSpec(), with_image=["joint"])
        rows = measure(spots, labels, METHODS, seeds, labels.nunique())
        found.append(rows.assign(source=table_name, model=predictor.model, n_genes=len(spots.genes)))
    pd.concat(found).to_csv(path, index=False)
    return pd.read_csv(path)


def joint_rows(folder):
    """Domains of MOB1 and MOB2 together: how slides and domains mix in the space that is clustered."""
    path = folder / "joint.csv"
    if path.is_file():
        return pd.read_csv(path)
    sections = [donors.read_section(name) for name in ("MOB1", "MOB2")]
    rows = []
    for method in ("expression", "smoothed", "joint", "staig", "mcgae"):
        stp.tl.domains(sections, 5, method, seeds=1, progress=False)
        tables = [section["observed"] for section in sections]
        space = np.concatenate([table.obsm[table.uns["domain"]["embedding"]] for table in tables])
        domain = np.concatenate([table.obs["domain"].astype(str) for table in tables])
        slide = np.repeat([0, 1], [len(table) for table in tables])
        within = [stp.metrics.lisi(space[domain == d], slide[domain == d]) for d in np.unique(domain)]
        rows.append({
            "method": method, "slides within domains": np.concatenate(within).mean(),
            "domains": stp.metrics.lisi(space, domain).mean(),
            "smallest share of a slide in a domain": min(
                (slide[domain == d] == s).mean() for d in np.unique(domain) for s in (0, 1)
            ),
        })  # fmt: skip
    pd.DataFrame(rows).to_csv(path, index=False)
    return pd.read_csv(path)


SIZES = (3_600, 5_000, 20_000, 50_000)


def speed_row(n_spots, n_epochs):
    """Seconds and peak memory of STAIG on made-up expression of a square lattice, in a process of its own."""
    from stpredict._domains.graph import spatial_graph
    from stpredict._domains.staig import Staig, StaigConfig
    from stpredict._domains.training import DomainInputs, train

    side = int(np.ceil(n_spots**0.5))
    xy = np.stack(np.meshgrid(np.arange(float(side)), np.arange(float(side))), axis=-1).reshape(-1, 2)[:n_spots]
    slide, rng = np.zeros(n_spots, np.int64), np.random.default_rng(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    inputs = DomainInputs(
        nodes=rng.normal(size=(n_spots, 20)).astype(np.float32), graph=spatial_graph(xy, slide), slide=slide, xy=xy,
        image=rng.normal(size=(n_spots, 20)).astype(np.float32),
    )  # fmt: skip
    started, cpu = time.perf_counter(), time.process_time()
    train(lambda: Staig(inputs, StaigConfig(), 0), n_epochs, 0, torch.device("cpu"))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "spots": n_spots, "epochs": n_epochs, "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu, "peak_mib": after / 1024, "grown_mib": (after - before) / 1024,
        "threads": torch.get_num_threads(),
    }  # fmt: skip


def speed_rows():
    """One row for each number of spots: 400 epochs for the smallest, fewer for the others."""
    found = []
    for n_spots in SIZES:
        epochs = 400 if n_spots == SIZES[0] else 10
        command = [sys.executable, __file__, "--speed-of", str(n_spots), str(epochs)]
        found.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        print(found[-1], flush=True)
    return found


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


def page(results, rows, predicted, joint):
    """Format the results."""
    main = rows[(rows["n_domains"] == rows["n_labels"]) & (rows["refine"] == 0)]
    gmm, kmeans = (main[main["clusterer"] == name] for name in ("gmm", "kmeans"))
    voted = rows[rows["refine"] == 6]
    chance = [f"{name} {part['chance'].mean():.3f}" for name, part in gmm.groupby("slide", sort=False)]
    text = [
        "# Measurements of spatial domains", "",
        f"{results['date']}; {results['device']}. Made by `python benchmarks/domains.py --seeds {results['seeds']}`.",
        f"Each cell is the mean of {results['seeds']} seeds ± their standard deviation, and their range. The number of",
        "domains is the number of label classes, which a user does not know. One set of options for all slides; they",
        "were looked at on Rep11 only. Spots without a label take part in clustering and are not scored.", "",
        *(f"- {name}: {SLIDES[name]}" for name in results["slides"]), "",
        "## Adjusted Rand index, tied Gaussian mixture, no refinement", "",
        *method_table(gmm, "ari", SLIDES, "slide"), "",
        "## Adjusted Rand index, k-means, no refinement", "",
        *method_table(kmeans, "ari", SLIDES, "slide"), "",
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
        "## Baselines measured before", "",
        "Plain baselines that were measured before with other code (2,000 genes by binned dispersion, 20 components,",
        "one start of the mixture):", "",
        line(["slide", "method", "clusterer", "before", "here"]), "|---|---|---|---|---|",
        *(line([*row, before, spread(main.set_index(["slide", "method", "clusterer"]).loc[row, "ari"])])
          for row, before in BEFORE.items() if row[0] in results["slides"]), "",
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
            "Made-up expression on a square lattice, 512 negatives, image clusters; each row in its own process.", "",
            line(["spots", "epochs", "seconds", "CPU seconds an epoch", "peak MiB", "of it added MiB", "threads"]),
            "|--:|--:|--:|--:|--:|--:|--:|",
            *(line([f"{row['spots']:,}", f"{row['epochs']}", f"{row['seconds']:.0f}",
                    f"{row['cpu_seconds'] / row['epochs']:.2f}", f"{row['peak_mib']:.0f}", f"{row['grown_mib']:.0f}",
                    f"{row['threads']}"]) for row in results["speed"]), "",
        ]  # fmt: skip
    return "\n".join(text)


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


def main():
    """Run what is not finished, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", nargs="*", default=list(SLIDES), choices=list(SLIDES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--gene-map", type=Path, help='CSV with "Gene stable ID" and "Gene name"')
    parser.add_argument("--donors", type=Path, default=Path("stpredict-benchmark/donors"))
    parser.add_argument("--folder", type=Path, default=Path("stpredict-benchmark/domains"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--speed", action="store_true", help="measure time and memory of STAIG")
    parser.add_argument("--speed-of", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.speed_of:
        print(json.dumps(speed_row(*given.speed_of)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", UserWarning)
    speed = given.folder / "speed.json"
    if given.speed:
        speed.write_text(json.dumps(speed_rows()))
    rows = pd.concat([slide_rows(name, given.seeds, given.folder) for name in given.slides], ignore_index=True)
    n_labels = {name: int(part.loc[part["refine"] == 6, "n_domains"].iloc[0]) for name, part in rows.groupby("slide")}
    rows["n_labels"] = rows["slide"].map(n_labels)
    joint = joint_rows(given.folder)
    predicted = None
    if given.gene_map is not None:
        predicted = predicted_rows(donors.gene_names(given.gene_map), given.seeds, given.folder, given.donors)
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{torch.get_num_threads()} threads, {platform.machine()}",
        "seeds": given.seeds,
        "slides": given.slides,
        "speed": json.loads(speed.read_text()) if speed.is_file() else [],
    }
    tables = {"rows": rows, "joint": joint, "predicted": predicted}
    saved = {name: table.round(4).to_dict(orient="list") for name, table in tables.items() if table is not None}
    (given.out / "domains.json").write_text(json.dumps(results | saved, indent=1))
    (given.out / "domains.md").write_text(page(results, rows, predicted, joint), encoding="utf-8")


if __name__ == "__main__":
    main()
