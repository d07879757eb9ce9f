"""Where intervals come from: members scored on the groups that they did not see, or a predictor on other slides."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from .._checks import config as check_config
from .._checks import conformal as check
from .._checks import predictor as check_predictor
from .._slides import Selection, resolve
from .._train.augment import N_SYMMETRIES
from .._train.batches import BatchLimit
from .._train.data import slide_index
from ._inference.plan import PredictionPlan, PredictOptions, read
from ._predictor.conformal import Calibration
from ._training.plan import drop_low_count_spots, gene_columns, slide_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides import Slide
    from ..pp.stain_normalization import StainMethod
    from ._predictor.predictor import Predictor


def calibrate(
    predictor: Predictor,
    sdata: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    *,
    group_key: str | None = None,
    n_views: int = N_SYMMETRIES,
    stain: StainMethod | None = None,
    layer: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | Sequence[str] | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    features_key: str | None = None,
    allow_leakage: bool = False,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> Predictor:
    """Measure the errors of a predictor on slides with counts that it never saw, for intervals.

    Parameters
    ----------
    predictor
        What `fit` returned.
    sdata
        Slides with counts, like those to be predicted: one object, or a list or mapping of such.
    group_key
        Column of ``obs`` that says which slides belong together (the patient). By default every slide is a group.
    n_views
        Flips and turns of the patches whose mean is predicted, and whose disagreement widens an interval.
    stain
        As in `predict`; predict with the same.
    layer
        Layer with raw counts; by default X.
    image_key
        Image, or a mapping of spot elements to images, where there are several.
    shapes_key
        Elements that hold the spots; by default all that the table annotates.
    table_name
        Table with the counts; by default ``"observed"``, or the only one.
    coordinate_system
        Coordinate system shared by image and spots, where there are several.
    um_per_px
        Resolution in µm per pixel; by default what the object records.
    features_key
        Matrix of ``obsm`` with embeddings of the spots' images, if the predictor was trained on such.
    allow_leakage
        Take slides or groups that were trained on, too; the calibration then carries the mark.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
    precision
        Lightning Fabric precision, or ``"auto"``.
    progress
        Whether to show a progress bar.

    Returns
    -------
    A predictor with the same networks and this calibration, in place of any that `fit` made. Nothing is written.

    Raises
    ------
    ValueError
        If a slide, or another one of its group, was trained on or chose the epoch; or genes are missing.

    Notes
    -----
    Split-conformal prediction: the score of a spot and gene is ``|observed - predicted| / spread``, where the spread is
    the standard deviation over views and a quarter of the gene's. An interval is as many spreads wide as the score of
    rank ``(n + 1) * coverage``: exact for spots that are exchangeable with the ``n`` calibrated on. Spots of one slide
    resemble each other, so a new slide as a whole may be covered more or less; see ``uncertainty`` of `predict`.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=3, n_side=4)
    >>> config = stp.tl.FitConfig(n_epochs=1, validation="none", progress=False)
    >>> predictor = stp.tl.fit(sdata, config=config, shapes_key="S0_spots")
    >>> predictor = stp.tl.calibrate(predictor, sdata, shapes_key="S1_spots", progress=False)
    >>> stp.tl.predict(sdata, predictor, shapes_key="S2_spots", uncertainty="conformal", progress=False)
    >>> sdata["predicted"].layers["predicted_upper"].shape
    (16, 12)
    """
    check_predictor.is_one(predictor)
    check_config.prediction(n_views, None)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        layer=layer,
        group_key=group_key,
        um_per_px=um_per_px,
        features_key=features_key,
    )
    slides = drop_low_count_spots(resolve(sdata, selection), predictor.provenance.fit["min_library"])
    seen = _seen(slides, predictor)
    check.untrained(seen, allowed=allow_leakage)
    for slide in slides:
        missing = [gene for gene in predictor.genes if gene not in set(slide.genes)]
        check.measured(missing, len(predictor.genes), slide.name)
    plan = PredictionPlan.of(
        slides, predictor, PredictOptions(n_views=n_views, stain=stain, device=device, precision=precision)
    )
    predicted, spread = _predicted(plan, predictor, progress=progress)
    found = Calibration.of(
        np.concatenate([_observed(slide, predictor) for slide in slides]) - predicted,
        spread,
        np.array([slide.group for slide in slides])[slide_index(slides)],
        n_views=n_views,
        record={"kind": "other slides", "leaks": bool(seen), "stain": stain, "note": "none of them was trained on"},
    )
    return replace(predictor, calibration=found)


def _seen(slides: Sequence[Slide], predictor: Predictor) -> list[str]:
    """Slides that were trained or validated on, whatever they are called, or whose group was."""
    known = predictor.provenance.slides
    digests, groups = {each["sha256"] for each in known.values()}, {each["group"] for each in known.values()}
    return [s.name for s in slides if s.name in known or s.group in groups or slide_digest(s) in digests]


def _observed(slide: Slide, predictor: Predictor) -> NDArray[np.float32]:
    return predictor.target.normalize(slide.counts, gene_columns(slide, predictor.genes))


def _predicted(
    plan: PredictionPlan, predictor: Predictor, *, progress: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Prediction and spread of all spots of a plan, in the order of the slides."""
    fabric, n = plan.settings.fabric(), len(plan.order)
    limit = BatchLimit.of(None, fabric.device)
    predicted, spread = (np.empty((n, len(predictor.genes)), np.float32) for _ in range(2))
    at = 0
    with tqdm(total=n, desc="calibrate", unit="spot", disable=not progress) as bar:
        for piece, inside in read(plan, predictor, 0, n):
            mean, deviation = predictor.with_spread(
                piece.spots, fabric, batch_size=limit, n_views=plan.settings.n_views
            )
            rows = plan.order[at : at + len(mean[inside])]
            predicted[rows], spread[rows] = mean[inside], deviation[inside]
            at += len(rows)
            bar.update(len(rows))
    return predicted, spread
