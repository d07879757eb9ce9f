"""``python -m stpredict``: the command line of `_cli`, and nothing of its own."""

from __future__ import annotations

import sys

from ._cli import main

if __name__ == "__main__":
    sys.exit(main())
