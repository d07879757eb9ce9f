from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from stpredict import pl


@pytest.fixture
def table():
    rows = []
    for place, slope in (("random", 1e-3), ("region", 0.0)):
        rows += [("adapt", 0, place, 0, 0.3)]
        for n in (5, 20):
            rows += [("adapt", n, place, draw, 0.3 + slope * n + 0.01 * draw) for draw in (0, 1, 2)]
            rows += [("kriging", n, place, draw, 0.01 * n) for draw in (0, 1, 2)]
    return pd.DataFrame(rows, columns=["method", "n_measured", "place", "draw", "gene_pearson"])


def line(ax, name):
    return next(each for each in ax.lines if each.get_label() == name)


def test_lines_are_means_over_draws_and_bands_their_deviation(table):
    random, region = pl.learning_curve(table)
    np.testing.assert_allclose(line(random, "adapt").get_xdata(), [0, 5, 20])
    np.testing.assert_allclose(line(random, "adapt").get_ydata(), [0.3, 0.315, 0.33])
    np.testing.assert_allclose(line(random, "kriging").get_xdata(), [5, 20])  # unknown without measured spots
    np.testing.assert_allclose(line(region, "adapt").get_ydata(), [0.3, 0.31, 0.31])
    band = random.collections[0].get_paths()[0].vertices
    at_five = band[band[:, 0] == 5, 1]
    assert (at_five.min(), at_five.max()) == pytest.approx((0.305, 0.325))
    assert [ax.get_title() for ax in (random, region)] == ["random", "region"]
    assert [text.get_text() for text in random.figure.legends[0].get_texts()] == ["adapt", "kriging"]
    assert [tick.get_text() for tick in random.get_xticklabels()] == ["0", "5", "20"]


def test_slides_of_a_draw_are_averaged_before_the_deviation(table):
    """Two slides that differ much, and draws that do not: the band has no width."""
    same = table.assign(gene_pearson=0.2)
    both = pd.concat([same, same.assign(gene_pearson=0.6)])
    ax = pl.learning_curve(both)[0]
    np.testing.assert_allclose(line(ax, "adapt").get_ydata(), 0.4)
    assert np.ptp(ax.collections[0].get_paths()[0].vertices[:, 1]) < 1e-12


def test_one_panel_on_given_axes_and_another_score(table):
    _, ax = plt.subplots()
    one = table[table["place"] == "random"].drop(columns=["place", "draw"]).rename(columns={"gene_pearson": "rmse"})
    assert pl.learning_curve(one, metric="rmse", ax=ax).tolist() == [ax]
    assert ax.get_ylabel() == "RMSE per spot"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["adapt", "kriging"]


def test_faults(table):
    with pytest.raises(TypeError, match=r"`scores` is list"):
        pl.learning_curve([1.0])
    with pytest.raises(ValueError, match=r"no column 'n_measured'"):
        pl.learning_curve(table.drop(columns="n_measured"))
    with pytest.raises(ValueError, match=r"`metric` is 'r'; `scores` has the columns 'gene_pearson'"):
        pl.learning_curve(table, metric="r")
    with pytest.raises(ValueError, match="are NaN"):
        pl.learning_curve(table.assign(gene_pearson=np.nan))
    with pytest.raises(ValueError, match="`ax` holds 1 axes for 2 panels"):
        pl.learning_curve(table, ax=plt.subplots()[1])
