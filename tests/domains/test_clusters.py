"""Clusterers find planted groups; refinement, matching, agreement and order by hand."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict._domains.clusters import (
    CLUSTERERS,
    match,
    medoid,
    number_along,
    pairwise_agreement,
    refine,
    spot_agreement,
)
from stpredict.metrics import ari

RNG = np.random.default_rng(0)
PLANTED = np.repeat([0, 1, 2], 40)
FEATURES = (RNG.normal(size=(120, 4)) + 6 * np.eye(3, 4)[PLANTED]).astype(np.float32)


@pytest.mark.parametrize("name", list(CLUSTERERS))
def test_planted_groups_are_found_and_the_seed_decides(name):
    found = CLUSTERERS[name](FEATURES, 3, 0)
    assert ari(PLANTED, found) > 0.95
    np.testing.assert_array_equal(found, CLUSTERERS[name](FEATURES, 3, 0))


def test_mixture_has_one_covariance_for_all_components():
    groups = np.arange(600) % 2
    features = (RNG.normal(size=(600, 2)) * [2, 0.4] + groups[:, None] * [2, 3]).astype(np.float32)
    assert ari(groups, CLUSTERERS["gmm"](features, 2, 0)) > 0.99
    assert ari(groups, CLUSTERERS["kmeans"](features, 2, 0)) < 0.6  # k-means, from which it starts, has spheres


def test_refine_is_a_majority_of_neighbors_in_which_a_tie_keeps_the_domain():
    xy = np.array([[0.0, 0], [1, 0], [2, 0], [3, 0], [4, 0], [50, 0], [51, 0]])
    slide = np.array([0, 0, 0, 0, 0, 1, 1])
    domains = np.array([0, 0, 1, 0, 0, 1, 0])
    np.testing.assert_array_equal(refine(domains, xy, slide, 2), [0, 0, 0, 0, 0, 0, 1])
    np.testing.assert_array_equal(refine(np.array([0, 1, 1, 0, 0, 1, 1]), xy, slide, 2), [1, 1, 1, 0, 0, 1, 1])


def test_agreement_of_partitions_whose_numbers_differ():
    same = np.array([2, 0, 1])[PLANTED]
    other = PLANTED.copy()
    other[:10] = 1
    np.testing.assert_array_equal(match(same, PLANTED), PLANTED)
    agreement = pairwise_agreement([PLANTED, same, other])
    assert agreement[0, 1] == 1
    assert medoid(agreement) == 0
    share = spot_agreement([PLANTED, same, other], PLANTED)
    np.testing.assert_allclose(share, np.where(np.arange(120) < 10, 0.5, 1))
    np.testing.assert_array_equal(spot_agreement([PLANTED], PLANTED), np.ones(120))


def test_more_domains_than_in_the_reference_are_matched_too():
    finer = np.repeat([0, 1, 2, 3], 30)
    assert (match(finer, PLANTED) == PLANTED).mean() >= 0.5


def test_numbers_follow_an_axis():
    along = -PLANTED + RNG.normal(size=120) * 0.01
    np.testing.assert_array_equal(number_along(np.array([1, 2, 0])[PLANTED], along), 2 - PLANTED)
    np.testing.assert_array_equal(number_along(np.array([5, 2, 9])[PLANTED], along), 2 - PLANTED)
