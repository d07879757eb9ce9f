"""Pixels as numbers in [0, 1], and blocks that compute in full precision."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from .._checks.calls import public

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A block in which autocast is off, on devices that have autocast."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


@public
def unit_pixels(patches: Tensor) -> Tensor:
    """Pixels as floating point in [0, 1].

    Parameters
    ----------
    patches
        uint8, or floating point that is in [0, 1] already (as augmentation returns it).

    Returns
    -------
    The same shape, floating point, on the same device.

    Examples
    --------
    >>> import torch
    >>> from stpredict import models
    >>> models.unit_pixels(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist()
    [0.0, 0.20000000298023224, 1.0]
    """
    return patches if patches.is_floating_point() else patches.float().div_(255)
