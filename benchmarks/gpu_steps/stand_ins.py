"""Stand-ins for packages that are missing on a GPU machine, for modules that only import them.

Reading patches, training and predicting use neither SpatialData nor AnnData, but modules around them import both. Every
attribute of a stand-in is an empty class. Lightning Fabric is really used, so it is replaced by Fabric of the package
`lightning`, or by `PlainFabric` for one device.
"""

from __future__ import annotations

import contextlib
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import torch

OPTIONAL = ("anndata", "dask", "geopandas", "pooch", "shapely", "spatialdata", "xarray", "zarr")
"""Packages that `stpredict` requires but no step of the GPU benchmark uses."""


class StandIn(ModuleType):
    """A module whose attributes are empty classes."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        setattr(self, name, type(name, (), {"__doc__": f"Stand-in: {self.__name__} is not installed."}))
        return getattr(self, name)


class StandInFinder(MetaPathFinder, Loader):
    """Finds stand-ins for the missing packages and all their modules."""

    def __init__(self, missing):
        self.missing = missing

    def find_spec(self, fullname, path=None, target=None):  # noqa: ARG002  (the signature is Python's)
        """The spec of a stand-in; None for all other modules."""
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] in self.missing else None

    def create_module(self, spec):
        """An empty stand-in."""
        return StandIn(spec.name)

    def exec_module(self, module):
        """Nothing to execute."""


class PlainFabric:
    """The part of Lightning Fabric that the training loop uses, for one device."""

    world_size, global_rank, is_global_zero = 1, 0, True

    def __init__(self, *, accelerator, precision, **_):
        self.device = torch.device("cuda", 0) if accelerator == "cuda" else torch.device(accelerator)
        self.lower = precision == "bf16-mixed"

    def autocast(self):
        """Autocast to bf16 if requested."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.lower)

    def setup(self, model, optimizer):
        """Move the network to the device."""
        return PlainModel(model.to(self.device)), optimizer

    def no_backward_sync(self, model, *, enabled):  # noqa: ARG002  (the signature is Fabric's)
        """There are no other processes to synchronise."""
        return contextlib.nullcontext()

    def backward(self, loss):
        """Compute gradients."""
        loss.backward()

    def clip_gradients(self, model, optimizer, *, max_norm, error_if_nonfinite):  # noqa: ARG002
        """Limit the norm of the gradients."""
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm, error_if_nonfinite=error_if_nonfinite)

    def barrier(self):
        """There are no other processes to wait for."""


class PlainModel:
    """A network as `PlainFabric` wraps it."""

    def __init__(self, module):
        self.module = module

    def mark_forward_method(self, name):
        """Nothing to do: methods need no wrapping."""

    def __call__(self, *args):
        """Call the network."""
        return self.module(*args)

    def __getattr__(self, name):
        return getattr(self.module, name)


def is_importable(name):
    """Whether a package can be imported."""
    try:
        import_module(name)
    except ImportError:
        return False
    return True


def install():
    """Install stand-ins for missing packages; returns the replacement of each package."""
    replaced = {name: "a stand-in" for name in OPTIONAL if not is_importable(name)}
    if replaced:
        sys.meta_path.insert(0, StandInFinder(set(replaced)))
    if not is_importable("lightning_fabric"):
        if is_importable("lightning.fabric"):
            sys.modules["lightning_fabric"] = sys.modules["lightning.fabric"]
            replaced["lightning_fabric"] = "lightning.fabric"
        else:
            sys.modules["lightning_fabric"] = module = ModuleType("lightning_fabric")
            module.Fabric = PlainFabric
            replaced["lightning_fabric"] = "PlainFabric"
    return replaced
