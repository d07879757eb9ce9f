"""Options of training, prediction, patches and elements under their public names, such as `stp.tl.FitConfig`."""

from __future__ import annotations

from .._geometry import PatchSpec
from .._slides import Selection
from .._train.config import FitConfig
from ._inference.options import PredictOptions

__all__ = ["FitConfig", "PatchSpec", "PredictOptions", "Selection"]
