"""Data sets to learn and test with: synthetic, downloaded, or in your own folder. Nothing here trains."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
