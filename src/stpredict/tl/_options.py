"""Options of training and of patches under their public names, `stp.tl.FitConfig` and `stp.tl.PatchSpec`."""

from __future__ import annotations

from .._geometry import PatchSpec
from .._train.config import FitConfig

__all__ = ["FitConfig", "PatchSpec"]
