"""Colours of categories: those that `pl` draws, and that `tl` stores for other packages to draw."""

from __future__ import annotations

CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""The palette of Okabe and Ito: shown apart by every kind of colour vision, on black and on white."""
MANY = (
    "#1f77b4", "#aec7e8", "#ff7f0e", "#ffbb78", "#2ca02c", "#98df8a", "#d62728", "#ff9896", "#9467bd", "#c5b0d5",
    "#8c564b", "#c49c94", "#e377c2", "#f7b6d2", "#7f7f7f", "#c7c7c7", "#bcbd22", "#dbdb8d", "#17becf", "#9edae5",
)  # fmt: skip
"""The palette "tab20" of matplotlib, for more categories than seven; more than twenty repeat it."""


def category_palette(n: int) -> list[str]:
    """Colours of ``n`` categories, in their order."""
    return list(CATEGORIES[:n]) if n <= len(CATEGORIES) else [MANY[i % len(MANY)] for i in range(n)]
