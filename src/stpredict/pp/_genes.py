"""Choose the genes to predict, from counts of training spots only."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .. import _keys as keys
from .._checks import config as check_config
from .._checks import expression as check
from .._checks.calls import public
from .._slides.expression import gene_counts, is_gene, on_tissue
from .._slides.slides import counts_table_name, rows_in_regions
from ._tables import counts_table, training_rows
from .columns import unname_index
from .gene_ranking import rank_genes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy import sparse
    from spatialdata import SpatialData

    from .._slides.regions import Regions
    from .gene_ranking import RankingMethod

logger = logging.getLogger(__name__)


@public
def select_genes(
    sdata: SpatialData,
    *,
    n_genes: int = 250,
    genes: Sequence[str] | None = None,
    method: RankingMethod = "dispersion",
    min_fraction: float = 0.1,
    train: Sequence[str] | None = None,
    group_key: str | None = None,
    table_name: str | None = None,
    layer: str | None = None,
    allow_fractional_counts: bool = False,
    regions: Regions | None = None,
) -> None:
    """Choose the genes to predict, from counts of training spots only.

    Parameters
    ----------
    sdata
        The object.
    n_genes
        Number of genes to choose; fewer where fewer qualify.
    genes
        Names of the genes, in place of a choice.
    method
        Score by which genes are ranked: ``"dispersion"`` (variance relative to genes of similar mean), ``"variance"``
        or ``"mean"``, each of log1p CP10k.
    min_fraction
        Fraction of training spots in which a gene must have counts. Constant genes never qualify.
    train
        Names of the training groups. By default ``obs["split"] == "train"`` if `stp.pp.split` was called, else all.
    group_key
        Column of ``obs`` that ``train`` refers to; by default the one that names the region.
    table_name
        Table with the counts; by default ``"observed"``, or the only one there is.
    layer
        Layer with raw counts; by default X.
    allow_fractional_counts
        Whether counts need not be whole numbers, for instance after correction for ambient RNA.
    regions
        Use only counts of spots whose centre lies in these polygons, as in `stp.tl.fit`.

    Returns
    -------
    Nothing. Writes ``var["target"]`` (bool) and ``uns["stpredict"]["genes"]`` (names, in the order of ``genes`` if
    given, else by rank) to the table.

    Raises
    ------
    ValueError
        If values are not counts, or a gene of ``genes`` is missing.

    Notes
    -----
    The normalised dispersion of a gene is its variance less the median variance of genes with a similar mean, over
    their median absolute deviation.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> stp.pp.select_genes(sdata, n_genes=5)
    >>> int(sdata["observed"].var["target"].sum())
    5
    """
    table = counts_table(sdata, table_name)
    check.unique_genes(list(table.var_names), "the table")
    if genes is None:
        check_config.in_range("n_genes", n_genes, 1, 1_000_000)
        check_config.in_range("min_fraction", min_fraction, 0.0, 1.0)
        check_config.one_of("method", method, ("dispersion", "variance", "mean"))
        rows = training_rows(table, train, group_key)
        if regions is not None:
            rows = rows_in_regions(sdata, counts_table_name(sdata, table_name), rows, regions)
        counts, names = _counts(table, rows, layer, fractional=allow_fractional_counts)
        chosen = [names[i] for i in rank_genes(counts, method, min_fraction)[:n_genes]]
        if len(chosen) < n_genes:
            logger.info("%d of %d genes qualify; %d were asked for.", len(chosen), len(names), n_genes)
    else:
        chosen = list(dict.fromkeys([genes] if isinstance(genes, str) else genes))
        check.known_genes(chosen, table.var_names[is_gene(table)].tolist())
    table.var[keys.TARGET] = table.var_names.isin(chosen)
    unname_index(table)
    table.uns[keys.ATTRS] = {**table.uns.get(keys.ATTRS, {}), keys.GENES: chosen}


def _counts(
    table: AnnData, rows: NDArray[np.bool_], layer: str | None, *, fractional: bool
) -> tuple[sparse.csr_matrix, list[str]]:
    """Counts of the rows that have some, and the names of their genes."""
    matrix, genes = gene_counts(table, layer)
    rows = rows & on_tissue(table)
    matrix = matrix[rows]
    check.counts(matrix, genes=genes, spots=list(table.obs_names[rows]), fractional=fractional)
    matrix = matrix[~check.zero_spots(matrix)]
    if matrix.shape[0] < 2:
        msg = (
            f"Choosing genes needs at least two spots with counts, found {matrix.shape[0]}. Use more spots, or name "
            "`genes` yourself."
        )
        raise ValueError(msg)
    return matrix, genes
