"""Which device, and in which precision: the only place that asks what the hardware can do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from lightning_fabric import Fabric

from . import _errors

if TYPE_CHECKING:
    from .config import FitConfig


def make_fabric(config: FitConfig) -> Fabric:
    """Lightning Fabric as configured, launched if there are several processes."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    accelerator = config.accelerator
    if accelerator == "auto":
        accelerator = next(name for name, is_available in available.items() if is_available)
    _errors.check_device(accelerator, available)
    precision: Any = default_precision(accelerator) if config.precision == "auto" else config.precision
    fabric = Fabric(
        accelerator=accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=config.strategy,
        precision=precision,
    )
    if config.devices > 1 or config.num_nodes > 1:
        fabric.launch()
    return fabric


def default_precision(accelerator: str) -> str:
    """bf16 where the device multiplies matrices in it natively, else float32; emulated bf16 is many times slower."""
    if accelerator == "cuda":
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    native = accelerator == "cpu" and any(
        getattr(torch.cpu, name, bool)() for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    )
    return "bf16-mixed" if native else "32-true"
