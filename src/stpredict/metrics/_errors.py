"""Errors about the arrays and options given to `stpredict.metrics`; nothing here converts or computes a score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

AXES = ("gene", "spot")


def axis(value: str) -> None:
    """Refuse an axis other than "gene" and "spot"."""
    if value not in AXES:
        msg = (
            f"`axis` is {value!r}, but must be 'gene' (one score per gene, over spots) or 'spot' (one score per spot, "
            "over genes). Call with `axis='gene'` or `axis='spot'`."
        )
        raise ValueError(msg)


def dense(values: object, name: str) -> None:
    """Refuse a whole AnnData, and a sparse matrix where a dense array is needed."""
    not_a_table(values, name)
    blocks = getattr(values, "_meta", None)  # of a dask array
    if isinstance(values, np.ndarray) or not any(
        hasattr(each, method) for each, method in ((values, "toarray"), (values, "to_memory"), (blocks, "tocsr"))
    ):
        return
    loaded = ".compute()" if blocks is not None else ".to_memory()" if hasattr(values, "to_memory") else ""
    msg = (
        f"`{name}` is a {type(values).__name__}, but scores need a dense array (n_spots, n_genes). "
        f"Choose the genes first and pass `{name}{loaded}.toarray()`."
    )
    raise TypeError(msg)


def not_a_table(values: object, name: str) -> None:
    """Refuse an AnnData in place of one of its matrices."""
    if hasattr(values, "obs_names"):
        msg = f"`{name}` is an AnnData, and one of its matrices is needed. Pass `adata.X`, or `adata.layers[…]`."
        raise TypeError(msg)


def matrix(values: NDArray[Any], name: str) -> None:
    """Refuse anything but a non-empty two-dimensional array of real numbers."""
    if values.dtype.kind not in "biuf":
        msg = f"`{name}` has dtype {values.dtype}, but must hold real numbers. Convert it with `.astype('float32')`."
        raise TypeError(msg)
    if values.ndim != 2:
        msg = (
            f"`{name}` has shape {values.shape}, but must be (n_spots, n_genes). "
            f"For a single gene call with `{name}[:, None]`."
        )
        raise ValueError(msg)
    if 0 in values.shape:
        msg = f"`{name}` is empty: shape {values.shape}, but needs at least one spot and one gene. Pass a filled one."
        raise ValueError(msg)


def finite_or_nan(values: NDArray[Any], name: str) -> None:
    """Refuse infinite values; NaN marks a spot to leave out and passes."""
    infinite = np.isinf(values)
    if infinite.any():
        spot, gene = np.argwhere(infinite)[0].tolist()
        msg = (
            f"`{name}` holds {infinite.sum():,} infinite values (first: spot {spot}, gene {gene}), but must be finite, "
            f"or NaN where a spot is to be left out. Find their cause with `np.argwhere(np.isinf({name}))`."
        )
        raise ValueError(msg)


def same_shape(observed: NDArray[Any], predicted: NDArray[Any]) -> None:
    """Refuse two arrays that do not describe the same spots and genes."""
    if observed.shape != predicted.shape:
        msg = (
            f"`observed` has shape {observed.shape} and `predicted` {predicted.shape}, but both must be "
            "(n_spots, n_genes) with the same spots and genes in one order. Align them, e.g. with `adata[:, genes]`."
        )
        raise ValueError(msg)


def same_labels(labels: Any, wanted: Any, name: str, like_name: str, noun: str) -> None:
    """Refuse labels of which some are missing on one side, or that occur twice and so cannot be matched."""
    missing, extra = wanted.difference(labels), labels.difference(wanted)
    if len(missing) or len(extra):
        msg = (
            f"`{name}` and `{like_name}` are of other {noun}: {len(missing):,} are only in `{like_name}` "
            f"({_join(missing)}), {len(extra):,} only in `{name}` ({_join(extra)}). Give the same {noun} in both, or "
            "arrays without labels (`.to_numpy()`), which are compared by position."
        )
        raise ValueError(msg)
    if not (labels.is_unique and wanted.is_unique):
        twice = labels[labels.duplicated()].unique()
        msg = (
            f"`{name}` and `{like_name}` have the {noun} in another order, and {len(twice):,} of them twice "
            f"({_join(twice)}), so they cannot be matched. Make the names unique."
        )
        raise ValueError(msg)


def some_spot_per_gene(missing: NDArray[np.bool_], name: str) -> None:
    """Refuse genes that are NaN at every spot: they would leave no spot for the others."""
    genes = np.flatnonzero(missing.all(axis=0))
    if genes.size:
        msg = (
            f"`{name}` is NaN at every spot for {genes.size:,} of {missing.shape[1]:,} genes (columns "
            f"{_join(genes)}): not predicted, or not measured. Pass only the genes present in both, e.g. "
            "`keep = ~np.isnan(predicted).all(0)` and then `observed[:, keep], predicted[:, keep]`."
        )
        raise ValueError(msg)


def enough(n: int, needed: int, noun: str, n_missing: int = 0) -> None:
    """Refuse to score fewer values than a score needs."""
    if n < needed:
        dropped = f" ({n_missing:,} more have NaN and are left out)" if n_missing else ""
        msg = f"{n} {noun}{dropped}, but at least {needed} are needed for this score. Pass arrays with more {noun}."
        raise ValueError(msg)


def at_least_one(value: object, name: str) -> None:
    """Refuse a number that is not a whole one from 1 upwards."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        msg = f"`{name}` is {value!r}, but must be a whole number >= 1. Call with e.g. `{name}=10`."
        raise ValueError(msg)


def vector(values: NDArray[Any], name: str) -> None:
    """Refuse anything but a one-dimensional array of real numbers."""
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        msg = (
            f"`{name}` has shape {values.shape} and dtype {values.dtype}, but must be one number per gene, as returned "
            f"by `stp.metrics.pearson(observed, predicted)`."
        )
        raise ValueError(msg)


def whole_counts(values: NDArray[Any], name: str) -> None:
    """Refuse values that cannot be raw counts, and say how that was noticed."""
    advice = f"Pass raw counts as `{name}`, e.g. `adata.layers['counts']`, or `adata.X` before normalisation."
    bad = ~np.isfinite(values)
    if bad.any():
        msg = f"`{name}` must be raw counts, but {bad.sum():,} of its values are NaN or infinite. {advice}"
        raise ValueError(msg)
    bad = values < 0
    if bad.any():
        msg = (
            f"`{name}` must be raw counts, but {bad.sum():,} of its values are negative (lowest {values.min():.4g}): "
            f"they look centred or standardised. {advice}"
        )
        raise ValueError(msg)
    bad = values != np.rint(values)
    if bad.any():
        msg = (
            f"`{name}` must be raw counts, but {bad.sum():,} of its {np.count_nonzero(values):,} non-zero values are "
            f"not whole numbers (first {values[bad][0]:.4g}, largest {values.max():.4g}): they look normalised or "
            f"log-transformed. {advice}"
        )
        raise ValueError(msg)


def library(total: NDArray[Any], panel: NDArray[np.int64]) -> None:
    """Refuse library sizes that are not one whole number per spot, at least the sum of the given genes."""
    if total.shape != panel.shape:
        msg = (
            f"`total` has shape {total.shape}, but must be {panel.shape}: the library size of each spot over all "
            "genes. Pass `np.asarray(all_counts.sum(axis=1)).ravel()`, or None for the sum over the given genes."
        )
        raise ValueError(msg)
    whole_counts(total, "total")
    short = np.flatnonzero(total < panel)
    if short.size:
        first = short[0]
        msg = (
            f"`total` is below the sum of `counts` at {short.size:,} spots (spot {first}: {total[first]:.0f} < "
            f"{panel[first]}), but must include these genes. Sum it over all genes of the same spots, in order."
        )
        raise ValueError(msg)


def target_sum(value: float) -> None:
    """Refuse a target sum that is not positive and finite."""
    if not 0 < value < np.inf:
        msg = f"`target_sum` is {value!r}, but must be a positive finite number. Call with e.g. `target_sum=1e4`."
        raise ValueError(msg)


def positions(xy: NDArray[Any], n_spots: int) -> None:
    """Refuse positions that are not one finite (x, y) per spot."""
    if xy.shape != (n_spots, 2) or xy.dtype.kind not in "biuf":
        msg = (
            f"`xy` has shape {xy.shape} and dtype {xy.dtype}, but must be ({n_spots}, 2): the centre (x, y) of each "
            "row of `values`. Pass e.g. `adata.obsm['spatial']` of the same spots."
        )
        raise ValueError(msg)
    bad = np.flatnonzero(~np.isfinite(xy).all(axis=1))
    if bad.size:
        msg = (
            f"`xy` is NaN or infinite at {bad.size:,} of {n_spots:,} spots (rows {_join(bad)}), but must be finite. "
            "Leave these spots out of `values` and `xy`."
        )
        raise ValueError(msg)


def slide_labels(labels: NDArray[Any], n_spots: int) -> None:
    """Refuse slide labels that are not one per spot, or missing for some."""
    if labels.shape != (n_spots,):
        msg = (
            f"`slide` has shape {labels.shape}, but must be ({n_spots},): the slide of each row of `values`. "
            "Pass e.g. `adata.obs['section']`, or None for a single slide."
        )
        raise ValueError(msg)
    from pandas import isna  # deferred: slow to import

    bad = np.flatnonzero(isna(labels))
    if bad.size:
        msg = (
            f"`slide` is missing for {bad.size:,} of {n_spots:,} spots (rows {_join(bad)}), but each spot needs one. "
            "Leave these spots out of `values`, `xy` and `slide`."
        )
        raise ValueError(msg)


def several_positions(xy: NDArray[np.float64], label: object) -> None:
    """Refuse a slide whose spots all lie on one point."""
    if len(xy) > 1 and not np.ptp(xy, axis=0).any():
        where = "" if label is None else f" of slide {label!r}"
        msg = (
            f"all {len(xy):,} spots{where} lie at the same position {tuple(xy[0].tolist())}, so they have no "
            "neighbours to compare. Pass their centres as `xy`, e.g. `adata.obsm['spatial']`."
        )
        raise ValueError(msg)


def neighbours(n: int) -> None:
    """Refuse positions among which no spot has a neighbour."""
    if n == 0:
        msg = (
            "every spot is alone on its slide, so none has a neighbour; at least one slide must hold two spots. "
            "Check `slide`, or call with `slide=None`."
        )
        raise ValueError(msg)


def same_length(n: int, n_other: int, name: str, other: str) -> None:
    """Refuse two arrays that are not of the same spots."""
    if n != n_other:
        msg = (
            f"`{name}` is of {n:,} spots and `{other}` of {n_other:,}, but both must be of the same spots in one "
            "order. Align them, e.g. with `.reindex(adata.obs_names)`."
        )
        raise ValueError(msg)


def one_per_gene(values: NDArray[Any], n_genes: int, name: str) -> None:
    """Refuse anything but one number for each gene."""
    if values.shape != (n_genes,):
        msg = (
            f"`{name}` is of shape {values.shape}, and a number for each of {n_genes:,} genes is needed. Pass what a "
            "score of the same genes returned, e.g. `stp.metrics.morans_i(values, xy)`."
        )
        raise ValueError(msg)


def has_order(names: object, name: str) -> None:
    """Refuse a set, which does not say which name is of which column."""
    if isinstance(names, (set, frozenset)):
        msg = f"`{name}` is a set, which has no order, and each column needs its name. Pass a list."
        raise TypeError(msg)


def one_name_per_gene(n_names: int, n_genes: int) -> None:
    """Refuse names of other genes than the columns."""
    if n_names != n_genes:
        msg = (
            f"`genes` has {n_names:,} names and `values` {n_genes:,} columns, but each column needs its name. Pass "
            "e.g. `adata.var_names`."
        )
        raise ValueError(msg)


def some_pathway(largest: int, needed: int, n_genes: int) -> None:
    """Refuse pathways of which none has enough genes."""
    if largest < needed:
        msg = (
            f"No pathway has more than {largest} of the {n_genes:,} genes given, and a score needs {needed}. Use the "
            "same kind of names in both, such as symbols, or more genes, in `stp.metrics.pathway_scores`."
        )
        raise ValueError(msg)


def share(value: float, name: str) -> None:
    """Refuse a number that is not between 0 and 1."""
    if not 0 < value < 1:
        msg = f"`{name}` is {value!r}, but must lie between 0 and 1. Call with e.g. `{name}=0.9`."
        raise ValueError(msg)


def ordered_bounds(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> None:
    """Refuse intervals whose upper bound is below the lower one."""
    wrong = int((upper < lower).sum())
    if wrong:
        msg = (
            f"`upper` is below `lower` in {wrong:,} of {lower.size:,} intervals, but must not be. Pass the lower "
            "bounds first, e.g. `adata.layers['predicted_lower'], adata.layers['predicted_upper']`."
        )
        raise ValueError(msg)


def some_labelled(n: int, n_spots: int) -> None:
    """Refuse two partitions that no spot has in common."""
    if n == 0:
        msg = (
            f"None of {n_spots:,} spots has a label in both partitions, so they cannot be compared. Pass the labels of "
            "the same spots, e.g. two columns of one `adata.obs`."
        )
        raise ValueError(msg)


def no_missing_labels(codes: NDArray[np.intp], name: str) -> None:
    """Refuse labels of which some are missing, where each spot needs one."""
    bad = np.flatnonzero(codes < 0)
    if bad.size or not codes.size:
        msg = (
            f"`{name}` is missing for {bad.size:,} of {len(codes):,} spots (rows {_join(bad)}), but each spot needs "
            "one, and there must be spots. Leave these spots out of all arrays."
        )
        raise ValueError(msg)


def all_finite(values: NDArray[Any], name: str) -> None:
    """Refuse NaN and infinity."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        msg = (
            f"`{name}` is NaN or infinite at {bad.size:,} of {len(values):,} spots (rows {_join(bad)}), but must be "
            "finite. Leave these spots out of all arrays."
        )
        raise ValueError(msg)


def same_domain_pairs(n: int) -> None:
    """Refuse domains of which none holds two spots of a slide."""
    if n == 0:
        msg = (
            "No domain holds two spots of one slide, so no spot has a nearest spot of its domain. Pass fewer domains, "
            "or `slide=None` for a single slide."
        )
        raise ValueError(msg)


def fewer_domains(n_domains: int, n_spots: int) -> None:
    """Refuse as many domains as spots."""
    if n_domains >= n_spots:
        msg = (
            f"There are {n_domains:,} domains of {n_spots:,} spots, but there must be fewer domains than spots. Pass "
            "the domain of each spot as `domains`."
        )
        raise ValueError(msg)


def _join(names: Iterable[object], most: int = 5) -> str:
    """Spell the first few of some names or indices."""
    listed = [str(name) for name in names]
    return ", ".join(listed[:most]) + (", …" if len(listed) > most else "")
