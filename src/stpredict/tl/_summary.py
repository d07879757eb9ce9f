"""Scores of genes as one row a model: of `evaluate`, of `cross_validate`, and of a benchmark. Data frames in and out.

Everything is computed from the rows that are given, so that they may be filtered, or read back from a CSV file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._checks.calls import public
from ..metrics.inputs import nan_mean
from ..metrics.scores import SUMMARY_SCORES
from ..metrics.top_genes import N_BEST, N_TOP, best, mark_largest
from . import _errors as check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

BASELINES = ("mean_profile", "ridge_color")
"""Baselines that `evaluate` scores beside the model."""
ALWAYS_RUN = ("mean_profile", "ridge_color", "knn_spatial")
"""Models of a benchmark that are baselines."""
GENE_COLUMNS = ("pearson", "pearson_ridge_color", "pearson_mean_profile", "ceiling", "variance", "n_genes")
"""Columns without which the scores of `evaluate` cannot be summarised."""
CELL = ("model", "fold", "seed")
N_ROWS = "n_scored"
"""Column with the number of correlations of genes of a cell, by which filtered rows are recognised."""
LONG_COLUMNS = (*CELL, "slide", "group", "gene", "metric", "value", N_ROWS)
"""Columns without which the scores of `cross_validate` cannot be summarised."""
LEAST_UNITS = 3
"""Units below which no interval is given."""
N_RESAMPLES = 10_000
LEVEL = 0.95
NOTED = ("unit", "leaks", "protocol", "headline", "protocol_note")
"""What the attributes of a summary repeat of the benchmark."""
OVER_UNITS = ("gene_pearson", "share_of_ceiling")
"""Scores that are averaged over units; the others are averaged over cells."""
MEANS = tuple(score.name for score in SUMMARY_SCORES if score.name not in OVER_UNITS and not score.inputs)
"""Those of every benchmark; the others need domains, pathways or intervals."""
SCORES_OF_WHOLE = {
    f"spot_{score.name.removeprefix('spot_')}" if score.axis == "spot" else score.name: score.name
    for score in SUMMARY_SCORES
    if score.name not in OVER_UNITS
}
"""Scores of a prediction as a whole by their column where scores of genes are beside them."""
OF_GENES = ("gene_pearson_top50", *(f"best{n}" for n in N_BEST))
"""Those that `summary` computes from the scores of genes of `evaluate`."""
COSTS = ("parameters", "macs", "fit_s", "train_spots_per_s", "predict_spots_per_s", "peak_memory_mib")


def whole_columns(values: Mapping[str, float], row: str) -> dict[str, float]:
    """Scores of the model or a baseline that `summary` cannot compute from scores of genes, by their columns."""
    stored = {name: score for name, score in SCORES_OF_WHOLE.items() if score in values and score not in OF_GENES}
    return {_column(name, row): values[score] for name, score in stored.items()}


def _column(score: str, row: str) -> str:
    return score if row == "model" else f"{score}_{row}"


@public
def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """The scores of the model beside those of the baselines.

    Parameters
    ----------
    scores
        The result of `evaluate` or `cross_validate`, or some of its rows, also read back from a CSV file. All is
        computed from the rows that are given.

    Returns
    -------
    Of `evaluate`: rows ``mean_profile``, ``ridge_color``, ``model``. Columns, averaged over genes or spots:
    ``gene_pearson`` (genes, across spots; 0 for a constant prediction), ``gene_pearson_top50`` (the 50 genes that vary
    most), ``best10``, ``best50`` and ``best200`` (the genes that this row predicts best: chosen by the score itself, so
    optimistic), ``spot_pearson`` (spots, across genes: the number of the M2OST paper), ``rmse`` and ``mae`` a spot,
    ``share_of_ceiling`` (``gene_pearson`` over the mean ceiling); ``gene_r2`` and ``spot_r2``, explained variation;
    ``moran_agreement``, ``moran_gap``, ``geary_gap``, ``svg_overlap`` and ``gene_ssim``, of maps; ``coexpression``, of
    gene-gene correlations; and where they were asked for ``domain_log_fold``, ``pathway_pearson``, ``coverage_gap`` and
    ``gene_interval_skill``. Of ``evaluate(…, by="donor")`` the index has two
    levels: ``"new donor"``, ``"same donor"`` or ``"not stated"``, and the row.

    Of `cross_validate`: one row a model, the best first, with the columns of `Benchmark.summary` but for costs.

    All but the scores of the first sentence up to ``best200``, and ``share_of_ceiling``, are over all genes of the
    panel: they are NaN if rows of some genes are missing. Of `cross_validate` so are all that are averaged over folds.

    Raises
    ------
    ValueError
        If columns are missing.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=3, n_side=5)
    >>> train = ["S0_spots", "S1_spots"]
    >>> predictor = stp.tl.fit(sdata, "ridge_color", shapes_key=train, config={"progress": False})
    >>> stp.tl.predict(sdata, predictor, progress=False)
    >>> scores = stp.tl.evaluate(sdata, shapes_key="S2_spots")
    >>> list(stp.tl.summary(scores[scores["ceiling"] > 0.5]).index)
    ['mean_profile', 'ridge_color', 'model']
    """
    scores = _with_plain_numbers(scores)
    if "metric" in scores:
        check.has_score_columns(list(map(str, scores.columns)), LONG_COLUMNS)
        return _of_cells(scores)
    check.has_score_columns(list(map(str, scores.columns)), GENE_COLUMNS)
    if "donor" not in scores:
        return _of_genes(scores)
    tables = {kind: _of_genes(rows) for kind, rows in scores.groupby("donor", sort=False)}
    found: pd.DataFrame = pd.concat(tables, names=["donor", "row"])
    return found


def _with_plain_numbers(scores: pd.DataFrame) -> pd.DataFrame:
    """Numbers that can be missing, such as those of Arrow, as numpy has them."""
    nullable = [
        name for name, kind in scores.dtypes.items()
        if pd.api.types.is_extension_array_dtype(kind) and pd.api.types.is_numeric_dtype(kind)
    ]  # fmt: skip
    return scores.astype(dict.fromkeys(nullable, np.float64)) if nullable else scores


def _of_genes(scores: pd.DataFrame) -> pd.DataFrame:
    """Summary of the scores of one prediction, one row a gene."""
    ceiling = float(nan_mean(scores["ceiling"].to_numpy()))
    variable = mark_largest(scores["variance"].to_numpy(), n=N_TOP)
    whole = len(scores) == scores["n_genes"].max()
    rows = {}
    for row in (*BASELINES, "model"):
        pearson = scores[_column("pearson", row)].to_numpy(dtype=np.float64)
        mean = float(nan_mean(pearson))
        stored = {name: _column(column, row) for column, name in SCORES_OF_WHOLE.items()}
        rows[row] = {
            "gene_pearson": mean,
            "gene_pearson_top50": float(nan_mean(pearson[variable])),
            **{f"best{n}": best(pearson, n=n) for n in N_BEST},
            "share_of_ceiling": mean / ceiling if ceiling > 0 else float("nan"),
            **{name: float(scores[of].iloc[0]) if whole else np.nan for name, of in stored.items() if of in scores},
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table[[score.name for score in SUMMARY_SCORES if score.name in table]]


def with_cell_scores(scores: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The scores of genes beside those of the whole cell that each is of."""
    n_rows = scores[scores["metric"] == "pearson"].groupby([*CELL]).size().rename(N_ROWS).reset_index()
    name_of = {score: name for name, score in SCORES_OF_WHOLE.items() if score in runs}
    of_cells = runs[[*CELL, *name_of]].rename(columns=name_of)
    return scores.merge(of_cells.merge(n_rows, on=[*CELL]), on=[*CELL], how="left")


def _of_cells(scores: pd.DataFrame) -> pd.DataFrame:
    """Summary of the scores of a cross-validation, one row a model, fold, seed, slide, gene and metric."""
    name_of = {name: score for name, score in SCORES_OF_WHOLE.items() if name in scores}
    runs = scores.drop_duplicates([*CELL]).set_index([*CELL])[[*name_of, N_ROWS]].rename(columns=name_of)
    found = scores[scores["metric"] == "pearson"].groupby([*CELL]).size().reindex(runs.index)
    runs.loc[found != runs[N_ROWS], [*name_of.values()]] = np.nan
    several = scores["group"].nunique() > 1 and not scores["group"].equals(scores["slide"])
    note = {"unit": "patient" if several else "section", "protocol": None, **_constants(scores, ("protocol", "leaks"))}
    models = set(scores["model"])
    summary = summarize(scores, runs.reset_index(), note, [name for name in ALWAYS_RUN if name in models])
    return summary.drop(columns=list(COSTS))


def _constants(scores: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """Values of columns that are the same in all rows."""
    return {name: scores[name].iloc[0] for name in names if name in scores and len(scores)}


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


def whole_intervals(scores: pd.DataFrame, runs: pd.DataFrame, unit: str) -> pd.DataFrame:
    """Mean and interval over units of every score of whole cells, where each fold tests one unit."""
    of_fold = scores.groupby("fold")[unit].unique()
    known = runs.assign(unit=runs["fold"].map(of_fold[of_fold.map(len) == 1].map(lambda names: names[0])))
    rows = []
    for model, cells in known.groupby("model", sort=False):
        for name in [score.name for score in SUMMARY_SCORES if score.name in runs and score.name not in OVER_UNITS]:
            values = pd.to_numeric(cells[name])
            low, high = bootstrap_interval(values.groupby(cells["unit"]).mean().to_numpy())
            rows.append({"model": model, "score": name, "mean": float(values.mean()), "low": low, "high": high})
    return pd.DataFrame(rows, columns=["model", "score", "mean", "low", "high"])


def summarize(
    scores: pd.DataFrame, runs: pd.DataFrame, note: Mapping[str, Any], baselines: Sequence[str]
) -> pd.DataFrame:
    """One row a model, the best first."""
    unit = "group" if note["unit"] == "patient" else "slide"
    pearson, ceiling = (unit_means(scores, metric, unit) for metric in ("pearson", "ceiling"))
    of_folds = _fold_means(scores)
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
            "fold_std": float(of_folds[model].std()),
            **{name: _mean(of_model, name) for name in (*MEANS, *COSTS)},
        }
    summary = pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
    if note["protocol"] in {"m2ost", "m2ost_code"} and "mean_profile" in summary.index:
        for name in ("spot_pearson", "rmse"):
            summary[f"{name}_of_constant"] = float(summary[name]["mean_profile"])
    summary.attrs.update(
        {name: note[name] for name in NOTED if name in note} | {"baseline": baseline, "n_units": len(pearson)}
    )
    return summary


def _fold_means(scores: pd.DataFrame) -> pd.DataFrame:
    """Mean correlation over slides, then genes, then seeds: one row a fold, one column a model."""
    rows = scores[scores["metric"] == "pearson"]
    of_genes = rows.groupby(["model", "fold", "seed", "gene"], observed=True)["value"].mean()
    means: pd.DataFrame = of_genes.groupby(level=["model", "fold", "seed"]).mean().unstack("model")
    return means.groupby(level="fold").mean()


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
