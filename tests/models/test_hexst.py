"""HEXST: hexagons, what a window contains, rotary positions, the loss."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from stpredict import models
from stpredict.models.hexst import (
    HEXST,
    HEXSTConfig,
    Windows,
    hexagon_center,
    hexagon_of,
    rotary_phases,
    rotate_pairs,
    slide_losses,
)

TINY = {"dim": 16, "heads": 2, "depth": 1, "width": 4.0, "encoder": "given", "n_features": 5, "size_px": 8}


def network(**options):
    model = HEXST(HEXSTConfig(n_outputs=4, **{**TINY, **options})).eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def section(xy):
    """Spots of one slide at ``(n, 2)`` pitches."""
    return models.SpotBatch(
        patches=torch.zeros(len(xy), 1, 3, 8, 8, dtype=torch.uint8),
        xy_um=200 * xy,
        slide=torch.zeros(len(xy), dtype=torch.int64),
        features=torch.randn(len(xy), 5),
        targets=torch.randn(len(xy), 4),
    )


def square(side):
    return torch.cartesian_prod(torch.arange(float(side)), torch.arange(float(side))) + 0.1


def hexagonal(side):
    row, column = torch.cartesian_prod(torch.arange(float(side)), torch.arange(float(side))).unbind(dim=1)
    return torch.stack([column + row % 2 / 2, row * math.sqrt(3) / 2], dim=1) + 0.1


# ---- hexagons


def test_a_point_is_in_the_hexagon_with_the_nearest_centre():
    xy = (torch.rand(400, 2) - 0.5) * 20
    cells = torch.cartesian_prod(torch.arange(-9, 10), torch.arange(-9, 10))
    nearest = cells[torch.cdist(xy, hexagon_center(cells, 3.0)).argmin(dim=1)]
    assert torch.equal(hexagon_of(xy, 3.0), nearest)


def test_hexagons_by_hand():
    """Width 2: sides at a distance of 1, corners at 1.155 above and below."""
    xy = torch.tensor([[0.99, 0.0], [1.01, 0.0], [0.0, 1.15], [0.3, 1.16], [-0.3, 1.16], [0.0, -1.15], [-1.01, 0.0]])
    assert hexagon_of(xy, 2.0).tolist() == [[0, 0], [1, 0], [0, 0], [0, 1], [-1, 1], [0, 0], [-1, 0]]


@pytest.mark.parametrize("lattice", [square, hexagonal])
def test_tilings_are_centred_at_corners_and_repeat_after_three(lattice):
    batch, model = section(lattice(9)), network()
    rows = [windows.row for windows in model._tilings(batch)]
    assert all(not torch.equal(rows[i], rows[i - 1]) for i in range(3))
    reached = [{*rows[0][rows[1] == window].tolist()} for window in rows[1].unique()]
    assert max(map(len, reached)) == 3  # a window of one tiling holds spots of three windows of the one before
    later = replace(batch, xy_um=batch.xy_um - 3 * 200 * torch.tensor([2.0, 2 / math.sqrt(3)]))
    assert torch.equal(model._tilings(later)[0].row, rows[0])


# ---- windows


def test_spots_are_grouped_by_slide_and_window():
    xy = torch.tensor([[0.0, 0], [0.5, 0], [4, 0], [0, 0], [0.2, 0.2]])
    windows = Windows.find(xy, torch.tensor([7, 7, 7, 3, 7]), 4.0, 2)
    groups = [{*(windows.row == row).nonzero()[:, 0].tolist()} for row in windows.row.unique()]
    assert sorted(map(sorted, groups)) == [[0, 1, 4], [2], [3]]
    assert windows.exists.sum(dim=1).sort().values.tolist() == [1, 1, 3]
    x = torch.randn(5, 6)
    grouped = windows.group(x)
    assert torch.equal(windows.ungroup(grouped), x)
    assert not grouped[~windows.exists].any()


@pytest.mark.parametrize("lattice", [square, hexagonal])
def test_a_spot_that_is_missing_changes_its_window_only(lattice):
    batch, model = section(lattice(8)), network()
    windows = model._tilings(batch)[0]
    lost = 27
    kept = torch.arange(len(batch)) != lost
    fewer = replace(batch, **{name: getattr(batch, name)[kept] for name in ("patches", "xy_um", "slide", "features")})
    same = torch.isclose(model(fewer), model(batch)[kept], atol=1e-5).all(dim=1)
    assert torch.equal(same, (windows.row != windows.row[lost])[kept])


def test_three_blocks_reach_beyond_a_window():
    batch = section(square(12))
    changed = replace(batch, features=batch.features.index_fill(0, torch.tensor([66]), 3.0))
    reached = [
        int((~torch.isclose(model(changed), model(batch), atol=1e-6).all(dim=1)).sum())
        for model in (network(depth=depth) for depth in (1, 2, 3))
    ]
    assert reached[0] < reached[1] < reached[2]


def test_a_shift_by_a_period_changes_nothing_and_training_takes_any_origin():
    batch, model = section(square(8)), network(depth=3)
    period = 200 * 4 * torch.tensor([0.5, math.sqrt(3) / 2])
    torch.testing.assert_close(model(replace(batch, xy_um=batch.xy_um + 2 * period)), model(batch), atol=1e-4, rtol=0)
    model.train()
    rows = torch.stack([model._tilings(batch)[0].row for _ in range(4)])
    assert len(rows.unique(dim=0)) > 1


def test_in_one_window_no_shift_matters():
    """A window that is wider than the slide, wherever it begins: only differences of positions are seen."""
    batch, model = section(square(5)), network(width=1000.0)
    for shift in ([300.0, -100.0], [-2000.0, 4000.0]):
        moved = replace(batch, xy_um=batch.xy_um + torch.tensor(shift))
        torch.testing.assert_close(model(moved), model(batch), atol=1e-4, rtol=1e-4)
    mirrored = replace(batch, xy_um=-batch.xy_um)
    assert not torch.allclose(model(mirrored), model(batch), atol=1e-4)


# ---- rotary positions


def test_scores_depend_on_differences_of_positions():
    q, k = torch.randn(2, 50, 12)
    a, b = torch.randn(2, 50, 2) * 3

    def score(a, b):
        return (rotate_pairs(q, rotary_phases(a, 6, 8.0)) * rotate_pairs(k, rotary_phases(b, 6, 8.0))).sum(dim=1)

    torch.testing.assert_close(score(a + 2.5, b + 2.5), score(a, b), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(score(a, a), (q * k).sum(dim=1), atol=1e-5, rtol=1e-5)
    assert (score(a, b) - score(a, a)).abs().max() > 0.1


def test_phases_by_hand():
    """Along 0°, 60° and 120°; one radian per pitch, then one per width."""
    phases = rotary_phases(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 6, 8.0)
    half, high = 1 / 2, math.sqrt(3) / 2
    expected = [[1, half, -half, 1 / 8, half / 8, -half / 8], [0, high, high, 0, high / 8, high / 8]]
    torch.testing.assert_close(phases, torch.tensor(expected))
    turned = rotate_pairs(torch.tensor([[1.0, 0.0]]), torch.tensor([[math.pi / 3]]))
    torch.testing.assert_close(turned, torch.tensor([[half, high]]))


# ---- loss


def test_loss_by_hand():
    slide = torch.tensor([0, 0, 1, 1])
    targets = torch.tensor([[0.0], [2], [5], [9]])
    predicted = torch.tensor([[1.0], [5], [3], [1]])  # deviations 2 and -1 per unit, instead of 1 and 2
    correlation, deviation = slide_losses(predicted, targets, slide)
    assert correlation == pytest.approx(1.0, abs=1e-3)  # +1 on one slide, -1 on the other
    assert deviation == pytest.approx((1 + 1 + 9 + 9) / 4)
    perfect, nothing = slide_losses(targets + 10, targets, slide)
    assert perfect == pytest.approx(0.0, abs=2e-3)
    assert nothing == 0


def test_loss_is_the_weighted_sum(monkeypatch):
    batch = section(square(4))
    predicted = torch.randn(16, 4)
    correlation, deviation = slide_losses(predicted, batch.targets, batch.slide)
    for shares in ((0.0, 0.0), (0.25, 3.0)):
        model = network(correlation_share=shares[0], deviation_share=shares[1])
        monkeypatch.setattr(model, "forward", lambda batch: predicted)
        expected = (predicted - batch.targets).square().mean() + shares[0] * correlation + shares[1] * deviation
        torch.testing.assert_close(model.loss(batch), expected)


def test_wrong_fields_are_refused():
    for field, value in {"width": 0.5, "heads": 3, "correlation_share": -1.0, "deviation_share": -1.0}.items():
        with pytest.raises(ValueError, match=field):
            network(**{field: value})


def test_learns_what_the_next_spot_shows():
    """Targets are features of the spot to the right: the spot itself or a mean around it tells nothing."""
    model = network(dropout=0.0, width=8.0).train()
    right = (torch.arange(64) + 8).clamp(max=63)  # the last column has itself
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        batch = section(square(8))
        batch.targets = batch.features[right, :4]
        optimizer.zero_grad()
        model.loss(batch).backward()
        optimizer.step()
    new = section(square(8))
    with torch.no_grad():
        correlation, _ = slide_losses(model.eval()(new), new.features[right, :4], new.slide)
    assert 1 - correlation > 0.5
