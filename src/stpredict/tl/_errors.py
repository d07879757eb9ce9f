"""Errors and warnings about comparing predictions with measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._checks.slides import quote
from .._checks.training import warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData


def has_prediction(name: str, tables: Sequence[str], layers: Sequence[str]) -> None:
    """Refuse a prediction that does not exist."""
    if name not in layers:
        msg = (
            f"No prediction {name!r}: no such table (found: {quote(tables)}) and no such layer (found: "
            f"{quote(layers)}). Create it with `stp.tl.predict(sdata, predictor, key_added={name!r})`."
        )
        raise ValueError(msg)


def is_prediction(name: str, table: AnnData) -> None:
    """Refuse a table that `predict` did not write."""
    if "target" not in table.uns.get(name, {}):
        msg = (
            f"{name!r} was not written by `stp.tl.predict`: `uns[{name!r}]` does not say how expression was "
            "normalised. Predict again, or name the right table with `predicted`."
        )
        raise ValueError(msg)


def genes_to_score(n_genes: int, predicted: Sequence[str], measured: Sequence[str]) -> None:
    """Refuse predictions of genes of which none was measured."""
    if not n_genes:
        msg = (
            f"None of the {len(predicted)} predicted genes ({quote(predicted)}) is among the {len(measured)} measured "
            f"ones ({quote(measured)}). Use the same kind of names, or give the right table as `table_name`."
        )
        raise ValueError(msg)


def enough_pairs(n_spots: int) -> None:
    """Refuse to score fewer than three spots."""
    if n_spots < 3:
        msg = (
            f"No slide has more than {n_spots} spots with both counts and predictions; at least 3 are needed. They are "
            "matched by `obs_names`: were these changed after `stp.tl.predict`? Or give other elements as `shapes_key`."
        )
        raise ValueError(msg)


def has_summary(scores: pd.DataFrame) -> None:
    """Refuse a table that `evaluate` did not return."""
    if "summary" not in scores.attrs:
        msg = "These scores carry no summary: give what `stp.tl.evaluate` returned, as it is."
        raise ValueError(msg)


def seen_in_training(names: Sequence[str]) -> None:
    """Warn where slides are scored that the predictor was trained on."""
    if names:
        warn(
            f"The predictor was trained on {quote(names)}: these scores measure how well it remembers, not how well "
            "it predicts. Name the test slides with `shapes_key`."
        )


def not_cross_validated(name: str, *, ours: bool) -> None:
    """Refuse to score predictions of several predictors as those of one."""
    if ours:
        msg = (
            f"{name!r} was cross-validated: every fold has its own predictor and baselines. Its scores are what "
            "`stp.tl.cross_validate` returned."
        )
        raise ValueError(msg)
