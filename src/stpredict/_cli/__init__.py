"""The command line: thin over the public functions. Nothing is computed here."""

from __future__ import annotations

from ._main import main

__all__ = ["main"]
