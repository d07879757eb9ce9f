"""Spatial autocorrelation of expression and similarity of maps, to ask whether a prediction is as patterned.

Positions are plain numbers in any unit; nothing here knows about images or containers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks.calls import public
from . import _errors as check
from ._rows import (
    align,
    as_float,
    as_matrix,
    blocks,
    complete_pairs,
    complete_spots,
    is_constant,
    row_products,
    unit_rows,
)
from .correlation import LEAST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse import csr_array

N_NEIGHBORS = 6
"""Neighbours of a spot by default."""
TIED = 1e-4
"""A spot further away than the last neighbour by at most this share of the distance is a neighbour too."""


@public
def morans_i(
    values: ArrayLike, xy: ArrayLike, *, n_neighbors: int = N_NEIGHBORS, slide: ArrayLike | None = None
) -> NDArray[np.float64]:
    r"""Moran's I of each gene over a graph of nearest neighbours.

    Near 1 where neighbours are alike, near 0 for a random arrangement, negative where they alternate. Compared between
    observed and predicted values it tells whether a prediction is too smooth or has lost the pattern.

    Parameters
    ----------
    values
        Expression, observed or predicted, ``(n_spots, n_genes)``.
    xy
        Centres (x, y) of the spots, ``(n_spots, 2)``, in any unit.
    n_neighbors
        Neighbours of a spot. Spots tied with the last of them (to 0.01 % of its distance) are neighbours as well, so
        the order of spots never matters. A slide with fewer spots uses all of them.
    slide
        Slide of each spot, ``(n_spots,)``, labels of any type; neighbours are of the same slide. None: one slide.

    Returns
    -------
    ``(n_genes,)``, float64.

    NaN where the values are constant (range at most 1e-6 of the largest magnitude). A spot with NaN in any gene is
    left out before neighbours are looked for. A spot alone on its slide has no neighbour.

    Raises
    ------
    ValueError
        If fewer than 3 spots are left, none has a neighbour, or all spots of a slide lie on one point.

    Notes
    -----
    With :math:`z_i` the deviation from the mean over *all* spots of all slides, and :math:`w_{ij} = 1 / k_i` if
    :math:`j` is one of the :math:`k_i` neighbours of :math:`i`, else 0 (rows sum to 1),

    .. math:: I = \frac{n}{\sum_{ij} w_{ij}} \, \frac{\sum_{ij} w_{ij} z_i z_j}{\sum_i z_i^2}

    Weights are not made symmetric, and need not be: :math:`(w_{ij} + w_{ji}) / 2` gives the same I. Under a random
    arrangement on one slide the expected value is :math:`-1 / (n - 1)`. With several slides, a difference between
    their means counts as likeness of neighbours; subtract it first if it should not.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.divmod(np.arange(64), 8)
    >>> xy = np.column_stack([x, y])
    >>> left_half, checkerboard = x < 4, (x + y) % 2
    >>> morans_i(np.column_stack([left_half, checkerboard]), xy, n_neighbors=2).round(2)
    array([ 0.86, -1.  ])
    """
    return morans_i_on(*_used_and_weights(values, xy, n_neighbors, slide))


@public
def gearys_c(
    values: ArrayLike, xy: ArrayLike, *, n_neighbors: int = N_NEIGHBORS, slide: ArrayLike | None = None
) -> NDArray[np.float64]:
    r"""Geary's C of each gene over a graph of nearest neighbours.

    Near 0 where neighbours are alike, near 1 for a random arrangement, above 1 where they alternate. It depends on
    differences between neighbours, so it notices a lack of fine detail sooner than `morans_i`.

    Parameters
    ----------
    values
        Expression, observed or predicted, ``(n_spots, n_genes)``.
    xy
        Centres (x, y) of the spots, ``(n_spots, 2)``, in any unit.
    n_neighbors
        Neighbours of a spot; ties count as in `morans_i`.
    slide
        Slide of each spot, ``(n_spots,)``, labels of any type; neighbours are of the same slide. None: one slide.

    Returns
    -------
    ``(n_genes,)``, float64, not below 0. NaN where the values are constant; which spots are left out is as in
    `morans_i`.

    Raises
    ------
    ValueError
        If fewer than 3 spots are left, none has a neighbour, or all spots of a slide lie on one point.

    Notes
    -----
    With the weights :math:`w_{ij}` and the deviations :math:`z_i` of `morans_i`,

    .. math:: C = \frac{n - 1}{2 \sum_{ij} w_{ij}} \, \frac{\sum_{ij} w_{ij} (z_i - z_j)^2}{\sum_i z_i^2}

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.divmod(np.arange(64), 8)
    >>> left_half, checkerboard = x < 4, (x + y) % 2
    >>> gearys_c(np.column_stack([left_half, checkerboard]), np.column_stack([x, y]), n_neighbors=2).round(2)
    array([0.13, 1.97])
    """
    return gearys_c_on(*_used_and_weights(values, xy, n_neighbors, slide))


@public
def ssim(
    observed: ArrayLike,
    predicted: ArrayLike,
    xy: ArrayLike,
    *,
    n_neighbors: int = N_NEIGHBORS,
    slide: ArrayLike | None = None,
) -> NDArray[np.float64]:
    r"""Structural similarity of the observed and the predicted map of each gene :cite:p:`Wang2004`.

    Level, contrast and pattern are compared in the surroundings of every spot. Windows are a spot and its neighbours,
    so the spots may lie on any grid, or none.

    Parameters
    ----------
    observed
        Measured expression, ``(n_spots, n_genes)``.
    predicted
        Predicted expression, same shape, same order of spots and genes.
    xy
        Centres (x, y) of the spots, ``(n_spots, 2)``, in any unit.
    n_neighbors
        Neighbours of a spot in its window; ties count as in `morans_i`.
    slide
        Slide of each spot, ``(n_spots,)``, labels of any type; neighbours are of the same slide. None: one slide.

    Returns
    -------
    ``(n_genes,)``, float64, from -1 to 1: the mean over spots. NaN where the observed gene is constant. A spot with NaN
    in any gene, observed or predicted, is left out before neighbours are looked for.

    Raises
    ------
    ValueError
        As for `pearson` and `morans_i`.

    Notes
    -----
    With means, variances and covariance over the window of a spot, and the range :math:`L` of the observed gene,

    .. math::
        \frac{(2 \bar o \bar p + (0.01 L)^2) (2 s_{op} + (0.03 L)^2)}
        {({\bar o}^2 + {\bar p}^2 + (0.01 L)^2) (s_o^2 + s_p^2 + (0.03 L)^2)}

    A constant does not score 0: where a gene is absent it is right. `stp.tl.evaluate` therefore reports the gain over
    the mean of the gene.

    Examples
    --------
    >>> import numpy as np
    >>> y, x = np.divmod(np.arange(64), 8)
    >>> stripes = (x % 2)[:, None].astype(float)
    >>> [ssim(stripes, each, np.column_stack([x, y])).round(2).item() for each in (stripes, 1 - stripes)]
    [1.0, -0.84]
    """
    first, second, used = complete_pairs(observed, predicted, 1)
    return ssim_on(first, second, _graph(observed, xy, n_neighbors, slide, used))


def morans_i_on(values: NDArray[Any], weights: csr_array) -> NDArray[np.float64]:
    """`morans_i` of values ``(n, g)`` without NaN, on a graph."""
    rows = values.T
    return np.concatenate([_morans_i(as_float(rows[b]), weights) for b in blocks(*rows.shape)])


def gearys_c_on(values: NDArray[Any], weights: csr_array) -> NDArray[np.float64]:
    """`gearys_c` of values ``(n, g)`` without NaN, on a graph."""
    rows = values.T
    return np.concatenate([_gearys_c(as_float(rows[b]), weights) for b in blocks(*rows.shape)])


def ssim_on(observed: NDArray[Any], predicted: NDArray[Any], weights: csr_array) -> NDArray[np.float64]:
    """`ssim` of two arrays ``(n, g)`` without NaN, on a graph."""
    windows, first, second = _with_self(weights), observed.T, predicted.T
    return np.concatenate([_ssim(as_float(first[b]), as_float(second[b]), windows) for b in blocks(*first.shape)])


def neighbour_weights(xy: NDArray[np.float64], slide: NDArray[Any] | None) -> csr_array:
    """The graph of the six nearest neighbours of the same slide that scores of maps use by default."""
    return _weights(as_float(xy), slide, N_NEIGHBORS)


def _used_and_weights(
    values: ArrayLike, xy: ArrayLike, n_neighbors: int, slide: ArrayLike | None
) -> tuple[NDArray[Any], csr_array]:
    """Values without spots with NaN, and the graph of the others."""
    array = as_matrix(values, "values")
    used = complete_spots(array, "values")
    weights = _graph(values, xy, n_neighbors, slide, used)
    return array[used], weights


def _graph(
    values: ArrayLike, xy: ArrayLike, n_neighbors: int, slide: ArrayLike | None, used: NDArray[np.bool_]
) -> csr_array:
    """Checked weights of the spots that are used."""
    check.at_least_one(n_neighbors, "n_neighbors")
    points = np.asarray(align(xy, values, "xy", "values", columns=False))
    check.positions(points, len(used))
    labels = None if slide is None else np.asarray(align(slide, values, "slide", "values", columns=False))
    if labels is not None:
        check.slide_labels(labels, len(used))
    check.enough(int(used.sum()), LEAST, "spots", int((~used).sum()))
    return _weights(as_float(points[used]), None if labels is None else labels[used], n_neighbors)


def _morans_i(rows: NDArray[np.float64], weights: csr_array) -> NDArray[np.float64]:
    deviations = unit_rows(rows)  # of length 1, so the denominator is 1
    lagged: NDArray[np.float64] = (weights @ deviations.T).T
    scores = row_products(deviations, lagged) * float(rows.shape[1] / weights.sum())
    scores[is_constant(rows)] = np.nan
    return scores


def _gearys_c(rows: NDArray[np.float64], weights: csr_array) -> NDArray[np.float64]:
    deviations = unit_rows(rows)
    lagged: NDArray[np.float64] = (weights @ deviations.T).T
    out, into = weights.sum(axis=1), weights.sum(axis=0)  # of (z_i - z_j)^2 = z_i^2 + z_j^2 - 2 z_i z_j
    differences = np.square(deviations) @ (out + into) - 2 * row_products(deviations, lagged)
    scores: NDArray[np.float64] = differences * (rows.shape[1] - 1) / (2 * weights.sum())
    scores[is_constant(rows)] = np.nan
    return scores


def _ssim(observed: NDArray[np.float64], predicted: NDArray[np.float64], windows: csr_array) -> NDArray[np.float64]:
    """Mean similarity of each row; NaN where the observed row is constant."""
    extent = np.ptp(observed, axis=1)
    extent[is_constant(observed)] = np.nan
    found: NDArray[np.float64] = similarity_map(observed, predicted, windows, extent[:, None]).mean(axis=1)
    return found


def similarity_map(
    observed: NDArray[np.float64], predicted: NDArray[np.float64], windows: csr_array, extent: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Structural similarity at each spot, ``(g, n)``, of genes whose observed range is ``extent``, ``(g, 1)``."""

    def average(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        mean: NDArray[np.float64] = (windows @ rows.T).T
        return mean

    o, p = average(observed), average(predicted)
    var_o, var_p = average(observed**2) - o**2, average(predicted**2) - p**2
    covariance = average(observed * predicted) - o * p
    c1, c2 = (0.01 * extent) ** 2, (0.03 * extent) ** 2
    return (2 * o * p + c1) * (2 * covariance + c2) / ((o**2 + p**2 + c1) * (var_o + var_p + c2))


def _with_self(weights: csr_array) -> csr_array:
    """Weights of the mean over a spot and its neighbours."""
    from scipy.sparse import csr_array, eye_array  # deferred: slow to import

    linked = weights.copy()
    linked.data[:] = 1.0
    linked = csr_array(linked + eye_array(weights.shape[0]))
    linked.data /= np.repeat(np.diff(linked.indptr), np.diff(linked.indptr))
    return linked


def _weights(xy: NDArray[np.float64], labels: NDArray[Any] | None, n_neighbors: int) -> csr_array:
    """Row-standardised weights, ``(n, n)``: 1/k for each of the k neighbours of a spot."""
    from scipy.sparse import csr_array  # deferred: slow to import

    pairs = [_neighbours(xy, members, label, n_neighbors) for label, members in _slides(labels, len(xy))]
    spot, neighbour = (np.concatenate(part) for part in zip(*pairs, strict=True))
    check.neighbours(len(spot))
    n_neighbours = np.bincount(spot, minlength=len(xy))
    return csr_array((1 / n_neighbours[spot], (spot, neighbour)), shape=(len(xy), len(xy)))


def _slides(labels: NDArray[Any] | None, n: int) -> Iterator[tuple[object, NDArray[np.intp]]]:
    """Yield each slide's label and the indices of its spots."""
    if labels is None:
        yield None, np.arange(n)
        return
    number: dict[object, int] = {}
    numbers = np.array([number.setdefault(label, len(number)) for label in labels.tolist()])
    for label, i in number.items():
        yield label, np.flatnonzero(numbers == i)


def _neighbours(
    xy: NDArray[np.float64], members: NDArray[np.intp], label: object, n_neighbors: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs (spot, neighbour) of one slide, ties of the last neighbour included, the spot itself not."""
    from scipy.spatial import cKDTree  # deferred: slow to import

    points = xy[members]
    check.several_positions(points, label)
    tree = cKDTree(points)
    nearest = min(n_neighbors + 1, len(points))  # the spot itself, at distance 0, is one of them
    distance, _ = tree.query(points, k=[nearest])
    found = tree.query_ball_point(points, distance[:, 0] * (1 + TIED))
    spot = np.repeat(np.arange(len(points)), [len(f) for f in found])
    neighbour = np.concatenate(found).astype(np.intp)
    other = spot != neighbour
    return members[spot[other]], members[neighbour[other]]
