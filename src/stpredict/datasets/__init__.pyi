from ._cscc import cscc
from ._hbc import hbc
from ._her2st import her2st
from ._panels import gene_panel
from ._synthetic import synthetic
from ._tenx import visium_breast, visium_hd_colon, xenium_breast
from .cohort_records import Cohort, cohorts

__all__ = [
    "Cohort",
    "cohorts",
    "cscc",
    "gene_panel",
    "hbc",
    "her2st",
    "synthetic",
    "visium_breast",
    "visium_hd_colon",
    "xenium_breast",
]
