"""Conformal prediction: intervals with a guaranteed coverage, on arrays.

Lei et al., "Distribution-free predictive inference for regression", JASA 2018; members that are each scored on the
group that was held out from them: Barber et al., "Predictive inference with the jackknife+", Annals of Statistics 2021.
No slides, no networks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...pp.targets import nonnegative
from .serialization import add_prefix, select_prefix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from .._options import Uncertainty

SCALE_SHARE = 0.25
"""Share of a gene's standard deviation that is added to the spread over views, which may be zero by chance."""
MAX_RANKS = 1000
"""Most order statistics per gene that are kept of all spots together."""
MAX_RANKS_PER_GROUP = 250
"""The same for each group."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OrderStatistics:
    """Sorted scores of each gene: all of them, or evenly spaced ones if there are many."""

    ranks: NDArray[np.int64]
    """``(m,)`` ranks that are kept, from 1, ascending; the last is the number of spots."""
    values: NDArray[np.float32]
    """``(m, g)`` scores at these ranks."""

    @classmethod
    def of(cls, scores: NDArray[np.float32], most: int = MAX_RANKS) -> OrderStatistics:
        """Keep at most ``most`` order statistics of the ``(n, g)`` scores."""
        n = len(scores)
        ranks = np.unique(np.ceil(np.linspace(1, n, min(n, most))).astype(np.int64))
        return cls(ranks=ranks, values=np.sort(scores, axis=0)[ranks - 1].astype(np.float32))

    @property
    def n(self) -> int:
        """Number of spots that were scored."""
        return int(self.ranks[-1])

    def quantile(self, coverage: float) -> NDArray[np.float32]:
        """The score ``(g,)`` of rank ``(n + 1) * coverage``, rounded up to a rank that is kept.

        The score of a new, exchangeable spot is not larger with a probability of at least ``coverage``.
        """
        rank = math.ceil((self.n + 1) * coverage - 1e-9)
        if rank > self.n:
            msg = (
                f"`coverage` is {coverage}, but intervals were calibrated on {self.n} spots (of a group), which "
                f"guarantee {self.n / (self.n + 1):.3f} at most. Give a lower one, or calibrate on more spots with "
                "`stp.tl.calibrate`."
            )
            raise ValueError(msg)
        quantile: NDArray[np.float32] = self.values[np.searchsorted(self.ranks, max(rank, 1))]
        return quantile

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that are saved, by name."""
        arrays = {"ranks": self.ranks, "values": self.values}
        return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor]) -> OrderStatistics:
        """Rebuild what `state_dict` gave."""
        return cls(ranks=tensors["ranks"].numpy(), values=tensors["values"].numpy())


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Calibration:
    """Scores of spots that were not trained on: their absolute residuals over their spread."""

    pooled: OrderStatistics
    """Scores of all spots together."""
    groups: tuple[OrderStatistics, ...]
    """Scores of each group."""
    n_views: int
    """Views that are averaged, and whose standard deviation is part of the spread."""
    record: Mapping[str, Any] = field(default_factory=dict)
    """Where the scores come from: ``kind``, ``groups``, ``n_spots``, ``leaks``, ``stain``, ``note``, ``regions``."""

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
        """Calibrate on residuals and spreads ``(n, g)`` of spots with a group ``(n,)``."""
        scores, names = (np.abs(residuals) / spread).astype(np.float32), np.unique(group)
        sizes = {"groups": names.tolist(), "n_spots": [int((group == name).sum()) for name in names]}
        return cls(
            pooled=OrderStatistics.of(scores),
            groups=tuple(OrderStatistics.of(scores[group == name], MAX_RANKS_PER_GROUP) for name in names),
            n_views=n_views,
            record={**record, **sizes},
        )

    def quantile(self, uncertainty: Uncertainty, coverage: float) -> NDArray[np.float32]:
        """Half the width of an interval in spreads, ``(g,)``: that of all spots, or the largest one of the groups."""
        if uncertainty == "conformal":
            return self.pooled.quantile(coverage)
        return np.stack([scores.quantile(coverage) for scores in self.groups]).max(axis=0)

    def interval(
        self, predicted: NDArray[np.float32], spread: NDArray[np.float32], quantile: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Bounds of the intervals, ``(n, g)`` each, not below 0."""
        half_width = quantile * spread
        return nonnegative(predicted - half_width), predicted + half_width

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors that are saved, by name."""
        parts = {"pooled": self.pooled, **{str(i): scores for i, scores in enumerate(self.groups)}}
        return {name: t for prefix, part in parts.items() for name, t in add_prefix(prefix, part.state_dict()).items()}

    def to_json(self) -> dict[str, Any]:
        """The values that are saved beside the tensors."""
        return {"n_views": self.n_views, "record": dict(self.record)}

    @classmethod
    def from_state_dict(cls, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> Calibration:
        """Rebuild what `state_dict` and `to_json` gave."""
        names = ["pooled", *map(str, range(len(values["record"]["groups"])))]
        pooled, *groups = (OrderStatistics.from_state_dict(select_prefix(name, tensors)) for name in names)
        return cls(pooled=pooled, groups=tuple(groups), n_views=values["n_views"], record=values["record"])


def std_over_models(
    means: Sequence[NDArray[np.floating]], view_stds: Sequence[NDArray[np.floating]], weights: Sequence[float]
) -> NDArray[np.float64]:
    """Standard deviation of a weighted mean of models, ``(n, g)``: over the views of a model, and between models."""
    within, mean = weighted_mean(view_stds, weights), weighted_mean(means, weights)
    between = weighted_mean([(each - mean) ** 2 for each in means], weights) if len(means) > 1 else 0.0
    std: NDArray[np.float64] = np.sqrt(within**2 + between)
    return std


def weighted_mean(values: Sequence[NDArray[np.floating]], weights: Sequence[float]) -> NDArray[np.float64]:
    """The sum of arrays, each times its weight, in double precision."""
    total = np.zeros(values[0].shape)
    for value, weight in zip(values, weights, strict=True):
        total += np.multiply(value, weight, dtype=np.float64)
    return total


def residual_spread(prediction_std: NDArray[np.floating], target_scale: NDArray[np.floating]) -> NDArray[np.float32]:
    """Scale of the residuals, ``(n, g)`` above 0: that of the prediction, and a share of that of the gene."""
    return (prediction_std + SCALE_SHARE * target_scale).astype(np.float32)
