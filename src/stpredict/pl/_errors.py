"""Errors of plots: keys, genes, regions, spots, tables of scores, axes, and what a benchmark does not hold."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks.slides import quote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray


NEEDED = ("failed", "folder", "note", "runs", "scores", "summary", "table")


def n_axes(given: int, needed: int) -> None:
    """Refuse another number of axes than there are panels."""
    if given != needed:
        msg = f"`ax` holds {given} axes for {needed} panels. Give {needed}, or leave `ax` out for a new figure."
        raise ValueError(msg)


def some_key(asked: Sequence[str]) -> None:
    """Refuse to draw nothing."""
    if not asked:
        msg = "`keys` is empty. Name at least one table or layer, such as `keys=['observed', 'predicted']`."
        raise ValueError(msg)


def known_key(key: str, tables: Sequence[str], layers: Sequence[str]) -> None:
    """Refuse a key that is neither a table nor a layer of the table of counts."""
    if key not in layers:
        hint = "Give others as `keys`, or `table_name` if the counts are in another table"
        if key == "predicted":
            hint = "Create it with `stp.tl.predict(sdata, predictor)`, or draw only the others: `keys=['observed']`"
        msg = f"No table or layer {key!r} (tables: {quote(tables)}; layers of counts: {quote(layers)}). {hint}."
        raise ValueError(msg)


def one_region(regions: Mapping[str, Sequence[str]], asked: str | Sequence[str] | None) -> str:
    """The one region to draw; an error if there are several or none, or if a key lacks the one asked for."""
    candidates = [name for name in next(iter(regions.values())) if all(name in found for found in regions.values())]
    if isinstance(asked, str):
        if asked in candidates:
            return asked
        lacking = [key for key, found in regions.items() if asked not in found]
        msg = (
            f"No region {asked!r} in {quote(lacking)}; regions of all that is drawn: {quote(candidates)}. "
            "Give one of these as `region`."
        )
        raise ValueError(msg)
    if len(candidates) != 1:
        what = f"There are {len(candidates)} regions: {quote(candidates)}. One is drawn at a time"
        msg = f"{what if candidates else f'{quote(list(regions))} have no region in common'}. Give `region`."
        raise ValueError(msg)
    return candidates[0]


def known_region(asked: str | None, regions: Sequence[str]) -> None:
    """Refuse a region that no spots are in."""
    if asked is not None and asked not in regions:
        msg = f"No region {asked!r} (found: {quote(regions)}). Give one of these as `region`."
        raise ValueError(msg)


def known_gene(gene: str, available: Sequence[str], key: str) -> None:
    """Refuse a gene that has no values under a key."""
    if gene not in available:
        close = get_close_matches(gene, available, n=3, cutoff=0.6)
        hint = f"Did you mean {', '.join(map(repr, close))}?" if close else f"There are {quote(available)}."
        msg = f"No gene {gene!r} in {key!r} ({len(available)} genes). {hint} Give another gene, or other `keys`."
        raise ValueError(msg)


def some_value(values: NDArray[Any], what: str, key: str) -> None:
    """Refuse to draw values that are all missing."""
    if not np.isfinite(values).any():
        msg = f"Every value of {what} in {key!r} is missing in this region. Choose another `region` or other `keys`."
        raise ValueError(msg)


def enough_for_components(n_spots: int, n_genes: int, keys: Sequence[str]) -> None:
    """Refuse three components of too few spots or genes."""
    if n_spots < 4 or n_genes < 3:
        msg = (
            f"Three principal components need at least 4 spots and 3 genes that vary and are in all of {quote(keys)}; "
            f"there are {n_spots} spots and {n_genes} genes. Give other `keys`, or draw genes one by one with "
            "`stp.pl.expression(sdata, gene)`."
        )
        raise ValueError(msg)


def spot_found(spot: object, matches: Sequence[str], names: Sequence[str], regions: Sequence[str]) -> None:
    """Refuse a spot that is nowhere, or in several regions."""
    if not matches:
        msg = (
            f"No spot {spot!r} in region {quote(regions)} (spots: {quote(names)}). Give a name from `obs_names` of "
            "the table, or an index of the spots element."
        )
        raise ValueError(msg)
    if len(matches) > 1:
        msg = f"Spot {spot!r} is in several regions: {quote(matches)}. Give `region`, or a name from `obs_names`."
        raise ValueError(msg)


def is_table(value: object, name: str, call: str) -> None:
    """Refuse anything but a DataFrame."""
    import pandas as pd

    if not isinstance(value, pd.DataFrame):
        msg = f"`{name}` is {type(value).__name__}; expected the DataFrame that {call} gives."
        raise TypeError(msg)


def has_columns(table: pd.DataFrame, needed: Sequence[str], name: str, call: str) -> None:
    """Refuse a table that is empty or lacks a column."""
    missing = [column for column in needed if column not in table.columns]
    if missing:
        found = quote(list(table.columns))
        msg = f"`{name}` has no column {quote(missing)} (found: {found}). Expected is what {call} gives."
        raise ValueError(msg)
    if not len(table):
        msg = f"`{name}` is empty: there is nothing to draw. Expected is what {call} gives."
        raise ValueError(msg)


def some_score(values: NDArray[np.float64], column: str) -> None:
    """Refuse scores that are all missing."""
    if not np.isfinite(values).any():
        msg = (
            f"All {len(values)} values of '{column}' are NaN: no gene varies over these spots, or there are too few of "
            "them. Evaluate on more spots with `stp.tl.evaluate`."
        )
        raise ValueError(msg)


def is_benchmark(value: object) -> None:
    """Refuse what is no result of a benchmark."""
    missing = [name for name in NEEDED if not hasattr(value, name)]
    if missing:
        msg = f"`benchmark` is {type(value).__name__}; expected what `stp.tl.benchmark` gives."
        raise TypeError(msg)


def some_model(n_models: int) -> None:
    """Refuse a benchmark in which no model has been scored."""
    if not n_models:
        msg = "No model of this benchmark has a score yet: there is nothing to show. Run `stp.tl.benchmark` on."
        raise ValueError(msg)


def known_metric(metric: str, found: Sequence[str]) -> None:
    """Refuse a score that was not computed."""
    if metric not in found:
        msg = f"No score {metric!r} in this benchmark. Give another `metric` (found: {quote(found)})."
        raise ValueError(msg)


def known_section(slide: str | None, found: Sequence[str]) -> None:
    """Refuse a section that no model predicted."""
    if not found:
        msg = "This benchmark holds no held-out predictions: its folder was moved or emptied. Run `stp.tl.benchmark`."
        raise ValueError(msg)
    if slide is not None and slide not in found:
        msg = f"No section {slide!r} among the held-out ones. Give another `slide` (found: {quote(found)})."
        raise ValueError(msg)


def enough_to_color(n_spots: int, n_genes: int) -> None:
    """Refuse three principal components of too few spots or genes."""
    if n_spots < 4 or n_genes < 3:
        msg = (
            "Three principal components need at least 4 spots and 3 genes that vary and that all models predict; there "
            f"are {n_spots} spots and {n_genes} genes. Draw genes one by one with `stp.pl.benchmark_maps`."
        )
        raise ValueError(msg)
