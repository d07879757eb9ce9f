"""MCGAE: a graph autoencoder with two graphs, two views and a contrastive loss :cite:p:`YangMCGAE2025`.

Notation of the paper and of the released code (github.com/yiwen-yang/MCGAE, 7ea1c4d), and names here: Z^X
``expression``, Z^A ``structure``, Z ``joint``; graphs A1 ``graph`` and A2 ``second``; weights of the losses
``w_reconstruction`` (w_x), ``w_graph`` (w_g), ``w_contrast`` (w_c), ``w_cluster`` (w_k).

It differs from the released code, whose second graph and second view carry nothing; ``as_released=True`` has the
released ones:

- The second graph joins spots with similar image features (without image: similar expression). Released: spots with a
  similar angle seen from the corner of the image.
- The second view leaves out a fifth of the features, others in each epoch. Released: one decoding of a variational
  autoencoder whose posterior collapses, so that it is noise.
- The image enters by attention, as the text of the paper has it. Released: it is added with a fixed weight.
- Sums over neighbours are normalised by degrees; corruption is drawn for each epoch and within slides; centres of
  domains are trained, from the epoch on in which they are made; the loss of the graph is the cross-entropy of edges and
  as many random pairs. Released: sums, one corruption, fixed centres, all pairs.
- Node features are reconstructed. Released: genes.
- Centres start from k-means. Released: from Leiden, with a resolution searched from 2.0 downwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from . import _errors as check_options
from .features import principal_components
from .graph import feature_graph
from .training import (
    DomainNetwork,
    both_directions,
    convolve,
    normalized_adjacency,
    spots_of_slides,
    summing_adjacency,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from .graph import SpotGraph
    from .training import DomainInputs

BLOCK = 1024
"""Spots whose relation to all others is in memory at a time."""


@dataclass(frozen=True, kw_only=True, slots=True)
class McgaeConfig:
    """Options of MCGAE, one set for all data."""

    n_epochs: int = 200
    """Epochs, at most if counts are given: then the number is chosen by held-out molecules."""
    cluster_start: int = 100
    """First epoch with the loss of clusters; released: 0."""
    n_neighbors: int | None = None
    """Nearest spots that are neighbours in the tissue; None is the first ring of the lattice; released: 3."""
    n_similar: int = 6
    """Most similar spots that are neighbours in the second graph; released: 3."""
    n_hidden: int = 50
    """Width of the embedding."""
    n_image_components: int = 50
    """Principal components of the image features."""
    w_reconstruction: float = 0.1
    """Weight of the mean squared error of the reconstruction."""
    w_graph: float = 0.1
    """Weight of the reconstruction of the graph."""
    w_contrast: float = 0.5
    """Weight of the contrastive loss."""
    w_cluster: float = 1.0
    """Weight of the Kullback-Leibler divergence from sharpened clusters."""
    w_image: float = 1.9
    """Weight with which the image is added, if it runs as released."""
    drop_rate: float = 0.2
    """Share of features that the second view leaves out."""
    lr: float = 1e-3
    """Learning rate of Adam."""
    weight_decay: float = 5e-4
    """Weight decay of Adam."""
    as_released: bool = False
    """Graphs, views and losses of the released code; set ``n_neighbors=3``, ``n_similar=3``, ``cluster_start=0``,
    ``n_epochs=600`` with it."""

    def __post_init__(self) -> None:
        check_options.network(self, may_be_zero=("cluster_start",))
        for name in ("w_reconstruction", "w_graph", "w_contrast", "w_cluster", "w_image"):
            check.number(name, getattr(self, name), low=0, high=1e6)
        check.number("drop_rate", self.drop_rate, low=0, high=1)


class Attention(nn.Module):
    """Weighted mean of views, with weights that depend on them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, 16), nn.Tanh(), nn.Linear(16, 1, bias=False))

    def forward(self, *views: Tensor) -> Tensor:
        """Views ``(n, d)`` each to ``(n, d)``."""
        stacked = torch.stack(views, dim=1)  # (n, v, d)
        joined: Tensor = (self.score(stacked).softmax(dim=1) * stacked).sum(dim=1)
        return joined


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Views:
    """Embeddings of one pass."""

    first: Tensor
    """``(n, d)`` of the spots in the tissue graph."""
    corrupted: Tensor
    """``(n, d)`` the same with the features of other spots."""
    expression: Tensor
    structure: Tensor
    joint: Tensor


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class McgaeInputs:
    """What the network reads of the spots, with any seed."""

    nodes: NDArray[np.float32]
    """``(n, d)``, from which the network convolves."""
    target: NDArray[np.float32]
    """``(n, g)``, what it reconstructs."""
    image: NDArray[np.float32] | None
    edges: NDArray[np.int64]
    """``(m, 2)`` undirected, in the tissue."""
    similar_edges: NDArray[np.int64]
    """The same of the second graph."""
    slide: NDArray[np.int64]
    dtype: torch.dtype

    @classmethod
    def of(cls, spots: DomainInputs, config: McgaeConfig) -> McgaeInputs:
        """From expression, places and image features."""
        released = config.as_released
        similar = angle_graph(spots.xy, config.n_similar) if released else _similar(spots, config)
        return cls(
            nodes=principal_components(spots.nodes, 100) if released else spots.nodes,
            target=spots.nodes,
            image=spots.image,
            edges=spots.graph.edges,
            similar_edges=similar.edges,
            slide=spots.slide,
            dtype=spots.dtype,
        )


class Mcgae(DomainNetwork):
    """Graph convolutions on two graphs and two views, joined by attention."""

    target: Tensor
    nodes: Tensor
    second_view: Tensor
    image: Tensor | None
    edges: Tensor
    tissue: Tensor
    similar: Tensor
    readout: Tensor
    permutation: Tensor
    slides: tuple[Tensor, ...]

    def __init__(self, inputs: McgaeInputs, config: McgaeConfig, n_domains: int, seed: int) -> None:
        super().__init__()
        self.config, self.n_domains, self.seed = config, n_domains, seed
        self.lr, self.weight_decay, self.as_released = config.lr, config.weight_decay, config.as_released
        self.has_centers = False
        self.slides = spots_of_slides(inputs.slide)
        second_view = inputs.nodes
        if config.as_released:
            second_view = principal_components(variational_view(inputs.target, seed), 100)
        arrays = {
            "target": inputs.target, "nodes": inputs.nodes, "second_view": second_view, "image": inputs.image,
        }  # fmt: skip
        for name, array in arrays.items():
            tensor = None if array is None else torch.from_numpy(array).to(inputs.dtype)
            self.register_buffer(name, tensor, persistent=False)
        edges, similar_edges = torch.from_numpy(inputs.edges), torch.from_numpy(inputs.similar_edges)
        adjacency = summing_adjacency if config.as_released else normalized_adjacency
        tensors = {
            "edges": edges,
            "tissue": adjacency(both_directions(edges), len(inputs.nodes), inputs.dtype),
            "similar": adjacency(both_directions(similar_edges), len(inputs.nodes), inputs.dtype),
            # sums a spot and its neighbours; the sum is normalised to length 1 afterwards
            "readout": summing_adjacency(both_directions(edges), len(inputs.nodes), inputs.dtype),
            "permutation": self._corruption(torch.Generator().manual_seed(seed)),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)
        width, hidden = inputs.nodes.shape[1], config.n_hidden
        self.convolutions = nn.ModuleList(nn.Linear(width, hidden) for _ in range(3))
        self.attention = nn.ModuleList(Attention(hidden) for _ in range(3))
        self.discriminator = nn.Bilinear(hidden, hidden, 1)
        self.decoder = nn.Sequential(nn.Linear(hidden, 128), nn.ReLU(), nn.Linear(128, inputs.target.shape[1]))
        self.centers = nn.Parameter(torch.zeros(n_domains, hidden), requires_grad=not config.as_released)
        if inputs.image is not None:
            self.image_network = nn.Sequential(nn.Linear(inputs.image.shape[1], 128), nn.ReLU(), nn.Linear(128, hidden))
        self.to(inputs.dtype)

    def views(self, nodes: Tensor, second_view: Tensor, permutation: Tensor) -> Views:
        """All embeddings of one pass."""
        first, second, third = self.convolutions
        embedded = convolve(first, self.tissue, nodes)
        expression = self.attention[0](embedded, convolve(third, self.similar, nodes))
        structure = self.attention[1](embedded, convolve(second, self.tissue, second_view))
        image = None if self.image is None else self.image_network(self.image)
        if image is not None and not self.as_released:
            joint = self.attention[2](expression, structure, image)
        else:
            joint = self.attention[2](expression, structure)
            joint = joint if image is None else joint + self.config.w_image * image
        corrupted = convolve(first, self.tissue, nodes[permutation])
        return Views(first=embedded, corrupted=corrupted, expression=expression, structure=structure, joint=joint)

    def loss(self, epoch: int, generator: torch.Generator) -> Tensor:
        """Weighted sum of the four losses."""
        config = self.config
        second_view, permutation = self.second_view, self.permutation
        if not self.as_released:
            kept = torch.rand(self.nodes.shape[1], generator=generator).to(self.nodes.device) >= config.drop_rate
            second_view, permutation = self.nodes * kept, self._corruption(generator).to(self.nodes.device)
        found = self.views(self.nodes, second_view, permutation)
        graph_loss = self._graph_loss(found.structure, generator)
        total: Tensor = (
            config.w_reconstruction * F.mse_loss(self.decoder(found.expression), self.target)
            + config.w_graph * graph_loss
            + config.w_contrast * contrastive_loss(found, self.readout, self.discriminator)
        )
        if epoch >= config.cluster_start:
            self._start_centers(found.joint)
            assigned = soft_assignment(found.joint, self.centers, as_released=self.as_released)
            if epoch % 5 == 0 or self.sharpened is None:
                self.sharpened = sharpen(assigned.detach())
            total = total + config.w_cluster * F.kl_div(assigned.log(), self.sharpened, reduction="batchmean")
        return total

    def embedding(self) -> Tensor:
        """``(n, n_hidden)`` from all features."""
        return self.views(self.nodes, self.second_view, self.permutation).joint

    sharpened: Tensor | None = None

    def _start_centers(self, joint: Tensor) -> None:
        """Centres of k-means of the embedding, once."""
        from sklearn.cluster import KMeans

        if not self.has_centers:
            found = KMeans(self.n_domains, n_init=10, random_state=self.seed).fit(joint.detach().float().cpu().numpy())
            self.centers.data = torch.from_numpy(found.cluster_centers_).to(joint)
            self.has_centers = True

    def _graph_loss(self, structure: Tensor, generator: torch.Generator) -> Tensor:
        if self.as_released:
            return cosine_graph_loss(structure, self.edges)
        i, j = self.edges.T
        random = torch.cat([
            slide[torch.randint(len(slide), (len(self.edges) * len(slide) // len(self.nodes) + 1, 2),
                                generator=generator)]
            for slide in self.slides
        ]).to(structure.device)  # fmt: skip
        linked = (structure[i] * structure[j]).sum(1)
        unlinked = (structure[random[:, 0]] * structure[random[:, 1]]).sum(1)
        return (F.softplus(-linked).mean() + F.softplus(unlinked).mean()) / 2

    def _corruption(self, generator: torch.Generator) -> Tensor:
        """For each spot another of its slide, at random; of all slides in the released code."""
        n = sum(map(len, self.slides))
        if self.as_released:
            return torch.randperm(n, generator=generator)
        order = torch.empty(n, dtype=torch.int64)
        for slide in self.slides:
            order[slide] = slide[torch.randperm(len(slide), generator=generator)]
        return order


def contrastive_loss(views: Views, readout: Tensor, discriminator: nn.Module) -> Tensor:
    """Whether spots belong to the summary of their neighbourhood: true ones do, corrupted ones do not, and reversed."""
    total: Tensor = torch.zeros((), dtype=views.first.dtype, device=views.first.device)
    for own, other in ((views.first, views.corrupted), (views.corrupted, views.first)):
        summary = torch.sigmoid(F.normalize(torch.sparse.mm(readout, own), dim=1))
        total = total + F.softplus(-discriminator(own, summary)).mean() / 2
        total = total + F.softplus(discriminator(other, summary)).mean() / 2
    return total


def cosine_graph_loss(structure: Tensor, edges: Tensor) -> Tensor:
    """1 - cosine of sigmoid(Z Z') and the adjacency, as flat vectors over all pairs, in blocks of rows."""
    i, j = edges.T
    linked = 2 * torch.sigmoid((structure[i] * structure[j]).sum(1)).sum()
    squares = torch.zeros((), dtype=structure.dtype, device=structure.device)
    for rows in structure.split(BLOCK):
        squares = squares + torch.sigmoid(rows @ structure.T).square().sum()
    cosine: Tensor = linked / (squares.sqrt() * (2 * len(edges)) ** 0.5)
    return 1 - cosine


def soft_assignment(joint: Tensor, centers: Tensor, *, as_released: bool = False) -> Tensor:
    """``(n, k)`` Student's t kernel with one degree of freedom to each centre, rows with sum 1."""
    kernel = 1 / (1 + torch.cdist(joint, centers).square())
    kernel = kernel.square() if as_released else kernel  # of the released code: q ** (alpha + 1) / 2
    found: Tensor = kernel / kernel.sum(dim=1, keepdim=True)
    return found


def sharpen(assigned: Tensor) -> Tensor:
    """Target of the assignment: squares over the size of each cluster, rows with sum 1."""
    weight = assigned.square() / assigned.sum(dim=0)
    target: Tensor = weight / weight.sum(dim=1, keepdim=True)
    return target


def angle_graph(xy: NDArray[np.float64], n_neighbors: int) -> SpotGraph:
    """Spots with the most similar angle seen from the origin: the second graph of the released code."""
    angle = np.arctan2(xy[:, 1], xy[:, 0])
    circle = np.column_stack([np.cos(angle), np.sin(angle)])
    return feature_graph(circle, np.zeros(len(xy), np.int64), n_neighbors)


def _similar(spots: DomainInputs, config: McgaeConfig) -> SpotGraph:
    space = spots.nodes if spots.image is None else principal_components(spots.image, config.n_image_components)
    return feature_graph(space, spots.slide, config.n_similar)


def variational_view(genes: NDArray[np.float32], seed: int, n_epochs: int = 100) -> NDArray[np.float32]:
    """One decoding of all spots by the variational autoencoder of the released code."""
    n_genes = genes.shape[1]
    generator = torch.Generator().manual_seed(seed)
    encoder = nn.Sequential(nn.Linear(n_genes, 256), nn.ReLU(), nn.Linear(256, 40))
    decoder = nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, n_genes), nn.Sigmoid())
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    data = torch.from_numpy(genes)

    def decode(batch: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = encoder(batch).chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator)
        divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum()
        return decoder(mean + noise * (0.5 * log_variance).exp()), divergence

    for _ in range(n_epochs):
        for rows in torch.randperm(len(data), generator=generator).split(256):
            decoded, divergence = decode(data[rows])
            optimizer.zero_grad(set_to_none=True)
            (F.mse_loss(decoded, data[rows]) + 0.01 * divergence).backward()
            optimizer.step()
    with torch.no_grad():
        found: NDArray[np.float32] = torch.cat([decode(rows)[0] for rows in data.split(BLOCK)]).numpy()
    return found
