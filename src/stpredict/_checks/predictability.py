"""Errors about what can be said of genes before anything is trained."""

from __future__ import annotations


def distant_spots(n_least: int) -> None:
    """Refuse slides on which no spot is far enough from some other."""
    if n_least < 1:
        msg = (
            "Some spots have no other spot that is at least two spot distances away, so nothing can be learnt from "
            "spots that look alike elsewhere. Give several slides to `stp.tl.predictability`, or larger ones."
        )
        raise ValueError(msg)


def enough_on_slides(n_least: int) -> None:
    """Refuse slides of one or two spots."""
    if n_least < 3:
        msg = (
            f"A slide has {n_least} spots with counts; at least 3 are needed for a correlation. Name larger slides "
            "with `shapes_key`."
        )
        raise ValueError(msg)
