"""Domains of a reference for other slides, by expression that one predictor predicted for both."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ... import _keys as keys
from ..._domains.transfer import transfer_domains
from ..._slides.slides import Selection
from ...pp.targets import TargetSpec
from .. import _errors as check
from .read import read_spots
from .write import write_spots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .read import DomainSpots


def transfer(
    sdata: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    reference: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    selection: Selection,
    n_domains: int | None,
    key_added: str,
) -> pd.DataFrame:
    """Give spots the domains of a reference, by predicted expression of both."""
    table_name = selection.table_name or keys.PREDICTED
    own = Selection(table_name=table_name)
    selection = replace(selection, table_name=table_name)
    new, old = (read_spots(data, each, TargetSpec()) for data, each in ((sdata, selection), (reference, own)))
    check.same_predictor(new.predicted, old.predicted, new.genes, old.genes)
    check.own_column(key_added, new.tables)
    labels = _domains_of(old, key_added)
    known = labels >= 0
    check.some_domains(len(np.unique(labels[known])), key_added)
    n = int(labels.max()) + 1
    if n_domains is not None and n_domains != n:
        msg = (
            f"`n_domains` is {n_domains}, and the reference has {n} domains in obs[{key_added!r}]. Leave `n_domains` "
            "out, or find other domains in the reference with `stp.tl.domains(reference, n_domains, method)`."
        )
        raise ValueError(msg)
    codes, probability, reference_ari = transfer_domains(
        old.expression[known], labels[known], new.expression, np.random.default_rng(0)
    )
    record = {
        "method": "transfer",
        "n_domains": n,
        "from": "predicted",
        "predictor": str((new.predicted or {}).get("model", {}).get("hash", "")),
        "slides": [slide.name for slide in new.slides],
        "reference": [slide.name for slide in old.slides],
        "reference_ari": reference_ari,
        "uses_labels": False,
    }
    write_spots(new, codes, {f"{key_added}_probability": probability}, {}, record, key_added)
    return pd.DataFrame({"method": ["transfer"], "n_spots": [len(codes)], "reference_ari": [reference_ari]})


def _with_domains(table: AnnData, key: str, names: pd.Index[str]) -> bool:
    """Whether some of these spots have a domain in a table, which may have only those of another slide."""
    return bool(table.obs.loc[table.obs_names.isin(names), key].notna().any())


def _domains_of(spots: DomainSpots, key: str) -> NDArray[np.intp]:
    """Domains of the spots of a reference, -1 where they have none, from any table that holds them."""
    found = []
    for slide in spots.slides:
        holders = {name: table for name, table in slide.source.tables.items() if key in table.obs}
        check.has_domains(key, list(holders), list(slide.source.tables))
        names = pd.Index(slide.obs_names)
        own_first = sorted(holders, key=lambda name: name != slide.table_name)
        filled = [name for name in own_first if _with_domains(holders[name], key, names)]
        table = holders[(filled or own_first)[0]]
        column = pd.Series(table.obs[key])
        numbers = pd.to_numeric(column.astype(object), errors="coerce").to_numpy(np.float64)
        check.numbered_domains(numbers, column, key)
        rows = table.obs_names.get_indexer(names)
        found.append(np.where(rows >= 0, np.nan_to_num(numbers, nan=0)[rows], 0).astype(np.intp) - 1)
    return np.concatenate(found)
