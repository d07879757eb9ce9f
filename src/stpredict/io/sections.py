"""Sections with spots and counts, and the one SpatialData made of several of them. Nothing here reads a file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Identity

from .. import _keys as keys
from .._checks import expression as check

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from xarray import DataTree

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Section:
    """The spots of one image, with their counts."""

    name: str
    """Name of the section; its elements are called ``{name}_image`` and ``{name}_spots``."""
    counts: sparse.csr_matrix
    """``(n_spots, n_genes)`` float32 raw counts."""
    genes: list[str]
    """Names of the columns of ``counts``."""
    array_xy: NDArray[np.int64]
    """``(n_spots, 2)`` column and row in the array."""
    xy_px: NDArray[np.float64]
    """``(n_spots, 2)`` centres in pixels of the image."""
    um_per_px: float
    """µm per pixel."""
    diameter_um: float
    """Diameter of a spot in µm."""
    patient: str
    """What must stay on one side of a split."""
    labels: list[str | None] | None = None
    """Annotation of each spot, if the section has any."""

    @property
    def image_key(self) -> str:
        """Name of the image element."""
        return f"{self.name}_image"

    @property
    def shapes_key(self) -> str:
        """Name of the shapes element."""
        return f"{self.name}_spots"


def assemble(sections: Sequence[Section], images: Mapping[str, DataTree]) -> SpatialData:
    """One SpatialData of several sections: an image and circles each, and one table that annotates all of them.

    Parameters
    ----------
    sections
        The sections, in the order of the rows of the table.
    images
        Image element of each section, by the name of the section.

    Returns
    -------
    The object; its table ``"observed"`` holds raw counts of the genes that all sections have.
    """
    return SpatialData(
        images={section.image_key: images[section.name] for section in sections},
        shapes={section.shapes_key: _circles(section) for section in sections},
        tables={keys.OBSERVED: _table(sections)},
        attrs={keys.ATTRS: {keys.UM_PER_PX: {section.image_key: section.um_per_px for section in sections}}},
    )


def _circles(section: Section) -> GeoDataFrame:
    circles: GeoDataFrame = ShapesModel.parse(
        section.xy_px,
        geometry=0,
        radius=section.diameter_um / 2 / section.um_per_px,
        index=np.arange(len(section.xy_px)),
        transformations={section.name: Identity()},
    )
    return circles


def _table(sections: Sequence[Section]) -> AnnData:
    genes = _shared_genes(sections)
    table = AnnData(
        X=sparse.vstack([_columns(section, genes) for section in sections], format="csr"),
        obs=_obs(sections),
        var=pd.DataFrame(index=pd.Index(genes, dtype=str)),
    )
    table.obsm[keys.SPATIAL] = np.concatenate([section.xy_px for section in sections])
    linked: AnnData = TableModel.parse(
        table,
        region=[section.shapes_key for section in sections],
        region_key=keys.REGION,
        instance_key=keys.SPOT_ID,
    )
    return linked


def _shared_genes(sections: Sequence[Section]) -> list[str]:
    common = set(sections[0].genes).intersection(*(section.genes for section in sections[1:]))
    check.shared_genes(len(common), [len(section.genes) for section in sections])
    n_all = len(set().union(*(section.genes for section in sections)))
    if n_all > len(common):
        logger.info(
            "Kept %d genes that all %d sections have; %d others were dropped.",
            len(common),
            len(sections),
            n_all - len(common),
        )
    return [gene for gene in sections[0].genes if gene in common]


def _columns(section: Section, genes: Sequence[str]) -> sparse.csr_matrix:
    at = {gene: i for i, gene in enumerate(section.genes)}
    return section.counts[:, [at[gene] for gene in genes]]


def _obs(sections: Sequence[Section]) -> pd.DataFrame:
    frames = [_section_obs(section) for section in sections]
    obs = pd.concat(frames)
    for column in (keys.REGION, keys.SECTION, keys.PATIENT):
        obs[column] = pd.Categorical(obs[column], categories=list(dict.fromkeys(obs[column])))
    if any(section.labels is not None for section in sections):
        obs[keys.LABEL] = pd.Categorical(obs[keys.LABEL])
    return obs


def _section_obs(section: Section) -> pd.DataFrame:
    n = len(section.xy_px)
    obs = pd.DataFrame(
        {
            keys.REGION: section.shapes_key,
            keys.SPOT_ID: np.arange(n),
            keys.SECTION: section.name,
            keys.PATIENT: section.patient,
            keys.ARRAY_ROW: section.array_xy[:, 1],
            keys.ARRAY_COL: section.array_xy[:, 0],
        },
        index=[f"{section.name}_{x}x{y}" for x, y in section.array_xy],
    )
    if section.labels is not None:
        obs[keys.LABEL] = pd.Series(section.labels, index=obs.index, dtype=object)
    return obs
