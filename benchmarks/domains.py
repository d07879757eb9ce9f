"""Spatial domains against labels: every method on every labelled slide, and domains of slides that were only predicted.

    python benchmarks/domains.py --slides Rep11        # one process for each of Rep11, 151510, A1 and H1
    python benchmarks/domains.py --joint               # MOB1 and MOB2 together
    python benchmarks/domains.py --gene-map FILE [--donors FOLDER]   # Rep11 from its image alone
    python benchmarks/domains.py --speed               # time and memory of STAIG
    python benchmarks/domains.py --page                # writes the page from what the others left in the folder

Further options: [--seeds 5] [--folder stpredict-benchmark/domains] [--out benchmarks].

Needs ``STPREDICT_DATA_DIR`` with ``mob_stahl``, ``dlpfc_151510``, ``her2st_lowres``, ``her2st_counts_labels`` and
``mob_2k``, and the extra ``analysis`` for Leiden. ``--gene-map`` names Ensembl ids and symbols of mouse genes, for the
section that is predicted from its image alone; ``--donors`` is the folder of `benchmarks/donors.py`, whose predictor of
Rep11 is used if it is there. Scores are kept in ``--folder`` after each method, so a run can be stopped and continued,
and several run at once. One free core takes about 3 minutes for each small slide, and about 20 for 151510 (estimated
from one seed).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import adapt
import donors
import geopandas as gpd
import numpy as np
import pandas as pd
import spatialdata as sd
import torch
from domains_page import METHODS, SLIDES, write_page
from scipy import sparse
from shapely import points
from spatialdata.models import ShapesModel, TableModel

import stpredict as stp
from stpredict._domains.clusters import CLUSTERERS, refine
from stpredict._domains.features import join, principal_components, standardize
from stpredict._domains.graph import spatial_graph
from stpredict._domains.methods import CONFIGS, NEED_IMAGE, DomainTask, find_domains
from stpredict._geometry import PatchSpec
from stpredict._slides.slides import Selection
from stpredict._train.data import map_slides
from stpredict.models.registry import DEFAULT
from stpredict.pp.lattice import infer_lattice
from stpredict.tl._domain_data.read import read_spots
from stpredict.tl._predictability.image_graph import torus_shift_permutation


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


def measure(spots, labels, method, seeds, n_domains):
    """One row for each seed, clusterer, refinement and number of domains of a method."""
    names = np.concatenate([slide.obs_names for slide in spots.slides])
    truth = labels.reindex(names).to_numpy()
    rng, rows = np.random.default_rng(0), []
    task = DomainTask(
        method=method, n_domains=n_domains, xy=spots.xy, slide=spots.slide, expression=spots.expression,
        halves=spots.halves, image=spots.image, options=CONFIGS[method]() if method in CONFIGS else None,
    )  # fmt: skip
    for seed, found in enumerate(find_domains(task, range(seeds))):
        made = {("gmm", 0, n_domains): found.domains, ("gmm", 6, n_domains): refined(found.domains, task)}
        for clusterer in ("kmeans", "leiden"):
            made[clusterer, 0, n_domains] = CLUSTERERS[clusterer](found.features, n_domains, seed)
        if seed == 0:
            for k in range(max(2, n_domains - 2), n_domains + 3):
                made["kmeans", 0, k] = CLUSTERERS["kmeans"](found.features, k, 0)
        for (clusterer, neighbors, k), domains in made.items():
            homogeneity, completeness = stp.metrics.homogeneity_completeness(truth, domains)
            rows.append({
                "method": method, "seed": seed, "clusterer": clusterer, "refine": neighbors, "n_domains": k,
                "n_labels": n_domains,
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


def dispersed_genes(counts):
    """log1p CP10k of the 2,000 genes in at least 5 spots with the highest dispersion in bins of the mean (scanpy)."""
    import anndata as ad
    import scanpy as sc

    adata = ad.AnnData(sparse.csr_matrix(counts, dtype=np.float32))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.filter_genes(adata, min_cells=5)
    if adata.n_vars > 2000:
        sc.pp.highly_variable_genes(adata, flavor="seurat", n_top_genes=2000, subset=True)
    return adata.X.toarray()


def thirteen_colors(slide):
    """Mean and deviation of R, G, B and of their optical densities, and mean gradient, of a patch one pitch wide."""

    def statistics(patches):
        pixels = patches[:, 0].numpy().astype(float)
        density = -np.log((pixels + 1) / 256)
        across = np.hypot(*np.gradient(pixels.mean(axis=1), axis=(1, 2))).mean(axis=(1, 2))
        moments = [part for each in (pixels, density) for part in (each.mean(axis=(2, 3)), each.std(axis=(2, 3)))]
        return np.column_stack([*moments, across]).astype(np.float32)

    patch = PatchSpec(fov_um=(float(infer_lattice(slide.xy_um)[0]),), size_px=56)
    return map_slides(statistics, [slide], [patch], progress=False)


def plain_rows(spots, labels, seeds, n_domains):
    """The recipe of `BEFORE`: another choice of genes, 13 colours, one start of the mixture, no halves."""
    from sklearn.mixture import GaussianMixture

    (slide,) = spots.slides
    truth, values = labels.reindex(slide.obs_names).to_numpy(), dispersed_genes(slide.counts)
    mean = spatial_graph(spots.xy, spots.slide).mean_matrix()
    parts = {
        "expression": principal_components(standardize(values, spots.slide), 20),
        "smoothed": principal_components(standardize((mean @ values).astype(np.float32), spots.slide), 20),
    }
    if spots.image is not None:
        parts["joint"] = join([parts["expression"], standardize(thirteen_colors(slide), spots.slide)])
    rows = []
    for method, features in parts.items():
        for seed in range(seeds):
            mixture = GaussianMixture(n_domains, covariance_type="tied", random_state=seed)
            found = {"kmeans": CLUSTERERS["kmeans"](features, n_domains, seed)}
            found["gmm"] = mixture.fit_predict(features.astype(float))
            rows += [
                {"method": method, "seed": seed, "clusterer": name, "ari": stp.metrics.ari(truth, domains)}
                for name, domains in found.items()
            ]
    return pd.DataFrame(rows)


def measure_slide(name, seeds, folder):
    """Scores of all methods on a slide, and of the plain recipe, kept in the folder one by one."""
    sdata, labels = READ[name]()
    has_image = bool(sdata.images)
    methods = [method for method in METHODS if has_image or method not in NEED_IMAGE]
    spots = read_spots(sdata, Selection(), stp.pp.TargetSpec(), with_image=methods if has_image else [])
    for method in methods:
        keep(folder / f"{name}-{method}-{seeds}.csv", measure, spots, labels, method, seeds, labels.nunique())
    keep(folder / f"{name}-plain-{seeds}.csv", plain_rows, spots, labels, seeds, labels.nunique())


def keep(path, compute, *arguments):
    """Write a table that is not there yet."""
    if not path.is_file():
        table = compute(*arguments)
        table.to_csv(path.with_suffix(".part"), index=False)
        path.with_suffix(".part").rename(path)


def measure_predicted(gene_map, seeds, folder, donors_folder):
    """Layers of Rep11 from its image alone: of predicted expression, and of image features."""
    (setting,) = (each for each in donors.SETTINGS if each.letter == "b" and each.test == ("Rep11",))
    read = donors.sections(setting, gene_map)
    predictor = adapt.default_of_parts("b", setting.train, donors_folder)
    if predictor is None:
        train = {name: read[name] for name in setting.train}
        predictor = stp.tl.fit(train, DEFAULT, config={"progress": False}, group_key="patient")
    _, labels = read_rep11()
    rep11 = read["Rep11"]
    stp.tl.predict(rep11, predictor, progress=False)
    for source in ("predicted", "observed"):
        spots = read_spots(rep11, Selection(table_name=source), stp.pp.TargetSpec(), with_image=["joint"])
        extra = {"source": source, "model": predictor.model, "n_genes": len(spots.genes)}
        for method in METHODS:
            path = folder / f"from_image_{source}-{method}-{seeds}.csv"
            keep(path, lambda *given, extra=extra: measure(*given).assign(**extra), spots, labels, method, seeds,
                 labels.nunique())  # fmt: skip


def joint_rows():
    """Domains of MOB1 and MOB2 together: how slides and domains mix in the space that is clustered."""
    sections = [donors.read_section(name) for name in ("MOB1", "MOB2")]
    rows = []
    for method in ("expression", "smoothed", "joint", "staig", "mcgae"):
        stp.tl.domains(sections, 5, method, n_seeds=1, progress=False)
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
    return pd.DataFrame(rows)


SIZES = (3_600, 5_000, 20_000, 50_000)


def speed_row(n_spots, n_epochs):
    """Seconds and peak memory of STAIG on made-up expression of a square lattice, in a process of its own."""
    from stpredict._domains.staig import Staig, StaigConfig, StaigInputs
    from stpredict._domains.training import DomainInputs, train

    side = int(np.ceil(n_spots**0.5))
    xy = np.stack(np.meshgrid(np.arange(float(side)), np.arange(float(side))), axis=-1).reshape(-1, 2)[:n_spots]
    slide, rng = np.zeros(n_spots, np.int64), np.random.default_rng(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spots = DomainInputs(
        nodes=rng.normal(size=(n_spots, 20)).astype(np.float32), graph=spatial_graph(xy, slide), slide=slide, xy=xy,
        image=rng.normal(size=(n_spots, 20)).astype(np.float32),
    )  # fmt: skip
    started, cpu = time.perf_counter(), time.process_time()
    inputs = StaigInputs.of(spots, StaigConfig())
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


def main():
    """Run what is not finished, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", nargs="*", default=[], choices=list(SLIDES), help="slides to measure")
    parser.add_argument("--joint", action="store_true", help="measure domains of MOB1 and MOB2 together")
    parser.add_argument("--gene-map", type=Path, help='CSV with "Gene stable ID" and "Gene name": predict Rep11')
    parser.add_argument("--speed", action="store_true", help="measure time and memory of STAIG")
    parser.add_argument("--page", action="store_true", help="write the page from what is in the folder")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--donors", type=Path, default=Path("stpredict-benchmark/donors"))
    parser.add_argument("--folder", type=Path, default=Path("stpredict-benchmark/domains"))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
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
    for name in given.slides:
        measure_slide(name, given.seeds, given.folder)
    if given.joint:
        keep(given.folder / "joint.csv", joint_rows)
    if given.gene_map is not None:
        measure_predicted(donors.gene_names(given.gene_map), given.seeds, given.folder, given.donors)
    if given.page:
        write_page(given.folder, given.seeds, given.out, json.loads(speed.read_text()) if speed.is_file() else [])


if __name__ == "__main__":
    main()
