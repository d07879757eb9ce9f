"""Breast cancer of 23 patients, legacy spatial transcriptomics (He et al. 2020): the data of ST-Net."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .._checks.calls import public
from ..io.genes import read_gene_map
from ..io.sections import SectionOptions
from ._local import FileKind, LocalDataset

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from spatialdata import SpatialData

ID = r"(?:BC|BT)(\d+)_([A-Z]\d)"
"""Patient and replicate; the prefix differs between files of one section."""

DATASET = LocalDataset(
    name="hbc",
    kinds={
        "image": FileKind(pattern=re.compile(rf"HE_{ID}\.jpe?g(?:\.gz)?"), example="HE_BC{0}_{1}.jpg"),
        "counts": FileKind(pattern=re.compile(rf"{ID}_stdata\.tsv(?:\.gz)?"), example="BC{0}_{1}_stdata.tsv"),
        "spots": FileKind(pattern=re.compile(rf"spots_{ID}\.csv(?:\.gz)?"), example="spots_BC{0}_{1}.csv"),
        "labels": FileKind(
            pattern=re.compile(rf"{ID}_Coords\.tsv(?:\.gz)?"), example="BC{0}_{1}_Coords.tsv", required=False
        ),
    },
    section="BC{0}_{1}",
    patient="BC{0}",
)


@public
def hbc(
    path: str | PathLike[str],
    sections: Sequence[str] | None = None,
    *,
    gene_map: Mapping[str, str] | str | PathLike[str] | None = None,
) -> SpatialData:
    """Breast cancer: 68 sections of 23 patients with H&E and spatial transcriptomics, from a folder you downloaded.

    Nothing is downloaded: get the data set from Mendeley Data, DOI 10.17632/29ntw7sh4r, and give its folder. The image
    of a section is converted once to a chunked pyramid, which is read lazily; it is kept in ``hbc-zarr`` in
    ``STPREDICT_DATA_DIR`` if that is set, else in the cache of the operating system.

    Parameters
    ----------
    path
        Folder with, per section, ``HE_BC23209_C1.jpg``, ``BC23209_C1_stdata.tsv.gz``, ``spots_BC23209_C1.csv.gz`` and
        optionally ``BC23209_C1_Coords.tsv.gz``, in it or in folders below it. Text files may be unpacked. ``BT`` may
        stand for ``BC`` in any of them.
    sections
        Names of sections, such as ``"BC23209_C1"`` (patient and replicate); all in the folder by default.
    gene_map
        Gene symbols by Ensembl id, or a file of both, such as an export of HGNC: counts are named by Ensembl ids. Genes
        that it does not name keep their id, and genes of one symbol are summed. By default ids are kept, as in
        ``stp.datasets.gene_panel("hbc")``.

    Returns
    -------
    Object with, per section, a multiscale image ``BC23209_C1_image``, circles ``BC23209_C1_spots`` (100 µm in diameter)
    and a coordinate system ``BC23209_C1`` in pixels. The table ``"observed"`` annotates all of them: raw counts of the
    genes that all sections have, ``obs["patient"]`` (``BC23209``), ``obs["section"]``, ``obs["array_row"]``,
    ``obs["array_col"]`` and, where there is an annotation, ``obs["label"]`` (``"tumor"`` or ``"non"``).

    Raises
    ------
    FileNotFoundError
        If the folder is not there or holds no section, or sections lack files: one message names all of them.

    Notes
    -----
    Published as :cite:p:`He2020`. The resolution of each section follows from its spots (200 µm pitch). Files leave out
    genes without any count in their section, so the more sections are read, the fewer genes all of them have.

    The layout was taken from public descriptions of the files and from programs that read them, and not checked with
    the files themselves: names as above; counts with a spot in each row (``10x13``); spots with a first column of such
    names and pixels in ``X`` and ``Y``; annotations with carriage returns as line ends, a name in front of each row
    that the header lacks, and columns ``xcoord``, ``ycoord``, ``lab``, ``tumor``. ``metadata.csv`` (which lists these
    names, and the subtype of each patient) is not read.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.hbc("29ntw7sh4r", ["BC23209_C1", "BC23268_C1"])  # doctest: +SKIP
    """
    return DATASET.load(path, sections, SectionOptions(symbols=read_gene_map(gene_map), label_column="tumor"))
