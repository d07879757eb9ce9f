"""How much a few measured spots of a new slide help: adaptation, imputation, and what they must be compared with.

    python benchmarks/adapt.py --gene-map FILE [--settings a b c d] [--draws 20] [--folder stpredict-benchmark/adapt]
                               [--donors stpredict-benchmark/donors] [--out benchmarks] [--figures docs/images]

Needs ``STPREDICT_DATA_DIR`` with the sections. ``--gene-map`` names a file of Ensembl ids and symbols of mouse genes
(such as an export of BioMart): mob_2k has ids, Rep11 symbols. Predictors, predictions and scores are kept in
``--folder``, so that a run can be stopped and continued; delete the files of scores (csv) to measure again. There are
two predictors: the default of `stp.tl.fit`, whose parts `benchmarks/donors.py` trained (``--donors``, its folder; they
are trained here if they are not there, about 40 minutes on one core), and an ensemble of two ridge regressions.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn
import torch
from sklearn.linear_model import RidgeCV

import stpredict as stp
from stpredict._slides.slides import Selection, resolve
from stpredict._train.data import read_spots
from stpredict.metrics import pearson, rmse
from stpredict.models.registry import DEFAULT, ensemble
from stpredict.pp.normalization import normalize_slide
from stpredict.tl._adaptation.imputation import krige_alone, krige_residuals
from stpredict.tl._predictor.member import target_scale
from stpredict.tl._predictor.ood import image_statistics

SIZES = (5, 10, 20, 50, 100)
PLACES = {"random": "at random", "region": "in a region"}
NO_BREAK = "\N{NO-BREAK SPACE}"
MODELS = {"default": DEFAULT, "ridge": ["ridge_statistics", "ridge_color"]}
"""Predictors by name: the default of `stp.tl.fit`, and an ensemble of closed-form models."""
OPTIONS = {"ridge_statistics": {"standardize": "training"}}
"""Statistics are standardised by the training spots; the slide's own values are another way to meet a new slide."""
SETTINGS = {
    "a": "another animal in another stain: MOB1 and MOB2 to MOB3, and back",
    "b": "another laboratory and array: MOB1 and MOB2 to Rep11, and back",
    "c": "another patient at a fifth of the resolution: C2 to C5 of her2st to A1, and back",
    "d": "a serial section of the same tumour: C2 to C4 of her2st to C5",
}
PREDICTOR, OFFSET, ADAPTED, IMPUTED = "predictor", "predictor + mean residual", "adapt", "impute"
MEAN, KRIGED, TRAINED = "mean of measured spots", "kriging alone", "trained on measured spots"
ROWS = (PREDICTOR, OFFSET, ADAPTED, IMPUTED, MEAN, KRIGED, TRAINED)


def section(folder, name, **files):
    """Read one section."""
    where = Path(os.environ["STPREDICT_DATA_DIR"]) / folder
    paths = {key: where / value if key in {"image", "counts", "spots"} else value for key, value in files.items()}
    return stp.io.read_st(**paths, name=name)


def mob(name, gene_map=None):
    """A section of mob_2k."""
    spots = f"alignment_table_{name}.tsv"
    return section(
        "mob_2k", name, image=f"{name}.jpg", counts=f"{name}.tsv.gz", spots=spots, patient=name, gene_map=gene_map
    )


def with_shared_genes(sections):
    """The sections with the genes that all of them have, over which library sizes are summed."""
    common = set.intersection(*(set(sdata["observed"].var_names) for sdata in sections.values()))
    for sdata in sections.values():
        table = sdata.tables.pop("observed")
        sdata.tables["observed"] = table[:, [gene for gene in table.var_names if gene in common]].copy()
    return sections


def directions(setting, gene_map):
    """Training sections, test sections and genes of the directions of a setting."""
    if setting in {"a", "b"}:
        other = "MOB3" if setting == "a" else "Rep11"
        sections = {name: mob(name, None if setting == "a" else gene_map) for name in ("MOB1", "MOB2")}
        if setting == "a":
            sections[other] = mob(other)
        else:
            files = {"image": "Rep11.jpg", "counts": "Rep11.tsv.gz", "spots": "Rep11_spots.tsv"}
            sections[other] = section("mob_stahl", other, **files, patient=other)
            sections = with_shared_genes(sections)
        first, second, genes = ("MOB1", "MOB2"), (other,), None
    else:
        sections, genes = {name: stp.datasets.her2st([name]) for name in ("C2", "C3", "C4", "C5")}, None
        genes, first, second = stp.datasets.gene_panel("her2st"), ("C2", "C3", "C4"), ("C5",)
        if setting == "c":
            files = {"image": "A1.png", "counts": "A1.tsv.gz", "spots": "A1_selection.tsv"}
            sections["A1"] = section("her2st_lowres", "A1", **files, patient="A", pixel_frame=(6954, 7435))
            first, second = ("C2", "C3", "C4", "C5"), ("A1",)
    both = [("forth", first, second)] + ([("back", second, first)] if setting != "d" else [])
    for direction, train, test in both:
        yield direction, {name: sections[name] for name in train}, {name: sections[name] for name in test}, genes


def default_of_parts(setting, train, donors):
    """The default predictor from parts that `benchmarks/donors.py` trained; None if they are not there."""
    letter, row, parts = "C5" if setting == "d" else setting, ensemble(DEFAULT), []
    for model, weight in row.members.items():
        place = donors / f"{letter}-{'+'.join(train)}-{model}-all-0"
        if not (place / "config.json").is_file():
            return None
        predictor = stp.tl.Predictor.load(place)
        parts.append((predictor, replace(predictor.members[0], weight=weight)))
    return replace(parts[0][0], model=DEFAULT, members=tuple(member for _, member in parts))


def train_predictor(model, train, genes, place):
    """Train one of `MODELS`."""
    options = {name: OPTIONS[name] for name in model if name in OPTIONS} if isinstance(model, list) else {}
    return stp.tl.fit(train, model, model_options=options, config={"progress": False}, genes=genes, save_dir=place)


def predict_all(setting, gene_map, folder, donors):
    """Train each model once for each direction, and keep the predictions of the test sections."""
    paths = {}
    done = folder / f"{setting}.json"
    if done.is_file():
        return json.loads(done.read_text())
    for direction, train, test, genes in directions(setting, gene_map):
        for model, given in MODELS.items():
            place = folder / f"{setting}-{direction}-{model}"
            predictor = default_of_parts(setting, train, donors) if given == DEFAULT else None
            if predictor is None and place.is_dir():
                predictor = stp.tl.Predictor.load(place)
            elif predictor is None:
                predictor = train_predictor(given, train, genes, place)
            for name, sdata in test.items():
                path = folder / f"{setting}-{direction}-{model}-{name}.npz"
                np.savez(path, **arrays(predictor, sdata))
                found = paths.setdefault(f"{direction} {name}", {"setting": setting, "model": {}})
                found[model], found["model"][model] = str(path), predictor.model
    done.write_text(json.dumps(paths))
    return paths


def arrays(predictor, sdata):
    """All that adaptation needs of a test section: predicted and observed expression, positions, image statistics."""
    stp.tl.predict(sdata, predictor, progress=False)
    slide = resolve(sdata, Selection(table_name="observed"))[0]
    observed = normalize_slide(slide, predictor.genes, predictor.target, None)
    spots, _ = read_spots([slide], predictor.patch, progress=False)
    share = predictor.provenance["diameter_um"] / predictor.patch.fov_um[0]
    kept = np.asarray(slide.counts[:, [slide.genes.index(gene) for gene in predictor.genes]].sum(axis=1)).ravel() > 0
    return {
        "predicted": np.asarray(sdata["predicted"].X)[kept],
        "observed": observed[kept],
        "xy_um": slide.xy_um[kept],
        "statistics": image_statistics(spots.patches, share)[kept],
        "gene_std": target_scale(predictor.members),
    }


def draw_spots(xy_um, n, place, rng):
    """``n`` spots: at random, or a random one and its nearest neighbours."""
    if place == "random":
        return np.sort(rng.choice(len(xy_um), n, replace=False))
    distance = np.hypot(*(xy_um - xy_um[rng.integers(len(xy_um))]).T)
    return np.sort(np.argsort(distance, kind="stable")[:n])


def train_on_measured(statistics, observed, rows):
    """Ridge regression on patch statistics of the measured spots only; its penalty is chosen by leave-one-out."""
    mean, std = statistics[rows].mean(axis=0), statistics[rows].std(axis=0)
    features = np.clip((statistics - mean) / np.where(std > 1e-6, std, 1), -3, 3)
    return RidgeCV(alphas=10.0 ** np.arange(0, 6)).fit(features[rows], observed[rows]).predict(features)


def scores(observed, predicted, rows, std=None):
    """Scores over the spots that were not measured."""
    others = np.setdiff1d(np.arange(len(observed)), rows)
    truth, values = observed[others], np.maximum(predicted[others], 0)
    found = {
        "gene_pearson": float(np.nanmean(pearson(truth, values))),
        "rmse": float(np.mean(rmse(truth, values, axis="spot"))),
    }
    if std is not None:
        found["coverage"] = float(np.mean(np.abs(truth - values) < 1.96 * std[others]))
    return found


def measure(paths, n_draws):
    """One row for each method, number of spots, place and draw."""
    table = []
    for target, found in paths.items():
        for i, model in enumerate(MODELS):
            with np.load(found[model]) as file:
                data = dict(file)
            predicted, observed, xy_um = data["predicted"], data["observed"], data["xy_um"]
            head = {"setting": found["setting"], "target": target, "model": model}
            for place in PLACES:
                none = scores(observed, predicted, [])
                table += [{**head, "place": place, "n_measured": 0, "method": row, "draw": 0, **none}
                          for row in (PREDICTOR, ADAPTED, IMPUTED)]  # fmt: skip
                for n in (size for size in SIZES if size < len(observed)):
                    for draw in range(n_draws):
                        rows = draw_spots(xy_um, n, place, np.random.default_rng([draw, n]))
                        both = krige_residuals(predicted, observed[rows], rows, xy_um, data["gene_std"], target)
                        made = {
                            PREDICTOR: (predicted, None),
                            OFFSET: (predicted + (observed - predicted)[rows].mean(axis=0), None),
                            ADAPTED: (both.adaptation(predicted), None),
                            IMPUTED: (both.expression, both.standard_error),
                        }
                        if i == 0:  # these use no predictor
                            alone = krige_alone(observed[rows], rows, xy_um)
                            made[MEAN] = np.broadcast_to(observed[rows].mean(axis=0), observed.shape), None
                            made[KRIGED] = alone.expression, alone.standard_error
                            made[TRAINED] = train_on_measured(data["statistics"], observed, rows), None
                        of_draw = {**head, "place": place, "n_measured": n, "draw": draw}
                        table += [{**of_draw, "method": row, **scores(observed, *each[:1], rows, each[1])}
                                  for row, each in made.items()]  # fmt: skip
    return pd.DataFrame(table)


def spread_over_draws(table, model, score):
    """Mean over sections, and standard deviation over draws of that mean; settings weigh the same."""
    rows = table[(table["model"] == model) | table["method"].isin([MEAN, KRIGED, TRAINED])]
    of_draw = rows.groupby(["setting", "method", "place", "n_measured", "draw"])[score].mean()
    return of_draw.groupby(["setting", "method", "place", "n_measured"]).agg(["mean", "std"]).reset_index()


def lines_of(table, model, setting, score, place):
    """A table in markdown: methods by number of spots, which lie at random or in a region."""
    found = spread_over_draws(table[table["setting"] == setting], model, score)
    sizes = sorted(found["n_measured"].unique())[0 if place == "random" else 1 :]
    yield "| | " + " | ".join(f"{n}" for n in sizes) + " |"
    yield "|---|" + "--:|" * len(sizes)
    for row in ROWS:
        cells = []
        for n in sizes:
            here = found[(found["method"] == row) & (found["place"] == place) & (found["n_measured"] == n)]
            value = f"{here['mean'].iloc[0]:.3f}" if len(here) else "–"
            cells.append(value + (f"{NO_BREAK}±{NO_BREAK}{here['std'].iloc[0]:.3f}" if len(here) and n else ""))
        yield f"| {row} | " + " | ".join(cells) + " |"


def share_of_harm(table):
    """Share of draws in which the RMSE after adaptation is higher than before, by number and place."""
    keys = ["setting", "target", "model", "place", "n_measured", "draw"]
    wide = table[table["n_measured"] > 0].pivot_table(index=keys, columns="method", values="rmse")
    worse = (wide[ADAPTED] > wide[PREDICTOR]).groupby(["setting", "place", "n_measured"]).mean()
    return worse.unstack(["place", "n_measured"])


def lines_by_size(wide, form):
    """A table in markdown with a row for each place and number of spots."""
    yield "| | " + " | ".join(map(str, wide.index)) + " |"
    yield "|---|" + "--:|" * len(wide.index)
    for (place, n), column in wide.items():
        yield f"| {n} {PLACES[place]} | " + " | ".join(form.format(value) for value in column) + " |"


def page(results, table):
    """Format the results."""
    text = [
        "# Measurements of adaptation", "",
        f"{results['date']}; {results['device']}; scikit-learn {results['versions']['scikit-learn']}. Made by",
        "`python benchmarks/adapt.py`. Each number is over the spots that were *not* measured, on average over the",
        f"sections of a setting and {results['draws']} draws of measured spots; ± is the standard deviation over",
        "draws. A region is a random spot and its nearest neighbours.", "",
    ]  # fmt: skip
    for setting in results["settings"]:
        for model, name in results["models"].items():
            text += [f"## ({setting}) {SETTINGS[setting]}", "", f"The predictor is `{name}`.", ""]
            for score, label in (("gene_pearson", "Gene-wise PCC"), ("rmse", "RMSE per spot")):
                for place, words in PLACES.items():
                    rows = lines_of(table, model, setting, score, place)
                    text += [f"{label}, by number of spots {words}:", "", *rows, ""]
    covered = table.dropna(subset="coverage").groupby(["method", "place", "n_measured"])["coverage"].mean()
    covered = covered.unstack(["place", "n_measured"])
    text += [
        "## Coverage", "", "Share of measurements at other spots within 1.96 standard errors of the imputed value:", "",
        *lines_by_size(covered, "{:.3f}"), "",
        "## Share of draws that were harmed", "",
        "Share of draws (all sections, both predictors) in which `adapt` has a higher RMSE than the predictor:", "",
        *lines_by_size(share_of_harm(table), "{:.2f}"),
    ]  # fmt: skip
    return "\n".join([*text, ""])


def draw_curves(table, metric, path):
    """Draw learning curves on new donors, averaged over settings (a) to (c)."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    shown = [PREDICTOR, ADAPTED, IMPUTED, KRIGED, TRAINED]
    rows = table[(table["model"] == "default") & table["method"].isin(shown) & (table["setting"] != "d")]
    keys = ["setting", "method", "place", "n_measured", "draw"]
    rows = rows.groupby(keys, sort=False)[metric].mean().reset_index()
    rows["method"] = pd.Categorical(rows["method"], shown)
    rows["place"] = rows["place"].map({"random": "spots at random", "region": "one contiguous region"})
    figure, axes = plt.subplots(2, 1, figsize=(4.4, 5.8), sharex=True, sharey=True, layout="constrained")
    rows = rows.sort_values(["place", "method"], ascending=[False, True]).astype({"method": str})
    stp.pl.learning_curve(rows, metric=metric, ax=axes)
    handles, names = axes[1].get_legend_handles_labels()
    axes[1].get_legend().remove()
    axes[0].set_xlabel("")
    axes[1].set_ylabel(axes[0].get_ylabel(), fontsize=axes[0].yaxis.label.get_fontsize())
    figure.legend(handles, names, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)


def main():
    """Run the settings, write the page, the figures as JSON, and the learning curves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gene-map", type=Path, help="Ensembl ids and symbols of mouse genes, for setting b")
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("stpredict-benchmark/adapt"))
    parser.add_argument("--donors", type=Path, default=Path("stpredict-benchmark/donors"), help="folder of donors.py")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--figures", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", UserWarning)
    tables, names = [], {}
    for setting in given.settings:
        paths = predict_all(setting, given.gene_map, given.folder, given.donors)
        names |= next(iter(paths.values()))["model"]
        measured = given.folder / f"{setting}-{given.draws}.csv"
        if not measured.is_file():
            measure(paths, given.draws).to_csv(measured, index=False)
        tables.append(pd.read_csv(measured))
    table = pd.concat(tables, ignore_index=True)
    results = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": f"{torch.get_num_threads()} threads, {platform.machine()}",
        "versions": {"scikit-learn": sklearn.__version__, "torch": torch.__version__},
        "draws": given.draws,
        "settings": given.settings,
        "models": names,
    }
    results["curves"] = {
        f"{model} {score}": spread_over_draws(table, model, score).round(4).to_dict(orient="list")
        for model in names
        for score in ("gene_pearson", "rmse")
    }
    (given.out / "adapt.json").write_text(json.dumps(results, indent=1))
    (given.out / "adapt.md").write_text(page(results, table), encoding="utf-8")
    for metric in ("gene_pearson", "rmse"):
        draw_curves(table, metric, given.figures / f"adaptation_{metric}.png")


if __name__ == "__main__":
    main()
