"""Predict slides and write a table that scanpy and squidpy take as it is."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NoReturn

from tqdm.auto import tqdm

from .. import _keys as keys
from .._checks import config as check_config
from .._checks import conformal as check_conformal
from .._checks import evaluation as check_evaluation
from .._checks import prediction as check_prediction
from .._checks import predictor as check
from .._checks import slides as check_slides
from .._checks import training as check_training
from .._slides import Selection, resolve
from ..models.model_config import uses_embeddings
from ._inference.cluster import spread
from ._inference.plan import PredictionPlan, PredictOptions, compute
from ._inference.sinks import MemorySink, StoreSink
from ._inference.table import as_table, beside, fill_layer, run_record
from ._predictor.attrs import resolve_predictor
from ._predictor.provenance import warn_unseen_color

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from os import PathLike

    from distributed import Client
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides import Slide
    from ..pp.stain_normalization import StainMethod
    from ._inference.sinks import Sink
    from ._predictor.conformal import Uncertainty
    from ._predictor.predictor import Predictor


def predict(
    sdata: SpatialData,
    predictor: Predictor | str | PathLike[str] | None = None,
    *,
    key_added: str = keys.PREDICTED,
    layer: str | None = None,
    n_views: int = 1,
    uncertainty: Uncertainty | None = None,
    coverage: float = 0.9,
    stain: StainMethod | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | Sequence[str] | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    features_key: str | None = None,
    store: str | PathLike[str] | None = None,
    client: Client | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> None:
    """Predict the expression of every spot.

    Parameters
    ----------
    sdata
        The object; its slides may have measured expression or not.
    predictor
        What `fit` returned, or where it was saved; by default the one that `fit` recorded on this object.
    key_added
        Name of the table that is written.
    layer
        Write into this layer of the existing table instead, beside the measured counts; ``"X"`` overwrites X.
    n_views
        Average over this many of the eight flips and turns of the patches; 8 costs eight times as much as 1.
    uncertainty
        Give an interval for every spot and gene, from the errors at spots that were not trained on: ``"conformal"``
        takes spots for exchangeable, ``"conformal_groups"`` only groups, and is wider (Notes). As many views are
        averaged as when the predictor was calibrated (8, or 1 with a frozen encoder), whatever ``n_views`` says.
    coverage
        Share of measured values that intervals shall cover.
    stain
        Give the patches the stain of the training slides: ``"reinhard"`` (mean and standard deviation of colours) or
        ``"macenko"`` (stain vectors and concentrations). The stain of a slide is what `stp.pp.stain` recorded, or is
        measured at its spots. It lowers errors where stains differ, and can harm where they do not.
    image_key
        Image, or a mapping of spot elements to images, where there are several.
    shapes_key
        Elements that hold the spots; by default all that the table annotates.
    table_name
        Table that annotates the spots; by default ``"observed"``, or the only one, or none.
    coordinate_system
        Coordinate system shared by image and spots, where there are several.
    um_per_px
        Resolution in µm per pixel; by default what the object records.
    features_key
        Matrix of ``obsm`` with embeddings of the spots' images, if the predictor was trained on such.
    store
        Folder on disk that the matrix is streamed to, in the order of reading: for tables too large for memory. ``X``
        is then a dask array that reads from there. If it exists, it must be of the same prediction: what is written
        already is not computed again. In the end ``anndata.read_zarr`` reads it too.
    client
        Client of a dask cluster whose workers compute, each reading the image files by itself: the result is the same.
        Workers write into ``store`` themselves, if it is given.
    batch_size
        Spots a forward pass; by default what suits the device. Halved where memory runs out: the result is the same.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
    precision
        Lightning Fabric precision, or ``"auto"``.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Nothing. Writes ``sdata.tables[key_added]``: ``X`` ``(n_spots, n_genes)`` float32 in the units of the predictor
    (log1p CP10k unless trained otherwise: do not normalise it again), ``obs["at_border"]``, ``obsm["spatial"]`` in
    pixels, ``obsm["color"]``, ``var["train_mean"]``, ``varm["ridge_color"]`` (the two baselines), ``uns[key_added]``
    (units, target, model, parameters). ``obs["image_distance"]`` is how far the patches lie from those trained on in
    colour and texture, ``obs["unlike_training"]`` whether that is more than 1, which 1 % of training spots exceed when
    their slide is left out (predictors of older versions: neither). With ``uncertainty`` also
    ``layers["predicted_lower"]`` and ``layers["predicted_upper"]`` (``f"{layer}_lower"``, ``f"{layer}_upper"`` beside a
    layer). With ``layer``: that layer of the existing table, NaN for genes outside the
    panel and spots of other elements, ``var[layer]`` which is True for the panel (``var["predicted"]`` where the layer
    is X), and beside it what the table of predictions would hold.

    Raises
    ------
    ValueError
        If no predictor is given or recorded, elements do not fit together, something measured would be overwritten, or
        intervals are asked of a predictor that was not calibrated.

    Notes
    -----
    An interval covers a measured value of a new spot with a probability of at least ``coverage`` if that spot is
    exchangeable with those that the predictor was calibrated on. Spots of a new slide are so at best on average over
    slides: ``"conformal"`` then is right on average, and may cover clearly less on one slide. ``"conformal_groups"``
    takes for each gene the widest quantile of the K groups: on a new group it covers enough with probability
    K / (K + 1). `fit` calibrates on the validation groups, which also chose the epoch, so intervals are slightly too
    narrow; `calibrate` does so on slides that played no part. Lower ends are not below 0.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> predictor = stp.tl.fit(sdata, config=stp.tl.FitConfig(n_epochs=1, progress=False))
    >>> stp.tl.predict(sdata, predictor, progress=False)
    >>> sdata["predicted"].shape
    (32, 12)
    """
    check_config.prediction(n_views, batch_size)
    check_conformal.uncertainty(uncertainty, coverage)
    if store is not None:
        check_prediction.own_table(layer)
    if client is not None:
        check_prediction.is_client(client)
    check_slides.is_spatialdata(sdata)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        features_key=features_key,
    )
    slides = resolve(sdata, selection, needs_table=layer is not None)
    found = resolve_predictor(sdata, predictor)
    check_config.embeddings_fit(found.model, asdict(found.model_config), _width(slides), takes=_takes_embeddings(found))
    _check_place(sdata, slides[0].table_name, found, key_added, layer)
    _warn_unseen_resolution(slides, found)
    settings = PredictOptions(n_views=n_views, stain=stain, batch_size=batch_size, device=device, precision=precision)
    if uncertainty is not None:
        settings = _with_intervals(settings, found, uncertainty, coverage)
    plan = PredictionPlan.of(slides, found, settings)
    sink = MemorySink.of(plan, found) if store is None else StoreSink.begin(store, plan, found)
    _fill(sink, plan, found, client, progress=progress)
    values, uns = sink.values(), run_record(found, settings)
    for slide, first, last in zip(slides, plan.starts, plan.starts[1:], strict=False):
        colors, flagged = values[keys.COLOR][first:last], values[keys.AT_BORDER][first:last]
        warn_unseen_color(colors, flagged, found.provenance["color"], slide.name, normalized=stain is not None)
    if layer is not None:
        fill_layer(slides, values, found, layer, uns)
        return
    table = as_table(slides, sink, found, key_added, uns)
    if isinstance(sink, StoreSink):
        sink.finish(table)
    if key_added in sdata.tables:
        del sdata.tables[key_added]
    sdata.tables[key_added] = table


def _with_intervals(
    settings: PredictOptions, predictor: Predictor, uncertainty: Uncertainty, coverage: float
) -> PredictOptions:
    """The settings under which the predictor was calibrated."""
    calibration = check_conformal.calibrated(predictor.calibration)
    calibration.quantile(uncertainty, coverage)  # or says that there are too few spots
    check_conformal.calibration_of_others(calibration.record, settings.stain)
    return replace(settings, n_views=calibration.n_views, uncertainty=uncertainty, coverage=coverage)


def _width(slides: Sequence[Slide]) -> int | None:
    return None if slides[0].features is None else slides[0].features.shape[1]


def _takes_embeddings(predictor: Predictor) -> bool:
    return uses_embeddings(predictor.model_config)


def _check_place(
    sdata: SpatialData, table_name: str | None, predictor: Predictor, key_added: str, layer: str | None
) -> None:
    """Refuse, before anything is computed, to overwrite what was measured."""
    if layer is None:
        kept = [name for kind, name, _ in sdata.gen_elements() if kind != "tables" or not _predicted(sdata, name, name)]
        check.overwritable("key_added", key_added, kept)
    if table_name is None:
        return
    table = sdata.tables[table_name]
    check_slides.unique_spots(table.obs_names, table_name)
    missing = [gene for gene in predictor.genes if gene not in set(table.var_names)]
    if layer is not None:
        predicted = [name for name in check_slides.layers(table) if _predicted(sdata, table_name, name)]
        ours = {*predicted, *(end for name in predicted for end in beside(name).values())}
        kept = [name for name in check_slides.layers(table) if name not in ours]
        for name in (layer, *beside(layer).values()):
            check.overwritable("layer", name, kept)
        check.panel_in_table(missing, len(predictor.genes), table_name)
    else:
        check_evaluation.panel_measured(missing, len(predictor.genes), table_name)


def _predicted(sdata: SpatialData, table_name: str, key: str) -> bool:
    return keys.TARGET in sdata.tables[table_name].uns.get(key, {})


def _fill(sink: Sink, plan: PredictionPlan, predictor: Predictor, client: Client | None, *, progress: bool) -> None:
    """Compute what the sink lacks, here or on a cluster."""
    todo = sink.todo()
    left, n = sum(last - first for first, last in todo), len(plan.order)
    name = plan.slides[0].name if len(plan.slides) == 1 else f"{len(plan.slides)} slides"
    with tqdm(total=n, initial=n - left, desc=f"predict {name}", unit="spot", disable=not progress) as bar:
        if client is not None and todo:
            spread(client, plan, predictor, sink, bar.update)
            return
        for first, last in todo:
            sink.take(first, _counted(compute(plan, predictor, first, last), bar))


def _counted(pieces: Iterable[dict[str, NDArray[Any]]], bar: tqdm[NoReturn]) -> Iterator[dict[str, NDArray[Any]]]:
    for piece in pieces:
        yield piece
        bar.update(len(piece[keys.AT_BORDER]))


def _warn_unseen_resolution(slides: Sequence[Slide], predictor: Predictor) -> None:
    seen = [s["um_per_px"] for s in predictor.provenance.slides.values()]
    for slide in slides:
        check_training.seen_resolution(slide.um_per_px, seen, slide.name)
