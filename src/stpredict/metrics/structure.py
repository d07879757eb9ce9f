"""Agreement of what is read off a map: genes that vary together, differences of domains, pathways, patterned genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._checks.calls import public
from . import _errors as check
from ._rows import (
    align,
    align_genes,
    as_float,
    as_matrix,
    blocks,
    complete_pairs,
    complete_spots,
    is_constant,
    label_codes,
    unit_rows,
)
from .correlation import LEAST

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

MIN_GENES = 3
"""Genes of a pathway below which it has no score."""


@public
def coexpression_agreement(observed: ArrayLike, predicted: ArrayLike, *, ceiling: ArrayLike | None = None) -> float:
    r"""Agreement of two gene-gene correlation matrices, over all pairs of genes.

    Parameters
    ----------
    observed
        Measured expression of one slide, ``(n_spots, n_genes)``.
    predicted
        Predicted expression, same shape.
    ceiling
        Noise ceiling of each gene, ``(n_genes,)``, from `noise_ceiling`. Counting noise lowers every observed
        correlation by the product of two ceilings, and so the predicted ones are lowered before they are compared.
        None and NaN: no noise.

    Returns
    -------
    Concordance of the correlations above the diagonal, at most 1. 0 for a constant prediction. Correlations of a
    prediction that are all too high or too low lower it. NaN if fewer than 3 genes vary.

    Raises
    ------
    ValueError
        If fewer than 3 spots are left, or shapes differ.

    Notes
    -----
    The concordance of Lin :cite:p:`Lin1989` of pairs :math:`x, y` is :math:`2 s_{xy} / (s_x^2 + s_y^2 + (\bar x - \bar
    y)^2)`. Genes that are constant in the measurement are left out, and those that are constant in the prediction
    correlate 0 with all. Memory is that of two matrices of genes by genes.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> observed = rng.normal(size=(500, 1)) * [1, 1, -1, 0] + rng.normal(size=(500, 4))
    >>> round(coexpression_agreement(observed, observed), 3)
    1.0
    >>> round(coexpression_agreement(observed, observed * 0), 3)
    0.0
    """
    first, second, _ = complete_pairs(observed, predicted, LEAST)
    varies = ~is_constant(as_float(first.T))
    if varies.sum() < LEAST:
        return float("nan")
    ceiling = align_genes(ceiling, observed, "ceiling", "observed")
    limit = np.ones(len(varies)) if ceiling is None else np.asarray(ceiling, dtype=np.float64)
    check.one_per_gene(limit, len(varies), "ceiling")
    units = [unit_rows(as_float(values.T[varies])) for values in (first, second)]
    units[1] *= np.nan_to_num(limit, nan=1.0)[varies, None]
    pairs = np.triu_indices(int(varies.sum()), k=1)
    return _concordance(*((rows @ rows.T)[pairs] for rows in units))


@public
def log_fold_agreement(observed: ArrayLike, predicted: ArrayLike, domains: ArrayLike) -> float:
    r"""Agreement of log-fold changes between domains, over all genes and domains.

    Parameters
    ----------
    observed
        Measured expression of one slide, ``(n_spots, n_genes)``, on a logarithmic scale.
    predicted
        Predicted expression, same shape.
    domains
        Domain of each spot, ``(n_spots,)``, of any type; None and NaN are missing, and these spots are left out.

    Returns
    -------
    Concordance (as in `coexpression_agreement`) of the observed with the predicted log-fold changes, at most 1. 0 for a
    constant prediction; changes that are predicted too small lower it. NaN if there are not two domains of 3 spots.

    Raises
    ------
    ValueError
        If fewer than 3 spots are left, or shapes differ.

    Notes
    -----
    The log-fold change of a gene in a domain is its mean there minus its mean over the other labelled spots.

    Examples
    --------
    >>> import numpy as np
    >>> domains = np.repeat(["tumour", "stroma"], 3)
    >>> observed = np.column_stack([np.repeat([2.0, 0.0], 3), np.repeat([0.0, 1.0], 3)])
    >>> log_fold_agreement(observed, observed, domains), log_fold_agreement(observed, observed / 2, domains)
    (1.0, 0.8)
    """
    codes = label_codes(align(domains, observed, "domains", "observed", columns=False))
    first, second, used = complete_pairs(observed, predicted, LEAST)
    check.same_length(len(codes), len(used), "domains", "observed")
    labelled = codes[used] >= 0
    codes = codes[used][labelled]
    first, second = (np.asarray(values, dtype=np.float64)[labelled] for values in (first, second))
    masks = [codes == code for code in np.unique(codes)]
    masks = [inside for inside in masks if LEAST <= inside.sum() <= len(codes) - LEAST]
    if not masks:
        return float("nan")
    changes = [
        np.concatenate([values[inside].mean(axis=0) - values[~inside].mean(axis=0) for inside in masks])
        for values in (first, second)
    ]
    return _concordance(*changes)


@public
def pathway_scores(
    values: ArrayLike, genes: Sequence[str], pathways: Mapping[str, Sequence[str]]
) -> NDArray[np.float64]:
    r"""Rank-based score of each pathway in each spot: how high its genes rank among all genes of the spot.

    Parameters
    ----------
    values
        Expression, observed or predicted, ``(n_spots, n_genes)``.
    genes
        Names of the genes.
    pathways
        Genes of each pathway by its name, for instance from `stp.io.read_gmt`. Genes that are not among ``genes`` do
        not count.

    Returns
    -------
    ``(n_spots, n_pathways)``, float64, from -0.5 to 0.5: 0 if the genes rank as high as others on average. NaN for
    pathways of which fewer than 3 genes are there, and for spots with NaN.

    Raises
    ------
    ValueError
        If names and columns differ in number, or no pathway has 3 genes.

    Notes
    -----
    The mean rank of the genes of a pathway, from 1 to the number of genes (equal values share the mean of their ranks),
    minus the mean of all ranks, over the number of genes, as in singscore :cite:p:`Foroutan2018`. Ranks are within a
    spot, so sequencing depth and units do not matter. With a small panel few genes of a pathway are there.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.array([[1.0, 2.0, 3.0, 0.0], [0.0, 2.0, 1.0, 9.0]])
    >>> pathway_scores(values, ["A", "B", "C", "D"], {"HYPOXIA": ["A", "B", "C", "X"]}).ravel()
    array([ 0.125, -0.125])
    """
    from scipy.stats import rankdata  # deferred: slow to import

    array = as_matrix(values, "values")
    check.has_order(genes, "genes")
    check.one_name_per_gene(len(genes), array.shape[1])
    members = np.array([np.isin(genes, list(names)) for names in pathways.values()]).reshape(len(pathways), len(genes))
    size = members.sum(axis=1)
    check.some_pathway(int(size.max(initial=0)), MIN_GENES, len(genes))
    used = complete_spots(array, "values")
    weights = members.T / np.where(size >= MIN_GENES, size, np.nan)
    scores = np.full((len(array), len(pathways)), np.nan)
    scores[used] = np.concatenate(
        [rankdata(array[used][rows], axis=1) @ weights for rows in blocks(int(used.sum()), array.shape[1])]
    )
    return (scores - (len(genes) + 1) / 2) / len(genes)


@public
def svg_overlap(observed: ArrayLike, predicted: ArrayLike, *, n: int = 50) -> float:
    """Overlap of the most spatially variable genes of measurement and prediction, corrected for chance.

    Parameters
    ----------
    observed
        Spatial variability of each gene in the measurement, ``(n_genes,)``, such as `morans_i`.
    predicted
        The same of the prediction; NaN for a constant gene.
    n
        How many genes are taken from each; at most half of them all.

    Returns
    -------
    1 for the same genes, 0 on average for genes chosen at random and for a constant prediction. Genes that are NaN in
    the measurement are left out; NaN if fewer than 2 are left.

    Raises
    ------
    ValueError
        If lengths differ or ``n`` is below 1.

    Examples
    --------
    >>> svg_overlap([0.9, 0.8, 0.1, 0.0], [0.7, 0.2, 0.6, 0.1], n=2)
    0.0
    """
    check.at_least_one(n, "n")
    predicted = align(predicted, observed, "predicted", "observed", columns=False, noun="genes")
    first, second = np.asarray(observed, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    check.one_per_gene(second, len(first), "predicted")
    known = ~np.isnan(first)
    n_known = int(known.sum())
    n = min(n, n_known // 2)
    if not n:
        return float("nan")
    first, second = first[known], second[known]
    chosen = np.argsort(-first, kind="stable")[:n]
    of_prediction = np.argsort(-np.nan_to_num(second, nan=-np.inf), kind="stable")[:n]
    of_prediction = of_prediction[~np.isnan(second[of_prediction])]
    by_chance = n / n_known
    shared = len(np.intersect1d(chosen, of_prediction)) + (n - len(of_prediction)) * by_chance
    return float((shared / n - by_chance) / (1 - by_chance))


def autocorrelation_gap(
    observed: NDArray[np.float64], predicted: NDArray[np.float64], ceiling: NDArray[np.float64]
) -> float:
    """Mean difference of autocorrelations ``(g,)``, after counting noise lowered the predicted ones as the observed.

    Noise that is independent between spots scales the autocorrelation by the reliability, the square of the ceiling.
    Genes count in proportion to it. A constant prediction (NaN) is as smooth as a map can be: 1.
    """
    known = np.isfinite(observed)
    reliability = np.where(np.isnan(ceiling), 1.0, np.square(ceiling))[known]
    smooth = np.nan_to_num(predicted[known], nan=1.0)
    total = reliability.sum()
    return float(np.abs(reliability * smooth - observed[known]).sum() / total) if total > 0 else float("nan")


def _concordance(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Lin's concordance of two vectors; NaN where the first is constant."""
    if np.ptp(first) < 1e-9:
        return float("nan")
    covariance = ((first - first.mean()) * (second - second.mean())).mean()
    return float(2 * covariance / (first.var() + second.var() + (first.mean() - second.mean()) ** 2))
