"""The values that plots draw: from counts, from a table of predictions, or from a layer. Nothing here draws."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from spatialdata import SpatialData
from spatialdata.models import get_table_keys

from .. import _keys as keys
from .._checks import expression as check_expression
from .._checks import slides as check_slides
from .._checks.slides import quote
from .._slides import checks as check_elements
from .._slides.placement import slide_images
from .._slides.slides import measured_tables, resolve
from ..metrics import pearson
from ..pp import TargetSpec
from ..pp.columns import read_columns
from ..pp.normalization import CountsRecord, slide_library

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from .._slides.slides import Selection, Slide


IMAGE = "image"
"""Key of the H&E image alone, which has no values."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Source:
    """The values of one slide for one key."""

    key: str
    slide: Slide
    matrix: Any
    """``(n, n_genes)`` values as stored; of predictions only the requested genes are read."""
    rows: NDArray[np.intp]
    """Rows of ``matrix`` that are the spots of the slide."""
    is_counts: bool
    """Whether the values are raw counts, which are normalised before they are drawn."""
    target: TargetSpec
    """The normalisation of counts."""
    panel: tuple[str, ...]
    """Genes that have values."""
    units: str
    trained: CountsRecord | None
    """How the counts of training were read, of predictions that record it."""
    unlike: NDArray[np.bool_]
    """``(n,)`` whether the patches of a predicted spot are unlike those of training."""

    def values(self, genes: Sequence[str], like: Source | None = None) -> NDArray[np.float32]:
        """Normalised expression ``(n_spots, len(genes))``; counts are normalised like those behind ``like``."""
        at = {gene: i for i, gene in enumerate(self.slide.genes)}
        if not self.is_counts:
            return read_columns(self.matrix, [at[gene] for gene in genes], self.rows)
        scheme = like or self
        panel = list(genes) if scheme.target.over == "all" else [gene for gene in scheme.panel if gene in at]
        library = slide_library(self.slide, scheme.target, scheme.trained)
        normal = scheme.target.normalize(self.matrix, [at[gene] for gene in panel], library)
        normal[check_expression.zero_spots(self.matrix)] = np.nan
        column = {gene: i for i, gene in enumerate(panel)}
        return normal[:, [column[gene] for gene in genes]]


def sources(sdata: SpatialData, names: str | Sequence[str], selection: Selection) -> list[Source]:
    """Read the values of one slide for each key but that of the image; all keys are of the same region."""
    check_elements.is_spatialdata(sdata)
    asked = [key for key in ([names] if isinstance(names, str) else names) if key != IMAGE]
    if not asked:
        msg = f"`keys` names no values ({names!r}). Name at least one table or layer, such as `keys=['predicted']`."
        raise ValueError(msg)
    counts_table = _counts_table(sdata, asked, selection.table_name)
    places = {key: _place(sdata, key, counts_table, selection.layer) for key in asked}
    regions = {key: check_elements.annotated_regions(sdata.tables[table], table) for key, (table, _) in places.items()}
    shared = [name for name in regions[asked[0]] if all(name in found for found in regions.values())]
    given = selection.shapes_key if isinstance(selection.shapes_key, str) else None
    region = check_slides.one_name(f"element of {quote(asked)}", given, shared, "shapes_key")
    measured = {key for key, place in places.items() if place == (counts_table, selection.layer)}
    meant = {
        key: replace(selection, table_name=table, layer=layer, shapes_key=region)
        for key, (table, layer) in places.items()
    }
    drawn = {key: _prediction(key, sdata, meant[key]) for key in asked if key not in measured}
    first = next(iter(drawn.values()), None)
    library_key = None if first is None or first.trained is None else first.trained.library_key
    for key in (each for each in asked if each in measured):
        table_name = str(meant[key].table_name)
        if library_key is not None and library_key in sdata.tables[table_name].obs:
            meant[key] = replace(meant[key], library_key=library_key)
        drawn[key] = _counts(key, resolve(sdata, meant[key])[0], first)
    return [drawn[key] for key in asked]


def what_there_is(sdata: SpatialData, selection: Selection) -> list[str]:
    """The keys to draw if none are given: counts and prediction of one region, or the image beside the prediction."""
    check_elements.is_spatialdata(sdata)
    tables = {keys.OBSERVED: _counts_table(sdata, [], selection.table_name), keys.PREDICTED: keys.PREDICTED}
    regions = {
        key: set(check_elements.annotated_regions(sdata.tables[name], name))
        for key, name in tables.items()
        if name is not None and name in sdata.tables
    }
    if not regions:
        there = quote(list(sdata.tables))
        msg = (
            f"There is nothing to draw: no counts and no table {keys.PREDICTED!r} (tables: {there}). "
            "Predict with `stp.tl.predict(sdata, predictor)`, or name a table by `keys`."
        )
        raise ValueError(msg)
    region = selection.shapes_key
    wanted = {region} if isinstance(region, str) else regions.get(keys.PREDICTED) or regions[keys.OBSERVED]
    shown = [key for key, found in regions.items() if found & wanted] or list(regions)
    return [IMAGE, *shown] if shown == [keys.PREDICTED] else shown


def source_pearson(observed: Source, predicted: Source, gene: str) -> float | None:
    """Pearson correlation of a gene over the spots that `tl.evaluate` scores; None if it is not defined."""
    _, left, right = np.intersect1d(observed.slide.instances, predicted.slide.instances, return_indices=True)
    measured, given = observed.values([gene], predicted)[left], predicted.values([gene])[right]
    predicted_genes = set(predicted.panel)
    panel = [i for i, name in enumerate(observed.slide.genes) if name in predicted_genes]
    measured[check_expression.zero_spots(observed.matrix[:, panel])[left]] = np.nan
    if np.isfinite(measured + given).sum() < 3:
        return None
    r = float(pearson(measured, given)[0])
    return r if np.isfinite(r) else None


def _counts_table(sdata: SpatialData, asked: Sequence[str], table_name: str | None) -> str | None:
    """The table with counts; None if there is none, or several."""
    names = list(sdata.tables)
    if table_name is not None:
        check_elements.has_table(names, table_name)
        return table_name
    if keys.OBSERVED in names:
        return keys.OBSERVED
    drawn = {*asked, keys.PREDICTED}
    others = [name for name in measured_tables(sdata) if name not in drawn and sdata.tables[name].n_vars]
    return others[0] if len(others) == 1 else None


def _place(sdata: SpatialData, key: str, counts_table: str | None, layer: str | None) -> tuple[str, str | None]:
    """The table and layer that a key names."""
    if counts_table is not None and key in {keys.OBSERVED, counts_table}:
        return counts_table, layer
    if key in sdata.tables:
        return key, None
    layers = [] if counts_table is None else list(sdata.tables[counts_table].layers)
    if key not in layers:
        hint = "Give others as `keys`, or `table_name` if the counts are in another table"
        if key == keys.PREDICTED:
            hint = "Create it with `stp.tl.predict(sdata, predictor)`, or draw only the others: `keys=['observed']`"
        tables = quote(list(sdata.tables))
        msg = f"No table or layer {key!r} (tables: {tables}; layers of counts: {quote(layers)}). {hint}."
        raise ValueError(msg)
    return str(counts_table), key


def _prediction(key: str, sdata: SpatialData, meant: Selection) -> Source:
    """A prediction, drawn without normalisation; units that are not recorded are assumed to be the default."""
    table = sdata.tables[str(meant.table_name)]
    records = [table.uns[name] for name in (key, keys.PREDICTED) if isinstance(table.uns.get(name), Mapping)]
    record = records[0] if records else {}
    noted = record.get(keys.TARGET, {})
    target = TargetSpec(
        target_sum=None if (scaled := noted.get("target_sum", TargetSpec().target_sum)) is None else float(scaled),
        over="panel" if noted.get("over") == "panel" else "all",
        log1p=bool(noted.get("log1p", True)),
    )
    rows, slide = _places(sdata, meant)
    matrix = table.X if meant.layer is None else table.layers[meant.layer]
    return Source(
        key=key,
        slide=replace(slide, genes=tuple(table.var_names)),
        matrix=matrix,
        rows=rows,
        is_counts=False,
        target=target,
        panel=_panel(matrix, rows, table.var_names.tolist()),
        units=str(record.get("units", target.units)),
        trained=CountsRecord(**record["counts"]) if "counts" in record else None,
        unlike=_unlike(table, rows, None if key in sdata.tables else key),
    )


def _counts(key: str, slide: Slide, like: Source | None) -> Source:
    trained = None if like is None else like.trained
    fractional = trained is not None and trained.fractional
    check_expression.counts(slide.counts, genes=slide.genes, spots=slide.obs_names.tolist(), fractional=fractional)
    target = TargetSpec() if like is None else like.target
    panel = slide.genes if like is None else like.panel
    rows = np.arange(len(slide.instances))
    return Source(
        key=key,
        slide=slide,
        matrix=slide.counts,
        rows=rows,
        is_counts=True,
        target=target,
        panel=panel,
        units=target.units,
        trained=trained,
        unlike=np.zeros(len(rows), dtype=bool),
    )


def _places(sdata: SpatialData, meant: Selection) -> tuple[NDArray[np.intp], Slide]:
    """Rows of a table that annotate a region, and its spots without values, since these may not fit into memory."""
    table_name, region = str(meant.table_name), str(meant.shapes_key)
    check_elements.has_element(sdata, region, table_name)
    table = sdata.tables[table_name]
    _, region_key, instance_key = get_table_keys(table)
    rows = np.flatnonzero((table.obs[region_key] == region).to_numpy())
    ids = table.obs[instance_key].to_numpy()[rows]
    bare = SpatialData(
        images={name: sdata.images[name] for name in slide_images(sdata)},
        labels={region: sdata.labels[region]} if region in sdata.labels else None,
        shapes={region: sdata.shapes[region]} if region in sdata.shapes else None,
        attrs=sdata.attrs,
    )
    slide = resolve(bare, replace(meant, table_name=None, layer=None), needs_table=False)[0]
    index = pd.Index(slide.instances)
    at = check_elements.match_instances(ids, index, region, table_name)
    return rows, replace(slide, xy_px=slide.xy_px[at], instances=ids, obs_names=table.obs_names.to_numpy()[rows])


def _unlike(table: AnnData, rows: NDArray[np.intp], layer: str | None) -> NDArray[np.bool_]:
    """Spots that `predict` flagged; False where it flagged none."""
    column = keys.UNLIKE if layer is None else f"{layer}_{keys.UNLIKE}"
    if column not in table.obs:
        return np.zeros(len(rows), dtype=bool)
    return np.asarray(table.obs[column].iloc[rows].fillna(False), dtype=bool)


def _panel(matrix: Any, rows: NDArray[np.intp], genes: Sequence[str]) -> tuple[str, ...]:
    """Genes with a value in any spot; in a layer of predictions, all other genes are NaN."""
    first = read_columns(matrix, range(len(genes)), rows[:1])
    candidates = np.flatnonzero(np.isnan(first).all(axis=0))
    if not len(candidates):
        return tuple(genes)
    missing = set(candidates[np.isnan(read_columns(matrix, candidates.tolist(), rows)).all(axis=0)].tolist())
    return tuple(gene for i, gene in enumerate(genes) if i not in missing)
