"""Errors about the folder of a saved predictor."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ..._checks.slides import quote

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"}


def raise_not_written(path: Path, error: Exception) -> NoReturn:
    """Report that saving failed and nothing was changed."""
    msg = (
        f"The predictor could not be saved to {str(path)!r}: {error}. What was there before is unchanged. "
        "Free some space or give a folder you may write to."
    )
    raise OSError(msg) from error


def check_is_predictor(path: Path, config: str, weights: str) -> None:
    """Refuse anything but a saved predictor, pickles above all."""
    pickled = [path] if path.is_file() else sorted(path.glob("*")) if path.is_dir() else []
    pickled = [file for file in pickled if file.suffix in PICKLES]
    if pickled and not (path / weights).is_file():
        msg = (
            f"{pickled[0].name!r} is a pickle, and reading one can run any code, so it is refused. A predictor is a "
            f"folder with {config!r} and {weights!r}, written by `Predictor.save`."
        )
        raise ValueError(msg)
    missing = [name for name in (config, weights) if not (path / name).is_file()]
    if missing:
        found = quote([file.name for file in sorted(path.glob("*"))]) if path.is_dir() else "no such folder"
        found = "a file, not a folder" if path.is_file() else found
        msg = (
            f"{str(path)!r} is no saved predictor: {quote(missing)} missing (found: {found}). "
            "Save one with `predictor.save(path)` after `stp.tl.fit`."
        )
        raise FileNotFoundError(msg)


def raise_unreadable(path: Path, error: Exception) -> NoReturn:
    """Report a file that is truncated or of another kind."""
    msg = f"{str(path)!r} cannot be read ({error}): it is truncated or was changed. Save or download it again."
    raise ValueError(msg) from error


def check_config(values: object, path: Path, version: int, fields: Sequence[str]) -> None:
    """Refuse configurations of another format, or without required fields."""
    found = values.get("format") if isinstance(values, dict) else None
    if found != version:
        msg = (
            f"{str(path)!r} has format {found!r}; this version of stpredict reads format {version}. "
            "Install the version that wrote it, or train again."
        )
        raise ValueError(msg)
    missing = [name for name in fields if name not in values]  # type: ignore[operator]
    if missing:
        msg = f"{str(path)!r} lacks {quote(missing)}: it was changed by hand. Save or download it again."
        raise ValueError(msg)


def check_weights_match(found: str, expected: str, path: Path) -> None:
    """Refuse weights that do not belong to the configuration."""
    if found != expected:
        msg = (
            f"{str(path)!r} has SHA-256 {found[:12]}…, its configuration says {str(expected)[:12]}…: the file is "
            "corrupt or belongs to another predictor. Save or download it again."
        )
        raise ValueError(msg)


def check_config_unchanged(found: str, expected: str, path: Path) -> None:
    """Refuse a configuration that was edited after it was written."""
    if found != expected:
        msg = (
            f"The configuration of the predictor in {str(path)!r} was changed after it was saved (hash {found[:12]}…, "
            f"written {str(expected)[:12]}…). Save or download it again."
        )
        raise ValueError(msg)


def raise_hub_missing(name: str) -> NoReturn:
    """Report that huggingface_hub is not installed."""
    msg = (
        f"There is no folder {name!r}, and reading it from the Hugging Face hub needs `huggingface_hub`: install "
        "`stpredict-histology[encoders]`, or give a folder."
    )
    raise ValueError(msg)


def raise_not_on_hub(name: str, error: Exception) -> NoReturn:
    """Report that no folder and no repository of this name could be read."""
    msg = (
        f"There is no folder {name!r}, and no such repository could be read from the Hugging Face hub ({error}). Give "
        "the folder that `Predictor.save` wrote, or the id of a repository."
    )
    raise FileNotFoundError(msg) from error
