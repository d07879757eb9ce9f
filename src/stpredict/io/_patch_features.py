"""Files with the features of patches: HDF5 of TRIDENT and HEST, tables of LazySlide. Files in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import shapely

from .._checks.paths import no_address
from .._checks.slides import one_name, quote
from .._files import is_zarr_group
from .._slides import checks as check_elements
from . import _errors as check

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WHAT = "features of patches"
FEATURES, BARCODES = ("features", "embeddings"), ("barcodes", "barcode")
"""Names of the arrays: TRIDENT has the first features, HEST either, and barcodes beside them."""
COORDS = "coords"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PatchFeatures:
    """Features of patches, and where these lie or which spots they belong to."""

    features: NDArray[np.float32]
    """``(n, d)``."""
    corners_px: NDArray[np.float64]
    """``(n, 2)`` upper left corner in pixels of the full resolution, or the centre where ``side_px`` is 0."""
    side_px: float
    """Side in pixels of the full resolution; 0 if not known."""
    barcodes: list[str]
    """Names of spots; empty if there are none."""


def read_patch_features(path: Path, patch_table: str | None) -> PatchFeatures:
    """Read an HDF5 file, or a store of SpatialData in which a table annotates patches."""
    if path.is_dir():
        return _read_store(path, patch_table)
    check.require_file(path, WHAT)
    try:
        with h5py.File(path) as file:
            return _read_hdf5(file, path)
    except OSError as reason:
        check.refuse_unreadable(path, WHAT, reason)


def _read_hdf5(file: Any, path: Path) -> PatchFeatures:
    name = next((name for name in FEATURES if name in file), None)
    if name is None or COORDS not in file:
        msg = (
            f"'{path.name}' holds {quote(list(file))}; embeddings of patches are {quote(FEATURES)}, and where they lie "
            f"is {COORDS!r}. Give a file of features that TRIDENT or HEST wrote, or write these two arrays."
        )
        raise ValueError(msg)
    coords, features = file[COORDS], np.asarray(file[name])
    if features.ndim == 3 and len(features) == 1:  # a batch of one slide
        features = features[0]
    corners = np.asarray(coords, np.float64).reshape(-1, 2)
    barcodes = next((np.asarray(file[name]).ravel().tolist() for name in BARCODES if name in file), [])
    if features.ndim != 2 or len(features) != len(corners) or len(barcodes) not in (0, len(features)):
        msg = (
            f"'{path.name}' holds {name!r} of shape {features.shape}, {len(corners)} coordinates and {len(barcodes)} "
            "barcodes: there must be one row of each for every patch. Write the file again."
        )
        raise ValueError(msg)
    return PatchFeatures(
        features=features.astype(np.float32),
        corners_px=corners,
        side_px=_side_px(coords.attrs),
        barcodes=[each.decode() if isinstance(each, bytes) else str(each) for each in barcodes],
    )


def _side_px(attrs: Any) -> float:
    """Side of the patches at full resolution: as TRIDENT writes it, or of patches that were cut at it."""
    if "patch_size_level0" in attrs:
        return float(attrs["patch_size_level0"])
    return float(attrs["patch_size"]) if "patch_size" in attrs and attrs.get("patch_level", 1) == 0 else 0.0


def _read_store(path: Path, patch_table: str | None) -> PatchFeatures:
    """The table of a SpatialData store whose rows are patches; features are its X."""
    from spatialdata import read_zarr

    no_address(path)
    if not is_zarr_group(path):
        check.refuse_unreadable(path, WHAT, "it is a folder without zarr metadata")
    sdata = read_zarr(path, selection=("shapes", "tables"))
    name = one_name(f"table of features in '{path.name}'", patch_table, list(sdata.tables), "patch_table")
    table = sdata.tables[name]
    (region, *more) = check_elements.annotated_regions(table, name)
    if more or region not in sdata.shapes:
        msg = (
            f"Table {name!r} of '{path.name}' annotates {quote([region, *more])}; one element of shapes with the "
            f"patches is needed (found: {quote(list(sdata.shapes))}). Give another table as `patch_table`."
        )
        raise ValueError(msg)
    shapes, ids = sdata.shapes[region], table.obs[table.uns["spatialdata_attrs"]["instance_key"]].to_numpy()
    rows = check_elements.match_instances(ids, shapes.index, region, name)
    outlines = shapes.geometry.to_numpy()[rows]
    side_px = float(np.sqrt(np.median(shapely.area(outlines))))
    centers = shapely.get_coordinates(shapely.centroid(outlines))
    values = table.X.toarray() if hasattr(table.X, "toarray") else np.asarray(table.X)
    return PatchFeatures(
        features=values.astype(np.float32), corners_px=centers - side_px / 2, side_px=side_px, barcodes=[]
    )
