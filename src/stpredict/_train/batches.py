"""Parts of a set of spots: gathered, sent to a device, and as many at a time as its memory holds. Tensors only."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from traceback import clear_frames
from typing import TYPE_CHECKING

import torch

from .._checks import training as check

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from torch import Tensor

    from ..models.contract import SpotBatch

START_SIZES = {"cpu": 16, "cuda": 512, "mps": 64}
"""Spots a forward pass to begin with, by device; on a CPU 8 to 64 are equally fast."""


@dataclass(slots=True)
class BatchLimit:
    """How many spots are computed at a time: halved when memory runs out, and remembered."""

    size: int

    @classmethod
    def of(cls, batch_size: int | None, device: torch.device) -> BatchLimit:
        """A limit to begin with.

        Parameters
        ----------
        batch_size
            Spots at a time; None for what suits the device.
        device
            Where they are computed.

        Returns
        -------
        The limit.
        """
        return cls(START_SIZES.get(device.type, 64) if batch_size is None else batch_size)

    def parts(self, n: int) -> list[slice]:
        """Consecutive parts of ``n`` spots, none larger than the limit and all about equal.

        Parameters
        ----------
        n
            How many spots there are.

        Returns
        -------
        Slices of ``range(n)``.
        """
        n_parts = -(-n // self.size)
        ends = [n * i // n_parts for i in range(n_parts + 1)]
        return [slice(start, end) for start, end in pairwise(ends)]

    def shrink(self, tried: int, error: RuntimeError) -> bool:
        """Halve the limit after memory ran out.

        Parameters
        ----------
        tried
            Spots that were too many.
        error
            What was raised.

        Returns
        -------
        Whether memory is what ran out: any other error is the caller's to raise again.

        Raises
        ------
        MemoryError
            If a single spot is too much.
        """
        if not out_of_memory(error):
            return False
        check.one_spot_fits(tried, error)
        self.size = (tried + 1) // 2
        clear_frames(error.__traceback__)  # they hold what was computed so far
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return True


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that a device, or the computer, has no memory left.

    Parameters
    ----------
    error
        What torch raised; its CPU allocator raises a plain RuntimeError.

    Returns
    -------
    True if so.
    """
    said = str(error).lower()
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(text in said for text in words)


def map_tensors(spots: SpotBatch, change: Callable[[Tensor], Tensor]) -> SpotBatch:
    """A batch with every tensor changed.

    Parameters
    ----------
    spots
        The spots.
    change
        What to do with each tensor.

    Returns
    -------
    A new batch.
    """
    known = {each.name: getattr(spots, each.name) for each in fields(spots)}
    return replace(spots, **{name: change(value) for name, value in known.items() if value is not None})


def gather(spots: SpotBatch, index: Tensor | slice) -> SpotBatch:
    """Some of the spots, in the order of ``index``.

    Parameters
    ----------
    spots
        All spots.
    index
        ``(b,)`` positions, or a slice, which copies nothing.

    Returns
    -------
    A new batch.
    """
    if isinstance(index, slice):
        return map_tensors(spots, lambda x: x[index])
    rows = index.numpy()

    def gathered(x: Tensor) -> Tensor:
        """On the CPU by one thread: the others compute."""
        return torch.from_numpy(x.numpy().take(rows, axis=0)) if x.device.type == "cpu" else x[index]

    return map_tensors(spots, gathered)


def device_batches(spots: SpotBatch, indices: Iterable[Tensor], device: torch.device) -> Iterator[SpotBatch]:
    """Gather batches and send them to a device; meant to be drawn by `ahead`.

    On CUDA they go through pinned memory and on a stream of their own, so that nothing that computes waits for them.

    Parameters
    ----------
    spots
        All spots.
    indices
        Positions of the spots of each batch.
    device
        Where the batches are used, on its default stream.

    Yields
    ------
    One batch for each of ``indices``.
    """
    for index in indices:
        yield to_device(gather(spots, index), device)


def to_device(spots: SpotBatch, device: torch.device) -> SpotBatch:
    """Send spots to a device from a background thread.

    Parameters
    ----------
    spots
        The spots.
    device
        Where they are used, on its default stream.

    Returns
    -------
    The spots there, the copy finished.
    """
    if device.type != "cuda":
        return spots.to(device)
    using, copying = torch.cuda.default_stream(device), torch.cuda.Stream(device)
    with torch.cuda.stream(copying):
        pinned = map_tensors(spots, lambda x: x.pin_memory() if x.device.type == "cpu" else x)
        there = pinned.to(device, non_blocking=True)
    copying.synchronize()
    for each in fields(there):
        value = getattr(there, each.name)
        if value is not None:
            value.record_stream(using)  # its memory is not given to the next copy while it is still used
    return there
