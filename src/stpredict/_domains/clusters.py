"""Partitions of spots from features: k-means, a tied Gaussian mixture, Leiden; refinement, agreement, the medoid."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

from ..metrics import ari

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

N_STARTS = 20
"""Starts of k-means, of which the best is kept."""
FEW_STARTS, MANY_SPOTS = 3, 20_000
"""Starts for more than this number of spots, on which starts differ less and take longer."""
LEIDEN_NEIGHBORS = 15
LEIDEN_STEPS = 25
"""Steps of the bisection of Leiden's resolution."""


def kmeans(features: NDArray[np.float32], n_domains: int, seed: int) -> NDArray[np.intp]:
    """k-means, the best of many starts."""
    found: NDArray[np.intp] = _fit_kmeans(features, n_domains, seed).labels_.astype(np.intp)
    return found


def _fit_kmeans(features: NDArray[np.floating], n_domains: int, seed: int) -> Any:
    from sklearn.cluster import KMeans

    n_starts = N_STARTS if len(features) <= MANY_SPOTS else FEW_STARTS
    return KMeans(n_domains, n_init=n_starts, random_state=seed).fit(features)


def tied_mixture(features: NDArray[np.float32], n_domains: int, seed: int) -> NDArray[np.intp]:
    """A Gaussian mixture with one covariance for all components (mclust's EEE), from the best start of k-means.

    Of several starts of the mixture, the likeliest explains held-out molecules worse: a few far spots are a component.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    values = features.astype(np.float64)
    start = _fit_kmeans(values, n_domains, seed)
    within = values - start.cluster_centers_[start.labels_]
    ridge = max(1e-6 * float(values.var()), 1e-12)
    precision = np.linalg.inv(within.T @ within / len(values) + ridge * np.eye(values.shape[1]))
    size = np.bincount(start.labels_, minlength=n_domains) + 1e-9
    mixture = GaussianMixture(
        n_domains,
        covariance_type="tied",
        weights_init=size / size.sum(),
        means_init=start.cluster_centers_,
        precisions_init=(precision + precision.T) / 2,
        reg_covar=ridge,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # 100 steps are enough for domains
        found: NDArray[np.intp] = mixture.fit_predict(values)
    return found


def leiden(features: NDArray[np.float32], n_domains: int, seed: int) -> NDArray[np.intp]:
    """Leiden on 15 nearest neighbours; the resolution is bisected until it gives ``n_domains`` clusters.

    If none does, it is the resolution whose number of clusters is nearest.
    """
    import anndata as ad
    import scanpy

    adata = ad.AnnData(np.zeros((len(features), 1), np.float32))
    adata.obsm["X"] = features
    scanpy.pp.neighbors(adata, n_neighbors=min(LEIDEN_NEIGHBORS, len(features) - 1), use_rep="X", random_state=seed)
    low, high, best = 1e-3, 8.0, None
    for _ in range(LEIDEN_STEPS):
        middle = float(np.sqrt(low * high))
        scanpy.tl.leiden(adata, resolution=middle, random_state=seed, flavor="igraph", n_iterations=-1, directed=False)
        codes = adata.obs["leiden"].cat.codes.to_numpy().astype(np.intp)
        n = int(codes.max()) + 1
        if best is None or abs(n - n_domains) < abs(int(best.max()) + 1 - n_domains):
            best = codes
        if n == n_domains:
            break
        low, high = (middle, high) if n < n_domains else (low, middle)
    return np.asarray(best)


CLUSTERERS: dict[str, Callable[[NDArray[np.float32], int, int], NDArray[np.intp]]] = {
    "gmm": tied_mixture,
    "kmeans": kmeans,
    "leiden": leiden,
}
"""Clusterers by name: from features, number of domains and seed to the domain of each spot."""


def refine(
    domains: NDArray[np.intp], xy: NDArray[np.float64], slide: NDArray[np.int64], n_neighbors: int
) -> NDArray[np.intp]:
    """The most frequent domain of a spot's nearest spots on its slide; a spot keeps its own where that ties."""
    found = domains.copy()
    for name in np.unique(slide):
        rows = np.flatnonzero(slide == name)
        k = min(n_neighbors, len(rows) - 1)
        if k < 1:
            continue
        near = rows[cKDTree(xy[rows]).query(xy[rows], k + 1)[1][:, 1:]]
        votes = np.stack([(domains[near] == domain).sum(axis=1) for domain in range(domains.max() + 1)], axis=1)
        own = votes[np.arange(len(rows)), domains[rows]]
        found[rows] = np.where(own == votes.max(axis=1), domains[rows], votes.argmax(axis=1))
    return found


def pairwise_agreement(partitions: Sequence[NDArray[np.intp]]) -> NDArray[np.float64]:
    """``(s, s)`` adjusted Rand index of each pair of partitions."""
    return np.array([[ari(one, other) for other in partitions] for one in partitions])


def medoid(agreement: NDArray[np.float64]) -> int:
    """The partition that agrees best with all; the first of several."""
    return int(np.argmax(agreement.mean(axis=1)))


def match(domains: NDArray[np.intp], reference: NDArray[np.intp]) -> NDArray[np.intp]:
    """Domains renumbered so that as many spots as possible have the number that they have in the reference."""
    n = int(max(domains.max(), reference.max())) + 1
    together = np.zeros((n, n), np.int64)
    np.add.at(together, (domains, reference), 1)
    numbers: NDArray[np.intp] = linear_sum_assignment(-together)[1]
    return numbers[domains]


def spot_agreement(partitions: Sequence[NDArray[np.intp]], reference: NDArray[np.intp]) -> NDArray[np.float32]:
    """``(n,)`` share of the other partitions, after `match`, in which a spot is in the domain of the reference."""
    others = [match(one, reference) == reference for one in partitions if one is not reference]
    return np.mean(others, axis=0).astype(np.float32) if others else np.ones(len(reference), np.float32)


def number_along(domains: NDArray[np.intp], along: NDArray[np.floating]) -> NDArray[np.intp]:
    """Domains numbered by their mean along an axis, so that numbers (and colours) do not depend on the clusterer."""
    names = np.unique(domains)
    mean = [along[domains == name].mean() for name in names]
    rank = np.empty(int(domains.max()) + 1, np.intp)
    rank[names[np.argsort(mean, kind="stable")]] = np.arange(len(names))
    return rank[domains]
