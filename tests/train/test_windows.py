"""Windows of spots: every spot once, one slide a window, and the loop that trains and validates on them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from stpredict._train.batches import BatchLimit, gather
from stpredict._train.config import FitConfig
from stpredict._train.loop import TrainingState, outputs_at, spots_per_pass, train
from stpredict._train.windows import nearest_spots_outside, windows
from stpredict.models import SpotModel
from stpredict.models.contract import FloatLinear
from stpredict.models.histogene import HisToGeneConfig


def places(*sizes, seed=0):
    """Slides of some sizes, their spots shuffled among each other."""
    draw = torch.Generator().manual_seed(seed)
    slide = torch.cat([torch.full((n,), i) for i, n in enumerate(sizes)])
    order = torch.randperm(len(slide), generator=draw)
    return torch.rand(len(slide), 2, generator=draw) * torch.tensor([3000.0, 1000.0]), slide[order]


# ---- windows


@pytest.mark.parametrize("most", [1, 7, 64, 1000])
def test_windows_hold_every_spot_once_and_none_too_many_or_of_two_slides(most):
    xy, slide = places(1, 50, 113)
    found = windows(xy, slide, most)
    assert torch.cat(found).sort().values.tolist() == list(range(164))
    assert max(map(len, found)) <= most
    assert all(len(slide[rows].unique()) == 1 for rows in found)


def test_a_slide_that_fits_is_one_window():
    xy, slide = places(50, 20)
    assert [rows.tolist() for rows in windows(xy, slide, 50)] == [
        torch.nonzero(slide == i)[:, 0].tolist() for i in (0, 1)
    ]


def test_windows_are_about_equal():
    xy, slide = places(1000)
    assert {len(rows) for rows in windows(xy, slide, 300)} == {250}


def test_windows_are_cut_across_the_longer_side():
    xy, slide = places(100)
    left, right = windows(xy, slide, 50)
    assert xy[left, 0].max() <= xy[right, 0].min()


def test_windows_depend_on_nothing_else():
    xy, slide = places(80, 70)
    first, again = windows(xy, slide, 20), windows(xy.clone(), slide.clone(), 20)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    order = torch.randperm(150)
    other = windows(xy[order], slide[order], 20)
    assert {frozenset(order[rows].tolist()) for rows in other} == {frozenset(rows.tolist()) for rows in first}


def test_spots_at_one_place_are_told_apart():
    found = windows(torch.zeros(9, 2), torch.zeros(9), 2)
    assert torch.cat(found).sort().values.tolist() == list(range(9))


# ---- neighbouring spots


@pytest.mark.parametrize("n", [0, 10, 500])
def test_the_nearest_spots_outside(n):
    xy, core = np.random.default_rng(0).random((100, 2)), np.array([3, 50, 51, 99])
    distance = cdist(xy, xy[core]).min(axis=1)
    found = nearest_spots_outside(xy, core, n)
    assert len(found) == min(n, 96)
    assert not set(found) & set(core)
    np.testing.assert_array_equal(found, [i for i in distance.argsort() if i not in core][:n])


def test_a_whole_slide_has_no_spots_outside():
    assert not len(nearest_spots_outside(np.random.default_rng(0).random((5, 2)), np.arange(5), 3))


# ---- the loop


class Together(SpotModel):
    """Says of each spot where it lies in what is seen together, and how many that are."""

    def __init__(self) -> None:
        super().__init__()
        self.config = HisToGeneConfig(n_outputs=3, dim=4, depth=1, heads=1, size_px=16)
        self.head = FloatLinear(3, 3)
        self.seen = []

    def forward(self, batch):
        self.seen.append(batch)
        n = torch.full((len(batch), 1), float(len(batch)))
        return torch.cat([batch.xy_um - batch.xy_um.mean(dim=0), n], dim=1) + 0 * self.head(torch.zeros(1, 3))


@pytest.fixture
def slides(spots):
    """Two slides of twelve spots, in turns."""
    return spots(n_scales=1)


def test_outputs_are_computed_by_window_and_keep_the_order(slides, fabric):
    model, config = Together(), FitConfig(window=4)
    rows = torch.tensor([23, 1, 4, 9, 17, 3, 0, 12, 20, 15, 13])
    given = outputs_at(model, slides, rows, config, fabric, BatchLimit(spots_per_pass(model, config)))
    some = gather(slides, rows)
    for window in windows(some.xy_um, some.slide, 4):
        here = some.xy_um[window]
        torch.testing.assert_close(given[window, :2], here - here.mean(dim=0))
        assert (given[window, 2] == len(window)).all()


def test_every_epoch_trains_on_every_window(slides, fabric):
    model, config = Together(), FitConfig(window=5, n_epochs=3, warmup_epochs=0.0, flips=False, progress=False)
    rows = torch.arange(2, 24)
    train(model, slides, None, config, fabric, state=TrainingState(), report=lambda state: None, rows=rows)
    wanted = windows(slides.xy_um[rows], slides.slide[rows], 5)
    assert len(model.seen) == 3 * len(wanted)
    for epoch in range(3):
        batches = model.seen[epoch * len(wanted) :][: len(wanted)]
        seen = torch.cat([batch.xy_um for batch in batches])
        assert {tuple(each) for each in seen.tolist()} == {tuple(each) for each in slides.xy_um[rows].tolist()}
        assert {len(batch) for batch in batches} == {len(window) for window in wanted}
        assert all(len(batch.slide.unique()) == 1 for batch in batches)


def test_windows_come_in_another_order_every_epoch(slides, fabric):
    model, config = Together(), FitConfig(window=2, n_epochs=2, warmup_epochs=0.0, progress=False)
    train(model, slides, None, config, fabric, state=TrainingState(), report=lambda state: None)
    first, second = model.seen[:12], model.seen[12:]
    assert [batch.xy_um.tolist() for batch in first] != [batch.xy_um.tolist() for batch in second]


def test_spots_of_a_window_are_passed_together_whatever_the_batch_size(slides, fabric):
    model, config = Together(), FitConfig(window=24, batch_size=2, n_epochs=1, warmup_epochs=0.0, progress=False)
    one = replace(slides, slide=torch.zeros(24, dtype=torch.int64))
    train(model, one, None, config, fabric, state=TrainingState(), report=lambda state: None)
    assert [len(batch) for batch in model.seen] == [24]
