"""What holds for every reader of a platform: features, images, files that two rules could find, words on content."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import spatialdata_io
from PIL import Image

import stpredict as stp
from stpredict._geometry import PatchSpec
from stpredict._pixels import PatchReader
from stpredict._slides.slides import Selection, resolve

READERS = {
    "visium": (stp.io.read_visium, "filtered_feature_bc_matrix.h5"),
    "hd": (stp.io.read_visium_hd, "binned_outputs/square_008um/filtered_feature_bc_matrix.h5"),
    "xenium": (stp.io.read_xenium, "cell_feature_matrix.h5"),
}


@pytest.fixture(params=READERS)
def sample(request):
    read, matrix = READERS[request.param]
    folder = request.getfixturevalue(f"{request.param}_folder")
    return read, folder, folder / matrix


def name_features(matrix, kinds, names=("A", "B", "B", "C")):
    with h5py.File(matrix, "a") as file:
        for key, values in {"feature_type": kinds, "name": names}.items():
            del file["matrix/features"][key]
            file["matrix/features"][key] = np.array(values, "S")


@pytest.mark.parametrize("other", [
    "Antibody Capture", "CRISPR Guide Capture", "Negative Control Probe", "Negative Control Codeword",
    "Unassigned Codeword", "Deprecated Codeword", "Genomic Control", "Protein Expression",
])  # fmt: skip
def test_only_genes_unless_all_features_are_asked_for(sample, other):
    read, folder, matrix = sample
    before = read(folder)["observed"].X.toarray()
    name_features(matrix, ["Gene Expression", other, "Gene Expression", other])
    table = read(folder)["observed"]
    assert table.var_names.tolist() == ["A", "B"]
    np.testing.assert_array_equal(table.X.toarray(), before[:, [0, 2]])
    every = read(folder, all_features=True)
    np.testing.assert_array_equal(every["observed"].X.toarray(), before)
    assert every["observed"].var["feature_types"].tolist() == ["Gene Expression", other] * 2
    assert resolve(every, Selection())[0].genes == ("A", "B-1")  # never counted as genes


def test_a_matrix_without_genes(sample):
    read, folder, matrix = sample
    name_features(matrix, ["Antibody Capture"] * 4)
    with pytest.raises(
        ValueError, match=r"no feature of type 'Gene Expression' \(found: 'Antibody Capture'\)\. Give another m"
    ):
        read(folder)


def test_proteins_of_xenium_are_divided_by_their_factor(xenium_folder):
    matrix = xenium_folder / "cell_feature_matrix.h5"
    name_features(matrix, ["Gene Expression"] * 3 + ["Protein Expression"])
    with h5py.File(matrix, "a") as file:
        file.attrs["protein_scaling_factor"] = 4.0
    table = stp.io.read_xenium(xenium_folder, all_features=True)["observed"]
    np.testing.assert_array_equal(table.X.toarray(), np.arange(16).reshape(4, 4) / [1, 1, 1, 4])


def test_a_matrix_of_cell_ranger_2(sample):
    read, folder, matrix = sample
    expected = read(folder)["observed"]
    with h5py.File(matrix, "a") as file:
        features = file["matrix/features"]
        file["matrix/genes"], file["matrix/gene_names"] = features["id"][:], features["name"][:]
        del file["matrix/features"]
        file.move("matrix", "GRCh38")
    found = read(folder)["observed"]
    assert found.var_names.tolist() == expected.var_names.tolist()
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    with h5py.File(matrix, "a") as file:
        file.copy("GRCh38", "mm10")
    with pytest.raises(ValueError, match="counts of several genomes: 'GRCh38', 'mm10'"):
        read(folder)


def test_the_exact_name_is_read_beside_a_prefixed_one(sample):
    read, folder, matrix = sample
    expected = read(folder)["observed"].X.toarray()
    for prefix in ("A", "Z"):  # whatever the order of the folder is
        (matrix.with_name(f"{prefix}_{matrix.name}")).write_text("another sample")
    np.testing.assert_array_equal(read(folder)["observed"].X.toarray(), expected)
    matrix.unlink()
    with pytest.raises(ValueError, match=r"several matrix of counts: 'A_.*', 'Z_.*'"):
        read(folder)


@pytest.mark.parametrize(("content", "words"), [
    (b"<!DOCTYPE html><title>Sign in</title>", r"it begins with b'<!DOCTYP'.* Give another file"),
    (b"", r"Bytes are missing or wrong: fetch it again"),
])  # fmt: skip
def test_what_is_no_matrix_is_told_from_what_lost_bytes(sample, content, words):
    read, folder, matrix = sample
    matrix.write_bytes(content)
    with pytest.raises(ValueError, match=rf"matrix of counts '{matrix.name}' cannot be read: .*{words}"):
        read(folder)


def test_an_hdf5_file_of_something_else(sample):
    read, folder, matrix = sample
    with h5py.File(matrix, "w") as file:
        file["obs"] = 1
    with pytest.raises(ValueError, match=r"no group 'matrix' \(found: 'obs'\)\. Give another file"):
        read(folder)


# positions and image, for Visium and Visium HD


@pytest.fixture(params=["visium", "hd"])
def spatial(request):
    read, _ = READERS[request.param]
    folder = request.getfixturevalue(f"{request.param}_folder")
    if request.param == "visium":
        return read, folder, folder / "spatial/tissue_positions.csv", folder / "image.tif"
    places = folder / "binned_outputs/square_008um/spatial/tissue_positions.parquet"
    return read, folder, places, folder / "microscope_image/tissue.tif"


def frame_of(path):
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)


@pytest.mark.parametrize("kind", ["headerless", "byte order mark", "columns in another order", "parquet", "list"])
def test_positions_are_told_by_content(spatial, kind):
    read, folder, path, _ = spatial
    expected = read(folder, name="a")["observed"]
    frame = frame_of(path)
    path.unlink()
    if kind == "parquet":
        frame.to_parquet(path.with_suffix(".parquet"))
    elif kind == "list":
        frame.to_csv(path.with_name("tissue_positions_list.csv"), index=False)
    else:
        frame = frame[[frame.columns[0], *frame.columns[:0:-1]]] if kind.startswith("columns") else frame
        encoding = "utf-8-sig" if kind == "byte order mark" else "utf-8"
        frame.to_csv(path.with_suffix(".csv"), index=False, header=kind != "headerless", encoding=encoding)
    found = read(folder, name="a")["observed"]
    np.testing.assert_array_equal(found.obsm["spatial"], expected.obsm["spatial"])
    pd.testing.assert_frame_equal(found.obs, expected.obs)


def test_two_files_of_positions_must_agree(spatial):
    read, folder, path, _ = spatial
    frame = frame_of(path)
    path.unlink()
    frame.to_csv(path.with_suffix(".csv"), index=False)
    frame.to_csv(path.with_name("tissue_positions_list.csv"), index=False, header=False)
    assert read(folder)
    frame["pxl_col_in_fullres"] += 3
    frame.to_csv(path.with_name("tissue_positions_list.csv"), index=False, header=False)
    with pytest.raises(
        ValueError, match=r"two files of positions that differ: 'tissue_positions.csv' and '.*_list.csv'"
    ):
        read(folder)


def test_positions_of_another_kind_or_sample(spatial):
    read, folder, path, _ = spatial
    frame = frame_of(path)
    path.unlink()
    path.with_suffix(".csv").write_text("x,y\n1,2\n")
    with pytest.raises(
        ValueError, match=r"its first line is 'x', 'y', where 'barcode', 'in_tissue'.* belong\. Give anoth"
    ):
        read(folder)
    frame.assign(barcode="T" + frame["barcode"]).to_csv(path.with_suffix(".csv"), index=False)
    with pytest.raises(ValueError, match=r"(\d+) of \1 spots with counts have no position in .* such as 'T"):
        read(folder)
    far = frame.assign(pxl_row_in_fullres=1e308)  # on no slide
    far.to_csv(path.with_suffix(".csv"), index=False)
    with pytest.raises(ValueError, match=r"(\d+) of \1 spots with counts have no position in "):
        read(folder)


def overview(path, image, factor):
    """The small copy that Space Ranger makes of an image."""
    with Image.open(image) as picture:
        width, height = picture.size
    for place in (path.parent, path.parent.parent / "spatial"):
        if place.is_dir():
            size = round(width * factor), round(height * factor)
            Image.new("RGB", size).save(place / "tissue_hires_image.png")


def patches(sdata):
    (slide,) = resolve(sdata, Selection())
    reader = PatchReader(
        slide.levels, slide.um_per_px, PatchSpec(fov_um=(slide.diameter_um,), size_px=8), axes=slide.axes
    )
    return slide, reader.read(slide.xy_px)[0].astype(int)


def test_a_copy_of_another_size_is_refused_or_scaled(spatial):
    import tifffile

    read, folder, path, image = spatial
    pixels = tifffile.imread(image)
    pixels[:] = (np.arange(pixels.shape[0])[:, None, None] + np.arange(pixels.shape[1])[:, None]) // 2  # smooth
    tifffile.imwrite(image, pixels, photometric="rgb")
    overview(path, image, 0.5)
    expected, right = patches(read(folder, name="a"))
    tifffile.imwrite(folder / "twice.tif", pixels.repeat(2, 0).repeat(2, 1), photometric="rgb")
    with pytest.raises(ValueError, match=r"'twice.tif' is .* seems to be a copy 2 times .*`rescale_image=True`"):
        read(folder, folder / "twice.tif")
    slide, found = patches(read(folder, folder / "twice.tif", name="a", rescale_image=True))
    assert slide.um_per_px == pytest.approx(expected.um_per_px / 2, rel=0.01)
    assert np.abs(found - right).max() <= 1
    tifffile.imwrite(folder / "other.tif", pixels[:100, :70], photometric="rgb")
    with pytest.raises(ValueError, match=r"'other.tif' is 70 x 100 px, .* It is another picture, or a part of it"):
        read(folder, folder / "other.tif", rescale_image=True)


@pytest.mark.parametrize("with_overview", [True, False])
def test_spots_beyond_the_image_are_left_out_with_a_count(spatial, with_overview):
    import tifffile

    read, folder, path, image = spatial
    pixels = tifffile.imread(image)
    overview(path, image, 0.5)
    if not with_overview:
        for file in folder.rglob("tissue_*.png"):
            file.unlink()
    every = read(folder, name="a")["observed"]
    frame = frame_of(path).set_index("barcode")
    far = every.obs_names[[1, 5]] if with_overview else every.obs_names[:1]
    frame.loc[far, "pxl_col_in_fullres"] = pixels.shape[1] + 7.0
    if path.suffix == ".csv":
        frame.to_csv(path)
    else:
        frame.reset_index().to_parquet(path)
    with pytest.warns(UserWarning, match=rf"{len(far)} of {every.n_obs} spots lie off image .* They were left out"):
        sdata = read(folder, name="a")
    kept = every[~every.obs_names.isin(far)]
    assert sdata["observed"].obs_names.tolist() == kept.obs_names.tolist()
    np.testing.assert_array_equal(sdata["observed"].X.toarray(), kept.X.toarray())
    (slide,) = resolve(sdata, Selection())
    np.testing.assert_allclose(slide.xy_px, kept.obsm["spatial"])


def test_an_image_that_was_cut_at_one_side(spatial):
    import tifffile

    read, folder, path, image = spatial
    overview(path, image, 0.5)
    pixels = tifffile.imread(image)
    tifffile.imwrite(image, pixels[:, : pixels.shape[1] // 2], photometric="rgb")
    with (
        pytest.warns(UserWarning, match="Only one side agrees"),
        pytest.warns(UserWarning, match="They were left out"),
    ):
        sdata = read(folder, name="a")
    assert (sdata["observed"].obsm["spatial"][:, 0] < pixels.shape[1] // 2).all()


@pytest.mark.parametrize("diameter_um", [65, 70, 60])
@pytest.mark.filterwarnings("ignore")  # of spatialdata-io
def test_samples_that_spatialdata_io_reads(visium_folder, diameter_um):
    import json

    factors = visium_folder / "spatial/scalefactors_json.json"
    factors.write_text(json.dumps({**json.loads(factors.read_text()), "spot_diameter_fullres": diameter_um / 5}))
    shutil.rmtree(visium_folder / "microscope_image", ignore_errors=True)
    sdata = spatialdata_io.visium(visium_folder, dataset_id="S", fullres_image_file=visium_folder / "image.tif")
    stp.pp.resolution(sdata, image_key="S_full_image")
    assert sdata.attrs["stpredict"]["um_per_px"] == pytest.approx({"S_full_image": 5}, rel=1e-3)
