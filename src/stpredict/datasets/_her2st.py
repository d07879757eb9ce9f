"""HER2-positive breast cancer, legacy spatial transcriptomics (Andersson et al. 2021)."""

from __future__ import annotations

import csv
from importlib.resources import files
from typing import TYPE_CHECKING

from .._checks.calls import public
from ..io.sections import assemble, read_section
from . import _errors as check
from ._fetch import RemoteFile, fetch, writable_dir
from ._image_cache import cached_image

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from spatialdata import SpatialData
    from xarray import DataTree

    from ..io.sections import Section

BASE_URL = "https://raw.githubusercontent.com/almaan/her2st/85df7411b987a7dec3feff9718b869a7a82091ec"
DATASET = "her2st"


@public
def her2st(sections: Sequence[str] | None = ("C2", "C3", "C4", "C5")) -> SpatialData:
    """HER2-positive breast cancer: 36 sections of 8 patients with H&E and spatial transcriptomics.

    Files come from ``STPREDICT_DATA_DIR`` (``her2st/data/…`` there) if it is set and has them, else from the cache of
    the operating system, else from the authors' public repository; each is checked by its hash. The image of a section
    is converted once to a chunked pyramid beside them, which is read lazily.

    Parameters
    ----------
    sections
        Names of sections: a letter for the patient (A to H) and a number; None for all 36.

    Returns
    -------
    Object with, per section ``C2``: a multiscale image ``C2_image``, circles ``C2_spots`` (100 µm in diameter) and a
    coordinate system ``C2`` in pixels. The table ``"observed"`` annotates all of them: raw counts of the genes that
    all sections have, ``obs["patient"]``, ``obs["section"]``, ``obs["array_row"]``, ``obs["array_col"]`` and, where a
    pathologist annotated a section, ``obs["label"]``.

    Raises
    ------
    ConnectionError
        If a file is neither here nor can be downloaded.

    Notes
    -----
    Published as :cite:p:`Andersson2021`. The repository states no licence: the files are fetched, not shipped.
    `cohorts` says what is known of the licence of the data. The resolution of each section follows from its spots
    (200 µm pitch): about 0.69 µm per pixel, 0.92 for patient A.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.her2st(["C2", "C3"])  # doctest: +SKIP
    """
    known = read_registry()
    names = [sections] if isinstance(sections, str) else list(known if sections is None else sections)
    check.known_names("sections", names, known, "stp.datasets.her2st")
    read = [_section(name, known[name]) for name in names]
    return assemble(read, {name: _image(name, known[name]["image"]) for name in names})


def read_registry() -> dict[str, dict[str, RemoteFile]]:
    """Files by section and kind: ``"image"``, ``"counts"``, ``"spots"`` and, for some sections, ``"labels"``."""
    kinds = {"ST-imgs": "image", "ST-cnts": "counts", "ST-spotfiles": "spots", "ST-pat": "labels"}
    found: dict[str, dict[str, RemoteFile]] = {}
    with (files(__package__) / "her2st.tsv").open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            _, kind, *rest = row["path"].split("/")
            section = rest[1] if kind == "ST-imgs" else rest[-1][:2]
            found.setdefault(section, {})[kinds[kind]] = RemoteFile(
                path=row["path"], git_blob_sha1=row["git_blob_sha1"], sha256=row["sha256"] or None
            )
    return found


def _section(name: str, file: dict[str, RemoteFile]) -> Section:
    labels = file.get("labels")
    return read_section(
        _fetch(file["counts"]),
        _fetch(file["spots"]),
        name=name,
        patient=name[0],
        labels=None if labels is None else _fetch(labels),
    )


def _fetch(file: RemoteFile) -> Path:
    return fetch(file, DATASET, BASE_URL)


def _image(name: str, file: RemoteFile) -> DataTree:
    folder = writable_dir() / f"{DATASET}-zarr"
    return cached_image(name, str(file.git_blob_sha1), folder, lambda: _fetch(file))
