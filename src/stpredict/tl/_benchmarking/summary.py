"""From scores of many cells to one row a model: means over units, and how sure they are. Data frames in and out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ...metrics.scores import SUMMARY_SCORES, nan_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

LEAST_UNITS = 3
"""Units below which no interval is given."""
N_RESAMPLES = 10_000
LEVEL = 0.95
CARRIED = ("unit", "leaks", "protocol", "headline", "said")
OVER_UNITS = ("gene_pearson", "share_of_ceiling")
"""Scores that are averaged over units; the others are averaged over cells."""
MEANS = tuple(score.name for score in SUMMARY_SCORES if score.name not in OVER_UNITS)
COSTS = ("parameters", "macs", "fit_s", "train_spots_per_s", "predict_spots_per_s", "peak_memory_mib")


def unit_means(scores: pd.DataFrame, metric: str, unit: str) -> pd.DataFrame:
    """Mean of a score for every model and unit: over genes, then folds and seeds, then slides.

    Parameters
    ----------
    scores
        The long table of scores.
    metric
        Which score.
    unit
        Column that names the units, ``"group"`` or ``"slide"``.

    Returns
    -------
    One row a unit, one column a model.
    """
    rows = scores[scores["metric"] == metric]
    by = ["model", unit, "slide"] if unit != "slide" else ["model", "slide"]
    of_runs = rows.groupby([*by, "fold", "seed"], observed=True, sort=False)["value"].mean()
    of_slides = of_runs.groupby(level=by, sort=False).mean()
    means: pd.DataFrame = of_slides.groupby(level=["model", unit], sort=False).mean().unstack("model")
    return means.sort_index()


def interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap of a mean over units.

    Parameters
    ----------
    values
        One value a unit.
    seed
        Seed of the resampling.

    Returns
    -------
    The ends of the 95 % interval; NaN for fewer than three units.
    """
    known = values[np.isfinite(values)]
    if len(known) < LEAST_UNITS:
        return float("nan"), float("nan")
    rows = np.random.default_rng(seed).integers(len(known), size=(N_RESAMPLES, len(known)))
    low, high = np.quantile(known[rows].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def summarised(
    scores: pd.DataFrame, runs: pd.DataFrame, note: Mapping[str, Any], baselines: Sequence[str]
) -> pd.DataFrame:
    """One row a model, the best first.

    Parameters
    ----------
    scores, runs
        Of the benchmark.
    note
        ``unit``, ``leaks``, ``protocol`` and what else the result carries.
    baselines
        Labels of the baselines.

    Returns
    -------
    The summary.
    """
    unit = "group" if note["unit"] == "patient" else "slide"
    pearson, ceiling = (unit_means(scores, metric, unit) for metric in ("pearson", "ceiling"))
    means = {model: float(nan_mean(pearson[model].to_numpy())) for model in pearson.columns}
    scored = {name: means[name] for name in baselines if np.isfinite(means.get(name, np.nan))}
    baseline = max(scored, key=lambda name: scored[name]) if scored else None
    rows = {}
    for model, mean in sorted(means.items(), key=lambda item: -np.nan_to_num(item[1], nan=-np.inf)):
        low, high = interval(pearson[model].to_numpy())
        of_model = runs[runs["model"] == model]
        limit = float(nan_mean(ceiling[model].to_numpy()))
        rows[model] = {
            "gene_pearson": mean,
            "low": low,
            "high": high,
            **_difference(pearson, str(model), baseline),
            "share_of_ceiling": mean / limit if limit > 0 else float("nan"),
            "fold_std": _fold_std(of_model),
            **{name: _mean(of_model, name) for name in (*MEANS, *COSTS)},
        }
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    if note["protocol"] in {"m2ost", "m2ost_code"} and "mean_profile" in found.index:
        for name in ("spot_pearson", "rmse"):
            found[f"{name}_of_constant"] = float(found[name]["mean_profile"])
    found.attrs.update({name: note[name] for name in CARRIED} | {"baseline": baseline, "n_units": len(pearson)})
    return found


def _difference(pearson: pd.DataFrame, model: str, baseline: str | None) -> dict[str, float]:
    """Paired difference against the best baseline, over the units that both have."""
    nothing = dict.fromkeys(("difference", "difference_low", "difference_high"), float("nan"))
    if baseline is None or model == baseline:
        return nothing
    paired = (pearson[model] - pearson[baseline]).dropna().to_numpy()
    if not len(paired):
        return nothing
    low, high = interval(paired)
    return {"difference": float(paired.mean()), "difference_low": low, "difference_high": high}


def _fold_std(runs: pd.DataFrame) -> float:
    """Standard deviation over folds of the mean over seeds."""
    return float(runs.groupby("fold")["gene_pearson"].mean().std())


def _mean(runs: pd.DataFrame, name: str) -> float:
    """Mean over folds and seeds of what is known; NaN for a score that the cells were written without."""
    return float(pd.to_numeric(runs[name]).mean()) if name in runs else float("nan")
