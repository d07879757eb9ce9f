"""Random views of a batch: what the eight symmetries are, what stain jitter does, what is never touched."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from stpredict._train.augment import N_SYMMETRIES, Views, dihedral, jitter_stain
from stpredict._train.config import FitConfig

SQUARE = torch.arange(9.0).reshape(3, 3)
VIEWS = [tuple(dihedral(SQUARE, k).flatten().tolist()) for k in range(N_SYMMETRIES)]


def test_eight_distinct_symmetries_and_0_is_identity():
    assert len(set(VIEWS)) == N_SYMMETRIES == 8
    assert VIEWS[0] == tuple(SQUARE.flatten().tolist())


def test_symmetries_form_a_group():
    for a in range(8):
        composed = [tuple(dihedral(dihedral(SQUARE, a), b).flatten().tolist()) for b in range(8)]
        assert set(composed) == set(VIEWS)  # closed, and every element has an inverse


def test_the_centre_stays_and_corners_go_to_corners():
    for view in VIEWS:
        assert view[4] == 4
        assert {view[0], view[2], view[6], view[8]} == {0, 2, 6, 8}


def test_bits_name_the_mirrors_and_the_swap():
    assert dihedral(SQUARE, 1).tolist() == SQUARE.flip(-1).tolist()
    assert dihedral(SQUARE, 2).tolist() == SQUARE.flip(-2).tolist()
    assert dihedral(SQUARE, 4).tolist() == SQUARE.T.tolist()


def test_each_spot_gets_its_own_symmetry():
    patches = torch.randint(0, 256, (16, 3, 3, 8, 8), dtype=torch.uint8)
    symmetry = torch.arange(16) % 8
    turned = dihedral(patches, symmetry)
    for i, k in enumerate(symmetry.tolist()):
        assert torch.equal(turned[i], dihedral(patches[i], k))


def coloured(n=5, s=3, p=6):
    return torch.randint(1, 256, (n, s, 3, p, p), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("as_float", [False, True])
def test_stain_of_gain_1_and_shift_0_is_identity(as_float):
    patches = coloured()
    unit = patches.float() / 255
    given = unit.clone() if as_float else patches
    same = jitter_stain(given, torch.ones(5, 3), torch.zeros(5, 3))
    torch.testing.assert_close(same, unit, atol=1e-6, rtol=0)
    assert torch.equal(given, unit if as_float else patches)  # not changed in place


def test_stain_scales_and_shifts_optical_density():
    patches = torch.full((1, 2, 3, 4, 4), 51, dtype=torch.uint8)  # a fifth
    gain, shift = torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([[0.0, 0.5, -9.0]])
    red, green, blue = jitter_stain(patches, gain, shift)[0, 1, :, 0, 0].tolist()
    assert red == pytest.approx(0.2**2)
    assert green == pytest.approx(0.2 * torch.tensor(-0.5).exp().item())
    assert blue == 1.0  # kept within white


def test_black_stays_finite():
    patches = torch.zeros(1, 1, 3, 4, 4, dtype=torch.uint8)
    assert jitter_stain(patches, torch.full((1, 3), 1.5), torch.zeros(1, 3)).isfinite().all()


def augmented(batch, config, seed=0):
    return Views.draw(len(batch), config, torch.Generator().manual_seed(seed)).of(batch)


STRONG = FitConfig(stain_jitter=0.3, brightness_jitter=0.2)


def test_augment_changes_pixels_and_nothing_else(spots):
    batch = spots()
    before = batch.patches.clone()
    view = augmented(batch, STRONG)
    assert view.patches.shape == before.shape
    assert torch.equal(batch.patches, before)
    assert view.patches.min() >= 0
    assert view.patches.max() <= 1
    assert not torch.allclose(view.patches, before / 255, atol=0.05)
    for name in ("xy_um", "slide", "targets"):
        assert getattr(view, name) is getattr(batch, name)


def test_all_scales_of_a_spot_are_seen_alike(spots):
    batch = spots()
    batch.patches = batch.patches[:, :1].expand(-1, 3, -1, -1, -1).contiguous()
    view = augmented(batch, STRONG).patches
    assert torch.equal(view[:, 0], view[:, 1])
    assert torch.equal(view[:, 0], view[:, 2])


def test_spots_are_seen_differently(spots):
    batch = spots()
    batch.patches = batch.patches[:1].expand(len(batch), -1, -1, -1, -1).contiguous()
    view = augmented(batch, FitConfig(stain_jitter=0, brightness_jitter=0)).patches
    assert len({tuple(patch.flatten().tolist()) for patch in view}) == 8  # flips and turns alone


def test_same_generator_same_view(spots):
    first, again, other = (augmented(spots(), STRONG, seed).patches for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_everything_off_is_identity(spots):
    batch = spots()
    off = FitConfig(flips=False, stain_jitter=0, brightness_jitter=0)
    assert augmented(batch, off).patches is batch.patches


def test_a_part_is_seen_as_in_the_whole(spots):
    batch = spots()
    views = Views.draw(len(batch), STRONG, torch.Generator().manual_seed(0))
    whole = views.of(batch).patches
    part = replace(batch, patches=batch.patches[5:9])
    torch.testing.assert_close(views.of(part, slice(5, 9)).patches, whole[5:9])
