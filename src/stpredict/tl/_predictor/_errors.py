"""Errors about saved predictors, and about calibrations on too few spots."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ..._checks.slides import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"}


def replaceable(path: Path, config: str) -> None:
    """Refuse to replace a file, or a folder that holds anything but a predictor."""
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / config).is_file()):
        msg = f"{str(path)!r} exists and is no predictor, so it is not overwritten. Give another folder."
        raise FileExistsError(msg)


def not_written(path: Path, error: Exception) -> NoReturn:
    """Report that saving failed and nothing was changed."""
    msg = (
        f"The predictor could not be saved to {str(path)!r}: {error}. What was there before is unchanged. "
        "Free some space or give a folder you may write to."
    )
    raise OSError(msg) from error


def is_predictor(path: Path, config: str, weights: str) -> None:
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
        found = listed([file.name for file in sorted(path.glob("*"))]) if path.is_dir() else "no such folder"
        found = "a file, not a folder" if path.is_file() else found
        msg = (
            f"{str(path)!r} is no saved predictor: {listed(missing)} missing (found: {found}). "
            "Save one with `predictor.save(path)` after `stp.tl.fit`."
        )
        raise FileNotFoundError(msg)


def unreadable(path: Path, error: Exception) -> NoReturn:
    """Report a file that is truncated or of another kind."""
    msg = f"{str(path)!r} cannot be read ({error}): it is truncated or was changed. Save or download it again."
    raise ValueError(msg) from error


def config_complete(values: object, path: Path, version: int, fields: Sequence[str]) -> None:
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
        msg = f"{str(path)!r} lacks {listed(missing)}: it was changed by hand. Save or download it again."
        raise ValueError(msg)


def weights_match(found: str, expected: str, path: Path) -> None:
    """Refuse weights that do not belong to the configuration."""
    if found != expected:
        msg = (
            f"{str(path)!r} has SHA-256 {found[:12]}…, its configuration says {str(expected)[:12]}…: the file is "
            "corrupt or belongs to another predictor. Save or download it again."
        )
        raise ValueError(msg)


def weights_fit(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], path: str) -> None:
    """Refuse weights whose names or shapes differ from those of the network."""
    wrong = [name for name in expected if found.get(name) != expected[name]]
    wrong += [name for name in found if name not in expected]
    if wrong:
        msg = (
            f"The weights in {path!r} do not fit the network that its configuration describes: {listed(wrong)}. "
            "It was changed by hand; save or download it again."
        )
        raise ValueError(msg)


def config_unchanged(found: str, expected: str, path: Path) -> None:
    """Refuse a configuration that was edited after it was written."""
    if found != expected:
        msg = (
            f"The configuration of the predictor in {str(path)!r} was changed after it was saved (hash {found[:12]}…, "
            f"written {str(expected)[:12]}…). Save or download it again."
        )
        raise ValueError(msg)


def hub_missing(name: str) -> NoReturn:
    """Report that huggingface_hub is not installed."""
    msg = (
        f"There is no folder {name!r}, and reading it from the Hugging Face hub needs `huggingface_hub`: install "
        "`stpredict-histology[encoders]`, or give a folder."
    )
    raise ValueError(msg)


def not_on_hub(name: str, error: Exception) -> NoReturn:
    """Report that no folder and no repository of this name could be read."""
    msg = (
        f"There is no folder {name!r}, and no such repository could be read from the Hugging Face hub ({error}). Give "
        "the folder that `Predictor.save` wrote, or the id of a repository."
    )
    raise FileNotFoundError(msg) from error


def recorded(*, found: bool) -> None:
    """Refuse to predict without a predictor."""
    if not found:
        msg = (
            "No predictor was given and this object records none. Make one with `stp.tl.fit(sdata)`, or read one with "
            "`stp.tl.Predictor.load(path)` and pass it as `predictor`."
        )
        raise ValueError(msg)


def still_there(path: Path, expected: str, found: str | None) -> None:
    """Refuse a recorded predictor that was removed or replaced."""
    if found != expected:
        state = "is gone" if found is None else "holds another predictor now"
        msg = (
            f"This object records the predictor in {str(path)!r}, but that folder {state}. Pass one as `predictor`, or "
            "train again with `stp.tl.fit(sdata)`."
        )
        raise ValueError(msg)


def enough_scores(n_spots: int, rank: int, coverage: float) -> None:
    """Refuse a coverage that needs more spots than were calibrated on."""
    if rank > n_spots:
        msg = (
            f"`coverage` is {coverage}, but intervals were calibrated on {n_spots} spots (of a group), which guarantee "
            f"{n_spots / (n_spots + 1):.3f} at most. Give a lower one, or calibrate on more spots with "
            "`stp.tl.calibrate`."
        )
        raise ValueError(msg)
