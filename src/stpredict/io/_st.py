"""Read a legacy spatial transcriptomics section: an image, a counts matrix and a spot file."""

from __future__ import annotations

import gzip
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from .._checks import expression as check_expression
from .._checks import files as check
from ._images import pyramid, read_image
from ._lattice import um_per_px as lattice_um_per_px
from ._sections import Section, assemble

if TYPE_CHECKING:
    from os import PathLike

    from numpy.typing import NDArray
    from spatialdata import SpatialData

logger = logging.getLogger(__name__)

SPOT = re.compile(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)")


def read_st(
    image: str | PathLike[str],
    counts: str | PathLike[str],
    spots: str | PathLike[str],
    *,
    name: str,
    patient: str | None = None,
    labels: str | PathLike[str] | None = None,
    um_per_px: float | None = None,
    pitch_um: float = 200.0,
    diameter_um: float = 100.0,
) -> SpatialData:
    """Read a legacy spatial transcriptomics section.

    Parameters
    ----------
    image
        Path of the H&E image (JPEG, PNG or TIFF in 8-bit colour).
    counts
        Path of the counts: tab-separated, plain or gzipped, one spot a row named by its array coordinates
        (``10x13``), one gene a column.
    spots
        Path of the spot file: tab-separated with columns ``x``, ``y`` (array coordinates), ``pixel_x``, ``pixel_y``
        (centres in pixels of the image) and optionally ``selected`` (0 for spots off the tissue, which are dropped).
    name
        Name of the section; its elements and its coordinate system are named after it.
    patient
        What must stay on one side of a split; ``name`` by default.
    labels
        Path of an annotation: tab-separated with columns ``x``, ``y`` (array coordinates, rounded to match) and
        ``label``.
    um_per_px
        Resolution in µm per pixel. By default it follows from the pitch of the spots.
    pitch_um
        Distance between neighbouring spots in µm.
    diameter_um
        Diameter of a spot in µm.

    Returns
    -------
    Object with a multiscale image ``{name}_image``, circles ``{name}_spots`` (both in pixels, coordinate system
    ``name``) and the table ``"observed"`` of raw counts. ``attrs["stpredict"]["um_per_px"]`` holds the resolution.

    Raises
    ------
    ValueError
        If pixels are not square within 1 %, or a given resolution contradicts the spots by more than 5 %.

    Notes
    -----
    Selected spots without a row of counts are dropped; their number is logged. Columns ``new_x`` and ``new_y`` of
    spot files are pixels in another unit, so they say nothing about the resolution and are not used.
    """
    section = read_section(
        Path(counts),
        Path(spots),
        name=name,
        patient=patient,
        labels=None if labels is None else Path(labels),
        um_per_px=um_per_px,
        pitch_um=pitch_um,
        diameter_um=diameter_um,
    )
    return assemble([section], {name: pyramid(read_image(Path(image)), name)})


def read_section(
    counts: Path,
    spots: Path,
    *,
    name: str,
    patient: str | None = None,
    labels: Path | None = None,
    um_per_px: float | None = None,
    pitch_um: float = 200.0,
    diameter_um: float = 100.0,
) -> Section:
    """Read spots and counts of a section, without its image.

    Parameters
    ----------
    counts
        Path of the counts.
    spots
        Path of the spot file.
    name
        Name of the section.
    patient
        What must stay on one side of a split; ``name`` by default.
    labels
        Path of the annotation, if there is one.
    um_per_px
        Resolution, if it is to be checked rather than derived.
    pitch_um
        Distance between neighbouring spots in µm.
    diameter_um
        Diameter of a spot in µm.

    Returns
    -------
    The section: selected spots that have counts, in the order of the spot file.
    """
    check.positive("pitch_um", pitch_um)
    check.positive("diameter_um", diameter_um)
    array_xy, xy_px = read_spots(spots)
    measured = lattice_um_per_px(array_xy.astype(np.float64), xy_px, pitch_um, given=um_per_px, name=name)
    names, genes, matrix = read_counts(counts)
    rows = [names.get(f"{x}x{y}", -1) for x, y in array_xy]
    kept = np.flatnonzero(np.asarray(rows) >= 0)
    check.some_spots(len(kept), len(rows), len(names), name)
    if len(kept) < len(rows):
        lost = len(rows) - len(kept)
        logger.info("Section %s: %d of %d selected spots have no counts and were dropped.", name, lost, len(rows))
    return Section(
        name=name,
        counts=matrix[np.asarray(rows)[kept]],
        genes=genes,
        array_xy=array_xy[kept],
        xy_px=xy_px[kept],
        um_per_px=measured,
        diameter_um=diameter_um,
        patient=name if patient is None else patient,
        labels=None if labels is None else read_labels(labels, array_xy[kept]),
    )


def read_spots(path: Path) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Read the selected spots of a spot file.

    Parameters
    ----------
    path
        Tab-separated file with columns ``x``, ``y``, ``pixel_x``, ``pixel_y`` and optionally ``selected``.

    Returns
    -------
    Array coordinates ``(n, 2)`` and centres in pixels ``(n, 2)``, both as (x, y).
    """
    columns = ["x", "y", "pixel_x", "pixel_y"]
    frame = _read_table(path, "spot file", columns)
    if "selected" in frame:
        frame = frame[frame["selected"] != 0]
    values = frame[columns].apply(pd.to_numeric, errors="coerce")
    check.finite_columns([name for name in columns if not np.isfinite(values[name]).all()], path)
    array_xy = values[["x", "y"]].round().to_numpy(np.int64)
    check.unique_spots([f"{x}x{y}" for x, y in array_xy], path)
    return array_xy, values[["pixel_x", "pixel_y"]].to_numpy(np.float64)


def read_counts(path: Path) -> tuple[dict[str, int], list[str], sparse.csr_matrix]:
    """Read a counts matrix.

    Parameters
    ----------
    path
        Tab-separated file, plain or gzipped: one spot a row, one gene a column, a header.

    Returns
    -------
    Row of each spot by its name, names of the genes, and ``(n_spots, n_genes)`` float32 counts.
    """
    check.exists(path, "counts file")
    names: list[str] = []
    rows: list[sparse.csr_matrix] = []
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
            genes = next(lines, "").rstrip("\r\n").split("\t")[1:]
            for line in lines:
                spot, _, values = line.partition("\t")
                names.append(_spot_name(spot, path))
                rows.append(sparse.csr_matrix(_numbers(values, names[-1], len(genes), path)))
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as reason:
        check.unreadable(path, "counts file", reason)
    check.some_spots(len(rows), len(rows), len(rows), path.name)
    check.unique_spots(names, path)
    check_expression.unique_genes(genes, f"'{path.name}'")
    matrix = sparse.vstack(rows, format="csr")
    check_expression.counts(matrix, genes=genes, spots=names)
    return {spot: i for i, spot in enumerate(names)}, genes, matrix


def _spot_name(text: str, path: Path) -> str:
    match = SPOT.fullmatch(text.strip().strip('"'))
    if match is None:
        check.spot_name(text, path)
        return text
    return "x".join(str(round(float(part))) for part in match.groups())


def _numbers(text: str, name: str, n_genes: int, path: Path) -> NDArray[np.float32]:
    try:
        values = np.array(text.split("\t"), dtype=np.float32)
    except ValueError:
        values = np.empty(0, np.float32)
    check.row_length(name, len(values), n_genes, path)
    return values[None]


def read_labels(path: Path, array_xy: NDArray[np.int64]) -> list[str | None]:
    """Read the annotation of spots.

    Parameters
    ----------
    path
        Tab-separated file with columns ``x``, ``y`` and ``label``; coordinates are rounded, incomplete rows skipped.
    array_xy
        ``(n, 2)`` array coordinates of the spots to be annotated.

    Returns
    -------
    Label of each spot, None for spots that the file does not name.
    """
    frame = _read_table(path, "annotation", ["x", "y", "label"])
    frame = frame[["x", "y", "label"]].dropna()
    known = {(round(x), round(y)): str(label) for x, y, label in frame.itertuples(index=False)}
    return [known.get((int(x), int(y))) for x, y in array_xy]


def _read_table(path: Path, what: str, columns: list[str]) -> pd.DataFrame:
    check.exists(path, what)
    try:
        frame = pd.read_csv(path, sep="\t")
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as reason:
        check.unreadable(path, what, reason)
    check.has_columns(list(frame.columns), columns, path)
    return frame
