"""Predictions as a table that annotates its spots, or as a layer beside measured expression.

Predictions of slides that are not predicted again are kept, with the baselines of their own predictor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from spatialdata.models import TableModel

from ... import _keys as keys
from ..._slides import checks as check_elements
from ...pp.columns import to_dense, unname_index
from .partitions import X
from .record import (
    PARTS,
    PREDICTION_ID,
    SAMPLE,
    companion,
    matrix_layers,
    merged_parts,
    prediction_id,
    takes_more_slides,
    value_sample,
    with_baselines,
)
from .small_images import small_images

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ..._slides.slides import Slide
    from .._predictor.predictor import Predictor
    from .sinks import Sink

COMPANIONS = (keys.UNLIKE, keys.IMAGE_DISTANCE, keys.AT_BORDER, keys.IMAGE_QUALITY, PREDICTION_ID)
"""Columns of ``obs`` that belong to one prediction."""


def other_layers(table: ad.AnnData, layer: str) -> dict[str, str]:
    """Names of the layers that were written beside a layer of predictions."""
    return matrix_layers(table.uns.get(layer, {}).get(keys.MEMBERS, ()), layer)


def rows_of_other_regions(table: ad.AnnData, regions: Sequence[str]) -> NDArray[np.bool_]:
    region_key = table.uns["spatialdata_attrs"]["region_key"]
    other: NDArray[np.bool_] = ~np.isin(table.obs[region_key].astype(str).to_numpy(), list(regions))
    return other


def predicted_rows(table: ad.AnnData, layer: str) -> NDArray[np.bool_]:
    """``(n_obs,)`` rows of a layer that hold predictions."""
    panel = np.asarray(table.var[panel_column(layer)], bool)
    values = to_dense(table.X if layer == X else table.layers[layer])
    predicted: NDArray[np.bool_] = np.isfinite(values[:, panel]).all(axis=1)
    return predicted


def panel_column(layer: str) -> str:
    """Column of ``var`` that marks the genes of a layer with predictions."""
    return layer if layer != X else keys.PREDICTED


def prediction_table(
    slides: Sequence[Slide], sink: Sink, predictor: Predictor, key_added: str, record: Mapping[str, Any]
) -> ad.AnnData:
    """A table of its own, ``(n_spots, n_genes)``, in the order of the sink."""
    values = sink.values()
    region_key, instance_key = _table_keys(slides[0])
    obs = pd.concat([_spot_columns(slide, region_key, instance_key) for slide in slides])
    if not obs.index.is_unique:  # several elements without a table, whose indices repeat
        obs.index = obs[region_key] + "_" + obs.index
    obs[region_key] = pd.Categorical(obs[region_key])
    obs = obs.iloc[sink.rows]
    obs[keys.AT_BORDER] = values[keys.AT_BORDER]
    if keys.IMAGE_DISTANCE in values:
        obs[keys.IMAGE_DISTANCE] = values[keys.IMAGE_DISTANCE]
        obs[keys.UNLIKE] = values[keys.IMAGE_DISTANCE] > 1
    flags = _quality_flags(slides)
    if flags is not None:
        obs[keys.IMAGE_QUALITY] = pd.Categorical(flags[sink.rows])
    sample = value_sample(obs.index.to_numpy(), predictor.genes, values[X], sink.rows)
    uns = {key_added: {**record, SAMPLE: sample}, **({keys.LOG1P: {}} if predictor.target.log1p else {})}
    uns[keys.SPATIAL] = small_images(slides)
    adata = ad.AnnData(X=values[X], obs=obs, var=pd.DataFrame(index=pd.Index(predictor.genes)), uns=uns)
    for name, path in matrix_layers(sink.plan.models, None).items():
        if name in values:
            adata.layers[path] = values[name]
    adata.var[keys.TRAIN_MEAN], adata.varm[keys.RIDGE_COLOR] = predictor.train_mean, predictor.ridge_color
    unname_index(adata)
    adata.obsm[keys.SPATIAL] = np.concatenate([slide.xy_px for slide in slides])[sink.rows]
    adata.obsm[keys.COLOR] = values[keys.COLOR]
    regions = [slide.shapes_key for slide in slides]
    linked: ad.AnnData = TableModel.parse(adata, region=regions, region_key=region_key, instance_key=instance_key)
    return linked


def add_slides(old: ad.AnnData, new: ad.AnnData, key: str) -> ad.AnnData:
    """A table with the predictions of both; slides that are in both are those of the new one."""
    attrs = new.uns["spatialdata_attrs"]
    kept = rows_of_other_regions(old, check_elements.annotated_regions(new, key))
    if not kept.any() or not takes_more_slides(old, key, None):
        return new
    old = old.to_memory() if old.isbacked else old
    old = old[kept, new.var_names].copy()  # the genes of both are the same, but perhaps in another order
    new_names, taken = new.obs_names.astype(str), set(old.obs_names)
    if any(name in taken for name in new_names):  # elements without a table, whose indices repeat
        new.obs_names = new.obs[attrs["region_key"]].astype(str) + "_" + new_names
    record = new.uns[key]
    both = [with_baselines(each.uns[key], each, None) for each in (old, new)]
    parts = merged_parts(*both)
    frames: list[Any] = [old.obs, new.obs]
    obs: Any = pd.concat(frames)
    var: Any = new.var
    varm: dict[str, Any] = {keys.RIDGE_COLOR: new.varm[keys.RIDGE_COLOR]}
    if len(parts) > 1:
        known = old.obs.get(PREDICTION_ID, pd.Series(prediction_id(both[0]), index=old.obs_names)).astype(str)
        ids = [*known, *[prediction_id(both[1])] * new.n_obs]
        obs[PREDICTION_ID] = pd.Categorical(ids)
        record = {**record, PARTS: {name: parts[name] for name in dict.fromkeys(ids) if name in parts}}
    if keys.IMAGE_QUALITY in obs:
        obs[keys.IMAGE_QUALITY] = pd.Categorical(obs[keys.IMAGE_QUALITY])
    for name in obs.columns[obs.isna().any()].difference([keys.IMAGE_QUALITY]):
        if set(obs[name].dropna().unique()) <= {True, False}:
            obs[name] = obs[name].astype("boolean")
    pictures = {**old.uns.get(keys.SPATIAL, {}), **new.uns.get(keys.SPATIAL, {})}
    merged = ad.AnnData(
        X=_stack(old.X, new.X),
        obs=obs,
        var=var,
        varm=varm,
        uns={**new.uns, key: record, **({keys.SPATIAL: pictures} if pictures else {})},
        obsm={name: _stack(old.obsm[name], new.obsm[name]) for name in (keys.SPATIAL, keys.COLOR)},
        layers={
            name: _stack(*(each.layers[name] if name in each.layers else _nan(each.shape) for each in (old, new)))
            for name in dict.fromkeys([*check_elements.layers(old), *check_elements.layers(new)])
        },
    )
    del merged.uns["spatialdata_attrs"]
    unname_index(merged)
    regions = [*dict.fromkeys([*_regions(old), *_regions(new)])]
    merged.obs[attrs["region_key"]] = pd.Categorical(merged.obs[attrs["region_key"]].astype(str))
    linked: ad.AnnData = TableModel.parse(
        merged, region=regions, region_key=attrs["region_key"], instance_key=attrs["instance_key"]
    )
    return linked


def _regions(table: ad.AnnData) -> list[str]:
    found: list[str] = table.obs[table.uns["spatialdata_attrs"]["region_key"]].astype(str).unique().tolist()
    return found


def _nan(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.full(shape, np.nan, np.float32)


def _stack(upper: Any, lower: Any) -> Any:
    """Rows below each other; a narrower matrix gets columns of NaN, and dask arrays are not computed."""
    width = max(upper.shape[1], lower.shape[1])
    parts = []
    for each in (upper, lower):
        missing = width - each.shape[1]
        full = each.toarray() if hasattr(each, "toarray") else each
        parts.append(np.pad(full, ((0, 0), (0, missing)), constant_values=np.nan) if missing else full)
    if any(hasattr(each, "dask") for each in parts):
        import dask.array as da

        return da.concatenate([da.asarray(each) for each in parts])
    return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LayerRows:
    """Rows of a measured table into whose layer predictions are written."""

    table: Any
    """The AnnData."""
    layer: str
    rows: NDArray[np.intp]
    """Rows of the spots that are predicted now."""
    kept: NDArray[np.bool_]
    """``(n,)`` rows whose earlier prediction is kept."""

    def column(self, name: str) -> str:
        """Name of what belongs to the layer."""
        return companion(name, self.layer)

    def full(self, found: Any, stored: Any, shape: tuple[int, ...], dtype: Any, empty: Any) -> NDArray[Any]:
        """An array of all rows: what was found, what is kept of an earlier prediction, and nothing elsewhere."""
        array = np.full(shape, empty, dtype)
        if stored is not None and self.kept.any():
            array[self.kept] = np.asarray(stored)[self.kept]
        array[self.rows] = found
        return array

    def matrix(self, values: NDArray[Any], columns: NDArray[np.intp], stored: Any) -> NDArray[np.float32]:
        """`full` for predictions of the genes at some columns; -1 for genes that the table lacks."""
        known = columns >= 0
        predicted = _nan((len(self.rows), self.table.n_vars))
        predicted[:, columns[known]] = values[:, known]
        dense = None if stored is None or not self.kept.any() else to_dense(stored)
        return self.full(predicted, dense, self.table.shape, np.float32, np.nan)


def write_layer(
    slides: Sequence[Slide],
    values: Mapping[str, NDArray[Any]],
    predictor: Predictor,
    layer: str,
    record: dict[str, Any],
) -> None:
    """Write predictions into a layer, or X, of the table that annotates the spots of one object."""
    table = slides[0].source.tables[str(slides[0].table_name)]
    before = dict(table.uns[layer]) if takes_more_slides(table, layer, layer) else None
    kept = np.zeros(table.n_obs, bool)
    if before is not None:
        kept = predicted_rows(table, layer) & rows_of_other_regions(table, [slide.shapes_key for slide in slides])
    before = with_baselines(before, table, layer) if before is not None and kept.any() else None
    names = np.concatenate([slide.obs_names for slide in slides])
    target = LayerRows(table=table, layer=layer, rows=table.obs_names.get_indexer(pd.Index(names)), kept=kept)
    columns = table.var_names.get_indexer(pd.Index(predictor.genes))
    _write_matrices(target, values, columns, record.get(keys.MEMBERS, ()))
    _write_spots(target, values, slides)
    _write_genes(target, columns, predictor)
    record = {**record, SAMPLE: value_sample(names, predictor.genes, values[X])}
    record = _write_prediction_ids(target, record, before)
    unname_index(table)
    if layer == X and predictor.target.log1p:
        table.uns[keys.LOG1P] = {}
    table.uns[layer] = dict(record)


def _write_matrices(
    target: LayerRows, values: Mapping[str, NDArray[Any]], columns: NDArray[np.intp], members: Sequence[str]
) -> None:
    """Write the prediction, and the layers of intervals and members; those of an earlier prediction are kept or go."""
    table, layer, kept = target.table, target.layer, target.kept
    if layer == X:
        table.X = target.matrix(values[X], columns, table.X)
    else:
        table.layers[layer] = target.matrix(values[X], columns, table.layers.get(layer))
    for kind, name in (other_layers(table, layer) | matrix_layers(members, layer)).items():
        stored = table.layers.pop(name, None)
        if kind in values:
            table.layers[name] = target.matrix(values[kind], columns, stored)
        elif stored is not None and kept.any():
            table.layers[name] = np.where(kept[:, None], to_dense(stored), np.float32(np.nan))


def _write_spots(target: LayerRows, values: Mapping[str, NDArray[Any]], slides: Sequence[Slide]) -> None:
    """Write what is known of each spot: colour, place, distance from training, border, quality of the image."""
    table, column, kept, n = target.table, target.column, target.kept, target.table.n_obs
    obs, color = table.obs, values[keys.COLOR]
    distances = values.get(keys.IMAGE_DISTANCE, np.full(len(target.rows), np.nan, np.float32))
    distance = target.full(distances, obs.get(column(keys.IMAGE_DISTANCE)), (n,), np.float32, np.nan)
    border = target.full(values[keys.AT_BORDER], obs.get(column(keys.AT_BORDER)), (n,), bool, False)
    table.obsm[column(keys.COLOR)] = _full_color(color, table.obsm.get(column(keys.COLOR)), kept, target.rows)
    if keys.SPATIAL not in table.obsm:
        xy = np.concatenate([slide.xy_px for slide in slides])
        table.obsm[keys.SPATIAL] = target.full(xy, None, (n, 2), np.float64, np.nan)
    table.obs = obs.drop(columns=[column(keys.IMAGE_DISTANCE), column(keys.UNLIKE)], errors="ignore")
    if np.isfinite(distance).any():
        table.obs[column(keys.IMAGE_DISTANCE)], table.obs[column(keys.UNLIKE)] = distance, distance > 1
    table.obs[column(keys.AT_BORDER)] = border
    flags, stored = _quality_flags(slides), obs.get(column(keys.IMAGE_QUALITY))
    if flags is not None or (stored is not None and kept.any()):
        found = np.full(len(target.rows), None, object) if flags is None else flags
        table.obs[column(keys.IMAGE_QUALITY)] = pd.Categorical(target.full(found, stored, (n,), object, None))
    else:
        table.obs = table.obs.drop(columns=column(keys.IMAGE_QUALITY), errors="ignore")


def _write_genes(target: LayerRows, columns: NDArray[np.intp], predictor: Predictor) -> None:
    """Write the panel, and the baselines of its genes."""
    table = target.table
    panel, mean = np.zeros(table.n_vars, bool), np.full(table.n_vars, np.nan, np.float32)
    ridge = _nan((table.n_vars, predictor.ridge_color.shape[1]))
    known = columns >= 0
    columns = columns[known]
    panel[columns], mean[columns], ridge[columns] = True, predictor.train_mean[known], predictor.ridge_color[known]
    table.var[panel_column(target.layer)], table.var[target.column(keys.TRAIN_MEAN)] = panel, mean
    table.varm[target.column(keys.RIDGE_COLOR)] = ridge


def _write_prediction_ids(
    target: LayerRows, record: dict[str, Any], before: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Write which prediction each spot is of, if there are several; the record with all of them."""
    table, column = target.table, target.column(PREDICTION_ID)
    new = with_baselines(record, table, target.layer)
    parts = {} if before is None else merged_parts(before, new)
    earlier = table.obs.pop(column).astype(str) if column in table.obs else None
    if len(parts) < 2 or before is None:
        return record
    stored = earlier if earlier is not None else np.full(table.n_obs, prediction_id(before))
    ids = target.full(prediction_id(new), stored, (table.n_obs,), object, "")
    table.obs[column] = pd.Categorical(ids)
    return {**record, PARTS: {name: parts[name] for name in dict.fromkeys(ids) if name in parts}}


def _quality_flags(slides: Sequence[Slide]) -> NDArray[np.object_] | None:
    """``(n,)`` flags of the image at the spots of all slides; None if no quality was measured."""
    if all(slide.image_quality is None for slide in slides):
        return None
    missing = [np.full(len(slide.xy_px), None, object) for slide in slides]
    found = [slide.image_quality for slide in slides]
    return np.concatenate([none if flags is None else flags for none, flags in zip(missing, found, strict=True)])


def _full_color(
    color: NDArray[np.float32], stored: Any, kept: NDArray[np.bool_], rows: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Colours of all rows; predictors with other fields of view have more or fewer of them."""
    before = _nan((len(kept), 0)) if stored is None or not kept.any() else np.asarray(stored, np.float32)
    array = _nan((len(kept), max(before.shape[1], color.shape[1])))
    array[kept, : before.shape[1]] = before[kept]
    array[rows, : color.shape[1]] = color
    return array


def _table_keys(slide: Slide) -> tuple[str, str]:
    """Columns that name the element and the spot: those of the measured table, so that none of its own is lost."""
    if slide.table_name is None:
        return keys.REGION, keys.SPOT_ID
    attrs = slide.source.tables[slide.table_name].uns["spatialdata_attrs"]
    return attrs["region_key"], attrs["instance_key"]


def _spot_columns(slide: Slide, region_key: str, instance_key: str) -> pd.DataFrame:
    """Element and index of each spot, and the other columns of its measured table."""
    known = pd.DataFrame(index=pd.Index(slide.obs_names.astype(str)))
    if slide.table_name is not None:
        table = slide.source.tables[slide.table_name]
        layers = [None, *(layer for layer in (*table.layers, X) if holds_prediction(table, layer))]
        other = [companion(name, layer) for name in COMPANIONS for layer in layers]
        known = table.obs.loc[slide.obs_names].drop(columns=other, errors="ignore")
    known[region_key], known[instance_key] = slide.shapes_key, slide.instances
    return known


def holds_prediction(table: ad.AnnData, key: str | None) -> bool:
    return keys.TARGET in table.uns.get(key, {})
