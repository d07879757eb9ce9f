"""Read files of measurements into SpatialData. Nothing here downloads (see `datasets`) or changes values."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
