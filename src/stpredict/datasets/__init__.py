"""Data to learn and test with: made up, fetched and checked (`her2st`), or in your folder. Nothing here trains."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
