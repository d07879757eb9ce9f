"""Count transcripts by spot and gene, one partition at a time. Nothing here knows of SpatialData."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

    from numpy.typing import NDArray

IS_GENE = "is_gene"
"""Column that says whether a transcript is of a gene, as Xenium writes it since version 2."""
QUALITY = "qv"
"""Column with the quality of a transcript, as 10x writes it."""
MAX_PENDING = 5_000_000
"""Counts of a spot and a gene that may wait before they are added up."""
MAX_GENES = 1 << 24
"""A spot and a gene are stored as one number: place times this, plus column."""


@dataclass(kw_only=True, slots=True)
class TranscriptCounts:
    """Transcripts by spot and gene, and how many do not count."""

    gene_key: str
    """Column that names the gene."""
    controls: re.Pattern[str] | None
    """Names that are not genes."""
    min_qv: float | None
    """Least quality."""
    genes: dict[str, int] = field(default_factory=dict)
    """Column of each gene, in the order of appearance."""
    pending: list[pd.Series[Any]] = field(default_factory=list)
    """Counts by spot and gene that are not added up yet."""
    n_all: int = 0
    """All transcripts."""
    n_controls: int = 0
    """Those of control probes, or of no gene."""
    n_low_quality: int = 0
    """Others of too low a quality."""
    n_outside: int = 0
    """Others that lie in no spot."""

    def add(self, part: pd.DataFrame, assign: Callable[[NDArray[np.float64]], NDArray[np.int64]]) -> None:
        """Count transcripts, one a row; ``assign`` gives the spot of each point ``(n, 2)``, -1 for none."""
        gene = self._columns(part[self.gene_key])
        if self.controls is not None and IS_GENE in part:
            gene = np.where(part[IS_GENE].to_numpy(bool), gene, -1)
        is_gene = gene >= 0
        good = np.ones(len(part), bool)
        if self.min_qv is not None and QUALITY in part:
            good = part[QUALITY].to_numpy() >= self.min_qv
        spot = assign(part.loc[is_gene & good, ["x", "y"]].to_numpy(np.float64))
        self.n_all += len(part)
        self.n_controls += int((~is_gene).sum())
        self.n_low_quality += int((is_gene & ~good).sum())
        self.n_outside += int((spot < 0).sum())
        pairs, n = np.unique((spot * MAX_GENES + gene[is_gene & good])[spot >= 0], return_counts=True)
        self.pending.append(pd.Series(n, index=pairs, dtype=np.int64))
        if sum(map(len, self.pending)) > MAX_PENDING:
            self.pending = [self._total()]

    def _columns(self, names: pd.Series[Any]) -> NDArray[np.int64]:
        """Column of the gene of each transcript; -1 for controls and missing names."""
        codes, unique = pd.factorize(names)
        columns = np.full(len(unique) + 1, -1)  # the last is for codes of -1: no name
        for i, name in enumerate(map(str, unique)):
            if self.controls is None or not self.controls.match(name):
                columns[i] = self.genes.setdefault(name, len(self.genes))
        found: NDArray[np.int64] = columns[codes]
        return found

    def _total(self) -> pd.Series[Any]:
        total: pd.Series[Any] = pd.concat(self.pending).groupby(level=0).sum()
        return total

    def matrix(self) -> tuple[NDArray[np.int64], list[str], sparse.csr_matrix]:
        """Ids of the spots, ascending; genes in alphabetical order; ``(n_spots, n_genes)`` int32 counts."""
        total = self._total() if self.pending else pd.Series(dtype=np.int64, index=np.empty(0, np.int64))
        ids, column = np.divmod(total.index.to_numpy(np.int64), MAX_GENES)
        spots, row = np.unique(ids, return_inverse=True)
        genes = sorted(self.genes)
        order = np.argsort([self.genes[gene] for gene in genes]) if genes else np.empty(0, np.intp)
        values = (total.to_numpy(np.int32), (row, order[column]))
        return spots, genes, sparse.csr_matrix(values, shape=(len(spots), len(genes)))
