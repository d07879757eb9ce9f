"""Errors of the command line: missing stores, outputs that exist, options without effect."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .._checks.paths import no_address
from .._checks.slides import quote

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from ._options import Command

PREDICTOR_FILE: Final = "config.json"
"""What is in the folder of a predictor and in no slide."""
EXPECTED: Final = (ValueError, TypeError, OSError, FloatingPointError)
"""Errors whose message is written for users; the command line prints it without a traceback."""


def is_expected(error: Exception) -> bool:
    """Whether the message was written for users; of runtime errors only those that stpredict raises itself."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, EXPECTED)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")).startswith("stpredict.")


def options_of(message: str, command: Command) -> str:
    """How the arguments that a message names are given on the command line."""
    quoted = re.findall(r"`([^`]*)`", message)
    named = dict.fromkeys(name for text in quoted for name in re.findall(r"^\w+(?==|$)|(?<=[(, ])\w+(?==)", text))
    flags = {name: command.options[name].flag for name in named if name in command.options}
    flags = {name: flag for name, flag in flags.items() if flag.startswith("-")}
    if not flags:
        return ""
    return f" (On the command line {', '.join(f'`{name}` is {flag}' for name, flag in flags.items())}.)"


def all_options_count(command: Command, given: Mapping[str, Any]) -> None:
    """Refuse options that have no effect beside others, or without them."""
    flags = {name: option.flag for name, option in command.options.items()}
    for option, other, why in command.without:
        if option in given and other in given:
            msg = f"`{flags[option]}` has no effect beside `{flags[other]}`: {why}. Give one of the two."
            raise ValueError(msg)
    for option, other in command.needs.items():
        if option in given and other not in given:
            msg = f"`{flags[option]}` has no effect without `{flags[other]}`. Give both, or neither."
            raise ValueError(msg)


def one_store_for_genes(n_stores: int) -> None:
    """Refuse to choose a number of genes from several stores."""
    if n_stores > 1:
        msg = (
            f"`--n-genes` chooses from one store, and {n_stores} were given. Name the genes in a file with `--genes`, "
            "or leave it out: then the 250 most dispersed genes of all stores are taken."
        )
        raise ValueError(msg)


def one_image_or_pairs(values: list[str]) -> None:
    """Refuse several images that are not said to belong to spots."""
    if len(values) > 1 and not all("=" in value for value in values):
        msg = f"`--image` is {values}. Give one image, or SPOTS=IMAGE for every element of spots."
        raise ValueError(msg)


def no_mixed_regions(values: list[str]) -> None:
    """Refuse elements of which all polygons count beside those of which some classes count."""
    if not all("=" in value for value in values):
        msg = f"`--regions` is {values}. Give names of elements, or ELEMENT=CLASS for every class that counts."
        raise ValueError(msg)


def once(name: str, config: Mapping[str, Any], flag: str) -> None:
    """Refuse a field of the configuration that is given twice."""
    if name in config:
        msg = f"`{flag}` and `--config {name}=…` give the same field. Give one of the two."
        raise ValueError(msg)


def order_of_places(command: str, slides: Sequence[str], predictor: str) -> None:
    """Refuse a predictor in the place of a slide if there is none in its own place."""
    misplaced = [path for path in slides if (Path(path) / PREDICTOR_FILE).is_file()]
    if misplaced and not (Path(predictor) / PREDICTOR_FILE).is_file():
        msg = (
            f"{misplaced[0]!r} is a predictor and {predictor!r} is none: slides come first, the predictor last. Type "
            f"`stpredict {command} SLIDE PREDICTOR --out …`."
        )
        raise ValueError(msg)


def no_slide_file(path: Path) -> None:
    """Refuse a table or a slide file where a store is needed."""
    if path.is_file() and path.suffix.lower() == ".h5ad":
        msg = (
            f"{str(path)!r} is a table, and a SpatialData store (.zarr) is needed. If the table has its image, "
            "`stp.io.from_anndata(anndata.read_h5ad(path)).write('slide.zarr')` makes one; in Python, `stp.tl.fit`, "
            "`stp.tl.predict` and `stp.tl.evaluate` take the file itself."
        )
        raise ValueError(msg)
    if path.is_file():
        msg = (
            f"{str(path)!r} is a file, and a SpatialData store (.zarr) is needed. Slide files are predicted by "
            f"`stpredict cohort {path} PREDICTOR --out FOLDER`, which lays a grid over their tissue."
        )
        raise ValueError(msg)


def store_exists(path: Path) -> None:
    """Refuse a store that does not exist."""
    if not path.is_dir():
        msg = (
            f"No SpatialData store at {str(path)!r}. Give the path of a .zarr folder, made for instance with "
            "`spatialdata_io.visium(...).write(path)`."
        )
        raise FileNotFoundError(msg)


def some_workers(n_workers: int | None) -> None:
    """Refuse a cluster without processes."""
    if n_workers is not None and n_workers < 1:
        msg = f"`--workers` is {n_workers}; give at least 1, or leave it out to work in this process alone."
        raise ValueError(msg)


def new_store(path: Path) -> None:
    """Refuse anything but a new store for a whole object."""
    no_address(path)
    if path.suffix.lower() != ".zarr":
        msg = f"`--out {path}` must end in .zarr: the whole object is written, with its embeddings."
        raise ValueError(msg)
    _new(path)


def new_folder(path: Path) -> None:
    """Refuse to overwrite a predictor."""
    _new(path)


def new_output(path: Path, *, layer: bool) -> None:
    """Refuse to overwrite, and formats that are not supported."""
    if path.suffix.lower() not in {".h5ad", ".zarr"}:
        msg = f"`--out {path}` must end in .h5ad (the table) or .zarr (the whole object)."
        raise ValueError(msg)
    if path.suffix.lower() == ".zarr":
        no_address(path)
    if layer and path.suffix.lower() != ".zarr":
        msg = f"`--layer` is written into the measured table, so `--out {path}` must end in .zarr."
        raise ValueError(msg)
    _new(path)


def _new(path: Path) -> None:
    if path.exists():
        msg = f"{str(path)!r} exists and is not overwritten. Give another `--out`, or remove it first."
        raise FileExistsError(msg)


def only_for_data_sets(given: Namespace, names: Sequence[str], *, public: bool) -> None:
    """Refuse options of public data sets beside stores, and a data set whose files are not named."""
    name = given.sdata[0]
    has_data, has_sections = (option in vars(given) for option in ("data", "sections"))
    if not public and (has_data or has_sections):
        msg = (
            f"`--data` and `--sections` are for data sets ({quote(names)}), and {name!r} is none. Give the name of a "
            "data set, or leave these options out."
        )
        raise ValueError(msg)
    if public and has_data == (name == "her2st"):
        what = "is downloaded or in STPREDICT_DATA_DIR" if has_data else "is not downloaded"
        msg = f"{name!r} {what}: {'leave `--data` out' if has_data else 'give the folder of its files with `--data`'}."
        raise ValueError(msg)


def one_name(names: Sequence[str], *, named: bool) -> None:
    """Refuse several stores without a name for the predictor."""
    if len(names) > 1 and not named:
        msg = f"{len(names)} stores were given ({quote(names)}). Name the predictor of all of them with `--name`."
        raise ValueError(msg)
