"""What is computed as a plan: which spots, in which order, with which options. `partitions` computes it."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._checks.training import warn
from ..._pixels import PATCH_VERSION
from ..._slides.embeddings import EmbeddingRecord, check_same_embeddings
from ..._train.data import reading_order
from ...models.model_config import uses_embeddings
from .._errors import embeddings_fit
from .._predictor.appearance import measure_appearance
from .._predictor.stain import stain_normalizers
from .._training.plan import slide_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..._geometry import PatchSpec
    from ..._slides.slides import Slide
    from ...pp.stain_normalization import StainNormalizer
    from .._options import PredictOptions
    from .._predictor.appearance import SlideAppearance
    from .._predictor.conformal import Calibration
    from .._predictor.predictor import Predictor
    from .partitions import SpotTask

PARTITION_SIZE = 1024
"""Spots that are computed and written together."""
WINDOW_MARGIN = 256
"""Most spots around a partition that a model of context ``"slide"`` sees too."""
OUTPUT_VERSION = 2
"""Version of the values that are written; since 2 none is below 0. Results of different versions are not mixed."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PredictionPlan:
    """Spots of some slides in reading order; a position is an index into this order.

    Small enough to be sent to other processes if the images are files.
    """

    slides: tuple[Slide, ...]
    """The slides, without their SpatialData objects."""
    order: NDArray[np.intp]
    """``(n,)`` row of the spot at each position; rows count through all slides, and slides stay contiguous."""
    starts: NDArray[np.intp]
    """``(n_slides + 1,)`` first row of each slide, which is its first position too, and the number of all spots."""
    options: PredictOptions
    models: tuple[str, ...] = ()
    """Models of the ensemble whose predictions are written too."""
    normalizers: tuple[StainNormalizer, ...] = ()
    """Stain normalisation of each slide for all members; empty unless it was asked for."""
    appearances: tuple[SlideAppearance, ...] = ()
    """Stain and moments of each slide, for the members that use them."""
    partition_size: int = PARTITION_SIZE
    """Spots per partition."""
    window_margin: int = WINDOW_MARGIN
    """Spots around a partition that a model of context ``"slide"`` sees too."""

    @classmethod
    def of_patches(
        cls, slides: Sequence[Slide], patches: Sequence[PatchSpec], options: PredictOptions
    ) -> PredictionPlan:
        """Plan to compute something from patches as they were scanned."""
        starts = np.cumsum([0, *(len(slide.xy_px) for slide in slides)])
        orders = [start + reading_order(slide, patches) for start, slide in zip(starts[:-1], slides, strict=True)]
        return cls(
            slides=tuple(slide.without_counts() for slide in slides),
            order=np.concatenate(orders),
            starts=starts,
            options=options,
            partition_size=PARTITION_SIZE,
            window_margin=WINDOW_MARGIN,
        )

    @classmethod
    def of(cls, slides: Sequence[Slide], predictor: Predictor, options: PredictOptions) -> PredictionPlan:
        """Plan the prediction of some slides."""
        options = _calibrated_options(options, predictor.calibration)
        normalizers = stain_normalizers(slides, predictor.provenance, options.stain) if options.stain else []
        appearances = [
            measure_appearance(slide, predictor, options.fabric, recolor=normalizers[i] if normalizers else None)
            for i, slide in enumerate(slides)
        ]
        return replace(
            cls.of_patches(slides, predictor.patches, options),
            models=tuple(predictor.models) if options.members else (),
            normalizers=tuple(normalizers),
            appearances=tuple(appearances),
        )

    @property
    def n_partitions(self) -> int:
        """Number of partitions; the last one may be smaller."""
        return -(-len(self.order) // self.partition_size)

    def fingerprint(self, task: SpotTask) -> str:
        """Digest of everything but the pixels that decides the result; a store with another one is not resumed."""
        parts: list[Any] = [task.hash, self.options.n_views, self.partition_size, ("outputs", OUTPUT_VERSION)]
        parts += [(slide_digest(slide), slide.um_per_px, slide.levels[0].pixels.shape) for slide in self.slides]
        parts += [hashlib.sha256(normalizer.table.tobytes()).hexdigest() for normalizer in self.normalizers]
        if self.options.uncertainty is not None:
            parts += [self.options.uncertainty, self.options.coverage]
        if self.models:
            parts.append(("models", self.models))
        if PATCH_VERSION != 1:  # version 1 is left out, so that stores written before there was a version resume
            parts.append(("patches", PATCH_VERSION))
        return hashlib.sha256(repr(parts).encode() + self.order.tobytes()).hexdigest()[:16]


def check_embeddings(predictor: Predictor, slides: Sequence[Slide]) -> None:
    """Refuse embeddings that no member takes, their absence if a member needs them, and others than trained on."""
    trained_on = [EmbeddingRecord.from_json(record) for record in predictor.provenance.features]
    for slide in slides:
        known = [record for record in slide.features_record if record.encoders]
        if known:
            check_same_embeddings(slide.features_record, trained_on, slide.name, "the predictor was trained on")
        _check_width(predictor, slide)


def _check_width(predictor: Predictor, slide: Slide) -> None:
    width = None if slide.features is None else slide.features.shape[1]
    configs = {member.model: member.network.config for member in predictor.members}
    taking = {model: config for model, config in configs.items() if uses_embeddings(config)}
    for model, config in taking.items():
        embeddings_fit(model, asdict(config), width, takes=True)
    if not taking:
        embeddings_fit(predictor.model, {}, width, takes=False)


def _calibrated_options(options: PredictOptions, calibration: Calibration | None) -> PredictOptions:
    """The options with the number of views of the calibration, if intervals are asked for."""
    if options.uncertainty is None:
        return options
    if calibration is None:
        msg = (
            "This predictor was not calibrated: it was trained without validation, or by an older version. Calibrate "
            "it on slides that it was not trained on with `stp.tl.calibrate`, or train it again with groups held out "
            "(`stp.tl.FitConfig(validation='slide', n_members=2)`)."
        )
        raise ValueError(msg)
    calibration.quantile(options.uncertainty, options.coverage)  # an error if it has too few spots
    record = calibration.record
    if record["leaks"]:
        warn(
            f"Intervals were calibrated on {record['kind']} of slides that were also trained on: on new slides they "
            "will cover less than they say. Calibrate on others with `stp.tl.calibrate`."
        )
    if record["stain"] != options.stain:
        warn(
            f"Intervals were calibrated with `stain={record['stain']!r}`, and `stain` is {options.stain!r}. Calibrate "
            "with the same by `stp.tl.calibrate`."
        )
    return replace(options, n_views=calibration.n_views)
