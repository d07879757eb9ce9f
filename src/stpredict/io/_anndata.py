"""Make a SpatialData of an AnnData and an image. Nothing here changes what it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity

from .. import _keys as keys
from .._checks import config as check_config
from .._checks.calls import public
from .._checks.memory import memory_limited
from .._checks.paths import user_path
from .._checks.slides import quote
from .._geometry import neighbour_pitch
from .._resolution import Resolution, reconcile_resolution, resolution_from_pixel_size
from ._platforms import image_size, open_image, sample
from .images import pyramid

if TYPE_CHECKING:
    from os import PathLike

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData


@public
@memory_limited
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
    max_memory_gb: float | None = None,  # noqa: ARG001  (read by the decorator)
) -> SpatialData:
    """Make a SpatialData of an AnnData whose spots have pixel coordinates, and the image they refer to.

    Parameters
    ----------
    adata
        Spots (or cells) by genes, with raw counts in ``X`` or a layer if you train on it. It is copied; a table that is
        backed by a file or lazy is loaded, dask arrays in it stay as they are.
    image
        Path of the image, of any format of `stp.io.read_wsi`, or its pixels: ``(3, y, x)`` or ``(y, x, 3)`` uint8.
    name
        Name of the sample; its elements and its coordinate system are named after it.
    diameter_um
        Diameter of a spot in µm: 55 for Visium, 100 for legacy arrays, about 10 for cells.
    um_per_px
        Resolution of the image in µm per pixel; by default what its file states. A given one is used even if another
        source differs.
    pitch_um
        Distance between neighbouring spots in µm: 100 for Visium, 200 for legacy arrays. The resolution is computed
        from it if neither ``um_per_px`` nor the file gives one, or if that of the file differs by more than 5 %.
    xy
        Centres of the spots in pixels of the image: a key of ``obsm`` whose first two columns are x and y, or two
        columns of ``obs``, first that of x.
    patient
        What must stay on one side of a split; ``name`` by default.
    max_memory_gb
        Largest memory that a part of the files may need at once, in GB, by what they say of their size. By default half
        of the memory of this machine, container or process.

    Returns
    -------
    Object with a multiscale image ``{name}_image``, circles ``{name}_spots`` (both in pixels, coordinate system
    ``name``) and the table ``"observed"``. ``attrs["stpredict"]["um_per_px"]`` holds the resolution.

    Raises
    ------
    ValueError
        If spots lie off the image (the message says whether x and y look swapped), the resolution is not known, or
        pitch and file differ by more than a factor of 1.5.

    Examples
    --------
    >>> import anndata as ad, numpy as np, stpredict as stp
    >>> adata = ad.AnnData(np.ones((3, 2), np.float32), obsm={"spatial": np.array([[9, 9], [9, 29], [29, 9]])})
    >>> sdata = stp.io.from_anndata(adata, np.full((3, 40, 50), 200, np.uint8), name="A", diameter_um=55, pitch_um=100)
    >>> sdata.attrs["stpredict"]["um_per_px"]
    {'A_image': 5.0}
    """
    for argument, value in {"diameter_um": diameter_um, "um_per_px": um_per_px, "pitch_um": pitch_um}.items():
        check_config.length(argument, value)
    taken = [column for column in (keys.REGION, keys.SPOT_ID) if column in adata.obs]
    if taken:
        msg = (
            f"`adata.obs` has columns {quote(taken)}, which link the table to its spots. Rename yours: "
            "`adata.obs.rename(columns={…: …})`."
        )
        raise ValueError(msg)
    if adata.isbacked or not isinstance(adata.obs, pd.DataFrame):  # `read_h5ad(backed=…)`, `experimental.read_lazy`
        adata = adata.to_memory()
    centres = _centres(adata, xy)
    stated = None
    if isinstance(image, np.ndarray):
        element = pyramid(_channels_first(image, name), name)
    else:
        path = user_path(image, "image")
        element, pixel_um = open_image(path, name)
        if um_per_px is None and pixel_um is not None:
            stated = resolution_from_pixel_size(*pixel_um, "image metadata", path.name)
    _require_on_image(centres, image_size(element), ("x", "y") if isinstance(xy, str) else xy)
    if um_per_px is not None:
        stated = Resolution(um_per_px=um_per_px, origin="argument")
    known = _resolution(centres, stated, pitch_um, name)
    radius, shapes_key = diameter_um / 2 / known.um_per_px, f"{name}_spots"
    circles = ShapesModel.parse(centres, geometry=0, radius=radius, transformations={name: Identity()})
    images = {f"{name}_image": (element, known)}
    return sample(adata, images, circles, name=name, shapes_key=shapes_key, patient=patient, xy=centres)


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
    n_missing = int((~np.isfinite(centres)).any(axis=1).sum())
    if n_missing or not len(centres):
        msg = (
            f"{n_missing} of {len(centres)} spots have no finite coordinates. Give at least one spot, and leave these "
            "out."
        )
        raise ValueError(msg)
    return centres


def _channels_first(pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:  # (3, y, x)
    """Pixels with the channels first, from ``(3, y, x)`` or ``(y, x, 3)``; a fourth channel is left out."""
    if pixels.dtype != np.uint8:
        msg = (
            f"Image '{name}' is of type {pixels.dtype}; H&E in 8-bit colour (uint8) is needed. Export it as 8-bit RGB, "
            "for instance divide 16-bit values by 257, and give that file as `image`."
        )
        raise ValueError(msg)
    if pixels.ndim != 3 or not {3, 4} & {pixels.shape[0], pixels.shape[-1]}:
        msg = (
            f"Image '{name}' has shape {pixels.shape}; H&E in colour is needed: height x width x 3. Export it as "
            "8-bit RGB and give that as `image`."
        )
        raise ValueError(msg)
    channels_last = pixels.shape[-1] in {3, 4}
    return np.ascontiguousarray((pixels.transpose(2, 0, 1) if channels_last else pixels)[:3])


def _require_on_image(xy: NDArray[np.float64], size: tuple[int, int], columns: tuple[str, str]) -> None:
    """Refuse spots off the image, and say so if they lie on it once x and y are swapped."""
    n_off, n_off_swapped = (int(((at < 0) | (at > size)).any(axis=1).sum()) for at in (xy, xy[:, ::-1]))
    if n_off == 0:
        return
    x, y = columns
    what = f"{n_off} of {len(xy)} spots lie off the image of {size[0]} x {size[1]} px (width x height)"
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


def _resolution(xy: NDArray[np.float64], stated: Resolution | None, pitch_um: float | None, name: str) -> Resolution:
    """The stated resolution, compared with that of the pitch; or the latter."""
    pitch_px = np.nan if pitch_um is None else neighbour_pitch(xy)
    by_pitch = []
    if pitch_um is not None and np.isfinite(pitch_px):
        by_pitch = [Resolution(um_per_px=pitch_um / pitch_px, origin="spot pitch")]
    if stated is None and not by_pitch:
        msg = (
            f"The resolution of {name!r} is not known. Give `um_per_px` to `stp.io.from_anndata`, or `pitch_um`: the "
            "distance of neighbouring spots (100 for Visium, 200 for legacy arrays)."
        )
        raise ValueError(msg)
    return reconcile_resolution(stated, by_pitch, name)
