"""One thread, a seed of its own for every test, and batches to feed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from stpredict.models import SpotBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def quiet_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def spots() -> Callable[..., SpotBatch]:
    def make(n: int = 3, n_scales: int = 3, size_px: int = 32, n_outputs: int = 4) -> SpotBatch:
        draw = torch.Generator().manual_seed(n_scales)
        return SpotBatch(
            patches=torch.randint(0, 256, (n, n_scales, 3, size_px, size_px), dtype=torch.uint8, generator=draw),
            xy_um=torch.rand(n, 2, generator=draw),
            slide=torch.zeros(n, dtype=torch.int64),
            targets=torch.randn(n, n_outputs, generator=draw),
        )

    return make
