"""Predictions as a table that annotates its spots, or as a layer beside measured expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from spatialdata.models import TableModel

from ... import _keys as keys
from ..._checks.slides import quote
from ..._slides import checks as check_elements
from .. import _errors as check
from ._errors import check_overwritable
from .partitions import X

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ..._slides.slides import Slide
    from .._options import PredictOptions
    from .._predictor.predictor import Predictor
    from .sinks import Sink


def check_destination(
    sdata: SpatialData, table_name: str | None, predictor: Predictor, key_added: str, layer: str | None
) -> None:
    """Refuse, before anything is computed, to overwrite anything but predictions."""
    if layer is None:
        kept = [name for kind, name, _ in sdata.gen_elements() if kind != "tables" or not _is_ours(sdata, name, name)]
        check_overwritable("key_added", key_added, kept)
    if table_name is None:
        return
    table = sdata.tables[table_name]
    layers = check_elements.layers(table)
    check.unique_spots(table.obs_names, table_name)
    missing = [gene for gene in predictor.genes if gene not in set(table.var_names)]
    if layer is None:
        check.panel_measured(missing, len(predictor.genes), table_name)
        return
    predicted = [name for name in layers if _is_ours(sdata, table_name, name)]
    ours = {*predicted, *(bound for name in predicted for bound in interval_layers(name).values())}
    for name in (layer, *interval_layers(layer).values()):
        check_overwritable("layer", name, [name for name in layers if name not in ours])
    if missing:
        msg = (
            f"Table {table_name!r} has no column for {len(missing)} of the predictor's {len(predictor.genes)} genes: "
            f"{quote(missing)}. Leave out `layer` to write a table of its own."
        )
        raise ValueError(msg)


def prediction_record(predictor: Predictor, options: PredictOptions) -> dict[str, Any]:
    """Units, target, parameters and model of a prediction, for ``uns``."""
    spec, calibration = predictor.target, predictor.calibration
    intervals: dict[str, Any] = {}
    if options.uncertainty is not None and calibration is not None:
        intervals = {
            "uncertainty": options.uncertainty,
            "coverage": options.coverage,
            "calibrated_on": calibration.record["kind"],
            "n_calibration": calibration.pooled.n,
        }
    return {
        "units": predictor.units,
        "target": {"target_sum": spec.target_sum, "over": spec.over, "log1p": spec.log1p},
        "params": {
            "n_views": options.n_views,
            "stain": options.stain or "as scanned",
            "fov_um": list(predictor.patch.fov_um),
            "size_px": predictor.patch.size_px,
            **intervals,
        },
        "model": {
            "name": predictor.model,
            "hash": predictor.hash,
            "trained_on": list(predictor.provenance.slides),
            "groups": sorted({s["group"] for s in predictor.provenance.slides.values()}),
        },
    }


def prediction_table(
    slides: Sequence[Slide], sink: Sink, predictor: Predictor, key_added: str, record: Mapping[str, Any]
) -> ad.AnnData:
    """A table of its own, ``(n_spots, n_genes)``, in the order of the sink."""
    values = sink.values()
    obs = pd.concat([_spot_columns(slide) for slide in slides])
    if not obs.index.is_unique:  # several elements without a table, whose indices repeat
        obs.index = obs[keys.REGION] + "_" + obs.index
    obs[keys.REGION] = pd.Categorical(obs[keys.REGION])
    obs = obs.iloc[sink.rows]
    obs[keys.AT_BORDER] = values[keys.AT_BORDER]
    if keys.IMAGE_DISTANCE in values:
        obs[keys.IMAGE_DISTANCE] = values[keys.IMAGE_DISTANCE]
        obs[keys.UNLIKE] = values[keys.IMAGE_DISTANCE] > 1
    adata = ad.AnnData(X=values[X], obs=obs, var=pd.DataFrame(index=pd.Index(predictor.genes)), uns={key_added: record})
    for name in (keys.LOWER, keys.UPPER):
        if name in values:
            adata.layers[name] = values[name]
    adata.var[keys.TRAIN_MEAN], adata.varm[keys.RIDGE_COLOR] = predictor.train_mean, predictor.ridge_color
    adata.obsm[keys.SPATIAL] = np.concatenate([slide.xy_px for slide in slides])[sink.rows]
    adata.obsm[keys.COLOR] = values[keys.COLOR]
    linked: ad.AnnData = TableModel.parse(
        adata, region=[slide.shapes_key for slide in slides], region_key=keys.REGION, instance_key=keys.SPOT_ID
    )
    return linked


def write_layer(
    slides: Sequence[Slide],
    values: Mapping[str, NDArray[Any]],
    predictor: Predictor,
    layer: str,
    record: dict[str, Any],
) -> None:
    """Write predictions into a layer, or X, of the table that annotates the spots of one object."""
    table = slides[0].source.tables[str(slides[0].table_name)]
    columns = table.var_names.get_indexer(pd.Index(predictor.genes))
    rows = table.obs_names.get_indexer(pd.Index(np.concatenate([slide.obs_names for slide in slides])))

    def full_matrix(kind: str) -> NDArray[np.float32]:
        matrix = np.full(table.shape, np.nan, np.float32)
        matrix[np.ix_(rows, columns)] = values[kind]
        return matrix

    if layer == X:
        table.X = full_matrix(X)
    else:
        table.layers[layer] = full_matrix(X)
    for kind, name in interval_layers(layer).items():
        table.layers.pop(name, None)  # of an earlier prediction
        if kind in values:
            table.layers[name] = full_matrix(kind)

    obs: Any = table.obs
    table.obs = obs.drop(columns=[keys.UNLIKE, keys.IMAGE_DISTANCE], errors="ignore")
    if keys.IMAGE_DISTANCE in values:
        distance = np.full(table.n_obs, np.nan, np.float32)
        distance[rows] = values[keys.IMAGE_DISTANCE]
        table.obs[keys.IMAGE_DISTANCE], table.obs[keys.UNLIKE] = distance, distance > 1
    border, xy = np.zeros(table.n_obs, bool), np.full((table.n_obs, 2), np.nan)
    colors = np.full((table.n_obs, values[keys.COLOR].shape[1]), np.nan, np.float32)
    border[rows], xy[rows] = values[keys.AT_BORDER], np.concatenate([slide.xy_px for slide in slides])
    colors[rows] = values[keys.COLOR]
    table.obs[keys.AT_BORDER], table.obsm[keys.COLOR] = border, colors
    if keys.SPATIAL not in table.obsm:
        table.obsm[keys.SPATIAL] = xy

    panel, mean = np.zeros(table.n_vars, bool), np.full(table.n_vars, np.nan, np.float32)
    ridge = np.full((table.n_vars, predictor.ridge_color.shape[1]), np.nan, np.float32)
    panel[columns], mean[columns], ridge[columns] = True, predictor.train_mean, predictor.ridge_color
    table.var[layer if layer != X else keys.PREDICTED], table.var[keys.TRAIN_MEAN] = panel, mean
    table.varm[keys.RIDGE_COLOR] = ridge
    table.uns[layer] = dict(record)


def interval_layers(layer: str) -> dict[str, str]:
    """Names of the layers with the bounds of the intervals of a layer."""
    if layer == X:
        return {keys.LOWER: keys.LOWER, keys.UPPER: keys.UPPER}
    return {kind: kind.replace(keys.PREDICTED, layer, 1) for kind in (keys.LOWER, keys.UPPER)}


def _spot_columns(slide: Slide) -> pd.DataFrame:
    """Element and index of each spot, and the other columns of its measured table."""
    known = pd.DataFrame(index=pd.Index(slide.obs_names.astype(str)))
    if slide.table_name is not None:
        table = slide.source.tables[slide.table_name]
        attrs = table.uns["spatialdata_attrs"]
        known = table.obs.loc[slide.obs_names].drop(columns=[attrs["region_key"], attrs["instance_key"]])
        known = known.drop(columns=[keys.UNLIKE, keys.IMAGE_DISTANCE], errors="ignore")  # of another prediction
    known[keys.REGION], known[keys.SPOT_ID] = slide.shapes_key, slide.instances
    return known


def _is_ours(sdata: SpatialData, table_name: str, key: str) -> bool:
    return keys.TARGET in sdata.tables[table_name].uns.get(key, {})
