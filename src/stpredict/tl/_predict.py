"""Predict slides and write a table that scanpy and squidpy can use as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anndata import AnnData

from .. import _keys as keys
from .._checks.calls import public
from .._slides.slides import Selection, resolve
from ..io.containers import is_path, opened, read_path
from ..pp import spot_grid, tissue
from . import _errors as check
from ._inference.cluster import check_client
from ._inference.compute import compute_missing
from ._inference.destination import check_destination
from ._inference.partitions import PredictionTask
from ._inference.plan import PredictionPlan, check_embeddings
from ._inference.record import prediction_record
from ._inference.sinks import MemorySink, StoreSink, exclusive_store
from ._inference.table import add_slides, prediction_table, write_layer
from ._options import PredictOptions
from ._predictor.provenance import warn_unseen_color, warn_unseen_resolution
from ._predictor.recorded import resolve_predictor

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from distributed import Client
    from spatialdata import SpatialData

    from .._slides.regions import Regions
    from ..io.containers import DataOrPath
    from ..pp.stain_normalization import StainMethod
    from ._options import Uncertainty
    from ._predictor.predictor import Predictor


@public
def predict(
    sdata: DataOrPath,
    predictor: Predictor | str | PathLike[str] | None = None,
    *,
    key_added: str = keys.PREDICTED,
    layer: str | None = None,
    n_views: int = 1,
    uncertainty: Uncertainty | None = None,
    coverage: float = 0.9,
    stain: StainMethod | None = None,
    members: bool = False,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | Sequence[str] | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    features_key: str | None = None,
    regions: Regions | None = None,
    store: str | PathLike[str] | None = None,
    client: Client | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> SpatialData | AnnData | None:
    """Predict the expression of every spot.

    Spots whose patches are unlike those of training (out-of-distribution detection) are flagged.

    Parameters
    ----------
    sdata
        The object; its slides may have measured expression or not. A SpatialData; an AnnData with its image in
        ``uns["spatial"]``, as for `stp.io.from_anndata`; or the path of either (``.zarr``, ``.h5ad``) or of a slide,
        of any format of `stp.io.read_wsi`.
    predictor
        What `fit` returned, where it was saved, or a name as `Predictor.load` takes it: of `stp.models.pretrained`, or
        ``"hf:owner/name"``. By default the predictor that `fit` recorded on this object.
    key_added
        Name of the table that is written.
    layer
        Write into this layer of the existing table instead, beside the measured counts; ``"X"`` overwrites X. For an
        AnnData the layer is ``key_added`` by default.
    n_views
        Test-time augmentation: number of the eight flips and rotations of the patches whose predictions are averaged; 8
        costs eight times as much as 1.
    uncertainty
        Prediction intervals by conformal prediction, from the errors at held-out spots. ``"conformal"`` assumes that
        spots are exchangeable; ``"conformal_groups"`` assumes that only of groups, and is wider (see Notes). The number
        of views is then that of the calibration (8, or 1 with a frozen encoder), whatever ``n_views`` is.
    coverage
        Share of measured values that the intervals shall cover.
    stain
        Stain normalisation to the training slides: ``"reinhard"`` (mean and standard deviation of colours) or
        ``"macenko"`` (stain vectors and concentrations). The stain of a slide is the one that `stp.pp.stain` recorded,
        or is measured at its spots. Normalisation lowers errors if stains differ, and can raise them if they do not.
        None leaves it to each model: `m2ost_tiny` normalises, shrunk by how much the training donors differ, and the
        ridge regressions see colours as they were scanned.
    members
        Whether to write the prediction of each model of an ensemble into a layer of its own, named by the model.
    image_key
        Image, or a mapping of spot elements to images, if there are several.
    shapes_key
        Elements that hold the spots; by default all that the table annotates.
    table_name
        Table that annotates the spots; by default ``"observed"``, or the only one, or none.
    coordinate_system
        Coordinate system shared by image and spots, if there are several.
    um_per_px
        Resolution in µm per pixel; by default the one that the object records. For an AnnData it is given to
        `stp.io.from_anndata` instead.
    features_key
        Matrix of ``obsm`` with image embeddings of the spots, if the predictor was trained on such.
    regions
        Predict only spots whose centre lies in these polygons, as in `stp.tl.fit`. A model that sees all spots of a
        slide at once sees no others. Earlier predictions of the slide under the same name are replaced.
    store
        Folder to which the matrix is streamed in reading order, for tables that are too large for memory. ``X`` is then
        a dask array that reads from it. An existing store must be of the same prediction: partitions that are written
        are not computed again. When all are written, ``anndata.read_zarr`` can read the store.
    client
        Client of a dask cluster whose workers compute the prediction, each reading the image files by itself. The
        result is the same. With ``store``, workers write into it themselves.
    batch_size
        Spots per forward pass; by default a number that suits the device. Halved if memory runs out, with the same
        result.
    device
        ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.
    precision
        Lightning Fabric precision, or ``"auto"``.
    progress
        Whether to show a progress bar.

    Returns
    -------
    Nothing; for a path, the object that was read from it, with the prediction (the file does not change). A slide file
    gets a grid of spots on its tissue, as by `stp.pp.tissue` and `stp.pp.spot_grid`.

    Writes ``sdata.tables[key_added]``: ``X`` ``(n_spots, n_genes)`` float32 in the units of the predictor
    (log1p CP10k unless trained otherwise: do not normalise it again), ``obs["at_border"]``, ``obsm["spatial"]`` in
    pixels, ``obsm["color"]``, ``var["train_mean"]`` and ``varm["ridge_color"]`` (the two baselines),
    ``uns[key_added]`` (units, target, model, parameters), and ``uns["spatial"]``: a small image of each slide and its
    scale, by the name of its spots element, for ``sq.pl.spatial_scatter`` and ``sc.pl.spatial``.
    ``obs["image_distance"]`` is the distance of the patches from the training patches in colour and texture
    (out-of-distribution detection). ``obs["unlike_training"]`` is True beyond 1, the distance that 1 % of training
    spots exceed if their slide is left out. Predictors of older versions give neither column. If `stp.pp.quality` was
    called, ``obs["image_quality"]`` is the flag of the window in which the spot lies. With ``uncertainty`` also
    ``layers["predicted_lower"]`` and ``layers["predicted_upper"]``.
    With ``members`` also a layer for each model of an ensemble, for instance ``layers["ridge_statistics"]``.

    No value is below 0: negative values of the regression are set to 0, and so are lower bounds. Predictions of slides
    that are not predicted again stay in the table, each with its own baselines (``uns[key_added]["parts"]``, by the ids
    in ``obs["prediction_id"]``), so that a leave-one-out loop may predict slide by slide.

    With ``layer``, writes that layer of the existing table instead, NaN for genes outside the panel and spots of other
    elements; ``var[layer]`` is True for the panel (``var["predicted"]`` if the layer is X), intervals are
    ``layers[f"{layer}_lower"]`` and ``layers[f"{layer}_upper"]``, those of models ``layers[f"{layer}_{model}"]``, and
    the other columns are as above, with the name of the layer before theirs (``obs[f"{layer}_at_border"]``), so that a
    second layer leaves the first as it was.

    Raises
    ------
    TypeError
        If ``sdata`` is neither an object nor a path.
    ValueError
        If no predictor is given or recorded, elements do not fit together, something measured would be overwritten, or
        intervals are asked of a predictor without calibration.

    Notes
    -----
    Models that normalise stain, or standardise features by slide, measure each slide first, on up to 512 of its spots.

    An interval covers the measured value of a new spot with a probability of at least ``coverage`` if the spot is
    exchangeable with those of the calibration. Spots of a new slide are exchangeable only on average over slides:
    ``"conformal"`` covers enough on average over slides, but may cover clearly less on one slide.
    ``"conformal_groups"`` takes the widest quantile of the K calibration groups for each gene: it covers enough on a
    new group with probability K / (K + 1). `fit` calibrates on the validation groups, which also chose the epoch, so
    its intervals are slightly too narrow; `calibrate` uses other slides.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> predictor = stp.tl.fit(sdata, "ridge_color", config={"progress": False})
    >>> stp.tl.predict(sdata, predictor, progress=False)
    >>> sdata["predicted"].shape
    (32, 12)
    """
    options = PredictOptions(
        n_views=n_views,
        stain=stain,
        batch_size=batch_size,
        device=device,
        precision=precision,
        uncertainty=uncertainty,
        coverage=coverage,
        members=members,
    )
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        features_key=features_key,
        regions=regions,
    )
    held = read_path(sdata, um_per_px=um_per_px) if is_path(sdata) else sdata
    partial = isinstance(held, AnnData)
    check.table_of_its_own(store, layer, of_anndata=partial)
    layer = key_added if partial and layer is None else layer
    check_client(client)
    with opened(held, um_per_px=um_per_px) as data:
        if is_path(sdata) and not (data.shapes or data.labels):  # a slide file
            predictor = resolve_predictor(data, predictor)
            tissue(data)
            spot_grid(data, predictor)
        _predict(
            data, predictor, selection, options, key_added, layer, partial=partial, store=store, client=client,
            progress=progress,
        )  # fmt: skip
    return held if is_path(sdata) else None


def _predict(
    sdata: SpatialData,
    predictor: Predictor | str | PathLike[str] | None,
    selection: Selection,
    options: PredictOptions,
    key_added: str,
    layer: str | None,
    *,
    partial: bool,
    store: str | PathLike[str] | None,
    client: Client | None,
    progress: bool,
) -> None:
    """Predict the slides of one object; ``partial`` if a layer need not hold all genes of the predictor."""
    slides = resolve(sdata, selection, needs_table=layer is not None, needs_counts=False)
    predictor = resolve_predictor(sdata, predictor)
    check_embeddings(predictor, slides)
    models = list(predictor.models) if options.members else []
    check_destination(sdata, slides, predictor, key_added, layer, models=models, partial=partial)
    for slide in slides:
        warn_unseen_resolution(slide.um_per_px, predictor.provenance.slides, slide.name)

    plan = PredictionPlan.of(slides, predictor, options)
    task = PredictionTask(predictor)
    with exclusive_store(store):
        sink = MemorySink.of(plan, task) if store is None else StoreSink.create(store, plan, task)
        compute_missing(sink, plan, task, client, verb="predict", progress=progress)
        values, record = sink.values(), prediction_record(predictor, plan.options, slides[0].features_record)
        for slide, start, stop in zip(slides, plan.starts[:-1], plan.starts[1:], strict=True):
            colors, flagged = values[keys.COLOR][start:stop], values[keys.AT_BORDER][start:stop]
            normalized = options.stain is not None or any(member.normalizes_stain for member in predictor.members)
            warn_unseen_color(colors, flagged, predictor.provenance["color"], slide.name, normalized=normalized)
        if layer is not None:
            write_layer(slides, values, predictor, layer, record)
            return
        table = prediction_table(slides, sink, predictor, key_added, record)
        if isinstance(sink, StoreSink):
            sink.finish(table)
        if key_added in sdata.tables:
            table = add_slides(sdata.tables[key_added], table, key_added)
            del sdata.tables[key_added]
        sdata.tables[key_added] = table
