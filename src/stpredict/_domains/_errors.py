"""Errors about spatial domains."""

from __future__ import annotations

from typing import Any


def import_scanpy() -> Any:
    """Import scanpy with igraph, or say how to get them."""
    try:
        import igraph  # noqa: F401
        import scanpy
    except ImportError as error:
        msg = (
            f"clusterer='leiden' needs scanpy and igraph (missing: {error.name}). Install them with "
            "`pip install 'stpredict-histology[analysis]'`, or use clusterer='gmm' or 'kmeans'."
        )
        raise ImportError(msg) from error
    return scanpy
