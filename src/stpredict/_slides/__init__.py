"""SpatialData objects as slides. Nothing above this package needs to know how elements belong together."""

from __future__ import annotations

from .slides import (
    Level,
    Selection,
    Slide,
    affine_matrix,
    image_resolution,
    pyramid,
    resolve,
    shared_genes,
    slide_images,
)

__all__ = [
    "Level",
    "Selection",
    "Slide",
    "affine_matrix",
    "image_resolution",
    "pyramid",
    "resolve",
    "shared_genes",
    "slide_images",
]
