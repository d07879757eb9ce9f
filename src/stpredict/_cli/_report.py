"""Scores as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import tl
from ..metrics.scores import SUMMARY_SCORES, nan_mean

if TYPE_CHECKING:
    import pandas as pd

ROWS = {"mean_profile": "mean profile", "ridge_color": "ridge on colour", "model": "model"}
COLUMNS = ("gene_pearson", "best50", "spot_pearson", "rmse")
"""Scores that there is room for on a line."""


def score_table(scores: pd.DataFrame, *, label: str = "model") -> str:
    """The scores of the model beside those of the baselines, the noise ceiling last."""
    table = tl.summary(scores)
    names = {**ROWS, "model": label}
    labels = {score.name: score.label for score in SUMMARY_SCORES}
    ceiling = float(nan_mean(scores["ceiling"].to_numpy()))
    title = f"{scores.attrs['n_spots']} spots, {len(scores)} genes, {scores.attrs['units']}"
    lines = [title, " " * 18 + "".join(f"{labels[name]:>15}" for name in COLUMNS)]
    lines += [
        f"{names[str(row)]:<18}" + "".join(f"{table.loc[row, column]:>15.3f}" for column in COLUMNS)
        for row in table.index
    ]
    return "\n".join([*lines, f"{'noise ceiling':<18}{ceiling:>15.3f}", ""])
