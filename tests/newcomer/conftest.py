"""The scripts are run by the tests, not collected as modules with examples."""

from __future__ import annotations

collect_ignore_glob = ["*_to_*.py"]
