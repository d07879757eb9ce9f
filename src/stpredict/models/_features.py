"""What models with a frozen encoder and several views of a spot share: parts of a patch, and features on one scale."""

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

_PART = 32
"""Spots whose patches an encoder sees at a time where no gradient is wanted."""


def sub_patches(patches: Tensor, side: int) -> Tensor:
    """Cut patches into a grid of smaller ones.

    Parameters
    ----------
    patches
        ``(b, 3, p, p)``.
    side
        Smaller patches along each side; where it does not divide ``p``, what is left over at the border is dropped.

    Returns
    -------
    ``(b, side * side, 3, p // side, p // side)``, row by row, a view where possible.
    """
    size = patches.shape[-1] // side * side
    first = (patches.shape[-1] - size) // 2
    inner = patches[..., first : first + size, first : first + size]
    cut: Tensor = rearrange(inner, "b c (i y) (j x) -> b (i j) c y x", i=side, j=side)
    return cut


def apply_in_chunks(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function to some spots at a time: what lies between its layers is then bounded.

    Parameters
    ----------
    function
        Takes ``(b, ...)``, and treats every row alone.
    x
        Input.

    Returns
    -------
    As from one call.
    """
    return torch.cat([function(part) for part in x.split(_PART)])


class FeatureScaler(Standardizer):
    """Features on one scale, which is learnt from training spots that come some at a time."""

    @torch.no_grad()
    def initialize_from(self, model: SpotModel, pieces: Iterable[SpotBatch]) -> Tensor:
        """Learn the scale from the training spots.

        Parameters
        ----------
        model
            Whose features these are.
        pieces
            All training spots, some at a time; iterated once.

        Returns
        -------
        ``(n_outputs,)`` mean of their targets.
        """
        targets, n = [], 0
        total, squares = torch.zeros(2, len(self.mean), dtype=torch.float64)
        for piece in pieces:
            targets.append(check.require_targets(piece.targets))
            rows = batch_features(model, piece).cpu().double().flatten(0, -2)
            n, total, squares = n + len(rows), total + rows.sum(dim=0), squares + rows.square().sum(dim=0)
        mean = total / n
        spread = (squares / n - mean.square()).clamp_min(0).sqrt()
        self.mean.copy_(mean)
        self.spread.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))
        return torch.cat(targets).mean(dim=0)
