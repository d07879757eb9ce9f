"""Scores of partitions: against scikit-learn, slow formulas and known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import entropy
from sklearn import metrics as sk

from stpredict import metrics

RNG = np.random.default_rng(0)
LABELS, OTHER = RNG.integers(0, 4, 120), RNG.integers(0, 3, 120)
OTHER[:60] = LABELS[:60] % 3
XY = np.stack(np.meshgrid(np.arange(12.0), np.arange(10.0)), axis=-1).reshape(-1, 2)


def test_agreement_is_that_of_scikit_learn_for_any_names():
    names = np.array(["d", "a", "c", "b"])[LABELS]
    assert metrics.ari(names, OTHER) == pytest.approx(sk.adjusted_rand_score(LABELS, OTHER))
    assert metrics.nmi(names, OTHER) == pytest.approx(sk.normalized_mutual_info_score(LABELS, OTHER))
    expected = sk.homogeneity_score(LABELS, OTHER), sk.completeness_score(LABELS, OTHER)
    assert metrics.homogeneity_completeness(names, OTHER) == pytest.approx(expected)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_spots_without_a_label_are_left_out(missing):
    labels = pd.Series(LABELS.astype(str), dtype=object)
    labels[5:20] = missing
    rows = np.r_[:5, 20:120]
    assert metrics.ari(labels, OTHER) == pytest.approx(sk.adjusted_rand_score(LABELS[rows], OTHER[rows]))
    assert metrics.ari(pd.Categorical(labels), OTHER) == metrics.ari(labels, OTHER)


def test_labels_of_pandas_are_matched_by_name():
    one = pd.Series(LABELS, index=[f"s{i}" for i in range(120)])
    other = pd.Series(OTHER, index=one.index)
    assert metrics.ari(one, other.sample(frac=1, random_state=0)) == metrics.ari(one, other)


def test_silhouette():
    features = RNG.normal(size=(120, 3)) + LABELS[:, None]
    assert metrics.silhouette(features, LABELS) == pytest.approx(sk.silhouette_score(features, LABELS))
    assert np.isnan(metrics.silhouette(features, np.ones(120)))
    assert np.isnan(metrics.silhouette(features, np.arange(120)))


def test_silhouette_of_many_spots_is_estimated_on_a_sample(monkeypatch):
    features = np.r_[RNG.normal(size=(150, 2)), RNG.normal(size=(150, 2)) + 8]
    whole = metrics.silhouette(features, np.arange(300) // 150)
    monkeypatch.setattr("stpredict.metrics._partitions.SILHOUETTE_SPOTS", 100)
    assert metrics.silhouette(features, np.arange(300) // 150) == pytest.approx(whole, abs=0.05)


def slow_chaos(xy, domains, slide):
    """By loops over pairs of spots."""
    nearest, found = {}, []
    for name in set(slide):
        own = np.flatnonzero(slide == name)
        pitch = [min(np.hypot(*(xy[i] - xy[j])) for j in own if j != i) for i in own]
        nearest[name] = np.median(pitch)
    for i in range(len(xy)):
        same = [j for j in range(len(xy)) if j != i and slide[i] == slide[j] and domains[i] == domains[j]]
        if same:
            found.append(min(np.hypot(*(xy[i] - xy[j])) for j in same) / nearest[slide[i]])
    return np.mean(found)


def test_chaos_against_loops_and_in_any_unit():
    slide = np.arange(120) // 60
    assert metrics.chaos(XY, LABELS, slide=slide) == pytest.approx(slow_chaos(XY, LABELS, slide))
    assert metrics.chaos(XY * 200 + 7, LABELS) == pytest.approx(metrics.chaos(XY, LABELS))
    halves = XY[:, 0] < 6
    assert metrics.chaos(XY, halves) == pytest.approx(1)
    assert metrics.chaos(XY, LABELS) > 1.1


def test_pas():
    halves = (XY[:, 0] < 6).astype(int)
    assert metrics.pas(XY, halves, n_neighbors=4) == 0
    one_off = halves.copy()
    one_off[30] = 1 - one_off[30]
    assert metrics.pas(XY, one_off, n_neighbors=4) == pytest.approx(1 / 120)
    assert metrics.pas(np.zeros((4, 2)), [0, 0, 0, 1], n_neighbors=10) == pytest.approx(1 / 4)
    own_slide = metrics.pas(XY, np.arange(120) // 60, slide=np.arange(120) // 60)
    assert own_slide == 0


def test_pas_rewards_regions_cut_by_position():
    rings = (np.hypot(*(XY - XY.mean(axis=0)).T) // 1.2).astype(int)
    blocks = (XY[:, 0] // 6 + 2 * (XY[:, 1] // 5)).astype(int)
    assert metrics.pas(XY, blocks) < metrics.pas(XY, rings)


def test_lisi_weights_have_the_perplexity_and_give_the_inverse_simpson_index():
    x = RNG.normal(size=(150, 2))
    labels = np.arange(150) % 3
    found = metrics.lisi(x, labels, perplexity=10)
    assert (found >= 1 - 1e-9).all()
    assert (found <= 3 + 1e-9).all()
    squares = ((x[0] - x) ** 2).sum(axis=1)
    near = np.argsort(squares)[1:31]
    widths = np.geomspace(1e-3, 1e3, 20_000)
    weights = np.exp(-squares[near] / widths[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    best = weights[np.argmin(np.abs(entropy(weights, axis=1) - np.log(10)))]
    share = [best[labels[near] == label].sum() for label in range(3)]
    assert found[0] == pytest.approx(1 / np.square(share).sum(), rel=1e-2)


def test_lisi_of_mixed_and_of_separate_labels():
    x = RNG.normal(size=(400, 2))
    assert metrics.lisi(x, np.arange(400) % 2).mean() > 1.85
    assert metrics.lisi(x + 100 * (np.arange(400) % 2)[:, None], np.arange(400) % 2).max() == pytest.approx(1)
    assert metrics.lisi(np.zeros((8, 2)), np.arange(8) % 2).mean() > 1.5  # all at one point


def test_domain_share_against_regression_on_indicators():
    values = RNG.normal(size=(120, 5)) + LABELS[:, None]
    dummies = np.eye(4)[LABELS]
    residual = values - dummies @ np.linalg.lstsq(dummies, values, rcond=None)[0]
    r_squared = 1 - (residual**2).sum(axis=0) / ((values - values.mean(axis=0)) ** 2).sum(axis=0)
    expected = np.mean(1 - (1 - r_squared) * 119 / 116)
    assert metrics.domain_share(values, LABELS) == pytest.approx(expected)
    assert metrics.domain_share(np.c_[values, np.ones(120)], LABELS) == pytest.approx(expected)  # a constant gene
    random = [metrics.domain_share(values, RNG.permutation(LABELS)) for _ in range(200)]
    assert abs(np.mean(random)) < 0.01
    assert np.isnan(metrics.domain_share(np.ones((5, 2)), [0, 0, 1, 1, 1]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: metrics.ari([1, 2], [1, 2, 3]), "`labels` is of 2 spots and `other` of 3"),
        (lambda: metrics.nmi([1, None], [None, 2]), "None of 2 spots has a label in both"),
        (lambda: metrics.silhouette([[1.0], [np.nan]], [1, 2]), r"`features` is NaN or infinite at 1 of 2 .*rows 1"),
        (lambda: metrics.pas([[0, 0], [1, 1]], [1, None]), r"`domains` is missing for 1 of 2 spots \(rows 1\)"),
        (lambda: metrics.pas([[0, 0], [1, 1]], [1, 2], n_neighbors=0), "`n_neighbors` is 0, but"),
        (lambda: metrics.chaos([[0, 0], [1, 1]], [1, 2]), "No domain holds two spots"),
        (lambda: metrics.lisi([[0.0], [1.0]], [1, 2]), "2 spots, but at least 3"),
        (lambda: metrics.domain_share([[0.0], [1.0]], [1, 2]), "2 domains of 2 spots"),
    ],
)
def test_errors(call, words):
    with pytest.raises(ValueError, match=words):
        call()
