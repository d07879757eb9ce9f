"""Splits keep groups whole; blocks are contiguous."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import cKDTree

from stpredict.datasets import synthetic
from stpredict.pp import split
from stpredict.pp.spatial_blocks import spatial_blocks

GRID = np.stack(np.meshgrid(np.arange(12.0), np.arange(10.0)), -1).reshape(-1, 2)


def test_groups_stay_whole(sdata):
    split(sdata, held_out=["P1"])
    obs = sdata["observed"].obs
    assert obs["split"].cat.categories.tolist() == ["train", "test"]
    assert (obs["split"].eq("test") == obs["patient"].eq("P1")).all()


def test_choice_by_seed(sdata):
    held = set()
    for seed in range(12):
        split(sdata, seed=seed, key_added="mine")
        obs = sdata["observed"].obs
        (one,) = obs.loc[obs["mine"] == "test", "patient"].unique()
        held.add(one)
    assert held == {"P0", "P1", "P2"}
    split(sdata, seed=11)
    assert (obs["split"] == obs["mine"]).all()


def test_blocks_of_every_slide(sdata):
    split(sdata, by="block", fraction=0.25)
    test = sdata["observed"].obs["split"] == "test"
    assert test.groupby(sdata["observed"].obs["region"], observed=True).sum().tolist() == [9, 9, 9]


@pytest.mark.parametrize("fraction", [0.1, 0.5])
@pytest.mark.parametrize("seed", range(2))
def test_blocks_are_few_and_contiguous(fraction, seed):
    marked = spatial_blocks(GRID, fraction=fraction, n_blocks=3, seed=seed)
    assert marked.sum() == round(fraction * len(GRID))
    pairs = cKDTree(GRID).query_pairs(1.5, output_type="ndarray")
    crossing = (marked[pairs[:, 0]] != marked[pairs[:, 1]]).mean()
    at_random = 2 * fraction * (1 - fraction)
    assert crossing < 0.6 * at_random
    np.testing.assert_array_equal(marked, spatial_blocks(GRID, fraction=fraction, n_blocks=3, seed=seed))


def test_blocks_are_far_apart():
    marked = spatial_blocks(GRID, fraction=0.05, n_blocks=2)
    xy = GRID[marked]
    distance = np.linalg.norm(xy[:, None] - xy, axis=-1)
    assert distance.max() > 9  # two blocks of three spots each
    assert len(xy) == 6


def test_another_seed_is_another_place():
    assert len({spatial_blocks(GRID, seed=seed).tobytes() for seed in range(5)}) > 1


@pytest.mark.parametrize(("n", "expected"), [(0, 0), (1, 0), (2, 1), (3, 1)])
def test_blocks_of_few_spots(n, expected):
    assert spatial_blocks(GRID[:n], fraction=0.2).sum() == expected


@pytest.mark.parametrize(("arguments", "words"), [
    ({"held_out": ["P7", "P0"]}, r"`held_out` names 'P7'; obs\['patient'\] holds 'P0', .*'P2'\. Give some of these"),
    ({"held_out": ["P0", "P1", "P2"]}, "leaves 0 spots to train"),
    ({"by": "donor"}, "No column 'donor'"),
    ({"fraction": 2.0}, "`fraction` is 2.0"),
])  # fmt: skip
def test_faults(sdata, arguments, words):
    with pytest.raises(ValueError, match=words):
        split(sdata, **arguments)
    assert "split" not in sdata["observed"].obs


def test_one_group_cannot_be_split():
    with pytest.raises(ValueError, match=r"leaves 0 spots to train.*use `by='block'`"):
        split(synthetic(n_slides=1, n_side=2))
