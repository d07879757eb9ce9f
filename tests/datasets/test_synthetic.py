"""Expression of the synthetic slides is a known function of colour at a known scale."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict.datasets import synthetic

WINDOWS = (150, 300, 600)


def colours(sdata, side_um, um_per_px=4.0):
    """Mean and spread of red, green and blue in a square window around every spot."""
    obs, half = sdata["observed"].obs, side_um / um_per_px / 2
    found = []
    for section, (x, y) in zip(obs["section"], sdata["observed"].obsm["spatial"], strict=True):
        pixels = sdata[f"{section}_image"]["scale0"]["image"].data
        found.append((pixels, slice(round(y - half), round(y + half)), slice(round(x - half), round(x + half))))
    held = {id(pixels): pixels.compute().astype(float) for pixels, _, _ in found}
    windows = [held[id(pixels)][:, rows, columns] for pixels, rows, columns in found]
    return np.array([np.r_[window.mean((1, 2)), window.std((1, 2))] for window in windows])


def scores(features, values, train):
    """Correlation of a ridge prediction with the truth, gene by gene, on spots that it has not seen."""
    z = (features - features[train].mean(0)) / features[train].std(0)
    z = np.column_stack([z, np.ones(len(z))])
    weights = np.linalg.solve(z[train].T @ z[train] + np.eye(z.shape[1]), z[train].T @ values[train])
    predicted = z[~train] @ weights
    return np.array([np.corrcoef(p, v)[0, 1] for p, v in zip(predicted.T, values[~train].T, strict=True)])


@pytest.fixture(scope="module")
def slides():
    return synthetic(n_slides=3, n_side=8, seed=3)


@pytest.fixture(scope="module")
def by_window(slides):
    table = slides["observed"]
    counts = table.X.toarray()
    values = np.log1p(1e4 * counts / counts.sum(1, keepdims=True))
    train = (table.obs["patient"] != "P2").to_numpy()
    features = {side: colours(slides, side) for side in WINDOWS}
    found = {side: scores(features[side], values, train) for side in WINDOWS}
    return found | {"all": scores(np.concatenate(list(features.values()), 1), values, train)}


def test_colour_predicts_an_unseen_slide(by_window):
    assert (by_window["all"] > 0.8).all()


def test_the_best_window_of_each_gene_is_its_own(slides, by_window):
    best = np.array(WINDOWS)[np.argmax([by_window[side] for side in WINDOWS], axis=0)]
    assert best.tolist() == slides["observed"].var["scale"].tolist()


def test_one_window_does_not_suffice(by_window):
    assert all((by_window[side] < 0.9).any() for side in WINDOWS)


def test_rate_is_what_counts_scatter_around(slides):
    table = slides["observed"]
    counts, shares = table.X.toarray(), np.expm1(table.layers["rate"]) / 1e4
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-4)
    expected = counts.sum(1, keepdims=True) * shares
    z = (counts - expected) / np.sqrt(expected * (1 - shares))  # given the total, counts are multinomial
    assert abs(z.mean()) < 0.05
    assert z.std() == pytest.approx(1, abs=0.05)


def test_library_sizes(slides):
    total = slides["observed"].X.sum(1)
    assert total.min() > 1_800
    assert total.max() < 10_500


def test_layout(slides):
    assert list(slides.images) == ["S0_image", "S1_image", "S2_image"]
    assert list(slides.shapes) == ["S0_spots", "S1_spots", "S2_spots"]
    assert slides.attrs["stpredict"]["um_per_px"] == dict.fromkeys(slides.images, 4.0)
    assert slides["observed"].obs["patient"].cat.categories.tolist() == ["P0", "P1", "P2"]
    assert slides["S1_spots"]["radius"].unique().tolist() == [12.5]
    xy = slides["observed"].obsm["spatial"]
    assert (xy[1] - xy[0]).tolist() == [50.0, 0.0]  # 200 µm
    assert slides["observed"].obs_names.is_unique


def test_glass_is_white_and_windows_stay_on_the_image(slides):
    for name in slides.images:
        pixels = slides[name]["scale0"]["image"].values
        assert pixels[:, :5].min() > 200
        xy = slides["observed"].obsm["spatial"]
        assert xy.min() >= 300 / 4
        assert (xy.max(0) + 300 / 4 <= pixels.shape[:0:-1]).all()


def test_seed_decides_everything():
    first, again, other = (synthetic(n_slides=1, n_side=3, seed=seed) for seed in (5, 5, 6))
    for key in ("X", "image"):
        values = [s["observed"].X.toarray() if key == "X" else s["S0_image"]["scale0"]["image"].values
                  for s in (first, again, other)]  # fmt: skip
        np.testing.assert_array_equal(values[0], values[1])
        assert (values[0] != values[2]).any()


@pytest.mark.parametrize(("arguments", "shape"), [
    ({"n_slides": 1, "n_side": 1}, (1, 12)),
    ({"n_slides": 1, "n_side": 2, "n_genes": 1}, (4, 1)),
    ({"n_slides": 2, "n_side": 2, "um_per_px": 1.5}, (8, 12)),
])  # fmt: skip
def test_small_sizes(arguments, shape):
    table = synthetic(**arguments)["observed"]
    assert table.shape == shape
    assert np.isfinite(table.layers["rate"]).all()


@pytest.mark.parametrize("name", ["n_side", "um_per_px"])
def test_impossible_sizes(name):
    with pytest.raises(ValueError, match=f"`{name}` is .* must lie between"):
        synthetic(**{name: 0})
