"""Machinery of models with a frozen encoder and several views of a spot: sub-patches, and standardised features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange

from .._checks import models as check
from ._closed_form import Standardizer
from .contract import batch_features

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from torch import Tensor

    from .contract import SpotBatch, SpotModel

_CHUNK = 32
"""Spots that a frozen encoder sees at a time."""


def sub_patches(patches: Tensor, side: int) -> Tensor:
    """A grid of sub-patches, row by row: ``(b, 3, p, p)`` to ``(b, side * side, 3, p // side, p // side)``.

    Pixels at the border are dropped if ``side`` does not divide ``p``.
    """
    size = patches.shape[-1] // side * side
    first = (patches.shape[-1] - size) // 2
    inner = patches[..., first : first + size, first : first + size]
    return rearrange(inner, "b c (i y) (j x) -> b (i j) c y x", i=side, j=side)


def apply_in_chunks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of ``(b, ...)`` that treats rows independently to some rows at a time, to bound memory."""
    return torch.cat([function(part) for part in x.split(_CHUNK)])


class FeatureScaler(Standardizer):
    """Standardised features; mean and standard deviation are accumulated over batches of training spots."""

    @torch.no_grad()
    def initialize_from(self, model: SpotModel, batches: Iterable[SpotBatch]) -> Tensor:
        """Learn from all training spots, iterated once; returns the mean of their targets, ``(n_outputs,)``."""
        targets, n = [], 0
        total, squares = torch.zeros(2, len(self.mean), dtype=torch.float64)
        for batch in batches:
            targets.append(check.require_targets(batch.targets))
            rows = batch_features(model, batch).cpu().double().flatten(0, -2)
            n, total, squares = n + len(rows), total + rows.sum(dim=0), squares + rows.square().sum(dim=0)
        mean = total / n
        std = (squares / n - mean.square()).clamp_min(0).sqrt()
        self.mean.copy_(mean)
        self.spread.copy_(torch.where(std > 1e-6, std, torch.ones_like(std)))
        return torch.cat(targets).mean(dim=0)
