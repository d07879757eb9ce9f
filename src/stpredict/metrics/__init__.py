"""Scores of predicted expression and of spatial domains: arrays in, numbers out.

Spots are rows and genes are columns everywhere. No AnnData, no torch, no printing; every score states its axis and how
constant genes count.
"""

from __future__ import annotations

from ._agreement import ari, homogeneity_completeness, nmi
from ._ceiling import noise_ceiling
from ._error import mae, rmse
from ._partitions import chaos, domain_share, lisi, pas, silhouette
from ._spatial import morans_i
from .correlation import pearson, spearman
from .top_genes import best, top_variable

__all__ = [
    "ari",
    "best",
    "chaos",
    "domain_share",
    "homogeneity_completeness",
    "lisi",
    "mae",
    "morans_i",
    "nmi",
    "noise_ceiling",
    "pas",
    "pearson",
    "rmse",
    "silhouette",
    "spearman",
    "top_variable",
]
