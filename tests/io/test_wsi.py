"""Slides in every format that a test can write, against their known pixels; and real ones where they are at hand."""

from __future__ import annotations

import errno
import json
import pickle
import re
import runpy
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import sleep
from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from PIL import Image
from scipy.ndimage import zoom
from spatialdata import read_zarr
from spatialdata.models import Image2DModel
from spatialdata.transformations import get_transformation
from torch.utils.data import DataLoader, Dataset

from stpredict._chunks import FileArray, Source, StoredLevel
from stpredict._geometry import PatchSpec, apply_affine, orientation
from stpredict._pixels import PatchReader
from stpredict._slides.slides import Level, pyramid
from stpredict.io import _wsi, _wsi_levels, _wsi_tiff, read_wsi

write = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("slide_files.py"))))
FORMATS = list(write.FORMATS)
SPEC = PatchSpec(fov_um=(16.0, 40.0, 90.0), size_px=16)
XY = np.random.default_rng(0).uniform((0, 0), (421, 310), (40, 2))


@pytest.fixture(scope="module")
def pixels():
    return write.painted()


@pytest.fixture(scope="module")
def levels(pixels):
    return write.levels_of(pixels)


@pytest.fixture
def real(her2st_dir):
    """Folder with slides of scanners."""
    if not (her2st_dir / "wsi").is_dir():
        pytest.skip("needs real slides in the folder 'wsi' beside 'her2st'")
    return her2st_dir / "wsi"


def scales(sdata, name="a"):
    return [sdata[name][scale]["image"] for scale in sdata[name]]


def stored(sdata, name="a"):
    """What `_chunks` reads behind each level."""
    return [Source(scale).pixels for scale in scales(sdata, name)]


@pytest.mark.parametrize("kind", FORMATS)
def test_levels_hold_the_pixels_of_the_file(tmp_path, levels, kind):
    sdata = read_wsi(write.FORMATS[kind](tmp_path, levels))
    assert recorded(sdata) == pytest.approx(0.499 if kind == "SVS" else 0.5, rel=1e-6)
    assert sdata.attrs["stpredict"]["um_per_px_from"] == {"a": "image metadata"}
    found = scales(sdata)
    assert [scale.shape for scale in found] == [(3, *level.shape[:2]) for level in levels]
    for scale, level in zip(found, levels, strict=True):
        np.testing.assert_array_equal(scale.values, level.transpose(2, 0, 1))
    assert [level.factor for level in pyramid(sdata["a"])] == [(1, 1), (2, 2), (4, 4)]
    assert list(get_transformation(sdata["a"], get_all=True)) == ["a"]
    np.testing.assert_allclose(found[1].y, (np.arange(155) + 0.5) * 2)
    Image2DModel().validate(sdata["a"])
    for pixels in stored(sdata):  # patches are read without dask
        assert isinstance(pixels, FileArray | zarr.Array)
    held = [Level(pixels=level.transpose(2, 0, 1), factor=(f, f)) for level, f in zip(levels, (1, 2, 4), strict=True)]
    wanted, border = PatchReader(held, 0.5, SPEC).read(XY)
    reader = PatchReader(pyramid(sdata["a"]), 0.5, SPEC)
    for one in (reader, pickle.loads(pickle.dumps(reader))):
        patches, at_border = one.read(XY)
        np.testing.assert_array_equal(patches, wanted)
        np.testing.assert_array_equal(at_border, border)


def test_nothing_is_decoded_before_it_is_needed_and_every_tile_once(tmp_path, levels, monkeypatch):
    decoded, decode = Counter(), _wsi_tiff._decode_segment

    def counted(out, page, corner, segment):
        decoded[page.offset, segment[1]] += 1
        decode(out, page, corner, segment)

    monkeypatch.setattr(_wsi_tiff, "_decode_segment", counted)
    monkeypatch.setattr("stpredict._chunks.MIN_BLOCK_PX", 1)
    monkeypatch.setattr("stpredict._pixels.CELL_PX", 64)
    sdata = read_wsi(write.tiff(tmp_path / "a.tif", levels))
    assert not decoded
    reader = PatchReader(pyramid(sdata["a"])[:1], 0.5, PatchSpec(fov_um=(8.0,), size_px=16))
    xy = np.random.default_rng(1).uniform(40, 180, (300, 2))
    for start in range(0, 300, 50):
        reader.read(xy[reader.order(xy)[start : start + 50]])
    assert set(decoded.values()) == {1}
    assert len(decoded) == 9  # tiles 0 to 2 of 64 px along x and y


def test_threads_read_the_same_file(tmp_path, levels):
    (pixels, *_) = stored(read_wsi(write.tiff(tmp_path / "a.tif", levels)))
    np.testing.assert_array_equal(scales(read_wsi(tmp_path / "a.tif"))[0].values, pixels[:])
    reader = PatchReader([Level(pixels=pixels, factor=(1, 1))], 0.5, SPEC, budget_bytes=1, n_threads=8)
    np.testing.assert_array_equal(
        reader.read(XY)[0], PatchReader([Level(pixels=pixels[:], factor=(1, 1))], 0.5, SPEC).read(XY)[0]
    )


class Patches(Dataset):
    """One spot an item."""

    def __init__(self, reader):
        self.reader = reader

    def __len__(self):
        return len(XY)

    def __getitem__(self, i):
        return self.reader.read(XY[i : i + 1])[0][0]


@pytest.mark.parametrize("backend", ["tiffslide", "openslide"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_forked_workers_open_the_file_themselves(tmp_path, levels, backend):
    sdata = read_wsi(write.tiff(tmp_path / "a.tif", levels), backend=backend)
    reader = PatchReader(pyramid(sdata["a"]), 0.5, SPEC)
    wanted = reader.read(XY)[0]
    loader = DataLoader(Patches(reader), batch_size=8, num_workers=2, multiprocessing_context="fork")
    np.testing.assert_array_equal(np.concatenate([batch.numpy() for batch in loader]), wanted)


def test_a_pickled_level_opens_the_file_itself(tmp_path, pixels):
    level, *_ = stored(read_wsi(write.tiff(tmp_path / "a.tif", [pixels])))
    found = pickle.loads(pickle.dumps(level)).read((40, 130), (3, 200))
    np.testing.assert_array_equal(found, pixels[40:130, 3:200].transpose(2, 0, 1))


def test_a_pickled_handle_is_a_path():
    handle = _wsi_levels.FileHandle(Path("a"), open)
    assert pickle.loads(pickle.dumps(handle)).path == Path("a")


SLICES = [
    (np.s_[:],), (1,), np.s_[:, 7], np.s_[:, :, -3], np.s_[0, 5, 9], np.s_[:, 3:150, 60:200], np.s_[1:, ::7, 5::3],
    np.s_[:, 200:100], np.s_[[2, 0], ::-1, 250:20:-9], np.s_[:, -5:], np.s_[:, 5, ::2],
]  # fmt: skip


@pytest.mark.parametrize("backend", ["tiffslide", "openslide"])
def test_slices_are_those_of_numpy(tmp_path, pixels, backend):
    sdata = read_wsi(write.tiff(tmp_path / "a.tif", [pixels]), backend=backend)
    for at in SLICES:
        np.testing.assert_array_equal(stored(sdata)[0][at], pixels.transpose(2, 0, 1)[at])
        if not any(isinstance(part, list) for part in at):
            np.testing.assert_array_equal(scales(sdata)[0].data[at].compute(), pixels.transpose(2, 0, 1)[at])


def test_levels_whose_factor_is_no_whole_number(tmp_path):
    """Scanners drop odd edges: 2203 rows become 550, a factor of 4.005, and 68, one of 32.4."""
    full = zoom(write.painted(80, 120), (30, 30, 1), order=1)[:2203, :3301]
    sdata = read_wsi(write.svs(tmp_path / "a.svs", write.levels_of(full, (1, 4, 32))))
    assert [level.factor for level in pyramid(sdata["a"])] == [(1, 1), (4, 4), (32, 32)]
    xy = np.array([[2700.3, 1730.8], [600.0, 600.0]])
    for factor, size_px in ((4, 64), (32, 20)):
        spec = PatchSpec(fov_um=(1.3 * size_px * factor * 0.499,), size_px=size_px)
        coarse, fine = (PatchReader(pyramid(sdata["a"])[:n], 0.499, spec).read(xy)[0].astype(int) for n in (3, 1))
        assert np.abs(coarse - fine).mean() < 2  # 1 % would be 27 pixels here, and 9 grey values


def test_levels_that_cover_the_whole_image_have_the_ratio_of_sizes(tmp_path):
    full = write.painted(301, 403)
    levels = [full, zoom(full, (151 / 301, 202 / 403, 1), order=1), zoom(full, (76 / 301, 101 / 403, 1), order=1)]
    found = pyramid(read_wsi(write.tiff(tmp_path / "a.tif", levels))["a"])
    assert [level.factor for level in found] == [(1, 1), (301 / 151, 403 / 202), (301 / 76, 403 / 101)]


@pytest.mark.parametrize("kind", ["SVS", "OME-Zarr tczyx"])
def test_spatialdata_writes_what_was_read(tmp_path, levels, kind):
    sdata = read_wsi(write.FORMATS[kind](tmp_path, levels))
    sdata.write(tmp_path / "copy.zarr")
    copy = read_zarr(tmp_path / "copy.zarr")
    assert copy.attrs == sdata.attrs
    for one, other in zip(scales(sdata), scales(copy), strict=True):
        np.testing.assert_array_equal(one.values, other.values)


@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")
def test_it_is_drawn(tmp_path, levels):
    import matplotlib.pyplot as plt
    import spatialdata_plot  # noqa: F401

    sdata = read_wsi(write.tiff(tmp_path / "a.tif", levels))
    _, ax = plt.subplots()
    sdata.pl.render_images("a").pl.show(ax=ax, coordinate_systems="a")
    drawn = ax.images[0].get_array()
    assert drawn.shape[:2] == (310, 421)
    plt.close("all")


# --- resolution and names ---------------------------------------------------------------------------------------------


def recorded(sdata):
    return sdata.attrs["stpredict"].get("um_per_px", {}).get("a")


def test_what_is_recorded_is_json(tmp_path, levels):
    ours = read_wsi(write.svs(tmp_path / "a.svs", levels)).attrs["stpredict"]
    assert json.loads(json.dumps(ours)) == ours
    assert ours["slide"]["a"] == {"file": "a.svs", "backend": "tiffslide", "vendor": "aperio", "objective_power": 20.0,
                                  "um_per_px": [0.499, 0.499]}  # fmt: skip


@pytest.mark.parametrize(("options", "found"), [
    ({"um_per_px": 25_400 / 300}, None),
    ({"um_per_px": 0.04}, None),
    ({"um_per_px": 40.5}, None),
    ({"um_per_px": 39.0}, 39.0),
    ({"um_per_px": 0.5, "unit": 1}, None),
    ({"um_per_px": 0.5 / 2.54, "unit": 2}, 0.5),
    ({"um_per_px": None}, None),
])  # fmt: skip
def test_tags_are_believed_if_they_can_be_a_scan(tmp_path, levels, options, found):
    path = write.tiff(tmp_path / "a.tif", levels, **options)
    if found is None:
        with pytest.warns(UserWarning, match=r"image 'a' does not say how large a pixel is .*`stp\.pp\.resolution\("):
            sdata = read_wsi(path)
        assert set(sdata.attrs["stpredict"]) == {"slide"}
    else:
        assert recorded(read_wsi(path)) == pytest.approx(found, rel=1e-5)


def test_units_of_ome_tiff(tmp_path, levels):
    for unit, um_per_px in {"nm": 500.0, "mm": 0.0005, "µm": 0.5, "cm": 0.00005}.items():
        path = write.ome_tiff(tmp_path / "a.tif", levels[:1], um_per_px=um_per_px, unit=unit)
        assert recorded(read_wsi(path)) == pytest.approx(0.5)


@pytest.mark.parametrize(("options", "found"), [
    ({"unit": "nanometer", "um_per_px": 250.0}, 0.25),
    ({"unit": "millimeter", "um_per_px": 0.0005, "version": "0.5"}, 0.5),
    ({"um_per_px": 0.25, "scale": 2.0}, 0.5),
    ({"unit": None, "version": "0.5"}, None),
    ({"unit": "parsec"}, None),
    ({"axes": "tczyx", "um_per_px": 0.3}, 0.3),
])  # fmt: skip
def test_units_of_ome_zarr(tmp_path, levels, options, found):
    path = write.ome_zarr(tmp_path / "a.zarr", levels[:1], **options)
    if found is None:
        with pytest.warns(UserWarning, match="does not say"):
            assert recorded(read_wsi(path)) is None
    else:
        assert recorded(read_wsi(path)) == pytest.approx(found)


def test_a_given_resolution_wins_over_the_file(tmp_path, levels):
    path = write.svs(tmp_path / "a.svs", levels)
    sdata = read_wsi(path, um_per_px=0.51)
    assert recorded(sdata) == 0.51
    assert sdata.attrs["stpredict"]["um_per_px_from"] == {"a": "argument"}
    with pytest.warns(UserWarning, match=r"is 0\.25 µm per pixel by the argument .* but 0\.499 by image metadata"):
        assert recorded(read_wsi(path, um_per_px=0.25)) == 0.25
    for wrong in (0, -1, 1000):
        with pytest.raises(ValueError, match=r"um_per_px|µm per pixel"):
            read_wsi(path, um_per_px=wrong)


def test_a_wrong_file_is_overruled_afterwards(tmp_path, levels):
    from stpredict.pp import resolution

    sdata = read_wsi(write.svs(tmp_path / "a.svs", levels))
    resolution(sdata, um_per_px=0.25)
    assert recorded(sdata) == 0.25


def test_pixels_that_are_not_square(tmp_path, levels):
    path = tmp_path / "a.tif"
    write.tiff(path, levels, resolution=(20_000, 19_900), resolutionunit=3, um_per_px=None)
    assert recorded(read_wsi(path)) == pytest.approx(0.50125, rel=1e-4)
    write.tiff(path, levels, resolution=(20_000, 19_000), resolutionunit=3, um_per_px=None)
    with pytest.raises(ValueError, match=r"not square: 0\.5 µm wide and 0\.5263 µm high"):
        read_wsi(path)


NAMES = {"TCGA-A1 (2).tif": "TCGA-A1__2_", "a.ome.svs": "a", "x.y-z_1.tif": "x.y-z_1", "__.tif": "slide",
         "__a.tif": "a", "Schnitt ä.tif": "Schnitt_ä", "!.tif": "_"}  # fmt: skip


def test_names(tmp_path, pixels):
    for file, name in NAMES.items():
        path = write.tiff(tmp_path / file, [pixels])
        sdata = read_wsi(path)
        assert (list(sdata.images), sdata.coordinate_systems) == ([name], [name])
    assert list(read_wsi(path, name="other").images) == ["other"]
    for name in ("", "a b", "__a", ".", "a/b"):
        with pytest.raises(ValueError, match=r"`name` is .* letters, digits"):
            read_wsi(path, name=name)


# --- kinds of pixels --------------------------------------------------------------------------------------------------

NO_RESOLUTION = pytest.mark.filterwarnings("ignore:The file of image")


@NO_RESOLUTION
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.svs"])
def test_pictures_are_decoded_as_a_whole(tmp_path, pixels, name):
    path = write.picture(tmp_path / name, pixels, format="JPEG" if name == "a.jpg" else "PNG", dpi=(50_000, 50_000))
    sdata = read_wsi(path)
    first, *rest = scales(sdata)
    difference = np.abs(first.values.astype(int) - pixels.transpose(2, 0, 1))
    assert difference.mean() < 3 if name == "a.jpg" else not difference.any()
    assert [scale.shape[1] for scale in rest] == [155, 77, 38]
    assert recorded(sdata) is None
    assert sdata.attrs["stpredict"]["slide"]["a"]["backend"] == "pillow"


@NO_RESOLUTION
def test_pictures_too_large_to_be_held(tmp_path, pixels):
    path = write.picture(tmp_path / "a.png", pixels)
    needed = 10e-9 * pixels[..., 0].size
    read_wsi(path, max_memory_gb=needed)
    with pytest.raises(ValueError, match=r"'a\.png', decoded as a whole \(421 x 310 pixels\), needs .* tiled pyramid"):
        read_wsi(path, max_memory_gb=0.99 * needed)


@NO_RESOLUTION
def test_cmyk_jpeg_and_palettes_become_rgb(tmp_path, pixels):
    for path, image in {
        tmp_path / "a.jpg": Image.fromarray(pixels).convert("CMYK"),
        tmp_path / "b.png": Image.fromarray(pixels).quantize(256),
        tmp_path / "c.tif": Image.fromarray(pixels).convert("CMYK"),
        tmp_path / "d.tif": Image.fromarray(pixels).quantize(256),
    }.items():
        image.save(path)
        found = scales(read_wsi(path), path.stem)[0].values
        assert np.abs(found.astype(int) - pixels.transpose(2, 0, 1)).mean() < 15


@NO_RESOLUTION
def test_transparent_pixels_are_white(tmp_path, pixels):
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
    rgba[:, :200, 3] = 0
    on_white = np.where(rgba[..., 3:] > 0, pixels, 255)
    held = [Level(pixels=on_white.transpose(2, 0, 1), factor=(1, 1))]
    wanted = PatchReader(held, 0.5, SPEC).read(XY)[0]
    paths = (
        write.tiff(tmp_path / "a.tif", [rgba], extrasamples=["unassalpha"]),
        write.picture(tmp_path / "a.png", rgba),
        write.ome_zarr(tmp_path / "a.zarr", [rgba]),
    )
    for path in paths:
        levels = pyramid(read_wsi(path)["a"])[:1]
        np.testing.assert_array_equal(PatchReader(levels, 0.5, SPEC).read(XY)[0], wanted)
    assert list(scales(read_wsi(tmp_path / "a.tif"))[0].c.values) == ["r", "g", "b", "a"]


@pytest.mark.parametrize("kind", ["OME-Zarr 0.5", "OME-TIFF, channels apart"])
def test_16_bits_are_kept_and_cut_as_8(tmp_path, pixels, levels, kind):
    deep = [level.astype(np.uint16) * 257 for level in levels]
    sdata = read_wsi(write.FORMATS[kind](tmp_path, deep))
    assert scales(sdata)[0].dtype == np.uint16
    wanted = PatchReader([Level(pixels=pixels.transpose(2, 0, 1), factor=(1, 1))], 0.5, SPEC).read(XY)[0]
    np.testing.assert_array_equal(PatchReader(pyramid(sdata["a"])[:1], 0.5, SPEC).read(XY)[0], wanted)


@NO_RESOLUTION
def test_grey_is_refused(tmp_path, pixels):
    grey = pixels[..., 0]
    with pytest.raises(ValueError, match=r"'a' is not H&E in colour \(grey: one channel"):
        read_wsi(write.tiff(tmp_path / "a.tif", [grey], photometric="minisblack"))
    with pytest.raises(ValueError, match=r"not H&E in colour \(grey: one channel"):
        read_wsi(write.ome_zarr(tmp_path / "a.zarr", [grey[..., None]]))
    for name in ("a.png", "a.jpg"):
        with pytest.raises(ValueError, match="is grey"):
            read_wsi(write.picture(tmp_path / name, grey))
    with pytest.raises(ValueError, match="5 channels"):
        read_wsi(write.ome_zarr(tmp_path / "b.zarr", [np.dstack([pixels, pixels[..., :2]])]))


def test_stacks_are_refused(tmp_path, pixels):
    stack = np.stack([pixels, pixels])
    with pytest.raises(ValueError, match=r"'a\.tif' is no single picture: its axes are Z 2, Y 310, X 421, S 3"):
        read_wsi(write.ome_tiff_stack(tmp_path / "a.tif", stack))
    write.ome_zarr(tmp_path / "a.zarr", [pixels], axes="czyx")
    group = zarr.open_group(tmp_path / "a.zarr")
    del group["0"]
    group.create_array("0", shape=(3, 2, 310, 421), dtype="uint8")
    with pytest.raises(ValueError, match=r"'a\.zarr' is no single picture: its axes are c 3, z 2"):
        read_wsi(tmp_path / "a.zarr")


def test_the_largest_picture_is_read(tmp_path, levels):
    """`svs` adds a thumbnail, a label and a macro."""
    assert [scale.shape[1] for scale in scales(read_wsi(write.svs(tmp_path / "a.svs", levels)))] == [310, 155, 77]
    label = np.full((600, 500), 40, np.uint8)
    write.several(tmp_path / "b.tif", [levels[2], label, levels[0], levels[1]])
    np.testing.assert_array_equal(scales(read_wsi(tmp_path / "b.tif"), "b")[0].values, levels[0].transpose(2, 0, 1))


def test_tiles_that_were_left_out_are_white(tmp_path, pixels):
    path = write.tiff(tmp_path / "a.tif", [pixels])
    write.without_tile(path, 0)
    found = scales(read_wsi(path))[0].values
    assert (found[:, :64, :64] == 255).all()
    np.testing.assert_array_equal(found[:, 64:], pixels.transpose(2, 0, 1)[:, 64:])


# --- levels that are missing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "dtype"), [
    ("generic TIFF", np.uint8), ("OME-Zarr 0.4", np.uint16), ("OME-Zarr yxc", np.uint8),
])  # fmt: skip
def test_a_long_coarsest_level_is_halved(tmp_path, monkeypatch, kind, dtype):
    monkeypatch.setattr(_wsi_levels, "MAX_COARSEST_PX", 150)
    monkeypatch.setattr(_wsi_levels, "BLOCK_PX", 64)
    full = write.painted(311, 421).astype(dtype)
    sdata = read_wsi(write.FORMATS[kind](tmp_path, [full]))
    found = scales(sdata)
    assert [scale.shape[1:] for scale in found] == [(311, 421), (155, 210), (77, 105)]
    assert [level.factor for level in pyramid(sdata["a"])] == [(1, 1), (2, 2), (4, 4)]
    blocks = full[:310, :420].reshape(155, 2, 210, 2, 3).astype(int).sum(axis=(1, 3)) // 4
    np.testing.assert_array_equal(found[1].values, blocks.transpose(2, 0, 1))
    assert all(isinstance(pixels, FileArray) for pixels in stored(sdata)[1:])
    coarse = stored(sdata)[2]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(coarse))[:, 5:70, 9:33], found[2].values[:, 5:70, 9:33])


def test_a_small_level_is_left_as_it_is(tmp_path, pixels):
    assert len(scales(read_wsi(write.tiff(tmp_path / "a.tif", write.levels_of(pixels, (1, 2)))))) == 2


def test_a_lone_level_gets_its_half(tmp_path, pixels):
    """Else SpatialData would give back no multiscale image after writing."""
    read_wsi(write.tiff(tmp_path / "a.tif", [pixels])).write(tmp_path / "a.zarr")
    assert [scale.shape[1] for scale in scales(read_zarr(tmp_path / "a.zarr"))] == [310, 155]


# --- a copy as zarr ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["SVS", "OME-Zarr tczyx"])
def test_a_copy_as_zarr(tmp_path, levels, kind):
    path, store = write.FORMATS[kind](tmp_path, levels), tmp_path / "out" / "copy.zarr"
    store.parent.mkdir()
    sdata = read_wsi(path, to_zarr=store)
    assert Path(sdata.path) == store
    assert all(isinstance(pixels, StoredLevel) for pixels in stored(sdata))
    assert stored(sdata)[0].chunks == (3, 310, 421)
    for scale, level in zip(scales(sdata), levels, strict=True):
        np.testing.assert_array_equal(scale.values, level.transpose(2, 0, 1))
    assert sdata.attrs == read_wsi(path).attrs
    assert [inside.name for inside in store.parent.iterdir()] == ["copy.zarr"]


@NO_RESOLUTION
def test_a_copy_of_a_picture(tmp_path, pixels):
    sdata = read_wsi(write.picture(tmp_path / "a.png", pixels), to_zarr=tmp_path / "a.zarr")
    assert len(scales(sdata)) == 4


def test_copies_have_chunks_of_512(tmp_path):
    sdata = read_wsi(
        write.tiff(tmp_path / "a.tif", [write.painted(700, 1500)], tile=(240, 240)), to_zarr=tmp_path / "a.zarr"
    )
    assert stored(sdata)[0].chunks == (3, 512, 512)
    np.testing.assert_array_equal(scales(sdata)[0].values, write.painted(700, 1500).transpose(2, 0, 1))


def test_a_copy_is_there_as_a_whole_or_not_at_all(tmp_path, levels):
    path = write.tiff(tmp_path / "a.tif", levels)
    with path.open("r+b") as file:  # damage that is found only when pixels are decoded
        file.seek(path.stat().st_size // 4)
        file.write(b"\xff" * 2000)
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"slide 'a\.tif' cannot be read"):
        read_wsi(path, to_zarr=tmp_path / "out" / "a.zarr")
    assert not list((tmp_path / "out").iterdir())
    with pytest.raises(FileExistsError, match=r"`to_zarr` is .*, which exists"):
        read_wsi(path, to_zarr=tmp_path / "out")


# --- what cannot be read ----------------------------------------------------------------------------------------------


@NO_RESOLUTION
@pytest.mark.parametrize("kind", [
    "SVS", "big-endian TIFF", "striped TIFF", "OME-TIFF", "OME-TIFF, channels apart", "PNG", "JPEG",
])  # fmt: skip
def test_files_that_are_cut_short(tmp_path, levels, kind):
    if kind in {"PNG", "JPEG"}:
        path = write.picture(tmp_path / "a", levels[0], format=kind)
    else:
        path = write.FORMATS[kind](tmp_path, levels)
    whole = path.read_bytes()
    for share in (0.02, 0.3, 0.6, 0.9, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"cannot be read: .*Bytes are missing"):
            read_wsi(path)


def test_damaged_tiles_are_reported_when_they_are_read(tmp_path, pixels):
    path = write.tiff(tmp_path / "a.tif", [pixels])
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 3000)
    levels = pyramid(read_wsi(path)["a"])
    with pytest.raises(ValueError, match=r"slide 'a\.tif' cannot be read: .*Bytes are missing"):
        PatchReader(levels, 0.5, SPEC).read(XY)


def test_the_content_decides_not_the_name(tmp_path, levels):
    path = write.svs(tmp_path / "a.svs", levels).rename(tmp_path / "a.jpg")
    assert read_wsi(path).attrs["stpredict"]["slide"]["a"]["vendor"] == "aperio"
    for name, content in {"a.svs": b"", "b.svs": b"x, y\n1, 2\n", "c.dcm": bytes(200)}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"'{re.escape(name)}' (is empty|begins with b'.*). The content decides"):
            read_wsi(tmp_path / name)


def test_nothing_there(tmp_path, pixels):
    with pytest.raises(ValueError, match=r"`path` is an empty string\. Give a path"):
        read_wsi("")
    with pytest.raises(FileNotFoundError, match=r"No slide at '.*a\.svs'"):
        read_wsi(tmp_path / "a.svs")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"folder without zarr metadata \(it holds 'notes\.txt'\)"):
        read_wsi(tmp_path / "folder")
    write.picture(tmp_path / "a.mrxs", pixels, format="JPEG")
    with pytest.raises(FileNotFoundError, match=r"'a\.mrxs' holds no pixels of its own: .*Slidedat\.ini"):
        read_wsi(tmp_path / "a.mrxs")


def test_zarr_that_is_no_image(tmp_path, levels, sdata):
    zarr.open_group(tmp_path / "a.zarr", mode="w").attrs["made by"] = "hand"
    with pytest.raises(ValueError, match=r"no OME-Zarr image \(its metadata hold 'made by'\)"):
        read_wsi(tmp_path / "a.zarr")
    sdata.write(tmp_path / "object.zarr")
    with pytest.raises(ValueError, match=r"It is a SpatialData object: read it with `spatialdata\.read_zarr"):
        read_wsi(tmp_path / "object.zarr")
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.zarr" / "zarr.json").write_text("{")
    with pytest.raises(ValueError, match=r"slide 'c\.zarr' cannot be read"):
        read_wsi(tmp_path / "c.zarr")
    group = zarr.open_group(write.ome_zarr(tmp_path / "b.zarr", levels))
    del group["1"]
    with pytest.raises(ValueError, match=r"names levels '0', '1', '2', of which '1' are missing"):
        read_wsi(tmp_path / "b.zarr")


def test_the_first_picture_of_a_converted_file(tmp_path, levels):
    zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2).attrs["bioformats2raw.layout"] = 3
    write.ome_zarr(tmp_path / "a.zarr" / "0", levels)
    np.testing.assert_array_equal(scales(read_wsi(tmp_path / "a.zarr"))[2].values, levels[2].transpose(2, 0, 1))


# --- backends ---------------------------------------------------------------------------------------------------------


def test_openslide_gives_the_same_pixels(tmp_path, levels):
    path = write.tiff(tmp_path / "a.tif", levels)
    found = scales(read_wsi(path, backend="openslide"))
    for scale, level in zip(found, levels[:2], strict=False):
        np.testing.assert_array_equal(scale.values, level.transpose(2, 0, 1))
    assert found[2].shape == (3, *levels[2].shape[:2])
    assert recorded(read_wsi(path, backend="openslide")) == pytest.approx(0.5)


def test_openslide_reads_what_tifffile_does_not(tmp_path, pixels):
    path = write.tiff(tmp_path / "a.tif", [pixels], photometric="ycbcr", subsampling=(1, 1))
    sdata = read_wsi(path)
    assert sdata.attrs["stpredict"]["slide"]["a"]["backend"] == "openslide"
    with pytest.raises(ValueError, match="its pixels are YCbCr, compressed as ADOBE_DEFLATE"):
        read_wsi(path, backend="tiffslide")


@NO_RESOLUTION
def test_backends_that_do_not_read_a_file(tmp_path, pixels):
    with pytest.raises(ValueError, match="`backend` is 'cucim'; it must be one of 'auto', 'tiffslide', 'openslide'"):
        read_wsi(write.tiff(tmp_path / "a.tif", [pixels]), backend="cucim")
    for path in (write.picture(tmp_path / "a.png", pixels), write.ome_zarr(tmp_path / "a.zarr", [pixels])):
        with pytest.raises(ValueError, match=r"`backend='openslide'` does not read\. Leave out `backend`"):
            read_wsi(path, backend="openslide")
    with pytest.raises(ValueError, match=r"slide 'b\.tif' cannot be read: .*"):
        read_wsi(write.tiff(tmp_path / "b.tif", [pixels], tile=None), backend="openslide")


@pytest.mark.parametrize("module", ["tiffslide", "openslide"])
def test_backends_that_are_not_installed(tmp_path, pixels, monkeypatch, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=rf"with {module}, which is not .*'stpredict-histology\[io\]'"):
        read_wsi(write.tiff(tmp_path / "a.tif", [pixels]), backend=module)


# --- slides of scanners -----------------------------------------------------------------------------------------------


def test_real_aperio(real):
    import openslide

    sdata = read_wsi(real / "CMU-1-Small-Region.svs")
    assert sdata.attrs["stpredict"]["slide"]["CMU-1-Small-Region"]["objective_power"] == 20
    pixels, _ = stored(sdata, "CMU-1-Small-Region")
    assert pixels.shape == (3, 2967, 2220)
    with openslide.OpenSlide(real / "CMU-1-Small-Region.svs") as slide:
        wanted = np.asarray(slide.read_region((1000, 1500), 0, (300, 200)))[..., :3].transpose(2, 0, 1)
    assert np.abs(pixels[:, 1500:1700, 1000:1300].astype(int) - wanted).max() <= 2  # two decoders of JPEG


def test_real_dicom(real, tmp_path):
    sdata = read_wsi(real / "camelyon_level.dcm")
    ours = sdata.attrs["stpredict"]
    assert (ours["slide"]["camelyon_level"]["vendor"], ours["slide"]["camelyon_level"]["backend"]) == (
        "dicom",
        "openslide",
    )
    assert ours["um_per_px"]["camelyon_level"] == pytest.approx(28.9685)
    assert scales(sdata, "camelyon_level")[0].values.std() > 10
    whole = (real / "camelyon_level.dcm").read_bytes()
    for share in (0.01, 0.5, 0.95):
        (tmp_path / "cut.dcm").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"slide 'cut\.dcm' cannot be read"):
            scales(read_wsi(tmp_path / "cut.dcm"), "cut")[0].values  # noqa: B018


def test_threads_read_a_dicom_one_after_the_other(real, monkeypatch):
    """openslide ended the process in some of a thousand rounds of threads that met damage in one DICOM at once."""
    import openslide

    level, inside, most = _wsi.open_slide_file(real / "camelyon_level.dcm", "auto").levels[0], [], []
    read_region = openslide.OpenSlide.read_region

    def watched(self, *args):
        inside.append(args)
        most.append(len(inside))
        sleep(0.01)  # others would come in meanwhile
        try:
            return read_region(self, *args)
        finally:
            inside.pop()

    monkeypatch.setattr(openslide.OpenSlide, "read_region", watched)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda x: level.read((0, 256), (x, x + 256)), range(0, 896, 32)))
    assert set(most) == {1}


def test_real_tiff_with_a_printers_resolution(real):
    with pytest.warns(UserWarning, match="does not say how large a pixel is"):
        sdata = read_wsi(real / "small_HE_levels.tiff")
    assert [level.factor for level in pyramid(sdata["small_HE_levels"])] == [(1, 1), (2, 2), (4, 4), (8, 8)]


# what valid files can be


def window(path, xy, size=64, **options):
    """The patch around a pixel, as large as its pixels."""
    sdata = read_wsi(path, um_per_px=0.5, **options)
    levels = pyramid(sdata[next(iter(sdata.images))])
    spec = PatchSpec(fov_um=(size * 0.5,), size_px=size)
    return PatchReader(levels, 0.5, spec).read(np.array([xy]))[0][0, 0].astype(int)


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("meaning", ["UNSPECIFIED", "ASSOCALPHA", "UNASSALPHA"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_a_fourth_sample_is_what_the_file_says(tmp_path, meaning, planar, dtype):
    pixels = write.painted()
    alpha = np.full((*pixels.shape[:2], 1), 128, np.uint8)
    alpha[:, 200:] = 0 if meaning == "UNSPECIFIED" else 255
    stored = np.rint(pixels * (alpha / 255)).astype(np.uint8) if meaning == "ASSOCALPHA" else pixels
    scale = 1 if dtype == "uint8" else 257
    stored = np.concatenate([stored, alpha], axis=2).astype(dtype) * np.array(scale, dtype)
    options = {"planarconfig": "separate"} if planar else {}
    stored = stored.transpose(2, 0, 1) if planar else stored
    path = write.tiff(tmp_path / "a.tif", [stored], extrasamples=[meaning], **options)
    on_white = np.rint(pixels * (alpha / 255) + 255 - alpha).astype(int)
    shown = (pixels if meaning == "UNSPECIFIED" else on_white)[68:132, 168:232]
    assert np.abs(window(path, (200.0, 100.0)) - shown.transpose(2, 0, 1)).max() <= 1


@pytest.mark.parametrize("label", ["a", "alpha", "mask", "DAPI"])
def test_a_fourth_channel_of_ome_zarr_is_what_its_name_says(tmp_path, label):
    pixels = write.painted()
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 51, np.uint8)])
    path = write.ome_zarr(tmp_path / "a.zarr", [rgba])
    zarr.open_group(path).attrs["omero"] = {"channels": [{"label": name} for name in ("r", "g", "b", label)]}
    shown = np.rint(pixels * 0.2 + 255 * 0.8).astype(int) if label in {"a", "alpha"} else pixels
    assert np.abs(window(path, (200.0, 100.0)) - shown[68:132, 168:232].transpose(2, 0, 1)).max() <= 1


def test_an_empty_fourth_channel_is_no_opacity(tmp_path):
    pixels = write.painted()
    path = write.ome_zarr(tmp_path / "a.zarr", [np.dstack([pixels, np.zeros(pixels.shape[:2], np.uint8)])])
    np.testing.assert_array_equal(window(path, (200.0, 100.0)), pixels[68:132, 168:232].transpose(2, 0, 1))


def padded(level, tile=64):
    height, width = (-(-side // tile) * tile for side in level.shape[:2])
    whole = np.full((height, width, 3), 255, np.uint8)
    whole[: level.shape[0], : level.shape[1]] = level
    return whole


def rescale(path, scales):
    """Record other scales of the levels of an OME-Zarr."""
    group = zarr.open_group(path)
    multiscales = group.attrs["multiscales"]
    for dataset, scale in zip(multiscales[0]["datasets"], scales, strict=True):
        dataset["coordinateTransformations"][0]["scale"] = [1.0, scale, scale]
    group.attrs["multiscales"] = multiscales


def test_levels_that_are_padded_to_tiles(tmp_path):
    pixels = write.painted(512, 550)
    levels = [padded(level) for level in write.levels_of(pixels, (1, 2, 4, 8))]  # 576, 320, 192 and 128 px wide
    held = _wsi_levels.SlideFile(levels=tuple(level.transpose(2, 0, 1) for level in levels))
    with pytest.warns(UserWarning, match=r"Levels of 'a' are left out, .*: 1 \(320 x 256 px: 1\.8 and 2\), 2 .*, 3 "):
        assert len(_wsi_levels.consistent_levels(held, "a")) == 1
    store = write.ome_zarr(tmp_path / "a.zarr", levels)
    rescale(store, (0.5, 1.0, 2.0, 4.0))
    found = pyramid(read_wsi(store)["a"])
    assert [level.factor for level in found] == [(1, 1), (2, 2), (4, 4), (8, 8)]
    for level, whole in zip(found, levels, strict=True):
        height, width = level.pixels.shape[1:]
        np.testing.assert_array_equal(level.pixels, whole[:height, :width].transpose(2, 0, 1))


def test_a_level_that_lacks_rows_has_the_recorded_factor(tmp_path, pixels):
    levels = write.levels_of(pixels, (1, 2))
    path = write.ome_zarr(tmp_path / "a.zarr", [levels[0], levels[1][:-5]])
    rescale(path, (0.5, 1.0))
    _, coarse = pyramid(read_wsi(path)["a"])
    assert coarse.factor == (2, 2)
    assert (np.asarray(coarse.pixels)[:, -5:] == 255).all()


def test_recorded_scales_that_are_placeholders(tmp_path, levels):
    path = write.ome_zarr(tmp_path / "a.zarr", levels)
    rescale(path, (0.5, 0.5, 0.5))
    assert [level.factor for level in pyramid(read_wsi(path)["a"])] == [(1, 1), (2, 2), (4, 4)]


def dicom(path, size, spacing, series=b"1.2.3"):
    """The elements of a DICOM file that say how large its pixels are."""

    def element(tag, kind, value):
        value += b" " * (len(value) % 2)
        return bytes.fromhex(tag) + kind + len(value).to_bytes(2, "little") + value

    content = element("20000e00", b"UI", series) + element("48000600", b"UL", size[0].to_bytes(4, "little"))
    content += element("48000700", b"UL", size[1].to_bytes(4, "little"))
    content += element("28003000", b"DS", f"{spacing}\\{spacing}".encode())
    path.write_bytes(bytes(128) + b"DICM" + content + bytes.fromhex("e07f1000") + b"OB")
    return path


def test_factors_of_dicom_are_those_of_its_spacing(tmp_path):
    from stpredict.io._wsi_openslide import _dicom_factors

    sizes = [(1152, 1024), (640, 512), (384, 256)]
    files = [dicom(tmp_path / f"{i}.dcm", size, 0.0005 * 2**i) for i, size in enumerate(sizes)]
    dicom(tmp_path / "other.dcm", (640, 512), 0.7, series=b"9.9")
    (tmp_path / "notes.txt").write_text("nothing")
    assert _dicom_factors(files[0], sizes) == ((1, 1), (2, 2), (4, 4))
    files[1].unlink()
    assert _dicom_factors(files[0], sizes) == ((1, 1), None, (4, 4))


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("side", [64, 256])
def test_a_dicom_whose_levels_are_padded_to_tiles(tmp_path, padded, side):
    pixels = write.painted(1024, 1100)
    path = write.dicom(tmp_path / "slide", write.levels_of(pixels, (1, 2, 4, 8)), padded=padded)
    sdata = read_wsi(path)
    assert sdata.attrs["stpredict"]["um_per_px"]["level0"] == pytest.approx(0.5)
    levels = pyramid(sdata["level0"])
    assert [level.factor for level in levels[:4]] == [(1, 1), (2, 2), (4, 4), (8, 8)]
    reader = PatchReader(levels, 0.5, PatchSpec(fov_um=(side * 0.5,), size_px=8))
    found = reader.read(np.array([[704.0, 704.0]]))[0][0, 0].astype(int)
    window = pixels[704 - side // 2 : 704 + side // 2, 704 - side // 2 : 704 + side // 2]
    assert np.abs(found - write.means(window, side // 8).transpose(2, 0, 1)).max() <= 2


@NO_RESOLUTION
def test_a_resolution_of_one_without_a_unit_is_a_placeholder(tmp_path, pixels):
    import tifffile

    path = tmp_path / "a.ome.tif"
    metadata = {"axes": "YXS", "PhysicalSizeX": 1.0, "PhysicalSizeY": 1.0}
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=metadata)
    with pytest.warns(UserWarning, match=r"does not say how large a pixel is \(its OME-XML states 1 without a unit"):
        assert "um_per_px" not in read_wsi(path).attrs["stpredict"]
    assert recorded(read_wsi(path, um_per_px=0.19)) == 0.19
    metadata |= {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    tifffile.imwrite(path, pixels, photometric="rgb", metadata=metadata)
    assert recorded(read_wsi(path)) == 1.0


def test_pixels_that_are_not_square_by_metadata_that_are_not_used(tmp_path, pixels):
    import tifffile

    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="rgb", resolution=(5000, 4500), resolutionunit="CENTIMETER")
    with pytest.raises(ValueError, match="'a' are not square: 2 µm wide"):
        read_wsi(path)
    assert recorded(read_wsi(path, um_per_px=2.1)) == 2.1


@pytest.mark.parametrize("rows", [None, 100])
@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", [False, True])
def test_strips_larger_than_the_limits(tmp_path, pixels, monkeypatch, rows, compression, planar):
    monkeypatch.setattr(_wsi_tiff, "LARGE_STRIP_BYTES", 1000)
    monkeypatch.setattr(_wsi_tiff, "MAX_STRIP_BYTES", 1000)
    decoded, decode = [], _wsi_tiff._decode_segment

    def count(out, page, corner, segment):
        decoded.append(segment[1])
        return decode(out, page, corner, segment)

    monkeypatch.setattr(_wsi_tiff, "_decode_segment", count)
    height = pixels.shape[0]
    options = {"planarconfig": "separate"} if planar else {}
    path = write.tiff(
        tmp_path / "a.tif", [pixels.transpose(2, 0, 1) if planar else pixels], tile=None, compression=compression,
        rowsperstrip=rows or height, writer={"byteorder": ">"}, **options,
    )  # fmt: skip
    level, expected = Source(scales(read_wsi(path))[0]).pixels, pixels.transpose(2, 0, 1)
    if compression:
        with pytest.warns(UserWarning, match=r"'a.tif' holds 421 x 310 .* decoded once into a temporary file"):
            level.read((0, 1), (0, 1))
    for y, x in (((0, 5), (0, 421)), ((95, 207), (13, 80)), ((height - 1, height), (400, 421)), ((40, 41), (3, 4))):
        np.testing.assert_array_equal(level.read(y, x), expected[:, slice(*y), slice(*x)])
    assert len(decoded) == len(set(decoded)) == (0 if not compression else (4 if rows else 1) * (3 if planar else 1))


def test_a_level_that_cannot_be_decoded_is_computed(tmp_path, levels):
    import tifffile

    path = write.tiff(tmp_path / "a.tif", levels)
    with tifffile.TiffFile(path) as file:
        at = file.pages[1].dataoffsets[0]
    with path.open("r+b") as file:
        file.seek(at)
        file.write(b"\xff" * 200)
    found = pyramid(read_wsi(path)["a"])
    with pytest.warns(UserWarning, match=r"'a\.tif' cannot be read in part \(level 1, .*means of .* `backend='opensl"):
        coarse = np.asarray(found[1].pixels).astype(int)
    assert np.abs(coarse - levels[1].transpose(2, 0, 1)).max() <= 1


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("kind", ["tif", "jpg"])
def test_orientation_is_applied_if_asked_for(tmp_path, tag, kind):
    import tifffile
    from PIL import ImageOps

    pixels, path = write.painted(120, 160), tmp_path / f"a.{kind}"
    if kind == "tif":
        tifffile.imwrite(path, pixels, photometric="rgb", metadata=None, extratags=[(274, 3, 1, tag, True)])
    else:
        exif = Image.Exif()
        exif[274] = tag
        Image.fromarray(pixels).save(path, exif=exif, quality=95, subsampling=0)
    with Image.open(path) as stored:
        upright = np.asarray(ImageOps.exif_transpose(stored)).astype(int)
    sdata = read_wsi(path, um_per_px=0.5, orientation="apply")
    to_px = np.linalg.inv(get_transformation(sdata["a"], "a").to_affine_matrix(("x", "y"), ("x", "y")))
    centre = apply_affine(to_px, np.array([[50.0, 40.0]]))
    spec = PatchSpec(fov_um=(16,), size_px=32)
    patch = PatchReader(pyramid(sdata["a"]), 0.5, spec, axes=orientation(to_px)).read(centre)[0][0, 0].astype(int)
    assert np.abs(patch - upright[24:56, 34:66].transpose(2, 0, 1)).max() <= 4
    if tag != 1:
        with pytest.warns(UserWarning, match=rf"to be turned or mirrored \(orientation {tag}\)"):
            assert read_wsi(path, um_per_px=0.5)["a"]["scale0"]["image"].shape == (3, 120, 160)


def test_pictures_of_one_size_are_not_guessed_among(tmp_path, pixels):
    path = write.several(tmp_path / "a.tif", [pixels, pixels.transpose(1, 0, 2)])
    with pytest.raises(ValueError, match=r"'a\.tif' holds 2 pictures of 421 x 310 px: numbers 0, 1\..*as `picture` to"):
        read_wsi(path)
    for number, expected in enumerate([pixels, pixels.transpose(1, 0, 2)]):
        found = np.asarray(read_wsi(path, picture=number)["a"]["scale0"]["image"])
        np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))
    with pytest.raises(ValueError, match=r"`picture` is 2; 'a.tif' holds 2 pictures, numbered from 0"):
        read_wsi(path, picture=2)
    folder = tmp_path / "b.zarr"
    root = zarr.open_group(folder, mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    for name, picture in (("0", pixels[:50, :50]), ("1", pixels)):
        write.ome_zarr(folder / name, [picture])
    assert read_wsi(folder)["b"]["scale0"]["image"].shape == (3, 310, 421)
    with pytest.raises(ValueError, match=r"`picture` is 1, but 'b.zarr' is no TIFF file .* Leave out `picture`"):
        read_wsi(folder, picture=1)
    write.ome_zarr(folder / "2", [pixels])
    with pytest.raises(ValueError, match=r"several images of one size: '1', '2'\. Give the folder of one, such as"):
        read_wsi(folder)


def test_a_full_disk_says_where_and_how_much_is_missing(tmp_path, pixels, monkeypatch):
    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = write.tiff(tmp_path / "a.tif", write.levels_of(pixels), um_per_px=0.5)
    monkeypatch.setattr("spatialdata.SpatialData.write", full)
    with pytest.raises(OSError, match=r"No space left for '.*copy\.zarr': .*up to 1 MiB more .* another `to_zarr`"):
        read_wsi(path, to_zarr=tmp_path / "copy.zarr")
    assert [each.name for each in tmp_path.iterdir()] == ["a.tif"]
