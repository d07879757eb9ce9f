"""MCGAE: its losses and convolutions against dense formulas, as released and as changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stpredict._domains.graph import spatial_graph
from stpredict._domains.mcgae import (
    Mcgae,
    McgaeConfig,
    McgaeInputs,
    Views,
    angle_graph,
    contrastive_loss,
    cosine_graph_loss,
    sharpen,
    soft_assignment,
    variational_view,
)
from stpredict._domains.training import DomainInputs, train

N = 60
RNG = np.random.default_rng(0)
XY = np.stack(np.meshgrid(np.arange(10.0), np.arange(6.0)), axis=-1).reshape(-1, 2) + 1
SLIDE = np.zeros(N, np.int64)
NAMES = ("first", "corrupted", "expression", "structure", "joint")


def inputs(dtype=torch.float64, **changed):
    values = {
        "nodes": np.abs(RNG.normal(size=(N, 12))).astype(np.float32),
        "graph": spatial_graph(XY, SLIDE, 3),
        "slide": SLIDE,
        "xy": XY,
        "image": RNG.normal(size=(N, 6)).astype(np.float32),
        "dtype": dtype,
    }
    return DomainInputs(**{**values, **changed})


def network_of(data, config):
    return Mcgae(data, config, 3, seed=0)


def dense(graph_edges, *, normalized):
    adjacency = torch.eye(N, dtype=torch.float64)
    i, j = graph_edges.T
    adjacency[i, j] = adjacency[j, i] = 1
    scale = adjacency.sum(1).rsqrt() if normalized else torch.ones(N, dtype=torch.float64)
    return scale[:, None] * adjacency * scale


def dense_attention(module, *views):
    scores = torch.cat([module.score(view) for view in views], dim=1).softmax(dim=1)
    return sum(scores[:, [i]] * view for i, view in enumerate(views))


@pytest.mark.parametrize("as_released", [True, False])
@pytest.mark.parametrize("with_image", [True, False])
def test_views_are_dense_convolutions_joined_by_attention(as_released, with_image):
    data = inputs() if with_image else inputs(image=None)
    config = McgaeConfig(as_released=as_released, n_hidden=5)
    data = McgaeInputs.of(data, config)
    network = network_of(data, config)
    tissue = dense(torch.from_numpy(data.edges), normalized=not as_released)
    similar = dense(torch.from_numpy(data.similar_edges), normalized=not as_released)
    nodes, second = network.nodes, network.second_view
    one, two, three = network.convolutions
    e = tissue @ (nodes @ one.weight.T) + one.bias
    e_a = similar @ (nodes @ three.weight.T) + three.bias
    e_x = tissue @ (second @ two.weight.T) + two.bias
    expression = dense_attention(network.attention[0], e, e_a)
    structure = dense_attention(network.attention[1], e, e_x)
    image = network.image_network(network.image) if with_image else None
    if with_image and not as_released:
        joint = dense_attention(network.attention[2], expression, structure, image)
    else:
        joint = dense_attention(network.attention[2], expression, structure)
        joint = joint + 1.9 * image if with_image else joint
    found = network.views(nodes, second, network.permutation)
    corrupted = tissue @ (nodes[network.permutation] @ one.weight.T) + one.bias
    for name, expected in zip(NAMES, (e, corrupted, expression, structure, joint), strict=True):
        torch.testing.assert_close(getattr(found, name), expected, rtol=0, atol=1e-10)


def test_contrastive_loss_against_loops():
    own, other = (torch.from_numpy(RNG.normal(size=(N, 5))) for _ in range(2))
    readout = dense(inputs().graph.edges, normalized=False)
    discriminator = torch.nn.Bilinear(5, 5, 1).double()
    total = 0.0
    for a, b in ((own, other), (other, own)):
        for i in range(N):
            neighbors = torch.nonzero(readout[i])[:, 0]
            mean = a[neighbors].mean(0)
            summary = torch.sigmoid(mean / mean.norm())
            true, false = discriminator(a[i], summary), discriminator(b[i], summary)
            logits, labels = torch.cat([true, false]), torch.tensor([1.0, 0.0], dtype=torch.float64)
            total = total + F.binary_cross_entropy_with_logits(logits, labels) / N
    views = Views(first=own, corrupted=other, expression=own, structure=own, joint=own)
    found = contrastive_loss(views, readout.to_sparse(), discriminator)
    torch.testing.assert_close(found, total, rtol=0, atol=1e-10)


def test_graph_loss_as_released_is_one_minus_the_cosine_of_flat_matrices(monkeypatch):
    monkeypatch.setattr("stpredict._domains.mcgae.BLOCK", 7)
    structure = torch.from_numpy(RNG.normal(size=(N, 4)))
    edges = torch.from_numpy(inputs().graph.edges)
    adjacency = dense(edges, normalized=False) - torch.eye(N)
    expected = 1 - F.cosine_similarity(torch.sigmoid(structure @ structure.T).ravel(), adjacency.ravel(), dim=0)
    torch.testing.assert_close(cosine_graph_loss(structure, edges), expected, rtol=0, atol=1e-10)


def test_assignment_and_target():
    joint, centers = torch.from_numpy(RNG.normal(size=(N, 4))), torch.from_numpy(RNG.normal(size=(3, 4)))
    kernel = 1 / (1 + ((joint[:, None] - centers) ** 2).sum(2))
    expected = kernel / kernel.sum(1, keepdim=True)
    torch.testing.assert_close(soft_assignment(joint, centers), expected, rtol=0, atol=1e-10)
    squared = kernel**2 / (kernel**2).sum(1, keepdim=True)
    torch.testing.assert_close(soft_assignment(joint, centers, as_released=True), squared, rtol=0, atol=1e-10)
    target = expected**2 / expected.sum(0)
    torch.testing.assert_close(sharpen(expected), target / target.sum(1, keepdim=True), rtol=0, atol=1e-10)


def test_second_graph_as_released_joins_spots_on_a_ray_from_the_corner():
    xy = np.array([[1.0, 1], [2, 2], [9, 9], [1, 2], [2, 4], [5, 10]])
    assert angle_graph(xy, 2).edges.tolist() == [[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5]]
    shifted = angle_graph(xy + np.array([0, 20]), 2).edges.tolist()
    assert shifted != angle_graph(xy, 2).edges.tolist()  # it changes when the image is cropped


def test_changed_second_graph_follows_the_image_and_not_the_place():
    image = np.repeat(RNG.normal(size=(2, 6)) * 9, 30, axis=0).astype(np.float32) + RNG.normal(size=(N, 6)) * 0.1
    side = McgaeInputs.of(inputs(image=image.astype(np.float32)), McgaeConfig()).similar_edges // 30
    np.testing.assert_array_equal(side[:, 0], side[:, 1])


def test_view_as_released_is_noise():
    genes = RNG.poisson(1.0, (200, 40)).astype(np.float32)
    genes[:100, :20] += 5
    view = variational_view(np.log1p(genes), seed=0, n_epochs=30)
    assert view.max() <= 1  # its sigmoid cannot reach the data
    between = view[:100, :20].mean() - view[100:, :20].mean()
    assert abs(between) < 0.05  # against 1.5 in the data


def test_corruption_stays_within_slides():
    slide = np.repeat([0, 1], [36, 24])
    config = McgaeConfig()
    network = network_of(McgaeInputs.of(inputs(slide=slide, graph=spatial_graph(XY, slide)), config), config)
    order = network._corruption(torch.Generator().manual_seed(0)).numpy()
    assert sorted(order) == list(range(N))
    assert (slide[order] == slide).all()


@pytest.mark.parametrize("as_released", [True, False])
def test_training_is_reproducible_and_centers_are_trained_unless_as_released(as_released):
    config = McgaeConfig(as_released=as_released, cluster_start=2)
    data, made = McgaeInputs.of(inputs(torch.float32), config), []

    def make():
        made.append(network_of(data, config))
        return made[-1]

    embeddings = [train(make, 4, seed, torch.device("cpu"))[4] for seed in (3, 3, 4)]
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    assert np.abs(embeddings[0] - embeddings[2]).max() > 1e-4
    assert made[0].has_centers
    assert made[0].centers.requires_grad is not as_released
    assert np.isfinite(embeddings[0]).all()
