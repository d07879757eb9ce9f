"""Networks of image encoders: those of our rows, those of timm by name, and patch statistics. Nothing is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .._checks import encoders as check
from .encoder_table import STATISTICS, encoder_row, find_key, keys
from .image_statistics import N_STATISTICS, patch_statistics

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from .encoder_table import EncoderRow


class Statistics(nn.Module):
    """Colour and texture of each patch and of its central half, in optical density; without parameters."""

    def forward(self, patches: Tensor) -> Tensor:
        """``(b, 3, p, p)``, uint8 or in [0, 1], to ``(b, 54)``."""
        return patch_statistics(patches[:, None], 0.5)


class TransformersTokens(nn.Module):
    """A vision transformer of the transformers library, built from the fields of a row, that returns its tokens."""

    num_prefix_tokens = 1

    def __init__(self, key: str, row: EncoderRow) -> None:
        super().__init__()
        library = check.import_transformers(key)
        config = getattr(library, f"{row.architecture}Config")(image_size=row.input_px, **row.options)
        self.without_head = {"add_pooling_layer": False} if row.architecture == "ViT" else {}
        self.model = getattr(library, f"{row.architecture}Model")(config, **self.without_head)
        self.num_features = int(config.hidden_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """``(b, 3, p, p)`` to the class token and the patch tokens, ``(b, 1 + n, d)``."""
        tokens: Tensor = self.model(pixel_values=pixels).last_hidden_state
        return tokens

    forward_features = forward


@dataclass(kw_only=True, slots=True)
class Network:
    """A network with random weights and what is known about it."""

    net: nn.Module
    input_px: int
    """Side of its input."""
    n_features: int
    """Length of its pooled output."""
    mean: tuple[float, ...] = (0.0,) * 3
    std: tuple[float, ...] = (1.0,) * 3
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``timm.create_model``."""
    row: EncoderRow | None = None
    """The row of our table; None for other networks."""


def build_network(name: str, size_px: int) -> Network:
    """The network of a name for patches of a size, on the default device."""
    if name == STATISTICS:
        return Network(net=Statistics(), input_px=size_px, n_features=2 * N_STATISTICS)
    row = encoder_row(name)
    return _build_timm(name, size_px) if row is None else _build_row(name, row, size_px)


def pool(output: Any, row: EncoderRow) -> Tensor:
    """The vector ``(b, d)`` of each patch from what the network of a row returns."""
    if row.pooling == "stage mean":
        mean: Tensor = output[0].float().mean(dim=(-2, -1))  # the only stage, (b, d, h, w)
        return mean
    tokens: Tensor = output.float()
    if row.pooling == "cls":
        return tokens[:, 0]
    if row.pooling == "cls+mean":
        return torch.cat([tokens[:, 0], tokens[:, row.n_prefix :].mean(dim=1)], dim=1)
    return tokens


def _build_row(key: str, row: EncoderRow, size_px: int) -> Network:
    """The network of a row, held against the row."""
    check.builds(key, row.not_built)
    patch_px, input_px = int(row.patch_px or 1), int(row.input_px or 1)
    check.smallest_input(key, size_px, patch_px)
    net = TransformersTokens(key, row) if row.library == "transformers" else _create_timm(row)
    width = row.n_features if row.pooling == "stage mean" else int(net.num_features)  # type: ignore[arg-type]
    width *= 2 if row.pooling == "cls+mean" else 1
    n_parameters = sum(parameter.numel() for parameter in net.parameters())
    check.network(key, (width, n_parameters), (row.n_features, int(row.n_parameters or 0)))
    mean, std = row.normalization or ((0.0,) * 3, (1.0,) * 3)
    takes_size = row.dynamic and size_px % patch_px == 0
    return Network(net=net, input_px=size_px if takes_size else input_px, n_features=width, mean=mean, std=std, row=row)


def _create_timm(row: EncoderRow) -> nn.Module:
    """A network of timm from the architecture and the arguments of a row."""
    timm = check.import_timm()
    layers = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "SiLU": nn.SiLU}
    options = {
        name: layers.get(value, value) if name.endswith("_layer") else value for name, value in row.options.items()
    }
    net: nn.Module = timm.create_model(
        row.architecture, **({} if "features_only" in options else {"num_classes": 0}), **options
    )
    return net


def _build_timm(name: str, size_px: int) -> Network:
    """A network that timm knows by name, with the colour constants that timm has for it."""
    timm = check.import_timm()
    check.known_encoder(name, keys(), find_key(name), timm)
    net, options, input_px, n_features = _on_meta(timm, name, size_px)
    on_meta = torch.get_default_device().type == "meta"  # used to count operations, no copy is made
    net = net.train() if on_meta else timm.create_model(name, **options)
    known = getattr(net, "pretrained_cfg", {})
    colors = {key: known[key] for key in ("mean", "std") if key in known}
    return Network(net=net, input_px=input_px, n_features=n_features, options=options, **colors)


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
