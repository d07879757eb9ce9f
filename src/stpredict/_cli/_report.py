"""Scores as lines of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import tl
from ..metrics.inputs import nan_mean
from ..metrics.scores import SUMMARY_SCORES

if TYPE_CHECKING:
    import pandas as pd

ROWS = {"mean_profile": "mean profile", "ridge_color": "ridge on colour", "model": "model"}
COLUMNS = ("gene_pearson", "best50", "spot_pearson", "rmse")
"""Scores that there is room for on a line."""
ASKED_FOR = tuple(score.name for score in SUMMARY_SCORES if score.inputs)
"""Scores that are there if domains, pathways or intervals were given."""


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
        width = {name: max(15, len(labels[name]) + 2) for name in (*COLUMNS, *ASKED_FOR) if name in table}
        lines.append(f"{kind:<18}" + "".join(f"{labels[name]:>{width[name]}}" for name in width))
        lines += [
            f"{names[str(row)]:<18}" + "".join(f"{table.loc[row, name]:>{width[name]}.3f}" for name in width)
            for row in table.index
        ]
        lines.append(f"{'noise ceiling':<18}{ceiling:>15.3f}")
    return "\n".join([*lines, ""])
