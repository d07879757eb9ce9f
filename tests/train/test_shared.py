"""Patches of several models: each window is read once, and every model gets what it would have read alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import zarr

from stpredict import _resample
from stpredict._geometry import PatchSpec
from stpredict._slides.slides import Level, Selection, resolve
from stpredict._train.augment import dihedral
from stpredict._train.batches import gather, map_patches
from stpredict._train.data import open_spots, read_pieces, read_spots
from stpredict._train.shared import SharedPatches

NARROW, WIDE = PatchSpec(fov_um=(150, 300, 900), size_px=8), PatchSpec(fov_um=(150, 300, 600), size_px=8)
LARGE = PatchSpec(fov_um=(300,), size_px=16)
ALL = [NARROW, WIDE, LARGE, NARROW]


@pytest.fixture(scope="module")
def slides(synthetic_sdata):
    return resolve(synthetic_sdata, Selection())


def test_equal_sizes_are_merged_and_each_model_finds_its_scales():
    shared = SharedPatches.of(ALL)
    assert shared.read == (PatchSpec(fov_um=(150, 300, 600, 900), size_px=8), LARGE)
    assert shared.parts == ((0, (0, 1, 3)), (0, (0, 1, 2)), (1, (0,)), (0, (0, 1, 3)))
    mirrored = replace(LARGE, fill="reflect")
    assert SharedPatches.of([LARGE, mirrored]).read == (LARGE, mirrored)
    assert SharedPatches.of([NARROW, NARROW]) == replace(SharedPatches.of([NARROW]), parts=((0, (0, 1, 2)),) * 2)


@pytest.mark.parametrize("memory_bytes", [1 << 30, 1])
def test_every_model_gets_what_it_would_have_read_alone(slides, memory_bytes):
    shared = SharedPatches.of(ALL)
    with open_spots(slides, shared.read, memory_bytes=memory_bytes, progress=False) as (spots, flagged):
        rows = torch.tensor([5, 80, 3])
        for i, patch in enumerate(ALL):
            alone, flagged_alone = read_spots(slides, patch, progress=False)
            own = shared.select(spots, i)
            assert torch.equal(gather(own, slice(None)).patches, alone.patches)
            assert torch.equal(gather(own, rows).patches, alone.patches[rows])
            assert torch.equal(gather(gather(spots, slice(4, 9)), slice(1, 3)).xy_um, alone.xy_um[5:7])
            turned = replace(own, patches=dihedral(own.patches, 5))
            assert torch.equal(gather(turned, rows).patches, dihedral(alone.patches[rows], 5))
            means = map_patches(lambda x: x.float().mean(dim=(2, 3, 4)).numpy(), own, n_at_once=7)
            np.testing.assert_allclose(means, alone.patches.float().mean(dim=(2, 3, 4)), rtol=1e-6)
            assert (flagged >= flagged_alone).all()


def test_embeddings_reach_only_models_that_take_them(slides):
    shared, (spots, _) = SharedPatches.of([NARROW]), read_spots(slides[:1], NARROW, progress=False)
    spots.features = torch.ones(len(spots), 2)
    assert shared.select(spots, 0).features is spots.features
    assert shared.select(spots, 0, embeddings=False).features is None


def test_windows_are_cut_and_chunks_decoded_once(slides, monkeypatch):
    """Windows of 8 px are averaged once for each field of view, whoever asks; both sizes use the same chunks."""
    pixels = np.asarray(slides[0].levels[0].pixels)
    stored = zarr.create_array({}, shape=pixels.shape, chunks=(3, 64, 64), dtype=pixels.dtype)
    stored[:] = pixels
    cut, decoded = [], []
    average, get = _resample.area_average, type(stored).__getitem__

    def averaged(canvas, start, steps, rows, scale, patches):
        cut.append((len(rows), patches.shape[-1]))
        average(canvas, start, steps, rows, scale, patches)

    def got(self, index):
        decoded.append(get(self, index).shape)
        return get(self, index)

    monkeypatch.setattr(_resample, "area_average", averaged)
    monkeypatch.setattr("stpredict._chunks.find_spec", lambda _: None)
    monkeypatch.setattr(type(stored), "__getitem__", got)
    slide = replace(slides[0], levels=[Level(pixels=stored, factor=(1.0, 1.0))])

    def count(patches):
        cut.clear(), decoded.clear()
        list(read_pieces(slide, patches))
        windows = {size: sum(n for n, found in cut if found == size) for size in {size for _, size in cut}}
        return windows, sum(np.prod(shape) for shape in decoded)

    windows, n_decoded = count(SharedPatches.of(ALL).read)
    assert windows == {8: 4 * 36, 16: 36}
    assert n_decoded == count([PatchSpec(fov_um=(150, 300, 600, 900), size_px=8)])[1]
