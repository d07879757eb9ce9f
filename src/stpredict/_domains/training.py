"""What STAIG and MCGAE share: their input, and the loop that trains a network on all spots of all slides at once."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse
from torch import nn

from .._train.loop import seeded_rng

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    at: Mapping[int, Callable[[NDArray[np.float32]], None]] | None = None,
) -> NDArray[np.float32]:
    """Train a network for some epochs; ``at`` calls functions with the embedding after the epochs it names."""
    with seeded_rng(seed, 0):
        network = make().to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=network.lr, weight_decay=network.weight_decay)
    for epoch in range(n_epochs):
        network.train()
        with seeded_rng(seed, epoch + 1) as generator:
            optimizer.zero_grad(set_to_none=True)
            network.loss(epoch, generator).backward()
            optimizer.step()
        if at is not None and epoch + 1 in at:
            at[epoch + 1](embedding_of(network))
    return embedding_of(network)


@torch.no_grad()
def embedding_of(network: DomainNetwork) -> NDArray[np.float32]:
    """Embedding of all spots, on the CPU."""
    network.eval()
    found: NDArray[np.float32] = network.embedding().float().cpu().numpy()
    return found


def to_torch(matrix: sparse.sparray, dtype: torch.dtype, device: torch.device | None = None) -> Tensor:
    """A scipy matrix as a sparse tensor."""
    coo = sparse.coo_array(matrix)
    indices = torch.from_numpy(np.stack([coo.row, coo.col]).astype(np.int64))
    return torch.sparse_coo_tensor(
        indices, torch.from_numpy(coo.data.copy()).to(dtype), coo.shape, device=device, check_invariants=False
    ).coalesce()


def normalized_adjacency(edges: Tensor, n_spots: int, dtype: torch.dtype) -> Tensor:
    """Adjacency with self-loops, each entry over the root of both degrees, of directed ``edges`` ``(m, 2)``."""
    loops = torch.arange(n_spots, device=edges.device).repeat(2, 1)
    i, j = torch.cat([edges.T, loops], dim=1)
    degree = torch.bincount(i, minlength=n_spots).to(dtype)
    weight = (degree[i] * degree[j]).rsqrt()
    return torch.sparse_coo_tensor(torch.stack([i, j]), weight, (n_spots, n_spots), check_invariants=False).coalesce()
