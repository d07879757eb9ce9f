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
from .observations import HeldOut
from .runner import FOLDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

WHERE = ("model", "fold", "seed", "slide", "group", "gene")


FAILED = ("model", "fold", "seed", "error")


def read_cells(
    folder: Path, labels: Sequence[str], seeds: Sequence[int] | None = None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """All cells that are finished, or failed.

    Parameters
    ----------
    folder
        Of the benchmark.
    labels
        Which models.
    seeds
        Which seeds; None for all.

    Returns
    -------
    Scores, one row a gene and metric; runs, one row a cell; failures.
    """
    runs, scores, failed = [], [], []
    for label in labels:
        for place in sorted((folder / label).glob("fold-*-seed-*")):
            done = (place / RUN).is_file()
            if not done and not (place / ERROR).is_file():
                continue
            said = json.loads((place / (RUN if done else ERROR)).read_text(encoding="utf-8"))
            if seeds is not None and said["seed"] not in seeds:
                continue
            if done:
                runs.append({name: value for name, value in said.items() if name != "note"})
                scores.append(_long(pd.read_csv(place / SCORES), said))
            else:
                failed.append({name: said[name] for name in FAILED})
    order = {label: i for i, label in enumerate(labels)}
    rows = pd.DataFrame(runs, columns=None if runs else ["model", "fold", "seed"])
    rows = rows.sort_values(["fold", "seed", "model"], key=lambda c: c.map(order) if c.name == "model" else c)
    long = pd.concat(scores) if scores else pd.DataFrame(columns=[*WHERE, "metric", "value"])
    return long.reset_index(drop=True), rows.reset_index(drop=True), pd.DataFrame(failed, columns=list(FAILED))


def _long(scores: pd.DataFrame, run: Mapping[str, Any]) -> pd.DataFrame:
    """Scores of one cell, one row a gene and metric."""
    named = scores.assign(model=run["model"], fold=run["fold"], seed=run["seed"])
    metrics = [score.name for score in GENE_SCORES if score.name in scores]  # cells may be older than a score
    return named.melt(id_vars=list(WHERE), value_vars=metrics, var_name="metric", value_name="value")


def read_table(folder: Path, model: str, folds: Sequence[int], seed: int) -> ad.AnnData:
    """Held-out predictions of one model and seed.

    Parameters
    ----------
    folder
        Of the benchmark.
    model
        Label.
    folds
        Folds that are finished.
    seed
        The seed.

    Returns
    -------
    One row a test spot, one column a gene of any fold.
    """
    parts = [(fold, *read_fold(folder, model, fold, seed)) for fold in folds]
    genes = list(dict.fromkeys(gene for _, held, _ in parts for gene in held.genes))
    table = ad.concat([_aligned(fold, held, arrays, genes) for fold, held, arrays in parts])
    if not table.obs_names.is_unique:  # several objects
        table.obs_names = [
            f"{slide}/{name}" for slide, name in zip(table.obs[keys.SLIDE], table.obs_names, strict=True)
        ]
    return table


def read_fold(folder: Path, model: str, fold: int, seed: int) -> tuple[HeldOut, dict[str, NDArray[Any]]]:
    """What was measured in a fold, and what a model predicted there.

    Parameters
    ----------
    folder
        Of the benchmark.
    model, fold, seed
        Which cell.

    Returns
    -------
    Measurements; ``predicted`` ``(n, g)`` and ``at_border`` ``(n,)`` of the same spots.
    """
    with np.load(folder / FOLDS / f"fold-{fold}.npz") as arrays:
        held = HeldOut.from_arrays(arrays)
    with np.load(folder / model / f"fold-{fold}-seed-{seed}" / HELD_OUT) as arrays:
        return held, dict(arrays)


def _aligned(fold: int, held: HeldOut, arrays: Mapping[str, NDArray[Any]], genes: Sequence[str]) -> ad.AnnData:
    """One fold, with the genes of all folds."""
    columns = pd.Index(genes).get_indexer(pd.Index(held.genes))
    predicted, observed = (np.full((len(held.names), len(genes)), np.nan, np.float32) for _ in range(2))
    predicted[:, columns], observed[:, columns] = arrays["predicted"], held.observed
    observed[~held.counted] = np.nan
    obs = pd.DataFrame(index=pd.Index(held.names.astype(str)))
    obs[keys.FOLD], obs[keys.SLIDE], obs[keys.GROUP] = fold, held.slide, held.group
    obs[keys.AT_BORDER] = arrays["at_border"]
    return ad.AnnData(
        predicted,
        obs=obs,
        var=pd.DataFrame(index=pd.Index(genes)),
        layers={keys.OBSERVED: observed},
        obsm={keys.SPATIAL: held.xy},  # type: ignore[dict-item]
    )
