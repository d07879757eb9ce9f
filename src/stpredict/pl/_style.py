"""The one look of all plots: font sizes, colours, panels. Nothing here knows what is drawn.

Text and axes keep the colours of the user's style sheet, so plots fit light and dark backgrounds.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from .._checks import plots as check

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#D55E00",
    "#F0E442",
)
"""The palette of Okabe and Ito: told apart by every kind of colour vision, on black and on white."""
CATEGORIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW)
NEUTRAL = "0.55"
"""Grey that shows on black and on white."""
DASHES: Any = (0, (4, 3))
"""Dashes of lines that mark a reference."""
WIDTH_IN = 7.2
"""Width of a page of two journal columns."""
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
    """Sizes and line widths of all plots, for a ``with`` block.

    Only what is changed here is put back: Jupyter's backend sets options when the first figure is made, and a whole
    ``rc_context`` would undo that.

    Yields
    ------
    Nothing; on leaving, the user's settings are back.
    """
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
    layout: Literal["constrained", "compressed"] = "constrained",
) -> NDArray[Any]:
    """The axes to draw on: those given, or those of a new figure, which is no wider than a page.

    Parameters
    ----------
    ax
        What the user gave.
    n
        How many are needed.
    panel_in
        Width and height of a new panel in inches, at most.
    extra_in
        Width of what stands beside all panels of a new figure, in inches.
    n_columns
        Panels a row, at most.
    layout
        Layout engine of a new figure.

    Returns
    -------
    ``(n,)`` axes.
    """
    if ax is not None:
        given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
        check.n_axes(len(given), n)
        return given
    rows = -(-n // n_columns)
    columns = -(-n // rows)  # rows as even as can be
    shrunk = min(1.0, (WIDTH_IN - extra_in) / (columns * panel_in[0]))
    size = (columns * panel_in[0] * shrunk + extra_in, rows * panel_in[1] * shrunk)
    _, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout=layout)
    for spare in axes.ravel()[n:]:
        spare.remove()
    drawn: NDArray[Any] = axes.ravel()[:n]
    return drawn


def tidy(ax: Axes) -> None:
    """Give axes that the user made the spines, ticks and sizes of text of ours.

    Parameters
    ----------
    ax
        The axes.
    """
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=LOOK["xtick.labelsize"], width=LOOK["xtick.major.width"], length=2.5)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set_fontsize(LOOK["axes.labelsize"])


def category(i: int) -> str:
    """Colour of the i-th category; after the seventh they begin again.

    Parameters
    ----------
    i
        Number of the category, from 0.

    Returns
    -------
    A colour.
    """
    return CATEGORIES[i % len(CATEGORIES)]


def number(value: float) -> str:
    """A score in words: two decimals, a minus sign that is none of a hyphen.

    Parameters
    ----------
    value
        The score.

    Returns
    -------
    Its text.
    """
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")
