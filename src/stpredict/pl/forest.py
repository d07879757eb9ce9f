"""The means of all models with their intervals as a forest plot. Only reports draw it, so it is not in `stp.pl`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._style import BLUE, DASHES, NEUTRAL, ORANGE, look, number, tidy

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def forest(summary: pd.DataFrame, ceiling: float, ax: Axes) -> None:
    """Draw one row for each model, the best on top; the best baseline is a diamond, the noise ceiling a grey line."""
    baseline = str(summary.attrs.get("baseline"))
    with look():
        tidy(ax)
        ax.axvline(0, color=NEUTRAL, linewidth=0.8, zorder=0)
        if np.isfinite(ceiling):
            ax.axvline(ceiling, color=NEUTRAL, linewidth=0.8, linestyle=DASHES, zorder=0)
            ax.text(ceiling, 1.0, "noise ceiling", transform=ax.get_xaxis_transform(), color=NEUTRAL, ha="right",
                    va="bottom", fontsize=7)  # fmt: skip
        if baseline in summary.index:
            score = float(summary["gene_pearson"][baseline])
            ax.axvline(score, color=ORANGE, linewidth=0.8, linestyle=DASHES, zorder=0)
        for y, (model, row) in enumerate(summary[["gene_pearson", "low", "high"]].iterrows()):
            color, marker = (ORANGE, "D") if model == baseline else (BLUE, "o")
            ax.plot([row["low"], row["high"]], [y, y], color=color, linewidth=1.5)
            ax.plot(row["gene_pearson"], y, marker, color=color, markersize=4.5, gid="mean")
            text = number(row["gene_pearson"]) if np.isfinite(row["gene_pearson"]) else "no score"
            ax.text(1.01, y, text, transform=ax.get_yaxis_transform(), color=color, va="center", fontweight="bold")
        ax.set(xlabel="mean gene-wise Pearson r", ylim=(len(summary) - 0.4, -0.6))
        ax.set_yticks(range(len(summary)), [str(name) for name in summary.index])
        ax.tick_params(axis="y", length=0)
        ax.spines["left"].set_visible(False)
