"""Train a predictor on slides: everything between a SpatialData object and the training loop."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pooch
import torch

from .. import _keys as keys
from .._checks import config as check_config
from .._checks import expression as check_expression
from .._checks import predictor as check_predictor
from .._checks import training as check
from .._geometry import PatchSpec
from .._slides import Selection, resolve, shared_genes
from .._train._batches import take
from .._train._color import color_statistics, fit_ridge
from .._train._config import FitConfig
from .._train._data import fold, held_spots
from .._train._device import make_fabric
from .._train._features import features_of
from .._train._loop import Held, seeded, train
from ..models import build, recipe
from ..models import config as named_config
from ..models._registry import named_fields
from ..pp._genes import ranked
from ..pp._targets import Targets, TargetSpec
from ._checkpoint import Checkpoint
from ._folder import CONFIG
from ._predictor import Member, Predictor
from ._provenance import provenance, record
from ._run import Run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike

    from lightning_fabric import Fabric
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from .._slides import Slide
    from ..models import ModelConfig, SpotBatch
    from ._checkpoint import Reporter

N_GENES = 250
"""How many genes are chosen where nobody chose."""
START_BATCH = 64
"""Spots that a network looks at together before it is trained."""


def fit(
    sdata: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    model: str = "m2ost_tiny",
    *,
    config: FitConfig | None = None,
    target: TargetSpec | None = None,
    patch: PatchSpec | None = None,
    model_options: Mapping[str, Any] | None = None,
    genes: Sequence[str] | None = None,
    group_key: str | None = None,
    validate_on: Sequence[str] | None = None,
    layer: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | Sequence[str] | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    features_key: str | None = None,
    save_dir: str | PathLike[str] | None = None,
    resume_from: str | PathLike[str] | None = None,
) -> Predictor:
    """Train a model that predicts expression from the patches of a spot.

    Parameters
    ----------
    sdata
        One object, with one or several slides, or a list or mapping of such objects.
    model
        Name of the model; `stp.models.available` lists them.
    config
        How to train; by default `FitConfig` with what `stp.models.recipe` says of the model. Models without anything to
        train by steps keep all spots where ``validation`` is ``"auto"``.
    target
        How counts become what is predicted; by default log1p CP10k over all genes.
    patch
        Fields of view; by default the model's multiples of the median spot diameter.
    model_options
        Fields of the model's configuration to change, for instance ``{"depth": 3}``.
    genes
        Genes to predict; by default those that `stp.pp.select_genes` marked, else the 250 most dispersed.
    group_key
        Column of ``obs`` that says which slides belong together (the patient): groups are never split between training
        and validation. By default every slide is its own group.
    validate_on
        Groups or slides to hold out for early stopping; by default one group, another for every member.
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
        Matrix of ``obsm`` with embeddings of the spots' images, for models that take such features (``encoder``).
    save_dir
        Folder for the predictor; by default one in the user's cache, named by a hash of data and options.
    resume_from
        Folder of a training that was interrupted: continue it. Data and options must be the same.

    Returns
    -------
    The predictor. Its place and hash are written to ``sdata.attrs["stpredict"]["predictor"]``; nothing else changes.

    Raises
    ------
    ValueError
        If elements do not fit together, values are no counts, or groups would leak.
    KeyboardInterrupt
        If training is interrupted; the best weights so far are kept for ``resume_from``.

    Notes
    -----
    Targets are standardised and projected on statistics of training spots only. The head starts at the training mean.
    A moving average of the weights is validated after every epoch, and the best is kept.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=4)
    >>> predictor = stp.tl.fit(sdata, config=stp.tl.FitConfig(n_epochs=1, progress=False))
    >>> predictor.patch.fov_um
    (150.0, 300.0, 600.0)
    """
    config, target = config or FitConfig(**recipe(model)), target or TargetSpec()
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
    slides = _with_counts(resolve(sdata, selection), config.min_library)
    panel = _panel(slides, genes)
    shape = named_config(model, len(panel), _with_width(model, model_options, slides))
    patch = patch or _default_patch(shape, slides)
    check_config.patch_fits(patch.fov_um, patch.size_px, len(shape.fov_spots), shape.size_px)
    config = _validated(config, shape, validate_on)
    folds = [fold(slides, config, member, validate_on) for member in range(config.n_members)]
    run = Run(
        slides=slides,
        panel=panel,
        model=model,
        shape=shape,
        patch=patch,
        target=target,
        config=config,
        folds=folds,
    )
    decided = run.values()
    folder = Path(resume_from or save_dir or default_folder(decided))
    check_predictor.replaceable(folder, CONFIG)
    fabric = make_fabric(config)
    first = fabric.is_global_zero
    with (
        Checkpoint.open(folder, decided, resume=resume_from is not None, writes=first) as checkpoint,
        held_spots(slides, patch, memory_bytes=config.memory_bytes, progress=config.progress and first) as (spots, out),
    ):
        predictor = _train_all(run, spots, int(out.sum()), checkpoint, fabric)
        if first:
            predictor.save(folder)
        fabric.barrier()  # no process returns before the folder is there
    record(slides, folder, predictor)
    return predictor


def default_folder(run: Mapping[str, Any]) -> Path:
    """Where a predictor goes if nobody says: the user's cache, by a hash of data and options.

    Parameters
    ----------
    run
        Data and options, ready for JSON.

    Returns
    -------
    The folder.
    """
    digest = hashlib.sha256(json.dumps(run, sort_keys=True).encode()).hexdigest()
    return Path(pooch.os_cache("stpredict")) / "predictors" / digest[:16]


def _with_counts(slides: Sequence[Slide], min_library: float) -> list[Slide]:
    """Check that values are counts, and leave out spots without any, or with far fewer than the slide's median."""
    kept = []
    for slide in slides:
        check_expression.counts(slide.counts, genes=slide.genes, spots=slide.obs_names.tolist())
        check_expression.unique_genes(slide.genes, repr(slide.name))
        empty = check_expression.zero_spots(slide.counts)
        library = np.zeros(len(empty)) if slide.counts is None else np.asarray(slide.counts.sum(axis=1)).ravel()
        enough = ~empty & (library >= min_library * np.median(library[~empty] if not empty.all() else library))
        kept.append(slide if enough.all() else _subset(slide, enough))
    n_all, n_kept = (sum(len(slide.xy_px) for slide in some) for some in (slides, kept))
    check.counted_spots(n_kept, n_all)
    check.enough_spots(n_kept)
    return [slide for slide in kept if len(slide.xy_px)]


def _subset(slide: Slide, rows: NDArray[np.bool_]) -> Slide:
    return dataclasses.replace(
        slide,
        xy_px=slide.xy_px[rows],
        instances=slide.instances[rows],
        obs_names=slide.obs_names[rows],
        counts=None if slide.counts is None else slide.counts[rows],
        features=None if slide.features is None else slide.features[rows],
    )


def _with_width(model: str, options: Mapping[str, Any] | None, slides: Sequence[Slide]) -> dict[str, Any]:
    """Options of the model, with the width of embeddings that came with the spots."""
    width = slides[0].features.shape[1] if slides[0].features is not None else None
    check_config.embeddings_fit(model, options or {}, width, takes="encoder" in named_fields(model))
    return {**(options or {}), **({} if width is None else {"encoder": "given", "n_features": width})}


def _validated(config: FitConfig, shape: ModelConfig, validate_on: Sequence[str] | None) -> FitConfig:
    """Nothing is held out, where nobody asked for it, from a model that takes no steps to be stopped."""
    with torch.device("meta"):
        by_steps = any(parameter.requires_grad for parameter in build(shape).parameters())
    if by_steps or config.validation != "auto" or validate_on is not None:
        return config
    return dataclasses.replace(config, validation="none")


def _panel(slides: Sequence[Slide], genes: Sequence[str] | None) -> list[str]:
    common = shared_genes(slides)
    check_expression.shared_genes(len(common), [len(slide.genes) for slide in slides])
    known = list(dict.fromkeys(gene for slide in slides for gene in slide.genes))
    asked, shared = _asked(genes, slides), set(common)
    wanted = known if asked is None else asked
    check_expression.known_genes(wanted, known)
    check.in_every_slide([gene for gene in wanted if gene not in shared], len(wanted))
    if asked is not None:
        return [gene for gene in asked if gene in shared]
    if len(common) <= N_GENES:
        return common
    from scipy.sparse import vstack

    counts = vstack([slide.counts[:, _columns(slide, common)] for slide in slides], format="csr")  # type: ignore[index]
    return [common[i] for i in ranked(counts, "dispersion", 0.1)[:N_GENES]]


def _asked(genes: Sequence[str] | None, slides: Sequence[Slide]) -> list[str] | None:
    """The genes that were named, or that `pp.select_genes` noted in the first object that has any."""
    if genes is not None:
        return list(dict.fromkeys([genes] if isinstance(genes, str) else genes))
    for slide in slides:
        chosen = slide.source.tables[slide.table_name].uns.get(keys.ATTRS, {}).get(keys.GENES)
        if chosen is not None:
            return [str(gene) for gene in chosen]
    return None


def _columns(slide: Slide, genes: Sequence[str]) -> list[int]:
    place = {gene: i for i, gene in enumerate(slide.genes)}
    return [place[gene] for gene in genes]


def _default_patch(shape: ModelConfig, slides: Sequence[Slide]) -> PatchSpec:
    diameter = float(np.median([slide.diameter_um for slide in slides]))
    return PatchSpec(fov_um=tuple(round(fov * diameter, 6) for fov in shape.fov_spots), size_px=shape.size_px)


def _train_all(run: Run, spots: SpotBatch, n_at_border: int, checkpoint: Checkpoint, fabric: Fabric) -> Predictor:
    values = np.concatenate([run.target.normalize(slide.counts, _columns(slide, run.panel)) for slide in run.slides])
    _warn_constant(values, run.panel)
    members = []
    for i in range(len(run.folds)):
        with checkpoint.member(i, run.config, len(run.folds)) as progress:
            members.append(_member(run, i, spots, values, progress, fabric))
    colors = color_statistics(spots.patches, run.diameter_um / run.patch.fov_um[0])
    ridge, penalty = fit_ridge(colors, values, _ridge_folds(run.slides, run.slide_index), run.slide_index, run.target)
    return Predictor(
        members=tuple(members),
        model=run.model,
        model_config=members[0].network.config,
        patch=run.patch,
        train_mean=values.mean(axis=0, dtype=np.float64).astype(np.float32),
        ridge_color=ridge,
        history=checkpoint.history(),
        provenance={
            **provenance(run, colors, penalty, n_at_border, checkpoint),
            "pretrained": members[0].pretrained,
        },
    )


def _warn_constant(values: NDArray[np.float32], panel: Sequence[str]) -> None:
    check.varying([gene for gene, varies in zip(panel, np.ptp(values, axis=0) > 0, strict=True) if not varies])


def _member(
    run: Run, number: int, spots: SpotBatch, values: NDArray[np.float32], progress: Reporter, fabric: Fabric
) -> Member:
    """Train one network; the statistics of its targets come from its own training spots."""
    held, index = run.folds[number].held, run.slide_index
    check.enough_spots(int((~held).sum()))
    targets = Targets.fit(run.target, run.panel, values[~held], index[~held])
    encoded = torch.empty(len(values), targets.n_outputs)
    for part in filter(np.any, (~held, held)):  # apart, since encoding may centre by slide
        encoded[torch.from_numpy(part)] = torch.from_numpy(targets.encode(values[part], index[part]))
    config = dataclasses.replace(run.config, seed=run.config.seed + 1000 * number)
    with seeded(config.seed, -1):
        network = build(dataclasses.replace(run.shape, n_outputs=targets.n_outputs))
        loaded = network.load_pretrained()
    spots = dataclasses.replace(spots, targets=encoded, features=features_of(network, spots, fabric))
    validation = None
    if held.any():
        check.enough_held(int(np.bincount(index[held]).max()))
        rows = torch.from_numpy(np.flatnonzero(held))
        validation = Held(spots=spots, rows=rows, observed=values[held], decode=targets.decode)
    rows = torch.from_numpy(np.flatnonzero(~held))
    network.start_from(take(spots, some) for some in rows.split(START_BATCH))
    train(network, spots, validation, config, fabric, state=progress.state, report=progress.report, rows=rows)
    return Member(network=network.cpu().eval(), targets=targets, pretrained=loaded)


def _ridge_folds(slides: Sequence[Slide], index: NDArray[np.int64]) -> NDArray[np.str_]:
    """Folds that choose the penalty: groups, else slides, else stripes of the only slide."""
    for names in ([slide.group for slide in slides], [slide.name for slide in slides]):
        if len(set(names)) > 1:
            return np.array(names)[index]
    x = slides[0].xy_px[:, 0]
    return np.searchsorted(np.quantile(x, [0.25, 0.5, 0.75]), x).astype(str)
