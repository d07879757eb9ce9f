"""Small but complete folders as Space Ranger and Xenium write them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pandas as pd
import pytest
import shapely
from PIL import Image
from scipy import sparse
from shapely.geometry import mapping

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

GENES = ["A", "B", "B", "C"]  # symbols are not unique in 10x matrices
UM_PER_PX = 5.0


def write_matrix(
    path: Path, barcodes: list[str], counts: np.ndarray, genes: list[str] = GENES, kinds: list[str] | None = None
) -> None:
    """Counts, spots by genes, as an HDF5 file of Cell Ranger 3 and later."""
    matrix = sparse.csc_matrix(counts.T)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array(barcodes, "S")
        group["data"], group["indices"], group["indptr"] = matrix.data.astype("i4"), matrix.indices, matrix.indptr
        group["shape"] = np.array(matrix.shape, "i4")
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i}" for i in range(len(genes))], "S")
        features["name"] = np.array(genes, "S")
        features["feature_type"] = np.array(kinds or ["Gene Expression"] * len(genes), "S")
        features["genome"] = np.array(["GRCh38"] * len(genes), "S")
        features["_all_tag_keys"] = np.array(["genome"], "S")
        file.attrs["library_ids"] = np.array([b"lib"])


def draw(path: Path, width: int, height: int, dtype: str = "uint8") -> np.ndarray:
    """A picture of noise."""
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height, width, 3)).astype(dtype)
    if path.suffix in {".tif", ".tiff"}:
        import tifffile

        tifffile.imwrite(path, pixels, photometric="rgb")
    else:
        Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def visium_folder(tmp_path: Path) -> Path:
    """Six by eight spots, 100 µm apart, at 5 µm per pixel; the last row is off the tissue."""
    folder = tmp_path / "V 1"
    (folder / "spatial").mkdir(parents=True)
    rows = [(row, col) for row in range(6) for col in range(row % 2, 16, 2)]
    places = pd.DataFrame(rows, columns=["array_row", "array_col"])
    places["pxl_row_in_fullres"] = (20 + places["array_row"] * 50 * 3**0.5 / UM_PER_PX).round(2)
    places["pxl_col_in_fullres"] = 30 + places["array_col"] * 50 / UM_PER_PX
    places.insert(0, "in_tissue", (places["array_row"] < 5).astype(int))
    places.index = pd.Index([f"AAAC{i:04}-1" for i in range(len(places))], name="barcode")
    places.to_csv(folder / "spatial/tissue_positions.csv")
    counts = np.arange(len(places) * len(GENES)).reshape(len(places), -1) % 7
    kept = places["in_tissue"].to_numpy() == 1
    barcodes = places.index.to_numpy()
    write_matrix(folder / "raw_feature_bc_matrix.h5", barcodes.tolist(), counts)
    write_matrix(folder / "filtered_feature_bc_matrix.h5", barcodes[kept][::-1].tolist(), counts[kept][::-1])
    factors = {"spot_diameter_fullres": 65 / UM_PER_PX, "fiducial_diameter_fullres": 20.0,
               "tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.25}  # fmt: skip
    (folder / "spatial/scalefactors_json.json").write_text(json.dumps(factors))
    draw(folder / "image.tif", 220, 130)
    draw(folder / "spatial/tissue_hires_image.png", 110, 65)
    draw(folder / "spatial/tissue_lowres_image.png", 55, 32)
    return folder


@pytest.fixture
def hd_folder(tmp_path: Path) -> Path:
    """Six by nine bins of 8 µm at 0.5 µm per pixel, turned by 1°; every third is off the tissue."""
    folder = tmp_path / "HD"
    spatial = folder / "binned_outputs/square_008um/spatial"
    spatial.mkdir(parents=True)
    (folder / "binned_outputs/square_016um").mkdir()
    row, col = (part.ravel() for part in np.meshgrid(np.arange(6), np.arange(9), indexing="ij"))
    turn = np.deg2rad(1)
    places = pd.DataFrame({
        "barcode": [f"s_008um_{r:05}_{c:05}-1" for r, c in zip(row, col, strict=True)],
        "in_tissue": (np.arange(54) % 3 > 0).astype(int),
        "array_row": row,
        "array_col": col,
        "pxl_row_in_fullres": 20 + 16 * (np.cos(turn) * row + np.sin(turn) * col),
        "pxl_col_in_fullres": 20 + 16 * (np.cos(turn) * col - np.sin(turn) * row),
    })  # fmt: skip
    places.to_parquet(spatial / "tissue_positions.parquet")
    kept = places["in_tissue"].to_numpy() == 1
    counts = np.arange(54 * 4).reshape(54, 4) % 5
    write_matrix(spatial.parent / "filtered_feature_bc_matrix.h5", places["barcode"][kept].tolist(), counts[kept])
    factors = {"spot_diameter_fullres": 16.0, "bin_size_um": 8.0, "microns_per_pixel": 0.5,
               "tissue_hires_scalef": 0.5, "tissue_lowres_scalef": 0.25, "fiducial_diameter_fullres": 9.0}  # fmt: skip
    (spatial / "scalefactors_json.json").write_text(json.dumps(factors))
    (folder / "microscope_image").mkdir()
    draw(folder / "microscope_image/tissue.tif", 190, 140)
    return folder


def write_coarse_bins(folder: Path) -> None:
    """Bins of 16 µm beside those of `hd_folder`."""
    fine, coarse = (folder / f"binned_outputs/square_{side:03}um" for side in (8, 16))
    (coarse / "spatial").mkdir()
    places = pd.read_parquet(fine / "spatial/tissue_positions.parquet")
    places = places[(places["array_row"] % 2 == 0) & (places["array_col"] % 2 == 0)].copy()
    places[["array_row", "array_col"]] //= 2
    places["in_tissue"] = 1
    places.to_parquet(coarse / "spatial/tissue_positions.parquet")
    (coarse / "spatial/scalefactors_json.json").write_text((fine / "spatial/scalefactors_json.json").read_text())
    write_matrix(coarse / "filtered_feature_bc_matrix.h5", places["barcode"].tolist(), np.arange(60).reshape(15, 4))


CELL_AREAS = {7: shapely.box(20, 20, 36, 30), 2: shapely.box(60, 40, 72, 52), 11: shapely.box(100, 90, 110, 104)}


def write_cells(
    folder: Path, outlines: Mapping[int, Any] = CELL_AREAS, numbers: Sequence[int] = (2, 7, 11), field: Any = int
) -> Path:
    """Cells as Space Ranger 4 writes them: the matrix names them, the outlines number them, in another order."""
    place = folder / "segmented_outputs"
    (place / "spatial").mkdir(parents=True, exist_ok=True)
    names = [f"cellid_{number:09}-1" for number in numbers]
    write_matrix(place / "filtered_feature_cell_matrix.h5", names, np.array(numbers)[:, None] * np.array([1, 2, 3, 4]))
    features = [
        {"type": "Feature", "properties": {"cell_id": field(number)}, "geometry": geometry and mapping(geometry)}
        for number, geometry in outlines.items()
    ]
    (place / "cell_segmentations.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    factors = folder / "binned_outputs/square_008um/spatial/scalefactors_json.json"
    (place / "spatial/scalefactors_json.json").write_text(factors.read_text())
    return place


CELLS = np.array([[20.0, 10.0], [40.0, 30.0], [60.0, 20.0], [30.0, 50.0]])
HE_TO_MORPHOLOGY = np.array([[0.0, 2.0, 4.0], [-2.0, 0.0, 300.0], [0.0, 0.0, 1.0]])


@pytest.fixture
def xenium_folder(tmp_path: Path) -> Path:
    """Four cells and 40 transcripts at 0.25 µm per pixel; the H&E image is half as fine and turned by 90°."""
    folder = tmp_path / "X1"
    folder.mkdir()
    specs = {"pixel_size": 0.25, "analysis_sw_version": "xenium-2.0.0.6-35-ga7e17149a", "region_name": "X1"}
    (folder / "experiment.xenium").write_text(json.dumps(specs))
    names = ["aaaaaaab-1", "aaaaaaac-1", "aaaaaaad-1", "aaaaaaae-1"]
    write_matrix(folder / "cell_feature_matrix.h5", names, np.arange(16).reshape(4, 4))
    cells = pd.DataFrame({"cell_id": names, "x_centroid": CELLS[:, 0], "y_centroid": CELLS[:, 1], "cell_area": 78.5,
                          "transcript_counts": 10, "nucleus_area": 20.0})  # fmt: skip
    cells.to_parquet(folder / "cells.parquet")
    rng = np.random.default_rng(0)
    pd.DataFrame({
        "transcript_id": np.arange(40, dtype="u8"), "cell_id": ["UNASSIGNED"] * 40, "overlaps_nucleus": 0,
        "feature_name": ["A", "B", "C", "NegControlProbe_00001"] * 10, "qv": np.repeat([40.0, 10.0], 20),
        "x_location": rng.uniform(1, 70, 40), "y_location": rng.uniform(1, 60, 40), "z_location": 1.0,
    }).to_parquet(folder / "transcripts.parquet")  # fmt: skip
    draw(folder / "X1_he_image.ome.tif", 150, 145)
    np.savetxt(folder / "X1_he_imagealignment.csv", HE_TO_MORPHOLOGY, delimiter=",")
    return folder
