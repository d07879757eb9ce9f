"""STAIG: contrastive learning on the graph of spots, guided by the image :cite:p:`YangSTAIG2025`.

Notation of the paper and of the released code (github.com/y-itao/STAIG, 3d96149), and names here: temperature τ
``tau``; neighbours N(i) ``graph``; pseudo-labels c ``clusters`` (k-means of image features); drop probability of an
edge p_ij ``drop_probability``; embeddings of the two views z, z' ``z``, ``other``.

Departures, all of which ``as_released=True`` undoes but the encoder of the image:

- Node features are principal components. On genes the loss is lowest where the embedding is a map of places.
- The loss of spot i is -log(P / (P + Q)) + log(2 |N(i)| + 1), with P over itself and its neighbours and Q over spots of
  its slide that are no neighbours and of another image cluster. Released: -log(P / D) + log(2 |N(i)| + 1), where D
  is over all spots of another image cluster, less the similarity of the spot with itself, which D does not contain.
- The drop probability of an edge is the mean over its two ends, at most 0.7. Released: that of the spot with the
  smaller number, so it depends on the order of spots.
- Q is estimated on 512 spots of each slide, drawn for each epoch, if a slide has more.
- At most 100 epochs, fewer if the other half of the molecules says so (see `stpredict.tl.domains`).
- Image features are patch statistics or embeddings of a frozen encoder, from patches in µm, in colour. Released: one
  epoch of BYOL on grey, low-pass filtered patches of 504 pixels.
- Image clusters also count with several slides. Released: there the loss has no pseudo-labels.
- Without image, edges are dropped by distances of node features. Released: by a softmax of cosine distances.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .._checks import models as check
from . import _errors as check_options
from .features import principal_components
from .training import DomainNetwork, both_directions, convolve, normalized_adjacency, spots_of_slides

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from .graph import SpotGraph
    from .training import DomainInputs

MAX_DROP = 0.7
"""Largest probability with which an edge is dropped."""
ROWS = 4096
"""Spots whose similarities to others are in memory at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StaigConfig:
    """Options of STAIG, one set for all data."""

    tau: float = 10.0
    """Temperature of similarities."""
    n_epochs: int = 100
    """Epochs, at most if counts are given: then the number is chosen by held-out molecules."""
    n_neighbors: int | None = None
    """Nearest spots that are neighbours; None is the first ring of the lattice, or 6 spots where there is none."""
    n_layers: int = 1
    """Graph convolutions: one, or two with twice the width in between."""
    n_hidden: int = 64
    """Width of the encoder and of the projection."""
    mask_rates: tuple[float, float] = (0.1, 0.1)
    """Share of features that are set to 0 for all spots, in each view."""
    n_image_clusters: int = 40
    """Clusters of image features; at most a sixth of the spots."""
    n_image_components: int = 16
    """Principal components of the image features."""
    image: Literal["edges", "features"] = "edges"
    """Whether the image decides on edges and negatives only, or is part of the node features too."""
    embedding: Literal["projection", "encoder"] = "projection"
    """Output that is clustered: of the projection head, as released, or of the encoder before it."""
    n_negatives: int = 512
    """Spots of each slide among which negatives are drawn in each epoch."""
    lr: float = 5e-4
    """Learning rate of Adam."""
    weight_decay: float = 1e-5
    """Weight decay of Adam."""
    as_released: bool = False
    """Loss, edge dropping and node features of the released code; set ``n_neighbors=5`` with it."""

    def __post_init__(self) -> None:
        check_options.network(self)
        check.number("tau", self.tau, low=1e-3, high=1e6)
        check_options.mask_rates(self.mask_rates)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Contrast:
    """Which spots attract and which repel each other."""

    edges: Tensor
    """``(2 m, 2)`` neighbours, in both directions."""
    slides: tuple[Tensor, ...]
    """Spots of each slide."""
    clusters: Tensor | None
    """``(n,)`` image cluster of each spot; spots of one cluster do not repel each other."""
    tau: float
    as_released: bool = False


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StaigInputs:
    """What the network reads of the spots, with any seed."""

    nodes: NDArray[np.float32]
    """``(n, d)``."""
    edges: NDArray[np.int64]
    """``(m, 2)`` undirected."""
    drop: NDArray[np.float64]
    """``(m,)`` probability of each edge to be dropped."""
    slide: NDArray[np.int64]
    image: NDArray[np.float32] | None
    """``(n, c)`` components of the image features; spots are clustered by them. None: no clusters."""
    dtype: torch.dtype

    @classmethod
    def of(cls, spots: DomainInputs, config: StaigConfig) -> StaigInputs:
        """From expression, places and image features."""
        image = None if spots.image is None else image_components(spots, config.n_image_components)
        nodes, space = spots.nodes, spots.nodes if image is None else image
        if image is not None and config.image == "features":
            nodes = np.hstack([nodes, image])
        return cls(
            nodes=nodes,
            edges=spots.graph.edges,
            drop=drop_probability(spots.graph, space, as_released=config.as_released),
            slide=spots.slide,
            image=None if config.as_released and spots.slide.any() else image,
            dtype=spots.dtype,
        )


class Staig(DomainNetwork):
    """One or two graph convolutions and a projection head."""

    nodes: Tensor
    edges: Tensor
    drop: Tensor
    clusters: Tensor | None
    slides: tuple[Tensor, ...]

    def __init__(self, inputs: StaigInputs, config: StaigConfig, seed: int) -> None:
        super().__init__()
        self.config, self.lr, self.weight_decay = config, config.lr, config.weight_decay
        clusters = None
        if inputs.image is not None:
            clusters = torch.from_numpy(image_clusters(inputs.image, config.n_image_clusters, seed))
        tensors = {"nodes": torch.from_numpy(inputs.nodes).to(inputs.dtype), "drop": torch.from_numpy(inputs.drop)}
        for name, tensor in {**tensors, "edges": torch.from_numpy(inputs.edges), "clusters": clusters}.items():
            self.register_buffer(name, tensor, persistent=False)
        self.slides = spots_of_slides(inputs.slide)
        widths = [inputs.nodes.shape[1], *([2 * config.n_hidden] * (config.n_layers - 1)), config.n_hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        for layer in self.layers:
            nn.init.xavier_uniform_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.activation = nn.PReLU()
        self.head = nn.Sequential(nn.Linear(widths[-1], widths[-1]), nn.ELU(), nn.Linear(widths[-1], widths[-1]))
        self.to(inputs.dtype)

    def encode(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """``(n, d)`` features and ``(m, 2)`` undirected edges to ``(n, n_hidden)``."""
        adjacency = normalized_adjacency(both_directions(edges), len(nodes), nodes.dtype)
        for layer in self.layers:
            nodes = self.activation(convolve(layer, adjacency, nodes))
        return nodes

    def loss(self, epoch: int, generator: torch.Generator) -> Tensor:
        """Mean loss of both views against each other."""
        del epoch
        views = [self._view(rate, generator) for rate in self.config.mask_rates]
        z, other = (F.normalize(self.head(self.encode(*view)), dim=1) for view in views)
        contrast = Contrast(
            edges=both_directions(self.edges),
            slides=tuple(slide.to(z.device) for slide in self.slides),
            clusters=self.clusters,
            tau=self.config.tau,
            as_released=self.config.as_released,
        )
        drawn = None if self.config.as_released else draw_negatives(contrast, self.config.n_negatives, generator)
        both = contrastive_loss(z, other, contrast, drawn) + contrastive_loss(other, z, contrast, drawn)
        return both.mean() / 2

    def embedding(self) -> Tensor:
        """``(n, n_hidden)`` from all edges and features."""
        found = self.encode(self.nodes, self.edges)
        projected: Tensor = self.head(found)
        return projected if self.config.embedding == "projection" else found

    def _view(self, mask_rate: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Features with some columns set to 0, and the edges that are left."""
        kept = torch.rand(self.nodes.shape[1], generator=generator).to(self.nodes.device) >= mask_rate
        dropped = torch.rand(len(self.edges), generator=generator).to(self.drop.device) < self.drop
        return self.nodes * kept, self.edges[~dropped]


def contrastive_loss(z: Tensor, other: Tensor, contrast: Contrast, drawn: tuple[Tensor, ...] | None = None) -> Tensor:
    """Loss of each spot ``(n,)`` from embeddings of length 1 in two views; ``drawn`` are the negatives to use."""
    z, other = z / contrast.tau**0.5, other / contrast.tau**0.5
    own, across = torch.exp((z * z).sum(1)), torch.exp((z * other).sum(1))
    i, j = contrast.edges.T
    near = torch.exp((z[i] * z[j]).sum(1)) + torch.exp((z[i] * other[j]).sum(1))
    positive = across.index_add(0, i, near)
    n_terms = 2 * torch.bincount(i, minlength=len(z)).to(z.dtype) + 1
    negative, weight = torch.zeros(2, len(z), dtype=z.dtype, device=z.device)
    for slide, columns in zip(contrast.slides, drawn or contrast.slides, strict=True):
        weight[columns] = len(slide) / len(columns)
        for rows in slide.split(ROWS):
            if len(slide) > ROWS:
                found = checkpoint(_repulsion, z, other, rows, columns, contrast.clusters, use_reentrant=False)
            else:
                found = _repulsion(z, other, rows, columns, contrast.clusters)
            negative = negative.index_add(0, rows, found * (len(slide) / len(columns)))
    if contrast.as_released:
        return -torch.log(positive / (negative - own) / n_terms)
    if contrast.clusters is None:
        negative = negative - (own + across) * weight
    else:  # spots of one cluster are not in it, among them the spot itself
        near = near * (contrast.clusters[i] != contrast.clusters[j])
    negative = negative.index_add(0, i, -near * weight[j])
    return -torch.log(positive / (positive + negative.clamp_min(0))) + torch.log(n_terms)


def _repulsion(z: Tensor, other: Tensor, rows: Tensor, columns: Tensor, clusters: Tensor | None) -> Tensor:
    """Sum of similarities of some spots to others in both views, without those of the same image cluster."""
    similar = torch.exp(z[rows] @ torch.cat([z[columns], other[columns]]).T)
    if clusters is None:
        return similar.sum(1)
    indicator = F.one_hot(clusters[columns], int(clusters.max()) + 1).to(z.dtype)
    by_cluster = similar @ indicator.repeat(2, 1)
    return by_cluster.sum(1) - by_cluster.gather(1, clusters[rows, None])[:, 0]


def draw_negatives(contrast: Contrast, n_negatives: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Spots of each slide that are negatives in this epoch: all, or a random sample."""
    drawn = []
    for slide in contrast.slides:
        order = torch.randperm(len(slide), generator=generator)[:n_negatives].to(slide.device)
        drawn.append(slide if len(slide) <= n_negatives else slide[order])
    return tuple(drawn)


def image_components(spots: DomainInputs, n_components: int) -> NDArray[np.float32]:
    """Principal components of the image features, of each slide apart."""
    image = spots.image
    found = np.zeros((len(spots.slide), min(n_components, image.shape[1])), np.float32)  # type: ignore[union-attr]
    for name in np.unique(spots.slide):
        rows = spots.slide == name
        part = principal_components(image[rows], found.shape[1])  # type: ignore[index]
        found[rows, : part.shape[1]] = part
    return found


def image_clusters(image: NDArray[np.float32], n_clusters: int, seed: int) -> NDArray[np.int64]:
    """Cluster of each spot by k-means of image features."""
    from sklearn.cluster import KMeans

    n = max(2, min(n_clusters, len(image) // 6))
    return np.asarray(KMeans(n, n_init=1, random_state=seed).fit_predict(image), np.int64)


def drop_probability(graph: SpotGraph, space: NDArray[np.float32], *, as_released: bool) -> NDArray[np.float64]:
    """``(m,)`` probability of each edge to be dropped: its length in image space over that of all edges of a spot."""
    i, j = graph.directed_edges.T
    distance = np.linalg.norm(space[i].astype(np.float64) - space[j], axis=1)
    total = np.bincount(i, distance, minlength=graph.n_spots)[i]
    share = np.where(total > 0, distance / np.maximum(total, 1e-300), 1 / np.maximum(graph.degree[i], 1))
    first, second = share[: len(graph.edges)], share[len(graph.edges) :]
    found: NDArray[np.float64] = first if as_released else np.minimum((first + second) / 2, MAX_DROP)
    return found
