"""Networks: patches of spots in, target values out. One paper, one file.

Nothing here reads files or knows tables. torch is imported when a name is first used.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
