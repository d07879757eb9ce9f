"""The style of all plots: font sizes, colours, panels. Nothing here depends on what is drawn.

Text and axes keep the colours of the user's style sheet, so that plots fit light and dark backgrounds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from .._palette import CATEGORIES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

BLUE, ORANGE = CATEGORIES[:2]
NEUTRAL = "0.55"
"""Grey that is visible on black and on white."""
DASHES: Any = (0, (4, 3))
"""Dashes of lines that mark a reference."""
WIDTH_IN = 7.2
"""Width of a journal page of two columns, in inches."""
LOOK: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.titlepad": 4,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
}


@contextmanager
def look() -> Iterator[None]:
    """Set font sizes and line widths in a ``with`` block; an ``rc_context`` would undo those of Jupyter's backend."""
    before = {name: mpl.rcParams[name] for name in LOOK}
    mpl.rcParams.update(LOOK)
    try:
        yield
    finally:
        mpl.rcParams.update(before)


def panels(
    ax: Axes | Sequence[Axes] | None,
    n: int,
    *,
    panel_in: tuple[float, float],
    extra_in: float = 0.0,
    n_columns: int = 4,
    figsize: tuple[float, float] | None = None,
    layout: Literal["constrained", "compressed"] = "constrained",
) -> NDArray[Any]:
    """The ``n`` axes to draw on: those given, or those of a new figure that is not wider than a page."""
    if ax is not None:
        held = list(ax.values()) if isinstance(ax, Mapping) else ax  # of `Figure.subplot_mosaic`
        given = np.atleast_1d(np.asarray(held, dtype=object)).ravel()
        if len(given) != n:
            msg = f"`ax` holds {len(given)} axes for {n} panels. Give {n}, or leave `ax` out for a new figure."
            raise ValueError(msg)
        return given
    rows = -(-n // n_columns)
    columns = -(-n // rows)  # rows as even as can be
    shrunk = min(1.0, (WIDTH_IN - extra_in) / (columns * panel_in[0]))
    size = (columns * panel_in[0] * shrunk + extra_in, rows * panel_in[1] * shrunk)
    _, axes = plt.subplots(rows, columns, figsize=figsize or size, squeeze=False, layout=layout)
    for spare in axes.ravel()[n:]:
        spare.remove()
    drawn: NDArray[Any] = axes.ravel()[:n]
    return drawn


def tidy(ax: Axes) -> None:
    """Apply our spines, ticks and text sizes to axes that the user made."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=LOOK["xtick.labelsize"], width=LOOK["xtick.major.width"], length=2.5)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set_fontsize(LOOK["axes.labelsize"])


def category(i: int) -> str:
    """Colour of the i-th category; colours repeat after the seventh."""
    return CATEGORIES[i % len(CATEGORIES)]


def italic(gene: str) -> str:
    """The name of a gene as text in italics, as genes are written; signs such as hyphens stay upright."""
    return re.sub(r"[A-Za-z0-9]+", r"$\\mathit{\g<0>}$", gene.replace("$", r"\$"))


def number(value: float) -> str:
    """A score as text, with two decimals and a typographic minus sign."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
