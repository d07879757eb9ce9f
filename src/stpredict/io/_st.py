"""Read a legacy spatial transcriptomics section: an image, a counts matrix and a spot file."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .._checks import files as check
from ._counts import read_counts
from ._lattice import is_staggered
from ._lattice import um_per_px as lattice_um_per_px
from ._spots import read_affine, read_labels, read_spots, spots_of_counts
from .genes import read_gene_map
from .images import pyramid, read_image
from .sections import Section, assemble

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from numpy.typing import ArrayLike, NDArray
    from spatialdata import SpatialData

    from ._counts import Counts, GenesIn
    from ._spots import Spots

logger = logging.getLogger(__name__)

SQUARE = (200.0, 100.0)
"""Pitch and diameter in µm of arrays of 1,007 spots."""
STAGGERED = (150.0, 110.0)
"""Pitch and diameter in µm of arrays of about 2,000 spots."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Layout:
    """How the files of a section are to be understood."""

    genes_in: GenesIn | None = None
    """Axis of the counts that holds genes; None to find out."""
    symbols: Mapping[str, str] = field(default_factory=dict)
    """Symbol by Ensembl id."""
    affine: NDArray[np.float64] | None = None
    """``(3, 3)`` map from array coordinates to pixels, for spot files without pixels."""
    scale: tuple[float, float] = (1.0, 1.0)
    """Pixels of the image per pixel of the spot file, along x and y."""
    label_column: str = "label"
    """Column of labels in the annotation."""
    um_per_px: float | None = None
    """Resolution, if it is to be checked rather than derived."""
    pitch_um: float | None = None
    """Distance between neighbouring spots in µm; None for that of the array."""
    diameter_um: float | None = None
    """Diameter of a spot in µm; None for that of the array."""

    def __post_init__(self) -> None:
        for name in ("pitch_um", "diameter_um"):
            value = getattr(self, name)
            if value is not None:
                check.positive(name, value)


def read_st(
    image: str | PathLike[str],
    counts: str | PathLike[str],
    spots: str | PathLike[str] | None = None,
    *,
    name: str,
    patient: str | None = None,
    labels: str | PathLike[str] | None = None,
    label_column: str = "label",
    genes_in: GenesIn | None = None,
    gene_map: Mapping[str, str] | str | PathLike[str] | None = None,
    affine: str | PathLike[str] | ArrayLike | None = None,
    pixel_frame: tuple[float, float] | None = None,
    um_per_px: float | None = None,
    pitch_um: float | None = None,
    diameter_um: float | None = None,
) -> SpatialData:
    """Read a legacy spatial transcriptomics section.

    Text files may be gzipped or not and use tabs, commas or blanks; their content decides, not their name.

    Parameters
    ----------
    image
        Path of the H&E image (JPEG, PNG or TIFF in colour, gzipped or not; of 16 bits the upper 8 are kept).
    counts
        Path of the counts: a table of raw counts with a header and names in front of its rows, where spots are named
        by their array coordinates (``10x13``) or by barcodes; or a Matrix Market file with ``barcodes.tsv`` and
        ``features.tsv`` beside it, or the folder of these three.
    spots
        Path of the spot file: array coordinates (columns ``x`` and ``y``, or a column of names such as ``10x13``),
        centres in pixels of the image (``pixel_x`` and ``pixel_y``, or ``X`` and ``Y``) and optionally ``selected``
        (0 for spots off the tissue, which are dropped). Where counts are named by barcodes, its first column holds
        them. A header may be missing where there are two columns (x, y), three (name, pixel_x, pixel_y), six or seven
        (those of the ST spot detector: x, y, new_x, new_y, pixel_x, pixel_y, selected). Without a spot file all spots
        of the counts are read, and ``affine`` is needed.
    name
        Name of the section; its elements and its coordinate system are named after it.
    patient
        What must stay on one side of a split; ``name`` by default.
    labels
        Path of an annotation: array coordinates as in a spot file (rounded to match) and a column of labels; or a
        table of 0 and 1 with one label a row and one spot a column.
    label_column
        Name of the column of labels.
    genes_in
        Axis of the counts that holds genes, ``"columns"`` or ``"rows"``. By default spots are on the axis on which at
        least half of the names are array coordinates or barcodes; if that holds for none or for both, it is an error.
    gene_map
        Gene symbols by Ensembl id, or a file of both (such as an export of HGNC or BioMart). Genes that it does not
        name keep their id. Genes that come to share a name are summed.
    affine
        ``(3, 3)`` matrix from array coordinates to pixels, or a text file of its nine numbers, for spot files without
        pixels. Its last row is 0 0 1, or its last column, as in the alignment files of the ST pipeline. If the spot
        file has ``new_x`` and ``new_y``, these are mapped.
    pixel_frame
        ``(width, height)`` of the image to which pixel coordinates, or ``affine``, refer, if the image at hand is a
        copy at another size.
    um_per_px
        Resolution in µm per pixel. By default it follows from the pitch of the spots.
    pitch_um
        Distance between the centres of neighbouring spots in µm. By default 200, and 150 for staggered arrays (of
        about 2,000 spots: at least ten are read, and all have an even x + y, or all an odd one).
    diameter_um
        Diameter of a spot in µm. By default 100, and 110 for staggered arrays.

    Returns
    -------
    Object with a multiscale image ``{name}_image``, circles ``{name}_spots`` (both in pixels, coordinate system
    ``name``) and the table ``"observed"`` of raw counts. ``attrs["stpredict"]["um_per_px"]`` holds the resolution.

    Raises
    ------
    ValueError
        If a file is damaged, counts are not whole numbers, a spot or a gene occurs twice, all spots lie off the image,
        pixels are not square within 1 %, or a given resolution contradicts the spots by more than 5 %.

    Notes
    -----
    Selected spots without counts are dropped; their number is logged. Counts of spots that the spot file does not
    select are left out. Versions of Ensembl ids (``.12``) are cut off. That pixels are square is checked on square
    arrays only: staggered arrays have steps of different lengths along x and y. The resolution follows from array
    coordinates as they were meant: ``new_x`` and ``new_y`` are pixels in another unit and say nothing about it.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.io.read_st("A1.jpg", "A1.tsv.gz", "A1_selection.tsv", name="A1")  # doctest: +SKIP
    """
    pixels = read_image(Path(image))
    size = (pixels.shape[2], pixels.shape[1])
    layout = Layout(
        genes_in=genes_in,
        symbols=read_gene_map(gene_map),
        affine=read_affine(affine),
        scale=frame_scale(pixel_frame, size),
        label_column=label_column,
        um_per_px=um_per_px,
        pitch_um=pitch_um,
        diameter_um=diameter_um,
    )
    section = read_section(
        Path(counts),
        None if spots is None else Path(spots),
        name=name,
        patient=patient,
        labels=None if labels is None else Path(labels),
        layout=layout,
    )
    on_image(section, size)
    return assemble([section], {name: pyramid(pixels, name)})


def frame_scale(pixel_frame: Sequence[float] | None, size: tuple[int, int]) -> tuple[float, float]:
    """Pixels of the image per pixel of the frame that coordinates refer to.

    Parameters
    ----------
    pixel_frame
        ``(width, height)`` of the frame; None for the image itself.
    size
        ``(width, height)`` of the image.

    Returns
    -------
    Factors along x and y.
    """
    if pixel_frame is None:
        return 1.0, 1.0
    check.pixel_frame(pixel_frame, size)
    return size[0] / pixel_frame[0], size[1] / pixel_frame[1]


def on_image(section: Section, size: tuple[int, int]) -> None:
    """Refuse a section whose spots all lie off its image, and warn where some do.

    Parameters
    ----------
    section
        The section.
    size
        ``(width, height)`` of its image in pixels.
    """
    inside = ((section.xy_px >= 0) & (section.xy_px <= size)).all(axis=1)
    check.on_image(int(inside.sum()), len(inside), size, section.xy_px.max(axis=0), section.name)


def read_section(
    counts: Path,
    spots: Path | None,
    *,
    name: str,
    patient: str | None = None,
    labels: Path | None = None,
    layout: Layout | None = None,
) -> Section:
    """Read spots and counts of a section, without its image.

    Parameters
    ----------
    counts
        Path of the counts.
    spots
        Path of the spot file; None to place the spots of the counts by the affine map.
    name
        Name of the section.
    patient
        What must stay on one side of a split; ``name`` by default.
    labels
        Path of the annotation, if there is one.
    layout
        How the files are to be understood.

    Returns
    -------
    The section: selected spots that have counts, in the order of the spot file.
    """
    layout = layout or Layout()
    counted = read_counts(counts, genes_in=layout.genes_in, symbols=layout.symbols)
    found = _placed(counted, layout.affine, counts) if spots is None else read_spots(spots, affine=layout.affine)
    xy_px = found.xy_px * layout.scale
    array = STAGGERED if is_staggered(found.array_xy) else SQUARE
    measured = lattice_um_per_px(
        found.array_xy.astype(np.float64), xy_px, layout.pitch_um or array[0], given=layout.um_per_px, name=name
    )
    rows = _rows(found, counted, spots or counts)
    kept = _counted(rows, len(counted.spots), name)
    return Section(
        name=name,
        counts=counted.matrix[rows[kept]],
        genes=counted.genes,
        array_xy=found.array_xy[kept],
        xy_px=xy_px[kept],
        um_per_px=measured,
        diameter_um=layout.diameter_um or array[1],
        patient=name if patient is None else patient,
        labels=None if labels is None else read_labels(labels, found.array_xy[kept], layout.label_column),
    )


def _placed(counted: Counts, affine: NDArray[np.float64] | None, path: Path) -> Spots:
    if affine is None:
        check.placed()
    return spots_of_counts(counted.spots, affine, path)


def _rows(spots: Spots, counts: Counts, path: Path) -> NDArray[np.int64]:
    """Row of the counts of each spot, -1 for none."""
    names = spots.names if counts.by_position else spots.barcodes
    if names is None:
        check.barcodes(len(spots.array_xy), path)
    at = {name: i for i, name in enumerate(counts.spots)}
    return np.array([at.get(name, -1) for name in names], np.int64)


def _counted(rows: NDArray[np.int64], n_counts: int, name: str) -> NDArray[np.int64]:
    """Spots that have counts."""
    kept = np.flatnonzero(rows >= 0)
    check.some_spots(len(kept), len(rows), n_counts, name)
    if len(kept) < len(rows):
        lost = len(rows) - len(kept)
        logger.info("Section %s: %d of %d selected spots have no counts and were dropped.", name, lost, len(rows))
    return kept
