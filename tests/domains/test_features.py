"""Features in which domains are found."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from stpredict._domains.features import join, principal_components, split_molecules, standardize
from stpredict._domains.transfer import transfer_domains
from stpredict.metrics import ari

RNG = np.random.default_rng(0)


def test_standardize_clips_on_both_sides():
    values = RNG.normal(size=(400, 2)).astype(np.float32)
    values[0] = 1e4, -1e4
    assert standardize(values, np.zeros(400, np.int64))[0].tolist() == [10, -10]


def test_components_are_those_of_the_covariance_for_both_shapes():
    for shape in ((60, 9), (30, 50)):
        values = RNG.normal(size=shape).astype(np.float32)
        found = principal_components(values, 5)
        _, _, basis = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
        expected = (values - values.mean(axis=0)) @ basis[:5].T
        np.testing.assert_allclose(np.abs(found), np.abs(expected), rtol=1e-3, atol=1e-3)
    assert principal_components(values, 500).shape == (30, 30)


def test_joined_blocks_weigh_the_same():
    joined = join([RNG.normal(size=(50, 3)) * 1000, RNG.normal(size=(50, 8)), np.zeros((50, 1))])
    squares = [(joined[:, part] ** 2).sum(axis=1).mean() for part in (slice(3), slice(3, 11), slice(11, 12))]
    np.testing.assert_allclose(squares, [1, 1, 0], rtol=1e-5)


def test_halves_of_molecules_sum_to_the_whole_and_are_independent():
    counts = sparse.csr_matrix(RNG.poisson(4, (3000, 3)).astype(np.float32))
    first, second = split_molecules(counts, 0)
    assert (first + second != counts).nnz == 0
    assert (second.toarray() >= 0).all()
    a, b = first.toarray(), second.toarray()
    np.testing.assert_allclose(a.mean(), 2, atol=0.05)
    assert np.abs([np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(3)]).max() < 0.06  # Poisson: independent
    assert (split_molecules(counts, 0)[0] != first).nnz == 0


def test_transfer_recovers_domains_of_other_spots():
    centers, domains = RNG.normal(size=(4, 30)) * 2, RNG.integers(0, 4, 300)
    values = (centers[domains] + RNG.normal(size=(300, 30))).astype(np.float32)
    codes, probability, reference_ari = transfer_domains(values[:200], domains[:200], values[200:], RNG)
    assert ari(domains[200:], codes) > 0.9
    assert np.mean(codes == domains[200:]) > 0.9  # the same numbers, not only the same groups
    assert reference_ari > 0.9
    assert probability.min() > 0.25
    noise = transfer_domains(RNG.normal(size=(200, 30)), domains[:200], values[200:], RNG)[2]
    assert abs(noise) < 0.1  # it does not judge itself on its own spots
