"""What a prediction costs: true multiplications, attention among them, counted on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from .contract import SpotBatch
from .encoder import Encoder
from .model_config import uses_embeddings
from .registry import build

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from .contract import SpotModel
    from .model_config import ModelConfig

WINDOW = 64
"""Spots of the section over which the cost of a spot is averaged, for models that look at slides."""
_PITCH_UM = 200.0


@cache
def cost(config: ModelConfig) -> Mapping[str, int | str | None]:
    """What a table of models says about size and cost.

    Parameters
    ----------
    config
        Configuration of a model.

    Returns
    -------
    ``parameters``, ``macs``, and ``licence`` of the weights that timm knows for its image encoder; None where there are
    none, or where timm is needed and is not there.
    """
    try:
        model = _weightless(config)
    except ImportError:
        return MappingProxyType({"parameters": None, "macs": None, "licence": None})
    licences = {licence for part in model.modules() if isinstance(part, Encoder) and (licence := part.licence)}
    return MappingProxyType(
        {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "macs": _counted(model, config),
            "licence": ", ".join(sorted(licences)) or None,
        }
    )


def macs(config: ModelConfig) -> int:
    """Multiply-accumulates of the prediction of one spot.

    Matrix products, convolutions and attention count; sums, norms, activations and sparse products do not. An encoder
    that is frozen counts too: a new slide has no features yet.

    Parameters
    ----------
    config
        Configuration of a model.

    Returns
    -------
    Multiply-accumulates, the mean over a section of 64 spots for models of context ``"slide"``.

    Raises
    ------
    ImportError
        If the network needs timm and there is none.
    """
    return _counted(_weightless(config), config)


def _weightless(config: ModelConfig) -> SpotModel:
    """The network on the meta device."""
    with torch.device("meta"), _Shapes():
        return build(config)


def _counted(model: SpotModel, config: ModelConfig) -> int:
    """The multiply-accumulates of a network on the meta device."""
    try:
        return _of_pass(model, _section(config, "meta"))
    except RuntimeError:  # something there depends on values of pixels or weights
        with torch.random.fork_rng(devices=[]):
            return _of_pass(build(config), _section(config, "cpu"))


def _of_pass(model: SpotModel, batch: SpotBatch) -> int:
    """Those of a forward pass, by spot; with gradients, since fused kernels for inference alone are not counted."""
    counter = FlopCounterMode(display=False)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter, _Shapes():
        model.eval()(batch)
    return round(counter.get_total_flops() / 2 / len(batch))


def _section(config: ModelConfig, device: str) -> SpotBatch:
    """One spot, or a square of them; grey. Where they lie is known, whatever the device of their pixels."""
    n = WINDOW if config.context == "slide" else 1
    place, side = torch.arange(n), round(n**0.5)
    width = getattr(config, "n_features", 0) if uses_embeddings(config) else 0
    grey = torch.full((1, 1, 1, 1, 1), 128, dtype=torch.uint8, device=device)
    return SpotBatch(
        patches=grey.expand(n, len(config.fov_spots), 3, config.size_px, config.size_px),
        xy_um=torch.stack([place % side, place // side], dim=1) * _PITCH_UM,
        slide=torch.zeros(n, dtype=torch.int64),
        features=torch.zeros(n, width, device=device) if width else None,
    )


class _Shapes(TorchDispatchMode):
    """Follows shapes through a network on the meta device, each operator on the same shapes once.

    Tensors with values, such as the places of spots, may meet those of the meta device, which have none.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: dict[Any, Any] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call an operator, or give what it gave; where it is given tensors of both kinds, forget all values."""
        given = (args, kwargs or {})
        devices = {x.device.type for x in tree_leaves(given) if isinstance(x, torch.Tensor)}
        if len(devices) > 1:
            if func is torch.ops.aten.index.Tensor:  # which asks a mask how many it chooses
                given = ((args[0], [part for x in args[1] for part in _chosen(x)]), given[1])
            given = tree_map_only(torch.Tensor, lambda x: torch.empty_like(x, device="meta"), given)
        if "meta" not in devices or func.is_view or func.overloadpacket in flop_registry:
            return func(*given[0], **given[1])
        if func._schema.is_mutable:
            written = func.__name__.split(".")[0].endswith("_") and torch.Tag.inplace_view not in func.tags
            return given[0][0] if written else func(*given[0], **given[1])
        return self._once(func, given)

    def _once(self, func: Any, given: Any) -> Any:
        """New tensors like those that the operator gave for such shapes."""
        leaves = tree_leaves(tree_map_only(torch.Tensor, _shape, given))
        key = (func, *((type(x), x) for x in leaves))
        if key not in self.known:
            self.known[key] = tree_map_only(torch.Tensor, _shape, func(*given[0], **given[1]))
        return tree_map_only(_Shape, _Shape.empty, self.known[key])


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the meta device knows of a tensor."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def empty(self) -> Tensor:
        """A tensor like that."""
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device="meta")


def _shape(x: Tensor) -> _Shape:
    return _Shape(x.shape, x.stride(), x.dtype)


def _chosen(index: Tensor | None) -> tuple[Tensor | None, ...]:
    """A mask as the positions it chooses, one tensor an axis; any other index as it is."""
    return index.nonzero(as_tuple=True) if index is not None and index.dtype == torch.bool else (index,)
