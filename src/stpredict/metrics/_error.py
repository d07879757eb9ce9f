"""Errors of predicted expression in the units of the target, per gene or per spot.

Arrays in, numbers out; how rows are chosen and cut into blocks is in `_rows`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .._checks.calls import public
from . import _errors as check
from ._rows import is_constant, score_rows
from .correlation import LEAST

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@public
def rmse(observed: ArrayLike, predicted: ArrayLike, *, axis: Literal["gene", "spot"] = "gene") -> NDArray[np.float64]:
    r"""Root mean squared error, per gene or per spot.

    Parameters
    ----------
    observed
        Measured expression, ``(n_spots, n_genes)``, in the space of the prediction (e.g. log1p of CP10k).
    predicted
        Predicted expression, same shape, same order of spots and genes.
    axis
        ``"gene"``: one error per gene, over spots. ``"spot"``: one error per spot, over genes.

    Returns
    -------
    ``(n_genes,)`` or ``(n_spots,)``, float64, in the units of the input.

    Constant genes have an error like any other. A spot with NaN in any gene, observed or predicted (e.g. outside the
    image), is left out for all genes; its own error is NaN.

    Raises
    ------
    ValueError
        If no spot is left, or a gene is NaN at every spot.

    Notes
    -----
    .. math:: \mathrm{RMSE} = \sqrt{\frac{1}{n} \sum_i (o_i - p_i)^2}

    ``rmse(observed, predicted, axis="spot").mean()`` is the RMSE of the M2OST paper. It is not the root of the mean
    over all values, which is larger unless all spots have the same error.

    Examples
    --------
    >>> import numpy as np
    >>> observed = np.zeros((2, 2))
    >>> predicted = np.array([[3.0, 4.0], [3.0, 0.0]])
    >>> rmse(observed, predicted).round(2)
    array([3.  , 2.83])
    >>> rmse(observed, predicted, axis="spot").round(2)
    array([3.54, 2.12])
    """
    return score_rows(_rmse, observed, predicted, axis=axis, needed=1)


@public
def mae(observed: ArrayLike, predicted: ArrayLike, *, axis: Literal["gene", "spot"] = "gene") -> NDArray[np.float64]:
    r"""Mean absolute error, per gene or per spot.

    Parameters
    ----------
    observed
        Measured expression, ``(n_spots, n_genes)``, in the space of the prediction (e.g. log1p of CP10k).
    predicted
        Predicted expression, same shape, same order of spots and genes.
    axis
        ``"gene"``: one error per gene, over spots. ``"spot"``: one error per spot, over genes.

    Returns
    -------
    ``(n_genes,)`` or ``(n_spots,)``, float64, in the units of the input.

    Constant genes have an error like any other. A spot with NaN in any gene, observed or predicted (e.g. outside the
    image), is left out for all genes; its own error is NaN.

    Raises
    ------
    ValueError
        If no spot is left, or a gene is NaN at every spot.

    Notes
    -----
    .. math:: \mathrm{MAE} = \frac{1}{n} \sum_i |o_i - p_i|

    The constant with the least MAE is the median, which is 0 for a gene seen in less than half of the spots: a low
    MAE of a sparse gene says little.

    Examples
    --------
    >>> import numpy as np
    >>> observed = np.zeros((2, 2))
    >>> predicted = np.array([[3.0, 4.0], [-3.0, 0.0]])
    >>> mae(observed, predicted)
    array([3., 2.])
    >>> mae(observed, predicted, axis="spot")
    array([3.5, 1.5])
    """
    return score_rows(_mae, observed, predicted, axis=axis, needed=1)


@public
def r2(observed: ArrayLike, predicted: ArrayLike, *, axis: Literal["gene", "spot"] = "gene") -> NDArray[np.float64]:
    r"""Share of the variation that is explained (coefficient of determination), per gene or per spot.

    Unlike a correlation it counts errors of level and scale too. Both axes compare with the same constant, the mean of
    each gene over the given spots: this profile predicted everywhere scores 0, per gene and per spot.

    Parameters
    ----------
    observed
        Measured expression, ``(n_spots, n_genes)``, in the space of the prediction (e.g. log1p of CP10k).
    predicted
        Predicted expression, same shape, same order of spots and genes.
    axis
        ``"gene"``: one score per gene, over spots. ``"spot"``: one score per spot, over genes.

    Returns
    -------
    ``(n_genes,)`` or ``(n_spots,)``, float64, at most 1. No constant prediction of a gene scores above 0.

    NaN where the observed gene is constant, or where a spot has the mean of every gene. A spot with NaN in any gene,
    observed or predicted (e.g. outside the image), is left out for all genes; its own score is NaN.

    Raises
    ------
    ValueError
        If fewer than 3 spots are left, or a gene is NaN at every spot.

    Notes
    -----
    With the mean :math:`{\bar o{}}_g` of a gene over spots; sums are over the spots of a gene, or the genes of a spot:

    .. math:: R^2 = 1 - \frac{\sum (o_{sg} - p_{sg})^2}{\sum (o_{sg} - {\bar o{}}_g)^2}

    Examples
    --------
    >>> import numpy as np
    >>> observed = np.array([[0.0, 4.0], [1.0, 5.0], [2.0, 9.0]])
    >>> predicted = np.array([[0.0, 6.0], [1.0, 6.0], [1.0, 6.0]])  # of the second gene the mean
    >>> r2(observed, predicted)
    array([0.5, 0. ])
    >>> r2(observed, predicted, axis="spot")
    array([0.2, 0. , 0. ])
    """
    if axis == "gene":
        return score_rows(_r2, observed, predicted, axis=axis, needed=LEAST)
    error = rmse(observed, predicted, axis=axis)
    used = ~np.isnan(error)
    check.enough(int(used.sum()), LEAST, "spots", int((~used).sum()))
    array = np.asarray(observed, dtype=np.float64)
    mean = np.where(used[:, None], array[used].mean(axis=0), np.nan)
    deviation = rmse(array, mean, axis=axis)
    return 1 - np.square(error / np.where(deviation > 0, deviation, np.nan))


def _r2(observed: NDArray[np.float64], predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation = _rmse(observed, observed.mean(axis=1, keepdims=True))
    deviation[is_constant(observed)] = np.nan
    return 1 - np.square(_rmse(observed, predicted) / deviation)


def _rmse(observed: NDArray[np.float64], predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.sqrt(np.square(observed - predicted).mean(axis=1))


def _mae(observed: NDArray[np.float64], predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.abs(observed - predicted).mean(axis=1)
