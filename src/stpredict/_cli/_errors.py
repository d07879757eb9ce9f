"""Errors of the command line: missing stores, outputs that exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

EXPECTED: Final = (ValueError, TypeError, OSError, FloatingPointError)
"""Errors whose message is written for users; the command line prints it without a traceback."""


def store_exists(path: Path) -> None:
    """Refuse a store that does not exist."""
    if not path.is_dir():
        msg = (
            f"No SpatialData store at {str(path)!r}. Give the path of a .zarr folder, made for instance with "
            "`spatialdata_io.visium(...).write(path)`."
        )
        raise FileNotFoundError(msg)


def new_output(path: Path) -> None:
    """Refuse to overwrite, and formats that are not supported."""
    if path.suffix not in {".h5ad", ".zarr"}:
        msg = f"`--out {path}` must end in .h5ad (the table) or .zarr (the whole object)."
        raise ValueError(msg)
    if path.exists():
        msg = f"{str(path)!r} exists and is not overwritten. Give another `--out`, or remove it first."
        raise FileExistsError(msg)
