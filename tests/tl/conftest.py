"""A predictor trained once on two of three synthetic slides, and what a test needs to make its own."""

from __future__ import annotations

from contextlib import contextmanager
from copy import deepcopy
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest
import torch
from distributed import Client, LocalCluster
from spatialdata import SpatialData

from stpredict.datasets import synthetic
from stpredict.tl import FitConfig, Predictor, fit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.context import ForkServerContext
    from pathlib import Path

TINY = {"dim": 24, "depth": 1, "heads": 2, "size_px": 32, "patch_size": 8}
TRAINED_ON, TESTED_ON = ["S0_spots", "S1_spots"], "S2_spots"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Also for fixtures of modules: predictors are compared bit for bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def few_pixels(small_patches: None) -> Iterator[None]:
    """In all tests of this folder; the stain of a slide is measured in a few windows, too."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("stpredict.pp.stain_normalization.N_WINDOWS", 8)
        yield


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Paths of folders that are not there yet."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def own_cache(caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is saved by default goes here, not into the cache of whoever runs the tests."""
    cache = next(caches)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


@pytest.fixture(scope="session")
def small_sdata() -> SpatialData:
    return synthetic(n_slides=3, n_side=5, um_per_px=8.0)


@pytest.fixture(scope="session")
def written(small_sdata: SpatialData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same slides on disk, which no test may change."""
    folder = tmp_path_factory.mktemp("written") / "slides.zarr"
    copied(small_sdata).write(folder)
    return folder


@pytest.fixture
def sdata(small_sdata: SpatialData) -> SpatialData:
    """Three slides of 25 spots that a test may change, except for the pixels."""
    return copied(small_sdata)


def copied(sdata: SpatialData) -> SpatialData:
    return SpatialData(
        images=dict(sdata.images),
        shapes={name: shapes.copy() for name, shapes in sdata.shapes.items()},
        tables={name: table.copy() for name, table in sdata.tables.items()},
        attrs=deepcopy(sdata.attrs),
    )


@pytest.fixture
def quick(tmp_path: Path) -> Callable[..., Predictor]:
    """`fit` with a network of a few thousand weights, for one epoch unless more are asked for."""

    def make(sdata: Any, model: str = "m2ost", *, options: dict[str, Any] | None = None, **arguments: Any) -> Predictor:
        of_config = {"n_epochs": 1, "accelerator": "cpu", "precision": "32-true", "progress": False}
        of_config |= {name: arguments.pop(name) for name in list(arguments) if name in FitConfig.__dataclass_fields__}
        if "resume_from" not in arguments:
            arguments.setdefault("save_dir", tmp_path / "model")
        return fit(sdata, model, config=FitConfig(**of_config), model_options={**TINY, **(options or {})}, **arguments)

    return make


@contextmanager
def local_cluster(n_workers: int, **options: Any) -> Iterator[Client]:
    """A dask cluster of some processes. It is not dask's default, so other tests do not use it."""
    with (
        LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=":0", **options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def client(forkserver: ForkServerContext) -> Iterator[Client]:
    """A cluster of two processes that all tests share."""
    with local_cluster(2) as client:
        yield client


def divide(patched: pytest.MonkeyPatch) -> None:
    """Partitions of 16 spots with 4 around, so that 75 spots on three slides are five, two of which hold two slides."""
    patched.setattr("stpredict.tl._inference.plan.PARTITION_SIZE", 16)
    patched.setattr("stpredict.tl._inference.plan.WINDOW_MARGIN", 4)


@pytest.fixture
def small_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """`divide`, for a test."""
    divide(monkeypatch)


@pytest.fixture(scope="session")
def trained(small_sdata: SpatialData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A saved predictor that gives something else for every spot, and what `fit` noted on the object."""
    torch.set_num_threads(1)
    folder, sdata = tmp_path_factory.mktemp("trained") / "model", copied(small_sdata)
    config = FitConfig(n_epochs=3, lr=3e-3, progress=False, accelerator="cpu", precision="32-true", n_members=2)
    fit(sdata, "m2ost", config=config, model_options=TINY, shapes_key=TRAINED_ON, save_dir=folder)
    return folder, sdata.attrs["stpredict"]["predictor"]


@pytest.fixture
def predictor(trained: tuple[Path, dict[str, Any]]) -> Predictor:
    return Predictor.load(trained[0])
