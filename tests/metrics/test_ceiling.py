"""The noise ceiling: simulations where the truth is known, limits, sparse input, determinism."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse

from stpredict import metrics

STRENGTHS = np.array([0.2, 1.0, 4.0, 20.0])  # mean counts of a gene per spot
REPLICATES = 25  # genes of each strength


def tissue(*, n_spots=1200, background=2000.0, seed=0):
    """Rates of genes at several strengths, with a pattern of their own each, and of everything else in a spot."""
    rng = np.random.default_rng(seed)
    pattern = rng.gamma(3.0, 1 / 3.0, size=(n_spots, len(STRENGTHS) * REPLICATES))
    depth = rng.lognormal(0, 0.4, size=(n_spots, 1))
    return depth * pattern * np.repeat(STRENGTHS, REPLICATES), depth * background


def normalized(counts, library, log1p):
    scaled = counts * 1e4 / library
    return np.log1p(scaled) if log1p else scaled


def by_strength(values):
    """Root mean square over replicates: reliabilities, which are squares, average without bias."""
    return np.sqrt(np.square(values).reshape(len(STRENGTHS), REPLICATES).mean(axis=1))


@pytest.mark.parametrize(("log1p", "tolerance"), [(False, 0.02), (True, 0.05)])
@pytest.mark.parametrize("seed", [0, 1])
def test_ceiling_is_the_score_of_the_true_rates(log1p, tolerance, seed):
    """The observed, scored against the rates they were drawn from, reach the ceiling at every strength."""
    rates, background = tissue(seed=seed)
    rng = np.random.default_rng([seed, 1])
    counts = rng.poisson(rates)
    total = counts.sum(axis=1) + rng.poisson(background)[:, 0]
    ceiling = by_strength(metrics.noise_ceiling(counts, total=total, log1p=log1p, seed=seed))
    observed = normalized(counts, total[:, None], log1p)
    truth = normalized(rates, rates.sum(axis=1, keepdims=True) + background, log1p)
    np.testing.assert_allclose(ceiling, by_strength(metrics.pearson(observed, truth)), atol=tolerance)
    assert (np.diff(ceiling) > 0.15).all()  # stronger genes have higher ceilings


@pytest.mark.parametrize(("log1p", "tolerance"), [(False, 0.02), (True, 0.08)])
def test_ceiling_is_the_score_of_the_true_rates_within_a_panel(log1p, tolerance):
    """Without `total` the library is the panel's."""
    rates, _ = tissue()
    counts = np.random.default_rng(1).poisson(rates)
    ceiling = metrics.noise_ceiling(counts, log1p=log1p)
    np.testing.assert_array_equal(metrics.noise_ceiling(counts, total=counts.sum(axis=1), log1p=log1p), ceiling)
    observed = normalized(counts, counts.sum(axis=1, keepdims=True), log1p)
    truth = normalized(rates, rates.sum(axis=1, keepdims=True), log1p)
    np.testing.assert_allclose(by_strength(ceiling), by_strength(metrics.pearson(observed, truth)), atol=tolerance)


def test_ceiling_of_counts_that_are_not_scaled():
    """Linear and Poisson, the reliability is that of the halves: a gene of equal depth everywhere as with scaling."""
    rates, _ = tissue()
    counts = np.random.default_rng(1).poisson(rates)
    ceiling = by_strength(metrics.noise_ceiling(counts, target_sum=None, log1p=False))
    np.testing.assert_allclose(ceiling, by_strength(metrics.pearson(counts, rates)), atol=0.02)
    whole = np.full(len(counts), 10 * counts.sum(axis=1).max())
    alike = by_strength(metrics.noise_ceiling(counts, total=whole, log1p=False))
    np.testing.assert_allclose(ceiling, alike, atol=0.02)


def test_poisson_noise_alone_has_no_ceiling():
    counts = np.random.default_rng(0).poisson(5, size=(2000, 50))
    ceiling = metrics.noise_ceiling(counts, total=np.full(2000, 100_000))
    assert np.mean(ceiling**2) < 0.05  # reliability


def test_analytic_reliability():
    """Var(rate) / (Var(rate) + E(rate)) for linear, equally deep spots: here 2 / (2 + 2)."""
    rates = np.random.default_rng(0).gamma(2.0, 1.0, size=(4000, 20))
    counts = np.random.default_rng(1).poisson(rates)
    ceiling = metrics.noise_ceiling(counts, total=np.full(4000, 10**7), log1p=False)
    assert np.mean(ceiling**2) == pytest.approx(0.5, abs=0.02)


def test_dense_sparse_and_float_counts_agree():
    counts = np.random.default_rng(0).poisson(1.5, size=(60, 9))
    expected = metrics.noise_ceiling(counts)
    doubled = scipy.sparse.coo_array((np.ones(6), ([0, 0, 1, 1, 2, 2], [0, 0, 1, 1, 2, 2])), shape=(3, 3))
    for same in (
        counts.astype(np.float32),
        counts.astype(np.uint8),
        np.asfortranarray(counts),
        scipy.sparse.csr_array(counts.astype(np.float32)),
        scipy.sparse.csc_matrix(counts),
        scipy.sparse.coo_array(counts),
    ):
        np.testing.assert_array_equal(metrics.noise_ceiling(same), expected)
    np.testing.assert_array_equal(metrics.noise_ceiling(doubled), metrics.noise_ceiling(doubled.toarray()))


def test_seed_decides_and_global_state_is_untouched():
    counts = np.random.default_rng(0).poisson(2, size=(50, 4))
    state = np.random.get_state()[1].tolist()  # noqa: NPY002
    first = metrics.noise_ceiling(counts, seed=3)
    np.testing.assert_array_equal(metrics.noise_ceiling(counts, seed=3), first)
    assert not np.array_equal(metrics.noise_ceiling(counts, seed=4), first)
    assert np.random.get_state()[1].tolist() == state  # noqa: NPY002


def test_more_splits_vary_less():
    counts = np.random.default_rng(0).poisson(np.random.default_rng(1).gamma(2, size=(100, 30)))
    spread = [
        np.std([metrics.noise_ceiling(counts, n_splits=n, seed=s) ** 2 for s in range(5)], axis=0).mean()
        for n in (1, 16)
    ]
    assert spread[1] < 0.5 * spread[0]


def test_order_of_spots_and_genes_matters_only_through_the_draws():
    rates, background = tissue(n_spots=600)
    rng = np.random.default_rng(0)
    counts = rng.poisson(rates)
    total = counts.sum(axis=1) + rng.poisson(background)[:, 0]
    spots = rng.permutation(600)
    ceiling = metrics.noise_ceiling(counts, total=total, n_splits=5)
    shuffled = metrics.noise_ceiling(counts[spots], total=total[spots], n_splits=5)
    np.testing.assert_allclose(by_strength(ceiling), by_strength(shuffled), atol=0.03)


def test_constant_genes_are_nan_as_for_pearson_and_lone_counts_are_zero():
    rng = np.random.default_rng(0)
    counts = rng.poisson(20, size=(40, 3))
    counts[:, 1] = 0
    counts[:, 2] = 0
    counts[7, 2] = 1
    ceiling = metrics.noise_ceiling(counts, total=np.full(40, 1000))
    assert np.isnan(ceiling[1])
    assert ceiling[2] == 0
    observed = np.log1p(counts * 10.0)
    np.testing.assert_array_equal(np.isnan(metrics.pearson(observed, observed)), np.isnan(ceiling))
    equal = metrics.noise_ceiling(np.full((40, 1), 5), total=np.full(40, 1000))
    assert np.isnan(equal).all()
    of_library = metrics.noise_ceiling(np.full((40, 1), 5), total=rng.integers(10, 1000, size=40))
    assert np.isfinite(of_library).all()  # constant counts, but the target varies with the library


def test_empty_spots_count_as_agreement_on_zero():
    counts = np.random.default_rng(0).poisson(8, size=(100, 20)) + 1
    padded = np.insert(counts, [0, 10, 50], 0, axis=0)
    without, among = metrics.noise_ceiling(counts, target_sum=1e6), metrics.noise_ceiling(padded, target_sum=1e6)
    assert without.mean() < 0.4
    assert among.min() > 0.8
    assert np.isnan(metrics.noise_ceiling(np.zeros((5, 2)))).all()


def test_library_splits_without_the_panel():
    """A gene that is the same share of a library of any size is all noise, though its counts vary with the library."""
    rng = np.random.default_rng(0)
    total = rng.integers(2_000, 40_000, size=1500)
    counts = rng.binomial(total[:, None], 0.005, size=(1500, 30))
    assert np.mean(metrics.noise_ceiling(counts, total=total, log1p=False) ** 2) < 0.05
    assert metrics.noise_ceiling(counts, total=np.full(1500, 10**6), log1p=False).min() > 0.9


def test_input_is_not_modified():
    counts = scipy.sparse.csr_array(np.random.default_rng(0).poisson(2, size=(20, 4)).astype(np.float32))
    before = counts.copy()
    metrics.noise_ceiling(counts)
    np.testing.assert_array_equal(counts.toarray(), before.toarray())
    assert counts.dtype == np.float32
