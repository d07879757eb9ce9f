"""From expression, places and image features to domains, by the name of a method."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ..metrics import domain_share
from .clusters import CLUSTERERS, refine
from .features import join, principal_components, standardize
from .graph import spatial_graph
from .mcgae import Mcgae, McgaeConfig
from .staig import Staig, StaigConfig
from .training import DomainInputs, train

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from numpy.typing import NDArray

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
class Expression:
    """Expression of all spots, as domains are found in it."""

    values: NDArray[np.float32]
    """``(n, g)`` log-normalised expression of variable genes."""
    held_out: NDArray[np.float32] | None = None
    """``(n, h)`` the same of molecules that are not in ``values``."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DomainTask:
    """What domains are found in, and how; all but the seed."""

    method: Method
    n_domains: int
    xy: NDArray[np.float64]
    """``(n, 2)`` centres, in any unit."""
    slide: NDArray[np.int64]
    """``(n,)`` slide of each spot."""
    whole: Expression
    """Expression by all molecules."""
    half: Expression | None = None
    """Expression by half of the molecules, to judge domains by the other half; None for predicted expression."""
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


def find_domains(task: DomainTask, seed: int) -> Partition:
    """Run a method and cluster its features; on half of the molecules first, to judge it by the others."""
    started = time.perf_counter()
    share, n_epochs = float("nan"), 0 if task.options is None else task.options.n_epochs
    if task.half is not None:
        features, n_epochs = _features_of_half(task, task.half, seed)
        share = domain_share(task.half.held_out, _cluster(task, features, seed))  # type: ignore[arg-type]
    features = _features(task, task.whole.values, n_epochs, seed)
    domains = _cluster(task, features, seed)
    seconds = time.perf_counter() - started
    return Partition(domains=domains, features=features, held_out_share=share, n_epochs=n_epochs, seconds=seconds)


def _cluster(task: DomainTask, features: NDArray[np.float32], seed: int) -> NDArray[np.intp]:
    domains = CLUSTERERS[task.clusterer](features, task.n_domains, seed)
    return refine(domains, task.xy, task.slide, task.refine) if task.refine else domains


def _features_of_half(task: DomainTask, half: Expression, seed: int) -> tuple[NDArray[np.float32], int]:
    """Features from half of the molecules; those of a network after the epochs that explain the others best."""
    if task.options is None:
        return _features(task, half.values, 0, seed), 0
    found = _network(task, half.values, task.options.n_epochs, seed, CHECKPOINTS)
    shares = {}
    for n, features in found.items():
        domains = CLUSTERERS["kmeans"](features, task.n_domains, seed)
        shares[n] = domain_share(half.held_out, domains)  # type: ignore[arg-type]
    best = max(shares, key=lambda n: shares[n])
    return found[best], best


def _features(task: DomainTask, values: NDArray[np.float32], n_epochs: int, seed: int) -> NDArray[np.float32]:
    """What is clustered: ``(n, d)``."""
    if task.options is not None:
        return _network(task, values, n_epochs, seed)[n_epochs]
    return FEATURES[task.method](task, values)


def _expression(task: DomainTask, values: NDArray[np.float32]) -> NDArray[np.float32]:
    return principal_components(standardize(values, task.slide), task.n_components)


def _smoothed(task: DomainTask, values: NDArray[np.float32]) -> NDArray[np.float32]:
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
    "smoothed": _smoothed,
    "image": _image,
    "joint": _joint,
    "coordinates": _coordinates,
}
"""Methods without a network: what they cluster."""


def _network(
    task: DomainTask,
    values: NDArray[np.float32],
    n_epochs: int,
    seed: int,
    checkpoints: Collection[int] = (),
) -> dict[int, NDArray[np.float32]]:
    """Embeddings by number of epochs."""
    options: Any = task.options
    if options.as_released:
        nodes = values if task.method == "mcgae" else np.minimum(values / np.maximum(values.std(axis=0), 1e-8), 10)
    else:
        nodes = principal_components(standardize(values, task.slide), task.n_components)
    inputs = DomainInputs(
        nodes=nodes.astype(np.float32),
        graph=spatial_graph(task.xy, task.slide, options.n_neighbors),
        slide=task.slide,
        xy=task.xy,
        image=task.image,
    )

    def make() -> DomainNetwork:
        if task.method == "staig":
            return Staig(inputs, options, seed)
        return Mcgae(inputs, options, task.n_domains, seed)

    return train(make, n_epochs, seed, task.device, checkpoints)
