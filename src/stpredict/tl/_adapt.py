"""Adapt a predictor to a slide of which a few spots were measured."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._checks.calls import public
from .._slides.identity import SlideIdentity
from .._slides.slides import Selection
from . import _errors as check
from ._adaptation.empirical_bayes import fit_adaptation
from ._adaptation.measured import measured_rows, observed_expression, resolve_one_slide
from ._adaptation.whole_slide import predict_slide
from ._inference.partitions import X
from ._options import PredictOptions
from ._predictor.member import target_scale
from ._predictor.provenance import counts_record, selection_as_trained

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spatialdata import SpatialData

    from .._slides.regions import Regions
    from ..pp.stain_normalization import StainMethod
    from ._adaptation.measured import Measured
    from ._predictor.predictor import Predictor


@public
def adapt(
    predictor: Predictor,
    sdata: SpatialData,
    *,
    measured: Measured,
    n_views: int = 1,
    stain: StainMethod | None = None,
    layer: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    features_key: str | None = None,
    library_key: str | None = None,
    regions: Regions | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> Predictor:
    """Adapt a predictor to a slide by some spots that were measured there.

    A new patient, laboratory or array shifts the level of every gene (batch effect). A few measured spots correct it.
    Networks are not trained again.

    Parameters
    ----------
    predictor
        What `fit` returned. If it was adapted before, that adaptation is replaced.
    sdata
        The object with the slide. Its table has a row for every spot; counts are used at measured spots only.
    measured
        Name of a column of ``obs`` that is True at measured spots; or a mask with one value for each row of the table;
        or a list of ``obs_names``. An empty list gives the predictor as it is.
    n_views
        Number of the eight flips and rotations of the patches to average over; predict with the same.
    stain
        Stain normalisation as in `predict`; predict with the same.
    layer
        Layer with raw counts; by default X.
    image_key
        Image, or a mapping of spot elements to images, if there are several.
    shapes_key
        Element that holds the spots, if the table annotates several.
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
        Use only spots whose centre lies in these polygons, as in `stp.tl.fit`: the slide is then
        this part of it, and measured spots elsewhere do not count.
    batch_size
        Spots per forward pass; by default a number that suits the device.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
    precision
        Lightning Fabric precision, or ``"auto"``.
    progress
        Whether to show a progress bar.

    Returns
    -------
    A predictor with the same networks, and an adaptation that is applied to every prediction. It is for this slide, and
    others of the same patient and batch. It is not calibrated: intervals of the given predictor are not valid for it.
    Nothing is written.

    Raises
    ------
    ValueError
        If ``measured`` names no spot, all spots, fewer than three, or spots without counts; if there are several
        slides, or genes of the predictor were not measured.

    Notes
    -----
    With prediction :math:`p`, its mean :math:`c` over the slide and the first five principal components :math:`z` of
    the predictions on the slide, the adapted prediction of a gene is

    .. math:: c + o + s (p - c) + z^T w

    The scale :math:`s` is one for all genes. Offset :math:`o` and weights :math:`w` are those of the gene. They are
    estimated by empirical Bayes: normal with mean 0, with variances that all genes share and that may be 0, so that few
    or noisy measurements change little. The weights are used only if they lower the error of measured spots that are
    left out by more than one standard error. Residuals of neighbouring spots count as correlated over 400 µm, so that
    spots of one region count less than as many scattered ones. :doc:`/adaptation` shows how much it helps.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=5)
    >>> predictor = stp.tl.fit(sdata, "ridge_color", shapes_key="S0_spots")
    >>> names = sdata["observed"].obs_names[25:50:4]
    >>> adapted = stp.tl.adapt(predictor, sdata, shapes_key="S1_spots", measured=names, progress=False)
    >>> adapted.adaptation.description
    'S1_spots (7 measured spots)'
    """
    check.is_predictor(predictor, "stp.tl.adapt(predictor, sdata, measured=…)")
    options = PredictOptions(n_views=n_views, stain=stain, batch_size=batch_size, device=device, precision=precision)
    trained = counts_record(predictor.provenance)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        layer=layer,
        um_per_px=um_per_px,
        features_key=features_key,
        library_key=library_key,
        regions=regions,
    )
    slide = resolve_one_slide(sdata, selection_as_trained(selection, trained))
    rows = measured_rows(slide, measured)
    if not len(rows):
        return replace(predictor)
    observed = observed_expression(slide, rows, predictor.genes, predictor.target, trained)
    base = replace(predictor, adaptation=None, calibration=None)
    predicted = predict_slide(slide, base, options, progress=progress)[X]
    fit = fit_adaptation(predicted, observed, rows, slide.xy_um, target_scale(base.members), slide.name)
    counts: Any = slide.counts  # resolved with counts
    seen = SlideIdentity.of(counts[rows], slide.genes, base.genes).sketch().to_json()
    record = {**fit.adaptation.record, "identity": seen}
    return replace(base, adaptation=replace(fit.adaptation, record=record))
