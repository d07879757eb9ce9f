"""Where predictions may be written: nothing but predictions is overwritten, and units and genes are not mixed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ... import _keys as keys
from ..._checks.slides import quote
from ..._slides import checks as check_elements
from .. import _errors as check
from . import _errors
from .partitions import X
from .record import matrix_layers, takes_more_slides
from .table import holds_prediction, other_layers, panel_column, predicted_rows, rows_of_other_regions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spatialdata import SpatialData

    from ..._slides.slides import Slide
    from ...pp.targets import TargetSpec
    from .._predictor.predictor import Predictor

RESERVED = (keys.SPATIAL, keys.LOG1P, keys.EVALUATION, keys.PREDICTABILITY, keys.ATTRS, "spatialdata_attrs")
"""Entries of ``uns`` with a meaning of their own, beside which predictions are described."""


def check_destination(
    sdata: SpatialData,
    slides: Sequence[Slide],
    predictor: Predictor,
    key_added: str,
    layer: str | None,
    *,
    models: Sequence[str] = (),
    partial: bool = False,
) -> None:
    """Refuse, before anything is computed, to overwrite anything but predictions, or to mix units or genes.

    ``models`` are those whose own predictions are written too; a ``partial`` layer need not hold all genes.
    """
    table_name, regions = slides[0].table_name, [slide.shapes_key for slide in slides]
    argument, written = ("key_added", key_added) if layer is None else ("layer", layer)
    check_name(argument, written)
    if layer is None:
        ours = {name for name, table in sdata.tables.items() if holds_prediction(table, name)}
        kept = [name for _, name, _ in sdata.gen_elements() if name not in ours]
        _errors.check_overwritable("key_added", key_added, kept)
        check_added(sdata, key_added, regions, predictor.target, predictor.genes)
    if table_name is None:
        return
    table = sdata.tables[table_name]
    check_elements.unique_spots(table.obs_names, table_name)
    layers, measured = check_elements.layers(table), set(table.var_names)
    missing = [gene for gene in predictor.genes if gene not in measured]
    if layer is None and not measured:  # a table that holds embeddings only
        return
    if layer is None:
        check.panel_measured(missing, len(predictor.genes), table_name)
        return
    predicted = [name for name in layers if holds_prediction(table, name)]
    ours = {*predicted, *(other for name in predicted for other in other_layers(table, name).values())}
    for name in (layer, *matrix_layers(models, layer).values()):
        _errors.check_overwritable("layer", name, [name for name in layers if name not in ours])
    if partial:
        by_panel = predictor.target.over == "panel" and predictor.target.target_sum is not None
        _errors.check_partial(missing, predictor.genes, by_panel=by_panel)
    elif missing:
        msg = (
            f"Table {table_name!r} has no column for {len(missing)} of the predictor's {len(predictor.genes)} genes: "
            f"{quote(missing)}. Leave out `layer` to write a table of its own."
        )
        raise ValueError(msg)
    if layer != X and not holds_prediction(table, layer):
        places = (("uns", table.uns), ("var", table.var))
        taken = [f"{place}[{layer!r}]" for place, held in places if layer in held]
        check.name_is_free(argument, layer, taken, "stp.tl.predict")
    if takes_more_slides(table, layer, layer):
        other = rows_of_other_regions(table, regions) & predicted_rows(table, layer)
        panel = table.var_names[np.asarray(table.var[panel_column(layer)], bool)].tolist()
        _errors.check_same_prediction(layer, table.uns[layer], panel, predictor.target, predictor.genes, other, missing)


def check_added(sdata: SpatialData, key: str, regions: Sequence[str], target: TargetSpec, genes: Sequence[str]) -> None:
    """Refuse to add slides to a table of its own that is of other genes or in other units."""
    if key in sdata.tables and takes_more_slides(sdata.tables[key], key, None):
        table = sdata.tables[key]
        other = rows_of_other_regions(table, regions)
        _errors.check_same_prediction(key, table.uns[key], table.var_names.tolist(), target, genes, other)


def check_name(argument: str, name: str) -> None:
    """Refuse a name under which ``uns`` holds something else than the description of a result."""
    _errors.check_not_reserved(argument, name, RESERVED)
