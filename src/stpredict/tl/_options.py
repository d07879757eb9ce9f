"""Classes of lower layers under their public names: `stp.tl.FitConfig`, `stp.tl.PatchSpec`, `stp.tl.Selection`."""

from __future__ import annotations

from .._geometry import PatchSpec
from .._slides import Selection
from .._train.config import FitConfig

__all__ = ["FitConfig", "PatchSpec", "Selection"]
