"""Learning curves: a score over the number of measured spots, one line a method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks.calls import public
from .._checks.slides import quote
from . import _errors as check
from ._style import NEUTRAL, category, look, panels, tidy

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

METHOD, N_MEASURED, PLACE, DRAW = "method", "n_measured", "place", "draw"
LABELS = {"gene_pearson": "gene-wise Pearson r", "rmse": "RMSE per spot", "spot_pearson": "spot-wise Pearson r"}


@public
def learning_curve(
    scores: pd.DataFrame, *, metric: str = "gene_pearson", ax: Axes | Sequence[Axes] | None = None
) -> NDArray[Any]:
    """Score of each method by the number of measured spots.

    Lines are means, bands are one standard deviation over draws of the measured spots. A method that is known without
    any measured spot starts at 0; one that does not depend on them is a level line.

    Parameters
    ----------
    scores
        One row for each method, number of spots and draw: columns ``"method"``, ``"n_measured"`` and the score; also
        ``"draw"`` (number of the draw; rows with the same number, such as those of several slides, are averaged first)
        and ``"place"`` (how spots were chosen, one panel each), if there are such columns.
    metric
        Column with the score.
    ax
        One axes for each place; a new figure by default.

    Returns
    -------
    ``(n_places,)`` axes.

    Examples
    --------
    >>> import pandas as pd
    >>> import stpredict as stp
    >>> rows = [("adapt", 0, 0, 0.30), ("adapt", 10, 0, 0.32), ("adapt", 10, 1, 0.36), ("kriging", 10, 0, 0.1)]
    >>> scores = pd.DataFrame(rows, columns=["method", "n_measured", "draw", "gene_pearson"])
    >>> (ax,) = stp.pl.learning_curve(scores)
    >>> [line.get_label() for line in ax.lines]
    ['adapt', 'kriging']
    """
    check.require_table(scores, [METHOD, N_MEASURED], "scores", "one row a method, number of spots and draw")
    if metric not in scores.columns:
        columns = [name for name in scores.columns if name not in {METHOD, N_MEASURED, PLACE, DRAW}]
        msg = f"`metric` is {metric!r}; `scores` has the columns {quote(columns)}. Give one of them."
        raise ValueError(msg)
    check.some_score(scores[metric].to_numpy(dtype=np.float64), metric)
    places = list(scores[PLACE].unique()) if PLACE in scores.columns else [None]
    methods = list(scores[METHOD].unique())
    with look():
        axes = panels(ax, len(places), panel_in=(3.4, 2.6))
        for panel, place in zip(axes, places, strict=True):
            part = scores if place is None else scores[scores[PLACE] == place]
            for i, method in enumerate(methods):
                _draw_method(panel, part[part[METHOD] == method], metric, str(method), i)
            _finish(panel, part, "" if place is None else str(place))
        axes[0].set_ylabel(LABELS.get(metric, metric))
        handles, names = axes[0].get_legend_handles_labels()
        below = {"loc": "outside lower center", "ncols": min(3, len(names))}
        figure: Any = axes[0].figure
        if ax is None and len(names) > 1:
            figure.legend(handles, names, **below)
        elif len(names) > 1:
            axes[-1].legend(handles, names)
    return axes


def _draw_method(ax: Axes, rows: pd.DataFrame, metric: str, method: str, i: int) -> None:
    """The mean over draws as a line, and their standard deviation as a band."""
    if rows.empty:
        return
    keys = [N_MEASURED, DRAW] if DRAW in rows.columns else [N_MEASURED]
    of_draw = rows.groupby(keys)[metric].mean()
    by_size = of_draw.groupby(level=N_MEASURED)
    mean, std = by_size.mean(), by_size.std().fillna(0.0)
    sizes = mean.index.to_numpy(dtype=np.float64)
    style = "-" if i < 4 else "--"
    ax.plot(sizes, mean.to_numpy(), style, color=category(i), marker="o", markersize=2.5, label=method)
    ax.fill_between(sizes, mean - std, mean + std, color=category(i), alpha=0.18, linewidth=0)


def _finish(ax: Axes, rows: pd.DataFrame, title: str) -> None:
    tidy(ax)
    sizes = sorted(rows[N_MEASURED].unique())
    least = min((size for size in sizes if size > 0), default=1)
    ax.set_xscale("symlog", linthresh=least, linscale=0.3)
    ax.set_xticks(sizes, [f"{size:g}" for size in sizes])
    ax.minorticks_off()
    ax.set_xlabel("measured spots")
    ax.set_title(title)
    if ax.get_ylim()[0] < 0 < ax.get_ylim()[1]:
        ax.axhline(0, color=NEUTRAL, linewidth=0.6, zorder=0)
