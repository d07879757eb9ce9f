"""Spatial autocorrelation of expression, to ask whether a prediction is as patterned as the tissue.

Positions are plain numbers in any unit; nothing here knows about images or containers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks.calls import public
from . import _errors as check
from ._rows import align, as_float, as_matrix, blocks, complete_spots, is_constant, row_products, unit_rows
from .correlation import LEAST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse import csr_array

TIED = 1e-4
"""A spot further away than the last neighbour by at most this share of the distance is a neighbour too."""


@public
def morans_i(
    values: ArrayLike, xy: ArrayLike, *, n_neighbors: int = 6, slide: ArrayLike | None = None
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
    check.at_least_one(n_neighbors, "n_neighbors")
    array, points = as_matrix(values, "values"), np.asarray(align(xy, values, "xy", "values", columns=False))
    check.positions(points, len(array))
    labels = None if slide is None else np.asarray(align(slide, values, "slide", "values", columns=False))
    if labels is not None:
        check.slide_labels(labels, len(array))
    used = complete_spots(array, "values")
    check.enough(int(used.sum()), LEAST, "spots", int((~used).sum()))
    weights = _weights(as_float(points[used]), None if labels is None else labels[used], n_neighbors)
    array = array[used]
    return np.concatenate([_morans_i(as_float(array[:, b].T), weights) for b in blocks(*array.T.shape)])


def _morans_i(rows: NDArray[np.float64], weights: csr_array) -> NDArray[np.float64]:
    deviations = unit_rows(rows)  # of length 1, so the denominator is 1
    lagged: NDArray[np.float64] = (weights @ deviations.T).T
    scores = row_products(deviations, lagged) * float(rows.shape[1] / weights.sum())
    scores[is_constant(rows)] = np.nan
    return scores


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
