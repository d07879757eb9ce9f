"""Weights by stacking: planted ones are found, and what is held out is whole groups, slides or blocks."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from stpredict.tl._training.stacking import StackingFolds, stacked_weights

N, G = 300, 6
SLIDE = np.repeat([0, 1, 2], 100)


def guesses(seed=0):
    """Predictions of three models, and the scale of the genes, which differ by a factor of 100."""
    rng = np.random.default_rng(seed)
    scale = np.logspace(-1, 1, G).astype(np.float32)
    return [(scale * rng.normal(size=(N, G))).astype(np.float32) for _ in range(3)], scale


@pytest.mark.parametrize("weights", [(0.2, 0.5, 0.3), (0.0, 1.0, 0.0), (0.6, 0.0, 0.4)])
def test_planted_weights_are_found(weights):
    predicted, scale = guesses()
    noise = np.random.default_rng(1).normal(size=(N, G)) * 0.01 * scale
    level = np.array([5.0, -3.0, 100.0])[SLIDE][:, None]  # of the slide, which no model knows
    observed = sum(w * p for w, p in zip(weights, predicted, strict=True)) + noise + level
    found = stacked_weights(predicted, observed.astype(np.float32), scale, SLIDE)
    np.testing.assert_allclose(found, weights, atol=0.01)


def test_weights_are_not_negative_and_sum_to_1():
    predicted, scale = guesses()
    observed = predicted[0] - predicted[1]
    found = stacked_weights(predicted, observed, scale, SLIDE)
    assert (found >= 0).all()
    assert found.sum() == pytest.approx(1)
    assert found[0] > 0.6
    assert found[1] < 0.01


def test_genes_count_equally_whatever_their_scale():
    """The first model knows the gene with the largest values, the second the other five."""
    predicted, scale = guesses()
    observed = predicted[1].copy()
    observed[:, -1] = predicted[0][:, -1]
    first, second, _ = stacked_weights(predicted, observed, scale, SLIDE)
    assert first == pytest.approx(1 / 6, abs=0.05)
    assert second == pytest.approx(5 / 6, abs=0.05)


def test_a_model_that_says_the_mean_shrinks_the_others():
    predicted, scale = guesses()
    constant = np.zeros((N, G), np.float32)
    found = stacked_weights([predicted[0], constant], 0.3 * predicted[0], scale, SLIDE)
    np.testing.assert_allclose(found, [0.3, 0.7], atol=1e-3)


def slide(name, group, n=20):
    return SimpleNamespace(name=name, group=group, xy_px=np.column_stack([np.arange(n)[::-1], np.zeros(n)]))


def test_groups_are_held_out_whole():
    slides = [slide("a", "P"), slide("b", "Q", 10), slide("c", "P"), slide("d", "R")]
    folds = StackingFolds.of(slides)
    assert folds.kind == "groups"
    held = [{"abcd"[i] for i in np.repeat(range(4), [20, 10, 20, 20])[each]} for each in folds.held_out]
    assert sorted(map(sorted, held)) == [["a", "c"], ["b"], ["d"]]


def test_many_groups_make_five_folds_of_about_equal_size():
    slides = [slide(str(i), str(i), 10 + i) for i in range(12)]
    folds = StackingFolds.of(slides)
    sizes = [int(each.sum()) for each in folds.held_out]
    assert len(sizes) == 5
    assert sum(sizes) == sum(10 + i for i in range(12))
    assert max(sizes) - min(sizes) < 15


def test_slides_of_one_group_are_held_out_one_by_one_and_marked():
    folds = StackingFolds.of([slide("a", "P"), slide("b", "P")])
    assert folds.kind == "slides of one group"
    assert [int(each.sum()) for each in folds.held_out] == [20, 20]


def test_a_single_slide_is_cut_into_stripes_and_marked():
    folds = StackingFolds.of([slide("a", "P")])
    assert folds.kind == "spatial blocks"
    x = np.arange(20)[::-1]
    assert [sorted(x[each].tolist()) for each in folds.held_out] == [list(range(5 * i, 5 * i + 5)) for i in range(4)]
