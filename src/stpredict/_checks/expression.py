"""Errors about expression values: values that are not counts, genes that are missing or named twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from .names import did_you_mean
from .slides import quote

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray


ROUNDING, RELATIVE_ROUNDING, MAX_ROUNDING = 1e-3, 2e-6, 0.1
"""How far counts may be from whole numbers after arithmetic in float32: at least, of their value, and at most."""
_ADVICE = (
    "Normalised or log-transformed values are not counts; for counts corrected for ambient RNA, give "
    "`allow_fractional_counts=True` where a predictor is trained, which then takes them everywhere."
)


def is_whole(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which values are whole numbers but for rounding; infinite and missing ones are not."""
    allowed = np.clip(RELATIVE_ROUNDING * np.abs(values), ROUNDING, MAX_ROUNDING)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(values - np.round(values)) <= allowed)


def counts(
    matrix: ArrayLike | sparse.spmatrix,
    *,
    genes: Sequence[object] = (),
    spots: Sequence[object] = (),
    fractional: bool = False,
) -> None:
    """Refuse values ``(n_spots, n_genes)`` that are not counts: missing, infinite, negative or not whole."""
    found = sparse.coo_matrix(matrix)
    values = np.asarray(found.data, dtype=np.float64)
    tests = (
        (~np.isfinite(values), "not finite", "Drop or fill these entries."),
        (values < 0, "negative", "Scaled or centred values are not counts."),
        (~is_whole(values) & (not fractional), "not whole numbers", _ADVICE),
    )
    for bad, what, advice in tests:
        if bad.any():
            i = int(np.argmax(bad))
            where = f"spot {_name(spots, found.row[i])}, gene {_name(genes, found.col[i])}"
            msg = (
                f"Raw counts are needed, but values are {what}: {values[i]:g} at {where} ({int(bad.sum())} such "
                f"values; minimum {np.nanmin(values):g}, maximum {np.nanmax(values):g}{_looks_log(values)}). {advice} "
                "Give the `layer` that holds raw counts."
            )
            raise ValueError(msg)


def _name(names: Sequence[object], i: int) -> str:
    return repr(str(names[i])) if len(names) else str(int(i))


def _looks_log(values: NDArray[np.float64]) -> str:
    with np.errstate(over="ignore", invalid="ignore"):
        raw = np.expm1(values[:1000])
        log_like = np.nanmin(values) >= 0 and np.nanmax(values) < 20
        if log_like and np.allclose(raw, np.round(raw), atol=1e-3):
            return "; they are log1p of whole numbers"
    return "; the range is that of log values" if log_like else ""


def zero_spots(matrix: ArrayLike | sparse.spmatrix) -> NDArray[np.bool_]:
    """``(n_spots,)`` which spots have no count at all."""
    empty: NDArray[np.bool_] = np.asarray(sparse.csr_matrix(matrix).sum(axis=1)).ravel() == 0
    return empty


def known_genes(asked: Sequence[str], available: Sequence[str]) -> None:
    """Refuse genes that the table does not have, all of them at once."""
    present = set(available)
    missing = [gene for gene in asked if gene not in present]
    if missing or not len(asked):
        what = (
            f"{len(missing)} of {len(asked)} genes asked for are no genes of the table: {', '.join(map(repr, missing))}"
        )
        msg = (
            f"{what if missing else 'No gene is asked for'}.{did_you_mean(missing, available)} "
            f"The table has {len(available)}: {quote(available)}. "
            "Leave the missing ones out of `genes`, or let `stp.pp.select_genes(sdata, n_genes=250)` choose."
        )
        raise ValueError(msg)


def unique_genes(names: Sequence[str], what: str) -> None:
    """Refuse genes that are named more than once."""
    values, n_times = np.unique(np.asarray(names, dtype=str), return_counts=True)
    twice = values[n_times > 1].tolist()
    if twice:
        msg = (
            f"Gene names in {what} are not unique: {quote(twice)}. Make them so, for instance with "
            "`adata.var_names_make_unique()`."
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
