"""Prepare objects for training: choose genes, note resolutions, split spots. Nothing here reads pixels or trains."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
