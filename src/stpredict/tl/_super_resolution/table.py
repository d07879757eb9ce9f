"""Superpixels as a table that annotates squares, beside those of other slides."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
from spatialdata.models import TableModel

from ... import _keys as keys
from ..._slides import checks as check_elements
from ..._slides import elements
from .._inference.record import target_record
from .._inference.table import rows_of_other_regions
from .superpixels import squares
from .weak_supervision import WINDOWS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .slide_resolver import SlideResolver
    from .superpixels import Superpixels
    from .weak_supervision import ResidualModel


def superpixel_table(
    tilings: Sequence[Superpixels],
    x: NDArray[np.float32],
    resolver: SlideResolver,
    models: Sequence[ResidualModel],
    key_added: str,
) -> ad.AnnData:
    regions = [f"{key_added}_{tiling.slide.shapes_key}" for tiling in tilings]
    obs = pd.concat([_obs(tiling, region) for tiling, region in zip(tilings, regions, strict=True)])
    obs[keys.REGION], obs[keys.SPOT] = pd.Categorical(obs[keys.REGION]), pd.Categorical(obs[keys.SPOT])
    genes = [resolver.predictor.genes[i] for i in resolver.columns]
    adata = ad.AnnData(X=x, obs=obs, var=pd.DataFrame(index=pd.Index(genes)))
    adata.obsm[keys.SPATIAL] = np.concatenate([tiling.xy_px for tiling in tilings])
    weights = {tiling.slide.shapes_key: asdict(model.weights) for tiling, model in zip(tilings, models, strict=True)}
    adata.uns[key_added] = _record(resolver, weights)
    if resolver.predictor.target.log1p:
        adata.uns[keys.LOG1P] = {}
    linked: ad.AnnData = TableModel.parse(adata, region=regions, region_key=keys.REGION, instance_key=keys.SPOT_ID)
    return linked


def _obs(tiling: Superpixels, region: str) -> pd.DataFrame:
    names = pd.Index([f"{region}_{i}" for i in range(len(tiling))])
    obs = pd.DataFrame({keys.REGION: region, keys.SPOT_ID: np.arange(len(tiling))}, index=names)
    obs[keys.SPOT] = pd.Series(tiling.slide.obs_names[tiling.spot], index=names).where(tiling.spot >= 0)
    return obs


def _record(resolver: SlideResolver, weights: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    predictor = resolver.predictor
    return {
        "units": predictor.units,
        keys.TARGET: target_record(predictor.target),
        "params": {
            keys.STEP_UM: resolver.step_um,
            "anchor": resolver.anchor,
            "n_views": resolver.n_views,
            "windows_um": [resolver.step_um * side for side in (1.0, *WINDOWS)],
            "fov_um": list(predictor.patch.fov_um),
        },
        "model": {"name": predictor.model, "hash": predictor.hash, "trained_on": list(predictor.provenance.slides)},
        "weights": {name: dict(each) for name, each in weights.items()},
    }


def _with_other_slides(old: ad.AnnData, new: ad.AnnData, key: str) -> ad.AnnData:
    """A table with the new superpixels, and with those of other slides that are in the old one."""
    region_key, regions = new.uns["spatialdata_attrs"]["region_key"], check_elements.annotated_regions(new, key)
    kept = rows_of_other_regions(old, regions)
    if not kept.any():
        return new
    before = old.to_memory() if old.isbacked else old
    joined = ad.concat([before[kept, new.var_names], new])
    others = joined.obs[region_key][: kept.sum()].astype(str).unique().tolist()
    for name in (region_key, keys.SPOT):
        values: Any = joined.obs[name].astype(object)
        joined.obs[name] = pd.Categorical(values)
    weights = {name: value for name, value in old.uns[key]["weights"].items() if f"{key}_{name}" in others}
    joined.uns = {name: value for name, value in new.uns.items() if name != "spatialdata_attrs"}
    joined.uns[key] = {**new.uns[key], "weights": {**weights, **new.uns[key]["weights"]}}
    linked: ad.AnnData = TableModel.parse(
        joined, region=[*others, *regions], region_key=region_key, instance_key=keys.SPOT_ID
    )
    return linked


def write_superpixels(sdata: SpatialData, table: ad.AnnData, tilings: Sequence[Superpixels], key_added: str) -> None:
    """Replace what an earlier call wrote for these slides, once everything is computed."""
    regions = check_elements.annotated_regions(table, key_added)
    if key_added in sdata.tables:
        table = _with_other_slides(sdata.tables[key_added], table, key_added)
        del sdata.tables[key_added]
    for name in regions:
        if name in sdata:
            del sdata[name]
    for tiling in tilings:
        slide = tiling.slide
        elements.write_shapes(sdata, f"{key_added}_{slide.shapes_key}", squares(tiling), slide.image_key)
    sdata.tables[key_added] = table
