"""Predict slides and write a table that scanpy and squidpy take as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from spatialdata.models import TableModel
from tqdm.auto import tqdm

from .. import _keys as keys
from .._checks import config as check_config
from .._checks import evaluation as check_evaluation
from .._checks import predictor as check
from .._checks import slides as check_slides
from .._checks import training as check_training
from .._slides import Selection, resolve
from .._train._ahead import ahead
from .._train._batches import BatchLimit, to_device
from .._train._color import color_statistics
from .._train._config import FitConfig
from .._train._data import read_pieces
from .._train._device import make_fabric
from ._predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides import Slide


def predict(
    sdata: SpatialData,
    predictor: Predictor | str | PathLike[str] | None = None,
    *,
    key_added: str = keys.PREDICTED,
    layer: str | None = None,
    n_views: int = 1,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | Sequence[str] | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> None:
    """Predict the expression of every spot.

    Parameters
    ----------
    sdata
        The object; its slides may have measured expression or not.
    predictor
        What `fit` returned, or where it was saved; by default the one that `fit` recorded on this object.
    key_added
        Name of the table that is written.
    layer
        Write into this layer of the existing table instead, beside the measured counts; ``"X"`` overwrites X.
    n_views
        Average over this many of the eight flips and turns of the patches; 8 costs eight times as much as 1.
    image_key
        Image, or a mapping of spot elements to images, where there are several.
    shapes_key
        Elements that hold the spots; by default all that the table annotates.
    table_name
        Table that annotates the spots; by default ``"observed"``, or the only one, or none.
    coordinate_system
        Coordinate system shared by image and spots, where there are several.
    um_per_px
        Resolution in µm per pixel; by default what the object records.
    batch_size
        Spots a forward pass; by default what suits the device. Halved where memory runs out: the result is the same.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
    precision
        Lightning Fabric precision, or ``"auto"``.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Nothing. Writes ``sdata.tables[key_added]``: ``X`` ``(n_spots, n_genes)`` float32 in the units of the predictor
    (log1p CP10k unless trained otherwise: do not normalise it again), ``obs["at_border"]``, ``obsm["spatial"]`` in
    pixels, ``obsm["color"]``, ``var["train_mean"]``, ``varm["ridge_color"]`` (the two baselines), ``uns[key_added]``
    (units, target, model, parameters). With ``layer``: that layer of the existing table, NaN for genes outside the
    panel and spots of other elements, ``var[layer]`` which is True for the panel (``var["predicted"]`` where the layer
    is X), and beside it what the table of predictions would hold.

    Raises
    ------
    ValueError
        If no predictor is given or recorded, elements do not fit together, or something measured would be overwritten.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> predictor = stp.tl.fit(sdata, config=stp.tl.FitConfig(n_epochs=1, progress=False))
    >>> stp.tl.predict(sdata, predictor, progress=False)
    >>> sdata["predicted"].shape
    (32, 12)
    """
    check_config.in_range("n_views", n_views, 1, 8)
    if batch_size is not None:
        check_config.in_range("batch_size", batch_size, 1, 1_000_000)
    check_slides.is_spatialdata(sdata)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
    )
    slides = resolve(sdata, selection, needs_table=layer is not None)
    found = _found(sdata, predictor)
    _check_place(sdata, slides[0].table_name, found, key_added, layer)
    _warn_unseen_resolution(slides, found)
    fabric = make_fabric(FitConfig(accelerator=device, precision=precision))
    limit = BatchLimit.of(batch_size, fabric.device)
    parts = [_predict_slide(slide, found, fabric, limit, n_views, progress=progress) for slide in slides]
    uns = _run_record(found, n_views)
    if layer is None:
        table = _table(slides, parts, found, key_added, uns)
        if key_added in sdata.tables:
            del sdata.tables[key_added]
        sdata.tables[key_added] = table
    else:
        _fill_layer(sdata, slides, parts, found, layer, uns)


def _check_place(
    sdata: SpatialData, table_name: str | None, predictor: Predictor, key_added: str, layer: str | None
) -> None:
    """Refuse, before anything is computed, to overwrite what was measured."""
    if layer is None:
        check.overwritable("key_added", key_added, [name for name in sdata.tables if not _predicted(sdata, name, name)])
    if table_name is None:
        return
    table = sdata.tables[table_name]
    check_slides.unique_spots(table.obs_names, table_name)
    missing = [gene for gene in predictor.genes if gene not in set(table.var_names)]
    if layer is not None:
        check.overwritable(
            "layer", layer, [name for name in check_slides.layers(table) if not _predicted(sdata, table_name, name)]
        )
        check.panel_in_table(missing, len(predictor.genes), table_name)
    else:
        check_evaluation.panel_measured(missing, len(predictor.genes), table_name)


def _predicted(sdata: SpatialData, table_name: str, key: str) -> bool:
    return keys.TARGET in sdata.tables[table_name].uns.get(key, {})


def _found(sdata: SpatialData, predictor: Predictor | str | PathLike[str] | None) -> Predictor:
    if isinstance(predictor, Predictor):
        return predictor
    if predictor is not None:
        return Predictor.load(predictor)
    recorded = sdata.attrs.get(keys.ATTRS, {}).get(keys.PREDICTOR)
    check.recorded(found=recorded is not None)
    place = Path(recorded["path"])
    loaded = Predictor.load(place) if place.is_dir() else None
    check.still_there(place, recorded["hash"], None if loaded is None else loaded.hash)
    return loaded or Predictor.load(place)


def _predict_slide(
    slide: Slide, predictor: Predictor, fabric: Fabric, limit: BatchLimit, n_views: int, *, progress: bool
) -> dict[str, NDArray[Any]]:
    """Predictions, border flags and colour statistics of one slide; some spots are read while others are computed."""
    n, patch = len(slide.xy_px), predictor.patch
    given = np.empty((n, len(predictor.genes)), np.float32)
    colors = np.empty((n, predictor.ridge_color.shape[1] - 1), np.float32)
    flagged = np.empty(n, bool)
    share = predictor.provenance["diameter_um"] / patch.fov_um[0]
    pieces = (replace(piece, spots=to_device(piece.spots, fabric.device)) for piece in read_pieces(slide, patch))
    with (
        tqdm(total=n, desc=f"predict {slide.name}", unit="spot", disable=not progress) as bar,
        ahead(pieces) as read,
    ):
        for piece in read:
            given[piece.rows] = predictor(piece.spots, fabric, batch_size=limit, n_views=n_views)
            colors[piece.rows] = color_statistics(piece.spots.patches, share)
            flagged[piece.rows] = piece.flagged
            bar.update(len(piece.rows))
    _warn_unseen_color(colors if flagged.all() else colors[~flagged], predictor, slide.name)
    return {"X": given, keys.AT_BORDER: flagged, keys.COLOR: colors}


def _warn_unseen_resolution(slides: Sequence[Slide], predictor: Predictor) -> None:
    seen = [s["um_per_px"] for s in predictor.provenance["slides"].values()]
    for slide in slides:
        check_training.seen_resolution(slide.um_per_px, seen, slide.name)


def _warn_unseen_color(colors: NDArray[np.float32], predictor: Predictor, name: str) -> None:
    seen = predictor.provenance["color"]
    distance = (colors[:, -6:-3].mean(axis=0) - np.array(seen["mean"])) / np.maximum(seen["std"], 1e-6)
    check_training.seen_color(dict(zip(seen["channels"], distance.tolist(), strict=True)), name)


def _run_record(predictor: Predictor, n_views: int) -> dict[str, Any]:
    spec = predictor.target
    return {
        "units": predictor.units,
        "target": {"target_sum": spec.target_sum, "over": spec.over, "log1p": spec.log1p},
        "params": {"n_views": n_views, "fov_um": list(predictor.patch.fov_um), "size_px": predictor.patch.size_px},
        "model": {
            "name": predictor.model,
            "hash": predictor.hash,
            "trained_on": list(predictor.provenance["slides"]),
            "groups": sorted({s["group"] for s in predictor.provenance["slides"].values()}),
        },
    }


def _table(
    slides: Sequence[Slide],
    parts: Sequence[Mapping[str, NDArray[Any]]],
    predictor: Predictor,
    key_added: str,
    uns: Mapping[str, Any],
) -> ad.AnnData:
    obs = pd.concat([_obs(slide) for slide in slides])
    if not obs.index.is_unique:  # several elements without a table: their indices are all that names them
        obs.index = obs[keys.REGION] + "_" + obs.index
    obs[keys.REGION] = pd.Categorical(obs[keys.REGION])
    obs[keys.AT_BORDER] = np.concatenate([part[keys.AT_BORDER] for part in parts])
    adata = ad.AnnData(
        X=np.concatenate([part["X"] for part in parts]),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(predictor.genes)),
        uns={key_added: dict(uns)},
    )
    adata.var[keys.TRAIN_MEAN], adata.varm[keys.RIDGE_COLOR] = predictor.train_mean, predictor.ridge_color
    adata.obsm[keys.SPATIAL] = np.concatenate([slide.xy_px for slide in slides])
    adata.obsm[keys.COLOR] = np.concatenate([part[keys.COLOR] for part in parts])
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
    known[keys.REGION], known[keys.SPOT_ID] = slide.shapes_key, slide.instances
    return known


def _fill_layer(
    sdata: SpatialData,
    slides: Sequence[Slide],
    parts: Sequence[Mapping[str, NDArray[Any]]],
    predictor: Predictor,
    layer: str,
    uns: Mapping[str, Any],
) -> None:
    table = sdata.tables[str(slides[0].table_name)]
    columns = table.var_names.get_indexer(pd.Index(predictor.genes))
    filled = np.full(table.shape, np.nan, np.float32)
    colors = np.full((table.n_obs, parts[0][keys.COLOR].shape[1]), np.nan, np.float32)
    border, xy = np.zeros(table.n_obs, bool), np.full((table.n_obs, 2), np.nan)
    for slide, part in zip(slides, parts, strict=True):
        rows = table.obs_names.get_indexer(pd.Index(slide.obs_names))
        xy[rows] = slide.xy_px
        filled[np.ix_(rows, columns)] = part["X"]
        colors[rows], border[rows] = part[keys.COLOR], part[keys.AT_BORDER]
    panel, mean = np.zeros(table.n_vars, bool), np.full(table.n_vars, np.nan, np.float32)
    ridge = np.full((table.n_vars, predictor.ridge_color.shape[1]), np.nan, np.float32)
    panel[columns], mean[columns], ridge[columns] = True, predictor.train_mean, predictor.ridge_color
    if layer == "X":
        table.X = filled
    else:
        table.layers[layer] = filled
    table.obs[keys.AT_BORDER], table.obsm[keys.COLOR] = border, colors
    if keys.SPATIAL not in table.obsm:
        table.obsm[keys.SPATIAL] = xy
    table.var[layer if layer != "X" else keys.PREDICTED], table.var[keys.TRAIN_MEAN] = panel, mean
    table.varm[keys.RIDGE_COLOR] = ridge
    table.uns[layer] = dict(uns)
