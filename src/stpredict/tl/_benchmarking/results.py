"""Folders of cells read back: scores as one long table, predictions as one table of spots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from ... import _keys as keys
from ..._checks.training import warn
from ..._files import DamagedFileError, read_arrays, read_csv, read_json
from ...metrics.inputs import Prediction
from ...metrics.scores import GENE_SCORES, SUMMARY_SCORES, summary_scores
from .._evaluate import usable_pathways
from . import _errors as check
from .cell import ADVICE, ERROR, ERROR_FIELDS, HELD_OUT, RUN, SCORES, read_run
from .runner import observations_file, read_observations

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    from numpy.typing import NDArray

    from .observations import Observations

ROW = ["model", "fold", "seed", "slide", "group", "gene"]
"""What identifies a row of the long table, beside the metric."""
FAILED = ["model", "fold", "seed", "error"]
BIOLOGY = tuple(score.name for score in SUMMARY_SCORES if {"domains", "pathways"} & set(score.inputs))
"""Scores of a prediction as a whole that need domains or pathways."""


def read_cells(
    folder: Path, labels: Sequence[str], seeds: Sequence[int] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Scores (one row per gene and metric), runs (one row per cell) and failures of some models; None for all seeds."""
    runs, scores, failed = [], [], []
    for label in labels:
        for place in sorted((folder / label).glob("fold-*-seed-*")):
            done = (place / RUN).is_file()
            if not done and not (place / ERROR).is_file():
                continue
            try:
                cell = read_run(place) if done else read_json(place / ERROR, ERROR_FIELDS, ADVICE)
                table = _long_table(_read_scores(place), cell) if done else None
            except DamagedFileError as error:
                warn(f"A cell is left out: {error}")
                _, fold, _, seed = place.name.split("-")
                cell, table = {"model": label, "fold": int(fold), "seed": int(seed), "error": str(error)}, None
            if seeds is not None and cell["seed"] not in seeds:
                continue
            if table is None:
                failed.append({name: cell[name] for name in FAILED})
            else:
                runs.append({name: value for name, value in cell.items() if name != "note"})
                scores.append(table)
    order = {label: i for i, label in enumerate(labels)}
    rows = pd.DataFrame(runs, columns=None if runs else ["model", "fold", "seed"])
    rows = rows.sort_values(["fold", "seed", "model"], key=lambda c: c.map(order) if c.name == "model" else c)
    long = pd.concat(scores) if scores else pd.DataFrame(columns=[*ROW, "metric", "value"])
    return long.reset_index(drop=True), rows.reset_index(drop=True), pd.DataFrame(failed, columns=FAILED)


def _read_scores(place: Path) -> pd.DataFrame:
    return read_csv(place / SCORES, ADVICE, text=["slide", "group", "gene"])


def _long_table(scores: pd.DataFrame, run: Mapping[str, Any]) -> pd.DataFrame:
    """Scores of one cell, one row per gene and metric."""
    table = scores.assign(model=run["model"], fold=run["fold"], seed=run["seed"])
    metrics = [score.name for score in GENE_SCORES if score.name in scores]  # a score may be newer than the cell
    return table.melt(id_vars=ROW, value_vars=metrics, var_name="metric", value_name="value")


def read_table(folder: Path, model: str, folds: Sequence[int], seed: int) -> ad.AnnData:
    """Held-out predictions of one model and seed: one row per test spot, one column per gene of any fold."""
    parts = [(fold, *read_fold(folder, model, fold, seed)) for fold in folds]
    genes = list(dict.fromkeys(gene for _, observations, _ in parts for gene in observations.genes))
    table = ad.concat([_fold_table(fold, observations, arrays, genes) for fold, observations, arrays in parts])
    if not table.obs_names.is_unique:  # several objects
        table.obs_names = [
            f"{slide}/{name}" for slide, name in zip(table.obs[keys.SLIDE], table.obs_names, strict=True)
        ]
    return table


def read_fold(folder: Path, model: str, fold: int, seed: int) -> tuple[Observations, dict[str, NDArray[Any]]]:
    """Observations of a fold, and ``predicted`` ``(n, g)`` and ``at_border`` ``(n,)`` of the same spots."""
    observations = read_observations(observations_file(folder, fold))
    place = folder / model / f"fold-{fold}-seed-{seed}" / HELD_OUT
    arrays = read_arrays(place, ["predicted", keys.AT_BORDER], ADVICE)
    shapes = {"predicted": observations.observed.shape, keys.AT_BORDER: observations.counted.shape}
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            reason = f"it has the shape {arrays[name].shape}, and the observations of this fold have {shape}"
            raise DamagedFileError(place, name, reason, ADVICE)
    return observations, arrays


def with_biology(
    folder: Path,
    runs: pd.DataFrame,
    pathways: Mapping[str, Sequence[str]] | str | PathLike[str] | None,
    domains: pd.Series | Mapping[str, Any] | None,
) -> pd.DataFrame:
    """Runs with scores of pathways and domains, from the held-out predictions of every cell."""
    check.one_domain_per_spot(domains)
    of_spot = None if domains is None else pd.Series(domains).dropna()
    n_domains, values = 0, []
    for model, fold, seed in zip(runs["model"], runs["fold"], runs["seed"], strict=True):
        observations, arrays = read_fold(folder, str(model), int(fold), int(seed))
        rows = observations.counted
        slides = [part[rows] for _, _, part in observations.scored_parts()]
        found = None
        if of_spot is not None:
            found = of_spot.reindex(_spot_names(observations, of_spot.index)[rows]).astype(object).to_numpy()
            n_domains = max(n_domains, *(pd.Series(found[part]).nunique() for part in slides))
        whole = Prediction(
            observed=observations.observed[rows],
            predicted=arrays["predicted"][rows],
            by_gene={},
            slides=slides,
            genes=observations.genes,
            domains=found,
            pathways=None if pathways is None else usable_pathways(pathways, observations.genes),
        )
        values.append({name: value for name, value in summary_scores(whole).items() if name in BIOLOGY})
    if of_spot is not None:
        check.several_domains(n_domains, len(of_spot), list(of_spot.index))
    return runs.assign(**pd.DataFrame(values, index=runs.index))


def _spot_names(observations: Observations, known: pd.Index) -> pd.Index:
    """Names of spots; with their slide before them, as in a table of several objects, where they are known so."""
    names = pd.Index(observations.names.astype(str))
    longer = pd.Index([f"{slide}/{name}" for slide, name in zip(observations.slide, names, strict=True)])
    return longer if longer.isin(known).any() else names


def _fold_table(
    fold: int, observations: Observations, arrays: Mapping[str, NDArray[Any]], genes: Sequence[str]
) -> ad.AnnData:
    """One fold, with columns for the genes of all folds."""
    columns = pd.Index(genes).get_indexer(pd.Index(observations.genes))
    predicted, observed = (np.full((len(observations.names), len(genes)), np.nan, np.float32) for _ in range(2))
    predicted[:, columns], observed[:, columns] = arrays["predicted"], observations.observed
    observed[~observations.counted] = np.nan
    obs = pd.DataFrame(index=pd.Index(observations.names.astype(str)))
    obs[keys.FOLD], obs[keys.SLIDE], obs[keys.GROUP] = fold, observations.slide, observations.group
    obs[keys.AT_BORDER] = arrays["at_border"]
    return ad.AnnData(
        predicted,
        obs=obs,
        var=pd.DataFrame(index=pd.Index(genes)),
        layers={keys.OBSERVED: observed},
        obsm={keys.SPATIAL: observations.xy},  # type: ignore[dict-item]
    )
