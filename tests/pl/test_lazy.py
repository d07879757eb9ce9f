from __future__ import annotations

import pytest

from stpredict import pl


def test_names():
    compared = ["benchmark_genes", "benchmark_maps", "benchmark_pca", "benchmark_scores"]
    assert dir(pl) == [*compared, "domains", "expression", "history", "learning_curve", "patches", "pca", "scores"]
    assert all(callable(getattr(pl, name)) for name in pl.__all__)
    with pytest.raises(AttributeError, match="heatmap"):
        _ = pl.heatmap
