"""Make a SpatialData of an AnnData and its images. `from_anndata` does not change what it is given."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse
from spatialdata import SpatialData
from spatialdata.models import ShapesModel, TableModel
from spatialdata.transformations import Identity

from .. import _keys as keys
from .._checks import config as check_config
from .._checks.calls import public
from .._checks.memory import memory_limited
from .._checks.paths import user_path
from .._checks.slides import quote
from .._geometry import is_staggered, neighbour_pitch, on_slide
from .._resolution import (
    VISIUM,
    Resolution,
    SpotsOnImage,
    reconcile_resolution,
    resolution_from_pixel_size,
    resolutions_from_spots,
    square_lattice,
)
from .._slides.expression import array_coordinates
from . import _errors as check
from ._full_image import OVERVIEWS
from ._library import Picture, library_facts, library_pictures, spots_of_libraries
from ._platforms import image_size, open_image
from ._visium import DIAMETER_UM
from .images import pyramid, rgb_pixels

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from anndata import AnnData
    from geopandas import GeoDataFrame
    from numpy.typing import NDArray
    from xarray import DataTree

logger = logging.getLogger(__name__)


@public
@memory_limited
def from_anndata(
    adata: AnnData,
    image: str | PathLike[str] | NDArray[np.uint8] | None = None,
    *,
    name: str | None = None,
    diameter_um: float | None = None,
    um_per_px: float | None = None,
    pitch_um: float | None = None,
    xy: str | tuple[str, str] = keys.SPATIAL,
    patient: str | None = None,
    max_memory_gb: float | None = None,  # noqa: ARG001  (read by the decorator)
) -> SpatialData:
    """Make a SpatialData of an AnnData whose spots have pixel coordinates, and of the image they refer to.

    Parameters
    ----------
    adata
        Spots (or cells) by genes, with raw counts in ``X`` or a layer if you train on it. It is copied; a table that is
        backed by a file or lazy is loaded, dask arrays in it stay as they are.
    image
        Path of the image, of any format of `stp.io.read_wsi`, or its pixels: ``(3, y, x)`` or ``(y, x, 3)`` uint8. By
        default the images in ``uns["spatial"]``, as scanpy and squidpy write them, one for each sample: the
        full-resolution image if ``metadata["source_image_path"]`` names one that is there, else the overview
        ``"hires"``, else ``"lowres"``. ``"hires"`` and ``"lowres"`` ask for an overview.
    name
        Name of the sample; its elements and its coordinate system are named after it. By default that in
        ``uns["spatial"]``, or ``"slide"``.
    diameter_um
        Diameter of a spot in µm: 55 for Visium, 100 for legacy arrays, about 10 for cells. By default 55 for Visium,
        else ``spot_diameter_fullres`` of the scale factors.
    um_per_px
        µm per pixel of the image that the positions refer to; by default what its file or the scale factors
        (``microns_per_pixel``) state. A given one is used even if another source differs.
    pitch_um
        Distance between neighbouring spots in µm: 100 for Visium (the default for it), 200 for legacy arrays. The
        resolution is computed from it if nothing states it, or if what the file states differs by more than 5 %.
    xy
        Centres of the spots in pixels of the image, of overviews in pixels of the full-resolution image: a key of
        ``obsm`` whose first two columns are x and y, or two columns of ``obs``, first that of x.
    patient
        What must stay on one side of a split; by default the column ``"patient"`` of ``obs``, else the name.
    max_memory_gb
        Largest memory that a part of the files may need at once, in GB, by what they say of their size. By default half
        of the memory of this machine, container or process.

    Returns
    -------
    Object with a multiscale image ``{name}_image``, circles ``{name}_spots`` (in pixels that the positions refer to,
    coordinate system ``name``) and the table ``"observed"``, with one image and one element of circles for each sample.
    ``attrs["stpredict"]["um_per_px"]`` holds the resolution of each image.

    Raises
    ------
    ValueError
        If there is no image, spots lie off it (the message says whether x and y look swapped), the resolution is not
        known, or pitch and file differ by more than a factor of 1.5.

    Notes
    -----
    An AnnData is taken as Visium if ``array_row`` and ``array_col`` in ``obs`` are those of a staggered array, or if
    pitch and ``spot_diameter_fullres`` have the ratio that Space Ranger writes. An overview is used with a warning that
    gives its resolution, since a spot is a few pixels wide in it. With several samples in ``uns["spatial"]``, the
    column of ``obs`` that holds their names says which spot is on which image.

    Examples
    --------
    >>> import anndata as ad, numpy as np, stpredict as stp
    >>> adata = ad.AnnData(np.ones((3, 2), np.float32), obsm={"spatial": np.array([[9, 9], [9, 29], [29, 9]])})
    >>> sdata = stp.io.from_anndata(adata, np.full((3, 40, 50), 200, np.uint8), name="A", diameter_um=55, pitch_um=100)
    >>> sdata.attrs["stpredict"]["um_per_px"]
    {'A_image': 5.0}
    """
    for argument, value in {"diameter_um": diameter_um, "um_per_px": um_per_px, "pitch_um": pitch_um}.items():
        if value is not None:
            check_config.length(argument, value)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # they are made so below
        table = in_memory(adata).copy()
    return link_to_images(
        table, image, name=name, diameter_um=diameter_um, um_per_px=um_per_px, pitch_um=pitch_um, xy=xy, patient=patient
    )


def in_memory(adata: AnnData) -> AnnData:
    """The table itself, or what `read_h5ad(backed=…)` and `experimental.read_lazy` would read of it."""
    return adata.to_memory() if adata.isbacked or not isinstance(adata.obs, pd.DataFrame) else adata


def link_to_images(
    table: AnnData,
    image: str | PathLike[str] | NDArray[np.uint8] | None = None,
    *,
    name: str | None = None,
    diameter_um: float | None = None,
    um_per_px: float | None = None,
    pitch_um: float | None = None,
    xy: str | tuple[str, str] = keys.SPATIAL,
    patient: str | None = None,
) -> SpatialData:
    """As `from_anndata`, but the table itself is linked and becomes part of the object."""
    centres, array = _centres(table, xy), array_coordinates(table)
    images: dict[str, tuple[DataTree, Resolution]] = {}
    circles: dict[str, GeoDataFrame] = {}
    platforms: dict[str, str] = {}
    rows: dict[str, NDArray[np.bool_]] = {}
    for picture in _pictures(table, image, name, um_per_px):
        shapes_key = f"{picture.name}_spots"
        rows[shapes_key] = np.ones(table.n_obs, bool) if picture.rows is None else picture.rows
        own = centres[rows[shapes_key]]
        _require_on_image(own, picture.size, ("x", "y") if isinstance(xy, str) else xy)
        spots = SpotsOnImage(
            shapes_key=shapes_key,
            xy_px=own,
            diameter_px=picture.diameter_px or np.nan,
            array_xy=None if array is None else array[rows[shapes_key]],
        )
        is_visium = pitch_um is None and _is_visium(spots)
        if is_visium:
            platforms[shapes_key] = "visium"
            square_lattice(VISIUM, spots, picture.name, um_per_px)
        known = _resolution(spots, picture.stated, pitch_um, picture.name, is_visium=is_visium)
        diameter = diameter_um or _diameter_um(picture, known, is_visium=is_visium)
        of_image = Resolution(um_per_px=known.um_per_px / picture.scale, origin=known.origin)
        images[f"{picture.name}_image"] = (picture.element, of_image)
        circles[shapes_key] = circles_at(own, diameter / 2 / known.um_per_px, picture.name)
        _report(picture, len(own), of_image.um_per_px, diameter, asked=image is not None)
    link(table, rows, centres, patient)
    recorded: dict[str, Any] = {
        keys.UM_PER_PX: {key: known.um_per_px for key, (_, known) in images.items()},
        keys.UM_PER_PX_FROM: {key: known.origin for key, (_, known) in images.items()},
    }
    return SpatialData(
        images={key: element for key, (element, _) in images.items()},
        shapes=circles,
        tables={keys.OBSERVED: table},
        attrs={keys.ATTRS: recorded | ({keys.PLATFORM: platforms} if platforms else {})},
    )


def link_without_images(table: AnnData) -> SpatialData:
    """Link a table to circles of a pixel, for what reads tables only; the names are those of `link_to_images`."""
    centres = _centres(table, keys.SPATIAL)
    rows = spots_of_libraries(table) or {"slide": np.ones(table.n_obs, bool)}
    link(table, {f"{name}_spots": own for name, own in rows.items()}, centres, None)
    circles = {f"{name}_spots": circles_at(centres[own], 0.5, name) for name, own in rows.items()}
    return SpatialData(shapes=circles, tables={keys.OBSERVED: table})


def circles_at(xy: NDArray[np.float64], radius: float, name: str) -> GeoDataFrame:
    """Circles in the coordinate system of a sample."""
    circles: GeoDataFrame = ShapesModel.parse(xy, geometry=0, radius=radius, transformations={name: Identity()})
    return circles


def link(
    table: AnnData, rows: Mapping[str, NDArray[np.bool_]], centres: NDArray[np.float64], patient: str | None
) -> None:
    """Link a table to the shapes elements of its rows, in columns that it has not."""
    region_key, instance_key = (
        name if name not in table.obs else f"{keys.ATTRS}_{name}" for name in (keys.REGION, keys.SPOT_ID)
    )
    region, instance = np.empty(table.n_obs, object), np.zeros(table.n_obs, np.int64)
    for shapes_key, own in rows.items():
        region[own], instance[own] = shapes_key, np.arange(own.sum())
    sections = [name.removesuffix("_spots") for name in region]
    for column, value in {keys.SECTION: None, keys.PATIENT: patient}.items():
        if value is not None or column not in table.obs:
            table.obs[column] = pd.Categorical(sections if value is None else [value] * table.n_obs)
    table.obs[region_key], table.obs[instance_key] = pd.Categorical(region), instance
    table.obsm[keys.SPATIAL] = centres
    table.uns.pop("spatialdata_attrs", None)
    table.var_names_make_unique()
    if sparse.issparse(table.X):
        table.X = sparse.csr_matrix(table.X)
    TableModel.parse(table, region=list(rows), region_key=region_key, instance_key=instance_key)


def _pictures(
    table: AnnData, image: str | PathLike[str] | NDArray[np.uint8] | None, name: str | None, um_per_px: float | None
) -> list[Picture]:
    """The image that is given, or those that the table holds; a given resolution wins over what they state."""
    given = None if um_per_px is None else Resolution(um_per_px=um_per_px, origin="argument")
    if image is None or (isinstance(image, str) and image in OVERVIEWS):
        found = library_pictures(table, image, name)
    elif isinstance(image, np.ndarray):
        facts = library_facts(table, name)
        pixels = rgb_pixels(image, facts.name)
        found = [Picture(name=facts.name, element=pyramid(pixels, facts.name), **facts.measures)]
    else:
        facts, path = library_facts(table, name), user_path(image, "image")
        element, pixel_um = open_image(path, facts.name)
        measures = facts.measures
        if given is None and pixel_um is not None:
            measures["stated"] = resolution_from_pixel_size(*pixel_um, "image metadata", path.name)
        found = [Picture(name=facts.name, element=element, **measures)]
    return [replace(each, stated=given or each.stated) for each in found]


def _is_visium(spots: SpotsOnImage) -> bool:
    """Whether the array is staggered, or pitch and diameter have a ratio of Visium."""
    if spots.array_xy is not None:
        return is_staggered(spots.array_xy)
    return np.isfinite(spots.diameter_px) and len(resolutions_from_spots(VISIUM, spots)) == 1


def _diameter_um(picture: Picture, known: Resolution, *, is_visium: bool) -> float:
    """Diameter of a spot by the platform or the scale factors."""
    if is_visium:
        return DIAMETER_UM
    if picture.diameter_px is None:
        msg = (
            f"The diameter of the spots of {picture.name!r} is not known: they are not those of Visium, and no "
            f"{keys.SPOT_DIAMETER!r} is given. Give `diameter_um` to `stp.io.from_anndata`: 55 for Visium, 100 for "
            "legacy arrays, about 10 for cells."
        )
        raise ValueError(msg)
    return picture.diameter_px * known.um_per_px


def _report(picture: Picture, n_spots: int, um_per_px: float, diameter_um: float, *, asked: bool) -> None:
    """Say at which resolution a slide is used; warn where it is that of an overview nobody asked for."""
    logger.info(
        "Slide %r: %d spots on an image of %d x %d px, %.3g µm per pixel.",
        picture.name, n_spots, *image_size(picture.element), um_per_px,
    )  # fmt: skip
    if picture.overview is not None and not asked:
        check.warn_overview(picture.name, picture.overview, um_per_px, diameter_um)


def _centres(adata: AnnData, xy: str | tuple[str, str]) -> NDArray[np.float64]:  # (n, 2)
    obs: Any = adata.obs  # a frame, or one that is read as needed
    if isinstance(xy, str) and xy in adata.obsm:
        found = np.asarray(adata.obsm[xy])[:, :2]
    elif not isinstance(xy, str) and set(xy) <= set(obs.columns):
        found = obs[list(xy)].to_numpy()
    else:
        msg = (
            f"`xy` is {xy!r}; it must be a key of `obsm` (found: {quote(list(adata.obsm))}) or two columns of `obs` "
            f"(found: {quote(list(obs.columns))})."
        )
        raise ValueError(msg)
    centres: NDArray[np.float64] = np.asarray(found, np.float64)
    n_missing = int((~on_slide(centres)).sum())
    if n_missing or not len(centres):
        msg = (
            f"{n_missing} of {len(centres)} spots have no finite coordinates, or some larger than any slide. Give at "
            "least one spot, and leave these out."
        )
        raise ValueError(msg)
    return centres


def _require_on_image(xy: NDArray[np.float64], size: tuple[float, float], columns: tuple[str, str]) -> None:
    """Refuse spots off the image, and say so if they lie on it once x and y are swapped."""
    n_off, n_off_swapped = (int(((at < 0) | (at > size)).any(axis=1).sum()) for at in (xy, xy[:, ::-1]))
    if n_off == 0:
        return
    x, y = columns
    what = f"{n_off} of {len(xy)} spots lie off the image of {size[0]:.0f} x {size[1]:.0f} px (width x height)"
    if n_off_swapped == 0:
        msg = (
            f"{what}, but all lie on it with x and y swapped: {x} seems to be the row and {y} the column. Give "
            f"`xy=({y!r}, {x!r})`, or swap the columns of `obsm`."
        )
    else:
        msg = (
            f"{what} ({n_off_swapped} with x and y swapped). Spots must be in pixels of this image: give the image "
            "they refer to, scale them, or leave these spots out."
        )
    raise ValueError(msg)


def _resolution(
    spots: SpotsOnImage, stated: Resolution | None, pitch_um: float | None, name: str, *, is_visium: bool
) -> Resolution:
    """The stated resolution, compared with that of the pitch; or the latter."""
    by_pitch = []
    if is_visium:
        by_pitch = resolutions_from_spots(VISIUM, spots)[: 2 if np.isfinite(spots.diameter_px) else 1]
    elif pitch_um is not None and np.isfinite(pitch_px := neighbour_pitch(spots.xy_px)):
        by_pitch = [Resolution(um_per_px=pitch_um / pitch_px, origin="spot pitch")]
    if stated is None and not by_pitch:
        msg = (
            f"The resolution of {name!r} is not known. Give `um_per_px` to `stp.io.from_anndata`, or `pitch_um`: the "
            "distance of neighbouring spots (100 for Visium, 200 for legacy arrays)."
        )
        raise ValueError(msg)
    return reconcile_resolution(stated, by_pitch, name)
