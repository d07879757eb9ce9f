"""Library sizes: over which genes they are taken, and that these are the same in training and at every use."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from .._slides.identity import names_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from .._slides.slides import Slide
    from .targets import TargetSpec

FEWER = 0.4
"""A table with less than this share of the genes of training, or that many times more, gives other library sizes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CountsRecord:
    """How the counts of training were read, to read others in the same way."""

    n_genes: int
    """Number of genes over which library sizes were summed."""
    genes_sha256: str
    """Hash of their names, in any order (16 hexadecimal digits)."""
    library_key: str | None = None
    """Column of ``obs`` that held library sizes, in place of a sum."""
    fractional: bool = False
    """Whether counts were allowed to be no whole numbers."""

    @classmethod
    def of(cls, slides: Sequence[Slide], library_key: str | None) -> CountsRecord:
        """The record of some slides: library sizes are those of the slide with the most genes."""
        genes = max((slide.genes for slide in slides), key=len)
        return cls(
            n_genes=len(genes),
            genes_sha256=names_hash(genes),
            library_key=library_key,
            fractional=any(slide.allow_fractional_counts for slide in slides),
        )

    def to_json(self) -> dict[str, Any]:
        """The entries that differ from their defaults."""
        return {name: value for name, value in asdict(self).items() if value not in (None, False)}


def library_sizes(
    counts: csr_matrix,  # (n, n_genes)
    *,
    spec: TargetSpec,
    trained: CountsRecord | None,
    named: NDArray[np.float64] | None,  # (n,), a column of obs that was asked for
    total_counts: NDArray[np.float64] | None,  # (n,), obs["total_counts"]
    what: str,
) -> NDArray[np.float64] | None:
    """``(n,)`` library sizes to normalise by; None where those over the predicted genes are used.

    The column that was asked for; else the sum over the genes of the table, if these are about as many as in training;
    else ``obs["total_counts"]``.
    """
    if spec.over == "panel":
        return None
    sums = np.asarray(counts.sum(axis=1), np.float64).ravel()
    if spec.target_sum is None:
        return sums
    if named is not None:
        _check_library_column(named, sums, what)
        return named
    n_genes = counts.shape[1]
    if trained is None or (
        trained.library_key is None and FEWER * trained.n_genes <= n_genes <= trained.n_genes / FEWER
    ):
        return sums
    if total_counts is None or n_genes > trained.n_genes or (total_counts < 0.999 * sums).any():
        _raise_other_library(n_genes, trained.n_genes, trained.library_key, what)
    return total_counts


def slide_library(slide: Slide, spec: TargetSpec, trained: CountsRecord | None) -> NDArray[np.float64] | None:
    """`library_sizes` of a slide."""
    return library_sizes(
        slide.counts,
        spec=spec,
        trained=trained,
        named=slide.library,
        total_counts=slide.total_counts,
        what=f"slide {slide.name!r}",
    )


def gene_columns(slide: Slide, genes: Sequence[str]) -> list[int]:
    """Columns of some genes in the counts of a slide."""
    column = {gene: i for i, gene in enumerate(slide.genes)}
    return [column[gene] for gene in genes]


def normalize_slide(
    slide: Slide, genes: Sequence[str], spec: TargetSpec, trained: CountsRecord | None
) -> NDArray[np.float32]:  # (n, len(genes))
    """Normalised expression of a slide, by library sizes as in training."""
    return spec.normalize(slide.counts, gene_columns(slide, genes), slide_library(slide, spec, trained))


def _check_library_column(named: NDArray[np.float64], sums: NDArray[np.float64], what: str) -> None:
    """Refuse library sizes that are smaller than the counts of the spot."""
    small = named < 0.999 * sums
    if small.any():
        i = int(np.argmax(small))
        msg = (
            f"The library size of {int(small.sum())} of {len(named)} spots of {what} is less than the counts that the "
            f"table holds for them: {named[i]:g} for {sums[i]:g} counts. Library sizes are raw counts of all genes: "
            "name another column as `library_key`."
        )
        raise ValueError(msg)


def _raise_other_library(n_genes: int, n_trained: int, key: str | None, what: str) -> NoReturn:
    """Refuse counts whose sum over the table is not the library size of training."""
    if key is not None:
        msg = (
            f"In training, library sizes were those of obs[{key!r}], and {what} has no such column. Add it, or name "
            "the column with library sizes as `library_key`."
        )
        raise ValueError(msg)
    more = n_genes > n_trained
    advice = (
        "Cut the table to the genes of training"
        if more
        else "Give the whole table, or name a column of `obs` with library sizes over all genes as `library_key`"
    )
    msg = (
        f"The table of {what} holds {n_genes:,} genes; in training, library sizes were sums over {n_trained:,}. Values "
        f"normalised by the sum over this table would be in other units. {advice}, or train with "
        '`target=stp.pp.TargetSpec(over="panel")`, which needs only the predicted genes.'
    )
    raise ValueError(msg)
