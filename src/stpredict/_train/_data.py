"""From slides to one batch of all their spots, and which of them are held out.

Pixels come through `_pixels`; slides are taken as they are resolved. Nothing here knows of SpatialData.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from .._checks import training as check
from .._pixels import PatchReader
from ..models import SpotBatch
from ..pp._split import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from .._geometry import PatchSpec
    from .._slides import Slide
    from ._config import FitConfig


def read_spots(
    slides: Sequence[Slide], patch: PatchSpec, *, budget_bytes: int = 1 << 30, progress: bool = True
) -> tuple[SpotBatch, NDArray[np.bool_]]:
    """Read the patches of every spot of some slides.

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
    All spots, slide after slide, on the CPU, and ``(n,)`` whether a window left its image.
    """
    n = sum(len(slide.xy_px) for slide in slides)
    patches = np.empty((n, len(patch.fov_um), 3, patch.size_px, patch.size_px), np.uint8)
    flagged = np.empty(n, bool)
    start = 0
    for slide in tqdm(slides, desc="patches", unit="slide", disable=not progress, leave=False):
        rows = np.s_[start : start + len(slide.xy_px)]
        patches[rows], flagged[rows] = _reader(slide, patch, budget_bytes).read(slide.xy_px)
        start = rows.stop
    batch = SpotBatch(
        patches=torch.from_numpy(patches),
        xy_um=torch.from_numpy(np.concatenate([slide.xy_um for slide in slides]).astype(np.float32)),
        slide=torch.from_numpy(slide_index(slides)),
    )
    return batch, flagged


def read_pieces(
    slide: Slide, patch: PatchSpec, *, n_at_once: int, budget_bytes: int = 1 << 30
) -> Iterator[tuple[SpotBatch, NDArray[np.bool_]]]:
    """Read the patches of one slide, a bounded number of spots at a time.

    Parameters
    ----------
    slide
        The slide.
    patch
        Fields of view and size.
    n_at_once
        Spots whose patches are held in memory.
    budget_bytes
        How much decoded image may be held at a time.

    Yields
    ------
    Consecutive spots, on the CPU, and whether a window left the image.
    """
    reader = _reader(slide, patch, budget_bytes)
    for start in range(0, len(slide.xy_px), n_at_once):
        rows = slice(start, start + n_at_once)
        patches, flagged = reader.read(slide.xy_px[rows])
        batch = SpotBatch(
            patches=torch.from_numpy(patches),
            xy_um=torch.from_numpy(slide.xy_um[rows].astype(np.float32)),
            slide=torch.zeros(len(patches), dtype=torch.int64),
        )
        yield batch, flagged


def _reader(slide: Slide, patch: PatchSpec, budget_bytes: int) -> PatchReader:
    return PatchReader(slide.levels, slide.um_per_px, patch, budget_bytes=budget_bytes, image_key=slide.image_key)


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
        Groups or slides to hold out, in place of a choice.

    Returns
    -------
    The fold.
    """
    groups = sorted({slide.group for slide in slides})
    kind = config.validation
    if kind == "auto":
        kind = "slide" if validate_on is not None or len(groups) > 1 else "block"
    if kind == "none":
        return Fold(held=np.zeros(len(slide_index(slides)), bool), kind=kind, groups=(), leaks=False)
    if kind == "block":
        masks = [blocks(slide.xy_px, seed=config.seed + member) for slide in slides]
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
