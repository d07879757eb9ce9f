"""Which genes can be predicted from the image, estimated before a network is trained."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ... import _keys as keys
from ..._checks import config as check_config
from ..._checks.calls import public
from ..._slides.slides import Selection, resolve
from ..._train.config import FitConfig
from ..._train.data import map_slides, slide_index
from ...metrics import morans_i, noise_ceiling
from ...metrics.correlation import LEAST
from ...metrics.inputs import nan_mean
from ...pp.lattice import infer_lattice
from ...pp.normalization import gene_columns, slide_library
from ...pp.targets import TargetSpec, slide_means, standardize_within_slides
from .._evaluate import ceiling_arguments
from .._predictor.ood import image_statistics
from .._training.plan import plan_training
from .image_graph import ImageSpace, pearson_within_slides, torus_shift_permutation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ..._geometry import PatchSpec
    from ..._slides.regions import Regions
    from ..._slides.slides import Slide
    from .._training.plan import TrainingPlan

MODEL = "ridge_color"
"""Model whose default patches are read: wider patches would be shared by spots far apart."""
EMBEDDING_MODEL = "encoder_ridge"
"""Model that is planned if embeddings are given."""


@public
def predictability(
    sdata: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    *,
    genes: Sequence[str] | None = None,
    n_neighbors: int = 20,
    n_permutations: int = 199,
    target: TargetSpec | None = None,
    patch: PatchSpec | None = None,
    features_key: str | None = None,
    library_key: str | None = None,
    allow_fractional_counts: bool = False,
    regions: Regions | None = None,
    group_key: str | None = None,
    layer: str | None = None,
    image_key: str | Mapping[str, str] | None = None,
    shapes_key: str | Sequence[str] | None = None,
    table_name: str | None = None,
    coordinate_system: str | None = None,
    um_per_px: float | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Estimate which genes can be predicted from the image, before a network is trained.

    The method is nearest-neighbour regression in image space: each spot gets the mean expression of the spots with the
    most similar patches on other slides. The correlation of a gene with this prediction measures how much colour and
    texture of the image tell about it.

    Parameters
    ----------
    sdata
        Slides with counts: one object, or a list or mapping of such.
    genes
        Genes to score; by default those that `stp.pp.select_genes` marked, else the 250 most dispersed.
    n_neighbors
        Number of nearest neighbours in image space.
    n_permutations
        Number of permutations for the null distribution.
    target
        How counts are normalised; by default log1p CP10k over all genes.
    patch
        Fields of view; by default 1.5, 3 and 6 spot diameters, 112 px each.
    features_key
        Matrix of ``obsm`` with image embeddings of the spots, in place of colour and texture of the patches.
    library_key
        Column of ``obs`` with the library sizes of the spots over all genes, for tables that do not hold all genes;
        by default counts are summed over the genes of the table.
    allow_fractional_counts
        Whether counts need not be whole numbers, for instance after correction for ambient RNA.
    regions
        Use only spots whose centre lies in these polygons, as in `stp.tl.fit`.
    group_key
        Column of ``obs`` that names the group of a slide (the patient). By default every slide is a group.
    layer
        Layer with raw counts; by default X.
    image_key
        Image, or a mapping of spot elements to images, where there are several.
    shapes_key
        Elements that hold the spots; by default all that the table annotates. Name the training slides only.
    table_name
        Table with the counts; by default ``"observed"``, or the only one.
    coordinate_system
        Coordinate system shared by image and spots, where there are several.
    um_per_px
        Resolution in µm per pixel; by default what the object records.
    seed
        Seed of the permutations and of the noise ceiling.
    progress
        Whether to show a progress bar.

    Returns
    -------
    One row per gene, most predictable first:

    ``predictability``
        Pearson correlation, across the spots of a slide, of the gene with its mean over the nearest neighbours.
    ``z``, ``p_value``, ``q_value``
        Compared with permutations: standard score, p-value, and false discovery rate (Benjamini and Hochberg).
    ``ceiling``, ``share_of_ceiling``
        Noise ceiling, the correlation that a perfect prediction would reach given the counting noise, and the share of
        it that is reached.
    ``moran``
        Moran's I of the gene over neighbouring spots: its spatial smoothness, whether the image shows it or not.

    Writes ``predictability``, ``predictability_z`` and so on to ``var`` of the measured table, NaN for other genes, and
    the parameters to ``uns["predictability"]``.

    Raises
    ------
    ValueError
        If elements do not match, values are not counts, or a spot has no distant spot.

    Notes
    -----
    Neighbours are taken from other groups, or from other slides if there is one group; on a single slide from at least
    two spot distances away. Spots that are close in space share pixels and expression, so a smooth gene would seem
    predictable even if the image does not show it. Features and expression are standardised within each slide.

    Permutations keep spatial autocorrelation (a random shift test): the values of each slide are rotated and shifted
    over its spots as a whole, and reflected at the edges. With independent permutation of spots, every third smooth
    gene would be called predictable.

    A low value does not prove that no network can do better, only that colour and texture do not suffice.

    Examples
    --------
    >>> import stpredict as stp
    >>> sdata = stp.datasets.synthetic(n_slides=2, n_side=6)
    >>> found = stp.tl.predictability(sdata, n_permutations=19, progress=False)
    >>> len(found), found.columns[0]
    (12, 'predictability')
    """
    check_config.in_range("n_neighbors", n_neighbors, 1, 10_000)
    check_config.in_range("n_permutations", n_permutations, 1, 100_000)
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
        allow_fractional_counts=allow_fractional_counts,
        regions=regions,
    )
    slides = resolve(sdata, selection)
    model = MODEL if features_key is None else EMBEDDING_MODEL
    config, target = FitConfig(validation="none"), target or TargetSpec()
    plan = plan_training(slides, model, config=config, target=target, patch=patch, genes=genes)
    if (n_least := min(len(slide.xy_px) for slide in plan.slides)) < 3:
        msg = (
            f"A slide has {n_least} spots with counts; at least 3 are needed for a correlation. Name larger slides "
            "with `shapes_key`."
        )
        raise ValueError(msg)
    space = _image_space(plan, progress=progress)
    values = plan.normalized_counts()
    scores, null = _scores(values, space, n_neighbors, n_permutations, seed)
    found = _frame(plan, values, scores, null, seed)
    record = {
        "n_neighbors": n_neighbors,
        "n_permutations": n_permutations,
        "neighbors": space.neighbors_from,
        "seed": seed,
    }
    record |= {"features": features_key or "colour and texture", "units": plan.target.units}
    for slide in plan.slides:
        _write(slide, found, record)
    found.attrs.update(record)
    return found.sort_values(keys.PREDICTABILITY, ascending=False)


def _image_space(plan: TrainingPlan, *, progress: bool) -> ImageSpace:
    index = slide_index(plan.slides)
    features = [slide.features for slide in plan.slides if slide.features is not None]
    if features:
        known = np.concatenate(features)
    else:
        statistics = partial(image_statistics, spot_share=plan.diameter_um / plan.patch.fov_um[0])
        known = map_slides(statistics, plan.slides, [plan.patch] * len(plan.slides), progress=progress)
    pitches = [infer_lattice(slide.xy_um)[0] or plan.diameter_um for slide in plan.slides]
    return ImageSpace(
        features=standardize_within_slides(known, index),
        xy_um=np.concatenate([slide.xy_um for slide in plan.slides]),
        slide=index,
        group=np.array([slide.group for slide in plan.slides])[index],
        pitch_um=float(np.median(pitches)),
    )


def _scores(
    values: NDArray[np.float32], space: ImageSpace, n_neighbors: int, n_permutations: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Correlation of each gene with its mean over neighbours, ``(g,)``, and its null distribution, ``(n, g)``."""
    centred = (values - slide_means(values, space.slide)).astype(np.float32)
    weights, rng = space.weights(n_neighbors), np.random.default_rng(seed)

    def neighbor_correlation(expression: NDArray[np.float32]) -> NDArray[np.float64]:
        return pearson_within_slides(expression, weights @ expression, space.slide)

    permutations = (torus_shift_permutation(space.xy_um, space.slide, rng) for _ in range(n_permutations))
    null = [neighbor_correlation(centred[rows]) for rows in permutations]
    return neighbor_correlation(centred), np.stack(null)


def _frame(
    plan: TrainingPlan, values: NDArray[np.float32], scores: NDArray[np.float64], null: NDArray[np.float64], seed: int
) -> pd.DataFrame:
    from scipy.stats import false_discovery_control

    std = null.std(axis=0)
    p_value = (1 + (null >= scores).sum(axis=0)) / (1 + len(null))
    per_slide = [
        _ceiling_and_moran(slide, plan, values[plan.slide_index == i], seed) for i, slide in enumerate(plan.slides)
    ]
    ceiling, moran = (nan_mean(np.stack(part), axis=0) for part in zip(*per_slide, strict=True))
    columns = {
        keys.PREDICTABILITY: scores,
        "z": (scores - null.mean(axis=0)) / np.where(std > 0, std, np.nan),
        "p_value": p_value,
        "q_value": false_discovery_control(p_value),
        "ceiling": ceiling,
        "share_of_ceiling": scores / np.where(ceiling > 0, ceiling, np.nan),
        "moran": moran,
    }
    return pd.DataFrame(columns, index=pd.Index(plan.genes, name="gene"))


def _ceiling_and_moran(
    slide: Slide, plan: TrainingPlan, values: NDArray[np.float32], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noise ceiling and Moran's I of each gene on one slide."""
    counts: Any = slide.counts
    library = slide_library(slide, plan.target, plan.counts_record)
    arguments = ceiling_arguments(counts[:, gene_columns(slide, plan.genes)], library, plan.target)
    ceiling = noise_ceiling(**arguments, seed=seed)
    enough = len(values) > LEAST
    return ceiling, morans_i(values, slide.xy_um) if enough else np.full(values.shape[1], np.nan)


def _write(slide: Slide, found: pd.DataFrame, record: Mapping[str, Any]) -> None:
    table = slide.source.tables[slide.table_name]
    for name in found.columns:
        column = name if name == keys.PREDICTABILITY else f"{keys.PREDICTABILITY}_{name}"
        table.var[column] = found[name].reindex(table.var_names).to_numpy()
    table.uns[keys.PREDICTABILITY] = dict(record)
