"""How fast patches are read, against what people use today, and in how much memory.

    python benchmarks/patches.py [--full] [--out benchmarks]

Every reader cuts the same windows, 224 px at three scales (224, 448 and 896 px of the image, from three levels, as the
M2OST authors cut them), from (a) a her2st section written as SpatialData, where the sections are at hand, (b) a
generated slide of Visium's size with 4,992 hexagonal spots, (c) a dense grid of 50,000 windows on it. Readers take
turns in one process, on a warm page cache and each from an empty cache of its own; ratios are of the same round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import dask.array as da
import numpy as np
import zarr
from scipy.ndimage import gaussian_filter, zoom
from spatialdata import read_zarr

import stpredict as stp
from stpredict import _chunks
from stpredict._geometry import PatchSpec
from stpredict._pixels import PatchReader
from stpredict._slides.slides import Level, Selection, pyramid, resolve
from stpredict.io.images import halve

SIDE_PX, CHUNK_PX, SIZE_PX, UM_PER_PX = 20_000, 512, 224, 0.5
WINDOWS_PX = (224, 448, 896)
PIECE = 64
NOTE = """Milliseconds a spot (three patches of 224 px; `ImageTilesDataset`: one), median of the rounds, and how many
times longer than `stpredict` it takes for as many patches, median (least to most) of the rounds. Below 1 is faster.
Readers of slices take as long for any spot, and were timed on some."""
SLOW = 60
"""Spots that slow readers are timed on."""


def texture(side: int) -> np.ndarray:
    """Tissue-like pixels ``(3, side, side)``: a coarse stain field, nuclei and grain."""
    rng = np.random.default_rng(0)
    nuclei = gaussian_filter((rng.random((4096, 4096)) < 0.002).astype(np.float32), 4)
    grain = gaussian_filter(rng.normal(size=(4096, 4096)).astype(np.float32), 1.5)
    light = np.clip(1 - 0.5 * nuclei / nuclei.max() + 0.03 * grain / grain.std(), 0, 1)
    base = np.stack([light * 245, light**1.3 * 235, light**0.8 * 240]).astype(np.uint16)
    field = (256 - 90 * zoom(rng.random((80, 80)), side / 80, order=1)).astype(np.uint16)
    pixels = np.empty((3, side, side), np.uint8)
    for y in range(0, side, 4096):
        for x in range(0, side, 4096):
            part = np.s_[y : y + 4096, x : x + 4096]
            h, w = field[part].shape
            pixels[:, *part] = np.roll(base, (y // 7, x // 5), axis=(1, 2))[:, :h, :w] * field[part] >> 8
    return pixels


def slide(folder: Path) -> None:
    """Three levels, zstd in chunks of 512 px, as SpatialData writes them."""
    pixels = texture(SIDE_PX)
    for k in range(3):
        array = zarr.create_array(
            folder / f"s{k}", shape=pixels.shape, dtype="uint8", chunks=(3, CHUNK_PX, CHUNK_PX), dimension_names="cyx"
        )
        array[:] = pixels
        pixels = halve(pixels)


def levels_at(folder: Path) -> list[Level]:
    """The slide as SpatialData would hand it over: dask arrays on zarr."""
    arrays = [zarr.open_array(folder / f"s{k}", mode="r") for k in range(3)]
    return [Level(pixels=da.from_zarr(array), factor=(2.0**k, 2.0**k)) for k, array in enumerate(arrays)]


def hexagonal() -> np.ndarray:
    """4,992 Visium spots, 100 µm apart, in whole pixels."""
    return np.array(
        [[3400 + 200 * i + 100 * (j % 2), 3200 + round(173.2 * j)] for j in range(78) for i in range(64)], float
    )


def dense() -> np.ndarray:
    """50,000 windows, 72 px apart."""
    x, y = np.meshgrid(np.arange(250), np.arange(200))
    return np.stack([1000 + 72 * x.ravel(), 1000 + 72 * y.ravel()], axis=1).astype(float)


def patch(um_per_px: float = UM_PER_PX) -> PatchSpec:
    """The windows of the M2OST authors."""
    return PatchSpec.from_pixels(WINDOWS_PX, um_per_px, size_px=SIZE_PX)


def ours(levels, xy, um_per_px, spec=None, budget=1 << 30, *, zarrs=True) -> None:
    """Everything, in pieces and in the reader's order, from a new reader."""
    found = _chunks.find_spec
    _chunks.find_spec = find_spec if zarrs else lambda _: None
    reader = PatchReader(levels, um_per_px, spec or patch(um_per_px), budget_bytes=budget)
    order = reader.order(xy)
    for start in range(0, len(xy), PIECE):
        reader.read(xy[order[start : start + PIECE]])
    _chunks.find_spec = found


def corners(xy: np.ndarray, level: Level) -> np.ndarray:
    """Upper left pixels (x, y) of the windows on a level."""
    return np.rint(xy / level.factor[0] - SIZE_PX / 2).astype(int).clip(0)


def slices(levels, arrays, xy) -> None:
    """One slice a scale and spot, brought into memory."""
    for level, array in zip(levels, arrays, strict=True):
        for x, y in corners(xy, level):
            np.ascontiguousarray(array[:, y : y + SIZE_PX, x : x + SIZE_PX])


def stored(levels) -> list[zarr.Array]:
    """The zarr arrays behind the levels."""
    return [_chunks._without_dask(getattr(level.pixels, "data", level.pixels)) for level in levels]


def boxes(levels, xy) -> list[list[tuple[slice, slice]]]:
    """Needed chunks of each level, gathered along rows of chunks."""
    found = []
    for level in levels:
        side, rows = stored([level])[0].chunks[1], {}
        for x, y in corners(xy, level):
            for by in range(y // side, (y + SIZE_PX - 1) // side + 1):
                rows.setdefault(by, []).extend([x // side, (x + SIZE_PX - 1) // side])
        height, width = level.pixels.shape[1:]
        spans = {b: (min(c) * side, min((max(c) + 1) * side, width)) for b, c in rows.items()}
        found.append([(slice(b * side, min((b + 1) * side, height)), slice(*span)) for b, span in spans.items()])
    return found


def decode(arrays, needed) -> None:
    """Every needed chunk once, a row of chunks at a time."""
    for array, parts in zip(arrays, needed, strict=True):
        for y, x in parts:
            array[:, y, x]


def with_codecs(arrays, codecs: str) -> list[zarr.Array]:
    """The same arrays, opened with other codecs."""
    with zarr.config.set({"codec_pipeline.path": codecs}):
        return [zarr.open_array(array.store, path=array.path, mode="r") for array in arrays]


def tensorstores(arrays) -> list:
    """The same arrays through tensorstore."""
    import tensorstore

    specs = [
        {
            "driver": f"zarr{'3' if a.metadata.zarr_format == 3 else ''}",
            "kvstore": {"driver": "file", "path": str(Path(a.store.root) / a.path)},
        }
        for a in arrays
    ]
    opened = [tensorstore.open(spec).result() for spec in specs]

    class Read:
        """Slices that are read when asked for."""

        def __init__(self, array):
            self.array = array

        def __getitem__(self, at):
            return self.array[at].read().result()

    return [Read(array) for array in opened]


def readers(levels, xy, um_per_px, sdata=None):
    """Name to (what to time, on how many spots), for one set of spots."""
    arrays, needed = stored(levels), boxes(levels, xy)
    few = xy[np.linspace(0, len(xy) - 1, SLOW).astype(int)]
    spots = PatchSpec(fov_um=tuple(round(55 * share, 1) for share in (1.5, 3, 6)), size_px=SIZE_PX)
    n = len(xy)
    found = {
        "stpredict": (lambda: ours(levels, xy, um_per_px), n),
        "stpredict, zarr's own codecs": (lambda: ours(levels, xy, um_per_px, zarrs=False), n),
        "stpredict, resampled (1.5, 3, 6 Visium spots)": (lambda: ours(levels, xy, um_per_px, spots), n),
        "decoding each chunk once, zarr": (lambda: decode(arrays, needed), n),
    }
    if find_spec("zarrs"):
        fast = with_codecs(arrays, _chunks.ZARRS)
        found["decoding each chunk once, zarrs"] = (lambda: decode(fast, needed), n)
    if find_spec("tensorstore"):
        stores = tensorstores(arrays)
        found["decoding each chunk once, tensorstore"] = (lambda: decode(stores, needed), n)
        found["tensorstore slices"] = (lambda: slices(levels, stores, few), SLOW)
    if find_spec("zarrs"):
        found["zarr-python slices, zarrs codecs"] = (lambda: slices(levels, fast, few), SLOW)
    found["zarr-python slices"] = (lambda: slices(levels, arrays, few), SLOW)
    lazy = [getattr(level.pixels, "data", level.pixels) for level in levels]
    found["dask slices"] = (lambda: slices(levels, [Computed(array) for array in lazy], few[:20]), 20)
    held = [np.zeros((3, *array.shape[1:]), np.uint8) for array in arrays]
    found["numpy slices of levels in memory"] = (lambda: slices(levels, held, xy[:2000]), min(2000, n))
    if sdata is not None:
        found["ImageTilesDataset, one scale"] = (tiles(sdata), SLOW)
    return found


class Computed:
    """A dask array whose slices are computed."""

    def __init__(self, array):
        self.array = array

    def __getitem__(self, at):
        return self.array[at].compute()


def tiles(sdata):
    """The reader of patches that comes with SpatialData: the finest level only."""
    from spatialdata.dataloader import ImageTilesDataset

    image, shapes = next(iter(sdata.images)), next(iter(sdata.shapes))
    radius = float(sdata.shapes[shapes]["radius"].iloc[0])
    system = next(iter(sdata.coordinate_systems))
    dataset = ImageTilesDataset(
        sdata=sdata,
        regions_to_images={shapes: image},
        regions_to_coordinate_systems={shapes: system},
        tile_scale=WINDOWS_PX[0] / (2 * radius),
        rasterize=False,
        table_name=next(iter(sdata.tables)),
    )
    rows = np.linspace(0, len(dataset) - 1, SLOW).astype(int)

    def run():
        for i in rows:
            tile = dataset[int(i)]
            np.asarray(next(iter(tile.images.values())))

    return run


def compare(found, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Milliseconds a spot in every round, readers in turn."""
    times = {name: [] for name in found}
    for _ in range(rounds):
        for name, (run, n) in found.items():
            started = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - started) * 1e3 / n)
    return times


def section(folder: Path):
    """A her2st section as SpatialData on disk, or None."""
    try:
        sdata = stp.datasets.her2st(["C2"])
    except (OSError, ValueError, ConnectionError) as error:
        print(f"(a) left out: {error}".splitlines()[0])
        return None
    sdata.write(folder / "section.zarr")
    return read_zarr(folder / "section.zarr")


def memory(folder: Path, budget: int) -> dict[str, float]:
    """Peak memory of a process that reads (c), beyond what importing and opening cost, in MiB."""
    command = [sys.executable, __file__, "--memory", str(budget), "--slide", str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def memory_here(folder: Path, budget: int) -> None:
    """What `memory` runs."""
    levels = levels_at(folder)
    ours(levels, dense()[:1], UM_PER_PX)  # compiled code, threads
    before = peak_mib()
    ours(levels, dense(), UM_PER_PX, budget=budget)
    print(json.dumps({"budget_mib": budget / 2**20, "peak_mib": peak_mib() - before}))


def peak_mib() -> float:
    """Most memory this process ever held (``ru_maxrss`` would count what it was forked from)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def ratios(times: dict[str, list[float]], slow: str, fast: str = "stpredict") -> str:
    """How many times longer one takes than the other: median (least to most) over rounds."""
    values = np.array(times[slow]) / np.array(times[fast]) * (len(WINDOWS_PX) if slow.startswith("ImageTiles") else 1)
    return f"{np.median(values):.2g} ({values.min():.2g} to {values.max():.2g})"


def main() -> None:
    """Measure, write JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="seven rounds instead of two")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--slide", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        memory_here(args.slide, args.memory)
        return
    rounds = 7 if args.full else 2
    measured = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if (sdata := section(folder)) is not None:
            (one,) = resolve(sdata, Selection())
            found = readers(pyramid(sdata.images[one.image_key])[:3], one.xy_px, one.um_per_px, sdata)
            compare(found, 1)  # compiled code, threads
            measured["(a) her2st C2"] = compare(found, rounds)
        slide(folder)
        levels = levels_at(folder)
        ours(levels, hexagonal()[:64], UM_PER_PX)
        measured["(b) Visium-sized slide"] = compare(readers(levels, hexagonal(), UM_PER_PX), rounds)
        wanted = ("stpredict", "stpredict, zarr's own codecs", "decoding each chunk once, zarr", "zarr-python slices",
                  "decoding each chunk once, zarrs", "numpy slices of levels in memory")  # fmt: skip
        found = {name: run for name, run in readers(levels, dense(), UM_PER_PX).items() if name in wanted}
        measured["(c) dense grid of 50,000"] = compare(found, rounds // 2)
        peaks = [memory(folder, budget) for budget in (1 << 28, 1 << 30)]
    result = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "device": f"{os.cpu_count()} cores, {cpu()}",
        "versions": {name: version(name) for name in ("numpy", "numba", "zarr", "dask", "spatialdata")}
        | {name: version(name) if find_spec(name) else "not installed" for name in ("zarrs", "tensorstore")},
        "rounds": rounds,
        "ms_a_spot": measured,
        "memory": peaks,
    }
    (args.out / "patches.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "patches.md").write_text(table(result))
    print(table(result))


def cpu() -> str:
    """Name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")


def table(result: dict) -> str:
    """The figures as people read them."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    text = [
        "# Patches",
        "",
        f"{result['date']}; {result['device']}; {versions}. Made by `python benchmarks/patches.py`.",
        "",
        NOTE,
    ]
    for title, times in result["ms_a_spot"].items():
        text += ["", f"## {title}", "", "| reader | ms a spot | times as long |", "|---|---|---|"]
        text += [f"| {name} | {np.median(values):.3g} | {ratios(times, name)} |" for name, values in times.items()]
    text += ["", "## Memory", "", "Peak beyond imports and opening, of a process that reads (c).", ""]
    text += ["| budget (MiB) | peak (MiB) |", "|---|---|"]
    text += [f"| {peak['budget_mib']:.0f} | {peak['peak_mib']:.0f} |" for peak in result["memory"]]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
