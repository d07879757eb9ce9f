"""Neighbours, columns and rows from coordinates alone."""

from __future__ import annotations

import pytest
import torch

from stpredict.models._places import lattice_neighbors, lattice_positions


def square(columns=5, rows=4, pitch=200.0):
    """Columns and rows of a square lattice, and the centres of its spots."""
    at = torch.stack(torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="ij"), dim=-1).reshape(-1, 2)
    return at, at.float() * pitch


def hexagonal(columns=6, rows=7, pitch=100.0):
    at, xy = square(columns, rows, pitch)
    return at, torch.stack([xy[:, 0] + pitch / 2 * (at[:, 1] % 2), xy[:, 1] * 3**0.5 / 2], dim=1)


@pytest.mark.parametrize("make", [square, hexagonal])
@pytest.mark.parametrize("jitter", [0.0, 8.0])
def test_columns_and_rows_are_found_wherever_the_section_lies(make, jitter):
    at, xy = make()
    xy = xy + torch.tensor([31_234.5, -812.0]) + jitter * (torch.rand(xy.shape) - 0.5)
    assert torch.equal(lattice_positions(xy), at)


def test_missing_spots_leave_places_empty():
    at, xy = square()
    kept = torch.rand(len(at)) > 0.2
    kept[0] = True
    assert torch.equal(lattice_positions(xy[kept]), at[kept])


def test_order_does_not_matter():
    _, xy = hexagonal()
    order = torch.randperm(len(xy))
    assert torch.equal(lattice_positions(xy[order]), lattice_positions(xy)[order])


@pytest.mark.parametrize("xy", [[[7.0, 3.0]], [[7.0, 3.0]] * 3, [[0.0, 5.0], [0.0, 205.0], [0.0, 405.0]]])
def test_few_spots(xy):
    places = lattice_positions(torch.tensor(xy))
    assert places[:, 0].tolist() == [0] * len(xy)
    assert places[:, 1].tolist() == (list(range(3)) if xy[0][0] == 0 else [0] * len(xy))


def test_eight_neighbours_on_a_square_lattice_and_six_on_a_hexagonal_one():
    for (at, xy), inner, n in [(square(), (2, 2), 8), (hexagonal(), (2, 3), 6)]:
        index, known = lattice_neighbors(xy, torch.zeros(len(xy), dtype=torch.long), 1.5)
        spot = int((at == torch.tensor(inner)).all(dim=1).nonzero())
        assert int(known[spot].sum()) == n
        assert spot not in index[spot][known[spot]]
        corner = int((at == 0).all(dim=1).nonzero())
        assert int(known[corner].sum()) < n


def test_neighbours_are_of_the_same_slide_at_the_spacing_of_that_slide():
    _, coarse = square(3, 3, 200.0)
    _, fine = square(3, 3, 10.0)
    slide = torch.tensor([0] * 9 + [1] * 9)
    index, known = lattice_neighbors(torch.cat([coarse, fine]), slide, 1.1)
    assert (slide[index] == slide[:, None]).all()
    assert known.sum(dim=1).tolist() == [2, 3, 2, 3, 4, 3, 2, 3, 2] * 2


def test_a_spot_alone_has_no_neighbours():
    _, known = lattice_neighbors(torch.zeros(2, 2), torch.tensor([0, 1]), 1.5)
    assert not known.any()
