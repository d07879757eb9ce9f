"""Expression on a regular lattice as an image: one pixel per place, one channel per gene. Nothing is resampled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import shapely
from dask.delayed import delayed
from spatialdata.models import Image2DModel, get_table_keys
from spatialdata.transformations import Affine, get_transformation

from .. import _keys as keys
from .._checks.calls import public
from .._checks.names import did_you_mean, duplicates
from .._checks.slides import quote
from .._slides import checks as check_elements
from .._slides.placement import affine_matrix
from ..pp.columns import read_columns, to_dense
from ..pp.raster import fit_raster

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ..pp.raster import Raster

MAX_BYTES = 1 << 30
"""Largest image of all genes; a larger one is made only of genes that are named."""
CHUNK_GENES, BAND_BYTES = 8, 1 << 26
"""Genes per chunk of a lazy image, and bytes of all genes in the rows of pixels that are computed together."""


@public
def rasterize(
    sdata: SpatialData,
    genes: Sequence[str] | None = None,
    *,
    table_name: str | None = None,
    layer: str | None = None,
    shapes_key: str | None = None,
    fill: float = np.nan,
    key_added: str | None = None,
) -> None:
    """Make an image of a table whose spots lie on a regular lattice, with one channel per gene.

    For dense predictions, such as those on `pp.spot_grid`: an image is drawn, stored and read much faster than a
    million shapes. The table may annotate any square or hexagonal lattice, which may be rotated and have gaps.

    Parameters
    ----------
    sdata
        The object.
    genes
        Channels, in this order; by default all genes, up to an image of 1 GiB.
    table_name
        Table with the values; by default ``"predicted"``.
    layer
        Layer of the table; None is X.
    shapes_key
        Shapes element with the places, if the table annotates several.
    fill
        Value of pixels without a place, and of missing values. spatialdata-plot cannot draw NaN: give 0 for it.
    key_added
        Image element that is written; by default the name of the table and ``"_raster"``. Only an image of an earlier
        call is replaced.

    Returns
    -------
    Nothing. Writes ``sdata.images[key_added]``: ``(c, y, x)``, float32, ``fill`` in pixels without a place, channels
    named by genes, in every coordinate system of the shapes. A place of a square lattice is one pixel, centred on it. A
    place of a hexagonal lattice is two pixels side by side along its row, each half a pitch wide and as high as the
    distance of rows; together they are centred on the place. The image is lazy if the table is: values are then read
    when the image is written, some rows at a time. ``sdata.attrs["stpredict"]["raster"][key_added]`` records the table,
    layer, shapes and layout of the image.

    Raises
    ------
    ValueError
        If the places do not lie on a lattice, genes are unknown or too many, or another element would be overwritten.

    Notes
    -----
    ``spatialdata.rasterize`` resamples any element to a resolution; here every place keeps its own pixel.
    ``spatialdata.rasterize_bins`` needs the rows and columns of square bins in ``obs`` and a table in memory, fills
    with zeros, and shifts pixels by half a bin.

    To draw one with spatialdata-plot: ``stp.tl.rasterize(sdata, ["ERBB2"], fill=0)``, then
    ``sdata.pl.render_images("predicted_raster", channel="ERBB2").pl.show()``.

    Images made here are not slides: `predict` and other functions ignore them when they look for the only image.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=4)
    >>> stp.tl.rasterize(sdata, ["GENE3", "GENE0"], table_name="observed", layer="rate")
    >>> sdata["observed_raster"].shape, sdata["observed_raster"].c.values.tolist()
    ((2, 4, 4), ['GENE3', 'GENE0'])
    """
    check_elements.is_spatialdata(sdata)
    table_name = table_name or keys.PREDICTED
    check_elements.has_table(list(sdata.tables), table_name)
    table = sdata.tables[table_name]
    key_added = key_added or f"{table_name}_{keys.RASTER}"
    made: dict[str, Any] = sdata.attrs.get(keys.ATTRS, {}).get(keys.RASTER, {})
    check_elements.may_write(sdata, key_added, made, "stp.tl.rasterize", kind="images")
    check_elements.has_layer(table, layer)
    named = [genes] if isinstance(genes, str) else genes
    chosen = [str(gene) for gene in (table.var_names if named is None else named)]
    _check_genes(chosen, table.var_names, table_name)
    region = _find_region(sdata, table_name, shapes_key)
    shapes = sdata.shapes[region]
    rows, xy = _places(sdata, table_name, region)
    raster = fit_raster(xy)
    if raster is None:
        msg = (
            f"The {len(xy)} places of {region!r} lie on no regular lattice: square or hexagonal, at least 4, each "
            "within a tenth of the pitch of a place of its own. Make such a lattice with `stp.pp.spot_grid`, or draw "
            "the places as they are with `stp.pl.expression`."
        )
        raise ValueError(msg)
    if genes is None:
        _check_size((len(chosen), raster.height, raster.width), table_name)
    matrix = table.X if layer is None else table.layers[layer]
    if matrix is None:
        found = quote(check_elements.layers(table))
        msg = f"X of table {table_name!r} is None (layers found: {found}). Give one of these as `layer`."
        raise ValueError(msg)
    columns = table.var_names.get_indexer(chosen)
    pixels = _paint_image(matrix, rows, columns, raster)
    image = Image2DModel.parse(
        pixels if np.isnan(fill) else np.where(np.isnan(pixels), np.float32(fill), pixels),
        dims=("c", "y", "x"),
        c_coords=chosen,
        transformations=_transformations(shapes, raster.matrix),
    )
    if key_added in sdata.images:
        del sdata.images[key_added]
    sdata.images[key_added] = image
    record = {"table_name": table_name, "layer": layer, "shapes_key": region, "layout": raster.layout}
    sdata.attrs[keys.ATTRS] = {**sdata.attrs.get(keys.ATTRS, {}), keys.RASTER: {**made, key_added: record}}


def _find_region(sdata: SpatialData, table_name: str, shapes_key: str | None) -> str:
    """The shapes element that the table annotates, or the one of several that is asked for."""
    regions = check_elements.annotated_regions(sdata.tables[table_name], table_name)
    if shapes_key is not None and shapes_key not in regions:
        msg = (
            f"Table {table_name!r} does not annotate {shapes_key!r} (but: {quote(regions)}). Give another `shapes_key`."
        )
        raise ValueError(msg)
    if shapes_key is None and len(regions) > 1:
        msg = f"Table {table_name!r} annotates {len(regions)} elements: {quote(regions)}. Give one as `shapes_key`."
        raise ValueError(msg)
    region = shapes_key or regions[0]
    if region not in sdata.shapes:
        kind = "labels, which are pixels already" if region in sdata.labels else "not among the shapes of the object"
        msg = (
            f"Table {table_name!r} annotates {region!r}, which is {kind} (shapes: {quote(list(sdata.shapes))}). Give "
            "another `shapes_key` or `table_name`."
        )
        raise ValueError(msg)
    return region


def _check_genes(genes: Sequence[str], available: Collection[str], table_name: str) -> None:
    """Refuse no genes, unknown genes, and genes named twice: they are the names of channels."""
    if not genes:
        msg = f"`genes` is empty. Name genes of table {table_name!r}, or leave `genes` out for all of them."
        raise ValueError(msg)
    missing = [gene for gene in genes if gene not in available]
    if missing:
        hint = did_you_mean(missing, available) or f" There are {quote(list(available))}."
        msg = f"Table {table_name!r} has no gene {quote(missing)} ({len(available)} genes).{hint} Give other `genes`."
        raise ValueError(msg)
    if twice := duplicates(genes):
        msg = f"Genes are the names of channels, and some are repeated: {quote(twice)}. Give each once as `genes`."
        raise ValueError(msg)


def _check_size(shape: tuple[int, int, int], table_name: str) -> None:
    """Refuse a huge image of all genes."""
    n_bytes = 4 * shape[0] * shape[1] * shape[2]
    if n_bytes > MAX_BYTES:
        msg = (
            f"All {shape[0]} genes of table {table_name!r} make an image of {n_bytes / 2**30:.1f} GiB ({shape[1]} x "
            f"{shape[2]} pixels), and without a choice of genes the limit is {MAX_BYTES / 2**30:g} GiB. Name genes: "
            "`stp.tl.rasterize(sdata, genes=[…])`."
        )
        raise ValueError(msg)


def _places(sdata: SpatialData, table_name: str, region: str) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Rows of the table that annotate an element, and the centres of the shapes in its own coordinates."""
    table, shapes = sdata.tables[table_name], sdata.shapes[region]
    _, region_key, instance_key = get_table_keys(table)
    rows = np.flatnonzero((table.obs[region_key] == region).to_numpy())
    ids = table.obs[instance_key].to_numpy()[rows]
    at = check_elements.match_instances(ids, shapes.index, region, table_name)
    centres = shapely.get_coordinates(shapely.centroid(shapes.geometry.to_numpy()))
    return rows, centres[at]


def _transformations(shapes: GeoDataFrame, matrix: NDArray[np.float64]) -> dict[str, Affine]:
    """Transformations from pixels to every coordinate system of the shapes."""
    axes = ("x", "y")
    return {
        system: Affine(affine_matrix(shapes, system) @ matrix, input_axes=axes, output_axes=axes)
        for system in get_transformation(shapes, get_all=True)
    }


def _paint_image(matrix: Any, rows: NDArray[np.intp], columns: NDArray[np.intp], raster: Raster) -> Any:
    """Image ``(c, y, x)``; a dask array if the matrix is one."""
    if not isinstance(matrix, da.Array):
        return raster.paint(read_columns(matrix, columns.tolist(), rows))
    height = max(1, BAND_BYTES // (4 * len(columns) * raster.width))
    tops = range(0, raster.height, height)
    bands = [raster.band(top, min(top + height, raster.height)) for top in tops]
    lazy = [_lazy_band(matrix[_as_slice(rows[places])], columns, part) for places, part in bands]
    return da.concatenate(lazy, axis=1)


def _lazy_band(values: da.Array, columns: NDArray[np.intp], raster: Raster) -> Any:
    """A band of pixel rows; each chunk of the matrix is read once for all genes."""
    delayed_raster = delayed(raster)
    groups = [columns[i : i + CHUNK_GENES] for i in range(0, len(columns), CHUNK_GENES)]
    chunks = [
        da.from_delayed(
            delayed(_paint)(delayed_raster, values[:, _as_slice(group)]),
            shape=(len(group), raster.height, raster.width),
            dtype=np.float32,
        )
        for group in groups
    ]
    return da.concatenate(chunks, axis=0)


def _as_slice(positions: NDArray[np.intp]) -> Any:
    """Consecutive positions as a slice, so that dask keeps chunks whole."""
    if len(positions) and (np.diff(positions) == 1).all():
        return slice(int(positions[0]), int(positions[-1]) + 1)
    return positions


def _paint(raster: Raster, values: Any) -> NDArray[np.float32]:
    return raster.paint(to_dense(values))
