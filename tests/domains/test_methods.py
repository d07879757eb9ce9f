"""Runs with several seeds: what they share is computed once, and no run depends on another."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict._domains import methods
from stpredict._domains.mcgae import McgaeConfig
from stpredict._domains.methods import DomainTask, Halves, find_domains
from stpredict._domains.staig import StaigConfig

N = 60
RNG = np.random.default_rng(0)
XY = np.stack(np.meshgrid(np.arange(10.0), np.arange(6.0)), axis=-1).reshape(-1, 2)
OPTIONS = {"staig": StaigConfig(n_epochs=6), "mcgae": McgaeConfig(n_epochs=2)}


def task_of(method):
    values, half, held_out = (RNG.normal(size=(N, 12)).astype(np.float32) for _ in range(3))
    return DomainTask(
        method=method, n_domains=3, xy=XY, slide=np.zeros(N, np.int64), expression=values, n_components=5,
        halves=Halves(values=half, held_out=held_out), image=values, clusterer="kmeans", options=OPTIONS.get(method),
    )  # fmt: skip


@pytest.mark.parametrize("method", ["smoothed", "staig", "mcgae"])
def test_a_seed_gives_the_same_domains_alone_and_after_others(method, monkeypatch):
    graphs, original = [], methods.spatial_graph
    monkeypatch.setattr(methods, "spatial_graph", lambda *given: graphs.append(given) or original(*given))
    task = task_of(method)
    several = list(find_domains(task, [0, 1]))
    assert len(graphs) == 2  # of the half and of all molecules, not of each seed
    (alone,) = find_domains(task, [1])
    np.testing.assert_array_equal(several[1].features, alone.features)
    np.testing.assert_array_equal(several[1].domains, alone.domains)
    assert several[1].held_out_share == alone.held_out_share


def test_held_out_molecules_choose_the_epochs(monkeypatch):
    task = task_of("staig")
    shares = iter([0.1, 0.3, 0.3, 0.3])  # after 5 epochs, after 6, of the domains that are reported
    monkeypatch.setattr(methods, "domain_share", lambda *_: next(shares))
    (found,) = find_domains(task, [0])
    assert found.n_epochs == 6
    assert found.held_out_share == 0.3
