"""Errors about the resolution of images: sources that differ, and pixels that are not square."""

from __future__ import annotations

from typing import Protocol

MOST = 0.05
"""Two resolutions may differ by so much."""
MOST_ANISOTROPY = 0.01
"""Pixels may be so much longer than wide."""


class Known(Protocol):
    """A resolution and its origin."""

    @property
    def um_per_px(self) -> float:
        """µm per full-resolution pixel."""

    @property
    def origin(self) -> str:
        """Who says so."""


def agree(one: float, other: float) -> bool:
    """Whether two resolutions differ by no more than 5 %."""
    return bool(abs(one / other - 1) <= MOST + 1e-9)


def agrees(given: Known, measured: Known, image_key: str) -> None:
    """Refuse two sources that differ by more than 5 %."""
    if not agree(given.um_per_px, measured.um_per_px):
        msg = (
            f"The resolution of image {image_key!r} is {given.um_per_px:.4g} µm per pixel by {_named(given)}, but "
            f"{measured.um_per_px:.4g} by {_named(measured)} ({100 * (given.um_per_px / measured.um_per_px - 1):+.1f} "
            "%, at most 5 % is allowed). Correct the wrong one, for instance with "
            "`stp.pp.resolution(sdata, um_per_px=…)`."
        )
        raise ValueError(msg)


def _named(known: Known) -> str:
    return {"argument": "the argument `um_per_px`", "record": "what the object records"}.get(
        known.origin, f"its {known.origin}" if known.origin.startswith("spot") else known.origin
    )


def square_pixels(x: float, y: float, name: str) -> None:
    """Refuse an image whose pixels are not square by what its file or its spots say."""
    if not abs(x / y - 1) <= MOST_ANISOTROPY:
        msg = (
            f"Pixels of image {name!r} are not square: {x:.4g} µm wide and {y:.4g} µm high "
            f"({100 * (x / y - 1):+.1f} %, at most 1 % is allowed). Resample the image to square pixels first."
        )
        raise ValueError(msg)
