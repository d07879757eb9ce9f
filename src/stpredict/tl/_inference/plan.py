"""A prediction as a plan: which spots, in which order, in which settings; and any stretch of it, computed."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ... import _keys as keys
from ..._train.batches import BatchLimit, gather, to_device
from ..._train.color import color_statistics
from ..._train.config import FitConfig
from ..._train.data import read_pieces, reading_order
from ..._train.device import make_fabric
from ..._train.prefetch import prefetch
from ..._train.windows import nearest_spots_outside
from .._predictor.ood import image_statistics
from .._predictor.stain import stain_normalizers
from .._training.plan import slide_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from torch import Tensor

    from ..._geometry import PatchSpec
    from ..._slides import Slide
    from ..._train.data import Piece
    from ...models import SpotBatch
    from ...pp.stain_normalization import StainMethod, StainNormalizer
    from .._predictor.conformal import Uncertainty
    from .._predictor.predictor import Predictor

PARTITION = 1024
"""Spots that are written, or sent to another process, at a time."""
AROUND = 256
"""Spots around a partition that a model of context ``"slide"`` sees besides, at most."""
X = "X"
"""Name of the matrix, as AnnData has it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """How to predict: what does not follow from slides and predictor."""

    n_views: int = 1
    """Flips and turns of the patches to average over."""
    stain: StainMethod | None = None
    """How the stain is normalised."""
    batch_size: int | None = None
    """Spots a forward pass."""
    device: str = "auto"
    """Fabric accelerator."""
    precision: str = "auto"
    """Fabric precision."""
    uncertainty: Uncertainty | None = None
    """Which intervals are given, if any."""
    coverage: float = 0.9
    """Share of measured values that intervals shall cover."""

    def fabric(self) -> Fabric:
        """Where to compute.

        Returns
        -------
        The device, in its precision.
        """
        return make_fabric(FitConfig(accelerator=self.device, precision=self.precision))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PredictionPlan:
    """Spots of some slides in the order in which they are read: a position says where in this order a spot comes.

    Small enough to be sent to other processes, if the images lie in files.
    """

    slides: tuple[Slide, ...]
    """The slides, without their objects."""
    order: NDArray[np.intp]
    """``(n,)`` rows of the spots, numbered slide after slide, by position; those of a slide stay together."""
    starts: NDArray[np.intp]
    """``(n_slides + 1,)`` first row, and position, of each slide, and the number of all spots."""
    settings: PredictOptions
    """How to predict."""
    stains: tuple[StainNormalizer, ...] = ()
    """What gives the patches of each slide another stain; empty where they stay as they are."""

    @classmethod
    def of(cls, slides: Sequence[Slide], predictor: Predictor, settings: PredictOptions) -> PredictionPlan:
        """PredictionPlan a prediction.

        Parameters
        ----------
        slides
            The slides.
        predictor
            The predictor.
        settings
            How to predict.

        Returns
        -------
        The plan.
        """
        starts = np.cumsum([0, *(len(slide.xy_px) for slide in slides)])
        patch, method = predictor.patch, settings.stain
        orders = [start + reading_order(slide, patch) for start, slide in zip(starts, slides, strict=False)]
        return cls(
            slides=tuple(slide.without_counts() for slide in slides),
            order=np.concatenate(orders),
            starts=starts,
            settings=settings,
            stains=() if method is None else tuple(stain_normalizers(slides, predictor.provenance, method)),
        )

    @property
    def n_partitions(self) -> int:
        """How many partitions there are; the last may be smaller."""
        return -(-len(self.order) // PARTITION)

    def fingerprint(self, predictor: Predictor) -> str:
        """Digest of all that decides the outcome but the pixels: equal for a prediction that may be taken up again.

        Parameters
        ----------
        predictor
            The predictor.

        Returns
        -------
        16 hexadecimal digits.
        """
        said: list[Any] = [predictor.hash, self.settings.n_views, PARTITION]
        said += [(slide_digest(slide), slide.um_per_px, slide.levels[0].pixels.shape) for slide in self.slides]
        said += [hashlib.sha256(stain.table.tobytes()).hexdigest() for stain in self.stains]
        if self.settings.uncertainty is not None:
            said += [self.settings.uncertainty, self.settings.coverage]
        return hashlib.sha256(repr(said).encode() + self.order.tobytes()).hexdigest()[:16]

    def pieces(self, patch: PatchSpec, first: int, last: int) -> Iterator[Piece]:
        """Read the patches of a stretch.

        Parameters
        ----------
        patch
            Fields of view and size.
        first, last
            The first position, and the one after the last.

        Yields
        ------
        Consecutive spots, with the number of their slide.
        """
        for index, slide in enumerate(self.slides):
            start, stop = max(first, self.starts[index]), min(last, self.starts[index + 1])
            if start < stop:
                rows = self.order[start:stop] - self.starts[index]
                for piece in read_pieces(slide, patch, rows=rows, index=index):
                    yield _stained(piece, self.stains[index]) if self.stains else piece

    def neighbourhoods(self, patch: PatchSpec, first: int, last: int) -> Iterator[tuple[Piece, slice]]:
        """Read the patches of a stretch in windows: a partition of a slide, and what is around it.

        Windows begin at each slide, whatever the stretch, so that a prediction does not depend on who computes it.

        Parameters
        ----------
        patch
            Fields of view and size.
        first, last
            The first position, and the one after the last.

        Yields
        ------
        All spots of a window, and which of them are of the stretch, consecutive.
        """
        for index, slide in enumerate(self.slides):
            begin, end = int(self.starts[index]), int(self.starts[index + 1])
            for start in range(begin, end, PARTITION):
                stop = min(start + PARTITION, end)
                inside = slice(max(first, start) - start, min(last, stop) - start)
                if inside.start < inside.stop:
                    core = self.order[start:stop] - begin
                    rows = np.concatenate([core, nearest_spots_outside(slide.xy_um, core, AROUND)])
                    for piece in read_pieces(slide, patch, rows=rows, index=index, piece_bytes=sys.maxsize):
                        yield (_stained(piece, self.stains[index]) if self.stains else piece), inside


def _stained(piece: Piece, stain: StainNormalizer) -> Piece:
    patches = torch.from_numpy(stain(piece.spots.patches.numpy()))
    return replace(piece, spots=replace(piece.spots, patches=patches))


def compute(plan: PredictionPlan, predictor: Predictor, first: int, last: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Predict a stretch; some spots are read while others are computed.

    Parameters
    ----------
    plan
        What to predict.
    predictor
        The predictor.
    first, last
        The first position, and the one after the last.

    Yields
    ------
    What `columns` names, of consecutive spots.
    """
    settings = plan.settings
    fabric = settings.fabric()
    limit = BatchLimit.of(settings.batch_size, fabric.device)
    share = predictor.provenance["diameter_um"] / predictor.patch.fov_um[0]
    pieces = (
        (replace(piece, spots=to_device(piece.spots, fabric.device)), inside)
        for piece, inside in read(plan, predictor, first, last)
    )
    with prefetch(pieces) as arriving:
        for piece, inside in arriving:
            expression = _expression(piece.spots, predictor, fabric, limit, settings)
            patches = gather(piece.spots, inside).patches
            yield {
                **{name: values[inside] for name, values in expression.items()},
                **_distance(patches, predictor, share),
                keys.AT_BORDER: piece.flagged[inside],
                keys.COLOR: color_statistics(patches, share),
            }


def _expression(
    spots: SpotBatch, predictor: Predictor, fabric: Fabric, limit: BatchLimit, settings: PredictOptions
) -> dict[str, NDArray[np.float32]]:
    """The prediction, and the ends of its intervals where they are asked for."""
    calibration = predictor.calibration
    if settings.uncertainty is None or calibration is None:
        return {X: predictor(spots, fabric, batch_size=limit, n_views=settings.n_views)}
    predicted, spread = predictor.with_spread(spots, fabric, batch_size=limit, n_views=settings.n_views)
    quantile = calibration.quantile(settings.uncertainty, settings.coverage)
    lower, upper = calibration.interval(predicted, spread, quantile)
    return {X: predicted, keys.LOWER: lower, keys.UPPER: upper}


def _distance(patches: Tensor, predictor: Predictor, share: float) -> dict[str, NDArray[np.float32]]:
    """How far patches lie from those trained on, where the predictor knows."""
    known = predictor.image_range
    return {} if known is None else {keys.IMAGE_DISTANCE: known.distances(image_statistics(patches, share))}


def read(plan: PredictionPlan, predictor: Predictor, first: int, last: int) -> Iterator[tuple[Piece, slice]]:
    """Read a stretch in pieces that are looked at together.

    Parameters
    ----------
    plan
        What to predict.
    predictor
        The predictor.
    first, last
        The first position, and the one after the last.

    Yields
    ------
    Spots, and which of them are of the stretch, consecutive.
    """
    if predictor.model_config.context == "slide":
        return plan.neighbourhoods(predictor.patch, first, last)
    return ((piece, slice(None)) for piece in plan.pieces(predictor.patch, first, last))


def columns(predictor: Predictor, settings: PredictOptions) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """What is computed for a spot.

    Parameters
    ----------
    predictor
        The predictor.
    settings
        How it is used.

    Returns
    -------
    Shape and dtype, by name.
    """
    real = np.dtype(np.float32)
    return {
        **{name: ((len(predictor.genes),), real) for name in matrices(settings)},
        **({} if predictor.image_range is None else {keys.IMAGE_DISTANCE: ((), real)}),
        keys.AT_BORDER: ((), np.dtype(bool)),
        keys.COLOR: ((predictor.ridge_color.shape[1] - 1,), real),
    }


def matrices(settings: PredictOptions) -> tuple[str, ...]:
    """What is computed for every spot and gene.

    Parameters
    ----------
    settings
        How the predictor is used.

    Returns
    -------
    Names, ``"X"`` first.
    """
    return (X,) if settings.uncertainty is None else (X, keys.LOWER, keys.UPPER)
