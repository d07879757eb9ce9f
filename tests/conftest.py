"""Data that tests share: synthetic slides built once, small legacy ST files, real sections where they are at hand.

Imported on machines that have a GPU and little else: what not every test needs is imported where it is used.
"""

from __future__ import annotations

import os
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import stpredict

if TYPE_CHECKING:
    from spatialdata import SpatialData

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read by torch when it is first imported
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def synthetic_sdata() -> SpatialData:
    return stpredict.datasets.synthetic(n_slides=3, n_side=6)


@pytest.fixture
def sdata(synthetic_sdata: SpatialData) -> SpatialData:
    """A copy that a test may change, except for the pixels."""
    from spatialdata import SpatialData

    return SpatialData(
        images=dict(synthetic_sdata.images),
        shapes={name: shapes.copy() for name, shapes in synthetic_sdata.shapes.items()},
        tables={name: table.copy() for name, table in synthetic_sdata.tables.items()},
        attrs=deepcopy(synthetic_sdata.attrs),
    )


@pytest.fixture
def her2st_dir(monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder with real sections, set as ``STPREDICT_DATA_DIR``."""
    for place in (os.environ.get("STPREDICT_DATA_DIR"), Path(__file__).parents[2] / "shared" / "data"):
        if place and (Path(place) / "her2st/data/ST-imgs").is_dir():
            monkeypatch.setenv("STPREDICT_DATA_DIR", str(place))
            return Path(place)
    pytest.skip("needs real sections: set STPREDICT_DATA_DIR to a folder with her2st/data, or lay it at ../shared/data")


@pytest.fixture
def st_files(tmp_path: Path) -> dict[str, Path]:
    """A legacy ST section of 4 x 5 spots, 20 px apart, in three files."""
    from PIL import Image

    files = {"image": tmp_path / "X1.jpg", "counts": tmp_path / "X1.tsv", "spots": tmp_path / "X1_selection.tsv"}
    Image.fromarray(np.random.default_rng(0).integers(90, 250, (121, 141, 3), dtype=np.uint8)).save(files["image"])
    spots, counts = ["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected", ""], ["\tA\tB\tC\tD", ""]
    for x, y in [(x, y) for y in range(2, 6) for x in range(3, 8)]:
        spots.insert(-1, f"{x}\t{y}\t{x}\t{y}\t{20 * x - 40}\t{20 * y - 20}\t1")
        counts.insert(1, f"{x}x{y}\t{x}\t{y}\t0\t{x * y}")
    files["spots"].write_text("\n".join(spots))
    files["counts"].write_text("\n".join(counts))
    return files
