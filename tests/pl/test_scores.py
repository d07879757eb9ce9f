from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from stpredict import pl
from stpredict.pl._scores import _labels_without_overlap
from stpredict.pl._style import italic


@pytest.fixture
def table():
    rng = np.random.default_rng(0)
    pearson = rng.normal(0.3, 0.1, 40)
    return pd.DataFrame(
        {
            "pearson": pearson,
            "spearman": pearson,
            "ceiling": np.clip(pearson + 0.3, 0, 1),
            "pearson_ridge_color": pearson - 0.1,
        },
        index=[f"G{i}" for i in range(40)],
    )


def means(ax):
    return [line.get_xdata()[0] for line in ax.lines if line.get_gid() == "mean"]


def test_rows_and_means(table):
    axes = pl.scores(table, label="M2OST")
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == ["ridge on colour", "M2OST", "noise ceiling"]
    expected = table[["pearson_ridge_color", "pearson", "ceiling"]].mean()
    np.testing.assert_allclose(means(axes[0]), expected)
    texts = [text.get_text() for text in axes[0].texts]
    assert texts == ["mean profile", *(f"{mean:.2f}" for mean in expected)]
    strips = {strip.get_label(): strip.get_offsets() for strip in axes[0].collections if strip.get_offsets().size > 2}
    np.testing.assert_allclose(strips["pearson"][:, 0], table["pearson"])


def test_each_gene_against_its_ceiling(table):
    _, ax = pl.scores(table, label="M2OST", n_labels=3)
    np.testing.assert_allclose(ax.collections[0].get_offsets(), table[["ceiling", "pearson"]])
    named = [text.get_text() for text in ax.texts if text.get_text() != "ceiling"]
    assert 1 <= len(named) <= 3
    assert named[0] in [italic(gene) for gene in table["pearson"].nlargest(9).index]
    assert ax.get_ylabel() == "Pearson r, M2OST"


def test_no_names(table):
    _, ax = pl.scores(table, n_labels=0)
    assert [text.get_text() for text in ax.texts] == ["ceiling"]


def test_genes_without_score_are_counted_and_left_out(table):
    table.loc[["G3", "G5"], "pearson"] = np.nan
    table.loc["G7", "ceiling"] = np.nan
    left, right = pl.scores(table)
    assert "2 of 40 genes have no score" in [text.get_text() for text in left.texts]
    assert means(left)[1] == pytest.approx(table["pearson"].mean())
    assert len(right.collections[0].get_offsets()) == 37


def test_negative_mean_has_a_minus_sign(table):
    left, _ = pl.scores(table - 1)
    assert f"\N{MINUS SIGN}{-(table['pearson'].mean() - 1):.2f}" in [text.get_text() for text in left.texts]


def test_one_row_is_enough(table):
    (ax,) = pl.scores(table[["pearson"]])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["model"]
    unknown = table.assign(ceiling=np.nan)
    assert len(pl.scores(unknown)) == 1


@pytest.mark.parametrize("values", [[0.4], [0.2, 0.2, 0.2, 0.2, 0.2, 0.2]])
def test_too_few_or_equal_for_a_density(values):
    (ax,) = pl.scores(pd.DataFrame({"pearson": values}))
    ax.figure.canvas.draw()
    assert means(ax) == pytest.approx([values[0]])


def test_names_cover_nothing():
    xy = np.array([[0.8, 0.8], [0.79, 0.79], [0.5, 0.5], [0.45, 0.53]])
    left_above, right_below = (-1, 1), (1, -1)
    places = {0: left_above, 1: right_below, 2: right_below, 3: left_above}
    assert _labels_without_overlap(xy, ["A", "B", "LONGNAME", "D"], 1.0) == places
    assert _labels_without_overlap(xy, ["A", "B", "LONGNAME", "D"], 0.6) == {3: left_above}
    near_the_diagonal = np.array([[0.7, 0.65]])
    assert _labels_without_overlap(near_the_diagonal, ["A"], 1.0) == {0: right_below}


def test_given_axes(table):
    _, given = plt.subplots(1, 2)
    assert list(pl.scores(table, ax=given)) == list(given)
    assert not given[0].spines["top"].get_visible()


def test_faults(table):
    with pytest.raises(TypeError, match=r"`scores` is dict; expected the DataFrame that `stp\.tl\.evaluate"):
        pl.scores({"pearson": [1.0]})
    with pytest.raises(ValueError, match=r"`scores` has no column 'pearson' \(found: 'spearman', 'ceiling'"):
        pl.scores(table.drop(columns="pearson"))
    with pytest.raises(ValueError, match=r"`scores` is empty"):
        pl.scores(table.iloc[:0])
    with pytest.raises(ValueError, match=r"All 40 values of 'pearson' are NaN"):
        pl.scores(table.assign(pearson=np.nan))
    with pytest.raises(ValueError, match=r"`n_labels` is -1"):
        pl.scores(table, n_labels=-1)
    assert not plt.get_fignums()
