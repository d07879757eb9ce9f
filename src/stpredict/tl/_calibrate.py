"""Calibrate the prediction intervals of a predictor on other slides than it was trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .._checks.calls import public
from .._checks.slides import quote
from .._progress import progress_bar
from .._slides.identity import SlideIdentity, known_slides
from .._slides.regions import classes_by_element
from .._slides.slides import Selection, resolve
from .._train.augment import N_SYMMETRIES
from .._train.batches import BatchLimit
from .._train.data import slide_index
from ..pp.normalization import normalize_slide
from . import _errors as check
from ._inference.partitions import read_positions
from ._inference.plan import PredictionPlan, check_embeddings
from ._options import PredictOptions
from ._predictor.conformal import Calibration
from ._predictor.provenance import counts_record, selection_as_trained, slide_identities
from ._training.plan import drop_low_count_spots, slide_digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides.regions import Regions
    from .._slides.slides import Slide
    from ..pp.stain_normalization import StainMethod
    from ._predictor.predictor import Predictor


@public
def calibrate(
    predictor: Predictor,
    sdata: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    *,
    group_key: str | None = None,
    n_views: int | None = None,
    stain: StainMethod | None = None,
    layer: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | Sequence[str] | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    features_key: str | None = None,
    library_key: str | None = None,
    regions: Regions | None = None,
    allow_leakage: bool = False,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> Predictor:
    """Calibrate the prediction intervals of a predictor on slides that it was not trained on.

    Parameters
    ----------
    predictor
        What `fit` returned.
    sdata
        Slides with counts, similar to those to predict: one object, or a list or mapping of objects.
    group_key
        Column of ``obs`` with the group of each slide (the patient). By default every slide is a group.
    n_views
        Number of flips and rotations of the patches, by default all 8. Their mean is the prediction; the larger their
        standard deviation, the wider the interval.
    stain
        Stain normalisation as in `predict`; predict with the same.
    layer
        Layer with raw counts; by default X.
    image_key
        Image, or a mapping of spot elements to images, if there are several.
    shapes_key
        Elements that hold the spots; by default all that the table annotates.
    table_name
        Table with the counts; by default ``"observed"``, or the only one.
    coordinate_system
        Coordinate system shared by image and spots, if there are several.
    um_per_px
        Resolution in µm per pixel; by default the one that the object records.
    features_key
        Matrix of ``obsm`` with image embeddings of the spots, if the predictor was trained on such.
    library_key
        Column of ``obs`` with the library sizes over all genes, for tables that do not hold all genes that training
        had; by default the column of that name in training, if there was one.
    regions
        Calibrate on only spots whose centre lies in these polygons, as in `stp.tl.fit`. Intervals
        then cover values in such regions.
    allow_leakage
        Whether slides or groups that were trained on are allowed; the calibration then records it.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
    precision
        Lightning Fabric precision, or ``"auto"``.
    progress
        Whether to show a progress bar.

    Returns
    -------
    A predictor with the same networks and this calibration in place of that by `fit`. Nothing is written.

    Raises
    ------
    ValueError
        If a slide or its group was used for training or validation, or if genes are missing.

    Notes
    -----
    Split conformal prediction with normalised scores. The score of a spot and gene is
    ``|observed - predicted| / spread``; the spread is the standard deviation over views plus a quarter of the standard
    deviation of the gene. The half-width of an interval is the spread times the score of rank ``(n + 1) * coverage``,
    which is exact for spots that are exchangeable with the ``n`` spots of the calibration. Spots of one slide are
    correlated, so the coverage of a new slide may be higher or lower; see ``uncertainty`` of `predict`.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=3, n_side=4)
    >>> predictor = stp.tl.fit(sdata, "ridge_color", shapes_key="S0_spots", config={"progress": False})
    >>> predictor = stp.tl.calibrate(predictor, sdata, shapes_key="S1_spots", progress=False)
    >>> stp.tl.predict(sdata, predictor, shapes_key="S2_spots", uncertainty="conformal", progress=False)
    >>> sdata["predicted"].layers["predicted_upper"].shape
    (16, 12)
    """
    check.is_predictor(predictor, "stp.tl.calibrate(predictor, sdata)")
    n_views = N_SYMMETRIES if n_views is None else n_views
    options = PredictOptions(n_views=n_views, stain=stain, device=device, precision=precision)
    trained = counts_record(predictor.provenance)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        layer=layer,
        group_key=group_key,
        um_per_px=um_per_px,
        features_key=features_key,
        library_key=library_key,
        regions=regions,
    )
    found = resolve(sdata, selection_as_trained(selection, trained))
    check_embeddings(predictor, found)
    leaks = _check_unseen(found, predictor, allow_leakage=allow_leakage)
    slides = drop_low_count_spots(found, predictor.provenance.fit["min_library"])
    for slide in slides:
        known = set(slide.genes)
        missing = [gene for gene in predictor.genes if gene not in known]
        if missing:
            msg = (
                f"Slide {slide.name!r} lacks {len(missing)} of the predictor's {len(predictor.genes)} genes: "
                f"{quote(missing)}. Calibrate on slides that have them all."
            )
            raise ValueError(msg)
    predicted, spread = _predict_with_spread(
        PredictionPlan.of(slides, predictor, options), predictor, progress=progress
    )
    observed = [normalize_slide(slide, predictor.genes, predictor.target, trained) for slide in slides]
    calibration = Calibration.of(
        np.concatenate(observed) - predicted,
        spread,
        np.array([slide.group for slide in slides])[slide_index(slides)],
        n_views=n_views,
        record={
            "kind": "other slides",
            "leaks": leaks,
            "stain": stain,
            "note": "none of them was trained on",
            **({} if regions is None else {"regions": classes_by_element(regions)}),
        },
    )
    return replace(predictor, calibration=calibration)


def _check_unseen(slides: Sequence[Slide], predictor: Predictor, *, allow_leakage: bool) -> bool:
    """Whether a slide or its group was used for training, under any name; an error unless that is allowed."""
    seen = [slide.name for slide in slides if _is_training_slide(slide, predictor)]
    trained_groups = {each["group"] for each in predictor.provenance.slides.values()}
    named = predictor.provenance.selection is not None and predictor.provenance.selection.group_key is not None
    seen += [slide.name for slide in slides if named and slide.group in trained_groups and slide.name not in seen]
    if seen and not allow_leakage:
        msg = (
            f"The predictor was trained or validated on {quote(seen)}, or on another slide of the same group: its "
            "errors there are too small. Calibrate on other slides (`shapes_key`), name groups with `group_key`, or "
            "accept it with `allow_leakage=True`, which the calibration then records."
        )
        raise ValueError(msg)
    return bool(seen)


def _is_training_slide(slide: Slide, predictor: Predictor) -> bool:
    """Whether a slide was trained on, by its counts; for old predictors by a digest of the whole slide."""
    identities = slide_identities(predictor.provenance)
    if identities and slide.counts is not None:
        return bool(known_slides(SlideIdentity.of(slide.counts, slide.genes, predictor.genes), identities))
    return slide_digest(slide) in {each["sha256"] for each in predictor.provenance.slides.values()}


def _predict_with_spread(
    plan: PredictionPlan, predictor: Predictor, *, progress: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Prediction and spread of all spots of a plan, in the order of the slides."""
    fabric, n = plan.options.fabric(), len(plan.order)
    limit = BatchLimit.of(None, fabric.device)
    predicted, spread = (np.empty((n, len(predictor.genes)), np.float32) for _ in range(2))
    position = 0
    with progress_bar(total=n, desc="calibrate", unit="spot", progress=progress) as bar:
        for piece, inside in read_positions(plan, predictor, 0, n):
            found = predictor.with_spread(
                piece.spots, fabric, batch_size=limit, n_views=plan.options.n_views, appearances=plan.appearances
            )
            rows = plan.order[position : position + len(found[0][inside])]
            predicted[rows], spread[rows] = (values[inside] for values in found)
            position += len(rows)
            bar.update(len(rows))
    return predicted, spread
