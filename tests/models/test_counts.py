"""The likelihood of counts, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from stpredict.models._counts import Counts, library, zinb


def log_probability(counts, mean, dispersion, dropped):
    tensors = [torch.as_tensor(x, dtype=torch.float64) for x in (counts, mean, dispersion, dropped)]
    return zinb(*tensors).numpy()


@pytest.mark.parametrize("mean", [0.01, 1.0, 40.0])
@pytest.mark.parametrize("dispersion", [0.2, 3.0, 500.0])
@pytest.mark.parametrize("dropped", [-30.0, 0.0, 2.0])
def test_agrees_with_scipy(mean, dispersion, dropped):
    counts = np.arange(60)
    share = 1 / (1 + np.exp(-dropped))
    wanted = (1 - share) * stats.nbinom.pmf(counts, dispersion, dispersion / (dispersion + mean)) + share * (
        counts == 0
    )
    found = np.exp(log_probability(counts, mean, dispersion, dropped))
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-12)


def test_probabilities_add_up_to_one():
    assert np.exp(log_probability(np.arange(2000), 5.0, 0.7, -1.0)).sum() == pytest.approx(1.0, abs=1e-6)


def test_extreme_counts_have_finite_gradients():
    heads, x = Counts(3, 4), torch.randn(6, 3) * 100
    counts = torch.tensor([0.0, 1.0, 1e4, 1e6]).repeat(6, 1)
    loss = heads.loss(x, counts, torch.ones(6, 1))
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in heads.parameters())


def test_untrained_heads_expect_the_mean_counts():
    heads, mean = Counts(3, 2), torch.tensor([2.0, 30.0])
    heads.initialize_at(mean)
    counts = torch.poisson(mean.expand(50, 2))
    zero = torch.zeros(())
    wanted = -zinb(counts, mean, torch.nn.functional.softplus(zero), zero).mean()
    torch.testing.assert_close(heads.loss(torch.randn(50, 3), counts, torch.ones(50, 1)), wanted)


def test_library_is_relative_to_the_slide():
    counts = torch.tensor([[1.0, 1], [2, 2], [3, 3], [50, 50], [0, 0]])
    assert library(counts, torch.tensor([0, 0, 0, 1, 2]))[:, 0].tolist() == [0.5, 1.0, 1.5, 1.0, 1.0]


def test_counts_of_other_genes_are_refused():
    with pytest.raises(ValueError, match=r"has 5 columns; this network models the counts of 4 genes"):
        Counts(3, 4).loss(torch.zeros(2, 3), torch.zeros(2, 5), torch.ones(2, 1))
