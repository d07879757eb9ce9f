"""A predictor as a folder: written whole or not at all, read without running anything from it."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from ..._checks import predictor as check
from ..._files import atomic_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from torch import Tensor

    from ...models import SpotModel

FORMAT = 1
"""Version of the layout; a reader refuses others."""
CONFIG, WEIGHTS, HISTORY, CARD = "config.json", "weights.safetensors", "history.csv", "README.md"
BESIDE = ("format", "stpredict", "weights_sha256", "hash")
"""Fields of the configuration that do not describe the predictor."""
FIELDS = ("model", "model_config", "patch", "target", "genes", "n_members", "provenance", "hash", "weights_sha256")


def package_version() -> str:
    """Version of stpredict, or ``"unknown"`` where it is not installed.

    Returns
    -------
    The version.
    """
    try:
        return version("stpredict-histology")
    except PackageNotFoundError:
        return "unknown"


def digest(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Digest of a predictor: equal for equal configuration and weights.

    Parameters
    ----------
    description
        Values that JSON takes.
    tensors
        Weights by name, on the CPU.

    Returns
    -------
    64 hexadecimal digits.
    """
    found = hashlib.sha256(json.dumps(description, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode())
        found.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return found.hexdigest()


def write(
    path: str | PathLike[str], values: Mapping[str, Any], tensors: Mapping[str, Tensor], history: pd.DataFrame
) -> None:
    """Write a predictor beside its place, then rename it into place.

    Parameters
    ----------
    path
        The folder.
    values
        What goes into ``config.json``.
    tensors
        What goes into ``weights.safetensors``.
    history
        What goes into ``history.csv``.
    """
    target = Path(path)
    check.replaceable(target, CONFIG)
    try:
        with atomic_folder(target) as part:
            part.mkdir()
            save_file(dict(tensors), part / WEIGHTS)
            sha256 = hashlib.sha256((part / WEIGHTS).read_bytes()).hexdigest()
            hashes = {"weights_sha256": sha256, "hash": digest(values, tensors)}
            config = {"format": FORMAT, "stpredict": package_version(), **hashes, **values}
            (part / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
            history.to_csv(part / HISTORY, index=False)
            (part / CARD).write_text(_card(config), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        check.not_written(target, error)


def read(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor], pd.DataFrame]:
    """Read a predictor's files and check that they belong together.

    Parameters
    ----------
    path
        A folder, or the id of a Hugging Face repository.

    Returns
    -------
    Configuration, tensors, history.
    """
    folder = _local(path)
    check.is_predictor(folder, CONFIG, WEIGHTS)
    try:
        values = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        check.unreadable(folder / CONFIG, error)
    check.config_complete(values, folder / CONFIG, FORMAT, FIELDS)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        check.unreadable(folder / WEIGHTS, error)
    found = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    check.weights_belong(found, values["weights_sha256"], folder / WEIGHTS)
    description = {name: value for name, value in values.items() if name not in BESIDE}
    check.unedited(digest(description, tensors), values["hash"], folder)
    history = pd.read_csv(folder / HISTORY) if _has_rows(folder / HISTORY) else pd.DataFrame()
    return values, tensors, history


def _has_rows(path: Path) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8").strip() != ""


def load_weights(network: SpotModel, weights: Mapping[str, Tensor], path: str | PathLike[str]) -> None:
    """Load weights into a network, refusing any that do not fit.

    Parameters
    ----------
    network
        The network.
    weights
        Its state.
    path
        Where they come from, for messages.
    """
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    for name in network.per_spot_buffers & given.keys():  # as many rows as there were training spots
        shapes[name] = (*given[name][:1], *shapes[name][1:])
    check.weights_fit(shapes, given, str(path))
    network.load_state_dict(dict(weights))


def _local(path: str | PathLike[str]) -> Path:
    folder = Path(path)
    name = os.fspath(path)
    if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return folder
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        check.hub_needed(name)
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, HISTORY, CARD]))
    except (OSError, ValueError) as error:  # what the hub raises is one or the other
        check.not_on_hub(name, error)


def _card(config: Mapping[str, Any]) -> str:
    provenance = config["provenance"]
    slides = provenance.get("slides", {})
    rows = "\n".join(f"| {name} | {s['group']} | {s['n_spots']} | {s['um_per_px']:.3f} |" for name, s in slides.items())
    genes = ", ".join(config["genes"][:20]) + (", …" if len(config["genes"]) > 20 else "")
    return f"""# {config["model"]}: gene expression from H&E

Predicts {len(config["genes"])} genes ({genes}) in **{config["units"]}** from patches of
{", ".join(f"{side:.0f}" for side in config["patch"]["fov_um"])} µm ({config["patch"]["size_px"]} px each).
Trained with stpredict {config["stpredict"]}; {config["n_members"]} network(s).

| slide | group | spots | µm per pixel |
|---|---|---|---|
{rows}

Validation: {provenance.get("validation_note", "none")}.
Not for diagnosis. Check predictions against measured tissue of your own before you believe them.

    import stpredict as stp
    stp.tl.predict(sdata, stp.tl.Predictor.load("this folder"))
"""
