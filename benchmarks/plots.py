"""Time to draw a map of 10,000 to 1,000,000 positions, as circles and as an image.

    python benchmarks/plots.py [--out benchmarks]

The positions form a square lattice without gaps, 8 µm apart, in a table of 10 genes. Measured are the seconds of
`stp.pl.expression` and of rendering the figure at 200 dpi: the median of three rounds after one warm-up round. The
image of the slide is not drawn, so reading it is not included. Any `spot_size` other than 1 draws circles.
"""

from __future__ import annotations

import argparse
import os
import time
from datetime import UTC, datetime
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib import pyplot as plt
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, TableModel
from spatialdata.transformations import Identity

import stpredict as stp

SIDES, N_GENES, ROUNDS = (101, 316, 1000), 10, 3
UM_PER_PX, PITCH_UM = 2.0, 8.0


def slide(side: int) -> SpatialData:
    """A white image with ``side`` x ``side`` positions and smooth values."""
    side_px = round(side * PITCH_UM / UM_PER_PX)
    pixels = np.full((3, side_px, side_px), 255, np.uint8)
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={"slide": Identity()})
    sdata = SpatialData(images={"image": image}, attrs={"stpredict": {"um_per_px": {"image": UM_PER_PX}}})
    stp.pp.spot_grid(sdata, diameter_um=PITCH_UM, pitch_um=PITCH_UM, tissue_key=None)
    ids = sdata["grid"].index
    row, column = np.divmod(ids.to_numpy(), side)
    waves = [np.sin((3 + k) * row / side) + np.cos((2 + k) * column / side) for k in range(N_GENES)]
    obs = pd.DataFrame(
        {"region": pd.Categorical(["grid"] * len(ids)), "spot_id": ids.to_numpy()}, index=ids.astype(str)
    )
    table = AnnData(np.column_stack(waves).astype(np.float32), obs=obs)
    sdata["predicted"] = TableModel.parse(table, region="grid", region_key="region", instance_key="spot_id")
    return sdata


def seconds(sdata: SpatialData, spot_size: float) -> tuple[float, float]:
    """Seconds of the call and of rendering."""
    start = time.perf_counter()
    axes = stp.pl.expression(sdata, "3", keys="predicted", spot_size=spot_size, image_alpha=0)
    called = time.perf_counter()
    axes[0].figure.savefig(BytesIO(), dpi=200)
    plt.close("all")
    return called - start, time.perf_counter() - called


def row(side: int) -> str:
    """One row of the table."""
    sdata = slide(side)
    found = {size: np.array([seconds(sdata, size) for _ in range(1 + ROUNDS)])[1:] for size in (0.999, 1.0)}
    (circles, ink), (image, paint) = (np.median(times, axis=0) for times in found.values())
    total = [times.sum(axis=1) for times in found.values()]
    whole = " | ".join(f"{np.median(part):.2f} ({part.min():.2f} to {part.max():.2f})" for part in total)
    return f"| {side**2:,} | {circles:.2f} + {ink:.2f} | {image:.2f} + {paint:.2f} | {whole} |"


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    mpl.use("Agg")
    note = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} at the start), "
        f"matplotlib {version('matplotlib')}, stpredict {version('stpredict-histology')}. Seconds of "
        f"`stp.pl.expression` + of rendering at 200 dpi, medians of {ROUNDS} rounds; then the sum (minimum to maximum)."
    )
    lines = [
        "# Drawing dense maps",
        "",
        note,
        "",
        "| positions | circles | image | circles, sum | image, sum |",
        "|---|---|---|---|---|",
        *[row(side) for side in SIDES],
    ]
    (out / "plots.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
