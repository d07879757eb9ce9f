"""A predictor as a folder: written whole or not at all, read without running any code from it."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import save_file

from ..._checks.names import did_you_mean
from ..._checks.paths import output_path, user_path
from ..._checks.slides import quote
from ..._files import (
    DamagedFileError,
    atomic_folder,
    check_fields,
    file_sha256,
    read_csv,
    read_json,
    read_tensors,
    report_full_disk,
    restore_folder,
    user_cache,
)
from ...models.pretrained_registry import pretrained_entries
from .archive import cached_predictor
from .card import model_card
from .hub import download_repository, is_repository
from .schema import ADVICE, CONFIG_FIELDS, check_shapes, predictor_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from torch import Tensor

FORMAT, ENSEMBLE_FORMAT = 1, 2
"""Versions of the layout: of one model, and of an ensemble of several; other versions are refused."""
CONFIG, WEIGHTS, HISTORY, CARD = "config.json", "weights.safetensors", "history.csv", "README.md"
PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"}
HEADER_FIELDS = ("format", "stpredict", "weights_sha256", "history_sha256", "hash")
"""Fields of ``config.json`` that do not enter the hash."""
FILES = (CONFIG, WEIGHTS, HISTORY, CARD)


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


def default_parent() -> Path:
    """The folder of predictors that were saved without naming a folder."""
    return user_cache() / "predictors"


def newest_folder() -> Path | None:
    """The predictor that was saved last without naming a folder; None if there is none."""
    parent = default_parent()
    saved = parent.glob(f"*/{CONFIG}") if parent.is_dir() else ()
    return max((file.parent for file in saved), key=lambda folder: (folder / CONFIG).stat().st_mtime, default=None)


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
    n_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    try:
        with report_full_disk(target, n_bytes=lambda: n_bytes), atomic_folder(target) as folder:
            folder.mkdir()
            save_file(dict(tensors), folder / WEIGHTS)
            history.to_csv(folder / HISTORY, index=False)
            hashes = {
                "weights_sha256": file_sha256(folder / WEIGHTS),
                "history_sha256": file_sha256(folder / HISTORY),
                "hash": digest(values, tensors),
            }
            layout = ENSEMBLE_FORMAT if "members" in values else FORMAT
            config = {"format": layout, "stpredict": package_version(), **hashes, **values}
            (folder / CONFIG).write_text(json.dumps(config, indent=1), encoding="utf-8")
            card = model_card(config, has_range="image_range/center" in tensors)
            (folder / CARD).write_text(card, encoding="utf-8")
    except (OSError, SafetensorError) as error:
        msg = (
            f"The predictor could not be saved to {str(target)!r}: {str(error).rstrip('.')}. What was there before is "
            "unchanged. Free some space or give a folder you may write to."
        )
        raise OSError(msg) from error


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SavedPredictor:
    """The files of a predictor, checked against their digests and against each other."""

    values: dict[str, Any]
    """What ``config.json`` holds."""
    tensors: dict[str, Tensor]
    history: pd.DataFrame
    folder: Path
    source: str
    """``hf:owner/name@revision`` of a repository, ``name@sha256`` of a registry, else empty."""

    @property
    def config_file(self) -> Path:
        """The file to name where configuration and weights do not fit."""
        return self.folder / CONFIG


def read(path: str | PathLike[str]) -> SavedPredictor:
    """Read a folder, a predictor of a registry or a repository of the hub, and check digests, fields and shapes."""
    folder, source = _local_folder(path)
    restore_folder(folder)
    _check_is_predictor(folder)
    values = read_json(folder / CONFIG, {"format?": object}, ADVICE, finite=False)
    if (found := values.get("format")) not in (FORMAT, ENSEMBLE_FORMAT):
        msg = (
            f"{str(folder / CONFIG)!r} has format {found!r}; this version of stpredict reads formats {FORMAT} and "
            f"{ENSEMBLE_FORMAT}. "
            "Install the version that wrote it, or train again."
        )
        raise ValueError(msg)
    check_fields(values, CONFIG_FIELDS, folder / CONFIG, ADVICE)
    if len(values.get("members", range(values["n_members"]))) != values["n_members"]:
        raise DamagedFileError(folder / CONFIG, "n_members", "it is not the number of members that are listed", ADVICE)
    tensors, _ = read_tensors(folder / WEIGHTS, ADVICE, sha256=values["weights_sha256"])
    hashed = {name: value for name, value in values.items() if name not in HEADER_FIELDS}
    if digest(hashed, tensors) != values["hash"]:
        reason = "the configuration was changed after it was saved: it does not fit its digest"
        raise DamagedFileError(folder / CONFIG, "hash", reason, ADVICE)
    check_shapes(tensors, predictor_shapes(values, tensors), folder / WEIGHTS)
    sha256 = values.get("history_sha256")  # early versions did not record it, and need not have the file
    if sha256 is None and not (folder / HISTORY).is_file():
        history = pd.DataFrame()
    else:
        history = read_csv(folder / HISTORY, ADVICE, sha256=sha256)
    return SavedPredictor(values=values, tensors=tensors, history=history, folder=folder, source=source)


def saved_hash(folder: Path) -> str:
    """The hash of a saved predictor as it was written, whatever the version that wrote it."""
    return str(read_json(folder / CONFIG, {"hash": str}, ADVICE, finite=False)["hash"])


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
        names = [] if path.exists() else list(pretrained_entries())
        others = f" There are pretrained ones: {quote(names)}.{did_you_mean(path.name, names)}" if names else ""
        msg = (
            f"{str(path)!r} is no saved predictor: {quote(missing)} missing (found: {found}). "
            f"Save one with `predictor.save(path)` after `stp.tl.fit`.{others}"
        )
        raise FileNotFoundError(msg)


def _local_folder(path: str | PathLike[str]) -> tuple[Path, str]:
    """The folder of a predictor on this machine, and where it is from: a registry or the hub, else an empty text."""
    given = os.fspath(path)
    if is_repository(given):
        return download_repository(given, FILES)
    folder = user_path(path)
    if isinstance(path, str) and not folder.exists() and Path(given).name == given:
        entry = pretrained_entries().get(given)
        if entry is not None:
            return cached_predictor(entry, FILES), f"{given}@{entry.sha256}"
    return folder, ""
