"""Sizes of plots are set for a while, and nothing else is."""

from __future__ import annotations

import matplotlib as mpl

from stpredict.pl._style import LOOK, look


def test_only_what_was_set_is_put_back(monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "interactive", False)
    monkeypatch.setitem(mpl.rcParams, "font.size", 23)
    with look():
        assert mpl.rcParams["font.size"] == LOOK["font.size"]
        mpl.rcParams["interactive"] = True  # as Jupyter's backend does with the first figure of a notebook
    assert mpl.rcParams["font.size"] == 23
    assert mpl.rcParams["interactive"]
