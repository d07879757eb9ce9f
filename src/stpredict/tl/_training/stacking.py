"""Stacked generalisation: weights of models from their predictions at spots that they were not trained on.

Wolpert, "Stacked generalization", Neural Networks 1992, with the non-negative weights of Breiman, "Stacked
regressions", Machine Learning 1996. Arrays only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..._train.data import slide_index
from ...pp.targets import slide_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ..._slides.slides import Slide

MAX_FOLDS = 5
"""Most folds; with more groups, several are held out together."""
N_STRIPES = 4
"""Spatial blocks of the only slide."""
SUM_PENALTY = 1e3
"""Weight of the equation that the weights sum to 1, relative to the largest prediction."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StackingFolds:
    """Parts of the training spots that are held out in turn."""

    number: NDArray[np.int64]
    """``(n,)`` fold of each spot, from 0."""
    kind: str
    """What is held out: ``"groups"``, ``"slides of one group"`` or ``"spatial blocks"``."""

    @classmethod
    def of(cls, slides: Sequence[Slide]) -> StackingFolds:
        """Folds by group, else by slide, else by vertical stripes of the only slide."""
        index = slide_index(slides)
        groups, names = [slide.group for slide in slides], [slide.name for slide in slides]
        for units, kind in ((groups, "groups"), (names, "slides of one group")):
            if len(set(units)) > 1:
                return cls(number=_balanced_folds(np.array(units)[index]), kind=kind)
        x = slides[0].xy_px[:, 0]
        edges = np.quantile(x, np.linspace(0, 1, N_STRIPES + 1)[1:-1])
        return cls(number=np.unique(np.searchsorted(edges, x), return_inverse=True)[1], kind="spatial blocks")

    @property
    def held_out(self) -> list[NDArray[np.bool_]]:
        """``(n,)`` which spots each fold holds out."""
        return [self.number == fold for fold in range(int(self.number.max()) + 1)]


def _balanced_folds(unit: NDArray[np.str_]) -> NDArray[np.int64]:
    """Fold of each spot: whole units, the largest first, each to the fold with the fewest spots."""
    names, index, sizes = np.unique(unit, return_inverse=True, return_counts=True)
    fold, total = np.zeros(len(names), np.int64), np.zeros(min(MAX_FOLDS, len(names)))
    for i in np.argsort(-sizes, kind="stable"):
        fold[i] = total.argmin()
        total[fold[i]] += sizes[i]
    return fold[index]


def stacked_weights(
    predicted: Sequence[NDArray[np.float32]],
    observed: NDArray[np.float32],
    scale: NDArray[np.float32],
    slide: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Weights of models, ``(m,)``, not negative, with sum 1: least squares over spots and standardised genes.

    ``predicted`` and ``observed`` are ``(n, g)`` each, of spots that were held out, ``scale`` is the standard deviation
    of each gene. Means of slides are subtracted: no weighting corrects a difference in level between slides.
    """
    from scipy.optimize import nnls

    def standardized(values: NDArray[np.float32]) -> NDArray[np.float64]:
        centred = (values - slide_means(values, slide)) / scale
        return np.asarray(centred, np.float64).ravel()

    x, y = np.stack([standardized(values) for values in predicted], axis=1), standardized(observed)
    penalty = SUM_PENALTY * max(float(np.linalg.norm(x, axis=0).max()), 1.0)
    weights, _ = nnls(np.vstack([x, np.full((1, x.shape[1]), penalty)]), np.append(y, penalty))
    normalized: NDArray[np.float64] = weights / weights.sum()
    return normalized
