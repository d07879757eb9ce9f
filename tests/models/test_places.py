"""Slides apart, nearest spots, pitch, and the frames of neighbourhoods."""

from __future__ import annotations

import math

import pytest
import torch

from stpredict.models import SpotBatch, _places
from stpredict.models._frames import Around, in_frames
from stpredict.models._places import PITCH_UM, concatenate_spots, nearest_spots, rows_by_slide, typical_pitch


def square(side, step=100.0):
    return torch.tensor([[x * step, y * step] for x in range(side) for y in range(side)])


def hexagonal(side, step=100.0):
    return torch.tensor(
        [[(x + y % 2 / 2) * step, y * step * math.sqrt(3) / 2] for x in range(side) for y in range(side)]
    )


def batch_of(xy, slide=None, **known):
    slide = torch.zeros(len(xy), dtype=torch.int64) if slide is None else slide
    return SpotBatch(patches=torch.zeros(len(xy), 1, 3, 4, 4, dtype=torch.uint8), xy_um=xy, slide=slide, **known)


def test_each_slide_has_its_spots():
    found = rows_by_slide(torch.tensor([7, 2, 7, 7, 5]))
    assert [rows.tolist() for rows in found] == [[1], [4], [0, 2, 3]]


@pytest.mark.parametrize("pairs", [1 << 22, 7])
def test_nearest_agrees_with_all_distances(pairs, monkeypatch):
    monkeypatch.setattr(_places, "_PAIRS", pairs)
    xy, slide = torch.rand(40, 2) * 1000, torch.arange(40) % 3
    index, distance = nearest_spots(xy, slide, 4)
    apart = (xy[:, None] - xy[None]).norm(dim=-1)
    apart[(slide[:, None] != slide) | torch.eye(40, dtype=torch.bool)] = torch.inf
    wanted, where = apart.sort(dim=1)
    torch.testing.assert_close(distance, wanted[:, :4])
    assert torch.equal(index, where[:, :4])


def test_a_slide_with_few_spots_has_few_neighbours():
    index, distance = nearest_spots(torch.tensor([[0.0, 0], [3, 4], [1, 1]]), torch.tensor([0, 0, 1]), 3)
    assert index.tolist() == [[1, 0, 0], [0, 1, 1], [2, 2, 2]]
    assert distance.tolist() == [[5, math.inf, math.inf]] * 2 + [[math.inf] * 3]


@pytest.mark.parametrize("lattice", [square, hexagonal])
def test_which_of_equally_distant_spots_does_not_depend_on_their_order(lattice):
    xy, order = lattice(7), torch.randperm(49)
    index, _ = nearest_spots(xy, torch.zeros(49), 3)
    other, _ = nearest_spots(xy[order], torch.zeros(49), 3)
    assert torch.equal(order[other][order.argsort()], index)


def test_pitch_is_the_median_over_slides():
    xy = torch.cat([square(3, 100.0), square(3, 150.0), square(2, 500.0)])
    assert typical_pitch(batch_of(xy, torch.tensor([0] * 9 + [1] * 9 + [2] * 4))) == pytest.approx(150.0)


@pytest.mark.parametrize("xy", [torch.zeros(1, 2), torch.zeros(2, 2)])
def test_pitch_of_spots_without_neighbours_is_the_default(xy):
    assert typical_pitch(batch_of(xy)) == PITCH_UM


def test_gathered_keeps_all_but_pixels():
    whole = batch_of(square(4), targets=torch.rand(16, 3), counts=torch.rand(16, 5))
    pieces = [
        SpotBatch(patches=whole.patches[rows], xy_um=whole.xy_um[rows], slide=whole.slide[rows],
                  targets=whole.targets[rows], counts=whole.counts[rows])
        for rows in torch.arange(16).split(5)
    ]  # fmt: skip
    found = concatenate_spots(iter(pieces))
    assert len(found) == 16
    assert found.patches.numel() == 0
    assert found.features is None
    for name in ("xy_um", "slide", "targets", "counts"):
        assert torch.equal(getattr(found, name), getattr(whole, name))


# ---- frames


def neighbourhood(n=40):
    xy = torch.rand(n, 2) * 5 * torch.tensor([1.0, 0.6])
    return xy, Around.of(xy, torch.zeros(n), 5)


def as_sets(frames):
    """Frames of each spot in an order of their own: which of the four is which means nothing."""
    flat = frames.transpose(1, 2).flatten(2)  # (b, 4, k * 3)
    return torch.stack([each[each[:, torch.tensor([3, 4])].double().mv(torch.tensor([1.0, 0.37]).double()).argsort()]
                        for each in flat])  # fmt: skip


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.7, 3.0])
@pytest.mark.parametrize("mirror", [1.0, -1.0])
def test_frames_do_not_see_how_a_slide_is_turned(angle, mirror):
    xy, around = neighbourhood()
    turn = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    other = Around.of(xy * torch.tensor([mirror, 1.0]) @ turn + 9, torch.zeros(len(xy)), 5)
    torch.testing.assert_close(as_sets(other.frames), as_sets(around.frames), atol=2e-4, rtol=1e-3)


def test_lattices_have_no_frame_but_distances():
    xy = square(5, 1.0)
    frames = Around.of(xy, torch.zeros(25), 8).frames[12]  # the middle one
    assert frames[..., :2].abs().max() < 1e-6
    assert frames[1:, 0, 2].tolist() == pytest.approx([1.0] * 4 + [math.sqrt(2)] * 4)


def test_neighbours_in_a_row_lie_along_the_first_axis():
    apart = torch.tensor([[[1.0, 1.0], [-1.0, -1.0], [2.0, 2.0], [9.0, 5.0]]])
    frames = in_frames(apart, torch.tensor([[True, True, True, False]]))
    size = math.sqrt(2)
    torch.testing.assert_close(frames[0, :3, 0, 0].abs(), torch.tensor([size, size, 2 * size]))
    assert frames[0, :, :, 1].abs().max() < 1e-6
    assert not frames[0, 3].any()


def test_a_spot_sees_itself_only_where_there_is_no_other():
    around = Around.of(torch.tensor([[0.0, 0], [1, 0], [0, 0]]), torch.tensor([0, 0, 1]), 2)
    assert around.is_near.tolist() == [[False, True, False], [False, True, False], [True, False, False]]
