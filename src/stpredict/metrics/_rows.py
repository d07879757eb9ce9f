"""What all scores share: which spots count, what counts as constant, and work in blocks of bounded memory.

A "row" here is one gene (its values over spots) or one spot (its values over genes); no score is defined here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from . import _errors as check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import ArrayLike, NDArray

CONSTANT = 1e-6
"""A row whose range is at most this share of its largest magnitude is constant (about 8 rounding steps of float32)."""

BLOCK = 2**22
"""Values held as float64 at a time (32 MiB an array)."""


def as_matrix(values: ArrayLike, name: str) -> NDArray[Any]:
    """Return ``values`` as a checked ``(n_spots, n_genes)`` array; NaN passes, infinity does not."""
    check.dense(values, name)
    array = np.asarray(with_nan(values))
    check.matrix(array, name)
    check.finite_or_nan(array, name)
    return array


def with_nan(values: ArrayLike) -> ArrayLike:
    """Masked values as NaN, which would else count like others."""
    return np.ma.filled(values.astype(np.float64), np.nan) if isinstance(values, np.ma.MaskedArray) else values


def align_genes(values: Any, like: Any, name: str, like_name: str) -> Any:
    """One value for each gene in the order of the columns of others; arrays have no labels."""
    names = getattr(like, "columns", None)
    return values if names is None else align(values, names.to_series(), name, like_name, columns=False, noun="genes")


def align(
    values: Any,
    like: Any,
    name: str,
    like_name: str,
    *,
    columns: bool = True,
    noun: str = "spots",
) -> Any:
    """Pandas values in the order of the labels of others: spots, and genes if ``columns``; arrays have no labels."""
    for axis in ("index", "columns") if columns else ("index",):
        labels, wanted = (getattr(each, axis, None) if hasattr(each, "reindex") else None for each in (values, like))
        if labels is None or wanted is None or labels.equals(wanted):
            continue
        if (_is_default(labels) or _is_default(wanted)) and len(labels.symmetric_difference(wanted)):
            continue  # one side has no names
        check.same_labels(labels, wanted, name, like_name, noun if axis == "index" else "genes")
        values = values.reindex(**{axis: wanted})
    return values


def label_codes(labels: Any) -> NDArray[np.intp]:
    """A number for each label, -1 where it is missing."""
    import pandas as pd  # deferred: slow to import

    codes, _ = pd.factorize(pd.Series(labels).to_numpy())
    return np.asarray(codes, np.intp)


def _is_default(labels: Any) -> bool:
    """Whether labels are only the positions 0, 1, …, which pandas gives where there are no names."""
    return type(labels).__name__ == "RangeIndex" and labels.start == 0 and labels.step == 1


def complete_spots(values: NDArray[Any], name: str) -> NDArray[np.bool_]:
    """Mark the spots without NaN in any gene, ``(n_spots,)``: the only ones that are scored."""
    missing = np.isnan(values)
    check.some_spot_per_gene(missing, name)
    return ~missing.any(axis=1)


def complete_pairs(
    observed: ArrayLike, predicted: ArrayLike, needed: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Both arrays, checked, without spots with NaN in either, and which spots are left, ``(n_spots,)``."""
    predicted = align(predicted, observed, "predicted", "observed")
    observed, predicted = as_matrix(observed, "observed"), as_matrix(predicted, "predicted")
    check.same_shape(observed, predicted)
    scored = complete_spots(observed, "observed") & complete_spots(predicted, "predicted")
    n_scored = int(scored.sum())
    check.enough(n_scored, needed, "spots", len(scored) - n_scored)
    if n_scored < len(scored):
        observed, predicted = observed[scored], predicted[scored]
    return observed, predicted, scored


def score_rows(
    score: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    observed: ArrayLike,
    predicted: ArrayLike,
    *,
    axis: Literal["gene", "spot"],
    needed: int,
) -> NDArray[np.float64]:
    """Score each gene or each spot, without spots with NaN; one score needs at least ``needed`` values."""
    check.axis(axis)
    observed, predicted, scored = complete_pairs(observed, predicted, needed if axis == "gene" else 1)
    if axis == "gene":
        return _score_blocks(score, observed.T, predicted.T)
    check.enough(observed.shape[1], needed, "genes")
    scores = np.full(len(scored), np.nan)
    scores[scored] = _score_blocks(score, observed, predicted)
    return scores


def _score_blocks(
    score: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]],
    observed: NDArray[Any],
    predicted: NDArray[Any],
) -> NDArray[np.float64]:
    return np.concatenate([score(as_float(observed[b]), as_float(predicted[b])) for b in blocks(*observed.shape)])


def blocks(n_rows: int, length: int) -> Iterator[slice]:
    """Cut ``n_rows`` rows of ``length`` values into slices of at most `BLOCK` values (one row at least)."""
    step = max(1, BLOCK // max(1, length))
    return (slice(start, start + step) for start in range(0, n_rows, step))


def as_float(rows: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``rows`` as contiguous float64, so that sums run along memory."""
    return np.ascontiguousarray(rows, dtype=np.float64)


def is_constant(rows: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark rows whose range is within `CONSTANT` of their largest magnitude."""
    high, low = rows.max(axis=1), rows.min(axis=1)
    return (high - low) <= CONSTANT * np.maximum(np.abs(high), np.abs(low))


def unit_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Centre each row and scale it to length 1; constant rows become 0. The product of two is their correlation."""
    centred = rows - rows.mean(axis=1, keepdims=True)
    centred[is_constant(rows)] = 0
    largest = np.abs(centred).max(axis=1, keepdims=True)
    centred /= np.where(largest > 0, largest, 1)  # before squaring: no overflow, no underflow
    length = np.sqrt(np.square(centred).sum(axis=1, keepdims=True))
    centred /= np.where(length > 0, length, 1)
    return centred


def row_products(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum of products along each row."""
    return np.multiply(left, right).sum(axis=1)
