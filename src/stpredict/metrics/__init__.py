"""Scores of predicted expression and of spatial domains: arrays in, numbers out.

Spots are rows and genes are columns everywhere. No AnnData, no torch, no printing; every score states its axis and how
constant genes count.
"""

from __future__ import annotations

from ._agreement import ari, homogeneity_completeness, nmi
from ._ceiling import noise_ceiling
from ._error import mae, r2, rmse
from ._intervals import interval_coverage, interval_score
from ._partitions import chaos, domain_share, lisi, pas, silhouette
from ._spatial import gearys_c, morans_i, ssim
from .correlation import pearson, spearman
from .structure import coexpression_agreement, log_fold_agreement, pathway_scores, svg_overlap
from .top_genes import best, top_variable

__all__ = [
    "ari",
    "best",
    "chaos",
    "coexpression_agreement",
    "domain_share",
    "gearys_c",
    "homogeneity_completeness",
    "interval_coverage",
    "interval_score",
    "lisi",
    "log_fold_agreement",
    "mae",
    "morans_i",
    "nmi",
    "noise_ceiling",
    "pas",
    "pathway_scores",
    "pearson",
    "r2",
    "rmse",
    "silhouette",
    "spearman",
    "ssim",
    "svg_overlap",
    "top_variable",
]
