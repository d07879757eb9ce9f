"""One thread, spots whose target is a colour, and a network small enough to train in a second."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest
import torch

from stpredict._train.config import FitConfig
from stpredict._train.device import make_fabric
from stpredict._train.loop import seeded_rng
from stpredict.models import SpotBatch, build
from stpredict.models import config as named_config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from lightning_fabric import Fabric

    from stpredict.models import SpotModel

collect_ignore = [] if find_spec("spatialdata") and find_spec("tqdm") else ["test_data.py"]  # a machine for GPU tests


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def spots() -> Callable[..., SpotBatch]:
    """Two slides; each target is the brightness of one colour, in the units that a network sees."""

    def make(n: int = 24, n_scales: int = 3, size_px: int = 16, seed: int = 0) -> SpotBatch:
        draw = torch.Generator().manual_seed(seed)
        shades = torch.randint(40, 216, (n, 1, 3, 1, 1), generator=draw)
        grain = torch.randint(-40, 40, (n, n_scales, 3, size_px, size_px), generator=draw)
        targets = (shades.reshape(n, 3).float() - 128) / 50
        return SpotBatch(
            patches=(shades + grain).to(torch.uint8),
            xy_um=torch.rand(n, 2, generator=draw),
            slide=torch.arange(n) % 2,
            targets=targets,
        )

    return make


@pytest.fixture
def network() -> Callable[..., SpotModel]:
    def make(seed: int = 0, n_outputs: int = 3, **options: object) -> SpotModel:
        shape = {"dim": 12, "depth": 1, "heads": 2, "size_px": 16, "patch_size": 8, **options}
        with seeded_rng(seed, -1):
            return build(named_config("m2ost", n_outputs, shape))

    return make


@pytest.fixture
def fabric() -> Fabric:
    return make_fabric(FitConfig(accelerator="cpu", precision="32-true"))
