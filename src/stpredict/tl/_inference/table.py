"""Predictions as a table that annotates its spots, or as a layer beside what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from spatialdata.models import TableModel

from ... import _keys as keys
from .plan import X

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ..._slides import Slide
    from .._predictor.predictor import Predictor
    from .plan import PredictOptions
    from .sinks import Sink


def run_record(predictor: Predictor, settings: PredictOptions) -> dict[str, Any]:
    """What is noted with predictions.

    Parameters
    ----------
    predictor
        The predictor.
    settings
        How it was used.

    Returns
    -------
    Values that AnnData writes.
    """
    spec = predictor.target
    calibration = predictor.calibration
    intervals: dict[str, Any] = {}
    if settings.uncertainty is not None and calibration is not None:
        intervals = {
            "uncertainty": settings.uncertainty,
            "coverage": settings.coverage,
            "calibrated_on": calibration.record["kind"],
            "n_calibration": calibration.pooled.n,
        }
    return {
        "units": predictor.units,
        "target": {"target_sum": spec.target_sum, "over": spec.over, "log1p": spec.log1p},
        "params": {
            "n_views": settings.n_views,
            "stain": settings.stain or "as scanned",
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


def as_table(
    slides: Sequence[Slide], sink: Sink, predictor: Predictor, key_added: str, uns: Mapping[str, Any]
) -> ad.AnnData:
    """A table of its own.

    Parameters
    ----------
    slides
        The slides.
    sink
        The values, and which spots they belong to.
    predictor
        The predictor.
    key_added
        Name of the table.
    uns
        What is noted with it.

    Returns
    -------
    ``(n_spots, n_genes)``, in the order of the sink.
    """
    values = sink.values()
    obs = pd.concat([_obs(slide) for slide in slides])
    if not obs.index.is_unique:  # several elements without a table: their indices are all that names them
        obs.index = obs[keys.REGION] + "_" + obs.index
    obs[keys.REGION] = pd.Categorical(obs[keys.REGION])
    obs = obs.iloc[sink.rows]
    obs[keys.AT_BORDER] = values[keys.AT_BORDER]
    if keys.IMAGE_DISTANCE in values:
        obs[keys.IMAGE_DISTANCE] = values[keys.IMAGE_DISTANCE]
        obs[keys.UNLIKE] = values[keys.IMAGE_DISTANCE] > 1
    adata = ad.AnnData(X=values[X], obs=obs, var=pd.DataFrame(index=pd.Index(predictor.genes)), uns={key_added: uns})
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


def _obs(slide: Slide) -> pd.DataFrame:
    """What is known of the spots: their element, their index, and the measured table's other columns."""
    known = pd.DataFrame(index=pd.Index(slide.obs_names.astype(str)))
    if slide.table_name is not None:
        table = slide.source.tables[slide.table_name]
        attrs = table.uns["spatialdata_attrs"]
        known = table.obs.loc[slide.obs_names].drop(columns=[attrs["region_key"], attrs["instance_key"]])
        known = known.drop(columns=[keys.UNLIKE, keys.IMAGE_DISTANCE], errors="ignore")  # of another prediction
    known[keys.REGION], known[keys.SPOT_ID] = slide.shapes_key, slide.instances
    return known


def fill_layer(
    slides: Sequence[Slide], values: Mapping[str, NDArray[Any]], predictor: Predictor, layer: str, uns: dict[str, Any]
) -> None:
    """A layer of the table that annotates the spots.

    Parameters
    ----------
    slides
        The slides, of one object.
    values
        What was predicted, in the order of the spots.
    predictor
        The predictor.
    layer
        Name of the layer, or ``"X"``.
    uns
        What is noted with it.
    """
    table = slides[0].source.tables[str(slides[0].table_name)]
    columns = table.var_names.get_indexer(pd.Index(predictor.genes))
    rows = table.obs_names.get_indexer(pd.Index(np.concatenate([slide.obs_names for slide in slides])))
    filled = np.full(table.shape, np.nan, np.float32)
    colors = np.full((table.n_obs, values[keys.COLOR].shape[1]), np.nan, np.float32)
    border, xy = np.zeros(table.n_obs, bool), np.full((table.n_obs, 2), np.nan)
    filled[np.ix_(rows, columns)] = values[X]
    _fill_beside(table, values, rows, columns, layer)
    xy[rows] = np.concatenate([slide.xy_px for slide in slides])
    colors[rows], border[rows] = values[keys.COLOR], values[keys.AT_BORDER]
    panel, mean = np.zeros(table.n_vars, bool), np.full(table.n_vars, np.nan, np.float32)
    ridge = np.full((table.n_vars, predictor.ridge_color.shape[1]), np.nan, np.float32)
    panel[columns], mean[columns], ridge[columns] = True, predictor.train_mean, predictor.ridge_color
    if layer == X:
        table.X = filled
    else:
        table.layers[layer] = filled
    table.obs[keys.AT_BORDER], table.obsm[keys.COLOR] = border, colors
    if keys.SPATIAL not in table.obsm:
        table.obsm[keys.SPATIAL] = xy
    table.var[layer if layer != X else keys.PREDICTED], table.var[keys.TRAIN_MEAN] = panel, mean
    table.varm[keys.RIDGE_COLOR] = ridge
    table.uns[layer] = dict(uns)


def _fill_beside(
    table: ad.AnnData, values: Mapping[str, NDArray[Any]], rows: NDArray[np.intp], columns: NDArray[np.intp], layer: str
) -> None:
    """Intervals and distances beside a layer, in place of those of an earlier prediction."""
    for kind, name in beside(layer).items():
        table.layers.pop(name, None)
        if kind in values:
            table.layers[name] = np.full(table.shape, np.nan, np.float32)
            table.layers[name][np.ix_(rows, columns)] = values[kind]
    obs: Any = table.obs
    table.obs = obs.drop(columns=[keys.UNLIKE, keys.IMAGE_DISTANCE], errors="ignore")
    if keys.IMAGE_DISTANCE in values:
        distance = np.full(table.n_obs, np.nan, np.float32)
        distance[rows] = values[keys.IMAGE_DISTANCE]
        table.obs[keys.IMAGE_DISTANCE], table.obs[keys.UNLIKE] = distance, distance > 1


def beside(layer: str) -> dict[str, str]:
    """What the ends of intervals are called.

    Parameters
    ----------
    layer
        Name of the layer that holds the prediction, or ``"X"``.

    Returns
    -------
    Names of layers.
    """
    if layer == X:
        return {keys.LOWER: keys.LOWER, keys.UPPER: keys.UPPER}
    return {kind: kind.replace(keys.PREDICTED, layer, 1) for kind in (keys.LOWER, keys.UPPER)}
