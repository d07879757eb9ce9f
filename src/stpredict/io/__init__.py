"""Read files of measurements into SpatialData. Nothing here downloads (see `datasets`) or changes values."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._anndata import from_anndata
    from ._st import read_st
    from ._visium import read_visium
    from ._visium_hd import read_visium_hd
    from ._wsi import read_wsi
    from ._xenium import read_xenium

__all__ = ["from_anndata", "read_st", "read_visium", "read_visium_hd", "read_wsi", "read_xenium"]

_HOME = {
    "from_anndata": "_anndata",
    "read_st": "_st",
    "read_visium": "_visium",
    "read_visium_hd": "_visium_hd",
    "read_wsi": "_wsi",
    "read_xenium": "_xenium",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
