"""Spatial domains of measured or predicted expression, with or without the image."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from .. import _keys as keys
from .._checks import config as check_config
from .._checks import models as check_models
from .._checks.calls import public
from .._checks.names import did_you_mean
from .._checks.slides import quote
from .._domains.clusters import CLUSTERERS, medoid, pairwise_agreement
from .._domains.methods import CONFIGS, METHODS, NEED_IMAGE, USE_IMAGE, DomainTask, find_domains
from .._progress import progress_bar
from .._slides.slides import Selection
from .._train.config import FitConfig
from .._train.device import make_fabric
from ..metrics import chaos, pas, silhouette
from ..pp.targets import TargetSpec
from . import _errors as check
from ._domain_data.read import read_spots
from ._domain_data.transfer import transfer
from ._domain_data.write import check_own_matrix, embedding_name, write_domains

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._domains.methods import Clusterer, Method, Partition
    from .._slides.regions import Regions


@public
def domains(
    sdata: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    n_domains: int | None = None,
    method: Method | Sequence[Method] | None = None,
    *,
    clusterer: Clusterer = "gmm",
    refine: int = 0,
    n_seeds: int = 5,
    n_components: int = 20,
    options: Mapping[str, Any] | None = None,
    transfer_from: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData] | None = None,
    use_image: bool = True,
    target: TargetSpec | None = None,
    table_name: str | None = None,
    layer: str | None = None,
    features_key: str | None = None,
    library_key: str | None = None,
    allow_fractional_counts: bool = False,
    regions: Regions | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | Sequence[str] | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    key_added: str = keys.DOMAIN,
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Find spatial domains: groups of spots that are alike in expression, place or image.

    Expression is that of a table of counts, or of a table that `stp.tl.predict` wrote (``table_name="predicted"``), so
    slides without measurements have domains too. Labels are never read; `stp.tl.domain_scores` compares domains with
    them.

    Parameters
    ----------
    sdata
        One object, with one or several slides, or a list or mapping of such objects. Several slides get one set of
        domains.
    n_domains
        Number of domains, from 2. With ``transfer_from`` it may be left out.
    method
        ``"expression"`` (principal components), ``"smoothed"`` (of expression averaged over neighbours), ``"image"``
        (colour and texture, or embeddings), ``"joint"`` (components of both), ``"coordinates"`` (the place alone, a
        baseline), ``"staig"`` or ``"mcgae"``. There is no default, since none wins everywhere. With a list all are run,
        and the domains of the first are written.
    clusterer
        ``"gmm"``: a Gaussian mixture with one covariance, from the best of 20 starts of k-means; ``"kmeans"``; or
        ``"leiden"``, whose resolution is searched for the number of domains.
    refine
        Number of nearest spots whose most frequent domain replaces that of a spot; 0 for none.
    n_seeds
        Number of runs with seeds 0, 1, …; the medoid of the partitions is written, all of them are reported.
    n_components
        Number of principal components of expression.
    options
        Fields of the configuration of ``"staig"`` or ``"mcgae"`` to change; by name of the method if both are run.
    transfer_from
        Object with predicted expression by the same predictor and with domains in ``obs``, for instance measured slides
        of `stp.tl.domains`. The spots of ``sdata`` get these domains, so that numbers have one meaning.
    use_image
        Whether ``"staig"`` and ``"mcgae"`` use the image.
    target
        How counts are normalised; by default log1p CP10k. Predicted expression is taken as it is.
    table_name
        Table with the expression; by default ``"observed"``, or the only one with counts.
    layer
        Layer with raw counts; by default X.
    features_key
        Matrix of ``obsm`` with image embeddings of the spots, in place of colour and texture.
    library_key
        Column of ``obs`` with the library sizes of the spots over all genes.
    allow_fractional_counts
        Whether counts need not be whole numbers; then there are no halves of molecules.
    regions
        Find domains among only spots whose centre lies in these polygons, as in `stp.tl.fit`.
    image_key
        Image, or a mapping of spot elements to images, where there are several.
    shapes_key
        Elements that hold the spots; by default all that the table annotates.
    coordinate_system
        Coordinate system shared by image and spots, where there are several.
    um_per_px
        Resolution in µm per pixel; by default what the object records.
    key_added
        Column of ``obs`` that is written.
    device
        Device of the networks: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
    progress
        Whether to show a progress bar.

    Returns
    -------
    One row for each method and seed:

    ``method``, ``seed``, ``medoid``
        Which run; whether its domains are those of the method.
    ``held_out_share``
        `stp.metrics.domain_share` of one half of the molecules by domains that were found in the other half; NaN for
        predicted expression.
    ``silhouette``, ``chaos``, ``pas``
        `stp.metrics.silhouette` in the space that was clustered, `stp.metrics.chaos` and `stp.metrics.pas`.
        Descriptions, not criteria.
    ``agreement``
        Mean adjusted Rand index with the other seeds.
    ``n_epochs``, ``seconds``
        Epochs of the network, and the time of both runs (half and all molecules); that of the first seed includes what
        seeds share.

    With ``transfer_from`` one row: ``method`` is ``"transfer"``, and ``reference_ari`` is the adjusted Rand index of
    the domains of the reference and those that its predicted expression gives in five-fold cross-validation.

    Writes to the table: ``obs[key_added]``, categories ``"1"`` to ``"k"`` in the order of their mean in the first
    component of expression; ``obs[f"{key_added}_agreement"]``, the share of the other seeds that put the spot in the
    same domain (of a transfer ``obs[f"{key_added}_probability"]``); ``obs[f"{key_added}_isolated"]``, whether a spot
    has no neighbour; ``obsm["X_staig"]``, ``obsm["X_mcgae"]`` or ``obsm["X_domains"]`` (of another key
    ``obsm[f"X_{key_added}"]``), what was clustered, float32;
    ``uns[key_added]``, all that made them; and ``uns[f"{key_added}_colors"]``, the colours of `stp.pl.domains`, which
    scanpy and squidpy use too.

    Raises
    ------
    ValueError
        If a method needs an image that is not there, values are not counts, slides share too few genes, there are fewer
        than 50 spots, or the number of domains is not a whole number from 2.

    Notes
    -----
    Genes with counts in at least 5 spots, the 2,000 most dispersed, are standardised within slides and clipped at 10.
    The number of epochs of a network is chosen by the held-out half of the molecules. Docs: "Spatial domains".

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=1, n_side=8)
    >>> found = stp.tl.domains(sdata, 3, "joint", n_seeds=2, progress=False)
    >>> found["method"].tolist(), sdata["observed"].obs["domain"].cat.categories.tolist()
    (['joint', 'joint'], ['1', '2', '3'])
    """
    selection = Selection(
        image_key=image_key,
        shapes_key=shapes_key,
        table_name=table_name,
        coordinate_system=coordinate_system,
        layer=layer,
        um_per_px=um_per_px,
        features_key=features_key,
        library_key=library_key,
        allow_fractional_counts=allow_fractional_counts,
        regions=regions,
    )
    check_models.text("key_added", key_added)
    if transfer_from is not None:
        check.transferred(method, options)
        return transfer(sdata, transfer_from, selection, n_domains, key_added)
    methods = _checked_methods(method)
    counts = {"n_seeds": n_seeds, "n_components": n_components}
    for argument, value in (counts | {"refine": refine} if refine else counts).items():
        check_models.positive_int(argument, value)
    check_config.one_of("clusterer", clusterer, tuple(CLUSTERERS))
    configs = _configs(methods, options)
    with_image = [name for name in methods if name in USE_IMAGE and (use_image or name in NEED_IMAGE)]
    spots = read_spots(sdata, selection, target or TargetSpec(), with_image=with_image, progress=progress)
    check.number_of_domains(n_domains, len(spots.slide))
    check.own_column(key_added, spots.tables)
    check_own_matrix(embedding_name(methods[0], key_added), spots.tables)
    fabric = make_fabric(FitConfig(accelerator=device)) if configs else None
    tasks = [
        DomainTask(
            method=name,
            n_domains=int(n_domains),  # type: ignore[arg-type]
            xy=spots.xy,
            slide=spots.slide,
            expression=spots.expression,
            halves=spots.halves,
            image=spots.image if name in with_image else None,
            n_components=n_components,
            clusterer=clusterer,
            refine=refine,
            options=configs.get(name),
            device=torch.device("cpu") if fabric is None else fabric.device,
        )
        for name in methods
    ]
    runs = _run_tasks(tasks, n_seeds, progress=progress)
    agreements = [pairwise_agreement([one.domains for one in found]) for found in runs]
    result = pd.concat(map(_rows, tasks, runs, agreements), ignore_index=True)
    write_domains(spots, tasks[0], runs[0], medoid(agreements[0]), result, key_added)
    return result


def _run_tasks(tasks: Sequence[DomainTask], n_seeds: int, *, progress: bool) -> list[list[Partition]]:
    """The partitions of each task, one for each seed."""
    runs = []
    with progress_bar(total=len(tasks) * n_seeds, desc="domains", unit="run", progress=progress) as bar:
        for task in tasks:
            found = []
            for partition in find_domains(task, range(n_seeds)):
                found.append(partition)
                bar.update()
            runs.append(found)
    return runs


def _checked_methods(method: Method | Sequence[Method] | None) -> list[Method]:
    methods: list[Any] = [method] if isinstance(method, str) or method is None else list(method)
    for name in methods or [None]:
        if name not in METHODS:
            msg = (
                f"`method` is {name!r}; there are: {', '.join(map(repr, METHODS))}.{did_you_mean([name], METHODS)} "
                "None of them is best on all tissue: run several, as in "
                "`stp.tl.domains(sdata, 5, ['expression', 'smoothed', 'joint'])`."
            )
            raise ValueError(msg)
    if len(set(methods)) < len(methods):
        msg = f"A method is named more than once: {quote(methods)}. Name each once."
        raise ValueError(msg)
    return methods


def _configs(methods: Sequence[Method], options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Configuration of each method with a network."""
    networks = [name for name in methods if name in CONFIGS]
    given = dict(options or {})
    if given and not networks:
        msg = (
            f"`options` are those of 'staig' and 'mcgae' (given: {quote(list(given))}), and `method` is "
            f"{quote(methods)}. Leave them out."
        )
        raise ValueError(msg)
    by_method = given if set(given) <= set(networks) else dict.fromkeys(networks, given)
    configs: dict[str, Any] = {}
    for name in networks:
        mine, known = dict(by_method.get(name, {})), [*CONFIGS[name].__dataclass_fields__]
        check_config.known_fields(f"The configuration of {name!r}", list(mine), known)
        configs[name] = replace(CONFIGS[name](), **mine)
    return configs


def _rows(task: DomainTask, found: Sequence[Partition], agreement: NDArray[np.float64]) -> pd.DataFrame:
    """One row for each seed."""
    n, best = len(found), medoid(agreement)
    return pd.DataFrame({
        "method": task.method,
        "seed": np.arange(n),
        "medoid": np.arange(n) == best,
        "held_out_share": [one.held_out_share for one in found],
        "silhouette": [silhouette(one.features, one.domains) for one in found],
        "chaos": [chaos(task.xy, one.domains, slide=task.slide) for one in found],
        "pas": [pas(task.xy, one.domains, slide=task.slide) for one in found],
        "agreement": (agreement.sum(axis=1) - 1) / (n - 1) if n > 1 else np.nan,
        "n_epochs": [one.n_epochs for one in found],
        "seconds": [one.seconds for one in found],
    })  # fmt: skip
