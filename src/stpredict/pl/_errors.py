"""Errors that several plots raise. An error of one function is raised there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks.names import did_you_mean
from .._checks.slides import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


def known_gene(gene: str, available: Sequence[str], key: str) -> None:
    """Refuse a gene that has no values under a key."""
    if gene not in available:
        hint = did_you_mean(gene, available) or f" There are {quote(available)}."
        msg = f"No gene {gene!r} in {key!r} ({len(available)} genes).{hint} Give another gene, or other `keys`."
        raise ValueError(msg)


def some_gene(genes: Sequence[str]) -> None:
    """Refuse an empty list of genes."""
    if not genes:
        msg = "`genes` is empty. Name at least one gene, such as `stp.pl.expression(sdata, 'ERBB2')`."
        raise ValueError(msg)


def some_value(values: NDArray[Any], what: str, key: str) -> None:
    """Refuse to draw values that are all missing."""
    if not np.isfinite(values).any():
        msg = f"Every value of {what} in {key!r} is missing there. Choose another `shapes_key` or other `keys`."
        raise ValueError(msg)


def enough_for_components(n_spots: int, n_genes: int, what: str, instead: str) -> None:
    """Refuse three principal components of too few spots or genes."""
    if n_spots < 4 or n_genes < 3:
        msg = (
            f"Three principal components need at least 4 spots and 3 genes that vary and are in all of {what}; "
            f"there are {n_spots} spots and {n_genes} genes. Draw genes one by one with `{instead}`."
        )
        raise ValueError(msg)


def require_table(table: object, needed: Sequence[str], name: str, call: str) -> None:
    """Refuse anything but a DataFrame with some rows and the needed columns."""
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        msg = f"`{name}` is {type(table).__name__}; expected the DataFrame that {call} gives."
        raise TypeError(msg)
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
