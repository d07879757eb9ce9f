"""Prepare objects for training: choose genes, note resolutions, split spots. Nothing here reads pixels or trains."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._genes import select_genes
    from ._grid import spot_grid
    from ._pseudo_spots import spots_from_cells, spots_from_transcripts
    from ._resolution import resolution
    from ._split import split
    from ._stain import stain
    from ._targets import TargetSpec
    from ._tissue import tissue

__all__ = [
    "TargetSpec",
    "resolution",
    "select_genes",
    "split",
    "spot_grid",
    "spots_from_cells",
    "spots_from_transcripts",
    "stain",
    "tissue",
]

_HOME = {
    "TargetSpec": "_targets",
    "resolution": "_resolution",
    "select_genes": "_genes",
    "split": "_split",
    "spot_grid": "_grid",
    "spots_from_cells": "_pseudo_spots",
    "spots_from_transcripts": "_pseudo_spots",
    "stain": "_stain",
    "tissue": "_tissue",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
