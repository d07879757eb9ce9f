"""From the scores of many cells to one row per model: means over units, with intervals. Data frames in and out."""

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
NOTED = ("unit", "leaks", "protocol", "headline", "protocol_note")
"""What the attributes of a summary repeat of the benchmark."""
OVER_UNITS = ("gene_pearson", "share_of_ceiling")
"""Scores that are averaged over units; the others are averaged over cells."""
MEANS = tuple(score.name for score in SUMMARY_SCORES if score.name not in OVER_UNITS)
COSTS = ("parameters", "macs", "fit_s", "train_spots_per_s", "predict_spots_per_s", "peak_memory_mib")


def unit_means(scores: pd.DataFrame, metric: str, unit: str) -> pd.DataFrame:
    """Mean of a score, one row per unit (``"group"`` or ``"slide"``), one column per model.

    It is averaged over genes, then folds and seeds, then slides, so that a patient with many slides counts once.
    """
    rows = scores[scores["metric"] == metric]
    by = ["model", unit, "slide"] if unit != "slide" else ["model", "slide"]
    of_runs = rows.groupby([*by, "fold", "seed"], observed=True, sort=False)["value"].mean()
    of_slides = of_runs.groupby(level=by, sort=False).mean()
    means: pd.DataFrame = of_slides.groupby(level=["model", unit], sort=False).mean().unstack("model")
    return means.sort_index()


def bootstrap_interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean of one value a unit; NaN for fewer than three units."""
    known = values[np.isfinite(values)]
    if len(known) < LEAST_UNITS:
        return float("nan"), float("nan")
    rows = np.random.default_rng(seed).integers(len(known), size=(N_RESAMPLES, len(known)))
    low, high = np.quantile(known[rows].mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def summarize(
    scores: pd.DataFrame, runs: pd.DataFrame, note: Mapping[str, Any], baselines: Sequence[str]
) -> pd.DataFrame:
    """One row a model, the best first."""
    unit = "group" if note["unit"] == "patient" else "slide"
    pearson, ceiling = (unit_means(scores, metric, unit) for metric in ("pearson", "ceiling"))
    means = {model: float(nan_mean(pearson[model].to_numpy())) for model in pearson.columns}
    scored = {name: means[name] for name in baselines if np.isfinite(means.get(name, np.nan))}
    baseline = max(scored, key=lambda name: scored[name]) if scored else None
    rows = {}
    for model, mean in sorted(means.items(), key=lambda item: -np.nan_to_num(item[1], nan=-np.inf)):
        low, high = bootstrap_interval(pearson[model].to_numpy())
        of_model = runs[runs["model"] == model]
        limit = float(nan_mean(ceiling[model].to_numpy()))
        rows[model] = {
            "gene_pearson": mean,
            "low": low,
            "high": high,
            **_difference(pearson, str(model), baseline),
            "share_of_ceiling": mean / limit if limit > 0 else float("nan"),
            "fold_std": float(of_model.groupby("fold")["gene_pearson"].mean().std()),
            **{name: _mean(of_model, name) for name in (*MEANS, *COSTS)},
        }
    summary = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    if note["protocol"] in {"m2ost", "m2ost_code"} and "mean_profile" in summary.index:
        for name in ("spot_pearson", "rmse"):
            summary[f"{name}_of_constant"] = float(summary[name]["mean_profile"])
    summary.attrs.update({name: note[name] for name in NOTED} | {"baseline": baseline, "n_units": len(pearson)})
    return summary


def _difference(pearson: pd.DataFrame, model: str, baseline: str | None) -> dict[str, float]:
    """Paired difference from the best baseline, over the units that both have."""
    undefined = dict.fromkeys(("difference", "difference_low", "difference_high"), float("nan"))
    if baseline is None or model == baseline:
        return undefined
    paired = (pearson[model] - pearson[baseline]).dropna().to_numpy()
    if not len(paired):
        return undefined
    low, high = bootstrap_interval(paired)
    return {"difference": float(paired.mean()), "difference_low": low, "difference_high": high}


def _mean(runs: pd.DataFrame, name: str) -> float:
    """Mean over folds and seeds, without NaN; NaN for a score that is newer than the cells."""
    return float(pd.to_numeric(runs[name]).mean()) if name in runs else float("nan")
