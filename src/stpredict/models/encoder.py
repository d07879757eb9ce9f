"""Image encoders that models share: one of our rows, a network of timm, patch statistics, or several side by side.

Building an encoder never loads weights; `Encoder.load` does, once, before training. Keys, files and repositories are
part of the configuration. Shared machinery without an underscore: `tl` looks for encoders in networks.
"""

from __future__ import annotations

from contextlib import nullcontext
from traceback import clear_frames
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import encoders as check
from ._encoder_networks import Network, build_network, pool
from ._encoder_weights import digest, is_on_hub, load_into, read_weights
from ._precision import full_precision, unit_pixels
from .encoder_table import STATISTICS, encoder_row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from torch import Tensor

NO_WEIGHTS = "none"
"""Random weights."""
TIMM = "timm"
"""Weights that timm knows for this name, from its hub."""
AT_ONCE_ON_CPU = 32
"""Patches in a forward pass of a frozen network on a CPU, where larger batches are no faster."""
AT_ONCE = 1024
"""Patches in the first forward pass of a frozen network on other devices; halved when memory runs out."""
HUB = "hub"
"""Weights of the encoder's own repository on the Hugging Face hub."""
_HALF = {"fp16": torch.float16, "bf16": torch.bfloat16}


class SideBySide(nn.Module):
    """Several encoders of the same patches; their features are concatenated."""

    def __init__(self, parts: Sequence[Encoder]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def forward(self, patches: Tensor) -> Tensor:
        """``(b, 3, p, p)``, uint8 or in [0, 1], to ``(b, n_features)``."""
        return torch.cat([part(patches) for part in self.parts], dim=1)


class Encoder(nn.Module):
    """A network from a patch to a vector, with the colour normalisation of the network.

    ``name`` is a key of `stp.models.encoders`, a name that timm knows, ``"statistics"``, or a list of them, whose
    features are concatenated; models standardise every feature. `load` loads ``weights``, one text for all or one for
    each: ``"none"``, ``"timm"``, ``"hub"`` (the encoder's own repository) or ``"hub@REVISION"``,
    ``"hub:OWNER/NAME"``, ``"local-dir:FOLDER"``, or the path of a checkpoint with the names of timm or transformers
    (``.safetensors``, or a state dict that torch loads without running code).
    """

    mean: Tensor
    std: Tensor
    __call__: Callable[..., Tensor]

    def __init__(self, name: str | Sequence[str], weights: str | Sequence[str], size_px: int, *, frozen: bool) -> None:
        super().__init__()
        self.name: str | tuple[str, ...] = name if isinstance(name, str) else tuple(name)
        self.weights: str | tuple[str, ...] = weights if isinstance(weights, str) else tuple(weights)
        check.encoder_list(self.name, self.weights)
        self.frozen = frozen
        built = self._build(size_px)
        self.net, self.input_px, self.n_features = built.net, built.input_px, built.n_features
        self.options, self.row = built.options, built.row
        self.digest = self.hub_id = self.revision = ""  # of the loaded weights
        self.at_once = AT_ONCE
        for key, values in (("mean", built.mean), ("std", built.std)):
            self.register_buffer(key, torch.tensor(values)[:, None, None], persistent=False)
        if frozen:
            self.requires_grad_(requires_grad=False).train()

    @property
    def parts(self) -> list[Encoder]:
        """The encoders side by side; the encoder itself if it is one."""
        return list(self.net.parts) if isinstance(self.net, SideBySide) else [self]  # type: ignore[arg-type]

    def forward(self, patches: Tensor) -> Tensor:
        """``(b, 3, p, p)``, uint8 or in [0, 1], to ``(b, n_features)``."""
        if self._takes_raw_patches:
            features: Tensor = self.net(patches)
            return features
        if self.frozen:
            return self._forward_in_parts(patches)
        single = self.training and len(patches) == 1  # batch normalisation needs two: it gets the patch twice
        return self._features(torch.cat([patches, patches]) if single else patches)[: len(patches)]

    def tokens(self, patches: Tensor) -> Tensor:
        """``(b, 3, p, p)`` to the tokens before pooling, ``(b, n, d)``, row by row, without class tokens."""
        with self._precision(patches.device):
            pixels = self._normalize(patches)
            if self.row is not None and self.row.pooling == "stage mean":
                output = self.net(pixels)[0]
            else:
                output = self.net.forward_features(pixels)  # type: ignore[operator]
        tokens = check.single_token_grid(output, self.name)
        if tokens.ndim == 4:
            channels_last = tokens.shape[-1] == self.token_width
            return tokens.flatten(1, 2) if channels_last else tokens.flatten(2).transpose(1, 2)
        return tokens[:, getattr(self.net, "num_prefix_tokens", 0) :]

    @property
    def token_width(self) -> int:
        """Length of a token, which pooled features may exceed."""
        return int(getattr(self.net, "num_features", self.n_features))

    def train(self, mode: bool = True) -> Encoder:  # noqa: FBT001, FBT002  (as torch has it)
        """Switch to training; a frozen encoder stays in evaluation mode."""
        super().train(mode and not self.frozen)
        return self

    def load(self) -> str:
        """Load the named weights; returns what was loaded, empty if nothing was."""
        if isinstance(self.net, SideBySide):
            return "; ".join(filter(None, (part.load() for part in self.parts)))
        name, weights = str(self.name), str(self.weights)
        if name == STATISTICS or weights == NO_WEIGHTS:
            return ""
        if weights == TIMM:
            return self._load_from_timm(name)
        own = self.row.hub_id if self.row else str(getattr(self.net, "pretrained_cfg", {}).get("hf_hub_id") or "")
        own = check.repository(name, own) if is_on_hub(weights) else own
        found = read_weights(weights, own, self.row.file if self.row else "")
        if found.colors is not None:
            expected = [buffer.flatten().tolist() for buffer in (self.mean, self.std)]
            check.normalization(name, found.colors, expected, found.source)
        self.digest = load_into(self.net, name, found)
        self.hub_id, self.revision = found.hub_id, found.revision
        return f"{name}: {found.source}, SHA-256 of the tensors {self.digest[:16]}"

    def record(self) -> dict[str, Any]:
        """What identifies the features, as values for JSON: network, weights, pooling, normalisation and precision.

        Of a list of encoders, every value is a list.
        """
        if isinstance(self.net, SideBySide):
            records = [part.record() for part in self.parts]
            return {key: [each[key] for each in records] for key in records[0]}
        pooling = "" if self.name == STATISTICS else "model" if self.row is None else self.row.pooling
        return {
            "encoder": self.name,
            "hub_id": self.hub_id,
            "revision": self.revision,
            "weights": self.digest,
            "pooling": pooling,
            "mean": self.mean.flatten().tolist(),
            "std": self.std.flatten().tolist(),
            "input_px": self.input_px,
            "precision": "fp32" if self.row is None else self.row.precision,
        }

    @property
    def is_random(self) -> bool:
        """Whether the weights are random and stay so; of a list, its parts say it."""
        return self.frozen and not self._takes_raw_patches and self.weights == NO_WEIGHTS

    @property
    def licence(self) -> str:
        """Licence of the weights of our row, or that timm knows, in timm's words; empty if neither is known."""
        if self.row is not None:
            return self.row.licence
        return str(getattr(self.net, "pretrained_cfg", {}).get("license") or "")

    @property
    def _takes_raw_patches(self) -> bool:
        """Whether the network normalises colours itself, or needs none."""
        return self.name == STATISTICS or isinstance(self.net, SideBySide)

    def _build(self, size_px: int) -> Network:
        """The network of one name, or of several."""
        if isinstance(self.name, str):
            self.weights = self.weights if isinstance(self.weights, str) else self.weights[0]
            return build_network(self.name, size_px)
        each = [self.weights] * len(self.name) if isinstance(self.weights, str) else self.weights
        parts = [Encoder(name, w, size_px, frozen=self.frozen) for name, w in zip(self.name, each, strict=True)]
        return Network(net=SideBySide(parts), input_px=size_px, n_features=sum(part.n_features for part in parts))

    def _forward_in_parts(self, patches: Tensor) -> Tensor:
        """Features of any number of patches; halves the patches in a forward pass when memory runs out."""
        found: list[Tensor] = []
        done = 0
        while done < len(patches):
            n = min(self.at_once, len(patches) - done, AT_ONCE_ON_CPU if patches.device.type == "cpu" else AT_ONCE)
            try:
                found.append(self._features(patches[done : done + n]))
            except torch.OutOfMemoryError as error:
                if n == 1:
                    raise
                self.at_once = (n + 1) // 2
                clear_frames(error.__traceback__)  # they hold the tensors computed so far
                torch.cuda.empty_cache()
                continue
            done += n
        return torch.cat(found) if found else patches.new_zeros((0, self.n_features), dtype=torch.float32)

    def _features(self, patches: Tensor) -> Tensor:
        """``(b, 3, p, p)`` to ``(b, n_features)`` in one forward pass."""
        with self._precision(patches.device):
            output = self.net(self._normalize(patches))
        features = output if self.row is None else pool(output, self.row)
        check.output_width(self.name, tuple(features.shape), self.n_features)
        return features

    def _precision(self, device: torch.device) -> AbstractContextManager[object]:
        """The precision of the row on a GPU that has it, float32 elsewhere; for other networks that of the caller."""
        if self.row is None or not self.frozen:
            return nullcontext()
        half = _HALF.get(self.row.precision) if device.type == "cuda" else None
        if half is None or (half is torch.bfloat16 and not torch.cuda.is_bf16_supported()):
            return full_precision(device)
        return torch.autocast(device.type, dtype=half)

    def _load_from_timm(self, name: str) -> str:
        """Load the weights that timm knows for a name."""
        if self.row is not None:
            check.weights_of_timm(name)
        known = getattr(self.net, "pretrained_cfg", {})
        source = str(known.get("hf_hub_id") or known.get("url") or "")
        try:
            loaded = check.import_timm().create_model(name, pretrained=True, **self.options)
        except OSError as error:
            raise check.hub_error(error, source, "", ()) from error
        self.net.load_state_dict(loaded.state_dict())
        self.digest, self.hub_id = digest(self.net.state_dict()), str(known.get("hf_hub_id") or "")
        return f"{name}: {source}, SHA-256 of the tensors {self.digest[:16]}"

    def _normalize(self, patches: Tensor) -> Tensor:
        """Pixels in the size and range that the network expects."""
        pixels = unit_pixels(patches)
        if pixels.shape[-1] != self.input_px:
            pixels = F.interpolate(pixels, self.input_px, mode="bilinear", antialias=True, align_corners=False)
        return (pixels - self.mean) / self.std


def default_weights(name: str | Sequence[str]) -> str | tuple[str, ...]:
    """The published weights of an encoder, or of each of several: none for patch statistics."""
    if not isinstance(name, str):
        return tuple(str(default_weights(each)) for each in name)
    return NO_WEIGHTS if name == STATISTICS else TIMM if encoder_row(name) is None else HUB


def find_encoders(network: nn.Module) -> dict[str, Encoder]:
    """Image encoders of a network by the name of their attribute; several side by side are one."""
    found: dict[str, Encoder] = {}
    for name, part in network.named_modules():
        if isinstance(part, Encoder) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = part
    return {name.rpartition(".")[-1]: part for name, part in found.items()}
