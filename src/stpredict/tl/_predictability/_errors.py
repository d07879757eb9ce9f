"""Errors of `predictability`: slides that are too small."""

from __future__ import annotations


def check_distant_spots(n_least: int) -> None:
    """Refuse slides on which some spot has no distant spot."""
    if n_least < 1:
        msg = (
            "Some spots have no other spot that is at least two spot distances away, so they have no "
            "neighbours in image space. Give several slides to `stp.tl.predictability`, or larger ones."
        )
        raise ValueError(msg)


def check_spots_per_slide(n_least: int) -> None:
    """Refuse slides of one or two spots."""
    if n_least < 3:
        msg = (
            f"A slide has {n_least} spots with counts; at least 3 are needed for a correlation. Name larger slides "
            "with `shapes_key`."
        )
        raise ValueError(msg)
