"""Predict spatial gene expression from H&E images.

Holds the table of the seven public modules, each imported at its first use: ``import stpredict`` alone costs
nothing. Nothing of the API itself lives here.
"""

from __future__ import annotations

from importlib import import_module, metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from . import datasets, io, metrics, models, pl, pp, tl

    __version__: str

__all__ = ["datasets", "io", "metrics", "models", "pl", "pp", "tl"]


def __getattr__(name: str) -> ModuleType | str:
    if name in __all__:
        return import_module(f".{name}", __name__)
    if name == "__version__":
        return _version()
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _version() -> str:
    """Version of the installed distribution; ``0+source`` where the source tree is used without an install."""
    try:
        return metadata.version("stpredict-histology")
    except metadata.PackageNotFoundError:
        return "0+source"
