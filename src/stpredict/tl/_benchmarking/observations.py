"""Measured expression of the test slides of one fold: the same for all models, so it is computed once and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..._checks import expression as check_expression
from ...metrics import noise_ceiling
from ...metrics.correlation import LEAST
from ...metrics.inputs import Prediction, Spots, nan_mean
from ...metrics.scores import all_gene_scores, summary_scores
from ...pp.normalization import gene_columns, normalize_slide, slide_library
from .._evaluate import ceiling_arguments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ..._slides.slides import Slide
    from ...pp.normalization import CountsRecord
    from ...pp.targets import TargetSpec

POOLED = "all test spots"
"""Name in place of a slide where the spots of all test slides are scored together."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Observations:
    """Measured expression of all test spots of a fold."""

    genes: tuple[str, ...]
    names: NDArray[np.str_]
    """``(n,)`` rows of the table."""
    slide: NDArray[np.str_]
    """``(n,)`` slide of each spot."""
    group: NDArray[np.str_]
    """``(n,)`` group of each spot."""
    xy: NDArray[np.float64]
    """``(n, 2)`` centres in pixels."""
    observed: NDArray[np.float32]
    """``(n, g)`` in the units of the target."""
    counted: NDArray[np.bool_]
    """``(n,)`` whether a spot has counts of any of the genes; the others are not scored."""
    scored: NDArray[np.str_]
    """``(s,)`` slides that are scored, or `POOLED`."""
    ceiling: NDArray[np.float64]
    """``(s, g)`` noise ceilings."""

    def scored_parts(self) -> Iterator[tuple[str, str, NDArray[np.bool_]]]:
        """Spots that are scored together: name of the slide, its group, and a mask ``(n,)``."""
        for name in self.scored.tolist():
            rows = self.counted if name == POOLED else self.counted & (self.slide == name)
            yield name, "+".join(sorted(set(self.group[rows].tolist()))), rows

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All fields as arrays, for `numpy.savez`."""
        return {name: np.asarray(getattr(self, name)) for name in self.__dataclass_fields__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Observations:
        """The inverse of `to_arrays`."""
        values: dict[str, Any] = {name: arrays[name] for name in cls.__dataclass_fields__}
        return cls(**{**values, "genes": tuple(arrays["genes"].tolist())})


def collect_observations(
    slides: Sequence[Slide],
    genes: Sequence[str],
    spec: TargetSpec,
    counts_record: CountsRecord,
    *,
    fold: int,
    pooled: bool,
    are_counts: bool,
    n_splits: int,
) -> Observations:
    """Normalise the counts of test slides, and compute noise ceilings, per slide or over all spots.

    Labels that a protocol made of counts have no noise ceiling (NaN).
    """
    from scipy.sparse import vstack

    counts = vstack([slide.counts[:, gene_columns(slide, genes)] for slide in slides], format="csr")  # type: ignore[index]
    libraries = [slide_library(slide, spec, counts_record) for slide in slides]
    n_spots = [len(slide.xy_px) for slide in slides]
    name = np.repeat([slide.name for slide in slides], n_spots)
    xy = np.concatenate([slide.xy_px for slide in slides])
    known = [each for each in libraries if each is not None]
    library = np.concatenate(known) if known else None
    observed = np.concatenate([normalize_slide(slide, genes, spec, counts_record) for slide in slides])
    counted = ~check_expression.zero_spots(counts)
    enough = [each for each in dict.fromkeys(name.tolist()) if (counted & (name == each)).sum() >= LEAST]
    if not enough:
        msg = f"No test slide of fold {fold} has {LEAST} spots with counts of the genes: nothing can be scored."
        raise ValueError(msg)
    ceilings = []
    for part in [POOLED] if pooled else enough:
        rows = counted if pooled else counted & (name == part)
        of_ceiling = ceiling_arguments(counts[rows], None if library is None else library[rows], spec)
        unknown = np.full(len(genes), np.nan)
        ceilings.append(noise_ceiling(**of_ceiling, n_splits=n_splits, seed=0) if are_counts else unknown)
    return Observations(
        genes=tuple(genes),
        names=np.concatenate([slide.obs_names.astype(str) for slide in slides]),
        slide=name,
        group=np.repeat([slide.group for slide in slides], n_spots),
        xy=xy,
        observed=observed,
        counted=counted,
        scored=np.array([POOLED] if pooled else enough),
        ceiling=np.stack(ceilings),
    )


def score_predictions(
    observations: Observations, predicted: NDArray[np.float32]
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Scores of predictions ``(n, g)`` of the test spots: one row per slide and gene, and those of the whole."""
    if not np.isfinite(predicted).all():
        msg = "The model predicts values that are not finite."
        raise ValueError(msg)
    frames, by_slide = [], []
    for i, (name, group, rows) in enumerate(observations.scored_parts()):
        spots = Spots(
            observed=observations.observed[rows],
            predicted=predicted[rows],
            xy=observations.xy[rows],
            slide=observations.slide[rows],
            ceiling=observations.ceiling[i],
        )
        scores = all_gene_scores(spots)
        frames.append(pd.DataFrame({"slide": name, "group": group, "gene": observations.genes, **scores}))
        by_slide.append(scores)
    by_gene = {name: np.stack([scores[name] for scores in by_slide]) for name in by_slide[0]}
    counted = observations.counted
    whole = Prediction(
        observed=observations.observed[counted],
        predicted=predicted[counted],
        by_gene=by_gene,
        slides=[rows[counted] for _, _, rows in observations.scored_parts()],
    )
    ceiling = float(nan_mean(nan_mean(observations.ceiling, axis=0)))  # over slides, then over genes
    return pd.concat(frames, ignore_index=True), summary_scores(whole) | {"ceiling": ceiling}
