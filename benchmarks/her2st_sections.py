"""Shared parts of the her2st benchmarks: sections, units, scores, and a reader of sections without SpatialData.

The reader needs numpy, scipy, pandas and pillow. It reads the same spots as `stp.datasets.her2st`, at the same
resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from stpredict.metrics import best, pearson, rmse, top_variable
from stpredict.pp import TargetSpec

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

TRAIN, TEST = ("C2", "C3", "C4"), "C5"
SPACES = {"CP10k": TargetSpec(), "panel CPM": TargetSpec(target_sum=1e6, over="panel")}
PITCH_UM, DIAMETER_UM = 200.0, 100.0
N_LEVELS = 4


def scores(observed, predicted):
    """Scores of one row of a table."""
    by_gene = pearson(observed, predicted)
    return {
        "gene_pearson": float(np.nanmean(by_gene)),
        "gene_pearson_top50": float(np.nanmean(by_gene[top_variable(observed)])),
        "best50": best(by_gene),
        "spot_pearson": float(np.nanmean(pearson(observed, predicted, axis="spot"))),
        "rmse": float(np.mean(rmse(observed, predicted, axis="spot"))),
    }


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section in memory."""

    levels: list[np.ndarray]
    """``(3, y, x)`` uint8, each level half the size of the one before."""
    um_per_px: float
    xy_px: np.ndarray
    """``(n, 2)`` spot centres."""
    counts: csr_matrix
    """``(n, n_genes)``."""
    genes: list[str]


def read_section(data, name, image=None):
    """Read one section from the ``data`` folder of the her2st repository, and its image unless ``image`` is given."""
    spots = pd.read_csv(data / f"ST-spotfiles/{name}_selection.tsv", sep="\t")
    counts = pd.read_csv(data / f"ST-cnts/{name}.tsv.gz", sep="\t", index_col=0)
    ids = spots["x"].astype(str) + "x" + spots["y"].astype(str)
    kept = (spots["selected"] == 1) & ids.isin(counts.index)
    spots, counts = spots[kept], counts.loc[ids[kept]]
    pitch_px = np.mean([np.polyfit(spots[axis], spots[f"pixel_{axis}"], 1)[0] for axis in ("x", "y")])
    from scipy.sparse import csr_matrix

    return Section(
        levels=pyramid(read_image(data, name) if image is None else image),
        um_per_px=PITCH_UM / float(pitch_px),
        xy_px=spots[["pixel_x", "pixel_y"]].to_numpy(np.float64),
        counts=csr_matrix(counts.to_numpy(np.float32)),
        genes=list(counts.columns),
    )


def read_image(data, name):
    """The image of a section, ``(3, y, x)`` uint8."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # with 80 megapixels, Pillow suspects a decompression bomb
    path = next((data / "ST-imgs" / name[0] / name).glob("*.jpg"))
    with Image.open(path) as image:
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def pyramid(image, n_levels=N_LEVELS):
    """Image pyramid: each level has the means of 2 x 2 pixels of the one before; odd last rows, columns are dropped."""
    levels = [image]
    for _ in range(n_levels - 1):
        height, width = (size // 2 * 2 for size in levels[-1].shape[1:])
        even = levels[-1][:, :height, :width]
        total = sum(even[:, y::2, x::2].astype(np.uint16) for y in (0, 1) for x in (0, 1))
        levels.append((total // 4).astype(np.uint8))
    return levels
