"""What was measured on the test slides of one fold: the same for all models, so it is computed once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..._checks import comparison as check
from ..._checks import expression as check_expression
from ...metrics.correlation import LEAST
from ...metrics.scores import Prediction, Spots, gene_scores, nan_mean, summary_scores
from .._evaluate import ceiling_arguments
from .._training.plan import gene_columns

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix

    from ..._slides import Slide
    from ...pp.targets import TargetSpec

POOLED = "all test spots"
"""What stands for a slide where the spots of all are scored together."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOut:
    """Measured expression of all test spots of a fold."""

    genes: tuple[str, ...]
    names: NDArray[np.str_]
    """``(n,)`` rows of the table."""
    slide: NDArray[np.str_]
    """``(n,)`` slide of each spot."""
    group: NDArray[np.str_]
    """``(n,)`` group of each slide."""
    xy: NDArray[np.float64]
    """``(n, 2)`` centres in pixels."""
    observed: NDArray[np.float32]
    """``(n, g)`` in the units of the target."""
    counted: NDArray[np.bool_]
    """``(n,)`` whether a spot has a count of any of the genes; others are not scored."""
    scored: NDArray[np.str_]
    """``(s,)`` slides that are scored, or the one name that stands for all."""
    ceiling: NDArray[np.float64]
    """``(s, g)`` noise ceilings."""
    moran: NDArray[np.float64]
    """``(s, g)`` Moran's I of what was measured."""

    def parts(self) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
        """Spots that are scored together.

        Yields
        ------
        Name of their slide, their group, and a mask ``(n,)``.
        """
        for name in self.scored.tolist():
            rows = self.counted if name == POOLED else self.counted & (self.slide == name)
            yield name, "+".join(sorted(set(self.group[rows].tolist()))), rows

    @property
    def mean_ceiling(self) -> float:
        """Mean over genes of the mean over slides."""
        return float(nan_mean(nan_mean(self.ceiling, axis=0)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All of it, as numpy saves it.

        Returns
        -------
        Arrays by name.
        """
        return {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> HeldOut:
        """Back from what `arrays` gave.

        Parameters
        ----------
        arrays
            Arrays by name.

        Returns
        -------
        The same.
        """
        values: dict[str, Any] = {name: arrays[name] for name in cls.__dataclass_fields__}
        return cls(**{**values, "genes": tuple(arrays["genes"].tolist())})


def measured(
    slides: Sequence[Slide], genes: Sequence[str], spec: TargetSpec, *, fold: int, pooled: bool, n_splits: int
) -> HeldOut:
    """Normalise what was measured, and find its limits.

    Parameters
    ----------
    slides
        Test slides.
    genes
        The panel.
    spec
        How counts become targets.
    fold
        Number of the fold, for messages.
    pooled
        Whether all spots are scored together.
    n_splits
        Random halvings for the noise ceiling.

    Returns
    -------
    Measurements, ceilings and Moran's I.
    """
    from scipy.sparse import vstack

    counts = vstack([_panel(slide, genes) for slide in slides], format="csr")
    library = np.concatenate([np.asarray(slide.counts.sum(axis=1)).ravel() for slide in slides])  # type: ignore[union-attr]
    n_spots = [len(slide.xy_px) for slide in slides]
    name = np.repeat([slide.name for slide in slides], n_spots)
    xy = np.concatenate([slide.xy_px for slide in slides])
    observed = np.concatenate([spec.normalize(slide.counts, gene_columns(slide, genes)) for slide in slides])
    counted = ~check_expression.zero_spots(counts)
    enough = [each for each in dict.fromkeys(name.tolist()) if (counted & (name == each)).sum() >= LEAST]
    check.scorable(len(enough), fold)
    found = []
    for part in [POOLED] if pooled else enough:
        rows = counted if pooled else counted & (name == part)
        of_ceiling = ceiling_arguments(counts[rows], library[rows], spec) | {"n_splits": n_splits, "seed": 0}
        found.append(gene_scores(Spots(observed=observed[rows], xy=xy[rows], slide=name[rows], counts=of_ceiling)))
    return HeldOut(
        genes=tuple(genes),
        names=np.concatenate([slide.obs_names.astype(str) for slide in slides]),
        slide=name,
        group=np.repeat([slide.group for slide in slides], n_spots),
        xy=xy,
        observed=observed,
        counted=counted,
        scored=np.array([POOLED] if pooled else enough),
        ceiling=np.stack([each["ceiling"] for each in found]),
        moran=np.stack([each["moran_observed"] for each in found]),
    )


def _panel(slide: Slide, genes: Sequence[str]) -> csr_matrix:
    return slide.counts[:, gene_columns(slide, genes)]  # type: ignore[index]


def score(held: HeldOut, predicted: NDArray[np.float32]) -> tuple[pd.DataFrame, dict[str, float]]:
    """Every score of a prediction of the test spots.

    Parameters
    ----------
    held
        What was measured.
    predicted
        ``(n, g)`` in the same order and units.

    Returns
    -------
    One row a slide and gene; and the scores of all as a whole.
    """
    check.finite(bool(np.isfinite(predicted).all()))
    frames, by_slide = [], []
    for i, (name, group, rows) in enumerate(held.parts()):
        spots = Spots(observed=held.observed[rows], predicted=predicted[rows], xy=held.xy[rows], slide=held.slide[rows])
        found = gene_scores(spots) | {"ceiling": held.ceiling[i], "moran_observed": held.moran[i]}
        frames.append(pd.DataFrame({"slide": name, "group": group, "gene": held.genes, **found}))
        by_slide.append(found)
    by_gene = {name: np.stack([found[name] for found in by_slide]) for name in by_slide[0]}
    whole = Prediction(observed=held.observed[held.counted], predicted=predicted[held.counted], by_gene=by_gene)
    return pd.concat(frames, ignore_index=True), summary_scores(whole) | {"ceiling": held.mean_ceiling}
