"""Expression, places and image features of all spots in which domains are found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from ... import _keys as keys
from ..._checks import expression as check_expression
from ..._domains.features import split_molecules, standardize
from ..._domains.methods import METHODS, NEED_IMAGE, Halves
from ..._geometry import PatchSpec
from ..._slides.slides import resolve, shared_genes
from ..._train.data import map_slides, slide_index
from ...pp.gene_ranking import rank_genes
from ...pp.lattice import infer_lattice
from ...pp.normalization import CountsRecord, gene_columns, slide_library
from .. import _errors as check
from .._predictor.ood import image_statistics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData
    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ..._slides.slides import Selection, Slide
    from ...pp.targets import TargetSpec

N_GENES, N_JUDGING, MIN_SPOTS_OF_GENE, MIN_SPOTS = 2000, 500, 5, 50
"""Variable genes that domains are found in, and that judge them; least spots with counts of a gene; least spots."""
PATCH_PX = 56
"""Side of the patches whose colour and texture are image features."""
SPLIT_SEED = 0
"""Seed of the halves of molecules, the same for all methods."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DomainSpots:
    """All spots of all slides."""

    slides: list[Slide]
    genes: list[str]
    slide: NDArray[np.int64]
    expression: NDArray[np.float32]
    """``(n, g)`` log-normalised, of all molecules."""
    halves: Halves | None
    image: NDArray[np.float32] | None
    image_from: str
    predicted: Mapping[str, Any] | None
    """What `predict` recorded, for predicted expression."""

    @property
    def tables(self) -> list[tuple[str, AnnData]]:
        """Name and table of each slide."""
        names = [str(slide.table_name) for slide in self.slides]
        return [(name, slide.source.tables[name]) for name, slide in zip(names, self.slides, strict=True)]

    @property
    def xy(self) -> NDArray[np.float64]:
        """``(n, 2)`` centres in µm, or in coordinates of the spots where there is no image."""
        return np.concatenate([slide.xy_um for slide in self.slides])


def read_spots(
    sdata: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    selection: Selection,
    target: TargetSpec,
    *,
    with_image: Sequence[str] = (),
    progress: bool = False,
) -> DomainSpots:
    """Read expression, places, and image features for the methods that use them, and check all."""
    needs_image = bool(with_image)
    reads_patches = needs_image and selection.features_key is None
    check.has_image_for(
        sdata, with_image if reads_patches else [], [name for name in METHODS if name not in NEED_IMAGE]
    )
    if not reads_patches:  # the resolution of an image does not count then
        selection = replace(selection, in_px=True)
    slides = resolve(sdata, selection, needs_image=reads_patches)
    check.enough_spots_for_domains(sum(len(slide.xy_px) for slide in slides), MIN_SPOTS)
    genes = shared_genes(slides)
    check.genes_of_slides(len(genes), {slide.name: len(slide.genes) for slide in slides})
    records = [slide.source.tables[str(slide.table_name)].uns.get(str(slide.table_name), {}) for slide in slides]
    is_predicted = [keys.TARGET in record for record in records]
    check.predicted_or_measured(is_predicted, [slide.name for slide in slides])
    index = slide_index(slides)
    matrices = [
        slide.counts if list(slide.genes) == genes else slide.counts[:, gene_columns(slide, genes)]  # type: ignore[index]
        for slide in slides
    ]
    matrix = sparse.csr_matrix(sparse.vstack(matrices, format="csr"))
    if is_predicted[0]:
        expression, halves = matrix.toarray().astype(np.float32), None
        check.finite_expression(expression, genes, [slide.name for slide in slides])
    else:
        check_expression.counts(
            matrix,
            genes=genes,
            spots=np.concatenate([slide.obs_names for slide in slides]).tolist(),
            fractional=selection.allow_fractional_counts,
        )
        library = _library(slides, len(genes), target, selection.library_key)
        expression, _ = _normalize_counts(matrix, index, target, library)
        halves = None if selection.allow_fractional_counts else _halves(matrix, index, target, library)
    image, image_from = None, ""
    if needs_image:
        image_from = selection.features_key or "colour and texture"
        features = [slide.features for slide in slides if slide.features is not None]
        found = np.concatenate(features) if features else _colors_and_texture(slides, progress=progress)
        image = standardize(found, index)
        check.varying_image(image, image_from)
    return DomainSpots(
        slides=slides,
        genes=genes,
        slide=index,
        expression=expression,
        halves=halves,
        image=image,
        image_from=image_from,
        predicted=records[0] if is_predicted[0] else None,
    )


def _library(
    slides: Sequence[Slide], n_genes: int, target: TargetSpec, library_key: str | None
) -> NDArray[np.float64] | None:
    """Library sizes of all spots, by the rules of training; None where they are sums over the genes that are used."""
    record = CountsRecord.of(slides, library_key)
    found = [slide_library(slide, target, record) for slide in slides]
    known = [each for each in found if each is not None]
    only_these = library_key is None and all(len(slide.genes) == n_genes for slide in slides)
    return None if only_these or not known else np.concatenate(known)


def _halves(
    matrix: sparse.csr_matrix, index: NDArray[np.int64], target: TargetSpec, library: NDArray[np.float64] | None
) -> Halves:
    """Expression by half of the molecules, and the other half of its most variable genes."""
    first, second = split_molecules(matrix, SPLIT_SEED)
    half_library = None if library is None else library / 2
    values, columns = _normalize_counts(first, index, target, half_library)
    return Halves(values=values, held_out=target.normalize(second, columns[:N_JUDGING], half_library))


def _normalize_counts(
    matrix: sparse.csr_matrix, index: NDArray[np.int64], target: TargetSpec, library: NDArray[np.float64] | None
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Normalised expression of the genes that vary most in all slides, and their columns, best first."""
    rank = np.zeros(matrix.shape[1])
    for i in np.unique(index):
        part = matrix[index == i]
        part = part[~check_expression.zero_spots(part)]
        order = rank_genes(part, "dispersion", MIN_SPOTS_OF_GENE / part.shape[0])
        place = np.full(matrix.shape[1], np.inf)
        place[order] = np.arange(len(order))
        rank += place
    columns = np.argsort(rank, kind="stable")[: min(N_GENES, int(np.isfinite(rank).sum()))]
    check.variable_genes(len(columns))
    return target.normalize(matrix, columns, library), columns


def _colors_and_texture(slides: list[Slide], *, progress: bool) -> NDArray[np.float32]:
    """Colour and texture of a patch as wide as the distance of spots, and of its central half."""
    sides_um = [float(infer_lattice(slide.xy_um)[0] or slide.diameter_um) for slide in slides]
    patches = [PatchSpec(fov_um=(side_um,), size_px=PATCH_PX) for side_um in sides_um]
    return map_slides(partial(image_statistics, spot_share=0.5), slides, patches, progress=progress)
