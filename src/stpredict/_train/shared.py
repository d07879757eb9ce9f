"""Patches that several models share: every field of view is read once, and each model takes its own scales.

Tensors only. `data` reads what `SharedPatches` asks for.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from .._geometry import PatchSpec
from ..models.contract import SpotBatch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


@dataclass(kw_only=True, slots=True)
class SharedSpots(SpotBatch):
    """Spots with patches of several sizes: ``patches`` of the first, ``more`` of the others."""

    more: tuple[Tensor, ...]
    """``(b, s, 3, p, p)`` each."""


@dataclass(kw_only=True, slots=True)
class ScaleSubset(SpotBatch):
    """Spots of whose patches a model takes some scales; `batches.gather` selects them, batch by batch."""

    scales: tuple[int, ...]
    """Positions of these scales in ``patches``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SharedPatches:
    """What is read for several models, and which part of it is whose."""

    read: tuple[PatchSpec, ...]
    """What is read: one entry for each size of patches, with the fields of view of all models."""
    parts: tuple[tuple[int, tuple[int, ...]], ...]
    """For each model the entry of ``read``, and its scales in it."""

    @classmethod
    def of(cls, wanted: Sequence[PatchSpec]) -> SharedPatches:
        """Merge the patches of several models."""
        sides: dict[tuple[int, str], set[float]] = {}
        for patch in wanted:
            sides.setdefault((patch.size_px, patch.fill), set()).update(patch.fov_um)
        kinds = list(sides)
        read = tuple(
            PatchSpec(fov_um=tuple(sorted(fov_um)), size_px=size_px, fill=fill)  # type: ignore[arg-type]
            for (size_px, fill), fov_um in sides.items()
        )
        entries = [kinds.index((patch.size_px, patch.fill)) for patch in wanted]
        parts = tuple(
            (entry, tuple(read[entry].fov_um.index(fov) for fov in patch.fov_um))
            for entry, patch in zip(entries, wanted, strict=True)
        )
        return cls(read=read, parts=parts)

    def select(self, spots: SpotBatch, model: int, *, embeddings: bool = True) -> SpotBatch:
        """The spots with the patches of one model; nothing is copied. ``embeddings``: whether it takes those given."""
        entry, scales = self.parts[model]
        values = {each.name: getattr(spots, each.name) for each in fields(SpotBatch)}
        if isinstance(spots, SharedSpots):
            values["patches"] = (spots.patches, *spots.more)[entry]
        if not embeddings:
            values["features"] = None
        if len(scales) == len(self.read[entry].fov_um):
            return SpotBatch(**values)
        return ScaleSubset(**values, scales=scales)
