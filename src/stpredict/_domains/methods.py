"""From expression, places and image features to domains, by the name of a method."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..metrics import domain_share
from .clusters import CLUSTERERS, kmeans, refine
from .features import join, principal_components, standardize
from .graph import spatial_graph
from .mcgae import Mcgae, McgaeConfig, McgaeInputs
from .staig import Staig, StaigConfig, StaigInputs
from .training import DomainInputs, train

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from .training import DomainNetwork

Method = Literal["expression", "smoothed", "image", "joint", "coordinates", "staig", "mcgae"]
Clusterer = Literal["gmm", "kmeans", "leiden"]
METHODS = ("expression", "smoothed", "image", "joint", "coordinates", "staig", "mcgae")
NEED_IMAGE = ("image", "joint")
"""Methods that cannot do without image features."""
USE_IMAGE = (*NEED_IMAGE, "staig", "mcgae")
"""Methods that use image features."""
CONFIGS: dict[str, type[StaigConfig] | type[McgaeConfig]] = {"staig": StaigConfig, "mcgae": McgaeConfig}
"""Options of the methods that train a network."""
CHECKPOINTS = (5, 10, 20, 40, 60, 80, 100, 150, 200, 300, 400, 600)
"""Numbers of epochs among which the held-out molecules choose."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Halves:
    """Log-normalised expression by two halves of the molecules: domains are found in one and judged by the other."""

    values: NDArray[np.float32]
    """``(n, g)`` of variable genes."""
    held_out: NDArray[np.float32]
    """``(n, h)`` of the other molecules."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DomainTask:
    """What domains are found in, and how; all but the seed."""

    method: Method
    n_domains: int
    xy: NDArray[np.float64]
    """``(n, 2)`` centres, in any unit."""
    slide: NDArray[np.int64]
    """``(n,)`` slide of each spot."""
    expression: NDArray[np.float32]
    """``(n, g)`` log-normalised expression of variable genes, by all molecules."""
    halves: Halves | None = None
    """None for predicted expression."""
    image: NDArray[np.float32] | None = None
    """``(n, e)`` image features, standardised within slides."""
    n_components: int = 20
    clusterer: Clusterer = "gmm"
    refine: int = 0
    options: StaigConfig | McgaeConfig | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Partition:
    """Domains found with one seed."""

    domains: NDArray[np.intp]
    """``(n,)`` numbers from 0."""
    features: NDArray[np.float32]
    """``(n, d)`` what was clustered."""
    held_out_share: float
    """`stpredict.metrics.domain_share` of the held-out molecules by domains of the others; NaN without counts."""
    n_epochs: int
    """Epochs of the network; 0 for methods without one."""
    seconds: float


Embed = Callable[[int, int, Collection[int]], Mapping[int, NDArray[np.float32]]]
"""From a number of epochs, a seed and further numbers of epochs to what is clustered, ``(n, d)``, by epochs."""


def find_domains(task: DomainTask, seeds: Iterable[int]) -> Iterator[Partition]:
    """Run a method and cluster its features for each seed; on half of the molecules first, to judge it by the others.

    What seeds share is computed once, in the time of the first.
    """
    started = time.perf_counter()
    embed = _prepare(task, task.expression)
    halves = None if task.halves is None else (task.halves.held_out, _prepare(task, task.halves.values))
    for seed in seeds:
        share, n_epochs = float("nan"), 0 if task.options is None else task.options.n_epochs
        if halves is not None:
            held_out, embed_half = halves
            by_epochs = embed_half(n_epochs, seed, CHECKPOINTS)
            n_epochs = _best_epochs(by_epochs, held_out, task.n_domains, seed)
            share = domain_share(held_out, _cluster(task, by_epochs[n_epochs], seed))
        features = embed(n_epochs, seed, ())[n_epochs]
        domains = _cluster(task, features, seed)
        seconds = time.perf_counter() - started
        yield Partition(domains=domains, features=features, held_out_share=share, n_epochs=n_epochs, seconds=seconds)
        started = time.perf_counter()


def _cluster(task: DomainTask, features: NDArray[np.float32], seed: int) -> NDArray[np.intp]:
    domains = CLUSTERERS[task.clusterer](features, task.n_domains, seed)
    return refine(domains, task.xy, task.slide, task.refine) if task.refine else domains


def _best_epochs(
    by_epochs: Mapping[int, NDArray[np.float32]], held_out: NDArray[np.float32], n_domains: int, seed: int
) -> int:
    """Number of epochs after which domains explain the held-out molecules best."""
    if len(by_epochs) == 1:
        return next(iter(by_epochs))
    shares = {n: domain_share(held_out, kmeans(each, n_domains, seed)) for n, each in by_epochs.items()}
    return max(shares, key=lambda n: shares[n])


def _prepare(task: DomainTask, values: NDArray[np.float32]) -> Embed:
    """What does not depend on seeds, and a function for what does."""
    if task.options is not None:
        return _prepare_network(task, values)
    features = FEATURES[task.method](task, values)
    return lambda *_: {0: features}


def _expression(task: DomainTask, values: NDArray[np.float32]) -> NDArray[np.float32]:
    return principal_components(standardize(values, task.slide), task.n_components)


def _smooth_expression(task: DomainTask, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Components of expression averaged over a spot and its neighbours."""
    mean = spatial_graph(task.xy, task.slide).mean_matrix() @ values
    return _expression(task, mean.astype(np.float32))


def _image(task: DomainTask, values: NDArray[np.float32]) -> NDArray[np.float32]:
    del values
    return principal_components(task.image, task.n_components)  # type: ignore[arg-type]


def _joint(task: DomainTask, values: NDArray[np.float32]) -> NDArray[np.float32]:
    return join([_expression(task, values), _image(task, values)])


def _coordinates(task: DomainTask, values: NDArray[np.float32]) -> NDArray[np.float32]:
    del values
    centred = task.xy - np.stack([task.xy[task.slide == i].mean(axis=0) for i in np.unique(task.slide)])[task.slide]
    found: NDArray[np.float32] = (centred / centred.std()).astype(np.float32)
    return found


FEATURES: Mapping[str, Callable[[DomainTask, NDArray[np.float32]], NDArray[np.float32]]] = {
    "expression": _expression,
    "smoothed": _smooth_expression,
    "image": _image,
    "joint": _joint,
    "coordinates": _coordinates,
}
"""Methods without a network: what they cluster."""


def _prepare_network(task: DomainTask, values: NDArray[np.float32]) -> Embed:
    """The inputs of a network, and a function that trains it."""
    options: Any = task.options
    if options.as_released:
        nodes = values if task.method == "mcgae" else np.minimum(values / np.maximum(values.std(axis=0), 1e-8), 10)
    else:
        nodes = _expression(task, values)
    spots = DomainInputs(
        nodes=nodes.astype(np.float32),
        graph=spatial_graph(task.xy, task.slide, options.n_neighbors),
        slide=task.slide,
        xy=task.xy,
        image=task.image,
    )
    make: Callable[[int], DomainNetwork]
    if task.method == "staig":
        make = partial(Staig, StaigInputs.of(spots, options), options)
    else:
        make = partial(Mcgae, McgaeInputs.of(spots, options), options, task.n_domains)

    def embed(n_epochs: int, seed: int, checkpoints: Collection[int]) -> dict[int, NDArray[np.float32]]:
        return train(lambda: make(seed), n_epochs, seed, task.device, checkpoints)

    return embed
