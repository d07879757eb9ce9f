"""Prediction intervals against what was measured: how often they cover it, and what their width is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._checks.calls import public
from . import _errors as check
from ._rows import align, complete_pairs

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@public
def interval_coverage(observed: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> NDArray[np.float64]:
    """Share of the spots whose value lies in the interval, per gene. Compare it with the nominal coverage.

    Parameters
    ----------
    observed
        Measured expression, ``(n_spots, n_genes)``.
    lower
        Lower bounds of the intervals, same shape.
    upper
        Upper bounds, same shape; the bounds belong to the interval.

    Returns
    -------
    ``(n_genes,)``, float64, from 0 to 1. A spot with NaN in any gene of any array is left out.

    Raises
    ------
    ValueError
        If an upper bound is below its lower bound, shapes differ, or no spot is left.

    Notes
    -----
    Intervals that are far too wide cover everything: read it with `interval_score`.

    Examples
    --------
    >>> import numpy as np
    >>> observed = np.array([[1.0], [2.0], [3.0], [9.0]])
    >>> interval_coverage(observed, observed * 0, observed * 0 + 5)
    array([0.75])
    """
    value, low, high = _bounds(observed, lower, upper)
    return ((low <= value) & (value <= high)).mean(axis=0)


@public
def interval_score(
    observed: ArrayLike, lower: ArrayLike, upper: ArrayLike, *, coverage: float = 0.9
) -> NDArray[np.float64]:
    r"""Width of the intervals and a penalty for values outside, mean over spots, per gene :cite:p:`Gneiting2007`.

    Parameters
    ----------
    observed
        Measured expression, ``(n_spots, n_genes)``.
    lower
        Lower bounds of the intervals, same shape.
    upper
        Upper bounds, same shape.
    coverage
        Nominal coverage of the intervals, between 0 and 1.

    Returns
    -------
    ``(n_genes,)``, float64, in the units of the input; lower is better. A spot with NaN in any gene of any array is
    left out.

    Raises
    ------
    ValueError
        If ``coverage`` is not between 0 and 1, an upper bound is below its lower bound, shapes differ, or no spot is
        left.

    Notes
    -----
    With the distance :math:`d` of a value from its interval, 0 inside, and the nominal coverage :math:`c`,

    .. math:: S = (u - l) + \frac{2}{1 - c} \, d

    The score is proper: on average it is lowest for the true quantiles. Of all intervals that are the same for every
    spot, those between the quantiles of the observed values have the lowest score.

    Examples
    --------
    >>> import numpy as np
    >>> observed = np.array([[1.0], [2.0], [3.0], [9.0]])
    >>> interval_score(observed, observed * 0, observed * 0 + 5, coverage=0.5)  # width 5, and 4 * 4 / 4
    array([9.])
    """
    check.share(coverage, "coverage")
    value, low, high = _bounds(observed, lower, upper)
    distance = np.maximum(low - value, 0) + np.maximum(value - high, 0)
    return (high - low + 2 / (1 - coverage) * distance).mean(axis=0)


def _bounds(observed: ArrayLike, lower: ArrayLike, upper: ArrayLike) -> list[NDArray[np.float64]]:
    """The three arrays, checked, without spots with NaN."""
    lower, upper = align(lower, observed, "lower", "observed"), align(upper, observed, "upper", "observed")
    used = complete_pairs(observed, lower, 1)[2] & complete_pairs(observed, upper, 1)[2]
    value, low, high = (np.asarray(each, dtype=np.float64)[used] for each in (observed, lower, upper))
    check.enough(int(used.sum()), 1, "spots", int((~used).sum()))
    check.ordered_bounds(low, high)
    return [value, low, high]
