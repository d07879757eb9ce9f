"""From counts to what a network regresses, and back, with numbers that can be checked by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from stpredict.pp import TargetSpec
from stpredict.pp.targets import Targets, slide_means, standardize_within_slides

COUNTS = csr_matrix([[1, 3, 6, 0], [0, 0, 5, 5], [2, 2, 0, 0], [0, 0, 0, 0]], dtype=np.float32)
PANEL = [1, 0]


@pytest.mark.parametrize(("spec", "wanted"), [
    (TargetSpec(log1p=False), [[3000, 1000], [0, 0], [5000, 5000], [0, 0]]),
    (TargetSpec(over="panel", target_sum=1e6, log1p=False), [[750_000, 250_000], [0, 0], [500_000, 500_000], [0, 0]]),
    (TargetSpec(over="panel", target_sum=4, log1p=False), [[3, 1], [0, 0], [2, 2], [0, 0]]),
    (TargetSpec(), np.log([[3001, 1001], [1, 1], [5001, 5001], [1, 1]])),
    (TargetSpec(target_sum=None, log1p=False), [[3, 1], [0, 0], [2, 2], [0, 0]]),
    (TargetSpec(target_sum=None), np.log([[4, 2], [1, 1], [3, 3], [1, 1]])),
    (TargetSpec(over="panel", target_sum=1e6), np.log([[750_001, 250_001], [1, 1], [500_001, 500_001], [1, 1]])),
])  # fmt: skip
def test_normalised_expression(spec, wanted):
    found = spec.normalize(COUNTS, PANEL)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize(("spec", "words"), [
    (TargetSpec(), "log1p CP10k"),
    (TargetSpec(target_sum=1e6, over="panel"), "log1p CPM over the panel"),
    (TargetSpec(target_sum=500, log1p=False), "counts per 500"),
    (TargetSpec(target_sum=None), "log1p counts"),
    (TargetSpec(target_sum=None, log1p=False), "counts"),
])  # fmt: skip
def test_units_in_words(spec, words):
    assert spec.units == words


@pytest.mark.parametrize(("fields", "words"), [
    ({"target_sum": 0}, "`target_sum` is 0; it must lie between 1.0 and"),
    ({"over": "genes"}, "`over` is 'genes'; allowed: 'all', 'panel'"),
    ({"center": "spot"}, "`center` is 'spot'; allowed: 'all', 'slide'"),
    ({"n_components": 0}, "`n_components` is 0; it must lie between 1 and"),
])  # fmt: skip
def test_specs_that_are_none(fields, words):
    with pytest.raises(ValueError, match=words):
        TargetSpec(**fields)


def expression(n=40, g=6, seed=0):
    """Three patterns in six genes, two slides of different level."""
    rng = np.random.default_rng(seed)
    slide = np.repeat([3, 8], n // 2)
    values = rng.normal(size=(n, 3)) @ rng.normal(size=(3, g)) + 5 + 0.5 * (slide == 8)[:, None]
    return values.astype(np.float32), slide


GENES = [f"g{i}" for i in range(6)]


@pytest.mark.parametrize("fields", [
    {"n_components": None}, {"n_components": None, "standardize": False}, {"n_components": 6}, {"n_components": 3},
    {"n_components": 4, "standardize": False},
], ids=str)  # fmt: skip
def test_decoding_undoes_encoding(fields):
    values, slide = expression()
    values -= 0.5 * (slide == 8)[:, None]  # rank three
    targets = Targets.fit(TargetSpec(**fields), GENES, values, slide)
    encoded = targets.encode(values, slide)
    assert encoded.shape == (40, targets.n_outputs)
    np.testing.assert_allclose(targets.decode(encoded), values, atol=2e-5)


def test_standardised_targets_have_mean_0_and_spread_1():
    values, slide = expression()
    encoded = Targets.fit(TargetSpec(n_components=None), GENES, values, slide).encode(values, slide)
    np.testing.assert_allclose(encoded.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(encoded.std(axis=0), 1, atol=1e-5)


def test_a_constant_gene_is_not_blown_up():
    values, slide = expression()
    values[:, 2] = 7
    targets = Targets.fit(TargetSpec(n_components=None), GENES, values, slide)
    assert targets.scale[2] == 1
    assert (targets.encode(values, slide)[:, 2] == 0).all()
    assert (targets.decode(targets.encode(values, slide))[:, 2] == 7).all()


def test_components_are_those_of_greatest_variance():
    values, slide = expression()
    targets = Targets.fit(TargetSpec(n_components=2, standardize=False), GENES, values, slide)
    np.testing.assert_allclose(targets.components @ targets.components.T, np.eye(2), atol=1e-6)
    variance = np.linalg.eigvalsh(np.cov(values.T, bias=True))[::-1]
    np.testing.assert_allclose(targets.encode(values, slide).var(axis=0), variance[:2], rtol=1e-4)


@pytest.mark.parametrize(("n_spots", "asked", "given"), [(40, 5, 5), (40, 99, 6), (4, 99, 4)])
def test_no_more_components_than_the_data_have(n_spots, asked, given):
    values, slide = expression(n_spots)
    targets = Targets.fit(TargetSpec(n_components=asked), GENES, values, slide)
    assert targets.n_outputs == given
    assert targets.decode(targets.encode(values, slide)).shape == (n_spots, 6)


def test_statistics_come_from_the_spots_given_alone():
    values, slide = expression()
    targets = Targets.fit(TargetSpec(n_components=3), GENES, values[:20], slide[:20])
    np.testing.assert_allclose(targets.mean, values[:20].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(targets.scale, values[:20].std(axis=0), rtol=1e-5)
    apart = targets.encode(values[20:], slide[20:])
    np.testing.assert_allclose(targets.encode(values, slide)[20:], apart, atol=1e-6)


def test_centring_by_slide_removes_the_difference_between_slides():
    values, slide = expression()
    targets = Targets.fit(TargetSpec(n_components=None, center="slide"), GENES, values, slide)
    encoded = targets.encode(values, slide)
    for number in (3, 8):
        np.testing.assert_allclose(encoded[slide == number].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(targets.decode(np.zeros((1, 6), np.float32))[0], values.mean(axis=0), rtol=1e-6)
    spread = (values - slide_means(values, slide)).std(axis=0)  # within slides only
    np.testing.assert_allclose(targets.scale, spread, rtol=1e-5)
    shifted = values + 10 * (slide == 8)[:, None].astype(np.float32)
    np.testing.assert_allclose(targets.encode(shifted, slide), encoded, atol=1e-4)


def test_slide_means_by_hand():
    values = np.array([[1.0], [10.0], [3.0], [20.0]], np.float32)
    assert slide_means(values, np.array([5, 2, 5, 2])).ravel().tolist() == [2, 15, 2, 15]


@pytest.mark.parametrize("n_components", [None, 2])
def test_saved_targets_are_rebuilt(n_components):
    values, slide = expression()
    targets = Targets.fit(TargetSpec(n_components=n_components, center="slide"), GENES, values, slide)
    arrays = {name: getattr(targets, name) for name in ("mean", "scale", "components")}
    arrays = {name: array for name, array in arrays.items() if array is not None}
    rebuilt = Targets.from_arrays(json.loads(json.dumps(targets.spec.to_dict())), GENES, arrays)
    assert (rebuilt.spec, rebuilt.genes, rebuilt.n_outputs) == (targets.spec, targets.genes, targets.n_outputs)
    np.testing.assert_array_equal(rebuilt.encode(values, slide), targets.encode(values, slide))


def test_standardize_within_slides():
    rng = np.random.default_rng(0)
    values, slide = rng.normal(3, 2, (50, 4)).astype(np.float32), np.arange(50) % 2
    values[:, 3] = slide  # constant within each slide
    found = standardize_within_slides(values, slide)
    np.testing.assert_allclose(standardize_within_slides(values + 10 * slide[:, None], slide), found, atol=1e-4)
    own = values[slide == 1, :3].astype(float)
    np.testing.assert_allclose(found[slide == 1, :3], (own - own.mean(0)) / own.std(0), atol=1e-5)
    assert not found[:, 3].any()
