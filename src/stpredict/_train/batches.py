"""Batches of spots: gathered, copied to a device, and limited to the size that its memory holds. Tensors only."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from itertools import pairwise
from traceback import clear_frames
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..models.contract import SpotBatch, map_tensors
from . import _errors
from .shared import ScaleSubset

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

START_SIZES = {"cpu": 16, "cuda": 512, "mps": 64}
"""Initial number of spots of a forward pass, by device; on a CPU 8 to 64 are equally fast."""


@dataclass(slots=True)
class BatchLimit:
    """Maximum number of spots of a pass; halved when memory runs out, and remembered."""

    size: int

    @classmethod
    def of(cls, batch_size: int | None, device: torch.device) -> BatchLimit:
        """A limit to begin with; None is the default of the device."""
        return cls(START_SIZES.get(device.type, 64) if batch_size is None else batch_size)

    def parts(self, n: int) -> list[slice]:
        """Consecutive parts of ``n`` spots, none larger than the limit and all about equal."""
        n_parts = -(-n // self.size)
        ends = [n * i // n_parts for i in range(n_parts + 1)]
        return [slice(start, end) for start, end in pairwise(ends)]

    def shrink(self, tried: int, error: RuntimeError) -> bool:
        """Halve the limit if memory ran out with ``tried`` spots; False for any other error."""
        if not is_out_of_memory(error):
            return False
        _errors.check_one_spot_fits(tried, error)
        self.size = (tried + 1) // 2
        clear_frames(error.__traceback__)  # they hold the tensors computed so far
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        return True


def map_passes[T](compute: Callable[[SpotBatch], T], spots: SpotBatch, limit: BatchLimit) -> Iterator[T]:
    """Results for consecutive spots, at most ``limit`` at a time; the limit shrinks when memory runs out."""
    done = 0
    while done < len(spots):
        some = gather(spots, slice(done, done + limit.size))
        try:
            found = compute(some)
        except RuntimeError as error:
            if not limit.shrink(len(some), error):
                raise
            continue
        yield found
        done += len(some)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device, or the computer, has no memory left; torch's CPU allocator raises a plain RuntimeError."""
    words = ("can't allocate memory", "not enough memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error).lower() for text in words)


def gather(spots: SpotBatch, index: Tensor | slice) -> SpotBatch:
    """The spots at some positions, in their order; a slice copies nothing, unless a model takes some scales only."""
    if isinstance(spots, ScaleSubset):
        whole = SpotBatch(**{each.name: getattr(spots, each.name) for each in fields(SpotBatch)})
        some = gather(whole, index)
        return replace(some, patches=some.patches[:, list(spots.scales)])
    if isinstance(index, slice):
        return map_tensors(spots, lambda x: x[index])
    rows = index.numpy()

    def select_rows(x: Tensor) -> Tensor:
        """With numpy on the CPU, which uses one thread: the others compute."""
        return torch.from_numpy(x.numpy().take(rows, axis=0)) if x.device.type == "cpu" else x[index]

    return map_tensors(spots, select_rows)


def map_patches(
    compute: Callable[[Tensor], NDArray[np.float32]], spots: SpotBatch, n_at_once: int = 1024
) -> NDArray[np.float32]:
    """Results for the patches of all spots, computed from some of them at a time."""
    starts = range(0, len(spots), n_at_once)
    return np.concatenate([compute(gather(spots, slice(i, i + n_at_once)).patches) for i in starts])


def device_batches(spots: SpotBatch, indices: Iterable[Tensor], device: torch.device) -> Iterator[SpotBatch]:
    """Gather batches and copy them to a device; meant to run in the thread of `prefetch`."""
    for index in indices:
        yield to_device(gather(spots, index), device)


def to_device(spots: SpotBatch, device: torch.device) -> SpotBatch:
    """Copy spots to a device from a background thread, for use on its default stream.

    On CUDA the copy uses pinned memory and a stream of its own, so that no computation waits for it.
    """
    if device.type != "cuda":
        return spots.to(device)
    compute_stream, copy_stream = torch.cuda.default_stream(device), torch.cuda.Stream(device)
    with torch.cuda.stream(copy_stream):
        pinned = map_tensors(spots, lambda x: x.pin_memory() if x.device.type == "cpu" else x)
        copied = pinned.to(device, non_blocking=True)
    copy_stream.synchronize()

    def keep(x: Tensor) -> Tensor:
        """Mark a tensor as in use: the next copy must not reuse its memory."""
        x.record_stream(compute_stream)
        return x

    return map_tensors(copied, keep)
