"""Reading patches from a slide file with several libraries, compared with the same slide as zarr.

``python benchmarks/slide_files.py`` takes three minutes on two cores. It writes a slide of 20,000 x 20,000 pixels as
tiled pyramidal TIFF with JPEG compression to a temporary folder, and the page beside this script.
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
from pathlib import Path

import numpy as np
import tifffile
import zarr
from scipy.ndimage import gaussian_filter

SIDE, UM_PER_PX, N_SPOTS, N_ROUNDS, N_LEVELS = 20_000, 0.5, 1_000, 3, 5
WINDOWS_PX = (224, 448, 896)
READERS = {
    "tiff": "`read_wsi`: tiles decoded by `page.decode` of tifffile",
    "tiff, aszarr": "the same tiles through `aszarr` of tifffile and zarr, for comparison",
    "tiff, openslide": "`read_wsi(backend='openslide')`",
    "zarr": "`read_wsi(to_zarr=...)`, read from the copy",
}


def write_slide(path: Path) -> None:
    """Write blurred noise in the colours of H&E as five levels with tiles of 256 pixels."""
    noise = np.random.default_rng(0).normal(0, 1, (1250, 1250, 3)).astype(np.float32)
    depth = sum(gaussian_filter(noise, (s, s, 0)) * s for s in (2, 6, 20))
    depth = (depth - depth.min()) / np.ptp(depth)
    piece = (np.array([230, 150, 200]) - depth * np.array([120, 110, 80])).clip(0, 255).astype(np.uint8)
    level = np.tile(piece, (SIDE // 1250, SIDE // 1250, 1))
    options = {"tile": (256, 256), "compression": "jpeg", "compressionargs": {"level": 80}, "photometric": "rgb"}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for i in range(N_LEVELS):
            per_cm = (1e4 / UM_PER_PX / 2**i,) * 2
            writer.write(level, subfiletype=int(i > 0), resolution=per_cm, resolutionunit=3, metadata=None, **options)
            level = np.ascontiguousarray(level[::2, ::2])


def peak_mib() -> float:
    """Peak memory of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def open_levels(reader: str, path: Path) -> list:
    """The levels of the slide, for `PatchReader`."""
    from spatialdata import read_zarr

    import stpredict as stp
    from stpredict._slides.slides import Level, pyramid
    from stpredict.io._wsi_levels import TransposedPlane

    if reader == "tiff, aszarr":
        series = tifffile.TiffFile(path).series[0]
        arrays = [zarr.open_array(series.aszarr(level=i), mode="r") for i in range(N_LEVELS)]
        return [
            Level(pixels=TransposedPlane(array, "yxc", n_channels=3), factor=(2**i, 2**i))
            for i, array in enumerate(arrays)
        ]
    if reader == "zarr":
        sdata = read_zarr(path)
    else:
        sdata = stp.io.read_wsi(path, backend="openslide" if reader == "tiff, openslide" else "auto")
    return pyramid(sdata.images["slide"])


def measure(task: str, path: Path) -> dict[str, float]:
    """Seconds and MiB (beyond imports) of one reader, or of ``"copy"``, in this process."""
    import stpredict as stp
    from stpredict._geometry import PatchSpec
    from stpredict._pixels import PatchReader
    from stpredict._slides.slides import Level

    spec = PatchSpec(fov_um=tuple(px * UM_PER_PX for px in WINDOWS_PX), size_px=224)
    xy = np.random.default_rng(1).uniform(1000, SIDE - 1000, (N_SPOTS, 2))
    small = [Level(pixels=np.zeros((3, 3000, 3000), np.uint8), factor=(1, 1))]
    PatchReader(small, UM_PER_PX, spec).read(np.full((1, 2), 1500.0))  # compiles
    before, started = peak_mib(), time.perf_counter()
    if task == "copy":
        stp.io.read_wsi(path, to_zarr=path.with_suffix(".zarr"))
        return {"seconds": time.perf_counter() - started, "mib": peak_mib() - before}
    levels = open_levels(task, path)
    found = {"open": time.perf_counter() - started, "open_mib": peak_mib() - before}
    for _ in range(N_ROUNDS):
        reader, started = PatchReader(levels, UM_PER_PX, spec), time.perf_counter()
        order = reader.order(xy)
        for start in range(0, N_SPOTS, 64):
            reader.read(xy[order[start : start + 64]])
        ms_a_spot = (time.perf_counter() - started) * 1e3 / N_SPOTS
        found["ms_a_spot"] = min(found.get("ms_a_spot", np.inf), ms_a_spot)
    return {**found, "mib": peak_mib() - before}


def measure_in_process(task: str, path: Path) -> dict[str, float]:
    """Run `measure` in a new process, so that its peak memory is that of this task."""
    command = [sys.executable, __file__, "--task", task, "--slide", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def table(result: dict) -> str:
    """Format the results as a page."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    text = [
        "# Slide files",
        "",
        f"{result['date']}; {result['device']}; {versions}. Made by `python benchmarks/slide_files.py`.",
        "",
        f"A slide of {SIDE} x {SIDE} pixels, {N_LEVELS} levels of JPEG tiles of 256 px; {N_SPOTS} spots at random",
        f"positions with three patches each ({', '.join(map(str, WINDOWS_PX))} px wide, resampled to 224); best of",
        f"{N_ROUNDS} rounds. Memory is the peak beyond imports, of which up to 1 GiB is decoded pixels.",
        "",
        "| reader | what is read | MB | open (s) | memory to open (MiB) | ms per spot | ratio to tiff | memory (MiB) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    tiff = result["read"]["tiff"]["ms_a_spot"]
    text += [
        f"| {name} | {READERS[name]} | {result['mb'][name.partition(',')[0]]:.0f} | {found['open']:.2f} | "
        f"{found['open_mib']:.0f} | {found['ms_a_spot']:.2f} | {found['ms_a_spot'] / tiff:.2f} | {found['mib']:.0f} |"
        for name, found in result["read"].items()
    ]
    copy = result["copy"]
    text += ["", f"Writing the copy with `to_zarr` took {copy['seconds']:.0f} s and {copy['mib']:.0f} MiB of memory."]
    return "\n".join(text) + "\n"


def main() -> None:
    """Measure and write JSON and page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--slide", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        print(json.dumps(measure(args.task, args.slide)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path, copy = Path(folder) / "slide.tif", Path(folder) / "slide.zarr"
        write_slide(path)
        copied = measure_in_process("copy", path)
        result = {
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "device": f"{os.cpu_count()} cores",
            "versions": {
                name: version(name) for name in ("tifffile", "imagecodecs", "tiffslide", "zarr", "spatialdata")
            },
            "mb": {
                "tiff": path.stat().st_size / 1e6,
                "zarr": sum(f.stat().st_size for f in copy.rglob("*") if f.is_file()) / 1e6,
            },
            "copy": copied,
            "read": {reader: measure_in_process(reader, copy if reader == "zarr" else path) for reader in READERS},
        }
    (args.out / "slide_files.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "slide_files.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
