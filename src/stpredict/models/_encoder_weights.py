"""Weights of image encoders from a file, a folder or the Hugging Face hub, as tensors: no code of a file is run."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from .._checks import encoders as check
from .._checks.paths import user_path
from ._encoder_networks import TransformersTokens

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

_HUB = re.compile(r"hub(?::(?P<repository>[\w.-]+/[\w.-]+))?(?:@(?P<revision>\S+))?")
_LOCAL = "local-dir:"
_FILES = ("model.safetensors", "pytorch_model.bin")
"""Usual names of weights in a repository, the first that exists is read."""
_STATED = {"config.json": ("mean", "std"), "preprocessor_config.json": ("image_mean", "image_std")}
"""Files that may state colour constants, and how they are called there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Tensors by name, and where they come from."""

    state: Mapping[str, Tensor]
    source: str
    """Repository and revision, or name of the file, as users know it."""
    hub_id: str = ""
    revision: str = ""
    """Commit of the repository."""
    colors: tuple[Sequence[float], Sequence[float]] | None = None
    """Mean and standard deviation that a configuration beside the weights states, if there is any."""


def is_on_hub(weights: str) -> bool:
    """Whether weights are named by a repository on the hub."""
    return _HUB.fullmatch(weights) is not None


def read_weights(weights: str, own_repository: str, file: str = "") -> Weights:
    """The tensors that ``weights`` names; ``"hub"`` is the encoder's own repository, ``file`` its file there."""
    files = (file,) if file else _FILES
    if named := _HUB.fullmatch(weights):
        repository, revision = named["repository"] or own_repository, named["revision"] or ""
        path = _download(repository, revision, files)
        commit = path.parent.name if path.parent.parent.name == "snapshots" else revision
        stated = {name: _download_if_there(repository, commit, name) for name in _STATED}
        source = f"{repository}@{commit[:12]}, {path.name}"
        return Weights(
            state=_read_tensors(path), source=source, hub_id=repository, revision=commit, colors=_stated_colors(stated)
        )
    if weights.startswith(_LOCAL):
        folder = user_path(weights.removeprefix(_LOCAL), "weights")
        path = check.weights_folder(folder, (*files, *_FILES))
        stated = {name: folder / name for name in _STATED}
        return Weights(state=_read_tensors(path), source=str(path), colors=_stated_colors(stated))
    path = check.weights_file(user_path(weights, "weights"))
    return Weights(state=_read_tensors(path), source=str(path))


def load_into(net: nn.Module, name: str, weights: Weights) -> str:
    """Load tensors into a network, which takes all or none; returns the SHA-256 of those that were used."""
    if isinstance(net, TransformersTokens):
        return _load_into_transformers(net, name, weights)
    state = weights.state
    if "mask_token" in state:  # names of DINOv2
        from timm.models.vision_transformer import checkpoint_filter_fn

        state = checkpoint_filter_fn(dict(state), net)  # type: ignore[arg-type]
    wanted = net.state_dict()
    missing = [key for key in wanted if key not in state]
    other = [key for key in wanted if key in state and state[key].shape != wanted[key].shape]
    check.weights_fit(name, len(wanted), missing, other, weights.source)
    used = {key: state[key] for key in wanted}
    net.load_state_dict(used)
    return digest(used)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names and values of tensors, equal for equal weights in any file format."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        sha256.update(name.encode())
        sha256.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return sha256.hexdigest()


def _load_into_transformers(net: TransformersTokens, name: str, weights: Weights) -> str:
    """Load tensors under the names of any version of transformers, which converts them itself."""
    from transformers.utils import logging

    state = _fit_positions(dict(weights.state), net)
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        loaded, report = type(net.model).from_pretrained(
            None, config=net.model.config, state_dict=state, output_loading_info=True, ignore_mismatched_sizes=True,
            **net.without_head,
        )  # fmt: skip
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    other = [each[0] for each in report["mismatched_keys"]]
    check.weights_fit(name, len(net.model.state_dict()), [*report["missing_keys"]], other, weights.source)
    net.model.load_state_dict(loaded.state_dict())
    return digest(weights.state)


def _fit_positions(state: dict[str, Tensor], net: TransformersTokens) -> dict[str, Tensor]:
    """A state whose position embedding has the grid of the network, interpolated as transformers does it."""
    key, wanted = "embeddings.position_embeddings", net.model.embeddings.position_embeddings
    found = state.get(key)
    if found is None or found.shape == wanted.shape or found.ndim != 3 or found.shape[-1] != wanted.shape[-1]:
        return state
    sides = [round((n_tokens - 1) ** 0.5) for n_tokens in (found.shape[1], wanted.shape[1])]
    if sides[0] ** 2 != found.shape[1] - 1:
        return state
    grid = found[:, 1:].float().unflatten(1, (sides[0], sides[0])).movedim(-1, 1)
    resized = F.interpolate(grid, size=(sides[1], sides[1]), mode="bicubic", align_corners=False)
    return {**state, key: torch.cat([found[:, :1], resized.movedim(1, -1).flatten(1, 2).to(found)], dim=1)}


def _read_tensors(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return check.safetensors_only(path, load_file)
    return check.tensors_only(path, torch.load)  # noqa: TID251  (tensors only: code in the file is refused)


def _download(repository: str, revision: str, files: Sequence[str]) -> Path:
    """The first of some files that a repository has, from the cache if it is there."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    failure: Exception = FileNotFoundError()
    for name in files:
        try:
            return Path(hf_hub_download(repository, name, revision=revision or None))
        except EntryNotFoundError as error:  # not in the repository, or not in the cache while there is no network
            failure = error
        except (OSError, ValueError) as error:
            failure = error
            break
    raise check.hub_error(failure, repository, revision, files) from failure


def _download_if_there(repository: str, revision: str, name: str) -> Path | None:
    """A small file of a repository; None if it has none, or if it is not in the cache while there is no network."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, revision=revision or None))
    except (EntryNotFoundError, OSError):
        return None


def _stated_colors(files: Mapping[str, Path | None]) -> tuple[Sequence[float], Sequence[float]] | None:
    """Mean and standard deviation that configurations beside the weights state; None if none does."""
    for name, path in files.items():
        if path is None or not path.is_file():
            continue
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        values = {**values, **values.get("pretrained_cfg", {})}
        mean, std = (values.get(each) for each in _STATED[name])
        if mean is not None and std is not None:
            return mean, std
    return None
