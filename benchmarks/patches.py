"""Speed and memory of reading patches, compared with other readers.

    python benchmarks/patches.py [--full] [--out benchmarks]

Every reader cuts the same windows of 224 px at three scales (224, 448 and 896 px of the image, from three levels, like
the M2OST authors) from (a) a her2st section written as SpatialData, if the sections are available, (b) a generated
slide of the size of Visium with 4,992 hexagonal spots, (c) a dense grid of 50,000 windows on that slide. Readers
alternate in one process, with a warm page cache and each with an empty cache of its own; ratios are within a round.
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
NOTE = """Median milliseconds per spot (three patches of 224 px; `ImageTilesDataset`: one patch), and time relative to
`stpredict` for the same number of patches (median, minimum to maximum over the rounds; below 1 is faster than
`stpredict`). Readers that cut slices need the same time for every spot and were timed on a subset of the spots."""
SLOW = 60
"""Number of spots on which slow readers are timed."""


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


def write_slide(folder: Path) -> None:
    """Write three levels in zstd chunks of 512 px, as SpatialData does."""
    pixels = texture(SIDE_PX)
    for k in range(3):
        array = zarr.create_array(
            folder / f"s{k}", shape=pixels.shape, dtype="uint8", chunks=(3, CHUNK_PX, CHUNK_PX), dimension_names="cyx"
        )
        array[:] = pixels
        pixels = halve(pixels)


def levels_at(folder: Path) -> list[Level]:
    """Levels of the slide as SpatialData reads them: dask arrays on zarr."""
    arrays = [zarr.open_array(folder / f"s{k}", mode="r") for k in range(3)]
    return [Level(pixels=da.from_zarr(array), factor=(2.0**k, 2.0**k)) for k, array in enumerate(arrays)]


def visium_spots() -> np.ndarray:
    """4,992 Visium spots, 100 µm apart, at whole pixels."""
    return np.array(
        [[3400 + 200 * i + 100 * (j % 2), 3200 + round(173.2 * j)] for j in range(78) for i in range(64)], float
    )


def dense_grid() -> np.ndarray:
    """50,000 windows, 72 px apart."""
    x, y = np.meshgrid(np.arange(250), np.arange(200))
    return np.stack([1000 + 72 * x.ravel(), 1000 + 72 * y.ravel()], axis=1).astype(float)


def patch_spec(um_per_px: float = UM_PER_PX) -> PatchSpec:
    """Patches with the windows of the M2OST authors."""
    return PatchSpec.from_pixels(WINDOWS_PX, um_per_px, size_px=SIZE_PX)


def read_all(levels, xy, um_per_px, spec=None, budget=1 << 30, *, zarrs=True) -> None:
    """Read all spots with a new reader, in pieces and in the order of the reader."""
    found = _chunks.find_spec
    _chunks.find_spec = find_spec if zarrs else lambda _: None
    reader = PatchReader(levels, um_per_px, spec or patch_spec(um_per_px), budget_bytes=budget)
    order = reader.order(xy)
    for start in range(0, len(xy), PIECE):
        reader.read(xy[order[start : start + PIECE]])
    _chunks.find_spec = found


def corners(xy: np.ndarray, level: Level) -> np.ndarray:
    """Upper left pixels (x, y) of the windows on a level."""
    return np.rint(xy / level.factor[0] - SIZE_PX / 2).astype(int).clip(0)


def read_slices(levels, arrays, xy) -> None:
    """Read one slice per scale and spot into memory."""
    for level, array in zip(levels, arrays, strict=True):
        for x, y in corners(xy, level):
            np.ascontiguousarray(array[:, y : y + SIZE_PX, x : x + SIZE_PX])


def zarr_arrays(levels) -> list[zarr.Array]:
    """The zarr arrays of the levels."""
    return [_chunks._without_dask(getattr(level.pixels, "data", level.pixels)) for level in levels]


def chunk_slices(levels, xy) -> list[list[tuple[slice, slice]]]:
    """Slices of the chunks that are needed on each level, merged along rows of chunks."""
    found = []
    for level in levels:
        side, rows = zarr_arrays([level])[0].chunks[1], {}
        for x, y in corners(xy, level):
            for by in range(y // side, (y + SIZE_PX - 1) // side + 1):
                rows.setdefault(by, []).extend([x // side, (x + SIZE_PX - 1) // side])
        height, width = level.pixels.shape[1:]
        spans = {b: (min(c) * side, min((max(c) + 1) * side, width)) for b, c in rows.items()}
        found.append([(slice(b * side, min((b + 1) * side, height)), slice(*span)) for b, span in spans.items()])
    return found


def decode_chunks(arrays, needed) -> None:
    """Decode every needed chunk once, one row of chunks at a time."""
    for array, parts in zip(arrays, needed, strict=True):
        for y, x in parts:
            array[:, y, x]


def with_codecs(arrays, codecs: str) -> list[zarr.Array]:
    """The same arrays, opened with another codec pipeline."""
    with zarr.config.set({"codec_pipeline.path": codecs}):
        return [zarr.open_array(array.store, path=array.path, mode="r") for array in arrays]


def open_tensorstores(arrays) -> list:
    """The same arrays, opened with tensorstore."""
    import tensorstore

    specs = [
        {
            "driver": f"zarr{'3' if a.metadata.zarr_format == 3 else ''}",
            "kvstore": {"driver": "file", "path": str(Path(a.store.root) / a.path)},
        }
        for a in arrays
    ]
    opened = [tensorstore.open(spec).result() for spec in specs]

    class ReadOnIndex:
        """An array whose slices are read when it is indexed."""

        def __init__(self, array):
            self.array = array

        def __getitem__(self, at):
            return self.array[at].read().result()

    return [ReadOnIndex(array) for array in opened]


def make_readers(levels, xy, um_per_px, sdata=None):
    """By name: the function to time, and its number of spots."""
    arrays, needed = zarr_arrays(levels), chunk_slices(levels, xy)
    few = xy[np.linspace(0, len(xy) - 1, SLOW).astype(int)]
    spots = PatchSpec(fov_um=tuple(round(55 * share, 1) for share in (1.5, 3, 6)), size_px=SIZE_PX)
    n = len(xy)
    found = {
        "stpredict": (lambda: read_all(levels, xy, um_per_px), n),
        "stpredict, zarr's own codecs": (lambda: read_all(levels, xy, um_per_px, zarrs=False), n),
        "stpredict, resampled (1.5, 3, 6 Visium spots)": (lambda: read_all(levels, xy, um_per_px, spots), n),
        "decoding each chunk once, zarr": (lambda: decode_chunks(arrays, needed), n),
    }
    if find_spec("zarrs"):
        fast = with_codecs(arrays, _chunks.ZARRS)
        found["decoding each chunk once, zarrs"] = (lambda: decode_chunks(fast, needed), n)
    if find_spec("tensorstore"):
        stores = open_tensorstores(arrays)
        found["decoding each chunk once, tensorstore"] = (lambda: decode_chunks(stores, needed), n)
        found["tensorstore slices"] = (lambda: read_slices(levels, stores, few), SLOW)
    if find_spec("zarrs"):
        found["zarr-python slices, zarrs codecs"] = (lambda: read_slices(levels, fast, few), SLOW)
    found["zarr-python slices"] = (lambda: read_slices(levels, arrays, few), SLOW)
    lazy = [getattr(level.pixels, "data", level.pixels) for level in levels]
    found["dask slices"] = (lambda: read_slices(levels, [ComputeOnIndex(array) for array in lazy], few[:20]), 20)
    in_memory = [np.zeros((3, *array.shape[1:]), np.uint8) for array in arrays]
    found["numpy slices of levels in memory"] = (lambda: read_slices(levels, in_memory, xy[:2000]), min(2000, n))
    if sdata is not None:
        found["ImageTilesDataset, one scale"] = (make_tile_reader(sdata), SLOW)
    return found


class ComputeOnIndex:
    """A dask array whose slices are computed when it is indexed."""

    def __init__(self, array):
        self.array = array

    def __getitem__(self, at):
        return self.array[at].compute()


def make_tile_reader(sdata):
    """The patch reader of SpatialData, which reads only the finest level."""
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
    """Milliseconds per spot in every round; the readers alternate."""
    times = {name: [] for name in found}
    for _ in range(rounds):
        for name, (run, n) in found.items():
            started = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - started) * 1e3 / n)
    return times


def write_section(folder: Path):
    """A her2st section as SpatialData on disk, or None."""
    try:
        sdata = stp.datasets.her2st(["C2"])
    except (OSError, ValueError, ConnectionError) as error:
        print(f"(a) skipped: {error}".splitlines()[0])
        return None
    sdata.write(folder / "section.zarr")
    return read_zarr(folder / "section.zarr")


def measure_memory(folder: Path, budget: int) -> dict[str, float]:
    """Peak memory in MiB of a process that reads (c), beyond imports and opening."""
    command = [sys.executable, __file__, "--memory", str(budget), "--slide", str(folder)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def print_memory(folder: Path, budget: int) -> None:
    """The process that `measure_memory` starts."""
    levels = levels_at(folder)
    read_all(levels, dense_grid()[:1], UM_PER_PX)  # starts threads, compiles
    before = peak_mib()
    read_all(levels, dense_grid(), UM_PER_PX, budget=budget)
    print(json.dumps({"budget_mib": budget / 2**20, "peak_mib": peak_mib() - before}))


def peak_mib() -> float:
    """Peak memory of this process (``ru_maxrss`` would include the parent process)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def format_ratio(times: dict[str, list[float]], slow: str, fast: str = "stpredict") -> str:
    """Format the ratio of two times: median (minimum to maximum) over rounds."""
    values = np.array(times[slow]) / np.array(times[fast]) * (len(WINDOWS_PX) if slow.startswith("ImageTiles") else 1)
    return f"{np.median(values):.2g} ({values.min():.2g} to {values.max():.2g})"


def main() -> None:
    """Measure and write JSON and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="seven rounds instead of two")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--memory", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--slide", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        print_memory(args.slide, args.memory)
        return
    rounds = 7 if args.full else 2
    measured = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if (sdata := write_section(folder)) is not None:
            (one,) = resolve(sdata, Selection())
            found = make_readers(pyramid(sdata.images[one.image_key])[:3], one.xy_px, one.um_per_px, sdata)
            compare(found, 1)  # starts threads, compiles
            measured["(a) her2st C2"] = compare(found, rounds)
        write_slide(folder)
        levels = levels_at(folder)
        read_all(levels, visium_spots()[:64], UM_PER_PX)
        measured["(b) Visium-sized slide"] = compare(make_readers(levels, visium_spots(), UM_PER_PX), rounds)
        wanted = ("stpredict", "stpredict, zarr's own codecs", "decoding each chunk once, zarr", "zarr-python slices",
                  "decoding each chunk once, zarrs", "numpy slices of levels in memory")  # fmt: skip
        found = {name: run for name, run in make_readers(levels, dense_grid(), UM_PER_PX).items() if name in wanted}
        measured["(c) dense grid of 50,000"] = compare(found, rounds // 2)
        peaks = [measure_memory(folder, budget) for budget in (1 << 28, 1 << 30)]
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
    """Format the results as a page."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    text = [
        "# Patches",
        "",
        f"{result['date']}; {result['device']}; {versions}. Made by `python benchmarks/patches.py`.",
        "",
        NOTE,
    ]
    for title, times in result["ms_a_spot"].items():
        head = "| reader | ms per spot | time relative to `stpredict` |"
        text += ["", f"## {title}", "", head, "|---|---|---|"]
        text += [f"| {name} | {np.median(ms):.3g} | {format_ratio(times, name)} |" for name, ms in times.items()]
    text += ["", "## Memory", "", "Peak memory of a process that reads (c), beyond imports and opening.", ""]
    text += ["| budget (MiB) | peak (MiB) |", "|---|---|"]
    text += [f"| {peak['budget_mib']:.0f} | {peak['peak_mib']:.0f} |" for peak in result["memory"]]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
