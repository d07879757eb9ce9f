"""Errors about expression values: counts that are none, genes that are missing, constant or named twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from .slides import listed
from .training import warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


def counts(matrix: ArrayLike | sparse.spmatrix, *, genes: Sequence[object] = (), spots: Sequence[object] = ()) -> None:
    """Refuse values that are no counts, and say how it was noticed.

    Parameters
    ----------
    matrix
        ``(n_spots, n_genes)``, dense or sparse.
    genes
        Names of the columns, for the message.
    spots
        Names of the rows, for the message.

    Raises
    ------
    ValueError
        If a value is missing, infinite, negative or not whole.
    """
    found = sparse.coo_matrix(matrix)
    values = np.asarray(found.data, dtype=np.float64)
    tests = (
        (~np.isfinite(values), "not finite", "Drop or fill these entries."),
        (values < 0, "negative", "Scaled or centred values are no counts."),
        (values != np.round(values), "not whole numbers", "Normalised or log-transformed values are no counts."),
    )
    for bad, what, advice in tests:
        if bad.any():
            at = int(np.argmax(bad))
            where = f"spot {_name(spots, found.row[at])}, gene {_name(genes, found.col[at])}"
            msg = (
                f"Raw counts are needed, but values are {what}: {values[at]:g} at {where} ({int(bad.sum())} such "
                f"values; minimum {np.nanmin(values):g}, maximum {np.nanmax(values):g}{_looks_log(values)}). {advice} "
                "Give the `layer` that holds raw counts."
            )
            raise ValueError(msg)


def _name(names: Sequence[object], at: int) -> str:
    return repr(str(names[at])) if len(names) else str(int(at))


def _looks_log(values: NDArray[np.float64]) -> str:
    with np.errstate(over="ignore", invalid="ignore"):
        raw = np.expm1(values[:1000])
        log_like = np.nanmin(values) >= 0 and np.nanmax(values) < 20
        if log_like and np.allclose(raw, np.round(raw), atol=1e-3):
            return "; they are log1p of whole numbers"
    return "; the range is that of log values" if log_like else ""


def zero_spots(matrix: ArrayLike | sparse.spmatrix) -> NDArray[np.bool_]:
    """Which spots hold no count at all.

    Parameters
    ----------
    matrix
        ``(n_spots, n_genes)`` counts, dense or sparse.

    Returns
    -------
    ``(n_spots,)`` mask.
    """
    empty: NDArray[np.bool_] = np.asarray(sparse.csr_matrix(matrix).sum(axis=1)).ravel() == 0
    return empty


def some_spots(n_spots: int, what: str) -> None:
    """Refuse to compute a spread from fewer than two spots."""
    if n_spots < 2:
        msg = f"{what} needs at least two spots with counts, found {n_spots}. Use more spots, or name `genes` yourself."
        raise ValueError(msg)


def known_genes(asked: Sequence[str], available: Sequence[str]) -> None:
    """Refuse genes that the table does not have, all of them at once."""
    present = set(available)
    missing = [gene for gene in asked if gene not in present]
    if missing or not len(asked):
        what = f"{len(missing)} of {len(asked)} genes asked for are not in the table: {', '.join(map(repr, missing))}"
        msg = (
            f"{what if missing else 'No gene is asked for'}. The table has {len(available)}: {listed(available)}. "
            "Leave the missing ones out of `genes`, or let `stp.pp.select_genes(sdata, n_genes=250)` choose."
        )
        raise ValueError(msg)


def unique_genes(names: Sequence[str], what: str) -> None:
    """Refuse genes that are named more than once."""
    values, n_times = np.unique(np.asarray(names, dtype=str), return_counts=True)
    twice = values[n_times > 1].tolist()
    if twice:
        msg = (
            f"Gene names in {what} are not unique: {listed(twice)}. Make them so, for instance with "
            "`adata.var_names_make_unique()`."
        )
        raise ValueError(msg)


def variable_genes(n_variable: int, n_genes: int) -> None:
    """Refuse a table in which no gene varies enough to be learnt."""
    if n_variable == 0:
        msg = (
            f"None of {n_genes} genes varies over the training spots and is seen in enough of them. Lower "
            "`min_fraction`, give more training slides, or name `genes` yourself."
        )
        raise ValueError(msg)


def shared_genes(n_shared: int, n_each: Sequence[int]) -> None:
    """Refuse slides that have no gene in common."""
    if n_shared == 0:
        msg = (
            f"The {len(n_each)} slides ({', '.join(map(str, n_each))} genes) share no gene. Use the same kind of names "
            "(symbols or Ensembl ids) in all of them."
        )
        raise ValueError(msg)


def known_groups(asked: Sequence[str], available: Sequence[str], argument: str, key: str) -> None:
    """Refuse groups that no spot belongs to, all of them at once."""
    missing = [name for name in asked if name not in set(available)]
    if missing or not len(asked):
        what = listed(missing) if missing else "nothing"
        msg = f"`{argument}` names {what}; obs[{key!r}] holds {listed(available)}. Give some of these."
        raise ValueError(msg)


def both_sides(n_train: int, n_test: int, by: str) -> None:
    """Refuse a split with an empty side."""
    if not (n_train and n_test):
        msg = (
            f"The split by {by!r} leaves {n_train} spots to train and {n_test} to test. Hold out some groups but not "
            "all, or use `by='block'` where there is one group only."
        )
        raise ValueError(msg)


def panel_measured(missing: Sequence[str], n_genes: int, table_name: str) -> None:
    """Warn where predicted genes were not measured."""
    if missing:
        warn(
            f"Table {table_name!r} lacks {len(missing)} of the {n_genes} predicted genes ({listed(missing)}): these "
            "cannot be compared with measurements."
        )
