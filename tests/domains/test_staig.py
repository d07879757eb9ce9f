"""STAIG: the loss, edge dropping, masking and projection against dense loops; sampled negatives; learning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stpredict._domains.graph import spatial_graph
from stpredict._domains.staig import (
    Contrast,
    Staig,
    StaigConfig,
    StaigInputs,
    contrastive_loss,
    draw_negatives,
    drop_probability,
)
from stpredict._domains.training import DomainInputs, train

N = 60
RNG = np.random.default_rng(0)
XY = np.stack(np.meshgrid(np.arange(10.0), np.arange(6.0)), axis=-1).reshape(-1, 2)
SLIDES = {"one slide": np.zeros(N, np.int64), "two slides": np.repeat([0, 1], [36, 24])}
CLUSTERS = torch.from_numpy(RNG.integers(0, 5, N))
Z, OTHER = (F.normalize(torch.from_numpy(RNG.normal(size=(N, 7))), dim=1) for _ in range(2))


def dense_loss(z, other, slide, neighbors, clusters, tau, *, as_released):
    """Loss of each spot, term by term."""
    found = []
    for i in range(N):
        positive = torch.exp(z[i] @ other[i] / tau)
        repulsion = torch.zeros(())
        for j in range(N):
            both = torch.exp(z[i] @ z[j] / tau) + torch.exp(z[i] @ other[j] / tau)
            if j in neighbors[i]:
                positive = positive + both
            if slide[i] != slide[j] or (clusters is not None and clusters[i] == clusters[j]):
                continue
            if as_released or (j not in neighbors[i] and j != i):
                repulsion = repulsion + both
        n = 2 * len(neighbors[i]) + 1
        if as_released:
            found.append(-torch.log(positive / (repulsion - torch.exp(z[i] @ z[i] / tau)) / n))
        else:
            found.append(-torch.log(positive / (positive + repulsion)) + np.log(n))
    return torch.stack(found)


@pytest.mark.parametrize("as_released", [True, False])
@pytest.mark.parametrize("with_clusters", [True, False])
@pytest.mark.parametrize("slides", list(SLIDES))
def test_loss_is_the_dense_formula(slides, with_clusters, as_released, monkeypatch):
    monkeypatch.setattr("stpredict._domains.staig.ROWS", 17)  # in several blocks
    slide, clusters = SLIDES[slides], CLUSTERS if with_clusters else None
    graph = spatial_graph(XY, slide)
    neighbors = [set(graph.directed_edges[graph.directed_edges[:, 0] == i, 1].tolist()) for i in range(N)]
    contrast = Contrast(
        edges=torch.from_numpy(graph.directed_edges),
        slides=tuple(torch.from_numpy(np.flatnonzero(slide == i)) for i in np.unique(slide)),
        clusters=clusters,
        tau=0.7,
        as_released=as_released,
    )
    expected = dense_loss(Z, OTHER, slide, neighbors, clusters, 0.7, as_released=as_released)
    torch.testing.assert_close(contrastive_loss(Z, OTHER, contrast), expected, rtol=0, atol=1e-10)


def test_gradient_is_that_of_the_dense_formula():
    slide = SLIDES["two slides"]
    graph = spatial_graph(XY, slide)
    neighbors = [set(graph.directed_edges[graph.directed_edges[:, 0] == i, 1].tolist()) for i in range(N)]
    parts = tuple(torch.from_numpy(np.flatnonzero(slide == i)) for i in (0, 1))
    contrast = Contrast(edges=torch.from_numpy(graph.directed_edges), slides=parts, clusters=CLUSTERS, tau=2.0)
    z, same = Z.clone().requires_grad_(), Z.clone().requires_grad_()
    contrastive_loss(z, OTHER, contrast).mean().backward()
    dense_loss(same, OTHER, slide, neighbors, CLUSTERS, 2.0, as_released=False).mean().backward()
    torch.testing.assert_close(z.grad, same.grad, rtol=0, atol=1e-10)


def test_sampled_negatives_are_unbiased_and_equal_where_all_are_drawn():
    slide = SLIDES["two slides"]
    graph = spatial_graph(XY, slide)
    parts = tuple(torch.from_numpy(np.flatnonzero(slide == i)) for i in (0, 1))
    contrast = Contrast(edges=torch.from_numpy(graph.directed_edges), slides=parts, clusters=CLUSTERS, tau=10.0)
    whole = contrastive_loss(Z, OTHER, contrast)
    everything = draw_negatives(contrast, 60, torch.Generator().manual_seed(0))
    torch.testing.assert_close(contrastive_loss(Z, OTHER, contrast, everything), whole)

    def repulsion(drawn):  # solve the loss for Q / P, which is linear in the estimate
        n = torch.bincount(contrast.edges[:, 0], minlength=N)
        return torch.exp(contrastive_loss(Z, OTHER, contrast, drawn)) / (2 * n + 1) - 1

    without_one = [  # each spot of a slide is left out equally often, so the mean is that over all samples of the size
        repulsion(tuple(part[torch.arange(len(part)) != i % len(part)] for part in parts)) for i in range(72)
    ]
    torch.testing.assert_close(torch.stack(without_one).mean(0), repulsion(everything))


def test_drawn_negatives_are_different_spots_of_each_slide_anew_in_each_epoch():
    parts = (torch.arange(5), torch.arange(5, 60))
    contrast = Contrast(edges=torch.empty(0, 2), slides=parts, clusters=None, tau=1.0)
    generator = torch.Generator().manual_seed(0)
    (few, drawn), (_, again) = (draw_negatives(contrast, 12, generator) for _ in range(2))
    assert torch.equal(few, parts[0])  # a slide with fewer spots is drawn whole
    assert len(drawn.unique()) == 12
    assert torch.isin(drawn, parts[1]).all()
    assert not torch.equal(drawn.sort()[0], again.sort()[0])


def test_drop_probability():
    graph = spatial_graph(XY, SLIDES["one slide"])
    space = RNG.normal(size=(N, 4)).astype(np.float32)
    length = np.linalg.norm(space[:, None].astype(float) - space, axis=2)
    total = [length[i, graph.directed_edges[graph.directed_edges[:, 0] == i, 1]].sum() for i in range(N)]
    i, j = graph.edges.T
    one, other = length[i, j] / np.take(total, i), length[i, j] / np.take(total, j)
    np.testing.assert_allclose(drop_probability(graph, space, as_released=True), one, atol=1e-10)
    mended = drop_probability(graph, space, as_released=False)
    np.testing.assert_allclose(mended, np.minimum((one + other) / 2, 0.7), atol=1e-10)
    same = drop_probability(graph, np.zeros_like(space), as_released=False)
    np.testing.assert_allclose(same, (1 / graph.degree[i] + 1 / graph.degree[j]) / 2)


def inputs(dtype=torch.float64, **changed):
    slide = SLIDES["one slide"]
    values = {
        "nodes": RNG.normal(size=(N, 9)).astype(np.float32),
        "graph": spatial_graph(XY, slide),
        "slide": slide,
        "xy": XY,
        "image": RNG.normal(size=(N, 6)).astype(np.float32),
        "dtype": dtype,
    }
    return DomainInputs(**{**values, **changed})


def network_of(spots, config):
    return Staig(StaigInputs.of(spots, config), config, seed=0)


def test_encoder_and_projection_are_dense_graph_convolutions():
    data = inputs()
    network = network_of(data, StaigConfig(n_layers=2, n_hidden=5))
    adjacency = torch.eye(N, dtype=torch.float64)
    i, j = data.graph.directed_edges.T
    adjacency[i, j] = 1
    scale = adjacency.sum(1).rsqrt()
    adjacency = scale[:, None] * adjacency * scale
    hidden = torch.from_numpy(data.nodes).double()
    for layer in network.layers:
        hidden = adjacency @ (hidden @ layer.weight.T) + layer.bias
        hidden = torch.where(hidden > 0, hidden, network.activation.weight * hidden)
    first, _, second = network.head
    projected = F.elu(hidden @ first.weight.T + first.bias) @ second.weight.T + second.bias
    torch.testing.assert_close(network.embedding(), projected, rtol=0, atol=1e-10)


def test_views_drop_edges_at_their_rates_and_whole_features():
    network = network_of(inputs(), StaigConfig())
    generator = torch.Generator().manual_seed(0)
    kept, zero = torch.zeros(len(network.edges)), []
    for _ in range(1500):
        nodes, edges = network._view(0.3, generator)
        columns = (nodes == 0).all(0)
        assert torch.equal(nodes[:, ~columns], network.nodes[:, ~columns])
        zero.append(columns.double().mean())
        kept += torch.isin(network.edges @ torch.tensor([1000, 1]), edges @ torch.tensor([1000, 1]))
    torch.testing.assert_close(1 - kept.double() / 1500, network.drop.double(), rtol=0, atol=0.06)
    assert torch.stack(zero).mean() == pytest.approx(0.3, abs=0.02)


def test_image_as_node_features_and_without_image():
    joined = network_of(inputs(), StaigConfig(image="features", n_image_components=3))
    assert joined.nodes.shape[1] == 9 + 3
    alone = network_of(inputs(image=None), StaigConfig())
    assert alone.clusters is None
    assert torch.isfinite(alone.loss(0, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("as_released", [True, False])
def test_training_lowers_the_loss_and_depends_on_the_seed_only(as_released):
    data, config = inputs(torch.float32), StaigConfig(as_released=as_released, tau=1.0, lr=5e-3)
    made = []

    def make():
        made.append(network_of(data, config))
        return made[-1]

    embeddings = [train(make, 5, seed, torch.device("cpu"))[5] for seed in (3, 3, 4)]
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    assert np.abs(embeddings[0] - embeddings[2]).max() > 1e-3
    with torch.no_grad():
        trained = np.mean([made[0].loss(0, torch.Generator().manual_seed(i)).item() for i in range(5)])
        fresh = network_of(data, config)
        before = np.mean([fresh.loss(0, torch.Generator().manual_seed(i)).item() for i in range(5)])
    assert trained < before
