"""Tools: fit a predictor, predict expression, evaluate it.

Nothing here draws. torch is imported when a name is first used.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
