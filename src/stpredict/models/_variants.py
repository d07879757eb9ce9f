"""Named models as data: which file, which classes, which fields differ from the defaults.

A new model is one row here and one file beside this one. No network is defined here, and none imported.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One row of the registry."""

    module: str
    """File in this folder."""
    model: str
    """Class of the network; its configuration is called the same with ``Config`` behind."""
    citation: str
    """Where it was published."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields that differ from the defaults of the configuration."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `stp.tl.FitConfig` that differ from its defaults where nobody says otherwise."""


_M2OST = "Wang et al., AAAI 2025, arXiv 2409.15092"
VARIANTS: Mapping[str, Variant] = MappingProxyType(
    {
        "m2ost": Variant(module="m2ost", model="M2OST", citation=_M2OST),
        "m2ost_small": Variant(module="m2ost", model="M2OST", citation=_M2OST, overrides={"dim": 96, "mlp_ratio": 2.0}),
        "m2ost_tiny": Variant(
            module="m2ost",
            model="M2OST",
            citation=_M2OST,
            overrides={"dim": 96, "depth": 2, "size_px": 112, "mlp_ratio": 2.0, "statistics_share": 0.5},
        ),
        "m2ost_reference": Variant(
            module="m2ost_reference", model="M2OSTReference", citation=f"{_M2OST}, code at 60fd90a"
        ),
    }
)
