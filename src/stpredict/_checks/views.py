"""Errors about models that look at several views of a spot. No torch."""

from __future__ import annotations

from .models import text


def network_name(name: str, value: object) -> None:
    """Refuse an encoder that has no weights to train, or no tokens."""
    text(name, value)
    if value in ("statistics", "given"):
        msg = f"`{name}` is {value!r}, which is no network; it is trained: give a name of timm, such as 'resnet18'."
        raise ValueError(msg)


def splits_patch(size_px: int, side: int) -> None:
    """Refuse a patch that cannot be cut."""
    if size_px < side:
        msg = f"`size_px` is {size_px}; the patch is cut into {side} x {side}: give at least {side}."
        raise ValueError(msg)


def superpixel_grid(cells: int, size_px: int) -> None:
    """Refuse a patch whose superpixels are no whole pixels."""
    if size_px % cells:
        msg = (
            f"`size_px` is {size_px}, which does not split into {cells} x {cells} superpixels (`cells`). "
            f"Give a multiple of {cells} as `size_px`, such as {-(-size_px // cells) * cells}."
        )
        raise ValueError(msg)


def square_grid(n_tokens: int, side: int, name: str) -> int:
    """Tokens along each side; refuse tokens that make no square."""
    if side * side != n_tokens:
        msg = f"{name!r} gives {n_tokens} tokens a patch, which is no square grid. Name another encoder, or `size_px`."
        raise ValueError(msg)
    return side


def spot_resolved(fov_spots: float, most: float) -> None:
    """Refuse a patch in which the spot is a dot."""
    if fov_spots > most:
        msg = (
            f"`fov_spots` begins with {fov_spots}; the superpixels are those of that patch, and the spot must be more "
            f"than a dot in it: give at most {most:g}, such as 1.28, or more `cells`."
        )
        raise ValueError(msg)
