"""What STAIG and MCGAE share: their input, and the loop that trains a network on all spots of all slides at once."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from .._train.loop import seeded_rng

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from .graph import SpotGraph


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DomainInputs:
    """Spots of one or several slides, as a network sees them."""

    nodes: NDArray[np.float32]
    """``(n, d)`` principal components of expression; genes if the network runs as released."""
    graph: SpotGraph
    """Neighbours in the tissue."""
    slide: NDArray[np.int64]
    """``(n,)`` slide of each spot."""
    xy: NDArray[np.float64]
    """``(n, 2)`` centres, in any unit."""
    image: NDArray[np.float32] | None = None
    """``(n, e)`` image features, standardised within slides."""
    dtype: torch.dtype = torch.float32


class DomainNetwork(nn.Module):
    """A network that holds the spots it is trained on."""

    lr: float
    weight_decay: float

    @abstractmethod
    def loss(self, epoch: int, generator: torch.Generator) -> Tensor:
        """Loss of one pass over all spots."""

    @abstractmethod
    def embedding(self) -> Tensor:
        """``(n, d)`` embedding of all spots."""


def train(
    make: Callable[[], DomainNetwork],
    n_epochs: int,
    seed: int,
    device: torch.device,
    checkpoints: Collection[int] = (),
) -> dict[int, NDArray[np.float32]]:
    """Train a network; returns embeddings by number of epochs: after the last one, and those of ``checkpoints``."""
    with seeded_rng(seed, 0):
        network = make().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=network.lr, weight_decay=network.weight_decay)
    found = {}
    for epoch in range(n_epochs):
        network.train()
        with seeded_rng(seed, epoch + 1) as generator:
            optimizer.zero_grad(set_to_none=True)
            network.loss(epoch, generator).backward()
            optimizer.step()
        if epoch + 1 in checkpoints or epoch + 1 == n_epochs:
            found[epoch + 1] = embedding_of(network)
    return found


@torch.no_grad()
def embedding_of(network: DomainNetwork) -> NDArray[np.float32]:
    """Embedding of all spots, on the CPU."""
    network.eval()
    found: NDArray[np.float32] = network.embedding().float().cpu().numpy()
    return found


def spots_of_slides(slide: NDArray[np.int64]) -> tuple[Tensor, ...]:
    """Spots of each slide."""
    index = torch.from_numpy(slide)
    return tuple(torch.nonzero(index == name)[:, 0] for name in index.unique())


def both_directions(edges: Tensor) -> Tensor:
    """``(m, 2)`` undirected edges to ``(2 m, 2)`` directed ones."""
    return torch.cat([edges, edges.flip(1)])


def convolve(layer: nn.Module, adjacency: Tensor, nodes: Tensor) -> Tensor:
    """A (X W) + b, with the weights of a linear layer."""
    found: Tensor = torch.sparse.mm(adjacency, nodes @ layer.weight.T) + layer.bias  # type: ignore[operator]
    return found


def summing_adjacency(edges: Tensor, n_spots: int, dtype: torch.dtype) -> Tensor:
    """Adjacency with self-loops, all entries 1, of directed ``edges`` ``(m, 2)``."""
    loops = torch.arange(n_spots, device=edges.device).repeat(2, 1)
    indices = torch.cat([edges.T, loops], dim=1)
    ones = torch.ones(indices.shape[1], dtype=dtype, device=edges.device)
    return torch.sparse_coo_tensor(indices, ones, (n_spots, n_spots), check_invariants=False).coalesce()


def normalized_adjacency(edges: Tensor, n_spots: int, dtype: torch.dtype) -> Tensor:
    """Adjacency with self-loops, each entry over the root of both degrees, of directed ``edges`` ``(m, 2)``."""
    adjacency = summing_adjacency(edges, n_spots, dtype)
    i, j = adjacency.indices()
    degree = torch.bincount(i, minlength=n_spots).to(dtype)
    weight = (degree[i] * degree[j]).rsqrt()
    return torch.sparse_coo_tensor(
        adjacency.indices(), weight, (n_spots, n_spots), check_invariants=False, is_coalesced=True
    )
