"""The table that holds counts, and which of its spots are meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from .. import _keys as keys
from .._checks.slides import quote
from .._slides import checks as check_elements
from .._slides.slides import counts_table_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData


def counts_table(sdata: SpatialData, table_name: str | None) -> AnnData:
    """The table itself, not a copy; by default ``"observed"``, or the only one there is."""
    check_elements.is_spatialdata(sdata)
    table: AnnData = sdata.tables[counts_table_name(sdata, table_name)]
    return table


def group_names(table: AnnData, group_key: str | None) -> NDArray[np.str_]:
    """``(n,)`` group of each row, by a column of ``obs``; by default the one that names the region."""
    if group_key is None:
        check_elements.annotated_regions(table, "of counts")
        group_key = str(table.uns["spatialdata_attrs"]["region_key"])
    check_elements.has_column(table, group_key)
    n_missing = int(table.obs[group_key].isna().sum())
    if n_missing:
        msg = (
            f"obs[{group_key!r}] is missing for {n_missing} of {table.n_obs} spots, which then belong to no group. "
            "Fill the column, or leave these spots out of the table."
        )
        raise ValueError(msg)
    return np.asarray(table.obs[group_key].astype(str), dtype=str)


def training_rows(table: AnnData, train: Sequence[str] | None, group_key: str | None) -> NDArray[np.bool_]:
    """``(n,)`` mask of the rows of training groups; by default of those in ``obs["split"]``, else all rows."""
    if train is None:
        if keys.SPLIT in table.obs:
            return np.asarray(table.obs[keys.SPLIT].astype(str) == "train")
        return np.ones(table.n_obs, bool)
    names = group_names(table, group_key)
    groups = group_list(train)
    known_groups(groups, sorted(set(names.tolist())), "train", group_key or keys.REGION)
    return np.isin(names, groups)


def group_list(names: object) -> list[str]:
    """One group or several as text, as groups are compared: patients may be numbers."""
    return [str(name) for name in names] if isinstance(names, Iterable) and not isinstance(names, str) else [str(names)]


def known_groups(asked: Sequence[str], available: Sequence[str], argument: str, key: str) -> None:
    """Refuse groups that no spot belongs to, all of them at once."""
    known = set(available)
    missing = [name for name in asked if name not in known]
    if missing or not len(asked):
        what = quote(missing) if missing else "nothing"
        msg = f"`{argument}` names {what}; obs[{key!r}] holds {quote(available)}. Give some of these."
        raise ValueError(msg)
