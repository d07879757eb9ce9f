"""Which genes can be predicted from the image at all, asked of the data before any network is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ... import _keys as keys
from ..._checks import config as check_config
from ..._checks import predictability as check
from ..._slides import Selection, resolve
from ..._train.config import FitConfig
from ..._train.data import read_pieces, slide_index
from ...metrics import morans_i, noise_ceiling
from ...metrics.correlation import LEAST
from ...metrics.scores import nan_mean
from ...pp.lattice import infer_lattice
from ...pp.targets import TargetSpec, slide_means
from .._predictor.ood import image_statistics
from .._training.plan import columns_of, planned
from .image_graph import Spots, displaced, standardised, within_slides

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from spatialdata import SpatialData

    from ..._geometry import PatchSpec
    from ..._slides import Slide
    from .._training.training_plan import Run

MODEL = "ridge_color"
"""Model whose patches are read where nobody says otherwise: wider ones are shared by spots far apart."""
OF_EMBEDDINGS = "encoder_ridge"
"""Model that takes embeddings in their place."""


def predictability(
    sdata: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    *,
    genes: Sequence[str] | None = None,
    n_neighbors: int = 20,
    n_permutations: int = 199,
    target: TargetSpec | None = None,
    patch: PatchSpec | None = None,
    features_key: str | None = None,
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
    """Which genes can be predicted from the image, before any network is trained.

    Every spot is given the mean expression of the spots that look most like it elsewhere. How well that agrees with
    what was measured says what the image tells of a gene, to an eye that only knows colour and texture.

    Parameters
    ----------
    sdata
        Slides with counts: one object, or a list or mapping of such.
    genes
        Genes to ask about; by default those that `stp.pp.select_genes` marked, else the 250 most dispersed.
    n_neighbors
        Spots that look alike whose mean is taken.
    n_permutations
        Chance is measured so many times.
    target
        How counts are normalised; by default log1p CP10k over all genes.
    patch
        Fields of view; by default 1.5, 3 and 6 spot diameters, 112 px each.
    features_key
        Matrix of ``obsm`` with embeddings of the spots' images, in place of colour and texture of the patches.
    group_key
        Column of ``obs`` that says which slides belong together (the patient). By default every slide is a group.
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
        Seed of chance and of the noise ceiling.
    progress
        Whether to show a progress bar.

    Returns
    -------
    One row a gene, most predictable first:

    ``predictability``
        Correlation, across the spots of a slide, of the gene with its mean over spots that look alike.
    ``z``, ``p_value``, ``q_value``
        Against chance: standard deviations above it, probability of as much by chance, and the share of false finds
        among genes with this q or less (Benjamini and Hochberg).
    ``ceiling``, ``share_of_ceiling``
        What a perfect prediction would reach, given how few molecules were counted, and the share of it.
    ``moran``
        Moran's I of the gene over neighbouring places: how smooth it is, whether the image shows it or not.

    Writes ``predictability``, ``predictability_z`` and so on to ``var`` of the measured table, NaN for other genes, and
    how they were found to ``uns["predictability"]``.

    Raises
    ------
    ValueError
        If elements do not fit together, values are no counts, or no spot is far enough from another.

    Notes
    -----
    Spots that look alike are taken from other groups, or from other slides where there is one group; on a single slide
    from at least two spot distances away. Neighbours in space share pixels and expression, so that a gene which is
    smooth but invisible would seem predictable. Features and expression are standardised within each slide.

    Chance keeps smoothness: the measured values of each slide are turned and shifted over its spots as a whole, and
    folded back at the edges. Shuffling spots one by one would take every third smooth gene for a predictable one.

    A low value does not prove that no network can do better, only that colour and texture of the patches do not tell.

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
    )
    slides = resolve(sdata, selection)
    model = MODEL if features_key is None else OF_EMBEDDINGS
    config, target = FitConfig(validation="none"), target or TargetSpec()
    run = planned(slides, model, config=config, target=target, patch=patch, genes=genes)  # as `fit` would
    check.enough_on_slides(min(len(slide.xy_px) for slide in run.slides))
    spots = _spots(run, progress=progress)
    values = _values(run)
    scores, chance = _scores(values, spots, n_neighbors, n_permutations, seed)
    found = _frame(run, values, scores, chance, seed)
    record = {"n_neighbors": n_neighbors, "n_permutations": n_permutations, "neighbors": spots.apart, "seed": seed}
    record |= {"features": features_key or "colour and texture", "units": run.target.units}
    for slide in run.slides:
        _write(slide, found, record)
    found.attrs.update(record)
    return found.sort_values(keys.PREDICTABILITY, ascending=False)


def _spots(run: Run, *, progress: bool) -> Spots:
    index = slide_index(run.slides)
    features = [slide.features for slide in run.slides if slide.features is not None]
    known = np.concatenate(features) if features else _statistics(run, progress=progress)
    pitches = [infer_lattice(slide.xy_um)[0] or run.diameter_um for slide in run.slides]
    return Spots(
        features=standardised(known, index),
        xy_um=np.concatenate([slide.xy_um for slide in run.slides]),
        slide=index,
        group=np.array([slide.group for slide in run.slides])[index],
        pitch_um=float(np.median(pitches)),
    )


def _statistics(run: Run, *, progress: bool) -> NDArray[np.float32]:
    """Colour and texture of the patches of all spots."""
    share, found = run.diameter_um / run.patch.fov_um[0], []
    with tqdm(total=len(run.slide_index), desc="patches", unit="spot", disable=not progress) as bar:
        for slide in run.slides:
            order, parts = [], []
            for piece in read_pieces(slide, run.patch):
                order.append(piece.rows)
                parts.append(image_statistics(piece.spots.patches, share))
                bar.update(len(piece.rows))
            found.append(np.concatenate(parts)[np.argsort(np.concatenate(order))])
    return np.concatenate(found)


def _values(run: Run) -> NDArray[np.float32]:
    return np.concatenate([run.target.normalize(slide.counts, columns_of(slide, run.panel)) for slide in run.slides])


def _scores(
    values: NDArray[np.float32], spots: Spots, n_neighbors: int, n_permutations: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Agreement of each gene with its mean over spots that look alike ``(g,)``, and by chance ``(n, g)``."""
    centred = (values - slide_means(values, spots.slide)).astype(np.float32)
    weights, rng = spots.weights(n_neighbors), np.random.default_rng(seed)

    def agreement(some: NDArray[np.float32]) -> NDArray[np.float64]:
        return within_slides(some, weights @ some, spots.slide)

    moved = (displaced(spots.xy_um, spots.slide, rng) for _ in range(n_permutations))
    return agreement(centred), np.stack([agreement(centred[rows]) for rows in moved])


def _frame(
    run: Run, values: NDArray[np.float32], scores: NDArray[np.float64], chance: NDArray[np.float64], seed: int
) -> pd.DataFrame:
    from scipy.stats import false_discovery_control

    std = chance.std(axis=0)
    p_value = (1 + (chance >= scores).sum(axis=0)) / (1 + len(chance))
    per_slide = [_of_slide(slide, run, values[run.slide_index == i], seed) for i, slide in enumerate(run.slides)]
    ceiling, moran = (nan_mean(np.stack(part), axis=0) for part in zip(*per_slide, strict=True))
    columns = {
        keys.PREDICTABILITY: scores,
        "z": (scores - chance.mean(axis=0)) / np.where(std > 0, std, np.nan),
        "p_value": p_value,
        "q_value": false_discovery_control(p_value),
        "ceiling": ceiling,
        "share_of_ceiling": scores / np.where(ceiling > 0, ceiling, np.nan),
        "moran": moran,
    }
    return pd.DataFrame(columns, index=pd.Index(run.panel, name="gene"))


def _of_slide(
    slide: Slide, run: Run, values: NDArray[np.float32], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noise ceiling and Moran's I of each gene on one slide."""
    counts: Any = slide.counts
    spec, panel = run.target, counts[:, columns_of(slide, run.panel)]
    total = np.asarray(counts.sum(axis=1)).ravel() if spec.over == "all" else None
    ceiling = noise_ceiling(panel, total=total, target_sum=spec.target_sum, log1p=spec.log1p, seed=seed)
    enough = len(values) > LEAST
    return ceiling, morans_i(values, slide.xy_um) if enough else np.full(values.shape[1], np.nan)


def _write(slide: Slide, found: pd.DataFrame, record: Mapping[str, Any]) -> None:
    table = slide.source.tables[slide.table_name]
    for name in found.columns:
        column = name if name == keys.PREDICTABILITY else f"{keys.PREDICTABILITY}_{name}"
        table.var[column] = found[name].reindex(table.var_names).to_numpy()
    table.uns[keys.PREDICTABILITY] = dict(record)
