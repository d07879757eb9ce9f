"""Errors of writing a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pathlib import Path


def report_not_written(path: Path, error: OSError) -> NoReturn:
    """Say that a report could not be written, and that no part of it was left."""
    reason = error.strerror or str(error)
    msg = f"The report was not written to '{path}': {reason}. Nothing was left there; give a `path` in another folder."
    raise OSError(error.errno, msg) from error
