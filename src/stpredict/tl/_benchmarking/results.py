"""Folders of cells read back: scores as one long table, predictions as one table of spots."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from ... import _keys as keys
from ...metrics.scores import GENE_SCORES
from .cell import ERROR, HELD_OUT, RUN, SCORES
from .observations import Observations
from .runner import FOLDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

ROW = ["model", "fold", "seed", "slide", "group", "gene"]
"""What identifies a row of the long table, beside the metric."""
FAILED = ["model", "fold", "seed", "error"]


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
            cell = json.loads((place / (RUN if done else ERROR)).read_text(encoding="utf-8"))
            if seeds is not None and cell["seed"] not in seeds:
                continue
            if done:
                runs.append({name: value for name, value in cell.items() if name != "note"})
                scores.append(_long_table(pd.read_csv(place / SCORES), cell))
            else:
                failed.append({name: cell[name] for name in FAILED})
    order = {label: i for i, label in enumerate(labels)}
    rows = pd.DataFrame(runs, columns=None if runs else ["model", "fold", "seed"])
    rows = rows.sort_values(["fold", "seed", "model"], key=lambda c: c.map(order) if c.name == "model" else c)
    long = pd.concat(scores) if scores else pd.DataFrame(columns=[*ROW, "metric", "value"])
    return long.reset_index(drop=True), rows.reset_index(drop=True), pd.DataFrame(failed, columns=FAILED)


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
    with np.load(folder / FOLDS / f"fold-{fold}.npz") as arrays:
        observations = Observations.from_arrays(arrays)
    with np.load(folder / model / f"fold-{fold}-seed-{seed}" / HELD_OUT) as arrays:
        return observations, dict(arrays)


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
