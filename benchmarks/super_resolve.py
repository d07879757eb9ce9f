"""Super-resolution of merged spots: predict single spots of her2st (or MOB) from spots merged 2 x 2.

    python benchmarks/super_resolve.py [--seeds 3] [--mob FOLDER] [--out benchmarks] [--models FOLDER]

Spots are merged 2 x 2 (if at least three of the four exist): counts are summed, and the area is that of the four spots.
A predictor is trained on merged spots only, `stp.tl.super_resolve` resolves the slide, and the mean over the area of
each single spot is compared with its measured expression by the gene-wise Pearson correlation over single spots.
Interpolation of the merged spots and the predictor evaluated at single spots are the baselines.

Two settings: in "all counts", a merged spot has the same molecules as the single spots it is scored on, so a method
that keeps the noise of the merged spot is rewarded for it. In "split counts", every molecule is assigned at random to
one of two halves; merged spots and training use one half, the scores the other, so that no noise is shared.

All hyperparameters (weights of pixels and neighbours, windows, the form of the model) were chosen on C2 to C4; scores
are reported on C5.
"""

from __future__ import annotations

import argparse
import json
from datetime import UTC, datetime
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import shapely
import torch
from geopandas import GeoDataFrame
from PIL import Image
from scipy import sparse
from scipy.interpolate import griddata
from scipy.spatial import cKDTree
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import get_transformation

import stpredict as stp
from stpredict._slides.slides import Selection, resolve
from stpredict.io.images import pyramid
from stpredict.io.sections import Section, assemble

STEP_UM = 16.0
MIN_MERGED = 3
"""Minimum number of single spots in a merged spot."""
SECTIONS = ["C2", "C3", "C4", "C5"]
MIN_COUNTS = 500
"""Single spots with at most so many counts are not scored."""


def split_counts(sdata, seed):
    """Two objects with the same spots; every molecule is in one of them, at random."""
    counts = sdata["observed"].X.toarray().astype(np.int64)
    first = np.random.default_rng(seed).binomial(counts, 0.5)
    return with_counts(sdata, first), with_counts(sdata, counts - first)


def with_counts(sdata, counts):
    """The same object with the given counts."""
    table = sdata["observed"].copy()
    table.X = sparse.csr_matrix(counts.astype(np.float32))
    return SpatialData(
        images=dict(sdata.images), shapes=dict(sdata.shapes), tables={"observed": table}, attrs=dict(sdata.attrs)
    )


def merge_spots(sdata):
    """Merge spots 2 x 2; also returns the names of the spots in each merged spot."""
    table, shapes, parts, members = sdata["observed"], {}, [], {}
    for region in table.obs["region"].cat.categories:
        rows = np.flatnonzero(table.obs["region"] == region)
        obs, spots = table.obs.iloc[rows], sdata[region].loc[table.obs["spot_id"].iloc[rows]]
        quad = obs["array_row"].to_numpy() // 2 * 10_000 + obs["array_col"].to_numpy() // 2
        groups = [g for g in (np.flatnonzero(quad == q) for q in np.unique(quad)) if len(g) >= MIN_MERGED]
        areas = shapely.buffer(spots.geometry.to_numpy(), spots["radius"].to_numpy())
        key = region.replace("_spots", "_merged")
        shapes[key] = ShapesModel.parse(
            GeoDataFrame(geometry=[shapely.MultiPolygon(list(areas[g])) for g in groups]),
            transformations=get_transformation(sdata[region], get_all=True),
        )
        counts = sparse.vstack([sparse.csr_matrix(table.X[rows[g]].sum(axis=0)) for g in groups], format="csr")
        names = [f"{key}_{i}" for i in range(len(groups))]
        columns = {"region": key, "spot_id": np.arange(len(groups)), "patient": str(obs["patient"].iloc[0])}
        parts.append(ad.AnnData(counts.astype(np.float32), obs=pd.DataFrame(columns, index=names), var=table.var[[]]))
        members[key] = [obs.index[g].to_numpy() for g in groups]
    joined = ad.concat(parts)
    joined.obs["region"] = pd.Categorical(joined.obs["region"], categories=list(shapes))
    linked = TableModel.parse(joined, region=list(shapes), region_key="region", instance_key="spot_id")
    return SpatialData(
        images=dict(sdata.images), shapes=shapes, tables={"observed": linked}, attrs=dict(sdata.attrs)
    ), members


def log_cp10k(table, names, genes):
    """log1p CP10k of the named rows, ``(n, g)``."""
    rows = table[names].X
    total = np.maximum(np.asarray(rows.sum(axis=1)), 1.0)
    return np.log1p(np.asarray(rows[:, table.var_names.get_indexer(genes)].todense()) * 1e4 / total)


def correlations(observed, predicted, own):
    """Mean gene-wise Pearson over spots: of the values, and of their differences from the mean of the merged spot."""

    def within(values):
        return values - pd.DataFrame(values).groupby(own).transform("mean").to_numpy()

    found = {}
    for name, (a, b) in {"all": (observed, predicted), "within": (within(observed), within(predicted))}.items():
        r = stp.metrics.pearson(a, b)
        found[name] = float(np.nanmean(np.where(np.isnan(r) & ~np.isnan(stp.metrics.pearson(a, a)), 0.0, r)))
    return found


def interpolations(centres, known, at):
    """Values at single spots, interpolated from merged spots by several methods."""
    near = griddata(centres, known, at, method="nearest")
    found = {"nearest merged spot": near}
    for method in ("linear", "cubic"):
        values = griddata(centres, known, at, method=method)
        found[f"{method} interpolation"] = np.where(np.isnan(values), near, values)
    distance, index = cKDTree(centres).query(at, k=4)
    weight = distance**-2.0
    found["inverse squared distance, 4 spots"] = np.einsum(
        "nk,nkg->ng", weight / weight.sum(1, keepdims=True), known[index]
    )
    return found


def score_section(given, scored, section, genes, predictor):
    """All rows for one section: merged spots are those of ``given``, single spots those of ``scored``."""
    key = f"{section}_merged"
    whole, members = merge_spots(given)
    singles = np.concatenate(members[key])
    own = np.repeat(np.arange(len(members[key])), [len(group) for group in members[key]])
    slide = resolve(scored, Selection(shapes_key=f"{section}_spots"))[0]
    at = slide.xy_px[pd.Index(slide.obs_names).get_indexer(singles)]
    centres = np.stack([at[own == i].mean(axis=0) for i in range(own.max() + 1)])
    known = log_cp10k(whole["observed"], [f"{key}_{i}" for i in range(len(centres))], genes)
    rows = interpolations(centres, known, at)
    stp.tl.predict(scored, predictor, shapes_key=f"{section}_spots", progress=False)
    rows["predictor at single spots"] = np.asarray(scored["predicted"][singles, genes].X, np.float64)
    radius = slide.diameter_um / 2 / slide.um_per_px
    weights = {}
    for anchor in ("predicted", "observed", "denoised"):
        stp.tl.super_resolve(whole, predictor, step_um=STEP_UM, anchor=anchor, shapes_key=key, progress=False)
        table = whole["super_resolved"]
        inside = cKDTree(table.obsm["spatial"]).query_ball_point(at, radius)
        linear = np.expm1(np.asarray(table[:, genes].X, np.float64))
        rows[f"super_resolve, {anchor}"] = np.log1p(np.stack([linear[some].mean(axis=0) for some in inside]))
        weights[anchor] = table.uns["super_resolved"]["weights"][key]
    observed = log_cp10k(scored["observed"], singles, genes)
    enough = np.asarray(scored["observed"][singles].X.sum(axis=1)).ravel() > MIN_COUNTS
    scores = {name: correlations(observed[enough], values[enough], own[enough]) for name, values in rows.items()}
    return {"scores": scores, "weights": weights, "n_single": int(enough.sum()), "n_merged": len(centres)}


def load_or_fit(whole, genes, seed, place):
    """Load the predictor of an earlier run, or train one on merged spots."""
    if place.is_dir():
        return stp.tl.Predictor.load(place)
    config = stp.tl.FitConfig(validation="none", seed=seed, progress=False)
    return stp.tl.fit(whole, model="m2ost_ridge", config=config, genes=genes, save_dir=place)


def experiment(data, train_on, section, genes, n_seeds, folder):
    """Both settings with several seeds, which seed the network and the splitting of counts."""
    found = {}
    for setting in ("split counts", "all counts"):
        found[setting] = []
        for seed in range(n_seeds):
            sdata = data(train_on)
            given, scored = (
                split_counts(sdata, seed)
                if setting == "split counts"
                else (with_counts(sdata, sdata["observed"].X.toarray()), sdata)
            )
            place = folder / f"{'-'.join(train_on)}-{setting.replace(' ', '-')}-{seed}"
            predictor = load_or_fit(merge_spots(given)[0], genes, seed, place)
            found[setting].append(score_section(given, scored, section, genes, predictor))
            print(train_on, section, setting, seed, json.dumps(found[setting][-1], indent=1), flush=True)
    return found


def markdown(results):
    """Format the results as a page."""
    lines = [
        "# Super-resolution of merged spots",
        "",
        f"{results['date']}; {results['device']}. Made by `python benchmarks/super_resolve.py`.",
        "",
        "Spots were merged 2 x 2 and single spots predicted from them. Scores are gene-wise Pearson correlations over",
        'single spots, averaged over 250 genes and seeds (± standard deviation over seeds). "Within merged spots" is',
        "the correlation of differences from the mean of the merged spot, about which interpolation knows very little.",
        "The predictor is `m2ost_ridge`, trained on the merged spots of the named sections. They include the section",
        "that is reported, as in practice: a slide to be resolved has measured spots. The form of the model was chosen",
        "on C2 to C4.",
        "",
        'In "all counts", merged and single spots share their molecules, so a method that keeps the noise of a merged',
        'spot is rewarded. In "split counts", they share no molecules (each has half of the counts), so only a method',
        "that recovers the expression of single spots is rewarded.",
        "",
    ]
    for title, settings in results["data"].items():
        for setting, runs in settings.items():
            first = runs[0]
            lines += [
                f"## {title}, {setting}",
                "",
                f"{first['n_merged']} merged spots, {first['n_single']} single spots, {len(runs)} seed(s).",
                "",
                "| | gene-wise Pearson | within merged spots |",
                "|---|---|---|",
            ]
            for name in first["scores"]:
                cells = [format_mean_std([one["scores"][name][kind] for one in runs]) for kind in ("all", "within")]
                lines.append(f"| {name} | {' | '.join(cells)} |")
            lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def format_mean_std(values):
    """Format mean and standard deviation."""
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def read_mob(folder):
    """Mouse olfactory bulb Rep11 (Ståhl et al. 2016), with spots at integer array coordinates."""
    spots = pd.read_csv(folder / "Rep11_spots.tsv", sep="\t")
    counts = pd.read_csv(folder / "Rep11.tsv.gz", sep="\t", index_col=0).loc[spots["spot"]]

    pixels = np.moveaxis(np.asarray(Image.open(folder / "Rep11.jpg").convert("RGB")), -1, 0)
    xy = spots[["pixel_x", "pixel_y"]].to_numpy(np.float64)
    array = spots[["x", "y"]].round().astype(int).to_numpy()
    pitch = np.median(cKDTree(xy).query(xy, k=2)[0][:, 1])
    section = Section(
        name="Rep11", counts=sparse.csr_matrix(counts.to_numpy(np.float32)), genes=list(counts.columns), array_xy=array,
        xy_px=xy, um_per_px=200 / pitch, diameter_um=100.0, patient="Rep11",
    )  # fmt: skip
    return assemble([section], {"Rep11": pyramid(pixels, "Rep11")})


def variable_genes(sdata, n_genes=250):
    """Most variable genes of the merged spots, selected by `stp.pp.select_genes`."""
    whole = merge_spots(sdata)[0]
    stp.pp.select_genes(whole, n_genes=n_genes)
    table = whole["observed"]
    return table.var_names[table.var["target"]].tolist()


def main():
    """Run and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--mob", type=Path, help="folder with Rep11.jpg, Rep11.tsv.gz and Rep11_spots.tsv")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--models", type=Path, default=Path("stpredict-benchmark"))
    arguments = parser.parse_args()
    arguments.models.mkdir(parents=True, exist_ok=True)
    panel = stp.datasets.gene_panel("her2st")
    data = {
        "her2st C5, trained on C2 to C5": experiment(
            stp.datasets.her2st, SECTIONS, "C5", panel, arguments.seeds, arguments.models
        )
    }
    if arguments.mob:
        genes = variable_genes(read_mob(arguments.mob))
        data["mouse olfactory bulb Rep11, trained on itself"] = experiment(
            lambda _: read_mob(arguments.mob), ["Rep11"], "Rep11", genes, arguments.seeds, arguments.models
        )
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__},
        "step_um": STEP_UM,
        "data": data,
    }
    (arguments.out / "super_resolve.json").write_text(json.dumps(results, indent=1))
    (arguments.out / "super_resolve.md").write_text(markdown(results))
    print(markdown(results))


if __name__ == "__main__":
    main()
