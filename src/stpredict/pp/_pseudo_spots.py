"""Sum transcripts or cells into spots of a known geometry, as if a spot array had measured them. No pixels are read."""

from __future__ import annotations

import logging
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from spatialdata.models import TableModel

from .. import _keys as keys
from .._checks import config as check_config
from .._checks import expression as check_expression
from .._checks import slides as check_slides
from .._checks.calls import public
from .._checks.slides import quote
from .._geometry import apply_affine
from .._resolution import image_resolution
from .._slides import checks as check_elements
from .._slides import elements
from .._slides.slides import Selection, resolve
from ._grid import lattice_on_image, spot_shapes
from ._transcript_counts import TranscriptCounts
from .lattice import LAYOUTS, spot_geometry

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .lattice import Layout, Outline, SpotGeometry, SpotLattice, WithProvenance

logger = logging.getLogger(__name__)

CONTROLS = (
    r"(?i)^(?:NegControl(?:Probe|Codeword)?_\S+|(?:Unassigned|Deprecated)Codeword_\d+|BLANK[_-]?\d+|antisense_\S+"
    r"|Intergenic_?Region_\S+|GenomicControl\S*|NegPrb\d+|NegAdd\d+|Negative\d+|FalseCode\d+|SystemControl\d+)$"
)
"""Names that are not genes. They are matched as a whole, since prefixes hit genes (``Neg`` NEGR1, ``Sys`` SYS1).

Xenium: ``NegControlProbe_``, ``NegControlCodeword_``, ``UnassignedCodeword_``, ``DeprecatedCodeword_``,
``Intergenic_Region_``; of early versions ``BLANK_``, ``antisense_``. CosMx: ``NegPrb``, ``Negative``,
``SystemControl``. MERSCOPE: ``Blank-``. Not verified in a document of the makers: ``NegAdd``, ``FalseCode``,
``NegControl_``, ``GenomicControl``, other separators and cases.
"""


@public
def spots_from_transcripts(
    sdata: SpatialData,
    points_key: str | None = None,
    like: str | WithProvenance | None = None,
    *,
    diameter_um: float | None = None,
    pitch_um: float | None = None,
    layout: Layout | None = None,
    outline: Outline | None = None,
    min_transcripts: int = 1,
    min_qv: float | None = 20.0,
    exclude: str | None = CONTROLS,
    feature_key: str | None = None,
    image_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    key_added: str = keys.PSEUDO_SPOTS,
) -> None:
    """Sum transcripts into spots of a known geometry.

    The lattice is that of `stp.pp.spot_grid`: it begins at the corner of the image and lies along its rows and columns,
    and its lengths are in µm, so every sample gets spots of the same size.

    Parameters
    ----------
    sdata
        The object.
    points_key
        The points element with the transcripts; by default the only one. It is read one partition at a time.
    like
        A predictor, for spots like those of its training, or the name of a platform: ``"visium"``, ``"st"``,
        ``"visium_hd_8um"`` or ``"visium_hd_16um"``. None if ``diameter_um`` and ``pitch_um`` are given.
    diameter_um
        Diameter of a circle, or side of a square, in µm; overrides ``like``.
    pitch_um
        Distance between the centres of neighbours in µm; overrides ``like``. Spots may touch, not overlap.
    layout
        ``"hexagonal"`` or ``"square"``; overrides ``like``.
    outline
        ``"circle"`` or ``"square"``; overrides ``like``.
    min_transcripts
        Minimum number of transcripts of a spot.
    min_qv
        Minimum quality of a transcript, if the points have a column ``qv`` (10x recommends 20); None keeps all.
    exclude
        Regular expression of names that are not genes, such as control probes; None keeps all.
    feature_key
        Column that names the gene; by default the ``feature_key`` of the points.
    image_key
        Image on which the lattice lies; by default the only one.
    coordinate_system
        Coordinate system shared by image and points, if there are several.
    um_per_px
        Resolution in µm per full-resolution pixel; by default as recorded in the object.
    key_added
        Shapes element that is written; the table is called ``{key_added}_counts``. The result of an earlier
        call is replaced.

    Returns
    -------
    Nothing. Writes ``sdata.shapes[key_added]`` (circles or squares in full-resolution pixels; the index is the place in
    the whole lattice, as in `stp.pp.spot_grid`) and ``sdata.tables[f"{key_added}_counts"]``: ``X`` int32 CSR counts,
    ``obs["n_transcripts"]``, genes in alphabetical order. The numbers of transcripts that do not count, by reason, are
    logged and recorded in ``sdata.attrs["stpredict"]["pseudo_spots"][key_added]``.

    Raises
    ------
    ValueError
        If spots overlap, none has enough transcripts, the resolution is unknown, or another element is called
        ``key_added``.

    Notes
    -----
    A transcript counts in one spot at most. On the shared edge of two squares it belongs to the one of larger x and
    y, and where two circles touch to one of them.

    Examples
    --------
    >>> import numpy as np, pandas as pd, stpredict as stp
    >>> from spatialdata.models import PointsModel
    >>> from spatialdata.transformations import Identity
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> at = pd.DataFrame({"x": [6.0, 7.0, 50.0], "y": [6.0, 6.0, 50.0], "gene": ["A", "B", "A"]})
    >>> sdata["transcripts"] = PointsModel.parse(at, feature_key="gene", transformations={"S0": Identity()})
    >>> stp.pp.spots_from_transcripts(sdata, diameter_um=100, pitch_um=100, outline="square")
    >>> sdata["pseudo_spots_counts"].to_df().to_numpy().tolist()
    [[1, 1], [1, 0]]
    """
    check_elements.is_spatialdata(sdata)
    check_config.in_range("min_transcripts", min_transcripts, 1, np.inf)
    try:
        controls = None if exclude is None else re.compile(exclude)
    except re.error as reason:
        msg = f"`exclude` is {exclude!r}, no regular expression: {reason}. Give for instance '^(NegControl|BLANK)'."
        raise ValueError(msg) from None
    points_key = check_slides.one_name("points element", points_key, list(sdata.points), "points_key")
    points = sdata.points[points_key]
    gene_key = feature_key or points.attrs.get("spatialdata_attrs", {}).get("feature_key")
    gene_key = check_slides.one_name("gene column", gene_key, list(points.columns), "feature_key")
    geometry = _separate_spots(spot_geometry(like, diameter_um, pitch_um, layout, outline))
    _may_write(sdata, key_added)
    image_key = elements.find_image(sdata, image_key, coordinate_system)
    check_config.length("um_per_px", um_per_px)
    lattice = lattice_on_image(sdata, geometry, image_key, image_resolution(sdata, image_key, um_per_px))
    to_px = elements.affine_to_image(sdata, points_key, image_key, coordinate_system, "points_key")
    counted = TranscriptCounts(gene_key=gene_key, controls=controls, min_qv=min_qv)
    for part in points.partitions:
        counted.add(part.compute(), lambda xy: lattice.assign(apply_affine(to_px, xy)))
    ids, genes, counts = counted.matrix()
    n = np.asarray(counts.sum(axis=1)).ravel()
    kept = n >= min_transcripts
    n_inside = int(n.sum())
    _require_spots(int(kept.sum()), "transcripts", n_inside + counted.n_outside, n_inside, min_transcripts)
    lost = {"controls": counted.n_controls, "low_quality": counted.n_low_quality, "outside": counted.n_outside,
            "in_sparse_spots": int(n[~kept].sum())}  # fmt: skip
    logger.info("%d transcripts; not counted: %s.", counted.n_all, lost)
    record = {"points_key": points_key, "image_key": image_key, "min_transcripts": min_transcripts, "min_qv": min_qv,
              "exclude": exclude, "n_transcripts": {"all": counted.n_all, **lost}}  # fmt: skip
    table = _table(counts[kept], genes, "n_transcripts", n[kept])
    _write(sdata, key_added, lattice, ids[kept], table, record)


@public
def spots_from_cells(
    sdata: SpatialData,
    table_name: str | None = None,
    like: str | WithProvenance | None = None,
    *,
    diameter_um: float | None = None,
    pitch_um: float | None = None,
    layout: Layout | None = None,
    outline: Outline | None = None,
    min_cells: int = 1,
    layer: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    key_added: str = keys.PSEUDO_SPOTS,
) -> None:
    """Sum cells into spots of a known geometry: a cell belongs to the spot in which its centre lies.

    Parameters
    ----------
    sdata
        The object.
    table_name
        Table of raw counts that annotates the cells; by default ``"observed"``, or the only one.
    like
        As in `stp.pp.spots_from_transcripts`.
    diameter_um
        Diameter of a circle, or side of a square, in µm; overrides ``like``.
    pitch_um
        Distance between the centres of neighbours in µm; overrides ``like``. Spots may touch, not overlap.
    layout
        ``"hexagonal"`` or ``"square"``; overrides ``like``.
    outline
        ``"circle"`` or ``"square"``; overrides ``like``.
    min_cells
        Minimum number of cells of a spot.
    layer
        Layer that holds counts; None is ``X``.
    image_key
        Image on which the lattice lies, if cells lie on several.
    shapes_key
        Shapes or labels of the cells, if the table annotates several.
    coordinate_system
        Coordinate system shared by image and cells, if there are several.
    um_per_px
        Resolution in µm per full-resolution pixel; by default as recorded in the object.
    key_added
        Shapes element that is written; the table is called ``{key_added}_counts``. The result of an earlier
        call is replaced.

    Returns
    -------
    Nothing. Writes what `stp.pp.spots_from_transcripts` does, with ``obs["n_cells"]``; the numbers of cells in no
    spot, and in spots of too few, are recorded in ``sdata.attrs["stpredict"]["pseudo_spots"][key_added]``.

    Raises
    ------
    ValueError
        If spots overlap, none has enough cells, values are not counts, the resolution is unknown, or another element
        is called ``key_added``.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> stp.pp.spots_from_cells(sdata, diameter_um=400, pitch_um=400, outline="square")
    >>> sdata["pseudo_spots_counts"].obs["n_cells"].tolist()
    [4, 4, 4, 4]
    """
    check_elements.is_spatialdata(sdata)
    check_config.in_range("min_cells", min_cells, 1, np.inf)
    geometry = _separate_spots(spot_geometry(like, diameter_um, pitch_um, layout, outline))
    _may_write(sdata, key_added)
    selection = Selection(
        image_key=image_key, shapes_key=shapes_key, table_name=table_name, coordinate_system=coordinate_system,
        layer=layer, um_per_px=um_per_px,
    )  # fmt: skip
    slides = resolve(sdata, selection)
    if len(slides) > 1:
        names = quote([slide.name for slide in slides])
        msg = f"Cells of several samples were found: {names}. Give one as `shapes_key`, and call once for each."
        raise ValueError(msg)
    cells = slides[0]
    counts = sparse.csr_matrix(cells.counts)
    check_expression.counts(counts, genes=cells.genes, spots=cells.obs_names.tolist())
    check_expression.unique_genes(list(cells.genes), repr(cells.table_name))
    lattice = lattice_on_image(sdata, geometry, cells.image_key, cells.um_per_px)
    place = lattice.assign(cells.xy_px)
    inside = np.flatnonzero(place >= 0)
    ids, row = np.unique(place[inside], return_inverse=True)
    members = sparse.csr_matrix((np.ones(len(inside), np.int64), (row, inside)), shape=(len(ids), len(place)))
    n = np.asarray(members.sum(axis=1)).ravel()
    kept = n >= min_cells
    _require_spots(int(kept.sum()), "cells", len(place), len(inside), min_cells)
    lost = {"outside": len(place) - len(inside), "in_sparse_spots": int(n[~kept].sum())}
    logger.info("%d cells; not counted: %s.", len(place), lost)
    record = {"table_name": cells.table_name, "shapes_key": cells.shapes_key, "image_key": cells.image_key,
              "layer": layer, "min_cells": min_cells, "n_cells": {"all": len(place), **lost}}  # fmt: skip
    summed = sparse.csr_matrix(members[kept] @ counts).astype(np.int32)
    table = _table(summed, list(cells.genes), "n_cells", n[kept])
    _write(sdata, key_added, lattice, ids[kept], table, record)


def _require_spots(n_spots: int, what: str, n_kept: int, n_inside: int, minimum: int) -> None:
    """Refuse to write no spot at all."""
    if n_spots == 0:
        msg = (
            f"No spot has {minimum} {what}: {n_kept} {what} count, {n_inside} of them lie in a spot. Lower the "
            "minimum, or check `coordinate_system` and the resolution (`stp.pp.resolution`)."
        )
        raise ValueError(msg)


def _separate_spots(geometry: SpotGeometry) -> SpotGeometry:
    """The geometry, if its spots do not overlap: each transcript may count once only."""
    step_um = geometry.pitch_um * (1.0 if geometry.outline == "circle" else LAYOUTS[geometry.layout][0])
    if geometry.diameter_um > step_um * (1 + 1e-9):
        msg = (
            f"Spots overlap: a {geometry.outline} of {geometry.diameter_um:g} µm is wider than the {step_um:.4g} µm to "
            "the next, so what lies in two would count twice. Give a larger `pitch_um`, or a smaller `diameter_um`."
        )
        raise ValueError(msg)
    return geometry


def _table_name(key_added: str) -> str:
    return f"{key_added}_counts"


def _may_write(sdata: SpatialData, key_added: str) -> None:
    ours = elements.read_attrs(sdata, keys.PSEUDO_SPOTS)
    check_elements.may_write(sdata, key_added, ours, "stp.pp.spots_from_transcripts")
    table_name, existing = _table_name(key_added), {name for _, name, _ in sdata.gen_elements()}
    if table_name in existing and table_name not in map(_table_name, ours):
        msg = (
            f"The object already has an element {table_name!r}, which is to hold the counts, and is not overwritten. "
            "Give another name as `key_added`."
        )
        raise ValueError(msg)


def _table(counts: sparse.csr_matrix, genes: list[str], name: str, n: NDArray[Any]) -> AnnData:
    obs = pd.DataFrame({name: n}, index=np.arange(len(n)).astype(str))
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=str)))


def _write(
    sdata: SpatialData,
    key_added: str,
    lattice: SpotLattice,
    ids: NDArray[np.int64],
    table: AnnData,
    record: dict[str, Any],
) -> None:
    """Write the shapes, the table that annotates them, and how they were made."""
    xy = lattice.centres(ids)
    row, column = np.divmod(ids, lattice.n_columns)
    table.obs_names = [f"{key_added}_{x}x{y}" for x, y in zip(column, row, strict=True)]
    table.obs[keys.REGION] = pd.Categorical([key_added] * len(ids))
    table.obs[keys.SPOT_ID] = ids
    table.obs[keys.ARRAY_ROW], table.obs[keys.ARRAY_COL] = row, column
    table.obsm[keys.SPATIAL] = xy
    linked = TableModel.parse(table, region=key_added, region_key=keys.REGION, instance_key=keys.SPOT_ID)
    shapes = spot_shapes(ids, xy, lattice.diameter_px, lattice.geometry.outline)
    if _table_name(key_added) in sdata.tables:
        del sdata.tables[_table_name(key_added)]
    elements.write_shapes(sdata, key_added, shapes, record["image_key"])
    sdata.tables[_table_name(key_added)] = linked
    size = {"n_rows": lattice.n_rows, "n_columns": lattice.n_columns, "um_per_px": lattice.um_per_px}
    elements.write_attrs(sdata, keys.PSEUDO_SPOTS, key_added, {**asdict(lattice.geometry), **size, **record})
