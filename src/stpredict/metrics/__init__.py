"""Scores of predicted expression: arrays in, numbers out.

Spots are rows and genes are columns everywhere. No AnnData, no torch, no printing; every score states its axis and how
constant genes count.
"""

from __future__ import annotations

from ._ceiling import noise_ceiling
from ._error import mae, rmse
from ._spatial import morans_i
from ._summary import best, top_variable
from .correlation import pearson, spearman

__all__ = ["best", "mae", "morans_i", "noise_ceiling", "pearson", "rmse", "spearman", "top_variable"]
