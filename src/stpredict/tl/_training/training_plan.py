"""One training run: everything that is decided before the first patch is read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._train.data import slide_index
from ...models import config_to_dict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..._geometry import PatchSpec
    from ..._slides import Slide
    from ..._train.config import FitConfig
    from ..._train.data import Fold
    from ...models import ModelConfig
    from ...pp import TargetSpec

PLACED = {"accelerator", "devices", "num_nodes", "strategy", "precision", "memory_bytes", "progress"}
"""Options that say where and how a run computes, but not what."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Run:
    """What a training run is given."""

    slides: Sequence[Slide]
    """Training slides, without empty spots."""
    panel: Sequence[str]
    """Genes."""
    model: str
    """Name of the model."""
    shape: ModelConfig
    """Its configuration."""
    patch: PatchSpec
    """Fields of view."""
    target: TargetSpec
    """How counts are normalised."""
    config: FitConfig
    """How to train."""
    folds: Sequence[Fold]
    """What every member holds out."""
    unlabelled: Sequence[Slide] = ()
    """Slides of whose spots a teacher says what its student learns."""
    rounds: int = 0
    """How many students follow the first network."""

    @property
    def slide_index(self) -> NDArray[np.int64]:
        """``(n,)`` which slide each spot lies on."""
        return slide_index(self.slides)

    @property
    def diameter_um(self) -> float:
        """Median spot diameter of the slides, in µm."""
        return float(np.median([slide.diameter_um for slide in self.slides]))

    @property
    def self_training(self) -> dict[str, Any]:
        """What is learnt of spots without counts, by name; empty where nothing is."""
        if not self.unlabelled:
            return {}
        slides = {each.name: {"n_spots": len(each.xy_px), "sha256": digest(each)} for each in self.unlabelled}
        return {"self_training": {"rounds": self.rounds, "slides": slides}}

    def values(self) -> dict[str, Any]:
        """What decides the outcome, by name: a resumed run must agree in all of it.

        Returns
        -------
        Values that JSON takes.
        """
        return {
            "slides": {slide.name: digest(slide) for slide in self.slides},
            "genes": list(self.panel),
            "model": self.model,
            "model_options": config_to_dict(self.shape),
            "patch": self.patch.to_dict(),
            "target": self.target.to_dict(),
            "config": {name: value for name, value in self.config.to_dict().items() if name not in PLACED},
            "validation": [hashlib.sha256(np.packbits(f.held).tobytes()).hexdigest()[:16] for f in self.folds],
            **self.self_training,
        }


def digest(slide: Slide) -> str:
    """Digest of what a slide contributes, but for its pixels: spots, counts and embeddings.

    Parameters
    ----------
    slide
        The slide.

    Returns
    -------
    16 hexadecimal digits.
    """
    found = hashlib.sha256(np.round(slide.xy_um, 3).tobytes())
    if slide.counts is not None:
        found.update(np.asarray(slide.counts.sum(axis=0), np.float64).tobytes())
        found.update(np.asarray(slide.counts.sum(axis=1), np.float64).tobytes())
    if slide.features is not None:
        found.update(np.ascontiguousarray(slide.features).tobytes())
    return found.hexdigest()[:16]
