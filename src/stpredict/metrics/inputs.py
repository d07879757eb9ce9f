"""What the scores of the table are computed from: spots that are scored together, and a prediction as a whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ._spatial import neighbour_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_array


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Intervals:
    """Prediction intervals of spots, and the share of values that they are made to cover."""

    lower: NDArray[np.float32]
    """``(n, g)``."""
    upper: NDArray[np.float32]
    """``(n, g)``."""
    coverage: float

    def of(self, rows: NDArray[Any]) -> Intervals:
        """Those of some spots."""
        return replace(self, lower=self.lower[rows], upper=self.upper[rows])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Spots:
    """Spots that are scored together, those of one slide or of several: the input of a score of genes."""

    observed: NDArray[np.float32]
    """``(n, g)``."""
    xy: NDArray[np.float64]
    """``(n, 2)`` centres."""
    slide: NDArray[np.str_] | None = None
    """``(n,)`` slide of each spot, where there are several: neighbours are of the same slide."""
    predicted: NDArray[np.float32] | None = None
    """``(n, g)`` in the units of ``observed``; None for scores of the measurement alone."""
    ceiling: NDArray[np.float64] | None = None
    """``(g,)`` noise ceilings, where the counts are known."""
    intervals: Intervals | None = None
    """Prediction intervals of the same spots."""
    weights: csr_array | None = None
    """``(n, n)`` weights of the neighbours of each spot; made from the places if it is not given."""

    def __post_init__(self) -> None:
        if self.weights is None:
            object.__setattr__(self, "weights", neighbour_weights(self.xy, self.slide))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prediction:
    """A prediction as a whole: the input of a score that is one number."""

    observed: NDArray[np.float32]
    """``(n, g)`` all spots that are scored."""
    predicted: NDArray[np.float32]
    """``(n, g)``."""
    by_gene: Mapping[str, NDArray[np.float64]]
    """``(n_slides, g)`` scores of genes on each slide, by name."""
    slides: Sequence[NDArray[np.bool_]]
    """Masks ``(n,)`` of the spots of each slide, in the order of ``by_gene``."""
    genes: Sequence[str] = ()
    domains: NDArray[Any] | None = None
    """``(n,)`` domain of each spot; None or NaN where it has none."""
    pathways: Mapping[str, Sequence[str]] | None = None
    """Genes of each pathway, of which enough are among ``genes``."""
    coverage: float | None = None
    """Nominal coverage of prediction intervals."""

    def mean_over_slides(self, score: Callable[[NDArray[np.float32], NDArray[np.float32], int], float]) -> float:
        """Mean of a score of the observed and predicted spots of a slide, and its number."""
        parts = enumerate(self.slides)
        return float(nan_mean(np.array([score(self.observed[m], self.predicted[m], i) for i, m in parts])))

    def mean_by_gene(self, name: str) -> NDArray[np.float64]:
        """A score of genes, averaged over slides, ``(g,)``."""
        return nan_mean(self.by_gene[name], axis=0)


def nan_mean(values: NDArray[np.float64], axis: int | None = None) -> NDArray[np.float64]:
    """Mean of what is not NaN; NaN, without a warning, where nothing is."""
    known = ~np.isnan(values)
    total, n = np.where(known, values, 0.0).sum(axis=axis), known.sum(axis=axis)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)
