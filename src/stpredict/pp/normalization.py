"""Library sizes: over which genes they are taken, and that these are the same in training and at every use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._slides.identity import names_hash
from . import _errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from .._slides.slides import Slide
    from .targets import TargetSpec

FEWER = 0.4
"""A table with less than this share of the genes of training, or that many times more, gives other library sizes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Library:
    """Where the library sizes of training come from."""

    n_genes: int
    """Number of genes over which counts were summed."""
    sha256: str
    """Hash of their names, in any order (16 hexadecimal digits)."""
    key: str | None = None
    """Column of ``obs`` that was taken in place of a sum."""

    @classmethod
    def of(cls, slides: Sequence[Slide], key: str | None) -> Library:
        """The library sizes of some slides: those of the slide with the most genes."""
        genes = max((slide.genes for slide in slides), key=len)
        return cls(n_genes=len(genes), sha256=names_hash(genes), key=key)

    def to_json(self) -> dict[str, Any]:
        """The entries that are known."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Library:
        """The inverse of `to_json`."""
        return cls(**values)


def library_sizes(
    counts: csr_matrix,  # (n, n_genes)
    *,
    spec: TargetSpec,
    library: Library | None,
    named: NDArray[np.float64] | None,  # (n,), a column of obs that was asked for
    total_counts: NDArray[np.float64] | None,  # (n,), obs["total_counts"]
    what: str,
) -> NDArray[np.float64] | None:
    """``(n,)`` library sizes to normalise by; None where ``spec`` does not use those over all genes.

    The column that was asked for; else the sum over the genes of the table, if these are about as many as in training;
    else ``obs["total_counts"]``.
    """
    if spec.target_sum is None or spec.over == "panel":
        return None
    sums = np.asarray(counts.sum(axis=1), np.float64).ravel()
    if named is not None:
        _errors.check_library_column(named, sums, what)
        return named
    n_genes = counts.shape[1]
    if library is None or (library.key is None and FEWER * library.n_genes <= n_genes <= library.n_genes / FEWER):
        return sums
    if total_counts is not None and n_genes < library.n_genes and (total_counts >= 0.999 * sums).all():
        return total_counts
    _errors.raise_other_library(n_genes, library.n_genes, library.key, what)


def slide_library(slide: Slide, spec: TargetSpec, library: Library | None) -> NDArray[np.float64] | None:
    """`library_sizes` of a slide."""
    return library_sizes(
        slide.counts,
        spec=spec,
        library=library,
        named=slide.library,
        total_counts=slide.total_counts,
        what=f"slide {slide.name!r}",
    )


def gene_columns(slide: Slide, genes: Sequence[str]) -> list[int]:
    """Columns of some genes in the counts of a slide."""
    column = {gene: i for i, gene in enumerate(slide.genes)}
    return [column[gene] for gene in genes]


def normalize_slide(
    slide: Slide, genes: Sequence[str], spec: TargetSpec, library: Library | None
) -> NDArray[np.float32]:  # (n, len(genes))
    """Normalised expression of a slide, by library sizes as in training."""
    return spec.normalize(slide.counts, gene_columns(slide, genes), slide_library(slide, spec, library))
