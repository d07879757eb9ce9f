"""Published ways of comparing models, for comparison with published numbers. Each states its own weaknesses."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._slides.slides import shared_genes
from ...datasets import gene_panel
from ...metrics import morans_i
from ...pp.normalization import gene_columns, normalize_slide
from ...pp.targets import TargetSpec
from .folds import M2OST_SEED, cross_validation_splits, m2ost_split

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from ..._slides.slides import Slide
    from ...pp.normalization import CountsRecord
    from .folds import Split

PANELS = ("her2st", "cscc", "hbc")
"""Panels that the authors of M2OST published."""
N_CANDIDATES, N_PANEL = 1500, 250
"""Genes with the highest variance of raw counts in a section, and how many of those in all sections are drawn."""
N_HEST = 50
N_HMHVG = 300
N_SPARED = 128
N_SMOOTHED = 8
"""Neighbours whose labels are averaged with those of a spot."""
GENES_AT_ONCE = 2000
HOPS = 7
"""Largest neighbourhood in which a zero is replaced by a median, in rings of spots."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """A published way of comparing models."""

    target: TargetSpec
    """How counts become targets."""
    splits: Callable[[Sequence[Slide]], tuple[Split, ...]]
    """The folds."""
    genes: Callable[[Sequence[Slide]], list[str]] | None
    """The genes, by rules that look at the test slides; None chooses them in each fold from its training slides."""
    headline: str
    """Column of the summary that the publication reports."""
    labels: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]] | None = None
    """From the measured values ``(n, g)`` of a slide and the centres of its spots to the values that are trained on
    and scored; None leaves them as they are."""
    pooled: bool = False
    """Whether correlations are over all test spots of a fold together, not within slides."""
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options of models that the publication fixes, by model."""
    fov_um: float | None = None
    """Field of view of those models in µm, where it is fixed."""
    config: Mapping[str, Any] = field(default_factory=lambda: {"min_library": 0.0})
    """Training options that the publication fixes: no spot with counts is left out."""
    note: str = ""
    """Weaknesses of the protocol."""


def _m2ost_genes(slides: Sequence[Slide]) -> list[str]:
    """The authors' panel where all its genes are measured, else genes drawn by their rule."""
    known = shared_genes(slides)
    for name in PANELS:
        panel = gene_panel(name)
        if set(panel) <= set(known):
            return panel
    common = set(known)
    for slide in slides:
        variance = _variance(slide.counts[:, gene_columns(slide, known)].astype(np.float64))  # type: ignore[index]
        common &= {known[i] for i in np.argsort(-variance, kind="stable")[:N_CANDIDATES]}
    order = sorted(common)
    return sorted(random.Random(M2OST_SEED).sample(order, min(N_PANEL, len(order))))


def _log_counts(slides: Sequence[Slide], genes: Sequence[str]) -> csr_matrix:
    """log1p counts of the genes in the spots of all slides."""
    from scipy.sparse import vstack

    return vstack([slide.counts[:, gene_columns(slide, genes)] for slide in slides], format="csr").log1p()  # type: ignore[index]


def _hest_genes(slides: Sequence[Slide]) -> list[str]:
    """The genes with the highest variance of log1p counts over the spots of all slides, including test slides."""
    known = shared_genes(slides)
    return [known[i] for i in np.argsort(-_variance(_log_counts(slides, known)), kind="stable")[:N_HEST]]


def _hmhvg_genes(slides: Sequence[Slide]) -> list[str]:
    """The genes with the highest product of mean and variance of log counts over the spots of all slides."""
    known = shared_genes(slides)
    values = _log_counts(slides, known)
    product = np.asarray(values.mean(axis=0)).ravel() * _variance(values)
    return [known[i] for i in np.argsort(-product, kind="stable")[:N_HMHVG]]


def _spared_genes(slides: Sequence[Slide]) -> list[str]:
    """The genes with the highest Moran's I of log CPM, mean over all slides."""
    known = shared_genes(slides)
    total = np.zeros(len(known))
    for slide in slides:
        columns = gene_columns(slide, known)
        for start in range(0, len(known), GENES_AT_ONCE):
            part = slice(start, start + GENES_AT_ONCE)
            values = CPM.normalize(slide.counts, columns[part])
            total[part] += np.nan_to_num(morans_i(values, slide.xy_px))
    return [known[i] for i in np.argsort(-total, kind="stable")[:N_SPARED]]


def average_neighbors(values: NDArray[np.float64], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each spot and its nearest 8."""
    mean: NDArray[np.float64] = values[_nearest(xy, N_SMOOTHED + 1)].mean(axis=1)
    return mean


def fill_zeros(values: NDArray[np.float64], xy: NDArray[np.float64]) -> NDArray[np.float64]:
    """Zeros become the median of the nearest 8 spots, else of 24, … 224, the first above 0; else that of the gene.

    After the adaptive median of SpaRED (Mejia et al. 2024). The median of a gene is that of its values above 0.
    """
    filled = values.copy()
    for hop in range(1, HOPS + 1):
        rows, columns = np.nonzero(filled == 0)
        if not len(rows):
            return filled
        near = _nearest(xy, (2 * hop + 1) ** 2)
        filled[rows, columns] = np.median(values[near[rows], columns[:, None]], axis=1)
    above = np.where(values > 0, values, np.nan)
    some = (values > 0).any(axis=0)
    rest = np.zeros(values.shape[1])
    rest[some] = np.nanmedian(above[:, some], axis=0)
    return np.where(filled == 0, rest, filled)


def _nearest(xy: NDArray[np.float64], k: int) -> NDArray[np.intp]:  # (n, k)
    """Each spot and those nearest to it; all where there are fewer than ``k``."""
    from scipy.spatial import cKDTree

    near: NDArray[np.intp] = cKDTree(xy).query(xy, k=np.arange(1, min(k, len(xy)) + 1))[1]
    return near


def relabel(slides: Sequence[Slide], genes: Sequence[str], rule: Protocol, record: CountsRecord) -> list[Slide]:
    """Slides whose counts of the genes, normalised, are the labels of the protocol; other genes have none."""
    if rule.labels is None:
        return list(slides)
    return [_relabel(slide, genes, rule, record) for slide in slides]


def _relabel(slide: Slide, genes: Sequence[str], rule: Protocol, record: CountsRecord) -> Slide:
    from scipy.sparse import coo_matrix, csr_matrix

    measured = normalize_slide(slide, genes, rule.target, record).astype(np.float64)
    labels = np.expm1(rule.labels(measured, slide.xy_px))  # type: ignore[misc]
    values = coo_matrix(labels)
    columns = np.asarray(gene_columns(slide, genes))[values.col]
    counts = csr_matrix((values.data, (values.row, columns)), shape=slide.counts.shape)  # type: ignore[union-attr]
    library = np.full(len(labels), float(rule.target.target_sum or 0))
    if (over := labels.sum(axis=1) > library).any():
        msg = (
            f"With zeros filled in, the {len(genes)} genes of {int(over.sum())} of {len(labels)} spots of "
            f"{slide.name!r} have more than {library[0]:,.0f} counts per {library[0]:,.0f}: the table has too "
            "few other genes for this protocol. Give a table with all genes, or take `protocol='spared'`."
        )
        raise ValueError(msg)
    return replace(slide, counts=counts, library=library, total_counts=None, allow_fractional_counts=True)


def _variance(values: csr_matrix) -> NDArray[np.float64]:
    """Variance of each column."""
    mean, square = (np.asarray(part.mean(axis=0)).ravel() for part in (values, values.multiply(values)))
    variance: NDArray[np.float64] = square - mean**2
    return variance


def _m2ost(train: float, validate: float, shares: str) -> Protocol:
    def splits(slides: Sequence[Slide]) -> tuple[Split, ...]:
        if len(slides) < 4:
            msg = f"`protocol='m2ost'` splits sections by shares, and there are {len(slides)}; give at least 4."
            raise ValueError(msg)
        return m2ost_split(slides, train=train, validate=validate)

    return Protocol(
        target=TargetSpec(target_sum=1e6, over="panel", standardize=False, n_components=None),
        splits=splits,
        genes=_m2ost_genes,
        headline="spot_pearson",
        note=(
            f"Sections are split {shares}, not patients: patients are on both sides. Genes are chosen with the test "
            "sections. The score is spot-wise, in which a constant, the training mean, scores high: compare with the "
            "row 'mean_profile'."
        ),
    )


CPM = TargetSpec(target_sum=1e6, standardize=False, n_components=None)
LEAVE_ONE_SLIDE_OUT = partial(cross_validation_splits, by="section", n_folds=None, allow_leakage=True)
LEAVE_ONE_GROUP_OUT = partial(cross_validation_splits, by="group", n_folds=None, allow_leakage=True)
SPARED_NOTE = (
    "The 128 genes are those with the highest Moran's I on all slides, including test slides: patterned genes are "
    "easier to predict. Groups are held out, not the publication's fixed splits."
)

PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "m2ost": _m2ost(0.6, 0.1, "60/10/30"),
        "m2ost_code": _m2ost(0.7, 0.0, "70/0/30"),
        "hest": Protocol(
            target=TargetSpec(target_sum=None, standardize=False, n_components=None),
            splits=LEAVE_ONE_GROUP_OUT,
            genes=_hest_genes,
            headline="gene_pearson",
            pooled=True,
            options={
                "encoder_ridge": {
                    "clip": None,
                    "n_components": 256,
                    "penalty": "hest",
                    "intercept": False,
                    "size_px": 224,
                }
            },
            fov_um=112.0,
            note=(
                "The 50 genes are chosen on all samples, including test samples; counts are not divided by library "
                "size, so depth is predicted too; correlations are over all test spots of a fold together."
            ),
        ),
        "hmhvg": Protocol(
            target=TargetSpec(target_sum=None, standardize=False, n_components=None),
            splits=LEAVE_ONE_SLIDE_OUT,
            genes=_hmhvg_genes,
            headline="best50",
            note=(
                "The 300 genes have the highest mean times variance on all slides, including test slides; counts are "
                "not divided by library size, so depth is predicted too; slides are held out, so patients are on both "
                "sides; the score is the mean of the 50 genes (or 10, or 200) that the model predicts best on the test "
                "slides. Published values are in log2, which changes no correlation."
            ),
        ),
        "spared": Protocol(
            target=CPM, splits=LEAVE_ONE_GROUP_OUT, genes=_spared_genes, headline="gene_pearson", note=SPARED_NOTE
        ),
        "spared_imputed": Protocol(
            target=CPM,
            splits=LEAVE_ONE_GROUP_OUT,
            genes=_spared_genes,
            labels=fill_zeros,
            headline="gene_pearson",
            note=f"{SPARED_NOTE} Zeros in the labels, also of test slides, are replaced by medians of neighbours.",
        ),
        "smoothed": Protocol(
            target=TargetSpec(),
            splits=LEAVE_ONE_GROUP_OUT,
            genes=None,
            labels=average_neighbors,
            headline="gene_pearson",
            note=(
                "Labels, also of test slides, are means over a spot and its 8 nearest: noise is averaged out and with "
                "it what differs between neighbours. Scores say how well a blurred map is predicted."
            ),
        ),
    }
)
