"""Errors about predictors on disk, and about which predictor is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from .slides import listed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

PICKLES = {".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib"}


def replaceable(path: Path, config: str) -> None:
    """Refuse to replace a folder that is not a predictor, or a file."""
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / config).is_file()):
        msg = f"{str(path)!r} exists and is no predictor, so it is not overwritten. Give another folder."
        raise FileExistsError(msg)


def not_written(path: Path, error: Exception) -> NoReturn:
    """Say that saving failed, and that nothing was lost."""
    msg = (
        f"The predictor could not be saved to {str(path)!r}: {error}. What was there before is unchanged. "
        "Free some space or give a folder you may write to."
    )
    raise OSError(msg) from error


def is_predictor(path: Path, config: str, weights: str) -> None:
    """Refuse what is not a saved predictor, pickled weights above all."""
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
    """Say that a file is truncated or of another kind."""
    msg = f"{str(path)!r} cannot be read ({error}): it is truncated or was changed. Save or download it again."
    raise ValueError(msg) from error


def config_complete(values: object, path: Path, version: int, fields: Sequence[str]) -> None:
    """Refuse configurations of another format, or with parts missing."""
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


def weights_belong(found: str, expected: str, path: Path) -> None:
    """Refuse weights that are not those the configuration was written with."""
    if found != expected:
        msg = (
            f"{str(path)!r} has SHA-256 {found[:12]}…, its configuration says {str(expected)[:12]}…: the file is "
            "corrupt or belongs to another predictor. Save or download it again."
        )
        raise ValueError(msg)


def weights_fit(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], path: str) -> None:
    """Refuse weights of other names or shapes than the network has."""
    wrong = [name for name in expected if found.get(name) != expected[name]]
    wrong += [name for name in found if name not in expected]
    if wrong:
        msg = (
            f"The weights in {path!r} do not fit the network that its configuration describes: {listed(wrong)}. "
            "It was changed by hand; save or download it again."
        )
        raise ValueError(msg)


def unedited(found: str, expected: str, path: Path) -> None:
    """Refuse a configuration that was edited after it was written."""
    if found != expected:
        msg = (
            f"The configuration of the predictor in {str(path)!r} was changed after it was saved (hash {found[:12]}…, "
            f"written {str(expected)[:12]}…). Save or download it again."
        )
        raise ValueError(msg)


def hub_needed(name: str) -> NoReturn:
    """Say what reading from the hub needs."""
    msg = (
        f"There is no folder {name!r}, and reading it from the Hugging Face hub needs `huggingface_hub`: install "
        "`stpredict-histology[encoders]`, or give a folder."
    )
    raise ValueError(msg)


def not_on_hub(name: str, error: Exception) -> NoReturn:
    """Say that neither a folder nor a repository of this name could be read."""
    msg = (
        f"There is no folder {name!r}, and no such repository could be read from the Hugging Face hub ({error}). Give "
        "the folder that `Predictor.save` wrote, or the id of a repository."
    )
    raise FileNotFoundError(msg) from error


def is_one(given: object) -> None:
    """Refuse what is no predictor."""
    if not hasattr(given, "members"):
        msg = (
            f"`predictor` is a {type(given).__name__}; give what `stp.tl.fit` returned, or read one with "
            "`stp.tl.Predictor.load(path)`. The order is `stp.tl.calibrate(predictor, sdata)`."
        )
        raise TypeError(msg)


def overwritable(argument: str, name: str, measured: Sequence[str]) -> None:
    """Refuse to write predictions over what something else wrote."""
    if name in measured:
        msg = (
            f"`{argument}` is {name!r}, which exists and was not written by `stp.tl.predict`, so it is not overwritten "
            f"(kept are: {listed(measured)}). Give another name; `layer='X'` overwrites X."
        )
        raise ValueError(msg)


def panel_in_table(missing: Sequence[str], n_genes: int, table_name: str) -> None:
    """Refuse to write predictions into a table that has no columns for them."""
    if missing:
        msg = (
            f"Table {table_name!r} has no column for {len(missing)} of the predictor's {n_genes} genes: "
            f"{listed(missing)}. Leave out `layer` to write a table of its own."
        )
        raise ValueError(msg)


def recorded(*, found: bool) -> None:
    """Refuse to predict without a predictor."""
    if not found:
        msg = (
            "No predictor was given and this object records none. Make one with `stp.tl.fit(sdata)`, or read one with "
            "`stp.tl.Predictor.load(path)` and pass it as `predictor`."
        )
        raise ValueError(msg)


def still_there(path: Path, expected: str, found: str | None) -> None:
    """Refuse a recorded predictor that has gone or is another one by now."""
    if found != expected:
        state = "is gone" if found is None else "holds another one by now"
        msg = (
            f"This object records the predictor in {str(path)!r}, but that folder {state}. Pass one as `predictor`, or "
            "train again with `stp.tl.fit(sdata)`."
        )
        raise ValueError(msg)
