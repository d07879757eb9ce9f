"""Imputation: kriging agrees with the formula, measured spots come back within the noise, the table is one of ours."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from stpredict.metrics import pearson
from stpredict.pp import TargetSpec
from stpredict.tl import evaluate, impute, predict, summary
from stpredict.tl._adaptation.imputation import krige_alone, krige_residuals
from stpredict.tl._adaptation.kriging import CANDIDATES, Covariance, choose_covariances, krige_components, leave_one_out

SLIDE = "S2_spots"
NOISE = 0.8


def lattice(n_side=12, pitch=150.0):
    x, y = np.meshgrid(np.arange(n_side), np.arange(n_side))
    return pitch * np.column_stack([x.ravel(), y.ravel()]).astype(float)


def smooth_fields(xy_um, n_fields, *, range_um, nugget, seed=0):
    """Gaussian processes with an exponential covariance of variance 1, and independent noise."""
    rng = np.random.default_rng(seed)
    distance = np.hypot(*(xy_um[:, None] - xy_um[None]).transpose(2, 0, 1))
    signal = np.linalg.cholesky(np.exp(-distance / range_um) + 1e-9 * np.eye(len(xy_um)))
    fields = signal @ rng.normal(size=(len(xy_um), n_fields))
    return fields, fields + np.sqrt(nugget) * rng.normal(size=fields.shape)


@pytest.mark.parametrize("unknown_mean", [False, True])
@pytest.mark.parametrize("signal", [0.0, 3.0])
def test_kriging_agrees_with_the_slow_formula(unknown_mean, signal):
    """One spot after another: the kriging system with a Lagrange multiplier for the unknown mean."""
    xy_um, rng = lattice(6), np.random.default_rng(1)
    rows = np.sort(rng.choice(len(xy_um), 9, replace=False))
    values, covariance = rng.normal(size=(9, 2)), Covariance(signal_to_nugget=signal, range_um=300.0)
    mean, variance, noise = krige_components(values, covariance, xy_um, rows, unknown_mean=unknown_mean)
    sill, nugget = signal / (1 + signal), 1 / (1 + signal)
    scale = noise / nugget
    system = np.zeros((10, 10))
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            system[i, j] = sill * np.exp(-np.hypot(*(xy_um[a] - xy_um[b])) / 300) + nugget * (a == b)
    system[:9, 9] = system[9, :9] = 1
    size = 10 if unknown_mean else 9
    for spot, place in enumerate(xy_um):
        right = np.array([sill * np.exp(-np.hypot(*(place - xy_um[a])) / 300) for a in rows] + [1.0])[:size]
        weights = np.linalg.solve(system[:size, :size], right)
        np.testing.assert_allclose(mean[spot], weights[:9] @ values, atol=1e-8)
        np.testing.assert_allclose(variance[spot], (sill - weights @ right) * scale, atol=1e-6)


@pytest.mark.parametrize("unknown_mean", [False, True])
def test_leave_one_out_agrees_with_leaving_each_out(unknown_mean):
    rng, xy_um = np.random.default_rng(2), lattice(4)
    covariance = Covariance(signal_to_nugget=2.0, range_um=200.0)
    values = rng.normal(size=(16, 3))
    residual, precision = leave_one_out(values, covariance.of(xy_um), unknown_mean=unknown_mean)
    for i in range(16):
        others = np.delete(np.arange(16), i)
        inverse = np.linalg.inv(covariance.of(xy_um[others]))
        cross = covariance.between(xy_um[[i]], xy_um[others])[0]
        mean = inverse.sum(axis=0) @ values[others] / inverse.sum() if unknown_mean else 0.0
        np.testing.assert_allclose(residual[i], values[i] - mean - cross @ inverse @ (values[others] - mean))
        if not unknown_mean:
            assert 1 / precision[i] == pytest.approx(1 - cross @ inverse @ cross)


def test_the_range_and_the_noise_are_found():
    xy_um = lattice()
    _, smooth = smooth_fields(xy_um, 4, range_um=800, nugget=0.1)
    noise = np.random.default_rng(10).normal(size=(len(xy_um), 4))
    chosen = choose_covariances(np.column_stack([smooth, noise]), xy_um, unknown_mean=False)
    assert all(each.signal_to_nugget >= 3 and each.range_um >= 400 for each in chosen[:4])
    assert all(each.signal_to_nugget <= 0.3 for each in chosen[4:])
    few = choose_covariances(noise[:3], xy_um[:3], unknown_mean=False)
    assert {each.signal_to_nugget for each in few} <= {0.1, 0.3, 1.0}  # the prior decides
    assert len(set(CANDIDATES)) == len(CANDIDATES)


@pytest.fixture(scope="module")
def tissue():
    """Forty genes made of three smooth fields, measured with noise at every third spot."""
    xy_um, rng = lattice(), np.random.default_rng(5)
    fields, _ = smooth_fields(xy_um, 3, range_um=600, nugget=0, seed=5)
    expected = 8 + fields @ rng.normal(size=(3, 40))
    observed = (expected + NOISE * rng.normal(size=expected.shape)).astype(np.float32)
    rows = np.sort(rng.choice(len(xy_um), len(xy_um) // 3, replace=False))
    return SimpleNamespace(xy_um=xy_um, expected=expected, observed=observed, rows=rows)


def test_measured_spots_come_back_within_the_noise(tissue):
    found = krige_alone(tissue.observed[tissue.rows], tissue.rows, tissue.xy_um)
    off = (found.expression - tissue.observed)[tissue.rows] / found.noise
    assert np.abs(off).max() < 4.5
    assert 0.3 < np.sqrt(np.mean(off**2)) < 1.1
    assert found.noise.mean() == pytest.approx(NOISE, rel=0.35)


def test_the_standard_error_covers_what_was_not_measured(tissue):
    found = krige_alone(tissue.observed[tissue.rows], tissue.rows, tissue.xy_um)
    others = np.setdiff1d(np.arange(len(tissue.xy_um)), tissue.rows)
    off = np.abs((found.expression - tissue.observed) / found.standard_error)[others]
    assert 0.9 < np.mean(off < 1.96) < 0.99
    assert (found.standard_error >= found.noise * 0.999).all()
    near = found.standard_error[tissue.rows].mean()
    assert near < found.standard_error[others].mean()
    assert np.nanmean(pearson(tissue.expected[others], found.expression[others])) > 0.6


def test_residuals_add_to_a_prediction(tissue):
    """A predictor that knows two of three fields: kriging its residuals is better than it, and than kriging alone."""
    rng = np.random.default_rng(6)
    basis = np.linalg.svd(tissue.expected - tissue.expected.mean(axis=0), full_matrices=False)
    predicted = (basis[0][:, :2] * basis[1][:2]) @ basis[2][:2] + 8 + rng.normal(size=40)
    predicted = predicted.astype(np.float32)
    others = np.setdiff1d(np.arange(len(tissue.xy_um)), tissue.rows)
    observed = tissue.observed[tissue.rows]
    alone = krige_alone(observed, tissue.rows, tissue.xy_um).expression
    both = krige_residuals(predicted, observed, tissue.rows, tissue.xy_um, np.ones(40), "S")
    errors = [np.sqrt(np.mean((each - tissue.expected)[others] ** 2)) for each in (predicted, alone, both.expression)]
    assert errors[2] < 0.8 * min(errors[:2])
    off = np.abs(both.expression - tissue.observed)[others] / both.standard_error[others]
    assert 0.88 < np.mean(off < 1.96) < 0.995


@pytest.mark.parametrize("with_predictor", [True, False])
def test_the_table_is_one_of_ours(sdata, predictor, tmp_path, through_files, with_predictor):
    names = sdata["observed"].obs_names[sdata["observed"].obs["region"] == SLIDE]
    impute(
        sdata, predictor if with_predictor else None, measured=names[::3], shapes_key=SLIDE, progress=False
    )  # fmt: skip
    table = sdata["imputed"]
    assert table.obs_names.tolist() == names.tolist()
    assert table.obs["measured"].sum() == 9
    assert table.X.dtype == np.float32
    assert (table.X >= 0).all()
    assert (table.layers["standard_error"] >= 0.99 * table.var["noise"].to_numpy()).all()
    assert table.uns["imputed"]["units"] == "log1p CP10k"
    scores = evaluate(sdata, predicted="imputed")
    assert scores.attrs["n_spots"] == 16  # the unmeasured ones
    assert np.isfinite(summary(scores).loc["model", "rmse"])
    again = through_files(sdata, tmp_path)
    np.testing.assert_array_equal(again["imputed"].X, table.X)
    assert evaluate(again, predicted="imputed").attrs["n_spots"] == 16
    impute(sdata, measured=names[::2], shapes_key=SLIDE, progress=False)  # an imputed table is replaced
    assert sdata["imputed"].obs["measured"].sum() == 13


def test_genes_and_units_without_a_predictor(sdata):
    names = sdata["observed"].obs_names[50::3]
    target = TargetSpec(target_sum=1e6, over="panel")
    impute(
        sdata, measured=names, shapes_key=SLIDE, genes=["GENE1", "GENE4"], target=target, key_added="k", progress=False
    )
    assert sdata["k"].var_names.tolist() == ["GENE1", "GENE4"]
    assert sdata["k"].uns["k"]["units"] == "log1p CPM over the panel"
    sdata["observed"].uns["stpredict"] = {"genes": ["GENE7", "GENE2"]}
    impute(sdata, measured=names, shapes_key=SLIDE, progress=False)
    assert sdata["imputed"].var_names.tolist() == ["GENE7", "GENE2"]
    sdata["observed"].X = sdata["observed"].X * np.float32(0.7)  # as after a correction for ambient RNA
    with pytest.raises(ValueError, match="whole numbers"):
        impute(sdata, measured=names, shapes_key=SLIDE, progress=False)
    impute(sdata, measured=names, shapes_key=SLIDE, allow_fractional_counts=True, progress=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"measured": []}, "empty list: there is nothing to impute from"),
        ({"measured": "everywhere"}, "names all 25 spots"),
        ({"genes": ["nothing"]}, "'nothing'"),
        ({"key_added": "observed"}, "not written by `stp.tl.impute`"),
        ({"key_added": "predicted"}, "not written by `stp.tl.impute`"),
        ({"predictor": True, "genes": ["GENE1"]}, "are those of the predictor"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input_is_one_clear_sentence(sdata, predictor, change, message):
    table = sdata["observed"]
    table.obs["everywhere"] = True
    predict(sdata, predictor, shapes_key=SLIDE, progress=False)
    given = {"measured": table.obs_names[50::3], "shapes_key": SLIDE, "progress": False, **change}
    if given.pop("predictor", False):
        given["predictor"] = predictor
    with pytest.raises(ValueError, match=message):
        impute(sdata, **given)
