"""Expression on a dense lattice as an image: one pixel a place, one channel a gene. Nothing here resamples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import shapely
from dask.delayed import delayed
from spatialdata.models import Image2DModel, get_table_keys
from spatialdata.transformations import Affine, get_transformation

from .. import _keys as keys
from .._checks import raster as check
from .._checks import slides as check_slides
from .._slides import affine_matrix
from ..pp.columns import read_columns, to_dense
from ..pp.raster import fit_raster

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ..pp.raster import Raster

MOST_BYTES = 1 << 30
"""Without a choice of genes no larger image is made."""
CHUNK_GENES, BAND_BYTES = 8, 1 << 26
"""Genes a chunk of a lazy image, and bytes of all genes in the rows of pixels that are made at a time."""


def rasterize(
    sdata: SpatialData,
    genes: Sequence[str] | None = None,
    *,
    table_name: str = keys.PREDICTED,
    layer: str | None = None,
    shapes_key: str | None = None,
    fill: float = np.nan,
    key_added: str | None = None,
) -> None:
    """Make an image of a table whose spots lie on a regular lattice, one channel a gene.

    For dense predictions, such as those on `pp.spot_grid`: an image is drawn, stored and read much faster than a
    million shapes. Any table that annotates places of a square or hexagonal lattice will do, turned or with gaps.

    Parameters
    ----------
    sdata
        The object.
    genes
        Channels, in this order; by default all genes, up to 1 GiB of image.
    table_name
        Table with the values.
    layer
        Layer of the table; None is X.
    shapes_key
        Shapes element with the places, where the table annotates several.
    fill
        Value where no place is, and of missing values. spatialdata-plot draws no image with NaN: give 0 for it.
    key_added
        Image element that is written; by default the name of the table and ``"_raster"``. An image of an earlier call
        is replaced, nothing else is.

    Returns
    -------
    Nothing. Writes ``sdata.images[key_added]``: ``(c, y, x)``, float32, ``fill`` where no place is, channels named by
    genes, in every coordinate system of the shapes. A place of a square lattice is one pixel, centred on it. A place of
    a hexagonal one is two, side by side along its rows, half a pitch wide and as high as rows are apart: together they
    are centred on it. Lazy where the table is: then values are read when the image is written, some rows at a time.
    What it shows is noted in ``sdata.attrs["stpredict"]["raster"][key_added]``.

    Raises
    ------
    ValueError
        If the places lie on no lattice, genes are unknown or too many, or something else would be overwritten.

    Notes
    -----
    ``spatialdata.rasterize`` resamples any element to a resolution; here every place keeps its own pixel.
    ``spatialdata.rasterize_bins`` needs row and column of square bins in ``obs`` and a table in memory, fills with
    zeros, and lays pixels half a bin off.

    To draw one with spatialdata-plot: ``stp.tl.rasterize(sdata, ["ERBB2"], fill=0)``, then
    ``sdata.pl.render_images("predicted_raster", channel="ERBB2").pl.show()``.

    Images made here are not taken for slides: `predict` and the others do not ask whether they are meant.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> stp.tl.rasterize(sdata, ["GENE3", "GENE0"], table_name="observed", layer="rate")
    >>> sdata["observed_raster"].shape, sdata["observed_raster"].c.values.tolist()
    ((2, 4, 4), ['GENE3', 'GENE0'])
    """
    check_slides.is_spatialdata(sdata)
    check_slides.has_table(list(sdata.tables), table_name)
    table = sdata.tables[table_name]
    key_added = key_added or f"{table_name}_{keys.RASTER}"
    made: dict[str, Any] = sdata.attrs.get(keys.ATTRS, {}).get(keys.RASTER, {})
    check.may_write(sdata, key_added, made)
    check_slides.has_layer(table, layer)
    chosen = [str(gene) for gene in (table.var_names if genes is None else genes)]
    check.known_genes(chosen, table.var_names, table_name)
    region = check.one_region(check_slides.annotated_regions(table, table_name), shapes_key, table_name)
    check.is_shapes(sdata, region, table_name)
    shapes = sdata.shapes[region]
    rows, xy = _places(sdata, table_name, region)
    raster = check.regular(fit_raster(xy), region, len(xy))
    if genes is None:
        check.not_too_large((len(chosen), raster.height, raster.width), MOST_BYTES, table_name)
    matrix = table.X if layer is None else table.layers[layer]
    columns = table.var_names.get_indexer(chosen)
    painted = _painted(matrix, rows, columns, raster)
    image = Image2DModel.parse(
        painted if np.isnan(fill) else np.where(np.isnan(painted), np.float32(fill), painted),
        dims=("c", "y", "x"),
        c_coords=chosen,
        transformations=_transformations(shapes, raster.matrix),
    )
    if key_added in sdata.images:
        del sdata.images[key_added]
    sdata.images[key_added] = image
    note = {"table_name": table_name, "layer": layer, "shapes_key": region, "layout": raster.layout}
    sdata.attrs[keys.ATTRS] = {**sdata.attrs.get(keys.ATTRS, {}), keys.RASTER: {**made, key_added: note}}


def _places(sdata: SpatialData, table_name: str, region: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Rows of the table that annotate an element, and where these places are in the element's own coordinates."""
    table, shapes = sdata.tables[table_name], sdata.shapes[region]
    _, region_key, instance_key = get_table_keys(table)
    rows = np.flatnonzero((table.obs[region_key] == region).to_numpy())
    ids = table.obs[instance_key].to_numpy()[rows]
    check_slides.instances_match(ids, shapes.index, region, table_name)
    centres = shapely.get_coordinates(shapely.centroid(shapes.geometry.to_numpy()))
    return rows, centres[shapes.index.get_indexer(ids)]


def _transformations(shapes: GeoDataFrame, matrix: NDArray[np.float64]) -> dict[str, Affine]:
    """From pixels to every coordinate system of the shapes."""
    axes = ("x", "y")
    return {
        system: Affine(affine_matrix(shapes, system) @ matrix, input_axes=axes, output_axes=axes)
        for system in get_transformation(shapes, get_all=True)
    }


def _painted(matrix: Any, rows: NDArray[np.intp], columns: NDArray[np.intp], raster: Raster) -> Any:
    """``(c, y, x)``; a dask array where the matrix is one."""
    if not isinstance(matrix, da.Array):
        return raster.paint(read_columns(matrix, columns.tolist(), rows))
    height = max(1, BAND_BYTES // (4 * len(columns) * raster.width))
    tops = range(0, raster.height, height)
    bands = [raster.band(top, min(top + height, raster.height)) for top in tops]
    lazy = [_lazy(matrix[_range(rows[at])], columns, part) for at, part in bands]
    return da.concatenate(lazy, axis=1)


def _lazy(values: da.Array, columns: NDArray[np.intp], raster: Raster) -> Any:
    """Some rows of pixels: each chunk of the matrix that they need is read once for all genes."""
    held = delayed(raster)
    groups = [columns[i : i + CHUNK_GENES] for i in range(0, len(columns), CHUNK_GENES)]
    chunks = [
        da.from_delayed(
            delayed(_paint)(held, values[:, _range(group)]),
            shape=(len(group), raster.height, raster.width),
            dtype=np.float32,
        )
        for group in groups
    ]
    return da.concatenate(chunks, axis=0)


def _range(positions: NDArray[np.intp]) -> Any:
    """Positions as a slice where they follow each other, so that chunks are not taken apart."""
    if len(positions) and (np.diff(positions) == 1).all():
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def _paint(raster: Raster, values: Any) -> NDArray[np.float32]:
    return raster.paint(to_dense(values))
