"""Sizes of plots are set for a while, and nothing else is."""

from __future__ import annotations

import matplotlib as mpl
import pytest
from matplotlib import pyplot as plt

from stpredict.pl._style import LOOK, WIDTH_IN, look, panels, tidy


def test_only_what_was_set_is_put_back(monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "interactive", False)
    monkeypatch.setitem(mpl.rcParams, "font.size", 23)
    with look():
        assert mpl.rcParams["font.size"] == LOOK["font.size"]
        mpl.rcParams["interactive"] = True  # as Jupyter's backend does with the first figure of a notebook
    assert mpl.rcParams["font.size"] == 23
    assert mpl.rcParams["interactive"]


@pytest.mark.parametrize(("n", "rows", "columns"), [(1, 1, 1), (4, 1, 4), (5, 2, 3), (8, 2, 4), (9, 3, 3)])
def test_panels_fit_a_page_in_even_rows(n, rows, columns):
    axes = panels(None, n, panel_in=(2.4, 2.8), extra_in=0.6)
    grid = axes[0].get_gridspec()
    assert (len(axes), grid.nrows, grid.ncols) == (n, rows, columns)
    assert axes[0].figure.get_figwidth() <= WIDTH_IN + 1e-9
    assert (axes[0].figure.get_figwidth() == pytest.approx(3.0)) == (n == 1)


def test_own_axes_get_our_sizes_of_text():
    _, ax = plt.subplots()
    ax.set_xlabel("large")
    tidy(ax)
    assert ax.xaxis.label.get_fontsize() == LOOK["axes.labelsize"]
