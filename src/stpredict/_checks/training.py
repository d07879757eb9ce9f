"""Warnings at the line of the user's code."""

from __future__ import annotations

import warnings


def warn(message: str) -> None:
    """Warn at the line of the user's own code that a result is unusual but usable."""
    warnings.warn(message, UserWarning, skip_file_prefixes=(__file__.rsplit("_checks", 1)[0],))
