"""Tools: fit a predictor, predict expression, evaluate it.

Nothing here draws. torch is imported when a name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .._geometry import PatchSpec
    from .._train._config import FitConfig
    from ._benchmark import Benchmark, benchmark
    from ._calibrate import calibrate
    from ._cohort import predict_cohort
    from ._cross_validate import cross_validate
    from ._entry import Entry
    from ._evaluate import evaluate, summary
    from ._fit import fit
    from ._predict import predict
    from ._predictability import predictability
    from ._predictor import Predictor
    from ._raster import rasterize
    from ._self_train import self_train
    from ._super_resolve import super_resolve

__all__ = [
    "Benchmark",
    "Entry",
    "FitConfig",
    "PatchSpec",
    "Predictor",
    "benchmark",
    "calibrate",
    "cross_validate",
    "evaluate",
    "fit",
    "predict",
    "predict_cohort",
    "predictability",
    "rasterize",
    "self_train",
    "summary",
    "super_resolve",
]

_HOME = {
    "Benchmark": "._benchmark",
    "Entry": "._entry",
    "FitConfig": ".._train._config",
    "PatchSpec": ".._geometry",
    "Predictor": "._predictor",
    "benchmark": "._benchmark",
    "calibrate": "._calibrate",
    "cross_validate": "._cross_validate",
    "evaluate": "._evaluate",
    "fit": "._fit",
    "predict": "._predict",
    "predict_cohort": "._cohort",
    "predictability": "._predictability",
    "rasterize": "._raster",
    "self_train": "._self_train",
    "summary": "._evaluate",
    "super_resolve": "._super_resolve",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name], __name__), name)
    msg = f"module {__name__!r} has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return __all__
