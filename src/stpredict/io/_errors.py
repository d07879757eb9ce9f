"""Errors that several readers raise, and warnings. An error of one function is raised there."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import pandas as pd

from .. import _keys as keys
from .._checks.decoding import DECODER_ERRORS, UnreadableFileError, describe
from .._checks.memory import TooLargeError
from .._checks.slides import quote
from .._checks.training import warn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anndata import AnnData
    from numpy.typing import NDArray

WHERE_FULL_IMAGE = (
    "From 10x Genomics' page of the data set fetch 'Input image (TIFF)' or 'Microscope image'; of your own sample take "
    "the file that Space Ranger was given as `--image`."
)


@contextmanager
def required_module(name: str) -> Iterator[None]:
    """Say how to install an optional library if importing it fails."""
    try:
        yield
    except (ImportError, OSError) as error:  # OSError: the C library that openslide loads
        msg = (
            f"This slide is read with {name}, which is not installed or does not load ({error}). Call "
            "`pip install 'stpredict-histology[io]'`."
        )
        raise ModuleNotFoundError(msg, name=name) from error


def require_file(path: Path, what: str) -> None:
    """Refuse a file that is not there."""
    if not path.is_file():
        msg = f"No {what} at '{path}'. Give the path of an existing file."
        raise FileNotFoundError(msg)


def require_folder(path: Path, what: str, function: str) -> None:
    """Refuse a folder of a platform that is not there."""
    if path.is_file():
        msg = f"'{path}' is a file. Give the folder of {what} to `{function}`."
        raise NotADirectoryError(msg)
    if not path.is_dir():
        msg = f"'{path}' does not exist. Give the folder of {what} to `{function}`."
        raise FileNotFoundError(msg)


@contextmanager
def decoding(path: Path, what: str, *others: type[BaseException]) -> Iterator[None]:
    """Turn what libraries raise about the content of a file into one error that names it.

    ``others`` are classes of a library that are not in `DECODER_ERRORS`. Only calls of libraries belong into the block:
    of our own errors those about a damaged file pass.
    """
    try:
        yield
    except (UnreadableFileError, TooLargeError, PermissionError):
        raise
    except DECODER_ERRORS + others as reason:
        refuse_damaged(path, what, describe(reason))


def refuse_damaged(path: Path, what: str, reason: object) -> NoReturn:
    """Report a file of which a length, a checksum or a decoder says that bytes are missing or wrong."""
    msg = f"The {what} '{path.name}' cannot be read: {reason}. Bytes are missing or wrong: fetch it again."
    raise UnreadableFileError(msg)


def refuse_unreadable(path: Path, what: str, reason: object) -> NoReturn:
    """Report a file that is whole but holds something else than what was looked for."""
    msg = f"The {what} '{path.name}' cannot be read: {reason}. Give another file, or correct this one."
    raise UnreadableFileError(msg)


def exactly_one(found: Sequence[Path], names: Sequence[str], folder: Path, what: str) -> Path:
    """The one file that was found; an error if there is none, or several."""
    if len(found) > 1:
        msg = f"'{folder}' holds several {what}: {quote([file.name for file in found])}. Keep one sample a folder."
        raise ValueError(msg)
    if not found:
        has = "there is no such folder"
        if folder.is_dir():
            has = f"it holds {quote(sorted(file.name for file in folder.iterdir()))}"
        msg = (
            f"No {what} in '{folder}' (looked for {quote(names)}; {has}). Give the folder "
            "that holds the whole output of one sample."
        )
        raise FileNotFoundError(msg)
    return found[0]


def several_images(found: Sequence[Path], folder: Path) -> NoReturn:
    """Report that the image to read must be named."""
    msg = f"Which image is it? '{folder}' holds {quote([file.name for file in found])}. Give one as `image`."
    raise ValueError(msg)


def require_columns(found: Sequence[str], needed: Sequence[str], path: Path) -> None:
    """Refuse a table without the given columns."""
    missing = [name for name in needed if name not in found]
    if missing:
        msg = (
            f"Table '{path.name}' has no column {quote(missing)} (found: {quote(found)}). Name its columns "
            f"{quote(needed)}."
        )
        raise UnreadableFileError(msg)


def require_coordinates(bad: Sequence[str], path: Path) -> None:
    """Refuse coordinates that are missing, not numbers, or larger than any slide."""
    if bad:
        msg = (
            f"Table '{path.name}' has missing or non-numeric values in {quote(bad)}, or some larger than any slide. "
            "Remove these rows or fill them."
        )
        raise ValueError(msg)


def require_counts(n_spots: int, n_genes: int, path: Path) -> None:
    """Refuse a counts matrix without a spot or without a gene."""
    if not (n_spots and n_genes):
        msg = (
            f"Counts file '{path.name}' is empty: {n_spots} spots, {n_genes} genes. Give a table with a header of "
            "names and one row per spot or a gene to `stp.io.read_st`."
        )
        raise ValueError(msg)


def require_unique_spots(names: Sequence[str], path: Path) -> None:
    """Refuse two rows for one position of the array."""
    twice = sorted(name for name, n in Counter(names).items() if n > 1)
    if twice:
        msg = f"'{path.name}' holds more than one row for array position {quote(twice)}. Keep one row per spot."
        raise ValueError(msg)


def genes_among(kinds: NDArray[np.str_], path: Path) -> NDArray[np.bool_]:
    """Which features are genes; refuse a matrix without any."""
    found: NDArray[np.bool_] = np.asarray(kinds == keys.GENE_EXPRESSION)
    if not found.any():
        msg = (
            f"The matrix of counts '{path.name}' holds no feature of type {keys.GENE_EXPRESSION!r} (found: "
            f"{quote(np.unique(kinds).tolist())}). Give another matrix; readers of platforms take `all_features=True`."
        )
        raise ValueError(msg)
    return found


def not_one_plane(path: Path, axes: Sequence[str], shape: Sequence[int]) -> NoReturn:
    """Refuse stacks: several planes, times or pictures of one size."""
    sizes = ", ".join(f"{axis} {n}" for axis, n in zip(axes, shape, strict=False))
    msg = (
        f"'{path.name}' is no single picture: its axes are {sizes}. One plane in colour is read; export that plane "
        "as OME-TIFF or OME-Zarr."
    )
    raise ValueError(msg)


def warn_unknown_resolution(image_key: str, doubt: str | None = None) -> None:
    """Warn that the size of a pixel is not known."""
    why = doubt or "dots per inch of a screen or printer do not count"
    warn(
        f"The file of image {image_key!r} does not say how large a pixel is ({why}), and nothing was recorded. Give "
        "`um_per_px`, or call `stp.pp.resolution(sdata, um_per_px=…)`."
    )


def warn_orientation(path: Path, tag: int) -> None:
    """Warn that a picture is not turned as its file says."""
    if tag != 1:
        warn(
            f"'{path.name}' says that its picture is to be turned or mirrored (orientation {tag}); pixels are taken as "
            "they are stored. `stp.io.read_wsi(…, orientation='apply')` turns them."
        )


def warn_overview(name: str, kind: str, um_per_px: float, diameter_um: float) -> None:
    """Warn that a slide is read from a small copy of its image."""
    warn(
        f"Slide {name!r} is read from its overview {kind!r} at {um_per_px:.3g} µm per pixel: a spot of "
        f"{diameter_um:.3g} µm is {diameter_um / um_per_px:.3g} pixels wide, and cells are not seen. Give the "
        "full-resolution image where there is one: `stp.io.from_anndata(adata, 'slide.tif')`."
    )


def no_resolution_of_anndata(um_per_px: float | None) -> None:
    """Refuse a resolution for an AnnData, since it may be meant of the overview or of the full-resolution image."""
    if um_per_px is not None:
        msg = (
            f"`um_per_px` is {um_per_px:g}, and an AnnData was given, whose positions and image may differ in "
            "resolution. Give it where both are linked: `stp.io.from_anndata(adata, um_per_px=…)`, and use the result."
        )
        raise ValueError(msg)


def not_lazy(adata: AnnData) -> None:
    """Refuse an AnnData of `anndata.experimental.read_lazy`, into which nothing can be written."""
    if not isinstance(adata.obs, pd.DataFrame):
        msg = (
            "The AnnData was read lazily, and results are written into the AnnData that is given. Load it first, "
            "`adata = adata.to_memory()`, or make an object of it: `stp.io.from_anndata(adata)`."
        )
        raise TypeError(msg)
