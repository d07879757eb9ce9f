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
    """The scores of the model beside those of the baselines, the noise ceiling last; of each kind of donor, if told."""
    parts = scores.groupby("donor", sort=False) if "donor" in scores else [("", scores)]
    kinds = {str(kind): rows for kind, rows in parts}
    n_genes = len(next(iter(kinds.values())))
    lines = [f"{scores.attrs['n_spots']} spots, {n_genes} genes, {scores.attrs['units']}"]
    labels, names = {score.name: score.label for score in SUMMARY_SCORES}, {**ROWS, "model": label}
    for kind, rows in kinds.items():
        table = tl.summary(rows.drop(columns="donor", errors="ignore"))
        ceiling = float(nan_mean(rows["ceiling"].to_numpy()))
        lines.append(f"{kind:<18}" + "".join(f"{labels[name]:>15}" for name in COLUMNS))
        lines += [
            f"{names[str(row)]:<18}" + "".join(f"{table.loc[row, column]:>15.3f}" for column in COLUMNS)
            for row in table.index
        ]
        lines.append(f"{'noise ceiling':<18}{ceiling:>15.3f}")
    return "\n".join([*lines, ""])
