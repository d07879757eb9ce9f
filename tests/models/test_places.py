"""Rows by slide, nearest spots, pitch."""

from __future__ import annotations

import math

import pytest
import torch

from stpredict.models import SpotBatch, _places
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
