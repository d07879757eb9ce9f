from __future__ import annotations

import sys

import pytest

from stpredict import pl


def test_names():
    compared = ["benchmark_genes", "benchmark_maps", "benchmark_pca", "benchmark_scores"]
    assert dir(pl) == [*compared, "domains", "expression", "history", "learning_curve", "patches", "pca", "scores"]
    assert all(callable(getattr(pl, name)) for name in pl.__all__)
    with pytest.raises(AttributeError, match="heatmap"):
        _ = pl.heatmap


@pytest.mark.parametrize(("missing", "message"), [("matplotlib.patches", r"\[plot\]"), ("numpy", "numpy")])
def test_without_matplotlib_the_error_says_how_to_get_it(monkeypatch, missing, message):
    monkeypatch.delattr(pl, "patches", raising=False)  # a name is kept after its first use
    monkeypatch.delitem(sys.modules, "stpredict.pl._patches", raising=False)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=message):
        _ = pl.patches
