"""Checks of SpatialData objects: elements, coordinate systems, tables, and how they belong together."""

from __future__ import annotations

from os import PathLike
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from .._checks.names import did_you_mean
from .._checks.slides import MAX_ANISOTROPY, quote

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData


MAX_SHIFT_PX = 0.5
"""How far apart two coordinate systems may place an element on an image."""
ADD_IMAGE = (
    "Read the slide with its image (`image` of `stp.io.read_visium` and the other readers), or add the pixels, an "
    "array of shape (channels, height, width) in the coordinates of the spots: "
    "`sdata.images['image'] = spatialdata.models.Image2DModel.parse(pixels, dims=('c', 'y', 'x'))`."
)
"""How to add an image."""


def is_spatialdata(value: object, *, several: bool = False, converted: bool = False) -> None:
    """Refuse anything that is not a SpatialData.

    ``several`` if a list or mapping of them is taken as well, ``converted`` if AnnData and paths are.
    """
    from anndata import AnnData
    from spatialdata import SpatialData

    if not isinstance(value, SpatialData):
        expected = "a SpatialData, an AnnData or a path" if converted else "a SpatialData"
        expected += " (or a list or mapping of them)" if several else ""
        advice = "Read one with `spatialdata.read_zarr(path)`, or try `stp.datasets.synthetic()`."
        if isinstance(value, list | tuple | dict) and not several:
            advice = "Call the function for each of its objects."
        elif isinstance(value, AnnData):
            advice = "Make one of it with `stp.io.from_anndata(adata)`."
        elif isinstance(value, str | PathLike):
            advice = "Read a store with `spatialdata.read_zarr(path)`, a slide with `stp.io.read_wsi(path)`."
        msg = f"Expected {expected}, not {type(value).__name__}. {advice}"
        raise TypeError(msg)


def has_table(names: Sequence[str], asked: str) -> None:
    """Refuse a table that does not exist."""
    if asked not in names:
        create = f"Create it with `stp.tl.predict(sdata, predictor, key_added={asked!r})`."
        hint = create if "predict" in asked else "Give one of them as `table_name`."
        msg = f"No table {asked!r} in `sdata.tables` (found: {quote(names)}).{did_you_mean(asked, names)} {hint}"
        raise ValueError(msg)


def one_table(names: Sequence[str]) -> None:
    """Refuse to guess among several tables, or to go on without one."""
    if not names:
        msg = (
            "There is no table with counts in `sdata.tables`. Add one that annotates the spots with "
            "`spatialdata.models.TableModel.parse(adata, region=…, region_key=…, instance_key=…)`."
        )
        raise ValueError(msg)
    if len(names) > 1:
        msg = f"Which table holds the counts? Found: {quote(names)}. Give `table_name`."
        raise ValueError(msg)


def annotated_regions(table: AnnData, table_name: str) -> list[str]:
    """Regions that a table annotates, in their order; an error if there are none."""
    attrs = table.uns.get("spatialdata_attrs", {})
    region = attrs.get("region")
    if region is None:
        msg = (
            f"Table {table_name!r} annotates no element. Link it to its spots with "
            "`spatialdata.models.TableModel.parse(adata, region=…, region_key=…, instance_key=…)`."
        )
        raise ValueError(msg)
    return [region] if isinstance(region, str) else list(region)


def has_regions(regions: Sequence[str], asked: Sequence[str]) -> None:
    """Refuse spot elements that do not exist or are not annotated."""
    missing = [key for key in asked if key not in regions]
    if missing:
        hint = did_you_mean(missing, regions)
        msg = f"`shapes_key` names {quote(missing)}; spots are in: {quote(regions)}.{hint} Give some of these."
        raise ValueError(msg)


def has_element(sdata: SpatialData, key: str, table_name: str | None) -> None:
    """Refuse a region that is not in the object."""
    available = [*sdata.shapes, *sdata.labels]
    if key not in available:
        msg = (
            f"Table {table_name!r} annotates {key!r}, which is not in the object (shapes and labels: "
            f"{quote(available)}). Add the element or give `shapes_key`."
        )
        raise ValueError(msg)


def has_image(names: Sequence[str], asked: str) -> None:
    """Refuse an image that does not exist."""
    if asked not in names:
        advice = "Give one of them as `image_key`." if names else ADD_IMAGE
        msg = f"No image {asked!r} in `sdata.images` (found: {quote(names)}).{did_you_mean(asked, names)} {advice}"
        raise ValueError(msg)


def may_write(
    sdata: SpatialData,
    key_added: str,
    made: Collection[str],
    function: str,
    kind: Literal["shapes", "images"] = "shapes",
) -> None:
    """Refuse to overwrite an element that this function did not make."""
    taken = {name for _, name, _ in sdata.gen_elements()}
    if key_added in taken and not (key_added in getattr(sdata, kind) and key_added in made):
        msg = (
            f"The object already has an element {key_added!r} that `{function}` did not make (it made: "
            f"{quote(sorted(made))}), and it is not overwritten. Give another name as `key_added`, or delete it with "
            f"`del sdata[{key_added!r}]`."
        )
        raise ValueError(msg)


def one_image(
    shapes_key: str, shared: Mapping[str, Sequence[str]], sdata: SpatialData, coordinate_system: str | None
) -> None:
    """Refuse spots that belong to no image, or to several."""
    if not sdata.images:
        msg = f"There is no image in this object, so spots {shapes_key!r} have no patches. {ADD_IMAGE}"
        raise ValueError(msg)
    if not shared:
        from spatialdata.transformations import get_transformation

        systems = {key: sorted(get_transformation(sdata.images[key], get_all=True)) for key in sdata.images}
        own = sorted(get_transformation(sdata[shapes_key], get_all=True))
        asked = f" within {coordinate_system!r}" if coordinate_system else ""
        msg = (
            f"Spots {shapes_key!r} (coordinate systems {own}) share none{asked} with the images ({systems}). "
            "Register them with `spatialdata.transformations.set_transformation`, or give `coordinate_system`."
        )
        raise ValueError(msg)
    if len(shared) > 1:
        msg = (
            f"Spots {shapes_key!r} lie on several images: {quote(list(shared))}. "
            "Say which with `image_key`, or narrow down with `coordinate_system`."
        )
        raise ValueError(msg)


def unique_spots(names: pd.Index[Any], table_name: str) -> None:
    """Refuse rows that share a name: predictions are matched to measurements by it."""
    if not names.is_unique:
        twice = quote(names[names.duplicated()].unique().tolist())
        msg = (
            f"Rows of table {table_name!r} share a name: {twice}. Make `obs_names` unique with "
            f"`sdata.tables[{table_name!r}].obs_names_make_unique()`."
        )
        raise ValueError(msg)


def match_instances(ids: NDArray[Any], index: pd.Index[Any], shapes_key: str, table_name: str) -> NDArray[np.intp]:
    """Position of each id in the index of an element; refuse rows that match no spot, and spots that share an index."""
    if not len(ids):
        msg = (
            f"No row of table {table_name!r} annotates {shapes_key!r}, though it is one of the table's regions. Give "
            "other elements as `shapes_key`, or the table that holds its spots as `table_name`."
        )
        raise ValueError(msg)
    if not index.is_unique:
        twice = quote(index[index.duplicated()].unique().tolist())
        msg = f"Spots of {shapes_key!r} share an index: {twice}. Make it unique: `element.reset_index(drop=True)`."
        raise ValueError(msg)
    rows = pd.Index(ids)
    if not rows.is_unique:
        twice = quote(rows[rows.duplicated()].unique().tolist())
        msg = (
            f"Table {table_name!r} has several rows for a spot of {shapes_key!r}: {twice}. Keep one row a spot, for "
            "instance `table[~table.obs.duplicated([region_key, instance_key])]`."
        )
        raise ValueError(msg)
    places = _find_ids(ids, index)
    missing = ids[places < 0]
    if len(missing):
        msg = (
            f"{len(missing)} of {len(ids)} rows of table {table_name!r} name spots that {shapes_key!r} does not have "
            f"(for instance {quote(missing[:3].tolist())}; its index: {quote(index[:3].tolist())}, dtype "
            f"{index.dtype}). "
            "Make the instance key column equal to the index of the element."
        )
        raise ValueError(msg)
    return places


def _find_ids(ids: NDArray[Any], index: pd.Index[Any]) -> NDArray[np.intp]:
    """Position of each id in an index, -1 for none; if some are missing, ids of both are compared as text."""
    places: NDArray[np.intp] = index.get_indexer(pd.Index(ids))
    texts = pd.Index([_id_text(value) for value in index.tolist()], dtype=object)
    if (places >= 0).all() or not texts.is_unique:
        return places
    return np.asarray(texts.get_indexer(pd.Index([_id_text(value) for value in ids.tolist()], dtype=object)))


def _id_text(value: Any) -> str:
    """An id as text: bytes decoded, whole numbers without decimals."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def on_image(xy_px: NDArray[np.float64], shape: tuple[int, ...], shapes_key: str, image_key: str) -> None:
    """Refuse spots that all lie outside the image: a transformation is missing."""
    height, width = shape[-2:]
    inside = ((xy_px >= 0) & (xy_px < (width, height))).all(axis=1)
    if not inside.any():
        low, high = xy_px.min(axis=0).round(1).tolist(), xy_px.max(axis=0).round(1).tolist()
        msg = (
            f"All {len(xy_px)} spots of {shapes_key!r} lie outside image {image_key!r}: they span {low} to {high} px, "
            f"the image {width} x {height} px. Set the transformation of one of them with "
            "`spatialdata.transformations.set_transformation`."
        )
        raise ValueError(msg)


def isotropic(scales: tuple[float, float], image_key: str, system: str) -> None:
    """Refuse an image whose pixels are not square."""
    x, y = scales
    if abs(x / y - 1) > MAX_ANISOTROPY:
        msg = (
            f"Pixels of image {image_key!r} are not square: one unit of {system!r} is {x:.4g} px along x, but {y:.4g} "
            "px along y. Resample the image, or correct it with `spatialdata.transformations.set_transformation`."
        )
        raise ValueError(msg)


def layers(table: AnnData) -> list[str]:
    """Names of layers, without X, which anndata lists as None."""
    return [name for name in table.layers.keys() if name is not None]  # noqa: SIM118  (mypy knows only this)


def same_placement(moved: Mapping[str, NDArray[np.float64]], key: str, image_key: str) -> None:
    """Refuse coordinate systems that place an element differently; ``moved`` is by how many pixels, at the corners."""
    distances = {name: float(np.abs(shift).max()) for name, shift in moved.items()}
    if max(distances.values()) > MAX_SHIFT_PX:
        named = ", ".join(f"{name!r} ({distance:.4g} px from the first)" for name, distance in distances.items())
        msg = (
            f"{key!r} and image {image_key!r} share several coordinate systems, which place them differently: {named}. "
            "Give one as `coordinate_system`."
        )
        raise ValueError(msg)


def has_layer(table: AnnData, layer: str | None) -> None:
    """Refuse a layer that does not exist."""
    if layer is not None and layer not in table.layers:
        found = layers(table)
        msg = (
            f"No layer {layer!r} in the table (found: {quote(found)}).{did_you_mean(layer, found)} Give `layer`, or "
            "leave it out for X."
        )
        raise ValueError(msg)


def has_column(table: AnnData, column: str, argument: str = "group_key") -> None:
    """Refuse a column of obs that does not exist."""
    if column not in table.obs:
        found = list(table.obs.columns)
        hint = did_you_mean(column, found)
        msg = f"No column {column!r} in `obs` (found: {quote(found)}).{hint} Give another `{argument}`."
        raise ValueError(msg)


def library_sizes(values: NDArray[np.float64], library_key: str) -> None:
    """Refuse library sizes that are not numbers, or below zero."""
    wrong = ~np.isfinite(values) | (values < 0)
    if wrong.any():
        msg = (
            f"obs[{library_key!r}] holds {int(wrong.sum())} values that are no library size (missing, not a number or "
            "below zero). Name a column with the raw counts of each spot over all genes as `library_key`."
        )
        raise ValueError(msg)


def has_matrix(matrix: Any, name: str) -> None:
    """Refuse a matrix that is not there."""
    if matrix is None:
        msg = f"{name} of the table is None. Give the `layer` that holds raw counts, or set X to them."
        raise ValueError(msg)


def numeric_matrix(values: NDArray[Any], name: str) -> NDArray[Any]:
    """A matrix as numbers; refuse anything else."""
    if values.ndim != 2:
        msg = f"{name} of the table has shape {values.shape}; a matrix (n_spots, n_genes) is needed."
        raise ValueError(msg)
    if values.dtype == np.float16:  # scipy has no sparse matrices of it
        return values.astype(np.float32)
    if values.dtype.kind in "iufb":
        return values
    try:
        # of complex numbers numpy would drop a part
        return values.astype(np.float64, casting="same_kind" if values.dtype.kind == "c" else "unsafe")
    except (TypeError, ValueError):
        msg = f"{name} of the table holds {values.dtype}, not numbers. Give the `layer` that holds raw counts."
        raise ValueError(msg) from None
