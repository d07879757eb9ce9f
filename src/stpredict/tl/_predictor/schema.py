"""What the files of a saved predictor must hold: the fields of its configuration, and the shapes of its tensors."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from ..._checks.slides import quote
from ..._files import DamagedFileError, report_damage
from ...models import build, config_from_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor

    from ..._files import Schema
    from ...models import ModelConfig, SpotModel

ADVICE = "Save or download it again."
MEMBERS, SIZES = range(1, 10_001), range(1, 100_001)
_MODEL: dict[Any, Schema] = {
    "model": str,
    "model_config": {"model": str, "config": {str: object}},
    "patch": {"fov_um": [float], "size_px": SIZES, "fill": str},
}
_COLOR: Schema = {"channels": [str], "mean": [float], "std": [float], "low?": [float], "high?": [float]}
_PROVENANCE: Schema = {
    "slides?": {str: {"group": str, "n_spots": int, "um_per_px": float, "sha256": str, "identity?": str}},
    "selection?": {
        "image_key?": str | dict, "shapes_key?": str | list, "table_name?": str, "coordinate_system?": str,
        "layer?": str, "group_key?": str, "features_key?": str, "library_key?": str, "allow_fractional_counts?": bool,
        "um_per_px?": float, "regions?": str | dict,
    },
    "counts?": {"n_genes": int, "genes_sha256": str, "library_key?": str, "fractional?": bool},
    "fit?": {str: object},
    "validation?": [{"kind": str, "groups": [str], "leaks": bool}],
    "validation_note?": str,
    "best?": [{"epoch": int, "score?": float}],
    "diameter_um?": float,
    "pitch_um?": float,
    "layout?": str,
    "color?": _COLOR,
    "stain?": {"reference": {str: object}, "slides": {str: dict}},
    "ridge_penalty?": float,
    "n_at_border?": int,
    "pretrained?": {str: str},
    "ensemble?": {"models": {str: {"weight": float}}, "weights_from": str, "stacked?": {"held_out": str}},
    "self_training?": dict,
    "cohort?": {str: str},
    "held_out?": {
        "unit": str, "n_units": range(1, 1 << 20), "leaks": bool, "ceiling?": float,
        "rows": {str: {"gene_pearson?": float, "best50?": float, "spot_pearson?": float, "rmse?": float}},
    },
    "versions?": {str: str},
}  # fmt: skip
CONFIG_FIELDS: Schema = {
    **_MODEL,
    "target": {
        "target_sum?": float, "over": str, "log1p": bool, "standardize": bool, "n_components?": int, "center": str
    },
    "genes": [str],
    "n_members": MEMBERS,
    "members?": [{**_MODEL, "weight": float}],
    "provenance": _PROVENANCE,
    "calibration?": {
        "n_views": range(1, 9), "record": {"kind": str, "groups": [str], "leaks": bool, "stain?": str}
    },
    "adaptation?": {"slide": str, "n_measured": int},
    "hash": str,
    "weights_sha256": str,
    "history_sha256?": str,
}  # fmt: skip


def check_shapes(tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int | None, ...]], path: Path) -> None:
    """Refuse tensors that are missing or have another shape; None is any length."""
    for name, shape in shapes.items():
        if name not in tensors:
            raise DamagedFileError(path, name, "this tensor is missing", ADVICE)
        found = tuple(tensors[name].shape)
        if len(found) != len(shape) or any(n not in (None, m) for n, m in zip(shape, found, strict=True)):
            expected = " x ".join("any" if n is None else str(n) for n in shape)
            raise DamagedFileError(path, name, f"this tensor has the shape {found} and should have {expected}", ADVICE)


def predictor_shapes(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, tuple[int | None, ...]]:
    """Shapes of all tensors but those of the networks, from the number of genes and what the configuration has."""
    g = len(values["genes"])
    shapes: dict[str, tuple[int | None, ...]] = {"train_mean": (g,), "ridge_color": (g, None)}
    for i in range(values["n_members"]):
        shapes |= {f"{i}/targets/mean": (g,), f"{i}/targets/scale": (g,)}
        shapes |= {name: (None, g) for name in [f"{i}/targets/components"] if name in tensors}
        if f"{i}/donors/n" in tensors or f"{i}/donors/mean" in tensors:
            d = tensors.get(f"{i}/donors/mean", torch.empty(0)).numel()
            names = ("mean", "log_spread", "mean_squares", "spread_squares")
            shapes |= {f"{i}/donors/n": (2,), **{f"{i}/donors/{name}": (d,) for name in names}}
    if "image_range/center" in tensors or "image_range/whitening" in tensors:
        d = tensors.get("image_range/center", torch.empty(0)).numel()
        shapes |= {"image_range/center": (d,), "image_range/whitening": (d, d)}
    if (calibration := values.get("calibration")) is not None:
        for part in ("pooled", *range(len(calibration["record"]["groups"]))):
            m = max(1, tensors.get(f"calibration/{part}/ranks", torch.empty(0)).numel())
            shapes |= {f"calibration/{part}/ranks": (m,), f"calibration/{part}/values": (m, g)}
    if values.get("adaptation") is not None:
        k = len(tensors.get("adaptation/head", torch.empty(0)))
        shapes |= {f"adaptation/{name}": (g,) for name in ("center", "offset", "scale")}
        shapes |= {f"adaptation/{name}": (k, g) for name in ("components", "head")}
    return shapes


def saved_network_config(saved: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> ModelConfig:
    """The configuration of a network whose weights have the shapes that it describes.

    The network is only built on the meta device, and no further than the weights go, so that no memory is taken.
    """
    with report_damage(path, ADVICE, "model_config", passing="stpredict._checks"):
        config = config_from_dict(saved)
        with torch.device("meta"), _limited_calls(100 * (len(weights) + 100)):
            network = build(config)
    _check_weights(network, weights, path)
    return config


def load_weights(network: SpotModel, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load weights into a network, refusing any that do not fit; ``path`` is named in the error."""
    _check_weights(network, weights, path)
    network.load_state_dict(dict(weights))


def _check_weights(network: SpotModel, weights: Mapping[str, Tensor], path: Path) -> None:
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    for name in network.per_spot_buffers & given.keys():  # one row per training spot
        shapes[name] = (*given[name][:1], *shapes[name][1:])
    if wrong := [name for name in {**shapes, **given} if given.get(name) != shapes.get(name)]:
        reason = f"the weights do not fit the network that is described here: {quote(wrong)}"
        raise DamagedFileError(path, "model_config", reason, ADVICE)


class _CallCounter(TorchFunctionMode):
    """Counts calls of torch in this thread, up to a limit."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            msg = "the network has far more layers than there are weights"
            raise RuntimeError(msg)
        return function(*args, **(kwargs or {}))


@contextmanager
def _limited_calls(most: int) -> Iterator[None]:
    with _CallCounter(most):
        yield
