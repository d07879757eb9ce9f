"""Intervals that cover what is measured as often as they say: conformal prediction, on arrays.

Lei et al., "Distribution-free predictive inference for regression", JASA 2018; members that are each scored on the
group that they did not see: Barber et al., "Predictive inference with the jackknife+", Annals of Statistics 2021.
No slides, no networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from ..._checks import conformal as check

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from torch import Tensor


Uncertainty = Literal["conformal", "conformal_groups"]

FLOOR = 0.25
"""What is added to the spread over views, in standard deviations of the gene: views may agree by chance, or always."""
MOST = 1000
"""Order statistics of a gene that are kept, at most, of all spots together."""
MOST_OF_GROUP = 250
"""The same, of a group."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ranked:
    """Some order statistics of the scores of each gene: all of them, or evenly chosen ones where there are many."""

    ranks: NDArray[np.int64]
    """``(m,)`` ranks that are kept, from 1, ascending; the last is the number of spots."""
    values: NDArray[np.float32]
    """``(m, g)`` the scores of these ranks."""

    @classmethod
    def of(cls, scores: NDArray[np.float32], most: int = MOST) -> Ranked:
        """Keep what is needed of the scores.

        Parameters
        ----------
        scores
            ``(n, g)``.
        most
            How many of each gene are kept, at most.

        Returns
        -------
        The order statistics.
        """
        n = len(scores)
        ranks = np.unique(np.ceil(np.linspace(1, n, min(n, most))).astype(np.int64))
        return cls(ranks=ranks, values=np.sort(scores, axis=0)[ranks - 1].astype(np.float32))

    @property
    def n(self) -> int:
        """How many spots were scored."""
        return int(self.ranks[-1])

    def quantile(self, coverage: float) -> NDArray[np.float32]:
        """What the score of a new, exchangeable spot does not exceed with a probability of at least ``coverage``.

        Parameters
        ----------
        coverage
            From 0 to 1.

        Returns
        -------
        ``(g,)``: the score of rank ``(n + 1) * coverage``, rounded up to the next that is kept.
        """
        rank = math.ceil((self.n + 1) * coverage - 1e-9)
        check.enough_scores(self.n, coverage)
        found: NDArray[np.float32] = self.values[np.searchsorted(self.ranks, max(rank, 1))]
        return found


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibration:
    """What residuals of spots that were not trained on say about those of new ones."""

    pooled: Ranked
    """Scores of all spots together."""
    groups: tuple[Ranked, ...]
    """Scores of each group."""
    n_views: int
    """Views that are predicted and whose disagreement is the spread."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """Where the scores come from: ``kind``, ``groups``, ``n_spots``, ``leaks``, ``stain``, ``note``."""

    @classmethod
    def of(
        cls,
        residuals: NDArray[np.float32],
        spread: NDArray[np.float32],
        group: NDArray[np.str_],
        *,
        n_views: int,
        record: Mapping[str, Any],
    ) -> Calibration:
        """Calibrate.

        Parameters
        ----------
        residuals
            ``(n, g)`` observed minus predicted.
        spread
            ``(n, g)`` what `residual_spread` gives, above 0.
        group
            ``(n,)`` group of each spot.
        n_views
            Views of a prediction.
        record
            Where these come from; groups and their sizes are added.

        Returns
        -------
        The calibration.
        """
        scores, names = (np.abs(residuals) / spread).astype(np.float32), np.unique(group)
        sizes = {"groups": names.tolist(), "n_spots": [int((group == name).sum()) for name in names]}
        return cls(
            pooled=Ranked.of(scores),
            groups=tuple(Ranked.of(scores[group == name], MOST_OF_GROUP) for name in names),
            n_views=n_views,
            record={**record, **sizes},
        )

    def quantile(self, uncertainty: Uncertainty, coverage: float) -> NDArray[np.float32]:
        """Half the width of an interval, in spreads.

        Parameters
        ----------
        uncertainty
            ``"conformal"``: spots are exchangeable. ``"conformal_groups"``: groups are; the widest of their quantiles.
        coverage
            Share of spots that intervals shall cover.

        Returns
        -------
        ``(g,)``.
        """
        if uncertainty == "conformal":
            return self.pooled.quantile(coverage)
        return np.stack([ranked.quantile(coverage) for ranked in self.groups]).max(axis=0)

    def interval(
        self, predicted: NDArray[np.float32], spread: NDArray[np.float32], quantile: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The ends of the intervals; none lies below 0 where the prediction does not, since expression does not.

        Parameters
        ----------
        predicted
            ``(n, g)``.
        spread
            ``(n, g)``.
        quantile
            ``(g,)``.

        Returns
        -------
        Lower and upper end, ``(n, g)`` float32 each.
        """
        half = quantile * spread
        return np.minimum(predicted, np.maximum(predicted - half, 0)), predicted + half

    def tensors(self) -> dict[str, Tensor]:
        """What is saved, by name.

        Returns
        -------
        Tensors.
        """
        named = {"pooled": self.pooled, **{str(i): group for i, group in enumerate(self.groups)}}
        return {
            f"{name}/{part}": torch.from_numpy(np.ascontiguousarray(array))
            for name, ranked in named.items()
            for part, array in (("ranks", ranked.ranks), ("values", ranked.values))
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Calibration:
        """Rebuild what was saved.

        Parameters
        ----------
        tensors
            What `tensors` gave.
        values
            ``n_views`` and ``record``.

        Returns
        -------
        The calibration.
        """

        def ranked(name: str) -> Ranked:
            """One of them."""
            return Ranked(ranks=tensors[f"{name}/ranks"].numpy(), values=tensors[f"{name}/values"].numpy())

        groups = tuple(ranked(str(i)) for i in range(len(values["record"]["groups"])))
        return cls(pooled=ranked("pooled"), groups=groups, n_views=values["n_views"], record=values["record"])


def residual_spread(view_std: NDArray[np.floating], target_scale: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale of the residuals, ``(n, g)`` above 0: standard deviation over views, and a share of that of the gene."""
    return (view_std + FLOOR * target_scale).astype(np.float32)
