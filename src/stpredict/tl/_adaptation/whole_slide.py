"""Predict all spots of one slide, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..._progress import progress_bar
from .._inference.partitions import PredictionTask, X, predict_positions
from .._inference.plan import PredictionPlan, check_embeddings
from .._inference.sinks import MemorySink
from .._predictor.provenance import warn_unseen_resolution

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..._slides.slides import Slide
    from .._options import PredictOptions
    from .._predictor.predictor import Predictor


def predict_slide(slide: Slide, predictor: Predictor, options: PredictOptions, *, progress: bool) -> dict[str, Any]:
    """What `predict` computes for every spot of a slide, by name, in the order of its spots."""
    check_embeddings(predictor, [slide])
    warn_unseen_resolution(slide.um_per_px, predictor.provenance.slides, slide.name)
    plan = PredictionPlan.of([slide], predictor, options)
    sink = MemorySink.of(plan, PredictionTask(predictor))

    def pieces() -> Iterator[dict[str, Any]]:
        with progress_bar(total=len(plan.order), desc=f"predict {slide.name}", unit="spot", progress=progress) as bar:
            for piece in predict_positions(plan, predictor, 0, len(plan.order)):
                yield piece
                bar.update(len(piece[X]))

    sink.write(0, pieces())
    return sink.values()
