"""Image encoders that models share: any timm network, patch statistics, or embeddings that came with the spots.

Building one never loads weights: `Encoder.load` does, once, before training. Names of files and of repositories on a
hub are configuration; what was loaded is said in words.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from .contract import unit_pixels
from .image_statistics import N_STATISTICS, patch_statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

STATISTICS = "statistics"
"""Encoder without weights: colour and texture of the patch and of its central half."""
NO_WEIGHTS = "none"
"""Weights as drawn."""
TIMM = "timm"
"""Weights that timm knows for this name, from its hub."""


class Statistics(nn.Module):
    """Colour and texture of each patch and of its central half, in optical density; nothing to train."""

    def forward(self, patches: Tensor) -> Tensor:
        """Describe ``(b, 3, p, p)``, uint8 or in [0, 1]: ``(b, 54)``."""
        return patch_statistics(patches[:, None], 0.5)


class Encoder(nn.Module):
    """A network that turns one patch into one vector, with the normalisation of colours it was made for.

    Parameters
    ----------
    name
        ``"statistics"``, or any name that timm knows, ``"hf-hub:owner/name"`` among them.
    weights
        What `load` loads: ``"none"``, ``"timm"``, or the path of a checkpoint (``.safetensors``, or a state dict that
        torch loads without running code) under timm's names.
    size_px
        Side of the patches.
    frozen
        Whether nothing of it is trained.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: str, size_px: int, *, frozen: bool) -> None:
        super().__init__()
        self.name, self.weights, self.frozen = name, weights, frozen
        self.net, self.input_px, self.n_features = _network(name, size_px)
        settings = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
        settings |= {key: value for key, value in getattr(self.net, "pretrained_cfg", {}).items() if key in settings}
        for key, values in settings.items():
            self.register_buffer(key, torch.tensor(values)[:, None, None], persistent=False)
        if frozen:
            self.requires_grad_(requires_grad=False).train()

    def forward(self, patches: Tensor) -> Tensor:
        """Describe patches.

        Parameters
        ----------
        patches
            ``(b, 3, p, p)`` uint8, or floating point in [0, 1].

        Returns
        -------
        ``(b, n_features)``.
        """
        alone = self.training and len(patches) == 1  # batch normalisation needs two: it sees the spot twice
        seen = torch.cat([patches, patches]) if alone else patches
        given: Tensor = self.net(seen if self.name == STATISTICS else self._seen(seen))
        return given[: len(patches)]

    def tokens(self, patches: Tensor) -> Tensor:
        """Describe patches place by place, as the network does before it pools.

        Parameters
        ----------
        patches
            ``(b, 3, p, p)`` uint8, or floating point in [0, 1].

        Returns
        -------
        ``(b, n, d)``, tokens without class tokens, row by row.
        """
        given = check.single_token_grid(self.net.forward_features(self._seen(patches)), self.name)  # type: ignore[operator]
        if given.ndim == 4:
            channels_last = given.shape[-1] == self.net.num_features
            return given.flatten(1, 2) if channels_last else given.flatten(2).transpose(1, 2)
        return given[:, getattr(self.net, "num_prefix_tokens", 0) :]

    def train(self, mode: bool = True) -> Encoder:  # noqa: FBT001, FBT002  (as torch has it)
        """Switch to training; a frozen encoder keeps its statistics and drops nothing."""
        super().train(mode and not self.frozen)
        return self

    def load(self) -> str:
        """Load the weights that were named.

        Returns
        -------
        What was loaded, in words; empty where nothing was.

        Raises
        ------
        ValueError
            If there is no such file, or its weights are of another network.
        """
        if self.name == STATISTICS or self.weights == NO_WEIGHTS:
            return ""
        if self.weights == TIMM:
            loaded = check.import_timm().create_model(self.name, pretrained=True, **_options(self.net))
            self.net.load_state_dict(loaded.state_dict())
            return f"{self.name}: {loaded.pretrained_cfg.get('hf_hub_id') or loaded.pretrained_cfg.get('url')}"
        return f"{self.name}: {_load_file(self.net, self.weights)}"

    @property
    def is_random(self) -> bool:
        """Whether nothing of it is trained, and nothing was."""
        return self.frozen and self.name != STATISTICS and self.weights == NO_WEIGHTS

    @property
    def licence(self) -> str:
        """Licence of the weights that timm knows for this network, as timm has it; empty where it knows none."""
        return str(getattr(self.net, "pretrained_cfg", {}).get("license") or "")

    def _seen(self, patches: Tensor) -> Tensor:
        """Pixels as the network wants them."""
        pixels = unit_pixels(patches)
        if pixels.shape[-1] != self.input_px:
            pixels = F.interpolate(pixels, self.input_px, mode="bilinear", antialias=True, align_corners=False)
        return (pixels - self.mean) / self.std


def _network(name: str, size_px: int) -> tuple[nn.Module, int, int]:
    """The network, the side of the pixels it takes and the length of what it gives."""
    if name == STATISTICS:
        return Statistics(), size_px, 2 * N_STATISTICS
    timm = check.import_timm()
    check.timm_name(name, timm)
    probe, options, input_px, n_features = _fitting(timm, name, size_px)
    wanted = torch.get_default_device().type == "meta"  # by one who asks what it costs: it is there already
    return probe.train() if wanted else timm.create_model(name, **options), input_px, n_features


def _fitting(timm: Any, name: str, size_px: int) -> tuple[nn.Module, dict[str, Any], int, int]:
    """A network without memory for weights, with options by which it takes patches of this size, else its own size."""
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


def _options(net: nn.Module) -> dict[str, Any]:
    """The options with which a network was built."""
    size = getattr(getattr(net, "patch_embed", None), "img_size", None)
    return {"num_classes": 0} if not isinstance(size, tuple) else {"num_classes": 0, "img_size": int(size[0])}


def _load_file(net: nn.Module, path: str) -> str:
    """Load a checkpoint from a file; returns its name and digest."""
    import hashlib

    place = check.weights_file(Path(path))
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
