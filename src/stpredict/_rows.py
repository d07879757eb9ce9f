"""What a table says about the spots of one element: which rows are theirs, their counts, embeddings and group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ._checks import slides as check

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData


def instances(
    sdata: SpatialData, table_name: str | None, shapes_key: str, index: pd.Index[Any]
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The spots of an element, and their rows.

    Parameters
    ----------
    sdata
        The object.
    table_name
        Table that annotates the element; None where none does.
    shapes_key
        The element.
    index
        Its index.

    Returns
    -------
    ``(n,)`` names of the spots in their element, and ``(n,)`` their rows in the table.
    """
    if table_name is None:
        return index.to_numpy(), np.arange(len(index))
    table = sdata.tables[table_name]
    attrs = table.uns["spatialdata_attrs"]
    rows = np.flatnonzero(table.obs[attrs["region_key"]].astype(str) == shapes_key)
    ids = table.obs[attrs["instance_key"]].to_numpy()[rows]
    check.instances_match(ids, index, shapes_key, table_name)
    return ids, rows


def matrix_of(table: AnnData, layer: str | None) -> csr_matrix:
    """The counts.

    Parameters
    ----------
    table
        Rows of one element.
    layer
        Layer that holds counts; None is X.

    Returns
    -------
    ``(n, n_genes)``.
    """
    from scipy.sparse import csr_matrix

    check.has_layer(table, layer)
    return csr_matrix(table.X if layer is None else table.layers[layer])


def group_of(table: AnnData, group_key: str | None, shapes_key: str) -> str:
    """The group of a slide.

    Parameters
    ----------
    table
        Rows of one element.
    group_key
        Column of ``obs`` that says it; None where every slide is its own group.
    shapes_key
        The element.

    Returns
    -------
    Its name.
    """
    if group_key is None:
        return shapes_key
    check.has_column(table, group_key)
    return check.one_group(pd.Series(table.obs[group_key]), group_key, shapes_key)


def embeddings(table: AnnData | None, features_key: str | None, shapes_key: str) -> NDArray[np.float32] | None:
    """Embeddings of the spots' images that came with the table, for instance by LazySlide.

    Parameters
    ----------
    table
        Rows of one element, if any.
    features_key
        Matrix of ``obsm``; None where none was asked for.
    shapes_key
        The element.

    Returns
    -------
    ``(n, d)``, or None.
    """
    if features_key is None:
        return None
    values = check.embeddings(table, features_key, shapes_key)
    return np.ascontiguousarray(values, np.float32)
