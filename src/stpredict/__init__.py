"""Predict spatial gene expression from H&E images.

The seven public modules are listed in ``__init__.pyi``; each is imported at its first use, so that
``import stpredict`` alone costs nothing. Nothing of the API itself lives here.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

import lazy_loader

_attribute, _, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    return _version() if name == "__version__" else _attribute(name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def _version() -> str:
    """Version of the installed distribution; ``0+source`` where the source tree is used without an install."""
    try:
        return metadata.version("stpredict-histology")
    except metadata.PackageNotFoundError:
        return "0+source"
