"""What is decoded, how often, how much of it is cached, and from which stores; counted, not timed."""

from __future__ import annotations

import pickle
import tracemalloc
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from torch.utils.data import DataLoader, Dataset

from stpredict import _chunks
from stpredict._chunks import Chunks, Source, StoredLevel
from stpredict._geometry import PatchSpec
from stpredict._pixels import PatchReader
from stpredict._slides.slides import Level

SPEC = PatchSpec(fov_um=(24.0, 60.0), size_px=16)


def noise(side=300, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (3, side, side + 41), dtype=np.uint8)


def grid(low=-10, high=330, step=23):
    return np.stack(np.meshgrid(np.arange(low, high, step), np.arange(low, high, step)), axis=-1).reshape(-1, 2) + 0.4


def read(pixels, xy=None, **options):
    reader = PatchReader([Level(pixels=pixels, factor=(1, 1))], 1.0, SPEC, **options)
    return reader.read(grid() if xy is None else xy)[0]


class Counting:
    """An array in chunks that notes which of them every slice decodes."""

    def __init__(self, pixels, chunk=64):
        self.pixels, self.chunks = pixels, (3, chunk, chunk)
        self.shape, self.dtype, self.decoded = pixels.shape, pixels.dtype, Counter()

    def __getitem__(self, at):
        _, ys, xs = at
        (y0, y1, _), (x0, x1, _) = ys.indices(self.shape[1]), xs.indices(self.shape[2])
        chunk = self.chunks[1]
        self.decoded.update(
            (y, x) for y in range(y0 // chunk, -(-y1 // chunk)) for x in range(x0 // chunk, -(-x1 // chunk))
        )
        return self.pixels[at]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(_chunks, "MIN_BLOCK_PX", 1)


def test_every_needed_chunk_is_decoded_once_and_no_other(small_blocks):
    pixels = Counting(noise(1200))
    xy = np.random.default_rng(0).uniform(200, 700, (300, 2))
    read(pixels, xy)
    low, high = xy - 30, xy + 30  # the widest field of view
    needed = {
        (y, x)
        for (x0, y0), (x1, y1) in zip(low, high, strict=True)
        for y in range(int(y0 // 64), int(y1 // 64) + 1)
        for x in range(int(x0 // 64), int(x1 // 64) + 1)
    }
    assert set(pixels.decoded.values()) == {1}
    assert needed <= set(pixels.decoded)
    assert len(pixels.decoded) <= 1.2 * len(needed)  # windows are read with a pixel or two around them


def test_pieces_in_order_decode_every_chunk_once_within_a_budget_of_a_few_rows(small_blocks, monkeypatch):
    monkeypatch.setattr("stpredict._pixels.CELL_PX", 64)
    pixels = Counting(noise(1200))
    xy = np.random.default_rng(0).permutation(grid(100, 1100, 20))
    row_of_chunks = 3 * 64 * 1241
    reader = PatchReader([Level(pixels=pixels, factor=(1, 1))], 1.0, SPEC, budget_bytes=6 * row_of_chunks, n_threads=1)
    order = reader.order(xy)
    for start in range(0, len(xy), 50):
        reader.read(xy[order[start : start + 50]])
        assert reader.chunks._cached_bytes <= 6 * row_of_chunks
    assert set(pixels.decoded.values()) == {1}


def test_a_budget_that_holds_nothing_gives_the_same_bytes(small_blocks):
    np.testing.assert_array_equal(read(Counting(noise()), budget_bytes=1), read(noise()))


def test_an_image_in_one_chunk_that_exceeds_the_budget_is_decoded_once(monkeypatch):
    monkeypatch.setattr("stpredict._pixels.CELL_PX", 64)
    pixels = Counting(noise(), chunk=400)
    reader = PatchReader([Level(pixels=pixels, factor=(1, 1))], 1.0, SPEC, budget_bytes=1)
    reader.read(grid())
    assert pixels.decoded == {(0, 0): 1}


def test_a_chunk_used_again_is_kept_and_one_used_longest_ago_is_dropped(small_blocks):
    pixels = Counting(noise(), chunk=100)
    spec = PatchSpec(fov_um=(8.0,), size_px=8)
    reader = PatchReader([Level(pixels=pixels, factor=(1, 1))], 1.0, spec, budget_bytes=2 * 3 * 100**2)
    for x in (50, 150, 50, 250, 50):  # two are held: the second is dropped for the third, not the first
        reader.read(np.array([[x, 50.0]]))
    assert pixels.decoded == {(0, 0): 1, (0, 1): 1, (0, 2): 1}
    reader.read(np.array([[150.0, 50.0]]))
    assert pixels.decoded[0, 1] == 2


def test_blocks_decoded_together_are_dropped_together(small_blocks):
    """So that they need no copy, and no memory is held that the budget does not count."""
    pixels = Counting(noise(), chunk=100)
    chunks = Chunks([pixels], lambda read: (read, None), 5 * 3 * 100**2)
    boxes = {"above": ([0, 0], [100, 200]), "below": ([100, 0], [200, 200]), "right": ([0, 200], [200, 300])}
    for name in ("above", "below", "above", "right", "above"):
        low, high = map(np.array, boxes[name])
        np.testing.assert_array_equal(chunks.read(0, low, high), pixels.pixels[:, low[0] : high[0], low[1] : high[1]])
        assert chunks._cached_bytes == 3 * 100**2 * len(chunks._cached) <= chunks.budget_bytes
    assert set(chunks._cached) == {(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 2)}
    assert set(pixels.decoded.values()) == {1}


def test_a_few_spots_do_not_copy_the_level():
    pixels = np.zeros((3, 6000, 6000), np.uint8)
    xy = np.array([[2000.5, 2000.5], [4000.5, 4000.5]])
    read(pixels, xy)  # compiles
    tracemalloc.start()
    read(pixels, xy)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 6000 * 6000 / 4


def test_small_chunks_are_read_several_at_a_time():
    asked = []

    class Noted(Counting):
        def __getitem__(self, at):
            asked.append(at)
            return super().__getitem__(at)

    read(Noted(noise(1200), chunk=16), np.array([[600.0, 600.0]]))
    assert len(asked) == 1
    height, width = (span.stop - span.start for span in asked[0][1:])
    assert (height, width) == (512, 512)


@pytest.mark.parametrize(("chunks", "edges"), [
    ((3, 512, 700), ([0, 512, 1024, 1500], [0, 700, 1400, 1541])),
    ((3, 100, 1541), ([0, 600, 1200, 1500], [0, 1541])),
    ((1, 1500, 1541), ([0, 1500], [0, 1541])),
])  # fmt: skip
def test_blocks_begin_where_chunks_begin(chunks, edges):
    source = Source(zarr.create_array({}, shape=(3, 1500, 1541), chunks=chunks, dtype="uint8"))
    assert source.edges == edges


def test_uneven_dask_chunks():
    source = Source(da.zeros((3, 1500, 900), chunks=((3,), (700, 100, 700), (900,))))
    assert source.edges == ([0, 700, 1500], [0, 900])


def stores(tmp_path):
    options = {"shape": (3, 300, 341), "dtype": "uint8"}
    yield "v3", zarr.create_array(tmp_path / "v3", chunks=(3, 64, 64), **options)
    yield "v2", zarr.create_array(tmp_path / "v2", chunks=(3, 64, 64), zarr_format=2, **options)
    yield "sharded", zarr.create_array(tmp_path / "sharded", chunks=(3, 32, 32), shards=(3, 128, 128), **options)
    yield "channels apart", zarr.create_array(tmp_path / "channels", chunks=(1, 100, 341), **options)
    yield "one chunk", zarr.create_array(tmp_path / "one", chunks=(3, 300, 341), **options)
    yield "in memory", zarr.create_array({}, chunks=(3, 64, 64), **options)
    yield "file URL", zarr.create_array(f"file://{tmp_path / 'url'}", chunks=(3, 64, 64), **options)
    yield "memory URL", zarr.create_array("memory://stpredict-test", chunks=(3, 64, 64), overwrite=True, **options)


@pytest.mark.parametrize(
    "name", ["v3", "v2", "sharded", "channels apart", "one chunk", "in memory", "file URL", "memory URL"]
)
@pytest.mark.parametrize("through", ["zarr", "dask", "xarray"])
def test_every_store_gives_the_same_bytes(tmp_path, name, through):
    array = next(array for found, array in stores(tmp_path) if found == name)
    array[:] = noise()
    pixels = array if through == "zarr" else da.from_zarr(array)
    if through == "xarray":
        pixels = xr.DataArray(pixels, dims=("c", "y", "x"))
    np.testing.assert_array_equal(read(pixels), read(noise()))


def test_a_zip_store(tmp_path):
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="w") as store:
        zarr.create_array(store, shape=(3, 300, 341), chunks=(3, 64, 64), dtype="uint8")[:] = noise()
    with zarr.storage.ZipStore(tmp_path / "a.zip", mode="r") as store:
        np.testing.assert_array_equal(read(zarr.open_array(store, mode="r")), read(noise()))


@pytest.mark.parametrize("installed", [True, False])
def test_other_codecs_where_they_are_installed_give_the_same_bytes(tmp_path, monkeypatch, installed):
    if not installed:
        monkeypatch.setattr(_chunks, "find_spec", lambda name: None)
    array = zarr.create_array(tmp_path / "a", shape=(3, 300, 341), chunks=(3, 64, 64), dtype="uint8")
    array[:] = noise()
    source = Source(array)
    assert (type(source.pixels._fast._async_array.codec_pipeline).__name__ == "ZarrsCodecPipeline") == installed
    np.testing.assert_array_equal(source.read((20, 250), (3, 341)), noise()[:, 20:250, 3:])


def test_threads_that_open_levels_leave_the_settings_of_zarr(tmp_path):
    before = zarr.config.get("codec_pipeline.path")
    array = zarr.create_array(tmp_path / "a", shape=(3, 300, 341), chunks=(3, 64, 64), dtype="uint8")
    array[:] = noise()
    levels = [StoredLevel(array) for _ in range(64)]
    with ThreadPoolExecutor(16) as pool:
        for part in pool.map(lambda level: level.read((20, 250), (3, 341)), levels):
            np.testing.assert_array_equal(part, noise()[:, 20:250, 3:])
    assert zarr.config.get("codec_pipeline.path") == before


def test_the_zarr_behind_a_dask_array_is_read_without_dask(tmp_path):
    array = zarr.create_array(tmp_path / "a", shape=(3, 300, 341), chunks=(3, 64, 64), dtype="uint8")
    assert isinstance(Source(da.from_zarr(array)).pixels, StoredLevel)
    for changed in (
        da.from_zarr(array) + 1,
        da.from_zarr(array)[:, ::-1],
        da.from_zarr(array)[:, :64],
        da.zeros((3, 9, 9)),
    ):
        assert isinstance(Source(changed).pixels, da.Array)


class Patches(Dataset):
    """One spot an item."""

    def __init__(self, reader, xy):
        self.reader, self.xy = reader, xy

    def __len__(self):
        return len(self.xy)

    def __getitem__(self, i):
        return self.reader.read(self.xy[i : i + 1])[0][0]


@pytest.mark.parametrize(("method", "n_workers", "backing"), [
    ("fork", 2, "zarr"), ("fork", 2, "dask"), ("forkserver", 1, "dask"),
])  # fmt: skip
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.usefixtures("forkserver")
def test_worker_processes(tmp_path, method, n_workers, backing):
    """No time limit: a process that hangs stops the suite, one that is slow on a busy machine does not fail it."""
    array = zarr.create_array(tmp_path / "a", shape=(3, 300, 341), chunks=(3, 64, 64), dtype="uint8")
    array[:] = noise()
    pixels = array if backing == "zarr" else da.from_zarr(array) + np.uint8(0)  # dask for good
    reader = PatchReader([Level(pixels=pixels, factor=(1, 1))], 1.0, SPEC)
    xy = grid(step=60)
    wanted = reader.read(xy)[0]  # dask, zarr and zarrs have started their threads
    loader = DataLoader(Patches(reader, xy), batch_size=6, num_workers=n_workers, multiprocessing_context=method)
    np.testing.assert_array_equal(np.concatenate([batch.numpy() for batch in loader]), wanted)


def test_a_pickled_reader_has_no_cache():
    reader = PatchReader([Level(pixels=noise(1500), factor=(1, 1))], 1.0, SPEC)
    wanted = reader.read(grid())[0]
    copy = pickle.loads(pickle.dumps(reader))
    assert not copy.chunks._cached
    np.testing.assert_array_equal(copy.read(grid())[0], wanted)


def test_threads_that_ask_for_the_same_pixels(small_blocks):
    pixels = Counting(noise(1200))
    xy = grid(100, 1100, 15)
    one, many = (read(pixels, xy, n_threads=n) for n in (1, 8))
    np.testing.assert_array_equal(one, many)
    assert set(pixels.decoded.values()) == {2}  # once for each of the two readers


def test_an_image_that_cannot_be_decoded_says_so_and_can_be_read_again():
    class Broken(Counting):
        broken = True

        def __getitem__(self, at):
            if self.broken:
                msg = "truncated"
                raise OSError(msg)
            return super().__getitem__(at)

    pixels = Broken(noise())
    reader = PatchReader([Level(pixels=pixels, factor=(1, 1))], 1.0, SPEC)
    with pytest.raises(OSError, match="truncated"):
        reader.read(grid())
    pixels.broken = False
    np.testing.assert_array_equal(reader.read(grid())[0], read(noise()))


def test_rectangles_cover_what_was_asked_for_and_nothing_else():
    keys = [(0, 1, 1), (0, 1, 2), (0, 2, 1), (0, 2, 2)]
    assert _chunks._rectangles(keys) == [(0, range(1, 3), range(1, 3))]
    found = _chunks._rectangles([(1, 0, 0), (1, 0, 1), (1, 0, 3), (1, 1, 3), (1, 3, 3)])
    assert found == [(1, range(1), range(2)), (1, range(2), range(3, 4)), (1, range(3, 4), range(3, 4))]
    assert _chunks._rectangles([]) == []


def test_missing_pixels_are_known_by_block(small_blocks):
    def convert(pixels):
        return pixels, pixels[0] == 0

    pixels = noise() | 1
    pixels[0, 70, 80] = 0
    chunks = Chunks([Counting(pixels)], convert, 1 << 20)
    blocks = [(by, bx) for by in range(1, 3) for bx in range(1, 3)]
    canvas, missing = chunks.read_blocks(0, (64, 150), (70, 170), blocks)
    np.testing.assert_array_equal(canvas, pixels[:, 64:150, 70:170])
    assert np.argwhere(missing).tolist() == [[6, 10]]


class Watched(zarr.storage.WrapperStore):
    """A store that notes which keys are read, and how many bytes."""

    def __init__(self, store):
        super().__init__(store)
        self.read = Counter()

    async def get(self, key, prototype, byte_range=None):
        found = await super().get(key, prototype, byte_range)
        self.read[key] += 0 if found is None else len(found.to_bytes())
        self.read[key, "times"] += 1
        return found


def test_every_stored_chunk_is_fetched_once_and_no_byte_more(tmp_path, small_blocks):
    store = Watched(zarr.storage.LocalStore(tmp_path))
    array = zarr.create_array(store, shape=(3, 1200, 1241), chunks=(3, 100, 100), dtype="uint8")
    array[:] = noise(1200)
    store.read.clear()
    xy = np.random.default_rng(0).uniform(135, 465, (400, 2))  # windows of 60 px, within 4 x 4 chunks
    reader = PatchReader([Level(pixels=da.from_zarr(array), factor=(1, 1))], 1.0, SPEC)
    order = reader.order(xy)
    for start in range(0, 400, 50):
        reader.read(xy[order[start : start + 50]])
    chunks = {key: n for key, n in store.read.items() if isinstance(key, str) and "/" in key}
    assert len(chunks) == 16
    assert {store.read[key, "times"] for key in chunks} == {1}
    assert sum(chunks.values()) == sum((tmp_path / key).stat().st_size for key in chunks)
