"""Networks: patches of spots in, target values out. One paper, one file.

Nothing here reads files or knows tables. torch is imported when a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._contract import FloatLinear, SpotBatch, SpotModel, unit_pixels
    from ._registry import ModelConfig, available, build, config, config_from_dict, config_to_dict, recipe, register
    from ._weights import weights
    from .m2ost import M2OST, M2OSTConfig
    from .m2ost_reference import M2OSTReference, M2OSTReferenceConfig, from_released

__all__ = [
    "M2OST",
    "FloatLinear",
    "M2OSTConfig",
    "M2OSTReference",
    "M2OSTReferenceConfig",
    "ModelConfig",
    "SpotBatch",
    "SpotModel",
    "available",
    "build",
    "config",
    "config_from_dict",
    "config_to_dict",
    "from_released",
    "recipe",
    "register",
    "unit_pixels",
    "weights",
]

_HOME = {
    "FloatLinear": "_contract",
    "M2OST": "m2ost",
    "M2OSTConfig": "m2ost",
    "M2OSTReference": "m2ost_reference",
    "M2OSTReferenceConfig": "m2ost_reference",
    "ModelConfig": "_registry",
    "SpotBatch": "_contract",
    "SpotModel": "_contract",
    "available": "_registry",
    "build": "_registry",
    "config": "_registry",
    "config_from_dict": "_registry",
    "config_to_dict": "_registry",
    "from_released": "m2ost_reference",
    "recipe": "_registry",
    "register": "_registry",
    "unit_pixels": "_contract",
    "weights": "_weights",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
