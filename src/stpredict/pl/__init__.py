"""Plots of slides, predictions, scores, training and comparisons. Every function returns the axes it drew on.

Nothing here computes predictions or scores, shows a figure or saves one. matplotlib is imported when a plot is first
used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .._checks import plots as check

if TYPE_CHECKING:
    from ._benchmark import benchmark_genes, benchmark_scores
    from ._benchmark_maps import benchmark_maps, benchmark_pca
    from ._expression import expression
    from ._history import history
    from ._patches import patches
    from ._pca import pca
    from ._scores import scores

__all__ = [
    "benchmark_genes",
    "benchmark_maps",
    "benchmark_pca",
    "benchmark_scores",
    "expression",
    "history",
    "patches",
    "pca",
    "scores",
]

_HOME = {
    "benchmark_genes": "_benchmark",
    "benchmark_maps": "_benchmark_maps",
    "benchmark_pca": "_benchmark_maps",
    "benchmark_scores": "_benchmark",
    "expression": "_expression",
    "history": "_history",
    "patches": "_patches",
    "pca": "_pca",
    "scores": "_scores",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        try:
            return getattr(import_module(f".{_HOME[name]}", __name__), name)
        except ModuleNotFoundError as error:
            check.needs_matplotlib(error)
            raise
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
