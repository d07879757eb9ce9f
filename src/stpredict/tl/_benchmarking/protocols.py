"""Published ways of comparing models, for comparison with published numbers. Each states its own weaknesses."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._slides.slides import shared_genes
from ...datasets import gene_panel
from ...pp.normalization import gene_columns
from ...pp.targets import TargetSpec
from .folds import M2OST_SEED, cross_validation_splits, m2ost_split

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from ..._slides.slides import Slide
    from .folds import Split

PANELS = ("her2st", "cscc", "hbc")
"""Panels that the authors of M2OST published."""
N_CANDIDATES, N_PANEL = 1500, 250
"""Genes with the highest variance of raw counts in a section, and how many of those in all sections are drawn."""
N_HEST = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """A published way of comparing models."""

    target: TargetSpec
    """How counts become targets."""
    splits: Callable[[Sequence[Slide]], tuple[Split, ...]]
    """The folds."""
    genes: Callable[[Sequence[Slide]], list[str]]
    """The genes; both published rules look at the test slides."""
    headline: str
    """Column of the summary that the publication reports."""
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


def _hest_genes(slides: Sequence[Slide]) -> list[str]:
    """The genes with the highest variance of log1p counts over the spots of all slides, including test slides."""
    from scipy.sparse import vstack

    known = shared_genes(slides)
    values = vstack([slide.counts[:, gene_columns(slide, known)] for slide in slides], format="csr").log1p()  # type: ignore[index]
    return [known[i] for i in np.argsort(-_variance(values), kind="stable")[:N_HEST]]


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


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "m2ost": _m2ost(0.6, 0.1, "60/10/30"),
        "m2ost_code": _m2ost(0.7, 0.0, "70/0/30"),
        "hest": Protocol(
            target=TargetSpec(target_sum=None, standardize=False, n_components=None),
            splits=lambda slides: cross_validation_splits(slides, by="group", n_folds=None, allow_leakage=True),
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
    }
)
