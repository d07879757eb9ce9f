"""The cost of a prediction: multiply-accumulates, counted with the ``FlopCounterMode`` of torch; the table of models.

Shared machinery without an underscore: benchmarks count too.
"""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from .._checks.calls import public
from .contract import SpotBatch
from .encoder import Encoder
from .model_config import uses_embeddings
from .registry import build, config, named_ensembles, named_variants

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from .contract import SpotModel
    from .model_config import ModelConfig

WINDOW = 64
"""Number of spots over which the cost of a spot is averaged, for models of context ``"slide"``."""
_PITCH_UM = 200.0


@public
def available() -> pd.DataFrame:
    """List the named models and ensembles, with their size and cost.

    Returns
    -------
    One row for each name: ``citation``, ``context``, ``n_scales``, ``size_px``, ``parameters`` and ``macs`` (multiply-
    accumulates for one spot, including attention) at 250 outputs, and ``licence`` of the weights that timm knows for
    its image encoder. The last three are missing for models that need timm if it is not installed. Of ensembles,
    ``members`` are the models with their weights, parameters and operations are summed, ``n_scales`` counts the
    different fields of view and ``size_px`` is the largest size.

    Examples
    --------
    >>> from stpredict import models
    >>> int(models.available().loc["m2ost", "macs"] / 1e6)
    3978
    """
    import pandas as pd

    rows = {}
    for name, variant in named_variants().items():
        rows[name] = {"citation": variant.citation, **_description([config(name, 250)])}
    for name, row in named_ensembles().items():
        shapes = [config(model, 250, row.options.get(model)) for model in row.members]
        members = " + ".join(f"{weight:.2g} {model}" for model, weight in row.members.items())
        rows[name] = {"citation": row.citation, **_description(shapes), "members": members}
    counted = {"parameters": "Int64", "macs": "Int64", "licence": "string", "members": "string"}
    return pd.DataFrame.from_dict(rows, orient="index").astype(counted).rename_axis("model")


def _description(configs: Sequence[ModelConfig]) -> dict[str, Any]:
    """Context, patches and cost of one model, or of all models of an ensemble."""
    costs = [cost(each) for each in configs]
    licences = sorted({str(each["licence"]) for each in costs if each["licence"]})
    return {
        "context": "slide" if any(each.context == "slide" for each in configs) else "spot",
        "n_scales": len({fov for each in configs for fov in each.fov_spots}),
        "size_px": max(each.size_px for each in configs),
        "parameters": _total([each["parameters"] for each in costs]),
        "macs": _total([each["macs"] for each in costs]),
        "licence": ", ".join(licences) or None,
    }


def _total(values: Sequence[int | str | None]) -> int | None:
    """The sum; None if any value is unknown."""
    return None if None in values else sum(int(value or 0) for value in values)


@cache
def cost(config: ModelConfig) -> Mapping[str, int | str | None]:
    """``parameters``, ``macs`` and ``licence`` of the weights that timm knows for the encoder; None if unknown."""
    try:
        model = _on_meta(config)
    except ImportError:  # it needs timm, which is not installed
        return MappingProxyType({"parameters": None, "macs": None, "licence": None})
    licences = {licence for part in model.modules() if isinstance(part, Encoder) and (licence := part.licence)}
    return MappingProxyType(
        {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "macs": _macs(model, config),
            "licence": ", ".join(sorted(licences)) or None,
        }
    )


def macs(config: ModelConfig) -> int:
    """Multiply-accumulates of the prediction of one spot: the mean over 64 spots for models of context ``"slide"``.

    Matrix products, convolutions and attention count; sums, normalisations, activations and sparse products do not. A
    frozen encoder counts too: a new slide has no features yet.
    """
    return _macs(_on_meta(config), config)


def _on_meta(config: ModelConfig) -> SpotModel:
    with torch.device("meta"):
        return build(config)


def _macs(model: SpotModel, config: ModelConfig) -> int:
    try:
        return _count(model, _batch(config, "meta"))
    except RuntimeError:  # something depends on the values of pixels or weights, which the meta device does not have
        with torch.random.fork_rng(devices=[]):
            return _count(build(config), _batch(config, "cpu"))


def _count(model: SpotModel, batch: SpotBatch) -> int:
    """Multiply-accumulates per spot of a forward pass; with gradients, as fused inference kernels are not counted."""
    counter = FlopCounterMode(display=False)
    mixed = _MixedDevices()  # type: ignore[no-untyped-call]
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), counter, mixed:
        model.eval()(batch)
    return round(counter.get_total_flops() / 2 / len(batch))


def _batch(config: ModelConfig, device: str) -> SpotBatch:
    """One grey spot, or a square of them. The coordinates have values even if the pixels are on the meta device."""
    n = WINDOW if config.context == "slide" else 1
    index, side = torch.arange(n), round(n**0.5)
    width = getattr(config, "n_features", 0) if uses_embeddings(config) else 0
    grey = torch.full((1, 1, 1, 1, 1), 128, dtype=torch.uint8, device=device)
    return SpotBatch(
        patches=grey.expand(n, len(config.fov_spots), 3, config.size_px, config.size_px),
        xy_um=torch.stack([index % side, index // side], dim=1) * _PITCH_UM,
        slide=torch.zeros(n, dtype=torch.int64),
        features=torch.zeros(n, width, device=device) if width else None,
    )


class _MixedDevices(TorchDispatchMode):
    """Drops the values of a tensor where it meets the meta device.

    Beside ``FlopCounterMode``, since models of slides find neighbours from the values of coordinates, while the pixels
    of 64 spots stay on the meta device: a forward pass on a CPU would take minutes.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        inputs = (args, kwargs or {})
        if len({x.device.type for x in tree_leaves(inputs) if isinstance(x, Tensor)}) > 1:
            if func is torch.ops.aten.index.Tensor:  # the shape of a masked tensor depends on the values of the mask
                inputs = ((args[0], [part for x in args[1] for part in _positions(x)]), inputs[1])
            inputs = tree_map_only(Tensor, lambda x: torch.empty_like(x, device="meta"), inputs)
        return func(*inputs[0], **inputs[1])


def _positions(index: Tensor | None) -> tuple[Tensor | None, ...]:
    """A mask as the positions that it selects, one tensor for each axis; any other index as it is."""
    return index.nonzero(as_tuple=True) if index is not None and index.dtype == torch.bool else (index,)
