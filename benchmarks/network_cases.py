"""The networks that are measured, and how: plain data that needs neither torch nor `stpredict`."""

from __future__ import annotations

from dataclasses import dataclass

OURS = ("m2ost", "m2ost_small", "m2ost_tiny", "m2ost_reference")
OTHERS = {"DenseNet-121": "densenet121", "ViT-B/16": "vit_base_patch16_224"}
PLAIN = "m2ost, plain"
GRAPHS = "CUDA graphs"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row: network, mode (inference or training), precision and execution (eager, compiled, CUDA graphs)."""

    network: str
    mode: str
    precision: str = "fp32"
    execution: str = "eager"
