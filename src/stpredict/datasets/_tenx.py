"""Public samples of 10x Genomics with H&E: Visium and Xenium of a breast cancer, Visium HD of a colon cancer."""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from shutil import copyfileobj
from typing import TYPE_CHECKING

from .._checks.calls import public
from .._checks.decoding import DECODER_ERRORS, UnreadableFileError, describe
from .._files import atomic_folder, report_full_disk
from ..io import read_visium, read_visium_hd, read_xenium
from ._fetch import RemoteFile, fetch_to, user_dir, verify, writable_dir

if TYPE_CHECKING:
    from pathlib import Path

    from spatialdata import SpatialData

BASE_URL = "https://cf.10xgenomics.com/samples"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Files of a sample, as they lie on the server."""

    name: str
    url: str
    """Folder on the server."""
    image: RemoteFile
    files: tuple[RemoteFile, ...]
    archive: RemoteFile | None = None
    """Archive that holds a folder of the sample."""
    unpacked: str = ""
    """Where this folder belongs; its last part is its name in the archive."""


# Hashes (MD5) are those that the package InSituPy publishes for its downloads, sizes those that two public repositories
# record. Of files with neither, the size is that which the server states.
VISIUM = Sample(
    name="visium_breast",
    url=f"{BASE_URL}/spatial-exp/2.0.0/CytAssist_FFPE_Human_Breast_Cancer",
    image=RemoteFile(
        path="tissue_image.tif",
        remote="CytAssist_FFPE_Human_Breast_Cancer_tissue_image.tif",
        md5="9deffd74f614116128c12f3de5be00bc",
    ),
    files=(
        RemoteFile(
            path="filtered_feature_bc_matrix.h5",
            remote="CytAssist_FFPE_Human_Breast_Cancer_filtered_feature_bc_matrix.h5",
            md5="1e3557642aa5a7a5efe9fd07b841109f",
        ),
    ),
    archive=RemoteFile(
        path="spatial.tar.gz",
        remote="CytAssist_FFPE_Human_Breast_Cancer_spatial.tar.gz",
        md5="26febcbd3d43122e5371a6df2f35e073",
        n_bytes=34_479_952,
    ),
    unpacked="spatial",
)
VISIUM_HD = Sample(
    name="visium_hd_colon",
    url=f"{BASE_URL}/spatial-exp/3.0.0/Visium_HD_Human_Colon_Cancer",
    image=RemoteFile(path="tissue_image.btf", remote="Visium_HD_Human_Colon_Cancer_tissue_image.btf"),
    files=(),
    archive=RemoteFile(
        path="square_008um_outputs.tar.gz", remote="Visium_HD_Human_Colon_Cancer_square_008um_outputs.tar.gz"
    ),
    unpacked="binned_outputs/square_008um",
)
XENIUM = Sample(
    name="xenium_breast",
    url=f"{BASE_URL}/xenium/1.0.1/Xenium_FFPE_Human_Breast_Cancer_Rep1",
    image=RemoteFile(
        path="he_image.ome.tif",
        remote="Xenium_FFPE_Human_Breast_Cancer_Rep1_he_image.ome.tif",
        md5="fc0d0d38b7c039cc0682e51099f8d841",
    ),
    files=(
        RemoteFile(path="he_imagealignment.csv", remote="Xenium_FFPE_Human_Breast_Cancer_Rep1_he_imagealignment.csv"),
        RemoteFile(path="experiment.xenium", remote="Xenium_FFPE_Human_Breast_Cancer_Rep1_experiment.xenium"),
        RemoteFile(
            path="cell_feature_matrix.h5",
            remote="Xenium_FFPE_Human_Breast_Cancer_Rep1_cell_feature_matrix.h5",
            n_bytes=12_148_885,
        ),
        RemoteFile(
            path="cells.parquet", remote="Xenium_FFPE_Human_Breast_Cancer_Rep1_cells.parquet", n_bytes=3_453_894
        ),
    ),
)
TRANSCRIPTS = RemoteFile(path="transcripts.parquet", remote="Xenium_FFPE_Human_Breast_Cancer_Rep1_transcripts.parquet")


@public
def visium_breast(*, progress: bool = True) -> SpatialData:
    """Breast cancer (FFPE), Visium with CytAssist, with its full-resolution H&E image, from 10x Genomics.

    The files are downloaded once and kept in ``visium_breast`` in ``STPREDICT_DATA_DIR`` if that is set, else in the
    cache of the operating system.

    Parameters
    ----------
    progress
        Whether to show progress bars of the downloads.

    Returns
    -------
    Object as of `stp.io.read_visium`, named ``visium_breast``: the image, circles of 55 µm on tissue, and the table
    ``"observed"`` of raw counts.

    Raises
    ------
    ConnectionError
        If a file is not here and cannot be fetched.
    ValueError
        If a file has another hash or size than is known, or an archive is damaged.

    Notes
    -----
    Published with :cite:p:`Janesick2023` (CC BY 4.0). All files are compared with published MD5 hashes when they are
    downloaded.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.visium_breast()  # doctest: +SKIP
    """
    folder = _fetch_sample(VISIUM, progress=progress)
    return read_visium(folder, folder / VISIUM.image.path, name=VISIUM.name)


@public
def visium_hd_colon(*, progress: bool = True) -> SpatialData:
    """Colon cancer (FFPE), Visium HD, in bins of 8 µm, with its full-resolution H&E image, from 10x Genomics.

    The files take several GB. They are downloaded once and kept in ``visium_hd_colon`` in ``STPREDICT_DATA_DIR`` if
    that is set, else in the cache of the operating system.

    Parameters
    ----------
    progress
        Whether to show progress bars of the downloads.

    Returns
    -------
    Object as of `stp.io.read_visium_hd`, named ``visium_hd_colon``: the image, squares of 8 µm on tissue, and the table
    ``"observed"`` of raw counts.

    Raises
    ------
    ConnectionError
        If a file is not here and cannot be fetched.
    ValueError
        If an archive is damaged.

    Notes
    -----
    Published with :cite:p:`Oliveira2025` (CC BY 4.0). No hashes of these files are published: a download is complete if
    it has the size that the server states, and the archive has a checksum of its own.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.visium_hd_colon()  # doctest: +SKIP
    """
    folder = _fetch_sample(VISIUM_HD, progress=progress)
    return read_visium_hd(folder, folder / VISIUM_HD.image.path, name=VISIUM_HD.name)


@public
def xenium_breast(*, transcripts: bool = False, progress: bool = True) -> SpatialData:
    """Breast cancer (FFPE), Xenium, with the H&E image of the same section, from 10x Genomics.

    The files are downloaded once and kept in ``xenium_breast`` in ``STPREDICT_DATA_DIR`` if that is set, else in the
    cache of the operating system. It is the tumour of `visium_breast`, in another section (replicate 1).

    Parameters
    ----------
    transcripts
        Whether to fetch and read the transcripts too, which take several GB.
    progress
        Whether to show progress bars of the downloads.

    Returns
    -------
    Object as of `stp.io.read_xenium`, named ``xenium_breast``: the H&E image, circles of the area of each cell, and the
    table ``"observed"`` of raw counts of the cells; `stp.pp.spots_from_cells` makes spots of them.

    Raises
    ------
    ConnectionError
        If a file is not here and cannot be fetched.
    ValueError
        If a file has another hash or size than is known.

    Notes
    -----
    Published with :cite:p:`Janesick2023` (CC BY 4.0). The image is compared with a published MD5 hash when it is
    downloaded, the matrix and the table of cells with published sizes. Of the other files, no hash is published: a
    download is complete if it has the size that the server states.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.xenium_breast()  # doctest: +SKIP
    """
    folder = _fetch_sample(XENIUM, *([TRANSCRIPTS] if transcripts else []), progress=progress)
    return read_xenium(folder, folder / XENIUM.image.path, transcripts=transcripts, name=XENIUM.name)


def _fetch_sample(sample: Sample, *more: RemoteFile, progress: bool) -> Path:
    """Folder of a sample, in which what is missing is downloaded; of what is there, known sizes are compared."""
    mine = user_dir()
    folder = mine / sample.name if mine is not None and (mine / sample.name).is_dir() else None
    folder = folder or writable_dir() / sample.name
    for file in (*sample.files, *more, sample.image):
        if not (folder / file.path).is_file():
            fetch_to(folder / file.path, file, sample.name, sample.url, stream=True, progress=progress)
        elif file.n_bytes is not None:
            verify(folder / file.path, RemoteFile(path=file.path, n_bytes=file.n_bytes), delete=False)
    if sample.archive is not None and not (folder / sample.unpacked).is_dir():
        archive = folder / sample.archive.path
        if not archive.is_file():
            fetch_to(archive, sample.archive, sample.name, sample.url, stream=True, progress=progress)
        _unpack(archive, folder / sample.unpacked)
        archive.unlink()
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack what an archive holds in the folder of this name: matrix, positions, scale factors and overviews."""
    advice = "Free some space, or set STPREDICT_DATA_DIR to another folder."
    with report_full_disk(folder, advice, lambda: archive.stat().st_size), atomic_folder(folder) as part:
        part.mkdir()
        try:
            with tarfile.open(archive) as content:
                for member in content:
                    place = _place_in(folder.name, PurePosixPath(member.name))
                    if member.isfile() and place is not None:
                        _copy(content, member, part / place)
        except OSError as reason:
            if reason.errno is not None:  # of the disk, not of the content
                raise
            _refuse(archive, reason)
        except DECODER_ERRORS as reason:
            _refuse(archive, reason)
        if not any(part.iterdir()):
            _refuse(archive, f"it holds no folder '{folder.name}'")


def _place_in(name: str, path: PurePosixPath) -> PurePosixPath | None:
    """The path of a file within the folder of a name; None for files elsewhere, and for what no reader reads."""
    if name not in path.parts or ".." in path.parts:
        return None
    place = PurePosixPath(*path.parts[path.parts.index(name) + 1 :])
    wanted = place.suffix in {".h5", ".json", ".csv", ".parquet", ".png"} and "analysis" not in place.parts
    return place if wanted and not place.name.startswith(("raw_", "molecule_info")) else None


def _copy(content: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    """Copy the bytes of a file in an archive, and nothing else of it, to a path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = content.extractfile(member)
    if source is not None:
        with source, path.open("wb") as target:
            copyfileobj(source, target)


def _refuse(archive: Path, reason: object) -> None:
    """Report an archive that is damaged, or not the one that it should be."""
    text = describe(reason) if isinstance(reason, BaseException) else str(reason)
    msg = f"The archive '{archive}' cannot be read: {text}. Delete it, and call again to fetch it once more."
    raise UnreadableFileError(msg)
