"""From slides to the patches of their spots, in pieces or all at once, and the validation spots of each member.

Pixels are read through `_pixels`. Nothing here knows SpatialData.
"""

from __future__ import annotations

import math
import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .._geometry import PatchSpec
from .._pixels import PatchReader, visiting_order
from .._progress import progress_bar
from ..models import SpotBatch
from ..pp.spatial_blocks import spatial_blocks
from . import _errors
from .shared import SharedSpots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from .._slides.slides import Slide
    from ..pp.stain_normalization import StainNormalizer
    from .config import FitConfig

    Patches = PatchSpec | Sequence[PatchSpec]
    Store = Callable[[NDArray[np.intp], Sequence[NDArray[np.uint8]]], None]

PIECE_BYTES = 1 << 25
"""Bytes of patches that are read at a time."""
BUDGET_BYTES = 1 << 30
"""Default limit of decoded image in memory, in bytes."""
READER_SHARE = 4
"""At least 1/4 of a memory budget is for decoded image, the rest for patches."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Piece:
    """Some spots of one slide with their patches, on the CPU."""

    rows: NDArray[np.intp]
    """``(b,)`` positions of the spots on their slide."""
    spots: SpotBatch
    flagged: NDArray[np.bool_]
    """``(b,)`` whether a patch left the image or held missing pixels."""


def read_pieces(
    slide: Slide,
    patches: Patches,
    *,
    rows: NDArray[np.intp] | None = None,
    piece_bytes: int = PIECE_BYTES,
    budget_bytes: int = BUDGET_BYTES,
    index: int = 0,
    recolor: StainNormalizer | None = None,
) -> Iterator[Piece]:
    """Read the patches of ``rows``, by default of all spots in `reading_order`; ``index`` is their slide's number.

    Patches of several sizes are cut from the same decoded chunks. ``recolor`` is a stain normalisation of the patches.
    """
    readers: list[PatchReader] = []
    for patch in _patch_specs(patches):
        reader = PatchReader(
            slide.levels,
            slide.um_per_px,
            patch,
            axes=slide.axes,
            budget_bytes=budget_bytes,
            image_key=slide.image_key,
            chunks=readers[0].chunks if readers else None,
        )
        readers.append(reader)
    widest = max(readers, key=lambda reader: float(reader.sides_px.max()))
    order = widest.order(slide.xy_px) if rows is None else rows
    piece_size = max(1, piece_bytes // spot_bytes(patches))
    for start in range(0, len(order), piece_size):
        some = order[start : start + piece_size]
        read, flagged = zip(*(reader.read(slide.xy_px[some]) for reader in readers), strict=True)
        spots = _batch(
            [torch.from_numpy(each if recolor is None else recolor(each)) for each in read],
            xy_um=torch.from_numpy(slide.xy_um[some].astype(np.float32)),
            slide=torch.full((len(some),), index, dtype=torch.int64),
            features=None if slide.features is None else torch.from_numpy(slide.features[some]),
        )
        yield Piece(rows=some, spots=spots, flagged=np.logical_or.reduce(flagged))


def map_slides(
    compute: Callable[[Tensor], NDArray[np.float32]],
    slides: Sequence[Slide],
    patches: Sequence[PatchSpec],
    *,
    progress: bool,
) -> NDArray[np.float32]:
    """Results for the patches of all spots of all slides, in their order; each slide has its own patch."""
    found, n_spots = [], sum(len(slide.xy_px) for slide in slides)
    with progress_bar(total=n_spots, desc="patches", unit="spot", progress=progress) as bar:
        for slide, patch in zip(slides, patches, strict=True):
            order, parts = [], []
            for piece in read_pieces(slide, patch):
                order.append(piece.rows)
                parts.append(compute(piece.spots.patches))
                bar.update(len(piece.rows))
            found.append(np.concatenate(parts)[np.argsort(np.concatenate(order))])
    return np.concatenate(found)


def reading_order(slide: Slide, patches: Patches, budget_bytes: int = BUDGET_BYTES) -> NDArray[np.intp]:
    """Order of the spots in which each part of the image is decoded once."""
    widest = max(max(patch.fov_um) for patch in _patch_specs(patches))
    return visiting_order(slide.xy_px, widest / slide.um_per_px, budget_bytes)


def read_spots(
    slides: Sequence[Slide], patches: Patches, *, budget_bytes: int = BUDGET_BYTES, progress: bool = True
) -> tuple[SpotBatch, NDArray[np.bool_]]:
    """Read the patches of all spots into memory, slide after slide; also return which are flagged (see `Piece`)."""
    arrays = [np.empty(shape, np.uint8) for shape in _shapes(slides, patches)]

    def store(rows: NDArray[np.intp], read: Sequence[NDArray[np.uint8]]) -> None:
        """Store patches in memory."""
        for array, each in zip(arrays, read, strict=True):
            array[rows] = each

    flagged = _read_all(slides, patches, store, budget_bytes, progress=progress)
    return _spot_batch(slides, arrays), flagged


@contextmanager
def open_spots(
    slides: Sequence[Slide], patches: Patches, *, memory_bytes: int, progress: bool = True
) -> Iterator[tuple[SpotBatch, NDArray[np.bool_]]]:
    """Read the patches of all spots, as `read_spots` does, into memory or into temporary memory-mapped files.

    Patches go to files if they need more than the budget without the part that is kept for decoded image.
    """
    shapes = _shapes(slides, patches)
    n_bytes = sum(map(math.prod, shapes))
    left = memory_bytes - n_bytes
    if left >= memory_bytes // READER_SHARE:
        yield read_spots(slides, patches, budget_bytes=left, progress=progress)
        return
    with TemporaryDirectory(prefix="stpredict-", ignore_cleanup_errors=True) as folder:
        _errors.check_disk_space(n_bytes, shutil.disk_usage(folder).free, folder)
        paths = [Path(folder) / f"patches{i}" for i in range(len(shapes))]
        flagged = _read_to_files(slides, patches, paths, memory_bytes, progress=progress)
        maps = [np.memmap(path, np.uint8, mode="c", shape=shape) for path, shape in zip(paths, shapes, strict=True)]
        yield _spot_batch(slides, maps), flagged


def _read_to_files(
    slides: Sequence[Slide], patches: Patches, paths: Sequence[Path], budget_bytes: int, *, progress: bool
) -> NDArray[np.bool_]:
    """Write patches to files, not through a map: on a full disk a write raises, but a map kills the process."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("wb", buffering=0)) for path in paths]

        def store(rows: NDArray[np.intp], read: Sequence[NDArray[np.uint8]]) -> None:
            """Store patches in the files."""
            try:
                for file, some in zip(files, read, strict=True):
                    for row, each in zip(rows.tolist(), some, strict=True):
                        file.seek(row * each.nbytes)
                        left = each.reshape(-1).data
                        while left:  # a disk that is nearly full takes a part
                            left = left[file.write(left) :]
            except OSError as error:
                _errors.patches_not_written(str(paths[0].parent), error)

        return _read_all(slides, patches, store, budget_bytes, progress=progress)


def _read_all(
    slides: Sequence[Slide], patches: Patches, store: Store, budget_bytes: int, *, progress: bool
) -> NDArray[np.bool_]:
    """Pass all patches to ``store`` with their positions among all spots; return which are flagged."""
    flagged = np.empty(sum(len(slide.xy_px) for slide in slides), bool)
    start = 0
    with progress_bar(total=len(flagged), desc="patches", unit="spot", progress=progress, leave=False) as bar:
        for slide in slides:
            for piece in read_pieces(slide, patches, budget_bytes=budget_bytes):
                more = piece.spots.more if isinstance(piece.spots, SharedSpots) else ()
                store(start + piece.rows, [each.numpy() for each in (piece.spots.patches, *more)])
                flagged[start + piece.rows] = piece.flagged
                bar.update(len(piece.rows))
            start += len(slide.xy_px)
    return flagged


def _spot_batch(slides: Sequence[Slide], patches: Sequence[NDArray[np.uint8]]) -> SpotBatch:
    groups = {name: i for i, name in enumerate(sorted({slide.group for slide in slides}))}
    index, features = slide_index(slides), [slide.features for slide in slides if slide.features is not None]
    return _batch(
        [torch.from_numpy(each) for each in patches],
        xy_um=torch.from_numpy(np.concatenate([slide.xy_um for slide in slides]).astype(np.float32)),
        slide=torch.from_numpy(index),
        group=torch.tensor([groups[slide.group] for slide in slides])[torch.from_numpy(index)],
        features=torch.from_numpy(np.concatenate(features)) if features else None,
    )


def _batch(patches: Sequence[Tensor], **values: Any) -> SpotBatch:
    """A batch of spots with patches of one size, or of several."""
    first, *more = patches
    return SharedSpots(patches=first, more=tuple(more), **values) if more else SpotBatch(patches=first, **values)


def _patch_specs(patches: Patches) -> Sequence[PatchSpec]:
    return [patches] if isinstance(patches, PatchSpec) else patches


def _patch_shape(patch: PatchSpec) -> tuple[int, int, int, int]:
    return len(patch.fov_um), 3, patch.size_px, patch.size_px


def _shapes(slides: Sequence[Slide], patches: Patches) -> list[tuple[int, ...]]:
    """Shapes of the patches of all spots, one for each size."""
    return [(sum(len(slide.xy_px) for slide in slides), *_patch_shape(patch)) for patch in _patch_specs(patches)]


def spot_bytes(patches: Patches) -> int:
    """Bytes of the patches of one spot."""
    return sum(math.prod(_patch_shape(patch)) for patch in _patch_specs(patches))


def slide_index(slides: Sequence[Slide]) -> NDArray[np.int64]:
    """Slide of each spot, slide after slide."""
    return np.repeat(np.arange(len(slides)), [len(slide.xy_px) for slide in slides])


@dataclass(frozen=True, kw_only=True, slots=True)
class Fold:
    """The validation spots of one member."""

    held_out: NDArray[np.bool_]
    """``(n,)`` True where a spot is held out."""
    kind: str
    """``"slide"``, ``"block"`` or ``"none"``."""
    groups: tuple[str, ...]
    """Groups that are held out; empty for blocks."""
    leaks: bool
    """Whether a validation group, or a validation slide, is also trained on."""


def validation_fold(
    slides: Sequence[Slide], config: FitConfig, member: int, validate_on: Sequence[str] | None = None
) -> Fold:
    """Choose the validation spots of one member; members rotate through the groups."""
    groups = sorted({slide.group for slide in slides})
    kind = config.validation if validate_on is None else "slide"
    if kind == "auto":
        kind = "slide" if len(groups) > 1 or (config.allow_leakage and len(slides) > 1) else "block"
    if kind == "none":
        return Fold(held_out=np.zeros(len(slide_index(slides)), bool), kind=kind, groups=(), leaks=False)
    if kind == "block":
        masks = [spatial_blocks(slide.xy_px, seed=config.seed + member) for slide in slides]
        return Fold(held_out=np.concatenate(masks), kind=kind, groups=(), leaks=True)
    held_out = _held_out_slides(slides, groups, config, member, validate_on)
    trained = {slide.group for slide, out in zip(slides, held_out, strict=True) if not out}
    validated = tuple(sorted({slide.group for slide, out in zip(slides, held_out, strict=True) if out}))
    shared = sorted(trained & set(validated))
    _errors.check_leakage(shared, allowed=config.allow_leakage)
    _errors.check_some_training(sum(not out for out in held_out), len(slides))
    return Fold(held_out=held_out[slide_index(slides)], kind=kind, groups=validated, leaks=bool(shared))


def _held_out_slides(
    slides: Sequence[Slide], groups: Sequence[str], config: FitConfig, member: int, validate_on: Sequence[str] | None
) -> NDArray[np.bool_]:
    if validate_on is not None:
        if not isinstance(validate_on, str):
            validate_on = [str(name) for name in validate_on]  # patients may be numbers
        _errors.check_validate_on(validate_on, sorted({slide.name for slide in slides} | set(groups)))
        return np.array([slide.name in validate_on or slide.group in validate_on for slide in slides])
    if len(groups) > 1:
        chosen = groups[(len(groups) - 1 - member - config.seed) % len(groups)]
        return np.array([slide.group == chosen for slide in slides])
    _errors.check_several_slides(len(slides))
    chosen = slides[(len(slides) - 1 - member - config.seed) % len(slides)].name
    return np.array([slide.name == chosen for slide in slides])
