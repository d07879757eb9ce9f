"""Embed the image around every spot once, so that many models can be trained on the embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from .. import _keys as keys
from .._checks.calls import public
from .._geometry import PatchSpec
from .._pixels import PATCH_VERSION
from .._slides import checks as check_elements
from .._slides.embeddings import EmbeddingRecord, check_destination, spot_table, write_embeddings
from .._slides.slides import Selection, resolve
from .._train.loop import seeded_rng
from ..models import config as model_config
from ..models.encoder import Encoder, default_weights
from ._errors import warn_random_encoder
from ._inference.cluster import check_client
from ._inference.compute import compute_missing
from ._inference.embedding import EmbeddingTask
from ._inference.partitions import X
from ._inference.plan import PredictionPlan
from ._inference.sinks import MemorySink, StoreSink, exclusive_store
from ._options import PredictOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from distributed import Client
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides.regions import Regions
    from .._slides.slides import Slide

LIKE = "encoder_ridge"
"""The model whose fields of view are the default."""


@public
def embed(
    sdata: SpatialData,
    encoder: str | Sequence[str] = "uni2-h",
    *,
    weights: str | Sequence[str] | None = None,
    fov_um: float | Sequence[float] | None = None,
    size_px: int = 224,
    key_added: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | Sequence[str] | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    regions: Regions | None = None,
    store: str | PathLike[str] | None = None,
    client: Client | None = None,
    batch_size: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    progress: bool = True,
) -> None:
    """Embed the image around every spot with a pretrained encoder, such as a pathology foundation model.

    Functions that take ``features_key`` use the embeddings: `fit`, `predict`, `cross_validate`, `benchmark` and others.
    However many models are trained, each patch is read and encoded once.

    Parameters
    ----------
    sdata
        The object; its slides may have measured expression or not.
    encoder
        Key that `stp.models.encoders` lists, a name of timm, ``"statistics"`` (colour and texture, no weights), or a
        list of them, whose features are put side by side.
    weights
        Where the weights come from, one text for all encoders or one for each: ``"hub"``, ``"hub@REVISION"``,
        ``"hub:OWNER/NAME"``, ``"local-dir:FOLDER"``, ``"timm"``, ``"none"`` (random), or the path of a checkpoint. By
        default those that belong to the encoder.
    fov_um
        Side of each field of view in µm, narrowest first; their features are put side by side. By default 1.5, 3 and 9
        times the median spot diameter, as in `stp.models.config` of ``"encoder_ridge"``.
    size_px
        Side in pixels to which every patch is resampled before the encoder sees it.
    key_added
        Name of the matrix in ``obsm``; by default ``"X_"`` and the name of the encoder.
    image_key
        Image, or a mapping of spot elements to images, if there are several.
    shapes_key
        Elements that hold the spots; by default all that the table annotates.
    table_name
        Table that annotates the spots; by default ``"observed"``, or the only one, or none.
    coordinate_system
        Coordinate system shared by image and spots, if there are several.
    um_per_px
        Resolution in µm per pixel; by default the one that the object records.
    regions
        Embed only spots whose centre lies in these polygons, as in `stp.tl.fit`.
    store
        Folder to which the embeddings are streamed in reading order, for tables that are too large for memory. The
        matrix in ``obsm`` is then a dask array that reads from it. An existing store must be of the same embeddings:
        partitions that are written are not computed again. When all are written, ``anndata.read_zarr`` can read the
        store.
    client
        Client of a dask cluster whose workers compute the embeddings, each reading the image files by itself. The
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
    Nothing. Writes ``obsm[key_added]`` of the table that annotates the spots, ``(n_spots, n_features)`` float32, the
    features of all fields of view side by side, NaN for spots that were not embedded; and ``uns[key_added]``: encoder,
    fields of view, version of the patches, slides. Without a table of the spots, writes one without genes,
    ``"embeddings"``. Embeddings of slides that are not embedded again stay, if they were made in the same way.

    Raises
    ------
    ValueError
        If the encoder or its weights do not exist, ``obsm[key_added]`` was not written by this function, or it holds
        embeddings of other slides that were made in another way.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=3, n_side=4, um_per_px=8.0)
    >>> stp.tl.embed(sdata, "statistics", size_px=32, progress=False)
    >>> sdata["observed"].obsm["X_statistics"].shape
    (48, 162)
    >>> predictor = stp.tl.fit(sdata, "encoder_ridge", features_key="X_statistics", config={"progress": False})
    >>> [record["encoders"][0]["encoder"] for record in predictor.provenance.features]
    ['statistics']
    """
    options = PredictOptions(batch_size=batch_size, device=device, precision=precision)
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        um_per_px=um_per_px,
        regions=regions,
    )
    check_client(client)
    check_elements.is_spatialdata(sdata)
    slides = resolve(sdata, selection, needs_table=table_name is not None, needs_counts=False)
    patch = PatchSpec(fov_um=_fields_of_view(fov_um, slides), size_px=size_px)
    names = [encoder] if isinstance(encoder, str) else list(encoder)
    task = embedding_task(encoder, weights, patch, key_added or f"X_{'+'.join(map(str, names))}".replace("/", "_"))
    check_destination(slides, task.record)
    plan = PredictionPlan.of_patches(slides, task.patches, options)
    with exclusive_store(store):
        sink = MemorySink.of(plan, task) if store is None else StoreSink.create(store, plan, task)
        compute_missing(sink, plan, task, client, verb="embed", progress=progress)
        values = sink.values()
        if isinstance(sink, StoreSink):
            sink.finish(_stored_table(slides, values, sink.rows, task.record))
        write_embeddings(slides, values[X], sink.rows, task.record)


def embedding_task(
    encoder: str | Sequence[str], weights: str | Sequence[str] | None, patch: PatchSpec, key: str
) -> EmbeddingTask:
    """Encoders with their weights loaded, and the record of their embeddings."""
    if weights is None:
        weights = default_weights(encoder)
    with seeded_rng(0, -1):  # of random weights
        network = Encoder(encoder, weights, patch.size_px, frozen=True)
    network.load()
    if random := [part.name for part in network.parts if part.is_random]:
        warn_random_encoder(random)
    record = EmbeddingRecord(
        key=key,
        n_features=len(patch.fov_um) * network.n_features,
        origin="stpredict",
        encoders=tuple(part.record() for part in network.parts),
        fov_um=patch.fov_um,
        size_px=patch.size_px,
        patch_version=PATCH_VERSION,
    )
    return EmbeddingTask(network, patch, record)


def _stored_table(
    slides: Sequence[Slide], values: Mapping[str, Any], rows: NDArray[np.intp], record: EmbeddingRecord
) -> ad.AnnData:
    """The table that a store becomes: embeddings as X, in the order of the store."""
    spots = spot_table(slides)
    obs: Any = spots.obs
    table = ad.AnnData(
        X=values[X],
        obs=obs.iloc[rows].assign(**{keys.AT_BORDER: values[keys.AT_BORDER]}),
        var=pd.DataFrame(index=[str(i) for i in range(record.n_features)]),
        uns={**spots.uns, record.key: record.to_uns()},
    )
    table.obsm[keys.SPATIAL] = np.asarray(spots.obsm[keys.SPATIAL])[rows]
    return table


def _fields_of_view(fov_um: float | Sequence[float] | None, slides: Sequence[Slide]) -> tuple[float, ...]:
    """As given, or the default multiples of the median spot diameter."""
    if fov_um is None:
        diameter_um = float(np.median([slide.diameter_um for slide in slides]))
        return tuple(round(fov * diameter_um, 6) for fov in model_config(LIKE, 1).fov_spots)
    return tuple(fov_um) if isinstance(fov_um, Sequence) else (float(fov_um),)
