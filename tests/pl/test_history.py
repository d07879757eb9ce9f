from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from stpredict import pl


@pytest.fixture
def table():
    epochs = np.arange(4)
    parts = [
        pd.DataFrame(
            {
                "member": member,
                "epoch": epochs,
                "train_loss": 1.0 - 0.1 * epochs,
                "val_loss": 1.1 - 0.05 * epochs,
                "val_pearson": score,
                "lr": 1e-3,
                "spots_per_s": 80.0,
            }
        )
        for member, score in enumerate([[0.1, 0.3, 0.2, 0.3], [0.2, np.nan, 0.25, 0.4]])
    ]
    return pd.concat(parts, ignore_index=True)


def best(ax):
    return [(line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_gid() == "best"]


def curves(ax):
    return [line for line in ax.lines if line.get_gid() != "best"]


def test_curves_and_best_epochs(table):
    loss, score = pl.history(table)
    assert len(curves(loss)) == 4  # training and validation of two members
    assert len(curves(score)) == 2
    assert best(score) == [(1, 0.3), (3, 0.4)]  # the first of equals
    np.testing.assert_allclose(best(loss), [(1, 1.05), (3, 0.95)])
    assert [text.get_text() for text in score.get_legend().get_texts()] == ["member 0", "member 1"]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]


def test_one_colour_a_member(table):
    loss, score = pl.history(table)
    of_score = [to_hex(line.get_color()) for line in curves(score)]
    assert len(set(of_score)) == 2
    assert [to_hex(line.get_color()) for line in curves(loss)[::2]] == of_score


def test_epochs_are_sorted(table):
    loss, _ = pl.history(table.sample(frac=1, random_state=0))
    np.testing.assert_array_equal(curves(loss)[0].get_xdata(), np.arange(4))


@pytest.mark.parametrize("change", ["drop", "nan"])
def test_without_validation_there_is_one_panel(table, change):
    columns = ["val_loss", "val_pearson"]
    plain = table.drop(columns=columns) if change == "drop" else table.assign(**dict.fromkeys(columns, np.nan))
    (ax,) = pl.history(plain)
    assert len(curves(ax)) == 2
    assert not best(ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["member 0", "member 1"]


def test_one_member_needs_no_legend(table):
    (ax,) = pl.history(table.query("member == 0")[["epoch", "train_loss"]])
    assert ax.get_legend() is None


def test_predictor_is_taken(table):
    _, score = pl.history(SimpleNamespace(history=table))
    assert best(score) == [(1, 0.3), (3, 0.4)]


def test_faults(table):
    with pytest.raises(TypeError, match=r"`history` is list; expected the DataFrame that `stp\.tl\.fit`"):
        pl.history([1.0, 0.5])
    with pytest.raises(ValueError, match=r"no column 'train_loss'"):
        pl.history(table.drop(columns="train_loss"))
    with pytest.raises(ValueError, match=r"`history` is empty"):
        pl.history(table.iloc[:0])
