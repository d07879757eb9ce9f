"""Cutaneous squamous cell carcinoma, legacy spatial transcriptomics (Ji et al. 2020)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .._checks.calls import public
from ..io.sections import STAGGERED_ARRAY, SectionOptions
from ._local import FileKind, LocalDataset

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from spatialdata import SpatialData

GSM = r"(?:GSM\d+_)?"
ID = r"(P\d+)_ST_(rep\d+)"
"""Patient and replicate."""

DATASET = LocalDataset(
    name="cscc",
    kinds={
        "image": FileKind(pattern=re.compile(rf"{GSM}{ID}\.jpe?g(?:\.gz)?"), example="GSM…_{0}_ST_{1}.jpg"),
        "counts": FileKind(
            pattern=re.compile(rf"{GSM}{ID}_stdata\.tsv(?:\.gz)?"), example="GSM…_{0}_ST_{1}_stdata.tsv"
        ),
        "spots": FileKind(
            pattern=re.compile(rf"{GSM}spot_data-selection-{ID}\.tsv(?:\.gz)?"),
            example="GSM…_spot_data-selection-{0}_ST_{1}.tsv",
        ),
    },
    section="{0}_ST_{1}",
)


@public
def cscc(path: str | PathLike[str], sections: Sequence[str] | None = None) -> SpatialData:
    """Cutaneous squamous cell carcinoma: 12 sections of 4 patients, from a folder you downloaded.

    Nothing is downloaded: get the supplementary files (``GSE144240_RAW.tar``) of series GSE144240 from the Gene
    Expression Omnibus, unpack the archive and give its folder. The image of a section is converted once to a chunked
    pyramid, which is read lazily; it is kept in ``cscc-zarr`` in ``STPREDICT_DATA_DIR`` if that is set, else in the
    cache of the operating system.

    Parameters
    ----------
    path
        Folder with, per section, ``GSM4284316_P2_ST_rep1.jpg.gz``, ``GSM4284316_P2_ST_rep1_stdata.tsv.gz`` and
        ``GSM4284316_spot_data-selection-P2_ST_rep1.tsv.gz``, in it or in folders below it. Files may be unpacked, and
        the accession in front may be missing. Other files of the series are not read.
    sections
        Names of sections, such as ``"P2_ST_rep1"``; all in the folder by default.

    Returns
    -------
    Object with, per section, a multiscale image ``P2_ST_rep1_image``, circles ``P2_ST_rep1_spots`` (110 µm in diameter)
    and a coordinate system ``P2_ST_rep1`` in pixels. The table ``"observed"`` annotates all of them: raw counts of the
    genes that all sections have (symbols), ``obs["patient"]`` (``P2``), ``obs["section"]``, ``obs["array_row"]`` and
    ``obs["array_col"]``.

    Raises
    ------
    FileNotFoundError
        If the folder is not there or holds no section, or sections lack files: one message names all of them.

    Notes
    -----
    Published as :cite:p:`Ji2020`. The resolution of each section follows from its spots: their array is staggered, and
    150 µm is the distance of diagonal neighbours.

    The layout was taken from public programs that read the files, and not checked with the files themselves: names as
    above; counts of all 1,933 spots of the array, one a row (``10x13``); spot files with ``x``, ``y``, ``pixel_x`` and
    ``pixel_y`` of the spots on tissue, in pixels of the image.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.cscc("GSE144240_RAW", ["P2_ST_rep1", "P5_ST_rep1"])  # doctest: +SKIP
    """
    return DATASET.load(path, sections, SectionOptions(**STAGGERED_ARRAY._asdict()))
