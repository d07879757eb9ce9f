"""Sum transcripts or cells into spots of a known geometry, as if a spot array had measured them. No pixels are read."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from spatialdata.models import TableModel

from .. import _keys as keys
from .._checks import expression as check_expression
from .._checks import grid as check_grid
from .._checks import pseudo_spots as check
from .._checks import slides as check_slides
from .._geometry import apply_affine
from .._slides import Selection, image_resolution, pyramid, resolve
from . import elements
from ._grid import _frame
from ._placement import Spots, spot_geometry
from ._transcript_sums import Sums

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ._grid import SpotGeometry, Trained
    from ._grid_area import Outline
    from .lattice import Layout

logger = logging.getLogger(__name__)

CONTROLS = r"(?i)^(neg|blank|unassigned|deprecated|antisense|intergenic|genomiccontrol|systemcontrol|falsecode)"
"""Names of what is no gene: control probes and codewords of Xenium, CosMx and MERSCOPE."""


def spots_from_transcripts(
    sdata: SpatialData,
    points_key: str | None = None,
    like: str | Trained | None = None,
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
        Points that are transcripts; by default the only ones. They are read one partition at a time.
    like
        A predictor, for spots as it was trained on, or the name of a platform: ``"visium"``, ``"st"``,
        ``"visium_hd_8um"`` or ``"visium_hd_16um"``. None where ``diameter_um`` and ``pitch_um`` say all.
    diameter_um
        Diameter of a circle, or side of a square, in µm; counts more than ``like``.
    pitch_um
        Distance between the centres of neighbours in µm; counts more than ``like``. Spots may touch, not overlap.
    layout
        ``"hexagonal"`` or ``"square"``; counts more than ``like``.
    outline
        ``"circle"`` or ``"square"``; counts more than ``like``.
    min_transcripts
        Fewest transcripts of a spot that is kept.
    min_qv
        Least quality of a transcript, where the points have a column ``qv`` (10x recommends 20); None keeps all.
    exclude
        Regular expression of names that are no genes, such as control probes; None keeps all.
    feature_key
        Column that names the gene; by default what the points say.
    image_key
        Image whose lattice is meant; by default the only one.
    coordinate_system
        Coordinate system in which image and points meet, where they share several.
    um_per_px
        Resolution in µm per full-resolution pixel; by default what the object records.
    key_added
        Shapes element that is written; the table is called ``{key_added}_counts``. What an earlier call made is
        replaced.

    Returns
    -------
    Nothing. Writes ``sdata.shapes[key_added]`` (circles or squares in full-resolution pixels; the index is the place in
    the whole lattice, as in `stp.pp.spot_grid`) and ``sdata.tables[f"{key_added}_counts"]``: ``X`` int32 CSR counts,
    ``obs["n_transcripts"]``, genes in alphabetical order. How many transcripts did not count, and why, is logged and
    noted in ``sdata.attrs["stpredict"]["pseudo_spots"][key_added]``.

    Raises
    ------
    ValueError
        If spots overlap, none has enough transcripts, the resolution is not known, or something else is called
        ``key_added``.

    Notes
    -----
    A transcript counts in one spot at most: between squares edge to edge in that of the larger x and y; where two
    circles touch in one of them.

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
    check_slides.is_spatialdata(sdata)
    check.at_least("min_transcripts", min_transcripts)
    controls = check.pattern(exclude)
    points_key = check.points(list(sdata.points), points_key)
    points = sdata.points[points_key]
    named = feature_key or points.attrs.get("spatialdata_attrs", {}).get("feature_key")
    sums = Sums(gene_key=check.feature_column(named, list(points.columns)), controls=controls, min_qv=min_qv)
    geometry = spot_geometry(like, diameter_um, pitch_um, layout, outline)
    _may_write(sdata, key_added)
    image_key = elements.find_image(sdata, image_key, coordinate_system)
    if um_per_px is not None:
        check_grid.length("um_per_px", um_per_px)
    spots = _spots(sdata, geometry, image_key, image_resolution(sdata, image_key, um_per_px))
    to_px = elements.affine_to_image(sdata, points_key, image_key, coordinate_system, "points_key")
    for part in points.partitions:
        sums.add(part.compute(), lambda xy: spots.place(apply_affine(to_px, xy)))
    note = {"points_key": points_key, "image_key": image_key, "min_transcripts": min_transcripts,
            "min_qv": min_qv, "exclude": exclude}  # fmt: skip
    ids, genes, counts = sums.matrix()
    n = np.asarray(counts.sum(axis=1)).ravel()
    check.some(
        int((n >= min_transcripts).sum()), "transcripts", int(n.sum()) + sums.n_outside, int(n.sum()), min_transcripts
    )
    lost = {"controls": sums.n_controls, "low_quality": sums.n_low_quality, "outside": sums.n_outside,
            "in_sparse_spots": int(n[n < min_transcripts].sum())}  # fmt: skip
    logger.info("%d transcripts; not counted: %s.", sums.n_all, lost)
    kept = n >= min_transcripts
    table = _table(counts[kept], genes, "n_transcripts", n[kept])
    _write(sdata, key_added, spots, ids[kept], table, {**note, "n_transcripts": {"all": sums.n_all, **lost}})


def spots_from_cells(
    sdata: SpatialData,
    table_name: str | None = None,
    like: str | Trained | None = None,
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
        Diameter of a circle, or side of a square, in µm; counts more than ``like``.
    pitch_um
        Distance between the centres of neighbours in µm; counts more than ``like``. Spots may touch, not overlap.
    layout
        ``"hexagonal"`` or ``"square"``; counts more than ``like``.
    outline
        ``"circle"`` or ``"square"``; counts more than ``like``.
    min_cells
        Fewest cells of a spot that is kept.
    layer
        Layer that holds counts; None is ``X``.
    image_key
        Image whose lattice is meant, where cells lie on several.
    shapes_key
        Shapes or labels that are the cells, where the table annotates several.
    coordinate_system
        Coordinate system in which image and cells meet, where they share several.
    um_per_px
        Resolution in µm per full-resolution pixel; by default what the object records.
    key_added
        Shapes element that is written; the table is called ``{key_added}_counts``. What an earlier call made is
        replaced.

    Returns
    -------
    Nothing. Writes what `stp.pp.spots_from_transcripts` does, with ``obs["n_cells"]``; cells in no spot, and in spots
    of too few, are counted in ``sdata.attrs["stpredict"]["pseudo_spots"][key_added]``.

    Raises
    ------
    ValueError
        If spots overlap, none has enough cells, values are no counts, the resolution is not known, or something else
        is called ``key_added``.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> stp.pp.spots_from_cells(sdata, diameter_um=400, pitch_um=400, outline="square")
    >>> sdata["pseudo_spots_counts"].obs["n_cells"].tolist()
    [4, 4, 4, 4]
    """
    check_slides.is_spatialdata(sdata)
    check.at_least("min_cells", min_cells)
    geometry = spot_geometry(like, diameter_um, pitch_um, layout, outline)
    _may_write(sdata, key_added)
    selection = Selection(
        image_key=image_key, shapes_key=shapes_key, table_name=table_name, coordinate_system=coordinate_system,
        layer=layer, um_per_px=um_per_px,
    )  # fmt: skip
    slides = resolve(sdata, selection)
    check.one_slide([slide.name for slide in slides])
    cells = slides[0]
    counts = sparse.csr_matrix(cells.counts)
    check_expression.counts(counts, genes=cells.genes, spots=cells.obs_names.tolist())
    check_expression.unique_genes(list(cells.genes), repr(cells.table_name))
    spots = _spots(sdata, geometry, cells.image_key, cells.um_per_px)
    ids, members = _members(spots.place(cells.xy_px))
    n = np.asarray(members.sum(axis=1)).ravel()
    kept = n >= min_cells
    check.some(int(kept.sum()), "cells", members.shape[1], int(n.sum()), min_cells)
    lost = {"outside": members.shape[1] - int(n.sum()), "in_sparse_spots": int(n[~kept].sum())}
    logger.info("%d cells; not counted: %s.", members.shape[1], lost)
    note = {"table_name": cells.table_name, "shapes_key": cells.shapes_key, "image_key": cells.image_key,
            "layer": layer, "min_cells": min_cells, "n_cells": {"all": members.shape[1], **lost}}  # fmt: skip
    summed = sparse.csr_matrix(members[kept] @ counts).astype(np.int32)
    table = _table(summed, list(cells.genes), "n_cells", n[kept])
    _write(sdata, key_added, spots, ids[kept], table, note)


def _members(place: NDArray[np.int64]) -> tuple[NDArray[np.int64], sparse.csr_matrix]:
    """Spots that hold a cell, and ``(n_spots, n_cells)`` which cells."""
    at = np.flatnonzero(place >= 0)
    ids, row = np.unique(place[at], return_inverse=True)
    ones = np.ones(len(at), np.int64)
    return ids, sparse.csr_matrix((ones, (row, at)), shape=(len(ids), len(place)))


def _spots(sdata: SpatialData, geometry: SpotGeometry, image_key: str, um_per_px: float) -> Spots:
    height, width = pyramid(sdata.images[image_key])[0].pixels.shape[-2:]
    return Spots(geometry=geometry, um_per_px=um_per_px, width_px=width, height_px=height)


def _table_name(key_added: str) -> str:
    return f"{key_added}_counts"


def _may_write(sdata: SpatialData, key_added: str) -> None:
    made = elements.read_attrs(sdata, keys.PSEUDO_SPOTS)
    check_slides.may_write(sdata, key_added, made, "stp.pp.spots_from_transcripts")
    check.free_table(sdata, _table_name(key_added), [_table_name(name) for name in made])


def _table(counts: sparse.csr_matrix, genes: list[str], name: str, n: NDArray[Any]) -> AnnData:
    obs = pd.DataFrame({name: n}, index=np.arange(len(n)).astype(str))
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=pd.Index(genes, dtype=str)))


def _write(
    sdata: SpatialData, key_added: str, spots: Spots, ids: NDArray[np.int64], table: AnnData, note: dict[str, Any]
) -> None:
    """Shapes, a table that annotates them, and how they were made."""
    lattice, xy = spots.lattice, spots.centres(ids)
    row, column = np.divmod(ids, lattice.n_columns)
    table.obs_names = [f"{key_added}_{x}x{y}" for x, y in zip(column, row, strict=True)]
    table.obs[keys.REGION] = pd.Categorical([key_added] * len(ids))
    table.obs[keys.SPOT_ID] = ids
    table.obs[keys.ARRAY_ROW], table.obs[keys.ARRAY_COL] = row, column
    table.obsm[keys.SPATIAL] = xy
    linked = TableModel.parse(table, region=key_added, region_key=keys.REGION, instance_key=keys.SPOT_ID)
    frame = _frame(ids, xy, spots.diameter_px, spots.geometry.outline)
    if _table_name(key_added) in sdata.tables:
        del sdata.tables[_table_name(key_added)]
    elements.write_shapes(sdata, key_added, frame, note["image_key"])
    sdata.tables[_table_name(key_added)] = linked
    size = {"n_rows": lattice.n_rows, "n_columns": lattice.n_columns, "um_per_px": spots.um_per_px}
    elements.write_attrs(sdata, keys.PSEUDO_SPOTS, key_added, {**asdict(spots.geometry), **size, **note})
