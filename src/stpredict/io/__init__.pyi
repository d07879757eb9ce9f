from ._anndata import from_anndata
from ._annotations import read_annotations, write_annotations
from ._embeddings import read_embeddings
from ._gmt import read_gmt
from ._st import read_st
from ._visium import read_visium
from ._visium_hd import read_visium_hd
from ._wsi import read_wsi
from ._xenium import read_xenium

__all__ = [
    "from_anndata",
    "read_annotations",
    "read_embeddings",
    "read_gmt",
    "read_st",
    "read_visium",
    "read_visium_hd",
    "read_wsi",
    "read_xenium",
    "write_annotations",
]
