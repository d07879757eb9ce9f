"""The table of all named models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .macs import cost
from .registry import config, named_variants

if TYPE_CHECKING:
    import pandas as pd


def available() -> pd.DataFrame:
    """List the named models, with their size and cost.

    Returns
    -------
    One row for each name: ``citation``, ``context``, ``n_scales``, ``size_px``, ``parameters`` and ``macs`` (multiply-
    accumulates for one spot, including attention) at 250 outputs, and ``licence`` of the weights that timm knows for
    its image encoder. The last three are missing for models that need timm if it is not installed.

    Examples
    --------
    >>> from stpredict import models
    >>> int(models.available().loc["m2ost", "macs"] / 1e6)
    3978
    """
    import pandas as pd

    rows = {}
    for name, variant in named_variants().items():
        shape = config(name, 250)
        rows[name] = {
            "citation": variant.citation,
            "context": shape.context,
            "n_scales": len(shape.fov_spots),
            "size_px": shape.size_px,
            **cost(shape),
        }
    counted = {"parameters": "Int64", "macs": "Int64", "licence": "string"}
    return pd.DataFrame.from_dict(rows, orient="index").astype(counted).rename_axis("model")
