"""What the fault campaign damages: small files of every reader and folders of our own, and how each is read.

A case is built once into a folder. Reading it gives digests of all that it holds, ``pixels`` apart from the rest.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import runpy
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import sparse

import stpredict as stp
from stpredict._chunks import Source

if TYPE_CHECKING:
    from collections.abc import Callable

IO = Path(__file__).parents[1] / "io"
QUIET = {"device": "cpu", "precision": "32-true", "progress": False}
TINY = {"dim": 24, "depth": 1, "heads": 2, "size_px": 32, "patch_size": 8}
LIMIT_GB = 1.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """One kind of file or folder."""

    build: Callable[[Path], None]
    """Write it into an empty folder."""
    read: Callable[[Path], dict[str, str]]
    """Read all of it, and give digests."""
    ours: bool = False
    """Whether the package itself wrote it, so that every change can be noticed."""


def digest(*parts: object) -> str:
    """Digest of arrays and of anything with a text."""
    found = hashlib.sha256()
    for part in parts:
        found.update(np.ascontiguousarray(part).tobytes() if isinstance(part, np.ndarray) else repr(part).encode())
    return found.hexdigest()


def decoded(image: Any) -> list[np.ndarray]:
    """Pixels of every level, read as patches are."""
    sources = [Source(image[scale]["image"]) for scale in image]
    return [source.read((0, source.shape[1]), (0, source.shape[2])) for source in sources]


def contents(sdata: Any) -> dict[str, str]:
    """Digests of the pixels, and of everything else in an object."""
    pixels: list[Any] = []
    for image in sdata.images.values():
        pixels += decoded(image)
    rest: list[Any] = [json.dumps(sdata.attrs, default=str, sort_keys=True), [each.shape for each in pixels]]
    for shapes in sdata.shapes.values():
        rest += [shapes.index.to_numpy().tolist(), shapes.geometry.to_wkb().tolist()]
    for points in sdata.points.values():
        rest += [points.compute().to_csv()]
    for table in sdata.tables.values():
        rest += [table.to_df().to_csv(), table.obs.to_csv(), table.var.to_csv()]
    return {"pixels": digest(*pixels), "rest": digest(*rest)}


def painted(height: int = 130, width: int = 220) -> np.ndarray:
    """Smooth colours, so that codecs leave few bytes."""
    y, x = np.mgrid[:height, :width]
    colours = [200 + 40 * np.sin(x / 17), 120 + 60 * np.cos(y / 23), 180 + 30 * np.sin((x + y) / 31)]
    return np.stack(colours, axis=-1).astype(np.uint8)


def _writers() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(IO / "slide_files.py")))


def _write_matrix(path: Path, barcodes: list[str], counts: np.ndarray) -> None:
    import h5py

    genes, matrix = ["A", "B", "C", "D"], sparse.csc_matrix(counts.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, "S")
        group["data"], group["indices"], group["indptr"] = matrix.data.astype("i4"), matrix.indices, matrix.indptr
        group["shape"] = np.array(matrix.shape, "i4")
        features = group.create_group("features")
        features["id"], features["name"] = (np.array([f"{start}{gene}" for gene in genes], "S") for start in ("E", ""))
        features["feature_type"] = np.array(["Gene Expression"] * 4, "S")
        features["genome"] = np.array(["GRCh38"] * 4, "S")


def _build_st(folder: Path, image: str, packed: bool) -> None:
    xy = [(x, y) for y in range(2, 6) for x in range(3, 8)]
    spots = ["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected"]
    spots += [f"{x}\t{y}\t{x}\t{y}\t{20 * x - 40}\t{20 * y - 20}\t1" for x, y in xy]
    counts = ["\tA\tB\tC\tD", *(f"{x}x{y}\t{x}\t{y}\t0\t{x * y}" for x, y in xy)]
    (folder / "spots.tsv").write_text("\n".join(spots) + "\n")
    text = ("\n".join(counts) + "\n").encode()
    (folder / "counts.tsv").write_bytes(gzip.compress(text, mtime=0) if packed else text)
    Image.fromarray(painted(121, 141)).save(folder / image)


def _read_st(folder: Path, image: str) -> dict[str, str]:
    return contents(
        stp.io.read_st(
            folder / image, folder / "counts.tsv", folder / "spots.tsv", name="A", max_memory_gb=LIMIT_GB
        )
    )  # fmt: skip


def _build_market(folder: Path) -> None:
    _build_st(folder, "image.png", packed=False)
    counts = pd.read_csv(folder / "counts.tsv", sep="\t", index_col=0)
    (folder / "counts.tsv").unlink()
    matrix = sparse.coo_matrix(counts.to_numpy().T)
    lines = ["%%MatrixMarket matrix coordinate integer general", "%", f"4 {len(counts)} {matrix.nnz}"]
    lines += [f"{i + 1} {j + 1} {v}" for i, j, v in zip(matrix.row, matrix.col, matrix.data, strict=True)]
    (folder / "matrix.mtx").write_text("\n".join(lines) + "\n")
    (folder / "barcodes.tsv").write_text("\n".join(counts.index) + "\n")
    (folder / "features.tsv").write_text("A\nB\nC\nD\n")


def _read_market(folder: Path) -> dict[str, str]:
    return contents(
        stp.io.read_st(folder / "image.png", folder, folder / "spots.tsv", name="A", max_memory_gb=LIMIT_GB)
    )


def _build_visium(folder: Path) -> None:
    (folder / "spatial").mkdir()
    rows = [(row, col) for row in range(6) for col in range(row % 2, 16, 2)]
    places = pd.DataFrame(rows, columns=["array_row", "array_col"])
    places["pxl_row_in_fullres"] = (20 + places["array_row"] * 10 * 3**0.5).round(2)
    places["pxl_col_in_fullres"] = 30 + places["array_col"] * 10
    places.insert(0, "in_tissue", (places["array_row"] < 5).astype(int))
    places.index = pd.Index([f"AAAC{i:04}-1" for i in range(len(places))], name="barcode")
    places.to_csv(folder / "spatial/tissue_positions.csv")
    counts = np.arange(len(places) * 4).reshape(len(places), -1) % 7
    _write_matrix(folder / "filtered_feature_bc_matrix.h5", places.index.tolist(), counts)
    factors = {"spot_diameter_fullres": 13.0, "tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.25}
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(factors))
    _writers().tiff(folder / "image.tif", [painted()], um_per_px=5.0)
    Image.fromarray(painted(65, 110)).save(folder / "spatial/tissue_hires_image.png")


def _read_visium(folder: Path) -> dict[str, str]:
    return contents(stp.io.read_visium(folder, name="V", overviews=True, max_memory_gb=LIMIT_GB))


def _build_hd(folder: Path) -> None:
    spatial = folder / "binned_outputs/square_008um/spatial"
    spatial.mkdir(parents=True)
    row, col = (part.ravel() for part in np.meshgrid(np.arange(6), np.arange(9), indexing="ij"))
    barcodes = [f"s_008um_{r:05}_{c:05}-1" for r, c in zip(row, col, strict=True)]
    places = {"barcode": barcodes, "in_tissue": 1, "array_row": row, "array_col": col}
    places |= {"pxl_row_in_fullres": 20.0 + 16 * row, "pxl_col_in_fullres": 20.0 + 16 * col}
    pd.DataFrame(places).to_parquet(spatial / "tissue_positions.parquet")
    _write_matrix(spatial.parent / "filtered_feature_bc_matrix.h5", barcodes, np.arange(54 * 4).reshape(54, 4) % 5)
    factors = {"spot_diameter_fullres": 16.0, "bin_size_um": 8.0, "microns_per_pixel": 0.5}
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors))
    _writers().ome_tiff(folder / "tissue.ome.tif", [painted(140, 190)], um_per_px=0.5)


def _read_hd(folder: Path) -> dict[str, str]:
    return contents(stp.io.read_visium_hd(folder, name="H", max_memory_gb=LIMIT_GB))


def _build_xenium(folder: Path) -> None:
    xy = np.array([[20.0, 10.0], [40.0, 30.0], [60.0, 20.0], [30.0, 50.0]])
    (folder / "experiment.xenium").write_text(json.dumps({"pixel_size": 0.25, "region_name": "X1"}))
    names = ["aaaaaaab-1", "aaaaaaac-1", "aaaaaaad-1", "aaaaaaae-1"]
    _write_matrix(folder / "cell_feature_matrix.h5", names, np.arange(16).reshape(4, 4))
    cells = {"cell_id": names, "x_centroid": xy[:, 0], "y_centroid": xy[:, 1], "cell_area": 78.5}
    pd.DataFrame(cells).to_parquet(folder / "cells.parquet")
    rng = np.random.default_rng(0)
    pd.DataFrame({
        "transcript_id": np.arange(40, dtype="u8"), "cell_id": ["UNASSIGNED"] * 40,
        "feature_name": ["A", "B", "C", "NegControlProbe_00001"] * 10, "qv": 40.0,
        "x_location": rng.uniform(1, 70, 40), "y_location": rng.uniform(1, 60, 40), "z_location": 1.0,
    }).to_parquet(folder / "transcripts.parquet")  # fmt: skip
    _writers().tiff(folder / "X1_he_image.ome.tif", [painted(145, 150)])
    np.savetxt(folder / "X1_he_imagealignment.csv", [[0, 2, 4], [-2, 0, 300], [0, 0, 1]], delimiter=",")


def _read_xenium(folder: Path) -> dict[str, str]:
    return contents(stp.io.read_xenium(folder, name="X", max_memory_gb=LIMIT_GB))


def _slide(kind: str) -> Case:
    def build(folder: Path) -> None:
        writers = _writers()
        written = writers.FORMATS[kind](folder, writers.levels_of(painted(), (1, 2)))
        written.rename(folder / "slide")

    def read(folder: Path) -> dict[str, str]:
        return contents(stp.io.read_wsi(folder / "slide", name="slide", max_memory_gb=LIMIT_GB))

    return Case(build=build, read=read)


def _picture(name: str, **options: Any) -> Case:
    def build(folder: Path) -> None:
        Image.fromarray(painted()).save(folder / name, **options)

    def read(folder: Path) -> dict[str, str]:
        return contents(stp.io.read_wsi(folder / name, name="slide", um_per_px=0.5, max_memory_gb=LIMIT_GB))

    return Case(build=build, read=read)


READERS = {
    "read_st, PNG": Case(
        build=lambda folder: _build_st(folder, "image.png", packed=False),
        read=lambda folder: _read_st(folder, "image.png"),
    ),
    "read_st, JPEG, packed counts": Case(
        build=lambda folder: _build_st(folder, "image.jpg", packed=True),
        read=lambda folder: _read_st(folder, "image.jpg"),
    ),
    "read_st, Matrix Market": Case(build=_build_market, read=_read_market),
    "read_visium": Case(build=_build_visium, read=_read_visium),
    "read_visium_hd": Case(build=_build_hd, read=_read_hd),
    "read_xenium": Case(build=_build_xenium, read=_read_xenium),
    "PNG": _picture("slide.png"),
    "JPEG": _picture("slide.jpg"),
    **{kind: _slide(kind) for kind in (
        "SVS", "generic TIFF", "big-endian TIFF", "striped TIFF", "OME-TIFF", "OME-Zarr 0.4", "OME-Zarr 0.5",
    )},
}  # fmt: skip
"""Files of measurements, by reader."""


def synthetic(n_slides: int = 2) -> Any:
    """Slides of 16 spots."""
    return stp.datasets.synthetic(n_slides=n_slides, n_side=4, um_per_px=8.0)


def fit_tiny(save_dir: Path | None, *, n_members: int = 1, **arguments: Any) -> Any:
    """A network that trains in a second."""
    config = stp.tl.FitConfig(
        n_epochs=2, n_members=n_members, progress=False, accelerator="cpu", precision="32-true", validation="none"
    )
    return stp.tl.fit(synthetic(), "m2ost", config=config, model_options=TINY, save_dir=save_dir, **arguments)


def predicted(predictor: Any, **arguments: Any) -> dict[str, str]:
    """Digest of what a predictor predicts."""
    sdata = synthetic(1)
    stp.tl.predict(sdata, predictor, key_added="p", **arguments, **QUIET)
    return {"rest": digest(np.asarray(sdata["p"].X, np.float32).round(4), sdata["p"].var_names.tolist())}


def _read_predictor(folder: Path) -> dict[str, str]:
    predictor = stp.tl.Predictor.load(folder / "model")
    found = predicted(predictor)
    return {"rest": digest(found["rest"], predictor.history.to_csv(), predictor.genes)}


def _build_store(folder: Path) -> None:
    fit_tiny(folder / "model")
    predicted(stp.tl.Predictor.load(folder / "model"), store=folder / "store")


def read_store(folder: Path) -> dict[str, str]:
    """Digest of what is predicted into a store, computed as far as it is not there."""
    return predicted(stp.tl.Predictor.load(folder / "model"), store=folder / "store")


def run_benchmark(folder: Path) -> dict[str, str]:
    """Digest of the scores of a benchmark of two baselines, computed as far as they are not there."""
    with warnings.catch_warnings(action="ignore"):
        found = stp.tl.benchmark(synthetic(), ["mean_profile"], save_dir=folder / "benchmark", progress=False)
    scores = found.scores.sort_values(["model", "metric", "slide", "gene"]).drop(columns="seed", errors="ignore")
    return {"rest": digest(scores.round(4).to_csv(index=False), len(found.failed))}


def grid(sdata: Any) -> None:
    """Spots on all of the image."""
    stp.pp.spot_grid(sdata, diameter_um=100.0, pitch_um=200.0)


def build_cohort(folder: Path) -> None:
    """A predictor, two slides without measurements."""
    fit_tiny(folder / "model")
    for seed in (1, 2):
        sdata = stp.datasets.synthetic(n_slides=1, n_side=4, um_per_px=8.0, seed=seed)
        del sdata.tables["observed"], sdata.shapes["S0_spots"]
        sdata.write(folder / f"slide{seed}.zarr")


def run_cohort(folder: Path) -> dict[str, str]:
    """Digest of the predictions of two slides, computed as far as they are not there."""
    from spatialdata import read_zarr

    paths = [folder / f"slide{seed}.zarr" for seed in (1, 2)]
    summary = stp.tl.predict_cohort(paths, folder / "model", folder / "out", prepare=grid, **QUIET)
    done = [path.stem for path in paths if summary.loc[path.stem, "status"] == "done"]
    tables = [read_zarr(folder / "out" / name / "predicted.zarr")["predicted"] for name in done]
    values = [np.asarray(table.X, np.float32).round(4) for table in tables]
    return {"rest": digest(*values, summary["status"].tolist(), [table.obs_names.tolist() for table in tables])}


def _build_cohort(folder: Path) -> None:
    build_cohort(folder)
    run_cohort(folder)


def read_cache(folder: Path) -> dict[str, str]:
    """Digests of the pixels and sizes of a picture through the cache of data sets."""
    from stpredict.datasets._image_cache import cached_image

    pixels = decoded(cached_image("A", "abc", folder / "cache", lambda: folder / "A.png"))
    return {"pixels": digest(*pixels), "rest": digest([each.shape for each in pixels])}


def build_cache(folder: Path) -> None:
    """A picture."""
    Image.fromarray(painted(600, 700)).save(folder / "A.png")


def _build_cache(folder: Path) -> None:
    build_cache(folder)
    read_cache(folder)


def _build_checkpoint(folder: Path) -> None:
    """A training of two networks that was interrupted in the second, with its checkpoint."""
    from stpredict.tl._training import train_members

    real, calls = train_members.train, []

    def stopped(*given: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given, **options)

    train_members.train = stopped
    try:
        with contextlib.suppress(KeyboardInterrupt):
            fit_tiny(folder / "model", n_members=2)
    finally:
        train_members.train = real


def _read_checkpoint(folder: Path) -> dict[str, str]:
    return predicted(fit_tiny(None, n_members=2, resume_from=folder / "model"))


FOLDERS = {
    "predictor": Case(build=lambda folder: fit_tiny(folder / "model"), read=_read_predictor, ours=True),
    "checkpoint": Case(build=_build_checkpoint, read=_read_checkpoint, ours=True),
    "store": Case(build=_build_store, read=read_store, ours=True),
    "benchmark": Case(build=run_benchmark, read=run_benchmark, ours=True),
    "cohort": Case(build=_build_cohort, read=run_cohort, ours=True),
    "image cache": Case(build=_build_cache, read=read_cache, ours=True),
}
"""Folders of our own, by kind."""
DAMAGED = {"predictor": "model", "checkpoint": "model.checkpoint", "store": "store", "benchmark": "benchmark",
           "cohort": "out", "image cache": "cache"}  # fmt: skip
"""What of a folder is damaged, where it is not all of it."""
