"""Which genes to average over: the most variable ones, chosen from the data, or the best ones, chosen by hindsight.

Arrays in, numbers out; the scores themselves are made elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._checks.calls import public
from . import _errors as check
from ._rows import as_float, as_matrix, blocks, complete_spots, is_constant

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

N_TOP = 50
"""Genes of the mean over the most variable genes."""
N_BEST = (10, 50, 200)
"""Genes of the means over the best predicted genes, which publications call PCC-10, PCC-50 and PCC-200."""


@public
def best(scores: ArrayLike, *, n: int = 50) -> float:
    """Mean of the highest scores, e.g. of the 50 best-predicted genes.

    Genes are chosen by the very scores that are averaged, so this number is optimistic: with many genes it is above 0
    for a random prediction too. It is reported because papers report it.

    Parameters
    ----------
    scores
        One score per gene, higher is better, ``(n_genes,)``, e.g. from `pearson`. NaN is ignored.
    n
        How many to average; all that are not NaN, if there are fewer.

    Returns
    -------
    The mean; NaN if every score is.

    Examples
    --------
    >>> best([0.1, float("nan"), 0.5, 0.3], n=2)
    0.4
    """
    check.at_least_one(n, "n")
    values = np.asarray(scores)
    check.vector(values, "scores")
    kept = np.sort(values[~np.isnan(values)].astype(np.float64))[-n:]
    return float(kept.mean()) if kept.size else float("nan")


@public
def top_variable(observed: ArrayLike, *, n: int = 50) -> NDArray[np.bool_]:
    """Mark the genes whose observed values vary most over spots.

    The choice does not see the prediction, so a mean over these genes is not optimistic, as that of `best` is.

    Parameters
    ----------
    observed
        Measured expression, ``(n_spots, n_genes)``, in the space that is scored (e.g. log1p of CP10k).
    n
        How many genes to mark.

    Returns
    -------
    ``(n_genes,)``, bool. Constant genes are never marked, so fewer than ``n`` may be.

    Variance is over spots without NaN; of genes with equal variance the first is taken.

    Examples
    --------
    >>> import numpy as np
    >>> top_variable(np.array([[0, 1, 0, 5], [0, 2, 9, 5]]), n=2)
    array([False,  True,  True, False])
    """
    check.at_least_one(n, "n")
    return mark_largest(variances(observed), n=n)


def variances(observed: ArrayLike) -> NDArray[np.float64]:
    """Variance of each gene over spots without NaN, exactly 0 where it is constant."""  # (n_genes,)
    array = as_matrix(observed, "observed")
    used = complete_spots(array, "observed")
    check.enough(int(used.sum()), 2, "spots", int((~used).sum()))
    rows = array[used].T
    return np.concatenate([_variance(as_float(rows[b])) for b in blocks(*rows.shape)])


def mark_largest(variance: NDArray[np.float64], *, n: int) -> NDArray[np.bool_]:
    """Mark the ``n`` largest variances above 0, of equal ones the first."""  # (n_genes,)
    order = np.argsort(-variance, kind="stable")[:n]
    marked = np.zeros(len(variance), dtype=bool)
    marked[order] = variance[order] > 0
    return marked


def _variance(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Variance of each row, exactly 0 where it is constant."""
    return np.where(is_constant(rows), 0, rows.var(axis=1))
