"""Image encoders that models share: any network of timm, or patch statistics.

Building an encoder never loads weights; `Encoder.load` does, once, before training. Names of files and of repositories
on a hub are part of the configuration. Shared machinery without an underscore: `tl` looks for encoders in networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from .._checks.paths import user_path
from ._precision import unit_pixels
from .image_statistics import N_STATISTICS, patch_statistics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

STATISTICS = "statistics"
"""Encoder without weights: colour and texture of the patch and of its central half."""
NO_WEIGHTS = "none"
"""Random weights."""
TIMM = "timm"
"""Weights that timm knows for this name, from its hub."""


class Statistics(nn.Module):
    """Colour and texture of each patch and of its central half, in optical density; without parameters."""

    def forward(self, patches: Tensor) -> Tensor:
        """``(b, 3, p, p)``, uint8 or in [0, 1], to ``(b, 54)``."""
        return patch_statistics(patches[:, None], 0.5)


class Encoder(nn.Module):
    """A network from a patch to a vector, with the colour normalisation of the network.

    ``name`` is ``"statistics"`` or any name that timm knows, ``"hf-hub:owner/name"`` among them. `load` loads
    ``weights``: ``"none"``, ``"timm"``, or the path of a checkpoint with timm's names (``.safetensors``, or a state
    dict that torch loads without running code).
    """

    mean: Tensor
    std: Tensor
    __call__: Callable[..., Tensor]

    def __init__(self, name: str, weights: str, size_px: int, *, frozen: bool) -> None:
        super().__init__()
        self.name, self.weights, self.frozen = name, weights, frozen
        self.digest = ""  # SHA-256 of the loaded tensors
        self.net, self.options, self.input_px, self.n_features = _network(name, size_px)
        settings = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        settings |= {key: value for key, value in getattr(self.net, "pretrained_cfg", {}).items() if key in settings}
        for key, values in settings.items():
            self.register_buffer(key, torch.tensor(values)[:, None, None], persistent=False)
        if frozen:
            self.requires_grad_(requires_grad=False).train()

    def forward(self, patches: Tensor) -> Tensor:
        """``(b, 3, p, p)``, uint8 or in [0, 1], to ``(b, n_features)``."""
        single = self.training and len(patches) == 1  # batch normalisation needs two: it gets the patch twice
        batch = torch.cat([patches, patches]) if single else patches
        features: Tensor = self.net(batch if self.name == STATISTICS else self._normalize(batch))
        return features[: len(patches)]

    def tokens(self, patches: Tensor) -> Tensor:
        """``(b, 3, p, p)`` to the tokens before pooling, ``(b, n, d)``, row by row, without class tokens."""
        output = self.net.forward_features(self._normalize(patches))  # type: ignore[operator]
        tokens = check.single_token_grid(output, self.name)
        if tokens.ndim == 4:
            channels_last = tokens.shape[-1] == self.net.num_features
            return tokens.flatten(1, 2) if channels_last else tokens.flatten(2).transpose(1, 2)
        return tokens[:, getattr(self.net, "num_prefix_tokens", 0) :]

    def train(self, mode: bool = True) -> Encoder:  # noqa: FBT001, FBT002  (as torch has it)
        """Switch to training; a frozen encoder stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self

    def load(self) -> str:
        """Load the named weights; returns what was loaded, empty if nothing was."""
        if self.name == STATISTICS or self.weights == NO_WEIGHTS:
            return ""
        if self.weights == TIMM:
            loaded = check.import_timm().create_model(self.name, pretrained=True, **self.options)
            self.net.load_state_dict(loaded.state_dict())
            self.digest = _digest(self.net)
            return f"{self.name}: {loaded.pretrained_cfg.get('hf_hub_id') or loaded.pretrained_cfg.get('url')}"
        description = f"{self.name}: {_load_file(self.net, self.weights)}"
        self.digest = _digest(self.net)
        return description

    def record(self) -> dict[str, Any]:
        """What identifies the features, as values for JSON: network, weights, pooling, normalisation and precision."""
        known = getattr(self.net, "pretrained_cfg", {})
        return {
            "encoder": self.name,
            "hub_id": str(known.get("hf_hub_id") or "") if self.weights == TIMM else "",
            "revision": "",
            "weights": self.digest,
            "pooling": "model",
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "input_px": self.input_px,
            "precision": "fp32",
        }

    @property
    def is_random(self) -> bool:
        """Whether the weights are random and stay so."""
        return self.frozen and self.name != STATISTICS and self.weights == NO_WEIGHTS

    @property
    def licence(self) -> str:
        """Licence of the weights that timm knows for this network, in timm's words; empty if it knows none."""
        return str(getattr(self.net, "pretrained_cfg", {}).get("license") or "")

    def _normalize(self, patches: Tensor) -> Tensor:
        """Pixels in the size and range that the network expects."""
        pixels = unit_pixels(patches)
        if pixels.shape[-1] != self.input_px:
            pixels = F.interpolate(pixels, self.input_px, mode="bilinear", antialias=True, align_corners=False)
        return (pixels - self.mean) / self.std


def _network(name: str, size_px: int) -> tuple[nn.Module, dict[str, Any], int, int]:
    """The network, the options of timm that build it, the side of its input in pixels, and the length of its output."""
    if name == STATISTICS:
        return Statistics(), {}, size_px, 2 * N_STATISTICS
    timm = check.import_timm()
    check.timm_name(name, timm)
    net, options, input_px, n_features = _on_meta(timm, name, size_px)
    on_meta = torch.get_default_device().type == "meta"  # used to count operations, no copy is made
    return net.train() if on_meta else timm.create_model(name, **options), options, input_px, n_features


def _on_meta(timm: Any, name: str, size_px: int) -> tuple[nn.Module, dict[str, Any], int, int]:
    """A network on the meta device, and the options with which it takes this patch size, or else its own size."""
    for options in ({"num_classes": 0, "img_size": size_px}, {"num_classes": 0}):
        try:
            with torch.device("meta"), torch.no_grad():
                net = timm.create_model(name, **options).eval()
                return net, options, size_px, int(net(torch.zeros(1, 3, size_px, size_px)).shape[1])
        except (TypeError, RuntimeError, ValueError, AssertionError):
            continue  # it has no such option, or cannot take this size
    with torch.device("meta"), torch.no_grad():
        net = timm.create_model(name, num_classes=0).eval()
        own = int(net.pretrained_cfg["input_size"][-1])
        return net, {"num_classes": 0}, own, int(net(torch.zeros(1, 3, own, own)).shape[1])


def _digest(net: nn.Module) -> str:
    """SHA-256 of the names and values of all tensors of a network, equal for equal weights in any file format."""
    import hashlib

    sha256 = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        sha256.update(name.encode())
        sha256.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha256.hexdigest()


def _load_file(net: nn.Module, path: str) -> str:
    """Load a checkpoint from a file; returns its name and digest."""
    import hashlib

    place = check.weights_file(user_path(path, "weights"))
    state: Mapping[str, Tensor]
    if place.suffix == ".safetensors":
        from safetensors.torch import load_file

        state = load_file(place)
    else:  # tensors only: code in the file is refused
        state = check.tensors_only(place, torch.load)  # noqa: TID251
    wanted = net.state_dict()
    check.weights_fit(
        {k: tuple(v.shape) for k, v in wanted.items()}, {k: tuple(v.shape) for k, v in state.items()}, path
    )
    net.load_state_dict({name: state[name] for name in wanted})
    return f"{place.name}, sha256 {hashlib.sha256(place.read_bytes()).hexdigest()[:16]}"
