"""Scores of all genes, beside a baseline and the noise ceiling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import config as check_config
from .._checks.calls import public
from . import _errors as check
from ._style import BLUE, DASHES, NEUTRAL, ORANGE, italic, look, number, panels, tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

CALL = "`stp.tl.evaluate(sdata)`"
ROWS = (("pearson_ridge_color", ORANGE), ("pearson", BLUE), ("ceiling", NEUTRAL))
"""Columns that are drawn with their colours, from the baseline to the ceiling."""
JITTER, ABOVE = 0.09, 1.01


@public
def scores(
    scores: pd.DataFrame,
    *,
    label: str = "model",
    n_labels: int = 5,
    ax: Axes | Sequence[Axes] | None = None,
) -> NDArray[Any]:
    """Gene-wise Pearson correlations, beside a ridge on colour and the noise ceiling.

    Left: the distribution over genes, with the mean of each row. The dashed line at 0 is the score of the mean profile
    of the training spots. Right: each gene against its noise ceiling; the line marks scores equal to the ceiling, the
    highest that a prediction can reach given the noise of the counts.

    Parameters
    ----------
    scores
        The result of `tl.evaluate`, one row for each gene: ``"pearson"`` and, if they are known,
        ``"pearson_ridge_color"`` and ``"ceiling"``. The number of genes without a score (NaN) is written on the plot.
    label
        Name of what was evaluated.
    n_labels
        Largest number of best predicted genes that are named. Names that would cover points are left out.
    ax
        Two axes to draw on, or one if there is no ceiling; a new figure by default.

    Returns
    -------
    ``(2,)`` axes, or ``(1,)`` if there is no ceiling.

    Examples
    --------
    >>> import pandas as pd
    >>> import stpredict as stp
    >>> table = pd.DataFrame(
    ...     {"pearson": [0.1, 0.4, 0.3], "pearson_ridge_color": [0.1, 0.3, 0.2], "ceiling": [0.5, 0.7, 0.6]},
    ...     index=["ACTB", "ERBB2", "CD74"],
    ... )
    >>> axes = stp.pl.scores(table, label="M2OST")
    >>> [tick.get_text() for tick in axes[0].get_yticklabels()]
    ['ridge on colour', 'M2OST', 'noise ceiling']
    """
    check.require_table(scores, ["pearson"], "scores", CALL)
    check_config.in_range("n_labels", n_labels, 0, 1000)
    columns = {name: scores[name].to_numpy(dtype=np.float64) for name, _ in ROWS if name in scores.columns}
    check.some_score(columns["pearson"], "pearson")
    drawn = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    both = "ceiling" in drawn and bool((np.isfinite(drawn["ceiling"]) & np.isfinite(drawn["pearson"])).any())
    with look():
        axes = panels(ax, 1 + both, panel_in=(3.0, 2.5))
        for panel in axes:
            tidy(panel)
        _distributions(axes[0], drawn, label)
        n_missing = int((~np.isfinite(columns["pearson"])).sum())
        if n_missing:
            text = f"{n_missing} of {len(scores)} genes have no score"
            axes[0].text(1, ABOVE, text, transform=axes[0].transAxes, ha="right", fontsize=7)
        if both:
            _against_ceiling(axes[1], drawn, scores.index.astype(str).tolist(), label, n_labels)
    return axes


def _distributions(ax: Axes, drawn: dict[str, NDArray[np.float64]], label: str) -> None:
    """One row for each score: density above, genes below, and the mean as a line with its number."""
    names = {"pearson_ridge_color": "ridge on colour", "pearson": label, "ceiling": "noise ceiling"}
    rows = [(name, color) for name, color in ROWS if name in drawn]
    ax.axvline(0, color=NEUTRAL, linewidth=0.8, linestyle=DASHES, zorder=0)
    ax.text(0, ABOVE, "mean profile", transform=ax.get_xaxis_transform(), color=NEUTRAL, ha="center", fontsize=7)
    for y, (name, color) in enumerate(rows):
        values = drawn[name][np.isfinite(drawn[name])]
        _density(ax, values, y + 0.14, color)
        spread = np.random.default_rng(0).uniform(-JITTER, JITTER, len(values))
        ax.scatter(values, y - 0.08 + spread, s=5, color=color, alpha=0.7, linewidths=0, label=name)
        mean = float(values.mean())
        ax.plot([mean, mean], [y - 0.2, y + 0.5], color=color, linewidth=1.6, gid="mean")
        ax.annotate(
            number(mean),
            (mean, y + 0.5),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=8,
            fontweight="bold",
            color=color,
        )
    ax.set(xlabel="Pearson r of a gene over spots", ylim=(-0.35, len(rows) - 0.1))
    ax.set_yticks(range(len(rows)), [names[name] for name, _ in rows])
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def _density(ax: Axes, values: NDArray[np.float64], y: float, color: str) -> None:
    if len(values) < 5 or np.ptp(values) < 1e-9:
        return
    from scipy.stats import gaussian_kde  # deferred: slow to import

    at = np.linspace(values.min(), values.max(), 200)
    height = gaussian_kde(values)(at)
    ax.fill_between(at, y, y + 0.32 * height / height.max(), color=color, alpha=0.4, linewidth=0)


def _against_ceiling(
    ax: Axes, drawn: dict[str, NDArray[np.float64]], genes: list[str], label: str, n_labels: int
) -> None:
    x, y = drawn["ceiling"], drawn["pearson"]
    complete = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    low, high = min(0.0, float(y[complete].min())), max(float(x[complete].max()), float(y[complete].max()))
    margin = 0.05 * (high - low)
    ax.axline((0, 0), slope=1, color=NEUTRAL, linewidth=0.8)
    diagonal: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor", "transform_rotates_text": True}
    above: dict[str, Any] = {"xytext": (-3, 3), "textcoords": "offset points", "ha": "center", "va": "bottom"}
    ax.annotate("ceiling", (0.25 * high, 0.25 * high), color=NEUTRAL, fontsize=7, **above, **diagonal)
    ax.axhline(0, color=NEUTRAL, linewidth=0.8, linestyle=DASHES, zorder=0)
    ax.scatter(x[complete], y[complete], s=9, color=BLUE, alpha=0.75, linewidths=0)
    ax.set(
        xlim=(-margin, high + margin),
        ylim=(low - margin, high + margin),
        xlabel="noise ceiling of the gene",
        ylabel=f"Pearson r, {label}",
    )
    best = complete[np.argsort(-y[complete])]
    n_tried = 6 * n_labels
    share = np.column_stack([x[best], y[best]]) / (high + margin - low)
    placed = _labels_without_overlap(
        share, [genes[at] for at in best[:n_tried]], (high + margin) / (high + margin - low)
    )
    for i, (across, up) in list(placed.items())[:n_labels]:
        at = best[i]
        where: dict[str, Any] = {"ha": "right" if across < 0 else "left", "va": "baseline" if up > 0 else "top"}
        offset = (3 * across, 2 * up)
        ax.annotate(italic(genes[at]), (x[at], y[at]), offset, textcoords="offset points", fontsize=7, **where)


def _labels_without_overlap(xy: NDArray[np.float64], names: list[str], edge: float) -> dict[int, tuple[int, int]]:
    """Index of each point with room for its name, and where: left or right (-1, 1) and below or above (-1, 1)."""
    kept: dict[int, tuple[int, int]] = {}
    boxes: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for i, name in enumerate(names):
        width = 0.028 * len(name) + 0.01
        for across, up in ((-1, 1), (1, -1), (-1, -1), (1, 1)):
            low = xy[i] + (0.01 if across > 0 else -0.01 - width, 0.01 if up > 0 else -0.05)
            high = low + np.array([width, 0.04])
            covers = ((xy > low) & (xy < high)).all(axis=1).any()
            on_line = low[0] < high[1] and low[1] < high[0]
            on_name = any((low < h).all() and (high > b).all() for b, h in boxes)
            if not (covers or on_line or on_name or high[0] > edge):
                kept[i] = across, up
                boxes.append((low, high))
                break
    return kept
