"""Adaptation to measured spots: it recovers planted shifts, shrinks to both limits, and costs nothing if unneeded."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

from stpredict.tl import Predictor, adapt, predict
from stpredict.tl._adaptation.empirical_bayes import (
    fit_adaptation,
    is_better,
    noise_covariance,
    selected_effects,
    shrunken_effects,
    shrunken_slope,
)

SLIDE = "S2_spots"


def simulate(seed, *, offset=0.0, slope=1.0, head=0.0, noise=0.5, n_genes=60, n_side=15):
    """Predictions of rank 3 on a lattice of 200 µm, and expression that deviates from them in a known way."""
    rng, n = np.random.default_rng(seed), n_side**2
    xy_um = 200.0 * np.stack(np.meshgrid(np.arange(n_side), np.arange(n_side)), axis=-1).reshape(-1, 2)
    loadings = rng.normal(size=(3, n_genes))
    scores = rng.normal(size=(n, 3))
    deviation = scores @ loadings
    predicted = (10 + deviation - deviation.mean(axis=0)).astype(np.float32)
    shift = offset * rng.normal(size=n_genes)
    expected = predicted + shift + (slope - 1) * (predicted - predicted.mean(axis=0))
    expected = expected + scores @ (head * rng.normal(size=(3, n_genes)))
    observed = (expected + noise * rng.normal(size=expected.shape)).astype(np.float32)
    return SimpleNamespace(
        predicted=predicted, expected=expected, observed=observed, xy_um=xy_um, shift=shift, std=np.ones(n_genes)
    )


def adapted(data, rows):
    found = fit_adaptation(data.predicted, data.observed[rows], rows, data.xy_um, data.std, "S").adaptation
    return found(data.predicted), found


def rmse(a, b):
    return float(np.sqrt(np.mean((a - b) ** 2)))


def scattered(n, seed=0):
    return np.sort(np.random.default_rng(seed).choice(225, n, replace=False))


def test_planted_offset_and_scale_are_recovered_as_spots_grow():
    data = simulate(1, offset=1.0, slope=0.6)
    before, errors = rmse(data.predicted, data.expected), []
    for n in (5, 20, 100):
        expression, found = adapted(data, scattered(n))
        errors.append(rmse(expression, data.expected))
    assert before > 1.2
    assert errors[2] < errors[1] < errors[0] < 0.5 * before
    assert errors[2] < 0.15
    np.testing.assert_allclose(found.offset, data.shift, atol=0.25)
    np.testing.assert_allclose(found.scale, 0.6, atol=0.05)


def test_the_head_recovers_what_offset_and_scale_cannot():
    data = simulate(2, head=1.0)
    rows = scattered(50)
    expression, _ = adapted(data, rows)
    assert rmse(data.predicted, data.expected) > 1.2
    assert rmse(expression, data.expected) < 0.5


def test_the_head_is_used_only_if_leaving_spots_out_says_so():
    """Noise with a factor that all genes share: a likelihood over genes takes it for a head, left-out spots do not."""
    n_used = 0
    for seed in range(30):
        rng, n = np.random.default_rng(seed), 20
        noise = rng.normal(size=(n, 1)) * rng.normal(size=100) + rng.normal(size=(n, 100))
        design = np.column_stack([np.ones(n), rng.normal(size=(n, 5))])
        assert np.abs(shrunken_effects(noise, design, np.eye(n)).mean[1:]).max() > 0
        found = selected_effects(noise, design, np.eye(n))
        n_used += found.mean[1:].any()
        assert found.mean.shape == (6, 100)
        assert found.covariance.shape == (6, 6)
    assert n_used <= 12
    errors = np.full((5, 2), 2.0)
    assert is_better(errors - 1, than=errors)
    assert not is_better(errors, than=errors)
    assert not is_better(errors - [[1, 1], [0, 0], [0, 0], [0, 0], [0, 0]], than=errors)  # one spot decides nothing


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("noise", [0.5, 2.0])
def test_few_noisy_spots_do_no_harm(n, noise):
    """The predictor is right and only noise is measured: the error that is added is a small part of the noise."""
    added = []
    for seed in range(20):
        data = simulate(seed, noise=noise)
        expression, _ = adapted(data, scattered(n, seed))
        added.append(rmse(expression, data.expected))
    assert np.mean(added) < 0.15 * noise  # the mean of three spots would add 0.58
    assert max(added) < 0.4 * noise


def test_a_region_with_correlated_residuals_does_little_harm():
    """Residuals that are smooth in space and 0 on average over the slide are not taken for an offset of the slide."""
    added, naive = [], []
    for seed in range(20):
        data = simulate(seed)
        rng = np.random.default_rng(seed)
        smooth = np.linalg.cholesky(noise_covariance(data.xy_um)) @ rng.normal(size=data.predicted.shape)
        data.observed = (data.predicted + smooth - smooth.mean(axis=0)).astype(np.float32)
        rows = np.sort(np.argsort(np.hypot(*(data.xy_um - data.xy_um[rng.integers(225)]).T), kind="stable")[:10])
        expression, _ = adapted(data, rows)
        added.append(rmse(expression, data.predicted))
        naive.append(rmse((data.observed - data.predicted)[rows].mean(axis=0), 0))
    assert np.mean(added) < 0.3 * np.mean(naive)


def test_shrinkage_goes_to_both_limits():
    """Offsets far above the noise are kept whole; noise around 0 gives no effect."""
    rng, n = np.random.default_rng(0), 20
    design, noise = np.ones((n, 1)), rng.normal(size=(n, 200))
    planted = 5 * rng.normal(size=200)
    kept = shrunken_effects(planted + 0.1 * noise, design, np.eye(n)).mean[0]
    np.testing.assert_allclose(kept, (planted + 0.1 * noise).mean(axis=0), rtol=0.01)
    gone = shrunken_effects(noise - noise.mean(axis=0), design, np.eye(n))
    assert np.abs(gone.mean).max() < 1e-9
    half = shrunken_effects(noise, design, np.eye(n)).mean[0]
    assert np.abs(half).mean() < 0.3 * np.abs(noise.mean(axis=0)).mean()


def test_effects_agree_with_the_posterior_of_one_prior(monkeypatch):
    """With one candidate in the grid, the posterior mean is that of a Bayesian linear regression."""
    from stpredict.tl._adaptation import empirical_bayes

    monkeypatch.setattr(empirical_bayes, "OFFSET_VARIANCES", (0.7,))
    monkeypatch.setattr(empirical_bayes, "HEAD_VARIANCES", (0.2,))
    rng = np.random.default_rng(3)
    design, residual = np.column_stack([np.ones(12), rng.normal(size=(12, 2))]), rng.normal(size=(12, 5))
    covariance = noise_covariance(rng.uniform(0, 2000, (12, 2)))
    prior = np.diag([0.7, 0.2, 0.2])
    gain = prior @ design.T @ np.linalg.inv(design @ prior @ design.T + covariance)
    found = shrunken_effects(residual, design, covariance)
    np.testing.assert_allclose(found.mean, gain @ residual, atol=1e-10)
    np.testing.assert_allclose(found.covariance, prior - gain @ design @ prior, atol=1e-10)


def test_the_slope_is_shrunk_to_both_limits():
    rng = np.random.default_rng(4)
    deviation = rng.normal(size=(30, 50))
    precise = shrunken_slope(1 - 0.4 * deviation, deviation, np.eye(30))
    assert precise == pytest.approx(-0.4, abs=0.01)
    assert abs(shrunken_slope(rng.normal(size=(30, 50)), deviation, np.eye(30))) < 0.1
    assert shrunken_slope(deviation, np.zeros_like(deviation), np.eye(30)) == 0


def test_no_measured_spot_is_the_identity(sdata, predictor):
    same = adapt(predictor, sdata, measured=[], shapes_key=SLIDE)
    assert same.hash == predictor.hash
    predict(sdata, predictor, shapes_key=SLIDE, progress=False)
    before = sdata["predicted"].X.copy()
    predict(sdata, same, shapes_key=SLIDE, progress=False)
    np.testing.assert_array_equal(sdata["predicted"].X, before)


@pytest.fixture
def shifted(sdata):
    """The third slide with counts in which half of the genes are four times as high."""
    table = sdata["observed"]
    rows = np.flatnonzero(table.obs["region"] == SLIDE)
    dense = np.asarray(table.X.todense())
    dense[np.ix_(rows, range(6))] *= 4
    table.X = type(table.X)(dense)
    return sdata, table.obs_names[rows]


def test_an_adapted_predictor_is_better_and_comes_back(shifted, predictor, tmp_path):
    from stpredict.tl import evaluate, summary

    sdata, names = shifted
    found = {}
    better = adapt(predictor, sdata, measured=names[::3], shapes_key=SLIDE, progress=False)
    better.save(tmp_path / "adapted")
    again = Predictor.load(tmp_path / "adapted")
    assert again.hash == better.hash != predictor.hash
    assert "Adapted to 9 measured spots of S2_spots" in (tmp_path / "adapted" / "README.md").read_text(encoding="utf-8")
    assert "adapted to: S2_spots (9 measured spots)" in repr(again)
    for name, each in (("as trained", predictor), ("adapted", better), ("again", again)):
        predict(sdata, each, shapes_key=SLIDE, progress=False)
        seen = pytest.warns(UserWarning, match=r"S2_spots \(9 measured spots\)")
        with nullcontext() if each is predictor else seen:
            found[name] = summary(evaluate(sdata, shapes_key=SLIDE)).loc["model", "rmse"]
    assert found["adapted"] < 0.7 * found["as trained"]
    assert found["again"] == found["adapted"]
    anew = adapt(better, sdata, measured=names[::3], shapes_key=SLIDE, progress=False)
    assert anew.hash == better.hash


def test_the_ways_to_name_spots_agree(shifted, predictor):
    sdata, names = shifted
    table = sdata["observed"]
    table.obs["is_measured"] = table.obs_names.isin(names[::3])
    hashes = {
        adapt(predictor, sdata, measured=measured, shapes_key=SLIDE, progress=False).hash
        for measured in ("is_measured", table.obs["is_measured"], table.obs["is_measured"].tolist(), list(names[::3]))
    }
    assert len(hashes) == 1


def test_counts_of_other_spots_are_not_used(shifted, predictor):
    sdata, names = shifted
    table, measured = sdata["observed"], names[::3]
    first = adapt(predictor, sdata, measured=measured, shapes_key=SLIDE, progress=False)
    dense = np.asarray(table.X.todense())
    dense[~table.obs_names.isin(measured)] = 0
    table.X = type(table.X)(dense)
    assert adapt(predictor, sdata, measured=measured, shapes_key=SLIDE, progress=False).hash == first.hash


def test_intervals_of_the_given_predictor_are_dropped(shifted, predictor):
    sdata, names = shifted
    assert predictor.calibration is not None
    assert adapt(predictor, sdata, measured=names[::3], shapes_key=SLIDE, progress=False).calibration is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measured": "no_such"}, "has no such column"),
        ({"measured": "region"}, "not True and False"),
        ({"measured": "elsewhere"}, r"obs\['elsewhere'\] is True at no spot of 'S2_spots'"),
        ({"measured": [True, False]}, "mask of shape"),
        ({"measured": ["S2_0", "nobody"]}, "'nobody'"),
        ({"measured": "everywhere"}, "names all 25 spots of .S2_spots., so there is none left to predict"),
        ({"measured": "two"}, r"names 2 of 25 spots of .S2_spots.; at least 3 are needed. Measure more"),
        ({"measured": "empty"}, "1 of 3 measured spots of 'S2_spots' have no counts"),
        ({"measured": "two", "shapes_key": None}, "there are 3"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_is_one_clear_sentence(sdata, predictor, change, message):
    table = sdata["observed"]
    of_slide = (table.obs["region"] == SLIDE).to_numpy()
    first = np.flatnonzero(of_slide)
    table.obs["everywhere"], table.obs["elsewhere"] = True, ~of_slide
    table.obs["two"] = np.isin(np.arange(table.n_obs), first[:2])
    table.obs["empty"] = np.isin(np.arange(table.n_obs), first[:3])
    dense = np.asarray(table.X.todense())
    dense[first[2]] = 0
    table.X = type(table.X)(dense)
    with pytest.raises(ValueError, match=message):
        adapt(predictor, sdata, **{"shapes_key": SLIDE, "progress": False, **change})


def test_genes_that_were_not_measured_are_named(shifted, predictor):
    sdata, names = shifted
    table = sdata.tables.pop("observed")
    sdata.tables["observed"] = table[:, table.var_names != "GENE3"].copy()
    with pytest.raises(ValueError, match="lacks 1 of the 12 genes: 'GENE3'"):
        adapt(predictor, sdata, measured=names[::3], shapes_key=SLIDE)
    with pytest.raises(TypeError, match=r"`predictor` is a SpatialData.*The order is `stp.tl.adapt\(predictor, sdata"):
        adapt(sdata, predictor, measured=names[::3])
