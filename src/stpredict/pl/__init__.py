"""Plots of slides, predictions, scores, training and comparisons. Every function returns the axes it drew on.

Nothing here computes predictions or scores, shows a figure or saves one. matplotlib is imported when a plot is first
used.
"""

from __future__ import annotations

from typing import Any

import lazy_loader

from .._checks import config as check

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _attribute(name)
    except ModuleNotFoundError as error:
        check.needs_matplotlib(error)
        raise
