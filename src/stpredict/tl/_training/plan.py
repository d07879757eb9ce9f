"""What is decided about a training before the first patch is read: spots, genes, shape of the network, validation."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ... import _keys as keys
from ..._checks import config as check_config
from ..._checks import expression as check_expression
from ..._checks import training as check
from ..._geometry import PatchSpec
from ..._slides import shared_genes
from ..._train.data import fold
from ...models import build
from ...models import config as named_config
from ...models.model_config import GIVEN
from ...models.registry import accepts_embeddings
from ...pp.gene_ranking import rank_genes
from .training_plan import Run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ..._slides import Slide
    from ..._train.config import FitConfig
    from ...models import ModelConfig
    from ...pp.targets import TargetSpec

N_GENES = 250
"""How many genes are chosen where nobody chose."""


def planned(
    slides: Sequence[Slide],
    model: str,
    *,
    config: FitConfig,
    target: TargetSpec,
    patch: PatchSpec | None = None,
    model_options: Mapping[str, Any] | None = None,
    genes: Sequence[str] | None = None,
    validate_on: Sequence[str] | None = None,
) -> Run:
    """Decide and check everything about a training before the first patch is read.

    Parameters
    ----------
    slides
        Slides with counts.
    model, config, target, patch, model_options, genes, validate_on
        As in `fit`.

    Returns
    -------
    The run.
    """
    slides = with_counts(slides, config.min_library)
    panel = _panel(slides, genes)
    shape = named_config(model, len(panel), _with_width(model, model_options, slides))
    patch = patch or _default_patch(shape, slides)
    check_config.patch_fits(patch.fov_um, patch.size_px, len(shape.fov_spots), shape.size_px)
    config = _validated(config, shape, validate_on)
    folds = [fold(slides, config, member, validate_on) for member in range(config.n_members)]
    return Run(
        slides=slides,
        panel=panel,
        model=model,
        shape=shape,
        patch=patch,
        target=target,
        config=config,
        folds=folds,
    )


def with_counts(slides: Sequence[Slide], min_library: float) -> list[Slide]:
    """Check that values are counts, and leave out spots without any, or with far fewer than the slide's median.

    Parameters
    ----------
    slides
        Slides with counts.
    min_library
        Share of the median of a slide that a spot must have.

    Returns
    -------
    Slides that keep any spot.
    """
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
    widths = {slide.name: slide.features.shape[1] for slide in slides if slide.features is not None}
    check_config.same_width(widths)
    width = next(iter(widths.values()), None)
    check_config.embeddings_fit(model, options or {}, width, takes=accepts_embeddings(model, {}))
    return {**(options or {}), **({} if width is None else {"encoder": GIVEN, "n_features": width})}


def _validated(config: FitConfig, shape: ModelConfig, validate_on: Sequence[str] | None) -> FitConfig:
    """Nothing is held out, where nobody asked for it, from a model that takes no steps to be stopped."""
    with torch.device("meta"):
        has_trainable_parameters = build(shape).has_trainable_parameters
    if has_trainable_parameters or config.validation != "auto" or validate_on is not None:
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
    return dispersed(slides, common, N_GENES)


def dispersed(slides: Sequence[Slide], genes: Sequence[str], n_genes: int) -> list[str]:
    """The most dispersed genes of some slides.

    Parameters
    ----------
    slides
        Slides with counts.
    genes
        Genes that all of them have.
    n_genes
        How many to choose.

    Returns
    -------
    All genes where there are no more, else the most dispersed ones, by falling rank.
    """
    if len(genes) <= n_genes:
        return list(genes)
    from scipy.sparse import vstack

    counts = vstack([slide.counts[:, columns_of(slide, genes)] for slide in slides], format="csr")  # type: ignore[index]
    return [genes[i] for i in rank_genes(counts, "dispersion", 0.1)[:n_genes]]


def _asked(genes: Sequence[str] | None, slides: Sequence[Slide]) -> list[str] | None:
    """The genes that were named, or that `pp.select_genes` noted in the first object that has any."""
    if genes is not None:
        return list(dict.fromkeys([genes] if isinstance(genes, str) else genes))
    for slide in slides:
        chosen = slide.source.tables[slide.table_name].uns.get(keys.ATTRS, {}).get(keys.GENES)
        if chosen is not None:
            return [str(gene) for gene in chosen]
    return None


def columns_of(slide: Slide, genes: Sequence[str]) -> list[int]:
    """Columns of some genes in the counts of a slide.

    Parameters
    ----------
    slide
        The slide.
    genes
        Names of its genes.

    Returns
    -------
    Positions.
    """
    place = {gene: i for i, gene in enumerate(slide.genes)}
    return [place[gene] for gene in genes]


def _default_patch(shape: ModelConfig, slides: Sequence[Slide]) -> PatchSpec:
    diameter = float(np.median([slide.diameter_um for slide in slides]))
    return PatchSpec(fov_um=tuple(round(fov * diameter, 6) for fov in shape.fov_spots), size_px=shape.size_px)
