"""The flags of `pp.quality` at the spots of a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import _keys as keys

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from spatialdata import SpatialData


def quality_flags(sdata: SpatialData, image_key: str, xy_px: NDArray[np.float64]) -> NDArray[np.object_] | None:
    """``(n,)`` flag of the window of each spot, None outside of them; None if quality of the image was not measured."""
    records = sdata.attrs.get(keys.ATTRS, {}).get(keys.QUALITY, {})
    made = [key for key, record in records.items() if record["image_key"] == image_key and key in sdata.shapes]
    if not made:
        return None
    record, frame = records[made[-1]], sdata.shapes[made[-1]]
    steps = (xy_px - record["origin_px"][::-1]) / record["window_px"][::-1]
    column, row = np.floor(steps).astype(np.int64).T
    inside = (column >= 0) & (column < record["n_columns"]) & (row >= 0)
    flags = frame["flag"].reindex(np.where(inside, row * record["n_columns"] + column, -1)).to_numpy(object)
    flags[[not isinstance(flag, str) for flag in flags]] = None
    return np.asarray(flags)
