"""Labels of pandas objects are matched by name; arrays are compared by position."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stpredict.metrics import mae, morans_i, noise_ceiling, pearson, rmse, spearman


@pytest.fixture
def frames():
    rng = np.random.default_rng(0)
    observed = pd.DataFrame(rng.poisson(5, (30, 4)).astype(float), columns=list("abcd"))
    observed.index = [f"spot{i}" for i in range(30)]
    return observed, observed + rng.normal(0, 1, observed.shape)


@pytest.mark.parametrize("score", [pearson, spearman, rmse, mae])
@pytest.mark.parametrize("axis", ["gene", "spot"])
def test_another_order_gives_the_same_scores(frames, score, axis):
    observed, predicted = frames
    expected = score(observed.to_numpy(), predicted.to_numpy(), axis=axis)
    for other in (predicted, predicted[list("dcba")], predicted.iloc[::-1]):
        np.testing.assert_array_equal(score(observed, other, axis=axis), expected)


def test_one_side_without_names_is_compared_by_position(frames):
    observed, predicted = frames
    bare = pd.DataFrame(predicted.to_numpy())
    np.testing.assert_array_equal(pearson(observed, bare), pearson(observed.to_numpy(), predicted.to_numpy()))


def test_positions_and_library_sizes_follow_their_names(frames):
    observed, _ = frames
    rng = np.random.default_rng(1)
    xy = pd.DataFrame(rng.random((30, 2)), index=observed.index, columns=["x", "y"])
    np.testing.assert_array_equal(morans_i(observed, xy.iloc[::-1]), morans_i(observed.to_numpy(), xy.to_numpy()))
    total = observed.sum(axis=1) + 100 * np.arange(30)
    expected = noise_ceiling(observed.to_numpy(), total=total.to_numpy(), seed=0)
    np.testing.assert_array_equal(noise_ceiling(observed, total=total.iloc[::-1], seed=0), expected)


def test_labels_that_cannot_be_matched(frames):
    observed, predicted = frames
    with pytest.raises(ValueError, match=r"are of other genes: 1 are only in `observed` \(d\), 1 only in `predicted`"):
        pearson(observed, predicted.rename(columns={"d": "e"}))
    twice = predicted[list("abdc")].set_axis(list("abcc"), axis=1)
    with pytest.raises(ValueError, match="have the genes in another order, and 1 of them twice"):
        pearson(observed.set_axis(list("acbc"), axis=1), twice)
