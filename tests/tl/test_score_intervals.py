"""Intervals of scores from blocks of spots: where blocks lie, what the values are, and what makes intervals wide."""

from __future__ import annotations

import numpy as np
import pytest

import stpredict as stp
from stpredict.metrics.scores import SUMMARY_SCORES
from stpredict.tl._score_intervals import spatial_blocks

QUIET = {"progress": False}


def lattice(n_side, pitch=3.7):
    y, x = np.divmod(np.arange(n_side**2), n_side)
    return np.column_stack([x, y]) * pitch + 11.3


def test_blocks_are_squares_of_the_lattice_and_of_one_slide():
    xy, slide = np.concatenate([lattice(6), lattice(4, pitch=9.1)]), np.repeat(["A", "B"], [36, 16])
    blocks = spatial_blocks(xy, slide, 2.0)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(52))
    assert [len(rows) for rows in blocks] == [4] * (9 + 4)
    for rows in blocks:
        assert len(set(slide[rows])) == 1
        assert np.ptp(np.unique(xy[rows], axis=0), axis=0) == pytest.approx(3.7 if slide[rows[0]] == "A" else 9.1)


@pytest.fixture(scope="module")
def scored():
    """A slide of 20 x 20 spots in the place of measurement and prediction, whose errors are patches of 5 x 5 spots."""
    sdata = stp.datasets.synthetic(n_slides=2, n_side=20, um_per_px=16.0, n_genes=6)
    config = stp.tl.FitConfig(**QUIET)
    predictor = stp.tl.fit(sdata, "mean_profile", shapes_key="S0_spots", config=config)
    stp.tl.predict(sdata, predictor, shapes_key="S1_spots", **QUIET)
    table = sdata["predicted"]
    measured = np.log1p(np.asarray(sdata["observed"][table.obs_names].X.todense()))
    y, x = np.divmod(np.arange(400), 20)
    rng = np.random.default_rng(0)
    of_patch = rng.normal(size=(4, 4, 6))[y // 5, x // 5]
    table.X = np.clip(measured + of_patch, 0, None).astype(np.float32)
    return sdata


def intervals(sdata, **arguments):
    return stp.tl.score_intervals(sdata, **{"shapes_key": "S1_spots", "n_resamples": 20, **QUIET, **arguments})


CHANGED = pytest.mark.filterwarnings("ignore:'predicted' was changed")


@CHANGED
def test_values_are_those_of_the_summary_and_intervals_contain_them(scored):
    before = scored["predicted"].copy()
    found = intervals(scored, pathways={"half": scored["observed"].var_names[:3].tolist()})
    assert found.attrs["n_blocks"] == 16
    scores = stp.tl.evaluate(
        scored, shapes_key="S1_spots", pathways={"half": scored["observed"].var_names[:3].tolist()}
    )
    expected = stp.tl.summary(scores)
    values = found.pivot(index="row", columns="score", values="value")
    assert set(values.columns) == set(expected.columns)
    for name in expected:
        np.testing.assert_allclose(values[name][expected.index], expected[name], rtol=1e-9, err_msg=name)
    model = found[(found["row"] == "model") & found["low"].notna()]
    assert set(model["score"]) == set(expected.columns)
    assert ((model["low"] <= model["value"]) & (model["value"] <= model["high"]) & (model["low"] < model["high"])).all()
    better = model["score"].map({score.name: score.higher_is_better for score in SUMMARY_SCORES})
    assert (model["high"][better] <= 1).all()
    assert (model["low"][~better.astype(bool)] >= 0).all()
    np.testing.assert_array_equal(before.obs, scored["predicted"].obs)
    assert scored["predicted"].uns.keys() - before.uns.keys() == {"evaluation"}  # of `evaluate`


@CHANGED
def test_differences_are_paired(scored):
    """Of the constant profile the correlation is 0 in every draw, so the difference varies as the model does."""
    found = intervals(scored).set_index(["row", "score"])
    model, ridge = (found.loc[(row, "gene_pearson")] for row in ("model", "ridge_color"))
    assert model["difference"] == pytest.approx(model["value"] - ridge["value"])
    assert np.isnan(ridge["difference"])
    constant = found.loc[("mean_profile", "gene_pearson")]
    assert constant["value"] == constant["low"] == constant["high"] == 0
    assert constant["difference_high"] - constant["difference_low"] == pytest.approx(ridge["high"] - ridge["low"])


@CHANGED
def test_blocks_as_large_as_the_patterns_of_the_error_give_wider_intervals(scored):
    """25 spots with one error are one observation: the error of their mean is up to five times that of 25."""

    def width(block_spots):
        found = intervals(scored, block_spots=block_spots, n_resamples=50).set_index(["row", "score"])
        return found.loc[("model", "rmse"), "high"] - found.loc[("model", "rmse"), "low"]

    assert width(5.0) > 1.5 * width(2.0)


@CHANGED
def test_the_seed_decides(scored):
    first, again, other = (intervals(scored, n_resamples=5, seed=seed) for seed in (0, 0, 1))
    assert first.equals(again)
    assert not first["low"].equals(other["low"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"block_spots": 20}, r"`block_spots=20` cuts the slides into 1 squares, .* at least 5"),
        ({"block_spots": 1}, "`block_spots`"),
        ({"n_resamples": 1}, "`n_resamples`"),
    ],
)
@CHANGED
def test_what_cannot_give_an_interval_is_refused(scored, arguments, words):
    with pytest.raises(ValueError, match=words):
        intervals(scored, **arguments)
