"""The noise ceiling: how well a perfect model could score, given how few molecules were counted.

Works on raw counts alone; no prediction enters here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .._checks.calls import public
from . import _errors as check
from ._rows import align, as_float, blocks, is_constant, row_products, unit_rows
from .correlation import LEAST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import ArrayLike, NDArray
    from scipy.sparse import csc_array, sparray, spmatrix


@public
def noise_ceiling(
    counts: ArrayLike | sparray | spmatrix,
    *,
    total: ArrayLike | None = None,
    target_sum: float | None = 1e4,
    log1p: bool = True,
    n_splits: int = 10,
    seed: int = 0,
) -> NDArray[np.float64]:
    r"""Gene-wise Pearson correlation that a model knowing each spot's true rate would reach.

    Each molecule is put into one of two halves by a fair coin. Halves of a Poisson count are independent, so what
    they share is the rate, and how well they agree tells how much of the observed variation is not counting noise.

    Parameters
    ----------
    counts
        Raw counts, ``(n_spots, n_genes)``, whole numbers of any dtype, dense or scipy sparse.
    total
        Library size of each spot over *all* genes, ``(n_spots,)``; the part outside ``counts`` is split as well.
        Give it if the target is normalised over all genes. None: the sum over the given genes.
    target_sum
        Library size that counts are scaled to, as for the target; None where they are not scaled.
    log1p
        Whether the target is the logarithm of 1 + scaled counts.
    n_splits
        Number of random splits, whose correlations are averaged.
    seed
        Seed of the splits.

    Returns
    -------
    ``(n_genes,)``, float64, from 0 to 1.

    NaN where the normalised gene is constant, as for `pearson`: it has no score to be limited. 0 where the halves do
    not agree. A spot without counts is 0 in both halves, on which they agree: leave it out here if it is left out of
    the scores, since in a logarithmic target a few such spots raise the ceiling of every gene.

    Raises
    ------
    ValueError
        If values are negative or not whole numbers, or there are fewer than 3 spots.

    Notes
    -----
    With :math:`r` the mean over splits of the correlation over spots between the two halves, each normalised by its
    own library size, the Spearman-Brown formula gives the reliability at full depth, and its root is the correlation
    of the observed with the true value:

    .. math:: \rho = \frac{2r}{1 + r}, \qquad \mathrm{ceiling} = \sqrt{\rho}, \qquad r \ge 0

    Noise beyond Poisson (of capture, of a batch) is shared by the halves and counts as signal, as does the effect of
    depth on the logarithm of few counts; and not all true variation can be seen in an image. So models stay below.

    The formula is exact for ``log1p=False``. The logarithm bends half the counts more than all of them, so then it is
    approximate: in simulations with 0.2 to 20 counts of a gene per spot, up to 0.07 too high for weak genes and up to
    0.03 too low for strong ones. Over few spots the ceiling of a weak gene is itself noisy, and too high because it
    cannot be negative: judge averages over genes, not a single one.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> rates = rng.gamma(2, size=(2000, 1)) * [0.05, 0.5, 5]  # one pattern, more and more counts
    >>> noise_ceiling(rng.poisson(rates), total=np.full(2000, 1000), log1p=False, n_splits=3).round(1)
    array([0.2, 0.6, 0.9])
    """
    if target_sum is not None:
        check.target_sum(target_sum)
    check.at_least_one(n_splits, "n_splits")
    panel, rest = _panel_and_rest(counts, total)
    rng = np.random.default_rng(seed)
    shared = np.zeros(panel.shape[1])
    for _ in range(n_splits):
        shared += _split_correlation(panel, rest, rng, target_sum, log1p=log1p)
    r = np.clip(shared / n_splits, 0, 1)
    ceiling = np.sqrt(2 * r / (1 + r))
    ceiling[_constant_genes(panel, rest, target_sum, log1p=log1p)] = np.nan
    return ceiling


def _panel_and_rest(
    counts: ArrayLike | sparray | spmatrix, total: ArrayLike | None
) -> tuple[csc_array, NDArray[np.int64]]:
    """Check and return the counts as int64 columns, and what each spot holds beside them."""
    panel = _as_columns(counts)
    check.enough(panel.shape[0], LEAST, "spots")
    sums = np.asarray(panel.sum(axis=1)).ravel()
    if total is None:
        return panel, np.zeros_like(sums)
    library = np.asarray(align(total, counts, "total", "counts", columns=False))
    check.library(library, sums)
    return panel, library.astype(np.int64) - sums


def _as_columns(counts: ArrayLike | sparray | spmatrix) -> csc_array:
    """Return checked counts as a canonical int64 CSC array, so that dense and sparse input split alike."""
    from scipy.sparse import csc_array, issparse  # deferred: slow to import

    check.not_a_table(counts, "counts")
    for load in ("to_memory", "compute"):  # sparse in a file, or in the blocks of a dask array
        counts = getattr(counts, load)() if hasattr(counts, load) else counts
    if not issparse(counts):
        counts = np.asarray(counts)
        counts = counts.astype(np.float32) if counts.dtype == np.float16 else counts  # which scipy does not take
        check.matrix(counts, "counts")
        check.whole_counts(counts, "counts")
    columns = csc_array(counts)
    check.matrix(columns, "counts")
    check.whole_counts(columns.data, "counts")
    columns = columns.astype(np.int64)
    columns.sum_duplicates()
    columns.eliminate_zeros()
    return columns


def _split_correlation(
    panel: csc_array, rest: NDArray[np.int64], rng: np.random.Generator, target_sum: float | None, *, log1p: bool
) -> NDArray[np.float64]:
    """Correlation over spots of two random halves, per gene; 0 where a half is constant."""
    first = panel.copy()
    first.data = rng.binomial(panel.data, 0.5)
    first_rest = rng.binomial(rest, 0.5)
    halves = zip(
        _normalize(first, first_rest, target_sum, log1p=log1p),
        _normalize(panel - first, rest - first_rest, target_sum, log1p=log1p),
        strict=True,
    )
    return np.concatenate([row_products(unit_rows(one), unit_rows(other)) for one, other in halves])


def _normalize(
    panel: csc_array, rest: NDArray[np.int64], target_sum: float | None, *, log1p: bool
) -> Iterator[NDArray[np.float64]]:
    """Yield blocks of genes, ``(genes, n_spots)``, scaled by library size; a half without any count stays 0."""
    library = np.asarray(panel.sum(axis=1)).ravel() + rest
    scale = np.ones(len(library)) if target_sum is None else target_sum / np.maximum(library, 1)
    for block in blocks(panel.shape[1], panel.shape[0]):
        rows = as_float(panel[:, block].toarray().T) * scale
        yield np.log1p(rows) if log1p else rows


def _constant_genes(
    panel: csc_array, rest: NDArray[np.int64], target_sum: float | None, *, log1p: bool
) -> NDArray[np.bool_]:
    return np.concatenate([is_constant(rows) for rows in _normalize(panel, rest, target_sum, log1p=log1p)])
