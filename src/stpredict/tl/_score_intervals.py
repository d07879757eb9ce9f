"""How certain the scores of a slide are: intervals from resampled blocks of neighbouring spots. Tables only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import block_diag, csr_array

from .. import _keys as keys
from .._checks import config as check_config
from .._checks.calls import public
from .._geometry import spot_pitch
from .._progress import progress_bar
from ..io.containers import opened
from ..metrics.inputs import Spots
from ..metrics.scores import SUMMARY_SCORES
from . import _errors as check
from ._evaluate import ceilings_of, pair_tables, score_slides, whole_scores
from ._summary import LEVEL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from numpy.typing import NDArray

    from .._slides.regions import Regions
    from ..io.containers import DataOrPath
    from ._paired_spots import Paired

    Scores = dict[tuple[str, str], float]
    """By row (the model or a baseline) and score."""

BASELINE = "ridge_color"
"""The row from which differences are taken."""
LEAST_BLOCKS = 5
BETTER = {score.name: score.higher_is_better for score in SUMMARY_SCORES}
"""Whether more of a score is better: then it is at most 1; of an error or a gap at least 0."""


@public
def score_intervals(
    sdata: DataOrPath,
    *,
    predicted: str = keys.PREDICTED,
    table_name: str | None = None,
    layer: str | None = None,
    shapes_key: str | list[str] | None = None,
    library_key: str | None = None,
    regions: Regions | None = None,
    domain_key: str | None = None,
    pathways: Mapping[str, Sequence[str]] | str | PathLike[str] | None = None,
    block_spots: float = 5.0,
    n_resamples: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Intervals of the scores of `summary`, by a spatial block bootstrap: for one slide, or a few of one patient.

    Neighbouring spots are alike, so resampling single spots would give intervals that are too narrow. Here every slide
    is cut into squares, and whole squares are drawn with replacement :cite:p:`Hall1985`.

    Parameters
    ----------
    sdata
        The object, after `predict`, as in `evaluate`.
    predicted
        Table with predictions, or layer of the measured table.
    table_name
        Table with measured counts, as in `evaluate`.
    layer
        Layer of that table with raw counts; by default X.
    shapes_key
        Score the spots of these elements only; by default all.
    library_key
        Column of ``obs`` with library sizes, as in `evaluate`.
    regions
        Score only spots whose centre lies in these polygons, as in `evaluate`.
    domain_key
        Column of ``obs`` of the measured table with domains, as in `evaluate`.
    pathways
        Gene sets by name, or the path of a GMT file, as in `evaluate`.
    block_spots
        Side of a square, in distances between neighbouring spots; at least 2. It should be as long as patterns reach:
        squares that are too small give intervals that are too narrow, and of large ones there are few.
    n_resamples
        How often squares are drawn.
    seed
        Seed of the draws.
    progress
        Show a progress bar.

    Returns
    -------
    One row a score of the model and of each baseline: ``row`` (``mean_profile``, ``ridge_color``, ``model``),
    ``score``, ``value`` (that of `summary`), ``low`` and ``high`` (95 % interval); ``difference`` from ``ridge_color``,
    with ``difference_low`` and ``difference_high`` (NaN in its own rows). ``attrs["n_blocks"]`` is the number of
    squares.

    Raises
    ------
    ValueError
        As in `evaluate`; if there are fewer than five squares; if an argument is out of range.

    Notes
    -----
    The interval of a score is its value plus the 2.5 % and 97.5 % quantiles of the resampled scores around their mean,
    so that a score that resampling shifts (a gap, an overlap) is not shifted with it; it ends at 0 for errors and gaps
    and at 1 for other scores. Neighbours of a spot, for scores of maps, are those in its own square. The noise ceiling
    of a gene is that of all spots, and does not vary. Where fewer than half of the draws give a number, the interval is
    NaN.

    The interval says how much the score would vary over tissue like that of these slides. How much it varies between
    patients it cannot say: `stp.tl.Benchmark.intervals` does, from several patients.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=3, n_side=9, um_per_px=8.0)
    >>> config = stp.tl.FitConfig(n_epochs=1, progress=False)
    >>> predictor = stp.tl.fit(sdata, "ridge_color", shapes_key=["S0_spots", "S1_spots"], config=config)
    >>> stp.tl.predict(sdata, predictor, progress=False)
    >>> found = stp.tl.score_intervals(
    ...     sdata, shapes_key="S2_spots", block_spots=3, n_resamples=20, progress=False
    ... ).set_index(["row", "score"])
    >>> low, value, high = found.loc[("model", "gene_pearson"), ["low", "value", "high"]]
    >>> low < value < high
    True
    """
    check_config.in_range("block_spots", block_spots, 2, 100_000)
    check_config.in_range("n_resamples", n_resamples, 2, 100_000)
    with opened(sdata, needs_image=False) as held:
        _, paired = pair_tables(
            held, predicted, table_name, layer, shapes_key, library_key, regions, domain_key, pathways
        )
    paired = paired.of(np.flatnonzero(np.any(paired.slide_masks(), axis=0)))
    blocks = spatial_blocks(paired.xy, paired.slide, block_spots)
    check.enough_blocks(len(blocks), LEAST_BLOCKS, block_spots)
    ceilings = ceilings_of(paired, n_splits=10, seed=0)  # as `evaluate` computes them by default
    values = _scores(paired, None, ceilings)
    rng = np.random.default_rng(seed)
    draws = progress_bar(range(n_resamples), desc="resamples", unit="draw", progress=progress)
    slide = np.array([paired.slide[rows[0]] for rows in blocks])
    strata = [np.flatnonzero(slide == name) for name in ceilings]  # squares of each slide
    graphs = [_graph(paired, rows) for rows in blocks]
    resampled = [_resampled_scores(paired, blocks, strata, graphs, ceilings, rng) for _ in draws]
    table = pd.DataFrame([_interval(name, values, resampled) for name in values])
    table.attrs["n_blocks"] = len(blocks)
    return table


def spatial_blocks(xy: NDArray[np.float64], slide: NDArray[np.str_], block_spots: float) -> list[NDArray[np.intp]]:
    """Rows of each square of each slide that has spots; a lattice of spots is never cut through its points."""
    blocks = []
    for name in np.unique(slide):
        rows = np.flatnonzero(slide == name)
        pitch = spot_pitch(xy[rows])
        square = np.floor((xy[rows] - xy[rows].min(axis=0) + pitch / 2) / (block_spots * pitch)).astype(np.int64)
        _, number = np.unique(square, axis=0, return_inverse=True)
        blocks += [rows[number == i] for i in range(number.max() + 1)]
    return blocks


def _scores(paired: Paired, weights: csr_array | None, ceilings: Mapping[str, NDArray[np.float64]]) -> Scores:
    """All scores of the model and the baselines, with the neighbours of a graph ``(n, n)``; None: the nearest."""
    by_gene = score_slides(paired, ceilings, weights)
    return {
        (row, name): value
        for row, scores in by_gene.items()
        for name, value in whole_scores(paired, row, scores).items()
    }


def _graph(paired: Paired, rows: NDArray[np.intp]) -> csr_array:
    """The neighbours of the spots of one square among themselves."""
    alone = len(rows) == 1
    return csr_array((1, 1)) if alone else Spots(observed=paired.observed[rows], xy=paired.xy[rows]).weights


def _resampled_scores(
    paired: Paired,
    blocks: Sequence[NDArray[np.intp]],
    strata: Sequence[NDArray[np.intp]],
    graphs: Sequence[csr_array],
    ceilings: Mapping[str, NDArray[np.float64]],
    rng: np.random.Generator,
) -> Scores:
    """Scores of as many squares of each slide as it has, drawn with replacement."""
    drawn = np.concatenate([rng.choice(own, len(own)) for own in strata])
    rows = np.concatenate([blocks[i] for i in drawn])
    return _scores(paired.of(rows), block_diag([graphs[i] for i in drawn], format="csr"), ceilings)


def _interval(name: tuple[str, str], values: Scores, resampled: Sequence[Scores]) -> dict[str, object]:
    """One row of the table."""
    row, score = name
    value, draws = values[name], np.array([each.get(name, np.nan) for each in resampled])
    low, high = _around(value, draws)
    if BETTER[score] is False:
        low = max(low, min(value, 0.0))
    else:
        high = min(high, max(value, 1.0))
    other = (BASELINE, score)
    if row == BASELINE or other not in values:
        difference = difference_low = difference_high = float("nan")
    else:
        difference = value - values[other]
        difference_low, difference_high = _around(
            difference, draws - np.array([each.get(other, np.nan) for each in resampled])
        )
    return {
        "row": row, "score": score, "value": value, "low": low, "high": high,
        "difference": difference, "difference_low": difference_low, "difference_high": difference_high,
    }  # fmt: skip


def _around(value: float, draws: NDArray[np.float64]) -> tuple[float, float]:
    """The interval that the spread of resampled values around their mean gives."""
    known = draws[np.isfinite(draws)]
    if not np.isfinite(value) or 2 * len(known) < len(draws):
        return float("nan"), float("nan")
    low, high = value + np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) - known.mean()
    return float(low), float(high)
