from ._genes import select_genes
from ._grid import spot_grid
from ._pseudo_spots import spots_from_cells, spots_from_transcripts
from ._quality import quality
from ._resolution import resolution
from ._split import split
from ._stain import stain
from ._tissue import tissue
from .targets import TargetSpec

__all__ = [
    "TargetSpec",
    "quality",
    "resolution",
    "select_genes",
    "split",
    "spot_grid",
    "spots_from_cells",
    "spots_from_transcripts",
    "stain",
    "tissue",
]
