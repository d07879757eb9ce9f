"""A predictor as a folder: written whole or not at all, read without running any code from it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.torch import save_file

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
from .provenance import Provenance
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
HUB_PREFIXES = ("hf:", "hf-hub:")
"""How the name of a repository of the Hugging Face hub begins; all other paths are of this machine."""


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
            (folder / CARD).write_text(_model_card(config), encoding="utf-8")
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
    """``hf:owner/name@revision`` of a repository, else empty."""

    @property
    def config_file(self) -> Path:
        """The file to name where configuration and weights do not fit."""
        return self.folder / CONFIG


def read(path: str | PathLike[str]) -> SavedPredictor:
    """Read a folder or a repository of the Hugging Face hub, and check digests, fields and shapes."""
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
        msg = (
            f"{str(path)!r} is no saved predictor: {quote(missing)} missing (found: {found}). "
            "Save one with `predictor.save(path)` after `stp.tl.fit`."
        )
        raise FileNotFoundError(msg)


def _local_folder(path: str | PathLike[str]) -> tuple[Path, str]:
    """The folder itself, or the local copy of a repository of the Hugging Face hub and its name with the revision."""
    given = os.fspath(path)
    prefix = next((prefix for prefix in HUB_PREFIXES if given.startswith(prefix)), None)
    if prefix is None:
        return user_path(path), ""
    name, _, revision = given.removeprefix(prefix).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        msg = f"{given!r} is no repository. Give 'hf:owner/name', or 'hf:owner/name@revision' for a certain revision."
        raise ValueError(msg)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        msg = (
            f"Reading {given!r} from the Hugging Face hub needs `huggingface_hub`: install "
            "`stpredict-histology[encoders]`, or give a folder."
        )
        raise ValueError(msg) from None
    try:
        folder = Path(
            snapshot_download(name, revision=revision or None, allow_patterns=[CONFIG, WEIGHTS, HISTORY, CARD])
        )
    except (OSError, ValueError) as error:  # the hub raises one or the other
        msg = (
            f"{given!r} could not be read from the Hugging Face hub ({error}). Give the id and revision of a "
            "repository, or the folder that `Predictor.save` wrote."
        )
        raise FileNotFoundError(msg) from error
    return folder, f"{HUB_PREFIXES[0]}{name}@{folder.name}"  # snapshots are named by their commit


def _text(value: object) -> str:
    """Text for the card: Markdown is shown as HTML, and a cell of a table is one line."""
    return " ".join(escape(str(value), quote=False).replace("|", "\\|").split())


def _adapted_to(config: Mapping[str, Any]) -> str:
    """The sentence of the card on the slide that a predictor was adapted to; empty for a predictor as trained."""
    record = config.get("adaptation")
    return (
        f" Adapted to {record['n_measured']} measured spots of {_text(record['slide'])}, for that slide only."
        if record
        else ""
    )


def _model_card(config: Mapping[str, Any]) -> str:
    provenance = config["provenance"]
    slides = provenance.get("slides", {})
    rows = "\n".join(
        f"| {_text(name)} | {_text(s['group'])} | {s['n_spots']} | {s['um_per_px']:.3f} |" for name, s in slides.items()
    )
    genes = _text(", ".join(config["genes"][:20])) + (", …" if len(config["genes"]) > 20 else "")
    return f"""# {_text(config["model"])}: gene expression from H&E

Predicts {len(config["genes"])} genes ({genes}) in **{config["units"]}** from patches of
{", ".join(f"{side:.0f}" for side in config["patch"]["fov_um"])} µm ({config["patch"]["size_px"]} px each).
Trained with stpredict {config["stpredict"]}; {config["n_members"]} network(s).{_ensemble_card(config)}

| slide | group | spots | µm per pixel |
|---|---|---|---|
{rows}

Donors trained on: {_text(Provenance.from_json(provenance).donors_note)}.
Validation: {_text(provenance.get("validation_note", "none"))}.{_adapted_to(config)}
Not for diagnosis. Compare its predictions with measured tissue of your own before you rely on them.

    import stpredict as stp
    stp.tl.predict(sdata, stp.tl.Predictor.load("this folder"))
"""


def _ensemble_card(config: Mapping[str, Any]) -> str:
    """The models of an ensemble and their weights; empty for a single model."""
    ensemble = config["provenance"].get("ensemble")
    if ensemble is None:
        return ""
    models = ", ".join(f"{each['weight']:.3g} {_text(name)}" for name, each in ensemble["models"].items())
    origin = {
        "registered": "weights of the registered ensemble",
        "given": "given weights",
        "equal": "equal weights",
        "stacked": f"weights by stacking on held-out {(ensemble['stacked'] or {}).get('held_out')}",
    }[ensemble["weights_from"]]
    return f"\nWeighted mean of {models} ({origin})."
