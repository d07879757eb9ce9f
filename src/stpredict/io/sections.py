"""Sections of legacy spatial transcriptomics: read spots and counts, and assemble sections into one SpatialData."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Identity

from .. import _keys as keys
from .._checks import config as check_config
from .._checks import expression as check_expression
from .._checks.training import warn
from .._geometry import is_staggered
from ._counts import read_counts
from ._lattice import resolution_from_lattice
from ._spots import read_labels, read_spots, spots_from_names

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from xarray import DataTree

    from ._counts import Counts, GenesIn
    from ._spots import Spots

logger = logging.getLogger(__name__)


class ArrayGeometry(NamedTuple):
    """Lengths of an array of spots."""

    pitch_um: float
    """Distance between neighbouring spots, diagonal ones if the array is staggered."""
    diameter_um: float
    """Diameter of a spot."""


SQUARE_ARRAY = ArrayGeometry(pitch_um=200.0, diameter_um=100.0)
"""Arrays of 1,007 spots."""
STAGGERED_ARRAY = ArrayGeometry(pitch_um=150.0, diameter_um=110.0)
"""Arrays of about 2,000 spots."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SectionOptions:
    """How the files of a section are to be read; fields without a description are arguments of `read_st`."""

    genes_in: GenesIn | None = None
    symbols: Mapping[str, str] = field(default_factory=dict)
    """Gene symbol by Ensembl id."""
    affine: NDArray[np.float64] | None = None
    """``(3, 3)`` map from array coordinates to pixels, for spot files without pixels."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Pixels of the image per pixel of the spot file, along x and y."""
    label_column: str = "label"
    um_per_px: float | None = None
    pitch_um: float | None = None
    diameter_um: float | None = None

    def __post_init__(self) -> None:
        check_config.length("pitch_um", self.pitch_um)
        check_config.length("diameter_um", self.diameter_um)


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


def read_section(
    counts: Path,
    spots: Path | None,
    *,
    name: str,
    patient: str | None = None,
    labels: Path | None = None,
    options: SectionOptions | None = None,
) -> Section:
    """Read the selected spots that have counts, in the order of the spot file; without one, place spots by the affine.

    The image is not read. ``patient`` is ``name`` by default.
    """
    options = options or SectionOptions()
    matrix = read_counts(counts, genes_in=options.genes_in, symbols=options.symbols)
    if spots is not None:
        found = read_spots(spots, affine=options.affine)
    elif options.affine is not None:
        found = spots_from_names(matrix.spots, options.affine, counts)
    else:
        msg = "Give `spots`, or `affine`: the 3 x 3 matrix from the array coordinates that name the counts to pixels."
        raise ValueError(msg)
    xy_px = found.xy_px * options.scale
    array = STAGGERED_ARRAY if is_staggered(found.array_xy) else SQUARE_ARRAY
    um_per_px = resolution_from_lattice(
        found.array_xy.astype(np.float64),
        xy_px,
        options.pitch_um or array.pitch_um,
        given=options.um_per_px,
        name=name,
    )
    kept, rows = _match_counts(found, matrix, spots or counts, name)
    return Section(
        name=name,
        counts=matrix.matrix[rows],
        genes=matrix.genes,
        array_xy=found.array_xy[kept],
        xy_px=xy_px[kept],
        um_per_px=um_per_px,
        diameter_um=options.diameter_um or array.diameter_um,
        patient=name if patient is None else patient,
        labels=None if labels is None else read_labels(labels, found.array_xy[kept], options.label_column),
    )


def _match_counts(
    spots: Spots, counts: Counts, path: Path, section: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the spots that have counts, and their rows in the counts."""
    names = spots.names if counts.by_position else spots.barcodes
    if names is None:
        msg = (
            f"Counts name their spots by barcodes, but spot file '{path.name}' ({len(spots.array_xy)} spots) has no "
            "column of names. Put the barcode of each spot into its first column."
        )
        raise ValueError(msg)
    row_of = {name: i for i, name in enumerate(counts.spots)}
    rows = np.array([row_of.get(name, -1) for name in names], np.int64)
    kept = np.flatnonzero(rows >= 0)
    if len(kept) == 0:
        msg = (
            f"Section {section!r}: none of {len(rows)} selected spots is among {len(row_of)} rows of counts. Both must "
            "use the same array coordinates (column x, column y; names 'x' + 'x' + 'y', such as '10x13') or barcodes."
        )
        raise ValueError(msg)
    if len(kept) < len(rows):
        message = "Section %s: %d of %d selected spots have no counts and were dropped."
        logger.info(message, section, len(rows) - len(kept), len(rows))
    return kept, rows[kept]


def require_spots_on_image(section: Section, size: tuple[int, int]) -> None:
    """Refuse a section whose spots all lie off its image of ``(width, height)`` pixels, and warn where some do."""
    inside = ((section.xy_px >= 0) & (section.xy_px <= size)).all(axis=1)
    if inside.all():
        return
    x, y = section.xy_px.max(axis=0)
    what = (
        f"{int((~inside).sum())} of {len(inside)} spots of section {section.name!r} lie off its image ({size[0]} x "
        f"{size[1]} px; spots reach x = {x:.0f}, y = {y:.0f})"
    )
    advice = (
        "If pixel coordinates refer to another size of the image, give `pixel_frame=(width, height)` of it to "
        "`stp.io.read_st`."
    )
    if not inside.any():
        msg = f"{what}. {advice}"
        raise ValueError(msg)
    warn(f"{what}. They are kept. {advice}")


def assemble(sections: Sequence[Section], images: Mapping[str, DataTree]) -> SpatialData:
    """One SpatialData of several sections: an image and circles for each, and one table that annotates all of them.

    ``images`` holds an image element by the name of its section. The table ``"observed"`` holds raw counts of the genes
    that all sections have.
    """
    return SpatialData(
        images={section.image_key: images[section.name] for section in sections},
        shapes={
            section.shapes_key: ShapesModel.parse(
                section.xy_px,
                geometry=0,
                radius=section.diameter_um / 2 / section.um_per_px,
                index=np.arange(len(section.xy_px)),
                transformations={section.name: Identity()},
            )
            for section in sections
        },
        tables={keys.OBSERVED: _table(sections)},
        attrs={keys.ATTRS: {keys.UM_PER_PX: {section.image_key: section.um_per_px for section in sections}}},
    )


def _table(sections: Sequence[Section]) -> AnnData:
    genes = _shared_genes(sections)
    counts = [section.counts[:, pd.Index(section.genes).get_indexer(pd.Index(genes))] for section in sections]
    obs = pd.concat([_obs(section) for section in sections])
    for column in (keys.REGION, keys.SECTION, keys.PATIENT):
        obs[column] = pd.Categorical(obs[column], categories=list(dict.fromkeys(obs[column])))
    if any(section.labels is not None for section in sections):
        obs[keys.LABEL] = pd.Categorical(obs[keys.LABEL])
    table = AnnData(X=sparse.vstack(counts, format="csr"), obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=str)))
    table.obsm[keys.SPATIAL] = np.concatenate([section.xy_px for section in sections])
    regions = [section.shapes_key for section in sections]
    linked: AnnData = TableModel.parse(table, region=regions, region_key=keys.REGION, instance_key=keys.SPOT_ID)
    return linked


def _shared_genes(sections: Sequence[Section]) -> list[str]:
    common = set(sections[0].genes).intersection(*(section.genes for section in sections[1:]))
    check_expression.shared_genes(len(common), [len(section.genes) for section in sections])
    n_dropped = len(set().union(*(section.genes for section in sections)) - common)
    if n_dropped:
        message = "Kept %d genes that all %d sections have; %d others were dropped."
        logger.info(message, len(common), len(sections), n_dropped)
    return [gene for gene in sections[0].genes if gene in common]


def _obs(section: Section) -> pd.DataFrame:
    obs = pd.DataFrame(
        {
            keys.REGION: section.shapes_key,
            keys.SPOT_ID: np.arange(len(section.xy_px)),
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
