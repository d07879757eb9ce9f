from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import EllipseCollection

from stpredict import pl
from stpredict.pl._pca import component_colors, components


def colors(ax):
    (found,) = [artist for artist in ax.collections if isinstance(artist, EllipseCollection)]
    return found.get_facecolors()[:, :3]


def test_components_against_the_covariance():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 3)) @ rng.normal(size=(3, 6)) + 0.1 * rng.normal(size=(50, 6))
    values -= values.mean(axis=0)
    loadings, share = components(values)
    variance, axes = np.linalg.eigh(values.T @ values)
    np.testing.assert_allclose(np.abs(np.sum(loadings * axes[:, ::-1].T[:3], axis=1)), 1, rtol=1e-9)
    np.testing.assert_allclose(share, variance[::-1][:3] / variance.sum(), rtol=1e-9)
    assert (loadings[np.arange(3), np.abs(loadings).argmax(axis=1)] > 0).all()


def test_components_do_not_see_missing_spots():
    values = np.random.default_rng(1).normal(size=(20, 5))
    with_gap = np.concatenate([values, np.full((1, 5), np.nan)])
    np.testing.assert_array_equal(components(with_gap)[0], components(values)[0])


def test_colors():
    scores = np.column_stack([np.linspace(-1, 1, 101), np.zeros(101), np.linspace(5, 0, 101)])
    scores[50] = np.nan
    rgb = component_colors(scores, np.array([0.6, 0.3, 0.1]))
    assert (rgb >= 0).all()
    assert (rgb <= 1).all()
    assert (np.diff(np.delete(rgb[:, 0], 50)) >= 0).all()
    np.testing.assert_array_equal(rgb[0], [0, 0.5, 1])  # the second does not vary
    np.testing.assert_array_equal(rgb[50], [0.75] * 3)


def test_noise_has_no_colour():
    scores = np.random.default_rng(0).normal(size=(30, 3))
    assert (component_colors(scores, np.array([0.9, 0.1, 0.004]))[:, 2] == 0.5).all()


def test_panels(predicted):
    axes = pl.pca(predicted, keys=["observed", "predicted"], shapes_key="S0_spots")
    assert [ax.get_title(loc="left") for ax in axes] == ["observed", "predicted"]
    assert axes[1].get_title(loc="right") == "PC1–3 as RGB"
    shares = [float(text.get_text().split()[2]) for text in axes[1].texts]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 101
    assert [colors(ax).shape for ax in axes] == [(36, 3), (36, 3)]


def test_colours_mean_the_same_in_every_panel(predicted):
    """Observed counts are the predicted rates with little noise: their colours agree."""
    axes = pl.pca(predicted, keys=["rate", "predicted"], shapes_key="S0_spots")
    order = predicted["predicted"].obs["spot_id"].to_numpy()[predicted["predicted"].obs["region"] == "S0_spots"]
    np.testing.assert_allclose(colors(axes[0])[order], colors(axes[1]), atol=1e-3)


def test_one_panel_is_the_default(predicted):
    axes = pl.pca(predicted, shapes_key="S0_spots")
    assert [ax.get_title(loc="left") for ax in axes] == ["predicted"]
    assert len(axes[0].texts) == 4  # three components and the scale bar


def test_faults(predicted):
    with pytest.raises(ValueError, match=r"Which element of 'predicted' is meant"):
        pl.pca(predicted)
    with pytest.raises(ValueError, match=r"No table or layer 'ridge'"):
        pl.pca(predicted, keys="ridge")
    with pytest.raises(ValueError, match=r"`spot_size` is 0"):
        pl.pca(predicted, shapes_key="S0_spots", spot_size=0)
    predicted["predicted"].X[:, 2:] = 1.0
    with pytest.raises(ValueError, match=r"at least 4 spots and 3 genes that vary .*36 spots and 2 genes"):
        pl.pca(predicted, shapes_key="S0_spots")


@pytest.mark.parametrize("width_in", [1.5, 4])
def test_texts_below_cover_nothing(predicted, width_in):
    figure, ax = plt.subplots(figsize=(width_in, width_in))
    pl.pca(predicted, shapes_key="S0_spots", ax=ax)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert len(boxes) == 4
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_touching_places_of_a_lattice_are_an_image(sdata):
    sdata["S0_spots"]["radius"] *= 2  # as wide as they are far apart
    image_ax, circles_ax = (pl.pca(sdata, keys="rate", shapes_key="S0_spots", spot_size=size)[0] for size in (1, 0.999))
    image = image_ax.images[1].get_array()
    assert image.shape == (6, 6, 4)
    assert (image[..., 3] == 1).all()
    of_places = sorted(map(tuple, image[..., :3].reshape(-1, 3)))
    np.testing.assert_allclose(of_places, sorted(map(tuple, colors(circles_ax))), atol=1e-6)
