"""Agreement of two partitions of spots into domains. scikit-learn computes what it has.

Spots without a label are left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._checks.calls import public
from . import _errors as check
from ._rows import align, label_codes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray


@public
def ari(labels: ArrayLike, other: ArrayLike) -> float:
    """Adjusted Rand index of two partitions :cite:p:`Hubert1985`.

    Parameters
    ----------
    labels
        Domain of each spot, ``(n_spots,)``, of any type; None and NaN are missing.
    other
        Domain of each spot in the other partition; names need not correspond.

    Returns
    -------
    1 for the same partition, 0 on average for random ones; below 0 if they agree less than that.

    Raises
    ------
    ValueError
        If lengths differ, or no spot has both labels.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.metrics.ari(["a", "a", "b", "b"], [2, 2, 1, 1])
    1.0
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_pairs(labels, other)))


@public
def nmi(labels: ArrayLike, other: ArrayLike) -> float:
    """Normalised mutual information of two partitions: mutual information over the mean of the two entropies.

    Parameters
    ----------
    labels
        Domain of each spot, ``(n_spots,)``, of any type; None and NaN are missing.
    other
        Domain of each spot in the other partition; names need not correspond.

    Returns
    -------
    From 0 to 1. It is not adjusted for chance: many small domains raise it.

    Raises
    ------
    ValueError
        If lengths differ, or no spot has both labels.

    Examples
    --------
    >>> import stpredict as stp
    >>> round(stp.metrics.nmi(["a", "a", "b", "b"], [1, 1, 2, 3]), 2)
    0.8
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_pairs(labels, other)))


@public
def homogeneity_completeness(labels: ArrayLike, domains: ArrayLike) -> tuple[float, float]:
    """Whether domains split labels (low completeness) or merge them (low homogeneity) :cite:p:`Rosenberg2007`.

    Parameters
    ----------
    labels
        Known label of each spot, ``(n_spots,)``, of any type; None and NaN are missing.
    domains
        Domain of each spot.

    Returns
    -------
    Homogeneity (1 if each domain holds spots of one label) and completeness (1 if each label lies in one domain).

    Raises
    ------
    ValueError
        If lengths differ, or no spot has both labels.

    Examples
    --------
    >>> import stpredict as stp
    >>> homogeneity, completeness = stp.metrics.homogeneity_completeness(["a", "a", "b", "b"], [1, 1, 2, 3])
    >>> round(homogeneity, 2), round(completeness, 2)  # b is split
    (1.0, 0.67)
    """
    from sklearn.metrics import completeness_score, homogeneity_score

    pair = _pairs(labels, domains)
    return float(homogeneity_score(*pair)), float(completeness_score(*pair))


def _pairs(labels: ArrayLike, other: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Codes of two partitions at the spots that both name."""
    first, second = label_codes(labels), label_codes(align(other, labels, "other", "labels", columns=False))
    check.same_length(len(first), len(second), "labels", "other")
    both = (first >= 0) & (second >= 0)
    check.some_labelled(int(both.sum()), len(both))
    return first[both], second[both]
