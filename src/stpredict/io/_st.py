"""Read a legacy spatial transcriptomics section: an image, a counts matrix and a spot file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._checks.calls import public
from .._checks.memory import memory_limited
from .._checks.paths import user_path
from .._checks.slides import MAX_ANISOTROPY
from . import _errors as check
from ._spots import read_affine
from .genes import read_gene_map
from .images import picture_orientation, pyramid, read_image
from .sections import SectionOptions, assemble, read_section, require_spots_on_image

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from numpy.typing import ArrayLike
    from spatialdata import SpatialData

    from ._counts import GenesIn


@public
@memory_limited
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
    max_memory_gb: float | None = None,  # noqa: ARG001  (read by the decorator)
) -> SpatialData:
    """Read a legacy spatial transcriptomics section.

    Text files may be gzipped, and separated by tabs, commas or blanks; this is detected from their content.

    Parameters
    ----------
    image
        Path of the H&E image (JPEG, PNG or TIFF in colour, gzipped or not; of 16 bits the upper 8 are kept).
    counts
        Path of the counts: a table of raw counts with a header and names in front of its rows, where spots are named
        by their array coordinates (``10x13``) or by barcodes; or a Matrix Market file with ``barcodes.tsv`` and
        ``features.tsv`` in the same folder, or that folder.
    spots
        Path of the spot file: array coordinates (columns ``x`` and ``y``, or a column of names such as ``10x13``),
        centres in pixels of the image (``pixel_x`` and ``pixel_y``, or ``X`` and ``Y``) and optionally ``selected``
        (0 for spots off the tissue, which are dropped). If counts are named by barcodes, its first column holds them.
        The header may be missing if there are two columns (x, y), three (name, pixel_x, pixel_y), six or seven (those
        of the ST spot detector: x, y, new_x, new_y, pixel_x, pixel_y, selected). Without a spot file all spots of the
        counts are read, and ``affine`` is needed.
    name
        Name of the section; its elements and its coordinate system are named after it.
    patient
        What must stay on one side of a split; ``name`` by default.
    labels
        Path of an annotation: array coordinates as in a spot file (rounded to match) and a column of labels; or a
        table of 0 and 1 with a label in each row and a spot in each column.
    label_column
        Name of the column of labels.
    genes_in
        Axis of the counts that holds genes, ``"columns"`` or ``"rows"``. By default spots are on the axis on which at
        least half of the names are array coordinates or barcodes; if that holds for none or for both, it is an error.
    gene_map
        Gene symbols by Ensembl id, or a file of both (such as an export of HGNC or BioMart). Genes that it does not
        name keep their id. Counts of genes that share a name are summed.
    affine
        ``(3, 3)`` matrix from array coordinates to pixels, or a text file of its nine numbers, for spot files without
        pixels. Its last row is 0 0 1, or its last column, as in the alignment files of the ST pipeline. If the spot
        file has ``new_x`` and ``new_y``, these are mapped.
    pixel_frame
        ``(width, height)`` of the image to which pixel coordinates, or ``affine``, refer, if the image at hand is a
        copy at another size.
    um_per_px
        Resolution in µm per pixel. By default it follows from the pitch of the spots; a given one is used even if it
        differs.
    pitch_um
        Distance between the centres of neighbouring spots in µm. By default 200, and 150 for staggered arrays of about
        2,000 spots. An array is staggered if x + y is even for all spots or odd for all, and there are at least ten.
    diameter_um
        Diameter of a spot in µm. By default 100, and 110 for staggered arrays.
    max_memory_gb
        Largest memory that a part of the files may need at once, in GB, by what they say of their size. By default half
        of the memory of this machine, container or process.

    Returns
    -------
    Object with a multiscale image ``{name}_image``, circles ``{name}_spots`` (both in pixels, coordinate system
    ``name``) and the table ``"observed"`` of raw counts. ``attrs["stpredict"]["um_per_px"]`` holds the resolution.

    Raises
    ------
    ValueError
        If a file is damaged, counts are not whole numbers, a spot or a gene occurs twice, all spots lie off the image,
        or pixels are not square within 1 %.

    Notes
    -----
    Selected spots without counts are dropped; their number is logged. Counts of spots that the spot file does not
    select are left out. Versions of Ensembl ids (``.12``) are removed. Pixels are checked to be square on square arrays
    only: staggered arrays have steps of different lengths along x and y. The resolution follows from the nominal array
    coordinates: ``new_x`` and ``new_y`` were measured on the image and say nothing about it.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.io.read_st("A1.jpg", "A1.tsv.gz", "A1_selection.tsv", name="A1")  # doctest: +SKIP
    """
    picture = user_path(image, "image")
    pixels = read_image(picture)
    check.warn_orientation(picture, picture_orientation(picture))
    size = (pixels.shape[2], pixels.shape[1])
    options = SectionOptions(
        genes_in=genes_in,
        symbols=read_gene_map(gene_map),
        affine=read_affine(affine),
        scale=_frame_scale(pixel_frame, size),
        label_column=label_column,
        um_per_px=um_per_px,
        pitch_um=pitch_um,
        diameter_um=diameter_um,
    )
    section = read_section(
        user_path(counts, "counts"),
        None if spots is None else user_path(spots, "spots"),
        name=name,
        patient=patient,
        labels=None if labels is None else user_path(labels, "labels"),
        options=options,
    )
    require_spots_on_image(section, size)
    return assemble([section], {name: pyramid(pixels, name)})


def _frame_scale(pixel_frame: Sequence[float] | None, size: tuple[int, int]) -> tuple[float, float]:
    """Pixels of the image per pixel of the frame that coordinates refer to, along x and y."""
    if pixel_frame is None:
        return 1.0, 1.0
    if len(pixel_frame) != 2 or not all(side > 0 for side in pixel_frame):
        msg = f"`pixel_frame` is {tuple(pixel_frame)!r}; give (width, height) in pixels, both above 0."
        raise ValueError(msg)
    x, y = size[0] / pixel_frame[0], size[1] / pixel_frame[1]
    if abs(x / y - 1) > MAX_ANISOTROPY:
        msg = (
            f"`pixel_frame` is {pixel_frame[0]:g} x {pixel_frame[1]:g}, the image {size[0]} x {size[1]}: a factor of "
            f"{x:.4f} along x and {y:.4f} along y. Give (width, height) of the same picture at another size."
        )
        raise ValueError(msg)
    return x, y
