"""Errors and warnings about comparing predictions with measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._checks.slides import listed
from .._checks.training import warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray


def has_prediction(name: str, tables: Sequence[str], layers: Sequence[str]) -> None:
    """Refuse a prediction that does not exist."""
    if name not in layers:
        msg = (
            f"No prediction {name!r}: no such table (found: {listed(tables)}) and no such layer (found: "
            f"{listed(layers)}). Create it with `stp.tl.predict(sdata, predictor, key_added={name!r})`."
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
            f"None of the {len(predicted)} predicted genes ({listed(predicted)}) is among the {len(measured)} measured "
            f"ones ({listed(measured)}). Use the same kind of names, or give the right table as `table_name`."
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


def unchanged(values: NDArray[np.float32], name: str, *, recorded: bool) -> None:
    """Refuse predictions below zero: `predict` writes none, so they were scaled or centred since (or are old)."""
    if recorded and (values < 0).any():
        msg = (
            f"{name!r} holds {int((values < 0).sum()):,} values below 0, which `stp.tl.predict` does not write: it was "
            "scaled or centred since. Predict again, and keep changed values in another layer."
        )
        raise ValueError(msg)


def whole_panel(missing: Sequence[str], n_genes: int, table_name: str, *, needed: bool) -> None:
    """Refuse a table without some of the predicted genes where library sizes are sums over these."""
    if needed and missing:
        msg = (
            f"Library sizes are sums over the {n_genes} predicted genes, and table {table_name!r} lacks {len(missing)} "
            f"of them ({listed(missing)}): values would be in other units. Give a table that holds them all, or train "
            "with the genes that it has."
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
            f"The predictor was trained on {listed(names)}: these scores measure how well it remembers, not how well "
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
