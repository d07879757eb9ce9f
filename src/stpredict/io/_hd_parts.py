"""What is read of a Visium HD sample beside its image: bins of one size, or the cells that Space Ranger segments."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import shapely

from .._checks.slides import quote
from .._checks.training import warn
from .._slides.regions import polygon_parts
from . import _errors as check
from . import _platforms as platforms
from ._full_image import OVERVIEWS
from ._geojson import outlines, read_features
from ._tenx import read_matrix
from ._visium import SCALE_FACTORS_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

    from .._resolution import Resolution

CELL_MATRIX_FILES: Final = ("filtered_feature_cell_matrix.h5", "raw_feature_cell_matrix.h5")
OUTLINES_FILE: Final = "cell_segmentations.geojson"
CELL_NAME: Final = re.compile(r"(?:cellid_)?0*(\d+)(?:-\d+)?")
"""A cell in the matrix (``cellid_000000001-1``), and its number, as the outlines have it."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """Bins of one size, or cells, with their counts."""

    name: str
    """What follows the name of the sample in that of the shapes."""
    table: AnnData
    xy: NDArray[np.float64]
    """``(n, 2)`` centres in pixels."""
    instances: NDArray[np.int64]
    """``(n,)`` index in the shapes."""
    spatial: Path
    """Folder of its scale factors."""
    factors: Mapping[str, float]
    by_spots: tuple[Resolution, ...] = ()
    """The resolution by the positions of bins."""
    side_um: int | None = None
    """Side of a bin; None for cells."""
    polygons: NDArray[Any] | None = None
    """``(n,)`` outlines of cells in pixels."""

    def select(self, rows: NDArray[np.bool_]) -> Part:
        """Some of the bins or cells; bins are numbered again."""
        instances = np.arange(int(rows.sum())) if self.polygons is None else self.instances[rows]
        polygons = None if self.polygons is None else self.polygons[rows]
        return replace(self, table=self.table[rows], xy=self.xy[rows], instances=instances, polygons=polygons)

    def outlines(self, um_per_px: float) -> NDArray[Any]:
        """``(n,)`` polygons in pixels."""
        if self.polygons is not None:
            return self.polygons
        half = (self.side_um or 0) / um_per_px / 2
        squares: NDArray[Any] = shapely.box(*(self.xy - half).T, *(self.xy + half).T)
        return squares


def read_factors(spatial: Path) -> dict[str, float]:
    """The scale factors of bins or cells."""
    path = platforms.find_file(spatial, [SCALE_FACTORS_FILE], "file of scale factors")
    optional = [f"tissue_{kind}_scalef" for kind in OVERVIEWS]
    return platforms.read_numbers(path, "file of scale factors", ["microns_per_pixel"], optional)


def read_cells(folder: Path, *, all_features: bool) -> Part:
    """Segmented cells with counts, in the order of the matrix."""
    place = folder / "segmented_outputs"
    check.exactly_one([place] if place.is_dir() else [], [place.name], folder, "folder of segmented cells")
    matrix = platforms.find_file(place, CELL_MATRIX_FILES, "matrix of counts")
    path = platforms.find_file(place, [OUTLINES_FILE], "file of cell outlines")
    factors = read_factors(place / "spatial")
    table = read_matrix(matrix, all_features=all_features)
    features = read_features(path, "file of cell outlines")
    numbers = [_cell_number((each.get("properties") or {}).get("cell_id")) for each in features]
    rows = {number: row for row, number in enumerate(numbers) if number is not None}
    wanted = [_cell_number(name) for name in table.obs_names]
    missing = table.obs_names[[number not in rows for number in wanted]]
    if len(missing) or len(rows) < len(features):
        msg = (
            f"{len(missing)} of {table.n_obs} cells with counts have no outline in '{path}' (for instance "
            f"{quote(missing[:3].tolist())}; it holds {len(features)} outlines of {len(rows)} cells, such as "
            f"{quote(list(rows)[:3])} by 'cell_id'). Give the matrix and the outlines of one run."
        )
        raise ValueError(msg)
    some = [features[rows[number]] for number in wanted if number is not None]
    polygons = outlines(some, path, "file of cell outlines")
    polygons[shapely.is_missing(polygons)] = shapely.Polygon()
    crossed = np.flatnonzero(~shapely.is_valid(polygons))
    for i in crossed:  # few
        polygons[i] = shapely.union_all(polygon_parts(shapely.make_valid(polygons[[i]])))
    has_area = shapely.area(polygons) > 0
    if not has_area.all():
        warn(f"{int((~has_area).sum())} of {len(polygons)} cells of '{path.name}' have no area and are left out.")
    centres = shapely.get_coordinates(shapely.centroid(polygons[has_area]))
    return Part(
        name="cells",
        table=table[has_area],
        xy=centres,
        instances=np.array(wanted, np.int64)[has_area],
        spatial=place / "spatial",
        factors=factors,
        polygons=polygons[has_area],
    )


def _cell_number(name: object) -> int | None:
    """The number of a cell, from a number or a name; None for anything else."""
    match = CELL_NAME.fullmatch(str(name))
    return None if match is None else int(match[1])
