"""How likely counts are under a network: a zero-inflated negative binomial distribution of every gene."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from .._checks import models as check
from ._places import rows_by_slide
from ._precision import full_precision
from .contract import FloatLinear

if TYPE_CHECKING:
    from torch import Tensor


_LEAST, _MOST = 1e-5, 1e6
"""Means are kept between these."""
_NARROW, _WIDE = 1e-4, 1e4
"""Dispersions are."""


class Counts(nn.Module):
    """A zero-inflated negative binomial distribution of the counts of every gene."""

    def __init__(self, dim: int, n_genes: int) -> None:
        super().__init__()
        self.mean, self.dispersion, self.dropped = (FloatLinear(dim, n_genes) for _ in range(3))

    @torch.no_grad()
    def initialize_at(self, mean: Tensor) -> None:
        """Let the untrained heads expect one profile everywhere.

        Parameters
        ----------
        mean
            ``(g,)`` mean counts of a spot of median library size.
        """
        check.count_columns(len(mean), self.mean.out_features)
        for head in (self.mean, self.dispersion, self.dropped):
            head.weight.zero_()
            head.bias.zero_()
        self.mean.bias.copy_(mean.clamp(min=_LEAST).log())

    def loss(self, x: Tensor, counts: Tensor, size: Tensor) -> Tensor:
        """Mean negative logarithm of the likelihood.

        Parameters
        ----------
        x
            ``(b, d)`` spots.
        counts
            ``(b, g)`` counts.
        size
            ``(b, 1)`` library size of each spot, relative to the others.

        Returns
        -------
        A scalar.
        """
        check.count_columns(counts.shape[1], self.mean.out_features)
        with full_precision(x.device):
            mean = self.mean(x).clamp(log(_LEAST), log(_MOST)).exp() * size
            dispersion = F.softplus(self.dispersion(x)).clamp(_NARROW, _WIDE)
            return -zinb(counts.float(), mean, dispersion, self.dropped(x)).mean()


def zinb(counts: Tensor, mean: Tensor, dispersion: Tensor, dropped: Tensor) -> Tensor:
    """Logarithm of the probability of counts under a zero-inflated negative binomial distribution.

    Parameters
    ----------
    counts
        Whole numbers.
    mean
        Mean of what is not dropped.
    dispersion
        Inverse dispersion: the variance is ``mean + mean**2 / dispersion``.
    dropped
        Logit of the probability that a count is dropped to zero.

    Returns
    -------
    One value a count.
    """
    total = mean + dispersion
    of_zero = dispersion * (dispersion.log() - total.log())
    combinations = torch.lgamma(counts + dispersion) - torch.lgamma(dispersion) - torch.lgamma(counts + 1)
    of_count = combinations + of_zero + counts * (mean.log() - total.log())
    is_zero = torch.logaddexp(F.logsigmoid(dropped), F.logsigmoid(-dropped) + of_zero)
    return torch.where(counts < 0.5, is_zero, F.logsigmoid(-dropped) + of_count)


def library(counts: Tensor, slide: Tensor) -> Tensor:
    """Library size of each spot over the median of its slide.

    Parameters
    ----------
    counts
        ``(b, g)``.
    slide
        ``(b,)``.

    Returns
    -------
    ``(b, 1)``, above 0.
    """
    total = counts.float().sum(dim=1).clamp(min=1)
    size = torch.ones_like(total)
    for rows in rows_by_slide(slide):
        size[rows] = total[rows] / total[rows].median()
    return size[:, None]
