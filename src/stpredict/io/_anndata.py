"""Make a SpatialData of an AnnData and an image. Nothing here changes what it is given."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from spatialdata import SpatialData
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity

from .. import _keys as keys
from .._checks import files as check_files
from .._checks import platforms as check
from .._geometry import neighbour_pitch
from .._resolution import Resolution, reconcile_resolution
from . import _bundle as bundle
from .images import pyramid

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData
    from numpy.typing import NDArray
    from xarray import DataTree

LINKS = (keys.REGION, keys.SPOT_ID)


def from_anndata(
    adata: AnnData,
    image: str | PathLike[str] | NDArray[np.uint8],
    *,
    name: str,
    diameter_um: float,
    um_per_px: float | None = None,
    pitch_um: float | None = None,
    xy: str | tuple[str, str] = keys.SPATIAL,
    patient: str | None = None,
) -> SpatialData:
    """Make a SpatialData of an AnnData whose spots have pixel coordinates, and the image they refer to.

    Parameters
    ----------
    adata
        Spots (or cells) by genes; raw counts in ``X`` or a layer, if it is to be trained on. It is copied.
    image
        Path of the image, of any format of `stp.io.read_wsi`, or its pixels: ``(3, y, x)`` or ``(y, x, 3)`` uint8.
    name
        Name of the sample; its elements and its coordinate system are named after it.
    diameter_um
        Diameter of a spot in µm: 55 for Visium, 100 for legacy arrays, about 10 for cells.
    um_per_px
        Resolution of the image in µm per pixel; by default what its file states.
    pitch_um
        Distance between neighbouring spots in µm: 100 for Visium, 200 for legacy arrays. The resolution follows from it
        where neither ``um_per_px`` nor the file says it, and is compared with what they say.
    xy
        Where the centres are, in pixels of the image: a key of ``obsm`` whose first two columns are x and y, or two
        columns of ``obs``, that of x first.
    patient
        What must stay on one side of a split; ``name`` by default.

    Returns
    -------
    Object with a multiscale image ``{name}_image``, circles ``{name}_spots`` (both in pixels, coordinate system
    ``name``) and the table ``"observed"``. ``attrs["stpredict"]["um_per_px"]`` holds the resolution.

    Raises
    ------
    ValueError
        If spots lie off the image (the message says whether x and y look swapped), nothing says how large a pixel is,
        or two sources differ by more than 5 %.

    Examples
    --------
    >>> import anndata as ad, numpy as np, stpredict as stp
    >>> adata = ad.AnnData(np.ones((3, 2), np.float32), obsm={"spatial": np.array([[9, 9], [9, 29], [29, 9]])})
    >>> sdata = stp.io.from_anndata(adata, np.full((3, 40, 50), 200, np.uint8), name="A", diameter_um=55, pitch_um=100)
    >>> sdata.attrs["stpredict"]["um_per_px"]
    {'A_image': 5.0}
    """
    lengths = {"diameter_um": diameter_um, "um_per_px": um_per_px, "pitch_um": pitch_um}
    for argument, value in lengths.items():
        if value is not None:
            check_files.positive(argument, value)
    check.free_columns([column for column in LINKS if column in adata.obs])
    centres = _centres(adata, xy)
    element, stated = _opened(image, name)
    _on_image(centres, bundle.size(element), ("x", "y") if isinstance(xy, str) else xy)
    told = stated if um_per_px is None else Resolution(um_per_px=um_per_px, origin="argument")
    known = _resolution(centres, told, pitch_um, name)
    shapes_key, image_key, instances = f"{name}_spots", f"{name}_image", np.arange(len(centres))
    radius = diameter_um / 2 / known.um_per_px
    return SpatialData(
        images={image_key: element},
        shapes={shapes_key: ShapesModel.parse(centres, geometry=0, radius=radius, transformations={name: Identity()})},
        tables={
            keys.OBSERVED: bundle.linked(
                adata, name=name, shapes_key=shapes_key, patient=patient, instances=instances, xy=centres
            )
        },
        attrs=bundle.notes({image_key: known}),
    )


def _centres(adata: AnnData, xy: str | tuple[str, str]) -> NDArray[np.float64]:
    obs: Any = adata.obs  # a frame, or one that is read as needed
    found = None
    if isinstance(xy, str):
        found = np.asarray(adata.obsm[xy])[:, :2] if xy in adata.obsm else None
    elif set(xy) <= set(obs.columns):
        found = obs[list(xy)].to_numpy()
    if found is None:
        check.coordinates(xy, list(adata.obsm), list(obs.columns))
    centres: NDArray[np.float64] = np.asarray(found, np.float64)
    check.finite(int((~np.isfinite(centres)).any(axis=1).sum()), len(centres))
    return centres


def _opened(image: str | PathLike[str] | NDArray[np.uint8], name: str) -> tuple[DataTree, Resolution | None]:
    if isinstance(image, np.ndarray):
        return pyramid(bundle.as_colour(image, name), name), None
    return bundle.opened(Path(image), name)


def _on_image(xy: NDArray[np.float64], size: tuple[int, int], names: tuple[str, str]) -> None:
    off, swapped = (int(((at < 0) | (at > size)).any(axis=1).sum()) for at in (xy, xy[:, ::-1]))
    check.on_image(off, swapped, len(xy), size, names)


def _resolution(xy: NDArray[np.float64], told: Resolution | None, pitch_um: float | None, name: str) -> Resolution:
    pitch_px = np.nan if pitch_um is None else neighbour_pitch(xy)
    by_pitch = [Resolution(um_per_px=float(pitch_um or np.nan) / pitch_px, origin="spot pitch")]
    if not np.isfinite(pitch_px):
        by_pitch = []
    if told is None and not by_pitch:
        check.no_resolution(name)
    return reconcile_resolution(told, by_pitch, name)
