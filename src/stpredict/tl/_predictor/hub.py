"""Predictors in repositories of the Hugging Face hub: fetched as they are, uploaded as `Predictor.save` writes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

PREFIXES = ("hf:", "hf-hub:")
"""How the name of a repository of the Hugging Face hub begins; all other names and paths are not asked of it."""


def is_repository(given: str) -> bool:
    """Whether a name is to be asked of the hub."""
    return given.startswith(PREFIXES)


def download_repository(given: str, files: Sequence[str]) -> tuple[Path, str]:
    """The local copy of a repository, and its name with the commit."""
    name, revision = _parse(given)
    hub = _hub(f"Reading {given!r} from the Hugging Face hub", "or give a folder")
    try:
        folder = Path(hub.snapshot_download(name, revision=revision or None, allow_patterns=list(files)))
    except (OSError, ValueError) as error:  # the hub raises one or the other
        msg = (
            f"{given!r} could not be read from the Hugging Face hub ({error}). Give the id and revision of a "
            "repository, or the folder that `Predictor.save` wrote."
        )
        raise FileNotFoundError(msg) from error
    return folder, f"{PREFIXES[0]}{name}@{folder.name}"  # snapshots are named by their commit


def upload_folder(folder: Path, given: str, *, private: bool, message: str) -> str:
    """Upload the files of a folder to a repository, which is made if there is none; its name with the new commit."""
    name, revision = _parse(given)
    hub = _hub(f"Uploading to {given!r}", "or save the predictor to a folder")
    api = hub.HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        if revision:
            api.create_branch(name, branch=revision, exist_ok=True)
        commit = api.upload_folder(repo_id=name, folder_path=folder, commit_message=message, revision=revision or None)
    except (OSError, ValueError) as error:  # the hub raises one or the other
        msg = (
            f"The predictor could not be uploaded to {given!r} ({error}). Call `hf auth login` once with a token that "
            "may write, and give a repository of yours."
        )
        raise ConnectionError(msg) from error
    return f"{PREFIXES[0]}{name}@{commit.oid}"


def _parse(given: str) -> tuple[str, str]:
    """Id and revision of a repository, with or without the prefix."""
    prefix = next((prefix for prefix in PREFIXES if given.startswith(prefix)), "")
    name, _, revision = given.removeprefix(prefix).partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        msg = f"{given!r} is no repository. Give 'hf:owner/name', or 'hf:owner/name@revision' for a certain revision."
        raise ValueError(msg)
    return name, revision


def _hub(what: str, instead: str) -> ModuleType | Any:
    """The library of the hub, which is an extra."""
    try:
        import huggingface_hub
    except ImportError:
        msg = f"{what} needs `huggingface_hub`: install `stpredict-histology[encoders]`, {instead}."
        raise ValueError(msg) from None
    return huggingface_hub
