"""Slides read from their own files against the same slide as zarr: opening, memory, patches, copying.

Run ``python benchmarks/slide_files.py``. It writes a slide of 20,000 x 20,000 pixels as tiled pyramidal TIFF with
JPEG compression to a temporary folder, and a table beside this script.
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
from scipy.ndimage import gaussian_filter

SIDE, UM_PER_PX, N = 20_000, 0.5, 1_000
ROUNDS = 3
WINDOWS_PX = (224, 448, 896)


def slide(path: Path) -> None:
    """Blurred noise in the colours of H&E, repeated; five levels of tiles of 256 pixels."""
    noise = np.random.default_rng(0).normal(0, 1, (1250, 1250, 3)).astype(np.float32)
    depth = sum(gaussian_filter(noise, (s, s, 0)) * s for s in (2, 6, 20))
    depth = (depth - depth.min()) / np.ptp(depth)
    piece = (np.array([230, 150, 200]) - depth * np.array([120, 110, 80])).clip(0, 255).astype(np.uint8)
    level = np.tile(piece, (SIDE // 1250, SIDE // 1250, 1))
    options = {"tile": (256, 256), "compression": "jpeg", "compressionargs": {"level": 80}, "photometric": "rgb"}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for i in range(5):
            per_cm = (1e4 / UM_PER_PX / 2**i,) * 2
            writer.write(level, subfiletype=int(i > 0), resolution=per_cm, resolutionunit=3, metadata=None, **options)
            level = np.ascontiguousarray(level[::2, ::2])


def peak_mib() -> float:
    """Most memory this process ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def here(task: str, path: Path) -> dict[str, float]:
    """One measurement in this process: seconds, and MiB beyond imports."""
    from spatialdata import read_zarr

    import stpredict as stp
    from stpredict._geometry import PatchSpec
    from stpredict._pixels import PatchReader
    from stpredict._slides import Level, pyramid

    spec = PatchSpec(fov_um=tuple(px * UM_PER_PX for px in WINDOWS_PX), size_px=224)
    xy = np.random.default_rng(1).uniform(1000, SIDE - 1000, (N, 2))
    opened = read_zarr if path.suffix == ".zarr" else stp.io.read_wsi
    opened = {"tiff, openslide": lambda path: stp.io.read_wsi(path, backend="openslide")}.get(task, opened)
    held = [Level(pixels=np.zeros((3, 3000, 3000), np.uint8), factor=(1, 1))]
    PatchReader(held, UM_PER_PX, spec).read(np.full((1, 2), 1500.0))  # compiles
    before, started = peak_mib(), time.perf_counter()
    if task == "copy":
        stp.io.read_wsi(path, to_zarr=path.with_suffix(".zarr"))
        return {"seconds": time.perf_counter() - started, "mib": peak_mib() - before}
    levels = pyramid(opened(path).images["slide"])
    seconds = {"open": time.perf_counter() - started, "open_mib": peak_mib() - before}
    for _ in range(ROUNDS):
        reader, started = PatchReader(levels, UM_PER_PX, spec), time.perf_counter()
        order = reader.order(xy)
        for start in range(0, N, 64):
            reader.read(xy[order[start : start + 64]])
        seconds["ms_a_spot"] = min(seconds.get("ms_a_spot", np.inf), (time.perf_counter() - started) * 1e3 / N)
    return {**seconds, "mib": peak_mib() - before}


def apart(task: str, path: Path) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--task", task, "--slide", str(path)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def table(result: dict) -> str:
    """The figures as people read them."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    text = [
        "# Slide files",
        "",
        f"{result['date']}; {result['device']}; {versions}. Made by `python benchmarks/slide_files.py`.",
        "",
        f"A slide of {SIDE} x {SIDE} pixels, five levels of JPEG tiles of 256 px; {N} spots at random places, three",
        f"patches each ({', '.join(map(str, WINDOWS_PX))} px wide, resampled to 224), best of {ROUNDS} rounds. Memory",
        "is the peak beyond imports, of which up to 1 GiB is decoded image that is held.",
        "",
        "| read from | MB | open (s) | memory to open (MiB) | ms a spot | times as long as zarr | memory (MiB) |",
        "|---|---|---|---|---|---|---|",
    ]
    zarr = result["read"]["zarr"]["ms_a_spot"]
    text += [
        f"| {name} | {result['mb'][name.partition(',')[0]]:.0f} | {found['open']:.2f} | {found['open_mib']:.0f} | "
        f"{found['ms_a_spot']:.2f} | {found['ms_a_spot'] / zarr:.2g} | {found['mib']:.0f} |"
        for name, found in result["read"].items()
    ]
    copy = result["copy"]
    text += ["", f"`to_zarr` took {copy['seconds']:.0f} s and {copy['mib']:.0f} MiB."]
    return "\n".join(text) + "\n"


def main() -> None:
    """Measure, write JSON and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--slide", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.task:
        print(json.dumps(here(args.task, args.slide)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path, copy = Path(folder) / "slide.tif", Path(folder) / "slide.zarr"
        slide(path)
        copied = apart("copy", path)
        places = {"tiff": path, "tiff, openslide": path, "zarr": copy}
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
            "read": {name: apart(name, place) for name, place in places.items()},
        }
    (args.out / "slide_files.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / "slide_files.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
