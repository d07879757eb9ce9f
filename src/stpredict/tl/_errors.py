"""Errors and warnings about embeddings, spots and genes, and about comparing predictions with measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._checks.slides import quote
from .._checks.training import warn

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd


def embeddings_fit(model: str, options: Mapping[str, object], width: int | None, *, takes: bool) -> None:
    """Refuse embeddings for a model that takes none, and their absence for a model that needs them."""
    if width is not None and not takes:
        msg = (
            f"`features_key` was given, but {model!r} takes no embeddings: it reads patches. Leave it out, or take a "
            "model with an `encoder`, such as 'm2ost_encoder', 'encoder_ridge' or 'encoder_mlp'."
        )
        raise ValueError(msg)
    if width is None and options.get("encoder") == "given":
        msg = "`encoder='given'` needs embeddings in the table: name their `obsm` as `features_key`."
        raise ValueError(msg)
    if width is None:
        return
    if options.get("encoder", "given") != "given":
        msg = (
            f"`features_key` was given, and `encoder={options['encoder']!r}` too: features come from one of them. "
            "Leave one out."
        )
        raise ValueError(msg)
    if options.get("n_features") not in (None, 0, width):
        msg = (
            f"The embeddings have {width} features, {model!r} takes {options['n_features']}: they are of another "
            "encoder. Give those that it was trained with as `features_key`."
        )
        raise ValueError(msg)


def unique_spots(names: pd.Index[Any], table_name: str) -> None:
    """Refuse rows that share a name: predictions are matched to measurements by it."""
    if not names.is_unique:
        twice = quote(names[names.duplicated()].unique().tolist())
        msg = (
            f"Rows of table {table_name!r} share a name: {twice}. Make `obs_names` unique with "
            f"`sdata.tables[{table_name!r}].obs_names_make_unique()`."
        )
        raise ValueError(msg)


def panel_measured(missing: Sequence[str], n_genes: int, table_name: str) -> None:
    """Warn where predicted genes were not measured."""
    if missing:
        warn(
            f"Table {table_name!r} lacks {len(missing)} of the {n_genes} predicted genes ({quote(missing)}): these "
            "cannot be compared with measurements."
        )
