"""Descriptions of one partition of spots into domains. scikit-learn computes what it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks.calls import public
from . import _errors as check
from ._rows import align, label_codes

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SILHOUETTE_SPOTS = 10_000
"""The silhouette of more spots is estimated on a random sample of this size."""


@public
def silhouette(features: ArrayLike, domains: ArrayLike, *, seed: int = 0) -> float:
    """Mean silhouette of spots: how much nearer they are to their own domain than to the next, in a feature space.

    It favours the space in which the domains were found. Compare it only within one space, and name the space.

    Parameters
    ----------
    features
        Features of each spot, ``(n_spots, n_features)``; distances are Euclidean.
    domains
        Domain of each spot, ``(n_spots,)``.
    seed
        Seed of the sample of 10,000 spots that is used if there are more.

    Returns
    -------
    From -1 to 1; NaN for fewer than two domains, or if each spot is a domain of its own.

    Raises
    ------
    ValueError
        If lengths differ or features are not finite.

    Examples
    --------
    >>> import stpredict as stp
    >>> round(stp.metrics.silhouette([[0.0], [0.1], [5.0], [5.1]], [1, 1, 2, 2]), 2)
    0.98
    """
    from sklearn.metrics import silhouette_score

    values, codes = _features_and_codes(features, domains)
    if len(codes) > SILHOUETTE_SPOTS:
        rows = np.random.default_rng(seed).choice(len(codes), SILHOUETTE_SPOTS, replace=False)
        values, codes = values[rows], codes[rows]
    if not 2 <= len(np.unique(codes)) < len(codes):
        return float("nan")
    return float(silhouette_score(values, codes))


@public
def chaos(xy: ArrayLike, domains: ArrayLike, *, slide: ArrayLike | None = None) -> float:
    """Spatial chaos score: mean distance of a spot to the nearest spot of its domain, in spot distances.

    A description, not a quality: regions cut by position alone score best. The published score standardises each axis
    separately, which distorts oblong slides; here distances are divided by the median distance of nearest spots.

    Parameters
    ----------
    xy
        Centres of the spots, ``(n_spots, 2)``, in any unit.
    domains
        Domain of each spot, ``(n_spots,)``.
    slide
        Slide of each spot; distances are taken within slides. None: one slide.

    Returns
    -------
    At least about 1; lower for domains in larger pieces. A spot that is alone in its domain on its slide is left out.

    Raises
    ------
    ValueError
        If lengths differ, or no spot has another of its domain.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.metrics.chaos([[0, 0], [1, 0], [2, 0], [3, 0]], ["a", "b", "a", "b"])
    2.0
    """
    points, codes, slides = _places(xy, domains, slide)
    found = []
    for name in np.unique(slides):
        own = np.flatnonzero(slides == name)
        if len(own) < 2:
            continue
        pitch = float(np.median(_nearest(points[own])))
        for domain in np.unique(codes[own]):
            members = own[codes[own] == domain]
            if len(members) > 1:
                found.append(_nearest(points[members]) / pitch)
    check.same_domain_pairs(len(found))
    return float(np.concatenate(found).mean())


@public
def pas(xy: ArrayLike, domains: ArrayLike, *, n_neighbors: int = 10, slide: ArrayLike | None = None) -> float:
    """Proportion of abnormal spots: those of which more than half of the nearest spots lie in other domains.

    A description, not a quality: regions cut by position alone score best.

    Parameters
    ----------
    xy
        Centres of the spots, ``(n_spots, 2)``, in any unit.
    domains
        Domain of each spot, ``(n_spots,)``.
    n_neighbors
        Number of nearest spots.
    slide
        Slide of each spot; neighbours are of the same slide. None: one slide.

    Returns
    -------
    From 0 to 1; lower is smoother.

    Raises
    ------
    ValueError
        If lengths differ or ``n_neighbors`` is not a whole number from 1.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.metrics.pas([[0, 0], [1, 0], [2, 0], [3, 0]], ["a", "b", "a", "a"], n_neighbors=3)
    0.25
    """
    from scipy.spatial import cKDTree

    check.at_least_one(n_neighbors, "n_neighbors")
    points, codes, slides = _places(xy, domains, slide)
    abnormal = np.zeros(len(codes), bool)
    for name in np.unique(slides):
        own = np.flatnonzero(slides == name)
        k = min(n_neighbors, len(own) - 1)
        if k:
            near = own[cKDTree(points[own]).query(points[own], k + 1)[1]]
            others = near != own[:, None]
            others[others.all(axis=1), -1] = False  # of spots at one point, the spot itself may not be listed
            abnormal[own] = ((codes[near] != codes[own, None]) & others).sum(axis=1) > k / 2
    return float(abnormal.mean())


@public
def lisi(features: ArrayLike, labels: ArrayLike, *, perplexity: float = 30) -> NDArray[np.float64]:
    """Local inverse Simpson index (LISI): effective number of labels among the neighbours of each spot.

    See :cite:t:`Korsunsky2019`. With slides as labels it tells how well slides are mixed. Read it beside the index of
    domains: features that carry nothing mix slides perfectly.

    Parameters
    ----------
    features
        Features of each spot, ``(n_spots, n_features)``.
    labels
        Label (for instance the slide) of each spot, ``(n_spots,)``.
    perplexity
        Effective number of neighbours: Gaussian weights over the 3 × ``perplexity`` nearest spots have this perplexity.

    Returns
    -------
    ``(n_spots,)``, from 1 to the number of labels.

    Raises
    ------
    ValueError
        If lengths differ, features are not finite, or there are fewer than 3 spots.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> float(stp.metrics.lisi(x, np.arange(200) % 2).mean().round(1))
    1.9
    """
    from scipy.spatial import cKDTree

    values, codes = _features_and_codes(features, labels)
    check.enough(len(codes), 3, "spots")
    k = min(int(3 * perplexity), len(codes) - 1)
    distance, near = cKDTree(values).query(values, k + 1)
    distance, near = _without_self(distance, near)
    weight = _gaussian_weights(distance**2, min(perplexity, k / 3) if k > 3 else 1.0)
    share = np.stack([(weight * (codes[near] == code)).sum(axis=1) for code in range(codes.max() + 1)])
    return np.asarray(1 / (share**2).sum(axis=0))


@public
def domain_share(values: ArrayLike, domains: ArrayLike) -> float:
    """Share of the variance of genes that domains explain: adjusted R², averaged over genes.

    Give values of molecules that were not used to find the domains, such as the other half of each spot's counts. Then
    it is a label-free score for comparing settings of one method. It is no criterion between methods: it favours
    domains of expression over those of morphology.

    Parameters
    ----------
    values
        Expression, ``(n_spots, n_genes)``.
    domains
        Domain of each spot, ``(n_spots,)``.

    Returns
    -------
    At most 1; about 0 for random domains, below 0 if they explain less than chance.

    Raises
    ------
    ValueError
        If lengths differ, values are not finite, or there are as many domains as spots.

    Notes
    -----
    With :math:`R^2_g` the share of the sum of squares of gene :math:`g` between :math:`k` domains of :math:`n` spots,
    the mean over genes that vary of :math:`1 - (1 - R^2_g) (n - 1) / (n - k)`.

    Examples
    --------
    >>> import stpredict as stp
    >>> round(stp.metrics.domain_share([[0.0], [0.1], [5.0], [5.1]], [1, 1, 2, 2]), 3)
    0.999
    """
    array, codes = _features_and_codes(values, domains)
    n, k = len(codes), int(codes.max()) + 1
    check.fewer_domains(k, n)
    centred = array - array.mean(axis=0)
    total = (centred**2).sum(axis=0)
    sums = np.zeros((k, array.shape[1]))
    np.add.at(sums, codes, centred)
    between = (sums**2 / np.bincount(codes)[:, None]).sum(axis=0)
    varies = total > 1e-12 * n
    r_squared = between[varies] / total[varies]
    return float(np.mean(1 - (1 - r_squared) * (n - 1) / (n - k))) if varies.any() else float("nan")


def _all_codes(labels: Any, n_spots: int, name: str, noun: str) -> NDArray[np.intp]:
    """Codes of labels of which none may be missing."""
    codes = label_codes(labels)
    check.same_length(n_spots, len(codes), name, noun)
    check.no_missing_labels(codes, noun)
    return codes


def _features_and_codes(features: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    check.dense(features, "features")
    values = np.asarray(features)
    check.matrix(values, "features")
    check.all_finite(values, "features")
    codes = _all_codes(
        align(labels, features, "domains", "features", columns=False), len(values), "features", "domains"
    )
    return values.astype(np.float64), codes


def _places(
    xy: ArrayLike, domains: ArrayLike, slide: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.intp], NDArray[np.intp]]:
    points = np.asarray(xy)
    codes = _all_codes(align(domains, xy, "domains", "xy", columns=False), len(points), "xy", "domains")
    check.positions(points, len(codes))
    slide = align(slide, xy, "slide", "xy", columns=False)
    slides = np.zeros(len(codes), np.intp) if slide is None else _all_codes(slide, len(codes), "xy", "slide")
    return points.astype(np.float64), codes, slides


def _nearest(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance of each point to the nearest other."""
    from scipy.spatial import cKDTree

    distance: NDArray[np.float64] = cKDTree(points).query(points, 2)[0][:, 1]
    return distance


def _without_self(
    distance: NDArray[np.float64], near: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Neighbours without the spot itself, which is not always the first where points coincide."""
    others = near != np.arange(len(near))[:, None]
    others[others.all(axis=1), -1] = False
    shape = (len(near), near.shape[1] - 1)
    return distance[others].reshape(shape), near[others].reshape(shape)


def _gaussian_weights(squares: NDArray[np.float64], perplexity: float) -> NDArray[np.float64]:
    """``(n, k)`` weights with sum 1 whose entropy is log(perplexity), by bisection of the width of the Gaussian."""
    squares = squares - squares.min(axis=1, keepdims=True)
    scale = np.maximum(squares.mean(axis=1, keepdims=True), 1e-300)
    low, high = np.full((len(squares), 1), -20.0), np.full((len(squares), 1), 20.0)
    for _ in range(60):
        middle = (low + high) / 2
        weight = np.exp(-squares / scale * np.exp(middle))
        weight /= weight.sum(axis=1, keepdims=True)
        entropy = -(weight * np.log(np.maximum(weight, 1e-300))).sum(axis=1, keepdims=True)
        wide = entropy > np.log(perplexity)
        low, high = np.where(wide, middle, low), np.where(wide, high, middle)
    return np.asarray(weight)
