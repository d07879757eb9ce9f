"""A predictor as a folder: written whole or not at all, read without running any code from it."""

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

from ..._checks.paths import output_path, user_path
from ..._checks.slides import quote
from ..._files import atomic_folder

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from os import PathLike

    from torch import Tensor

    from ...models import SpotModel

FORMAT, ENSEMBLE_FORMAT = 1, 2
"""Versions of the layout: of one model, and of an ensemble of several; other versions are refused."""
CONFIG, WEIGHTS, HISTORY, CARD = "config.json", "weights.safetensors", "history.csv", "README.md"
PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"}
HEADER_FIELDS = ("format", "stpredict", "weights_sha256", "hash")
"""Fields of ``config.json`` that do not enter the hash."""
REQUIRED_FIELDS = (
    "model", "model_config", "patch", "target", "genes", "n_members", "provenance", "hash", "weights_sha256"
)  # fmt: skip


def package_version() -> str:
    """Version of stpredict, or ``"unknown"`` if it is not installed."""
    try:
        return version("stpredict-histology")
    except PackageNotFoundError:
        return "unknown"


def digest(values: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of JSON values and CPU tensors: equal for equal predictors."""
    sha256 = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(name.encode())
        sha256.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return sha256.hexdigest()


def add_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a part under their names in the whole."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def select_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a part of the whole under their names in the part."""
    start = f"{prefix}/"
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def check_replaceable(path: Path) -> None:
    """Refuse to write a predictor over anything but a predictor or an empty folder."""
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / CONFIG).is_file()):
        msg = f"{str(path)!r} exists and is no predictor, so it is not overwritten. Give another folder."
        raise FileExistsError(msg)


def write(
    path: str | PathLike[str], values: Mapping[str, Any], tensors: Mapping[str, Tensor], history: pd.DataFrame
) -> None:
    """Write the folder of a predictor; nothing is changed if that fails."""
    target = output_path(path, "path")
    check_replaceable(target)
    try:
        with atomic_folder(target) as folder:
            folder.mkdir()
            save_file(dict(tensors), folder / WEIGHTS)
            hashes = {"weights_sha256": _sha256(folder / WEIGHTS), "hash": digest(values, tensors)}
            layout = ENSEMBLE_FORMAT if "members" in values else FORMAT
            config = {"format": layout, "stpredict": package_version(), **hashes, **values}
            (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
            history.to_csv(folder / HISTORY, index=False)
            (folder / CARD).write_text(_model_card(config), encoding="utf-8")
    except (OSError, SafetensorError) as error:
        msg = (
            f"The predictor could not be saved to {str(target)!r}: {error}. What was there before is unchanged. "
            "Free some space or give a folder you may write to."
        )
        raise OSError(msg) from error


def read(path: str | PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor], pd.DataFrame]:
    """Read configuration, tensors and history of a folder or Hugging Face repository, and check their digests."""
    folder = _local_folder(path)
    _check_is_predictor(folder)
    values = _load(folder / CONFIG, lambda file: json.loads(file.read_text(encoding="utf-8")))
    found = values.get("format") if isinstance(values, dict) else None
    if found not in (FORMAT, ENSEMBLE_FORMAT):
        msg = (
            f"{str(folder / CONFIG)!r} has format {found!r}; this version of stpredict reads formats {FORMAT} and "
            f"{ENSEMBLE_FORMAT}. "
            "Install the version that wrote it, or train again."
        )
        raise ValueError(msg)
    if missing := [name for name in REQUIRED_FIELDS if name not in values]:
        msg = f"{str(folder / CONFIG)!r} lacks {quote(missing)}: it was changed by hand. Save or download it again."
        raise ValueError(msg)
    tensors = _load(folder / WEIGHTS, load_file)
    found, expected = _sha256(folder / WEIGHTS), str(values["weights_sha256"])
    if found != expected:
        msg = (
            f"{str(folder / WEIGHTS)!r} has SHA-256 {found[:12]}…, its configuration says {expected[:12]}…: the file "
            "is corrupt or belongs to another predictor. Save or download it again."
        )
        raise ValueError(msg)
    hashed = {name: value for name, value in values.items() if name not in HEADER_FIELDS}
    found, expected = digest(hashed, tensors), str(values["hash"])
    if found != expected:
        msg = (
            f"The configuration of the predictor in {str(folder)!r} was changed after it was saved (hash {found[:12]}"
            f"…, written {expected[:12]}…). Save or download it again."
        )
        raise ValueError(msg)
    file = folder / HISTORY
    has_rows = file.is_file() and file.read_text(encoding="utf-8").strip() != ""
    return values, tensors, pd.read_csv(file) if has_rows else pd.DataFrame()


def saved_hash(folder: Path) -> str:
    """The hash of a saved predictor as it was written, whatever the version that wrote it."""
    return str(json.loads((folder / CONFIG).read_text(encoding="utf-8"))["hash"])


def _check_is_predictor(path: Path) -> None:
    """Refuse anything but a saved predictor, pickles above all."""
    files = [path] if path.is_file() else sorted(path.glob("*")) if path.is_dir() else []
    pickles = [file.name for file in files if file.suffix in PICKLES]
    if pickles and not (path / WEIGHTS).is_file():
        msg = (
            f"{pickles[0]!r} is a pickle, and reading one can run any code, so it is refused. A predictor is a "
            f"folder with {CONFIG!r} and {WEIGHTS!r}, written by `Predictor.save`."
        )
        raise ValueError(msg)
    if missing := [name for name in (CONFIG, WEIGHTS) if not (path / name).is_file()]:
        found = quote([file.name for file in files]) if path.is_dir() else "no such folder"
        found = "a file, not a folder" if path.is_file() else found
        msg = (
            f"{str(path)!r} is no saved predictor: {quote(missing)} missing (found: {found}). "
            "Save one with `predictor.save(path)` after `stp.tl.fit`."
        )
        raise FileNotFoundError(msg)


def _load(path: Path, load: Callable[[Path], Any]) -> Any:
    """What a function loads from a file; an error if the file is truncated or of another kind."""
    try:
        return load(path)
    except (json.JSONDecodeError, UnicodeDecodeError, SafetensorError, OSError) as error:
        msg = f"{str(path)!r} cannot be read ({error}): it is truncated or was changed. Save or download it again."
        raise ValueError(msg) from error


def load_weights(network: SpotModel, weights: Mapping[str, Tensor], path: str | PathLike[str]) -> None:
    """Load weights into a network, refusing any that do not fit; ``path`` is named in the error."""
    shapes = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    given = {name: tuple(value.shape) for name, value in weights.items()}
    for name in network.per_spot_buffers & given.keys():  # one row per training spot
        shapes[name] = (*given[name][:1], *shapes[name][1:])
    wrong = [name for name in {**shapes, **given} if given.get(name) != shapes.get(name)]
    if wrong:
        msg = (
            f"The weights in {str(path)!r} do not fit the network that its configuration describes: {quote(wrong)}. "
            "It was changed by hand; save or download it again."
        )
        raise ValueError(msg)
    network.load_state_dict(dict(weights))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _local_folder(path: str | PathLike[str]) -> Path:
    """The folder itself, or the local copy of a Hugging Face repository."""
    folder, name = user_path(path), os.fspath(path)
    if folder.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        return folder
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        msg = (
            f"There is no folder {name!r}, and reading it from the Hugging Face hub needs `huggingface_hub`: install "
            "`stpredict-histology[encoders]`, or give a folder."
        )
        raise ValueError(msg) from None
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS, HISTORY, CARD]))
    except (OSError, ValueError) as error:  # the hub raises one or the other
        msg = (
            f"There is no folder {name!r}, and no such repository could be read from the Hugging Face hub ({error}). "
            "Give the folder that `Predictor.save` wrote, or the id of a repository."
        )
        raise FileNotFoundError(msg) from error


def _adapted_to(config: Mapping[str, Any]) -> str:
    """The sentence of the card on the slide that a predictor was adapted to; empty for a predictor as trained."""
    record = config.get("adaptation")
    return (
        f" Adapted to {record['n_measured']} measured spots of {record['slide']}, for that slide only."
        if record
        else ""
    )


def _model_card(config: Mapping[str, Any]) -> str:
    provenance = config["provenance"]
    slides = provenance.get("slides", {})
    rows = "\n".join(f"| {name} | {s['group']} | {s['n_spots']} | {s['um_per_px']:.3f} |" for name, s in slides.items())
    genes = ", ".join(config["genes"][:20]) + (", …" if len(config["genes"]) > 20 else "")
    return f"""# {config["model"]}: gene expression from H&E

Predicts {len(config["genes"])} genes ({genes}) in **{config["units"]}** from patches of
{", ".join(f"{side:.0f}" for side in config["patch"]["fov_um"])} µm ({config["patch"]["size_px"]} px each).
Trained with stpredict {config["stpredict"]}; {config["n_members"]} network(s).{_ensemble_card(config)}

| slide | group | spots | µm per pixel |
|---|---|---|---|
{rows}

Validation: {provenance.get("validation_note", "none")}.{_adapted_to(config)}
Not for diagnosis. Compare its predictions with measured tissue of your own before you rely on them.

    import stpredict as stp
    stp.tl.predict(sdata, stp.tl.Predictor.load("this folder"))
"""


def _ensemble_card(config: Mapping[str, Any]) -> str:
    """The models of an ensemble and their weights; empty for a single model."""
    ensemble = config["provenance"].get("ensemble")
    if ensemble is None:
        return ""
    models = ", ".join(f"{each['weight']:.3g} {name}" for name, each in ensemble["models"].items())
    origin = {
        "registered": "weights of the registered ensemble",
        "given": "given weights",
        "equal": "equal weights",
        "stacked": f"weights by stacking on held-out {(ensemble['stacked'] or {}).get('held_out')}",
    }[ensemble["weights_from"]]
    return f"\nWeighted mean of {models} ({origin})."
