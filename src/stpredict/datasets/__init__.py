"""Data to learn and test with: made up, fetched and checked (`her2st`), or in your folder. Nothing here trains."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._cscc import cscc
    from ._hbc import hbc
    from ._her2st import her2st
    from ._panels import gene_panel
    from ._synthetic import synthetic

__all__ = ["cscc", "gene_panel", "hbc", "her2st", "synthetic"]

_HOME = {"cscc": "_cscc", "gene_panel": "_panels", "hbc": "_hbc", "her2st": "_her2st", "synthetic": "_synthetic"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
