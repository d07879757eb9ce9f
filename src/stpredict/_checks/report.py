"""Errors about showing a comparison: what is no benchmark, models, sections and scores that it does not hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from .slides import listed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NEEDED = ("failed", "folder", "note", "runs", "scores", "summary", "table")


def is_benchmark(value: object) -> None:
    """Refuse what is no result of a benchmark."""
    missing = [name for name in NEEDED if not hasattr(value, name)]
    if missing:
        msg = f"`benchmark` is {type(value).__name__}; expected what `stp.tl.benchmark` gives."
        raise TypeError(msg)


def some_model(n_models: int) -> None:
    """Refuse a benchmark in which no model has been scored."""
    if not n_models:
        msg = "No model of this benchmark has a score yet: there is nothing to show. Run `stp.tl.benchmark` on."
        raise ValueError(msg)


def known_metric(metric: str, found: Sequence[str]) -> None:
    """Refuse a score that was not computed."""
    if metric not in found:
        msg = f"No score {metric!r} in this benchmark. Give another `metric` (found: {listed(found)})."
        raise ValueError(msg)


def known_section(slide: str | None, found: Sequence[str]) -> None:
    """Refuse a section that no model predicted."""
    if not found:
        msg = "This benchmark holds no held-out predictions: its folder was moved or emptied. Run `stp.tl.benchmark`."
        raise ValueError(msg)
    if slide is not None and slide not in found:
        msg = f"No section {slide!r} among the held-out ones. Give another `slide` (found: {listed(found)})."
        raise ValueError(msg)


def report_not_written(path: Path, error: OSError) -> NoReturn:
    """Say that a report could not be written, and that nothing is left of it."""
    reason = error.strerror or str(error)
    msg = f"The report was not written to '{path}': {reason}. Nothing was left there; give a `path` in another folder."
    raise OSError(error.errno, msg) from error


def enough_to_color(n_spots: int, n_genes: int) -> None:
    """Refuse three principal components of too few spots or genes."""
    if n_spots < 4 or n_genes < 3:
        msg = (
            "Three principal components need at least 4 spots and 3 genes that vary and that all models predict; there "
            f"are {n_spots} spots and {n_genes} genes. Draw genes one by one with `stp.pl.benchmark_maps`."
        )
        raise ValueError(msg)
