"""Which device, and in which precision: the only place that asks what the hardware can do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric

from .._processes import is_forked, is_worker
from . import _errors

if TYPE_CHECKING:
    from .config import FitConfig


def make_fabric(config: FitConfig) -> Fabric:
    """Lightning Fabric as configured, launched if there are several processes."""
    avoid_dead_threads()
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    accelerator = config.accelerator
    if accelerator == "auto":
        accelerator = next(name for name, is_available in available.items() if is_available)
    _errors.check_device(accelerator, available)
    several = config.devices > 1 or config.num_nodes > 1
    if several and not _started_by_launcher():
        is_script = hasattr(sys.modules["__main__"], "__file__") and not hasattr(sys, "ps1") and not is_worker()
        _errors.check_launch(config.devices, config.strategy, is_script=is_script)
    precision: Any = default_precision(accelerator) if config.precision == "auto" else config.precision
    fabric = Fabric(
        accelerator=accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=config.strategy,
        precision=precision,
    )
    if several:
        fabric.launch()
    return fabric


def avoid_dead_threads() -> None:
    """Compute on one thread in a fork: the threads of PyTorch stay behind, and a loop over several waits for ever."""
    if is_forked() and torch.get_num_threads() > 1:
        _errors.warn_forked()
        torch.set_num_threads(1)


def _started_by_launcher() -> bool:
    """Whether torchrun, SLURM and the like started this process, one for every device."""
    from lightning_fabric.plugins import environments  # needed for several devices only
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    kinds = ("TorchElasticEnvironment", "SLURMEnvironment", "LSFEnvironment", "MPIEnvironment")
    launchers = (getattr(environments, kind) for kind in kinds)
    return LightningEnvironment().creates_processes_externally or any(each.detect() for each in launchers)


def default_precision(accelerator: str) -> str:
    """bf16 where the device multiplies matrices in it natively, else float32; emulated bf16 is many times slower."""
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    native = accelerator == "cpu" and any(
        getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return "bf16-mixed" if native else "32-true"
