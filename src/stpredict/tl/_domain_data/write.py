"""Domains in tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ... import _keys as keys
from ..._checks.slides import quote
from ..._checks.training import warn
from ..._domains.clusters import number_along, spot_agreement
from ..._domains.features import principal_components, standardize
from ..._domains.graph import spatial_graph
from ..._domains.methods import CONFIGS
from ..._palette import category_palette
from ...pp.columns import unname_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray

    from ..._domains.methods import DomainTask, Partition
    from .read import DomainSpots


def write_domains(
    spots: DomainSpots, task: DomainTask, found: Sequence[Partition], best: int, result: pd.DataFrame, key_added: str
) -> None:
    """Write the medoid of the first method."""
    along = principal_components(standardize(spots.expression, spots.slide), 1)[:, 0]
    codes = number_along(found[best].domains, along)
    shares = spot_agreement([one.domains for one in found], found[best].domains)
    space = embedding_name(task.method, key_added)
    own = result[result["method"] == task.method]
    record = {
        "method": task.method,
        "options": {} if task.options is None else {k: _plain(v) for k, v in asdict(task.options).items()},
        "n_domains": task.n_domains,
        "clusterer": task.clusterer,
        "refine": task.refine,
        "seeds": len(found),
        "seed_of_medoid": best,
        "n_components": task.n_components,
        "n_genes": task.expression.shape[1],
        "image": spots.image_from if task.image is not None else "",
        "from": "predicted" if spots.predicted is not None else "counts",
        "predictor": "" if spots.predicted is None else str(spots.predicted.get("model", {}).get("hash", "")),
        "slides": [slide.name for slide in spots.slides],
        "uses_labels": False,
        "embedding": space,
        "versions": {name: version(name) for name in ("scikit-learn", "torch")},
        "runs": {name: own[name].to_numpy() for name in own.columns if name != "method"},
    }
    isolated = spatial_graph(spots.xy, spots.slide).degree == 0
    columns = {f"{key_added}_agreement": shares, f"{key_added}_isolated": isolated}
    write_spots(spots, codes, columns, {space: found[best].features}, record, key_added)


def embedding_name(method: str, key_added: str) -> str:
    """Matrix of ``obsm`` with what was clustered: of the default key named by the method, else by the key."""
    if key_added != keys.DOMAIN:
        return f"X_{key_added}"
    return f"X_{method}" if method in CONFIGS else "X_domains"


def _plain(value: Any) -> Any:
    """A value as `uns` stores it."""
    return "" if value is None else list(value) if isinstance(value, tuple) else value


def write_spots(
    spots: DomainSpots,
    codes: NDArray[np.intp],
    columns: Mapping[str, NDArray[Any]],
    matrices: Mapping[str, NDArray[np.float32]],
    record: dict[str, Any],
    key_added: str,
) -> None:
    """Write values of spots to the tables of their slides; of other slides only those of the same transfer are kept."""
    names = [str(i + 1) for i in range(int(record["n_domains"]))]
    tables: dict[int, tuple[AnnData, list[int]]] = {}
    for i, slide in enumerate(spots.slides):
        table = slide.source.tables[str(slide.table_name)]
        tables.setdefault(id(table), (table, []))[1].append(i)
    for table, own in tables.values():
        kept = _kept_rows(table, key_added, record, [spots.slides[i].shapes_key for i in own])
        chosen = np.isin(spots.slide, own)
        rows = table.obs_names.get_indexer(pd.Index(np.concatenate([spots.slides[i].obs_names for i in own])))
        values = np.full(table.n_obs, -1)
        values[kept] = table.obs[key_added].cat.codes[kept] if kept.any() else -1
        values[rows] = codes[chosen]
        dtype = pd.CategoricalDtype(names)
        table.obs[key_added] = pd.Categorical([names[code] if code >= 0 else None for code in values], dtype=dtype)
        for name, column in columns.items():
            full: NDArray[Any] = np.full(table.n_obs, False if column.dtype == bool else np.nan, column.dtype)
            if kept.any():
                full[kept] = table.obs[name][kept]
            full[rows] = column[chosen]
            table.obs[name] = full
        for name, matrix in matrices.items():
            stored = np.full((table.n_obs, matrix.shape[1]), np.nan, np.float32)
            stored[rows] = matrix[chosen]
            table.obsm[name] = stored
        before = [str(name) for name in table.uns[key_added]["slides"]] if kept.any() else []
        table.uns[key_added] = {**record, "slides": list(dict.fromkeys([*before, *record["slides"]]))}
        table.uns[f"{key_added}_colors"] = category_palette(len(names))
        unname_index(table)


def check_own_matrix(key: str, tables: Sequence[tuple[str, AnnData]]) -> None:
    """Refuse to write what was clustered over a matrix of ``obsm`` that `domains` did not write."""
    for name, table in tables:
        records = [record for record in table.uns.values() if isinstance(record, Mapping)]
        if key in table.obsm and not any(record.get("embedding") == key for record in records):
            msg = (
                f"obsm[{key!r}] of table {name!r} was not written by `stp.tl.domains` and would be lost. Give another "
                "`key_added`, or delete the matrix."
            )
            raise ValueError(msg)


def _kept_rows(table: AnnData, key: str, record: Mapping[str, Any], regions: Sequence[str]) -> NDArray[np.bool_]:
    """``(n_obs,)`` spots of other slides whose domains mean the same; a warning if there are others, which are lost."""
    if key not in table.obs:
        return np.zeros(table.n_obs, bool)
    of_row = table.obs[table.uns["spatialdata_attrs"]["region_key"]].astype(str)
    others: NDArray[np.bool_] = (table.obs[key].notna() & ~of_row.isin(list(regions))).to_numpy()
    old = table.uns.get(key, {})
    names = ("method", "predictor", "n_domains", "reference_ari")  # of one reference and predictor
    if record["method"] == "transfer" and all(old.get(name) == record[name] for name in names):
        return others
    if others.any():
        warn(
            f"obs[{key!r}] held domains of {quote(of_row[others].unique().tolist())} from another call. They are "
            "removed, since the numbers of two calls do not mean the same. Find the domains of all slides in one call, "
            "or give another `key_added`."
        )
    return np.zeros(table.n_obs, bool)
