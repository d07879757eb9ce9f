from ._cscc import cscc
from ._hbc import hbc
from ._her2st import her2st
from ._panels import gene_panel
from ._synthetic import synthetic

__all__ = [
    "cscc",
    "gene_panel",
    "hbc",
    "her2st",
    "synthetic",
]
