"""From slides to the patches of their spots, some at a time or all, and which spots are held out.

Pixels come through `_pixels`; slides are taken as they are resolved. Nothing here knows of SpatialData.
"""

from __future__ import annotations

import math
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from .._checks import training as check
from .._pixels import PatchReader, visiting_order
from ..models import SpotBatch
from ..pp.spatial_blocks import spatial_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from .._geometry import PatchSpec
    from .._slides import Slide
    from .config import FitConfig

PIECE_BYTES = 1 << 25
"""Bytes of patches that are read at a time."""
BUDGET_BYTES = 1 << 30
"""Bytes of decoded image that are held, unless said otherwise."""
READER_SHARE = 4
"""At least one part in so many of a memory budget is for decoded image, the rest for patches."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Piece:
    """Some spots of one slide, read."""

    rows: NDArray[np.intp]
    """``(b,)`` positions of the spots on their slide."""
    spots: SpotBatch
    """The spots, on the CPU."""
    flagged: NDArray[np.bool_]
    """``(b,)`` whether a window left the image or held missing pixels."""


def read_pieces(
    slide: Slide,
    patch: PatchSpec,
    *,
    rows: NDArray[np.intp] | None = None,
    piece_bytes: int = PIECE_BYTES,
    budget_bytes: int = BUDGET_BYTES,
    index: int = 0,
) -> Iterator[Piece]:
    """Read the patches of one slide, a bounded number of spots at a time.

    Parameters
    ----------
    slide
        The slide.
    patch
        Fields of view and size.
    rows
        Which spots, in which order; by default all, as `reading_order` has them.
    piece_bytes
        How many bytes of patches are read at a time; at least one spot is.
    budget_bytes
        How much decoded image may be held at a time.
    index
        What ``SpotBatch.slide`` says.

    Yields
    ------
    Every spot once.
    """
    reader = _reader(slide, patch, budget_bytes)
    order = reader.order(slide.xy_px) if rows is None else rows
    n_at_once = max(1, piece_bytes // spot_bytes(patch))
    for start in range(0, len(order), n_at_once):
        some = order[start : start + n_at_once]
        patches, flagged = reader.read(slide.xy_px[some])
        spots = SpotBatch(
            patches=torch.from_numpy(patches),
            xy_um=torch.from_numpy(slide.xy_um[some].astype(np.float32)),
            slide=torch.full((len(some),), index, dtype=torch.int64),
            features=None if slide.features is None else torch.from_numpy(slide.features[some]),
        )
        yield Piece(rows=some, spots=spots, flagged=flagged)


def reading_order(slide: Slide, patch: PatchSpec, budget_bytes: int = BUDGET_BYTES) -> NDArray[np.intp]:
    """The order of spots in which each part of the image is decoded once.

    Parameters
    ----------
    slide
        The slide.
    patch
        Fields of view and size.
    budget_bytes
        How much decoded image may be held at a time.

    Returns
    -------
    ``(n,)`` positions of the spots on their slide.
    """
    return visiting_order(slide.xy_px, max(patch.fov_um) / slide.um_per_px, budget_bytes)


def read_spots(
    slides: Sequence[Slide], patch: PatchSpec, *, budget_bytes: int = BUDGET_BYTES, progress: bool = True
) -> tuple[SpotBatch, NDArray[np.bool_]]:
    """Read the patches of every spot of some slides into memory.

    Parameters
    ----------
    slides
        The slides; their order gives ``SpotBatch.slide``.
    patch
        Fields of view and size.
    budget_bytes
        How much decoded image may be held at a time.
    progress
        Whether to show a progress bar.

    Returns
    -------
    All spots, slide after slide, on the CPU, and ``(n,)`` whether a window left its image or held missing pixels.
    """
    patches = np.empty((sum(len(slide.xy_px) for slide in slides), *_shape(patch)), np.uint8)

    def put(rows: NDArray[np.intp], read: NDArray[np.uint8]) -> None:
        """Into memory."""
        patches[rows] = read

    flagged = _read_all(slides, patch, put, budget_bytes, progress=progress)
    return _batch(slides, patches), flagged


@contextmanager
def held_spots(
    slides: Sequence[Slide], patch: PatchSpec, *, memory_bytes: int, progress: bool = True
) -> Iterator[tuple[SpotBatch, NDArray[np.bool_]]]:
    """Read the patches of every spot once, into memory if the budget allows, else into a temporary file.

    Parameters
    ----------
    slides
        The slides; their order gives ``SpotBatch.slide``.
    patch
        Fields of view and size.
    memory_bytes
        How much of decoded image and patches may be held in memory. A quarter is kept for the image: patches that need
        more than the rest go to a file, mapped into memory and deleted when the context is left.
    progress
        Whether to show a progress bar.

    Yields
    ------
    What `read_spots` returns.

    Raises
    ------
    OSError
        If the file does not fit the disk.
    """
    shape = (sum(len(slide.xy_px) for slide in slides), *_shape(patch))
    left = memory_bytes - math.prod(shape)
    if left >= memory_bytes // READER_SHARE:
        yield read_spots(slides, patch, budget_bytes=left, progress=progress)
        return
    with TemporaryDirectory(prefix="stpredict-", ignore_cleanup_errors=True) as folder:
        check.disk_holds(math.prod(shape), shutil.disk_usage(folder).free, folder)
        flagged = _read_to_file(slides, patch, Path(folder) / "patches", memory_bytes, progress=progress)
        patches = np.memmap(Path(folder) / "patches", np.uint8, mode="c", shape=shape)
        yield _batch(slides, patches), flagged


def _read_to_file(
    slides: Sequence[Slide], patch: PatchSpec, path: Path, budget_bytes: int, *, progress: bool
) -> NDArray[np.bool_]:
    """Write patches, not map them: where a disk fills up, a write raises, but a map kills the process."""
    with path.open("wb", buffering=0) as file:

        def put(rows: NDArray[np.intp], read: NDArray[np.uint8]) -> None:
            """Into the file."""
            try:
                for row, each in zip(rows.tolist(), read, strict=True):
                    file.seek(row * each.nbytes)
                    left = each.reshape(-1).data
                    while left:  # a disk that is nearly full takes a part
                        left = left[file.write(left) :]
            except OSError as error:
                check.not_spilled(str(path.parent), error)

        return _read_all(slides, patch, put, budget_bytes, progress=progress)


def _read_all(
    slides: Sequence[Slide],
    patch: PatchSpec,
    put: Callable[[NDArray[np.intp], NDArray[np.uint8]], None],
    budget_bytes: int,
    *,
    progress: bool,
) -> NDArray[np.bool_]:
    """Hand every patch over with its position among all spots; returns which are flagged."""
    flagged = np.empty(sum(len(slide.xy_px) for slide in slides), bool)
    start = 0
    with tqdm(total=len(flagged), desc="patches", unit="spot", disable=not progress, leave=False) as bar:
        for slide in slides:
            for piece in read_pieces(slide, patch, budget_bytes=budget_bytes):
                put(start + piece.rows, piece.spots.patches.numpy())
                flagged[start + piece.rows] = piece.flagged
                bar.update(len(piece.rows))
            start += len(slide.xy_px)
    return flagged


def _batch(slides: Sequence[Slide], patches: NDArray[np.uint8]) -> SpotBatch:
    groups = {name: i for i, name in enumerate(sorted({slide.group for slide in slides}))}
    index, given = slide_index(slides), [slide.features for slide in slides if slide.features is not None]
    return SpotBatch(
        patches=torch.from_numpy(patches),
        xy_um=torch.from_numpy(np.concatenate([slide.xy_um for slide in slides]).astype(np.float32)),
        slide=torch.from_numpy(index),
        group=torch.tensor([groups[slide.group] for slide in slides])[torch.from_numpy(index)],
        features=torch.from_numpy(np.concatenate(given)) if given else None,
    )


def _shape(patch: PatchSpec) -> tuple[int, int, int, int]:
    return len(patch.fov_um), 3, patch.size_px, patch.size_px


def spot_bytes(patch: PatchSpec) -> int:
    """How much memory the patches of one spot take.

    Parameters
    ----------
    patch
        Fields of view and size.

    Returns
    -------
    Bytes.
    """
    return math.prod(_shape(patch))


def _reader(slide: Slide, patch: PatchSpec, budget_bytes: int) -> PatchReader:
    return PatchReader(
        slide.levels,
        slide.um_per_px,
        patch,
        axes=slide.axes,
        budget_bytes=budget_bytes,
        image_key=slide.image_key,
    )


def slide_index(slides: Sequence[Slide]) -> NDArray[np.int64]:
    """Which slide each spot lies on.

    Parameters
    ----------
    slides
        The slides.

    Returns
    -------
    ``(n,)``, slide after slide.
    """
    return np.repeat(np.arange(len(slides)), [len(slide.xy_px) for slide in slides])


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """Which spots one member of a predictor is validated on."""

    held: NDArray[np.bool_]
    """``(n,)`` True where a spot is held out."""
    kind: str
    """``"slide"``, ``"block"`` or ``"none"``."""
    groups: tuple[str, ...]
    """Groups that are held out; empty for blocks."""
    leaks: bool
    """Whether a validation group, or a validation slide, is also trained on."""


def fold(slides: Sequence[Slide], config: FitConfig, member: int, validate_on: Sequence[str] | None = None) -> Fold:
    """Choose the validation spots of one member.

    Parameters
    ----------
    slides
        All slides given to training.
    config
        ``validation``, ``allow_leakage`` and ``seed`` matter.
    member
        Number of the member: members rotate through the groups.
    validate_on
        Groups or slides to hold out, whatever ``validation`` says.

    Returns
    -------
    The fold.
    """
    groups = sorted({slide.group for slide in slides})
    kind = config.validation if validate_on is None else "slide"
    if kind == "auto":
        kind = "slide" if len(groups) > 1 or (config.allow_leakage and len(slides) > 1) else "block"
    if kind == "none":
        return Fold(held=np.zeros(len(slide_index(slides)), bool), kind=kind, groups=(), leaks=False)
    if kind == "block":
        masks = [spatial_blocks(slide.xy_px, seed=config.seed + member) for slide in slides]
        return Fold(held=np.concatenate(masks), kind=kind, groups=(), leaks=True)
    held = _held_slides(slides, groups, config, member, validate_on)
    trained = {slide.group for slide, out in zip(slides, held, strict=True) if not out}
    out_groups = tuple(sorted({slide.group for slide, out in zip(slides, held, strict=True) if out}))
    shared = sorted(trained & set(out_groups))
    check.no_leak(shared, allowed=config.allow_leakage)
    check.something_trained(sum(not out for out in held), len(slides))
    return Fold(held=held[slide_index(slides)], kind=kind, groups=out_groups, leaks=bool(shared))


def _held_slides(
    slides: Sequence[Slide], groups: Sequence[str], config: FitConfig, member: int, validate_on: Sequence[str] | None
) -> NDArray[np.bool_]:
    if validate_on is not None:
        names = {slide.name for slide in slides} | set(groups)
        check.known_names(validate_on, sorted(names))
        return np.array([slide.name in validate_on or slide.group in validate_on for slide in slides])
    if len(groups) > 1:
        chosen = groups[(len(groups) - 1 - member - config.seed) % len(groups)]
        return np.array([slide.group == chosen for slide in slides])
    check.several_slides(len(slides))
    chosen = slides[(len(slides) - 1 - member - config.seed) % len(slides)].name
    return np.array([slide.name == chosen for slide in slides])
