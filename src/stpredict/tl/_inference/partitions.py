"""Compute any range of positions of a `PredictionPlan`: read patches, apply a task, give arrays by name."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ... import _keys as keys
from ..._train.batches import BatchLimit, gather, to_device
from ..._train.color import color_statistics
from ..._train.data import PIECE_BYTES, read_pieces
from ..._train.prefetch import prefetch
from ..._train.windows import nearest_spots_outside
from .._predictor.ood import image_statistics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lightning_fabric import Fabric
    from numpy.typing import NDArray

    from ..._geometry import PatchSpec
    from ..._train.data import Piece
    from ...models import SpotBatch
    from .._predictor.predictor import Predictor
    from .plan import PredictionPlan

    Columns = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]
    Values = dict[str, NDArray[Any]]

X = "X"
"""Name of the matrix that is computed, as in AnnData."""


class ReadsPatches(Protocol):
    """What decides which patches are read: a predictor, or a task."""

    @property
    def patches(self) -> tuple[PatchSpec, ...]:
        """What is read: one entry for each size of patches."""

    @property
    def uses_windows(self) -> bool:
        """Whether the spots of a window of a slide are computed together."""


class SpotTask(ReadsPatches, Protocol):
    """What is computed for every spot: a prediction, or embeddings."""

    @property
    def function(self) -> str:
        """Public function that computes it, for messages."""

    @property
    def what(self) -> str:
        """What it is, for messages: ``"predictions"``."""

    @property
    def columns_are(self) -> str:
        """What its columns are, for messages: ``"genes"``."""

    @property
    def by(self) -> str:
        """What computes it, for messages: ``"predictor"``."""

    @property
    def hash(self) -> str:
        """Digest of everything about the task that decides the result."""

    def columns(self, plan: PredictionPlan) -> Columns:
        """Shape per spot and dtype of every array that is computed, by name: `X`, ``at_border``, and others."""

    def compute(self, plan: PredictionPlan, piece: Piece, inside: slice, fabric: Fabric, limit: BatchLimit) -> Values:
        """The arrays of some spots, of which those ``inside`` are wanted."""


def compute_positions(plan: PredictionPlan, task: SpotTask, start: int, stop: int) -> Iterator[Values]:
    """Compute a range of positions as consecutive pieces, reading one while another is computed."""
    fabric = plan.options.fabric()
    limit = BatchLimit.of(plan.options.batch_size, fabric.device)
    pieces = (
        (replace(piece, spots=to_device(piece.spots, fabric.device)), inside)
        for piece, inside in read_positions(plan, task, start, stop)
    )
    with prefetch(pieces) as prefetched:
        for piece, inside in prefetched:
            yield task.compute(plan, piece, inside, fabric, limit)


def predict_positions(plan: PredictionPlan, predictor: Predictor, start: int, stop: int) -> Iterator[Values]:
    """Predict a range of positions as consecutive pieces."""
    return compute_positions(plan, PredictionTask(predictor), start, stop)


@dataclass(frozen=True, slots=True)
class PredictionTask:
    """The prediction of a predictor, with its intervals and the appearance of the patches."""

    predictor: Predictor
    function: str = "stp.tl.predict"
    what: str = "predictions"
    columns_are: str = "genes"
    by: str = "predictor"

    @property
    def hash(self) -> str:
        """That of the predictor."""
        return self.predictor.hash

    @property
    def patches(self) -> tuple[PatchSpec, ...]:
        """What is read for all members."""
        return self.predictor.patches

    @property
    def uses_windows(self) -> bool:
        """Whether any member predicts the spots of a window of a slide together."""
        return self.predictor.uses_windows

    def columns(self, plan: PredictionPlan) -> Columns:
        """Shape per spot and dtype of every array that is computed, by name."""
        predictor, real = self.predictor, np.dtype(np.float32)
        return {
            **{name: ((len(predictor.genes),), real) for name in matrix_names(plan)},
            **({} if predictor.image_range is None else {keys.IMAGE_DISTANCE: ((), real)}),
            keys.AT_BORDER: ((), np.dtype(bool)),
            keys.COLOR: ((predictor.ridge_color.shape[1] - 1,), real),
        }

    def compute(self, plan: PredictionPlan, piece: Piece, inside: slice, fabric: Fabric, limit: BatchLimit) -> Values:
        """Predict some spots, of which those ``inside`` are wanted."""
        predictor = self.predictor
        spot_share = predictor.provenance["diameter_um"] / predictor.patch.fov_um[0]
        expression = _expression(piece.spots, predictor, fabric, limit, plan)
        patches = gather(predictor.shared.select(piece.spots, 0), slice(None)).patches[inside]
        values: Values = {name: matrix[inside] for name, matrix in expression.items()}
        if predictor.image_range is not None:
            statistics = image_statistics(patches, spot_share)
            values[keys.IMAGE_DISTANCE] = predictor.image_range.distances(statistics)
        values[keys.AT_BORDER] = piece.flagged[inside]
        values[keys.COLOR] = color_statistics(patches, spot_share)
        return values


def read_positions(plan: PredictionPlan, source: ReadsPatches, start: int, stop: int) -> Iterator[tuple[Piece, slice]]:
    """Read spots in pieces that the model sees together, each with the slice of it that lies in the range."""
    in_windows, patches = source.uses_windows, source.patches
    piece_bytes = sys.maxsize if in_windows else PIECE_BYTES
    for index, rows, inside in (_windows if in_windows else _spots)(plan, start, stop):
        recolor = plan.normalizers[index] if plan.normalizers else None
        for piece in read_pieces(
            plan.slides[index], patches, rows=rows, index=index, piece_bytes=piece_bytes, recolor=recolor
        ):
            yield piece, inside


def matrix_names(plan: PredictionPlan) -> tuple[str, ...]:
    """Names of the arrays with one value per spot and gene (or feature), ``"X"`` first."""
    return (X, *(() if plan.options.uncertainty is None else (keys.LOWER, keys.UPPER)), *plan.models)


def _spots(plan: PredictionPlan, start: int, stop: int) -> Iterator[tuple[int, NDArray[np.intp], slice]]:
    """Number of each slide and its rows in the range, all of which are to be predicted."""
    for index, (begin, end) in enumerate(pairwise(plan.starts)):
        first, last = max(start, begin), min(stop, end)
        if first < last:
            yield index, plan.order[first:last] - begin, slice(None)


def _windows(plan: PredictionPlan, start: int, stop: int) -> Iterator[tuple[int, NDArray[np.intp], slice]]:
    """Number of the slide, rows of a window (a partition and the spots around it), and which of them are in the range.

    Windows begin at each slide, whatever the range, so that a prediction does not depend on who computes it.
    """
    for index, (begin, end) in enumerate(pairwise(plan.starts.tolist())):
        for first in range(begin, end, plan.partition_size):
            last = min(first + plan.partition_size, end)
            inside = slice(max(start, first) - first, min(stop, last) - first)
            if inside.start < inside.stop:
                core = plan.order[first:last] - begin
                around = nearest_spots_outside(plan.slides[index].xy_um, core, plan.window_margin)
                yield index, np.concatenate([core, around]), inside


def _expression(
    spots: SpotBatch, predictor: Predictor, fabric: Fabric, limit: BatchLimit, plan: PredictionPlan
) -> dict[str, NDArray[np.float32]]:
    """The prediction; the bounds of its intervals, and that of each model, if they are asked for."""
    options, calibration = plan.options, predictor.calibration
    spread = options.uncertainty is not None
    found = predictor.predict(
        spots, fabric, batch_size=limit, n_views=options.n_views, spread=spread, appearances=plan.appearances
    )
    values = {X: found.expression, **{name: found.models[name] for name in plan.models}}
    if options.uncertainty is not None and calibration is not None and found.spread is not None:
        quantile = calibration.quantile(options.uncertainty, options.coverage)
        bounds = calibration.interval(found.expression, found.spread, quantile)
        values |= dict(zip((keys.LOWER, keys.UPPER), bounds, strict=True))
    return values
