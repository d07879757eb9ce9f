"""The measured spots of a slide: which they are, and their expression. Counts of other spots are not used."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pandas as pd

from ... import _keys as keys
from ..._checks import expression as check_expression
from ..._checks.plain import in_order
from ..._checks.slides import quote
from ..._slides.checks import unique_spots
from ..._slides.slides import resolve
from ...pp.normalization import gene_columns, normalize_slide
from .._training.plan import DEFAULT_N_GENES, most_dispersed_genes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ..._slides.slides import Selection, Slide
    from ...pp.normalization import CountsRecord
    from ...pp.targets import TargetSpec

type Measured = str | Sequence[str] | Sequence[bool] | NDArray[Any] | pd.Series[Any]
"""Column of ``obs``, or one value for each row of the table, or names of spots."""

LEAST = 3
"""Measured spots that are needed: an offset and its error."""


def resolve_one_slide(sdata: SpatialData, selection: Selection) -> Slide:
    """The only slide that is selected; an error if there are several."""
    slides = resolve(sdata, selection)
    if len(slides) > 1:
        msg = (
            f"Measured spots are those of one slide, and there are {len(slides)}: "
            f"{quote([slide.name for slide in slides])}. Give one of them as `shapes_key`."
        )
        raise ValueError(msg)
    return slides[0]


def measured_rows(slide: Slide, measured: Measured) -> NDArray[np.intp]:
    """Positions on the slide of its measured spots, ascending; none only for an empty list."""
    table = slide.source.tables[str(slide.table_name)]
    unique_spots(table.obs_names, str(slide.table_name))
    if not isinstance(measured, str) and len(measured) == 0:
        return np.empty(0, np.intp)
    named = _rows_of_table(table, measured, slide.table_name)
    rows = np.flatnonzero(named[table.obs_names.get_indexer(pd.Index(slide.obs_names))])
    n = len(slide.obs_names)
    if not len(rows):
        _raise_none(slide, measured)
    if len(rows) == n:
        msg = (
            f"`measured` names all {n} spots of {slide.name!r}, so there is none left to predict. Name only the spots "
            "that were measured."
        )
        raise ValueError(msg)
    if len(rows) < LEAST:
        msg = (
            f"`measured` names {len(rows)} of {n} spots of {slide.name!r}; at least {LEAST} are needed. Measure more, "
            "or use `stp.tl.predict` alone."
        )
        raise ValueError(msg)
    return rows


def observed_expression(
    slide: Slide, rows: NDArray[np.intp], genes: Sequence[str], target: TargetSpec, trained: CountsRecord | None
) -> NDArray[np.float32]:
    """Normalised expression ``(n, g)`` of some spots of a slide, as in training."""
    counts: Any = slide.counts  # resolved with counts
    known = set(slide.genes)
    if missing := [gene for gene in genes if gene not in known]:
        msg = (
            f"Slide {slide.name!r} lacks {len(missing)} of the {len(genes)} genes: {quote(missing)}. All genes of the "
            "predictor must be measured; train one for the genes that you have with `stp.tl.fit(sdata, genes=genes)`."
        )
        raise ValueError(msg)
    names = slide.obs_names[rows].tolist()
    some = replace(
        slide,
        counts=counts[rows],
        library=None if slide.library is None else slide.library[rows],
        total_counts=None if slide.total_counts is None else slide.total_counts[rows],
    )
    fractional = slide.allow_fractional_counts
    check_expression.counts(some.counts, genes=slide.genes, spots=names, fractional=fractional)
    check_expression.unique_genes(slide.genes, repr(slide.name))
    empty = check_expression.zero_spots(counts[rows][:, gene_columns(slide, genes)])
    if empty.any():
        msg = (
            f"{int(empty.sum())} of {len(rows)} measured spots of {slide.name!r} have no counts of the genes to "
            f"predict: {quote(np.array(names)[empty].tolist())}. Leave them out of `measured`."
        )
        raise ValueError(msg)
    return normalize_slide(some, genes, target, trained)


def genes_to_krige(slide: Slide, rows: NDArray[np.intp], genes: Sequence[str] | None) -> list[str]:
    """The genes that are asked for, that `pp.select_genes` marked, or the most dispersed over the measured spots."""
    chosen = slide.source.tables[str(slide.table_name)].uns.get(keys.ATTRS, {}).get(keys.GENES)
    if genes is None and chosen is not None:
        genes = [str(gene) for gene in chosen]
    if genes is not None:
        check_expression.known_genes(genes, slide.genes)
        return list(dict.fromkeys(genes))
    counts = None if slide.counts is None else slide.counts[rows]
    return most_dispersed_genes([replace(slide, counts=counts)], slide.genes, DEFAULT_N_GENES)


def _rows_of_table(table: AnnData, measured: Measured, table_name: str | None) -> NDArray[np.bool_]:
    """``(n_obs,)`` rows of the table that are named."""
    if isinstance(measured, str):
        if measured not in table.obs:
            boolean = [name for name in table.obs if pd.api.types.is_bool_dtype(table.obs[name])]
            msg = (
                f"`measured` is {measured!r}, and table {table_name!r} has no such column (columns of True and False: "
                f"{quote(boolean)}). Give one of these, a list of names of spots, or a mask."
            )
            raise ValueError(msg)
        column: Any = table.obs[measured]
        if not pd.api.types.is_bool_dtype(column):
            msg = (
                f"obs[{measured!r}] is {column.dtype}, not True and False. Give a column that is True at measured "
                "spots, for instance `obs['measured'] = obs_names.isin(names)`."
            )
            raise ValueError(msg)
        return np.asarray(column.fillna(False), bool)
    if isinstance(measured, pd.Series) and pd.api.types.is_bool_dtype(measured):
        measured = _in_order_of(measured.fillna(False), table, table_name)
    values: NDArray[Any] = np.asarray(in_order(measured) if isinstance(measured, (set, frozenset)) else measured)
    if values.dtype == bool:
        if values.shape != (table.n_obs,):
            msg = (
                f"`measured` is a mask of shape {values.shape}; table {table_name!r} has {table.n_obs} rows. Give one "
                "value for each row, or names of spots."
            )
            raise ValueError(msg)
        return values
    names = values.astype(str)
    if unknown := [name for name in dict.fromkeys(names.ravel().tolist()) if name not in table.obs_names]:
        msg = (
            f"{len(unknown)} of {names.size} names in `measured` are not in table {table_name!r}: {quote(unknown)}. "
            f"Its spots are {quote(table.obs_names.tolist())}. Give names of `obs_names`, a column of `obs`, or a mask."
        )
        raise ValueError(msg)
    return np.asarray(table.obs_names.isin(names.ravel()))


def _in_order_of(mask: pd.Series[Any], table: AnnData, table_name: str | None) -> NDArray[np.bool_]:
    """A mask with names of spots in the order of the table; one with the labels 0, 1, … is in that order already."""
    if mask.index.equals(pd.RangeIndex(len(mask))):
        return np.asarray(mask, bool)
    unknown = mask.index.difference(table.obs_names)
    missing = table.obs_names.difference(mask.index)
    if len(unknown) or len(missing) or not mask.index.is_unique:
        msg = (
            f"The index of `measured` is not that of table {table_name!r}: {len(missing)} of its spots are missing, "
            f"{len(unknown)} are unknown ({quote(unknown.tolist())}). Give one value for each spot."
        )
        raise ValueError(msg)
    return np.asarray(mask.reindex(table.obs_names), bool)


def _raise_none(slide: Slide, measured: Measured) -> NoReturn:
    """Refuse a column, mask or list that names spots of other slides only, or none."""
    what = f"obs[{measured!r}] is True at" if isinstance(measured, str) else "`measured` names"
    msg = (
        f"{what} no spot of {slide.name!r}, which has {len(slide.obs_names)} spots, such as "
        f"{quote(slide.obs_names[:3].tolist())}. Name at least {LEAST} of them."
    )
    raise ValueError(msg)
