"""Plots of slides, predictions, scores, training and comparisons. Every function returns the axes it drew on.

Nothing here computes predictions or scores, shows a figure or saves one. matplotlib is imported when a plot is first
used.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
