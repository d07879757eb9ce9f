"""Correlation of observed and predicted expression, per gene or per spot.

Arrays in, numbers out; how rows are chosen and cut into blocks is in `_rows`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from .._checks.calls import public
from ._rows import is_constant, row_products, score_rows, unit_rows

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

LEAST = 3
"""Values one correlation needs: two always give 1 or -1."""


@public
def pearson(
    observed: ArrayLike, predicted: ArrayLike, *, axis: Literal["gene", "spot"] = "gene"
) -> NDArray[np.float64]:
    r"""Pearson correlation of observed and predicted values, per gene or per spot.

    The two axes answer different questions and must not be compared. Per gene, over spots: does the prediction vary
    over the tissue as the gene does? The same profile predicted everywhere scores 0. Per spot, over genes: does the
    prediction order the genes of a spot? There the training mean alone scores high, since some genes are expressed
    more than others everywhere.

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
    ``(n_genes,)`` or ``(n_spots,)``, float64, from -1 to 1.

    NaN where the *observed* values are constant: nothing to predict, no score. 0 where only the *predicted* values
    are constant: they explain nothing. A row is constant if its range is at most 1e-6 of its largest magnitude.
    A spot with NaN in any gene, observed or predicted (e.g. outside the image), is left out for all genes; its own
    score is NaN.

    Raises
    ------
    ValueError
        If fewer than 3 spots (or, per spot, genes) are left, or a gene is NaN at every spot.

    Notes
    -----
    With deviations :math:`o_i, p_i` from the mean of their row,

    .. math:: r = \frac{\sum_i o_i p_i}{\sqrt{\sum_i o_i^2 \sum_i p_i^2}}

    Spot-wise scores averaged over spots are the "PCC" of the M2OST paper; gene-wise ones averaged over genes are that
    of most others.

    Examples
    --------
    >>> import numpy as np
    >>> observed = np.array([[0, 5, 1], [1, 4, 1], [2, 9, 1]])
    >>> predicted = np.array([[1, 2, 3], [3, 2, 4], [5, 2, 5]])
    >>> pearson(observed, predicted)  # one per gene: right, constant prediction, constant observation
    array([ 1.,  0., nan])
    >>> pearson(observed, predicted, axis="spot").round(2)
    array([ 0.19, -0.87, -0.99])
    """
    return score_rows(_pearson, observed, predicted, axis=axis, needed=LEAST)


@public
def spearman(
    observed: ArrayLike, predicted: ArrayLike, *, axis: Literal["gene", "spot"] = "gene"
) -> NDArray[np.float64]:
    """Spearman rank correlation of observed and predicted values, per gene or per spot.

    It does not change under a monotone transformation of either, such as log1p, and hardly under a few extreme spots.

    Parameters
    ----------
    observed
        Measured expression, ``(n_spots, n_genes)``.
    predicted
        Predicted expression, same shape, same order of spots and genes.
    axis
        ``"gene"``: one score per gene, over spots. ``"spot"``: one score per spot, over genes.

    Returns
    -------
    ``(n_genes,)`` or ``(n_spots,)``, float64, from -1 to 1.

    NaN where the *observed* values are constant, 0 where only the *predicted* ones are; what is constant, and which
    spots are left out, is as in `pearson`.

    Raises
    ------
    ValueError
        If fewer than 3 spots (or, per spot, genes) are left, or a gene is NaN at every spot.

    Notes
    -----
    Pearson correlation of ranks from 1 to n, where equal values share the mean of their ranks. Sparse genes have many
    equal zeros, so even a perfect order of their rates stays below 1.

    Examples
    --------
    >>> import numpy as np
    >>> observed = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> spearman(observed, np.exp(observed))
    array([1.])
    >>> spearman(observed, np.array([[0.0], [0.0], [0.0], [9.0]])).round(3)  # three predictions share a rank
    array([0.775])
    """
    return score_rows(_spearman, observed, predicted, axis=axis, needed=LEAST)


def _pearson(observed: NDArray[np.float64], predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    r = np.clip(row_products(unit_rows(observed), unit_rows(predicted)), -1, 1)
    r[is_constant(observed)] = np.nan
    return r


def _spearman(observed: NDArray[np.float64], predicted: NDArray[np.float64]) -> NDArray[np.float64]:
    return _pearson(_ranks(observed), _ranks(predicted))


def _ranks(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Average ranks along each row; all 0 where the values are constant, whose order is rounding."""
    from scipy.stats import rankdata  # deferred: slow to import

    ranks = np.asarray(rankdata(rows, axis=1), dtype=np.float64)
    ranks[is_constant(rows)] = 0
    return ranks
