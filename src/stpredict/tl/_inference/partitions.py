"""Compute any range of positions of a `PredictionPlan`: read patches, apply the predictor, give arrays by name."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ... import _keys as keys
from ..._train.batches import BatchLimit, gather, to_device
from ..._train.color import color_statistics
from ..._train.data import read_pieces
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
    from .._options import PredictOptions
    from .._predictor.predictor import Predictor
    from .plan import PredictionPlan

X = "X"
"""Name of the predicted matrix, as in AnnData."""


def predict_positions(
    plan: PredictionPlan, predictor: Predictor, start: int, stop: int
) -> Iterator[dict[str, NDArray[Any]]]:
    """Predict a range of positions as consecutive pieces of `output_columns`, reading one while another is computed."""
    options = plan.options
    fabric = options.fabric()
    limit = BatchLimit.of(options.batch_size, fabric.device)
    spot_share = predictor.provenance["diameter_um"] / predictor.patch.fov_um[0]
    pieces = (
        (replace(piece, spots=to_device(piece.spots, fabric.device)), inside)
        for piece, inside in read_positions(plan, predictor, start, stop)
    )
    with prefetch(pieces) as prefetched:
        for piece, inside in prefetched:
            expression = _expression(piece.spots, predictor, fabric, limit, options)
            patches = gather(piece.spots, inside).patches
            values: dict[str, NDArray[Any]] = {name: matrix[inside] for name, matrix in expression.items()}
            if predictor.image_range is not None:
                statistics = image_statistics(patches, spot_share)
                values[keys.IMAGE_DISTANCE] = predictor.image_range.distances(statistics)
            values[keys.AT_BORDER] = piece.flagged[inside]
            values[keys.COLOR] = color_statistics(patches, spot_share)
            yield values


def read_positions(plan: PredictionPlan, predictor: Predictor, start: int, stop: int) -> Iterator[tuple[Piece, slice]]:
    """Read spots in pieces that the model sees together, each with the slice of it that lies in the range."""
    if predictor.model_config.context == "slide":
        return _read_windows(plan, predictor.patch, start, stop)
    return _read_spots(plan, predictor.patch, start, stop)


def output_columns(predictor: Predictor, options: PredictOptions) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape per spot and dtype of every array that is computed, by name."""
    real = np.dtype(np.float32)
    return {
        **{name: ((len(predictor.genes),), real) for name in matrix_names(options)},
        **({} if predictor.image_range is None else {keys.IMAGE_DISTANCE: ((), real)}),
        keys.AT_BORDER: ((), np.dtype(bool)),
        keys.COLOR: ((predictor.ridge_color.shape[1] - 1,), real),
    }


def matrix_names(options: PredictOptions) -> tuple[str, ...]:
    """Names of the arrays with one value per spot and gene, ``"X"`` first."""
    return (X,) if options.uncertainty is None else (X, keys.LOWER, keys.UPPER)


def _read_spots(plan: PredictionPlan, patch: PatchSpec, start: int, stop: int) -> Iterator[tuple[Piece, slice]]:
    for index, slide in enumerate(plan.slides):
        first, last = max(start, plan.starts[index]), min(stop, plan.starts[index + 1])
        if first < last:
            rows = plan.order[first:last] - plan.starts[index]
            for piece in read_pieces(slide, patch, rows=rows, index=index):
                yield _normalize_stain(piece, plan, index), slice(None)


def _read_windows(plan: PredictionPlan, patch: PatchSpec, start: int, stop: int) -> Iterator[tuple[Piece, slice]]:
    """Read windows: a partition of a slide and the spots around it.

    Windows begin at each slide, whatever the range, so that a prediction does not depend on who computes it.
    """
    for index, slide in enumerate(plan.slides):
        begin, end = int(plan.starts[index]), int(plan.starts[index + 1])
        for first in range(begin, end, plan.partition_size):
            last = min(first + plan.partition_size, end)
            inside = slice(max(start, first) - first, min(stop, last) - first)
            if inside.start < inside.stop:
                core = plan.order[first:last] - begin
                rows = np.concatenate([core, nearest_spots_outside(slide.xy_um, core, plan.window_margin)])
                for piece in read_pieces(slide, patch, rows=rows, index=index, piece_bytes=sys.maxsize):
                    yield _normalize_stain(piece, plan, index), inside


def _normalize_stain(piece: Piece, plan: PredictionPlan, index: int) -> Piece:
    if not plan.normalizers:
        return piece
    patches = torch.from_numpy(plan.normalizers[index](piece.spots.patches.numpy()))
    return replace(piece, spots=replace(piece.spots, patches=patches))


def _expression(
    spots: SpotBatch, predictor: Predictor, fabric: Fabric, limit: BatchLimit, options: PredictOptions
) -> dict[str, NDArray[np.float32]]:
    """The prediction, and the bounds of its intervals if they are asked for."""
    calibration = predictor.calibration
    if options.uncertainty is None or calibration is None:
        return {X: predictor(spots, fabric, batch_size=limit, n_views=options.n_views)}
    predicted, spread = predictor.with_spread(spots, fabric, batch_size=limit, n_views=options.n_views)
    quantile = calibration.quantile(options.uncertainty, options.coverage)
    lower, upper = calibration.interval(predicted, spread, quantile)
    return {X: predicted, keys.LOWER: lower, keys.UPPER: upper}
