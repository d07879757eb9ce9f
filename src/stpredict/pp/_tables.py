"""The table that holds counts, and which of its spots are meant. Private to `pp`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _keys as keys
from .._checks import expression as check_expression
from .._checks import slides as check

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData


def counts_table(sdata: SpatialData, table_name: str | None) -> AnnData:
    """The table asked for; by default ``"observed"``, or the only one there is.

    Parameters
    ----------
    sdata
        The object.
    table_name
        Name of the table.

    Returns
    -------
    The table itself, not a copy.
    """
    check.is_spatialdata(sdata)
    names = list(sdata.tables)
    if table_name is None:
        if keys.OBSERVED not in names:
            check.one_table(names)
        table_name = keys.OBSERVED if keys.OBSERVED in names else names[0]
    check.has_table(names, table_name)
    table: AnnData = sdata.tables[table_name]
    return table


def group_names(table: AnnData, group_key: str | None) -> NDArray[np.str_]:
    """Group of each row.

    Parameters
    ----------
    table
        The table.
    group_key
        Column of ``obs``; None is the column that names the region.

    Returns
    -------
    ``(n,)`` names as strings.
    """
    if group_key is None:
        check.annotated_regions(table, "of counts")
        group_key = str(table.uns["spatialdata_attrs"]["region_key"])
    check.has_column(table, group_key)
    return np.asarray(table.obs[group_key].astype(str), dtype=str)


def training_rows(table: AnnData, train: Sequence[str] | None, group_key: str | None) -> NDArray[np.bool_]:
    """Rows that may be learnt from.

    Parameters
    ----------
    table
        The table.
    train
        Names of training groups. None takes ``obs["split"]`` if there is one, else every row.
    group_key
        Column of ``obs`` that ``train`` refers to; None is the region.

    Returns
    -------
    ``(n,)`` mask.
    """
    if train is None:
        if keys.SPLIT in table.obs:
            return np.asarray(table.obs[keys.SPLIT].astype(str) == "train")
        return np.ones(table.n_obs, bool)
    names = group_names(table, group_key)
    asked = [train] if isinstance(train, str) else list(train)
    check_expression.known_groups(asked, sorted(set(names.tolist())), "train", group_key or keys.REGION)
    return np.isin(names, asked)
