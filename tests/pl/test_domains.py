from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_hex, to_rgb

from stpredict import pl
from stpredict._palette import category_palette
from stpredict.pl._domains import category_colors
from stpredict.pl._style import CATEGORIES


@pytest.fixture
def with_domains(sdata):
    """Domains of the first of three slides; the second has other ones; a column of labels under other names."""
    table = sdata["observed"]
    column = np.where(table.obs["array_col"].to_numpy(int) < 3, 1, 2).astype(str).astype(object)
    column[(table.obs["region"] == "S2_spots").to_numpy()] = None
    table.obs["domain"] = pd.Categorical(column, categories=["1", "2", "3"])
    table.obs["layer"] = pd.Categorical(np.where(column == "2", "cortex", "white matter"))
    table.obs["domain_agreement"] = np.linspace(0, 1, len(table)).astype(np.float32)
    table.uns["domain"] = {"method": "staig", "from": "predicted"}
    return sdata


def colors(ax):
    (found,) = [artist for artist in ax.collections if isinstance(artist, EllipseCollection)]
    return found


def test_panels_show_domains_labels_and_numbers(with_domains):
    axes = pl.domains(with_domains, keys=["domain", "layer", "domain_agreement"], shapes_key="S0_spots")
    assert [ax.get_title(loc="left") for ax in axes] == [
        "domain (staig, predicted expression)", "layer", "domain_agreement",
    ]  # fmt: skip
    assert [text.get_text() for text in axes[1].texts] == ["ARI = 1.00"]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["1", "2", "3"]
    assert [text.get_text() for text in axes[1].get_legend().get_texts()] == ["cortex", "white matter"]
    domain, layer, agreement = (colors(ax) for ax in axes)
    np.testing.assert_array_equal(domain.get_facecolors(), layer.get_facecolors())  # labels have the matching colour
    assert agreement.get_clim() == (0, 1)
    first = with_domains["observed"].obs["domain"][with_domains["observed"].obs["region"] == "S0_spots"]
    expected = np.array([to_rgb(CATEGORIES[int(name) - 1]) for name in first])
    np.testing.assert_allclose(domain.get_facecolors()[:, :3], expected)


def test_a_number_has_one_colour_on_every_slide(with_domains):
    table = with_domains["observed"]
    only_two = table.obs["domain"].where(table.obs["region"] != "S1_spots", "2")
    table.obs["domain"] = only_two
    (ax,) = pl.domains(with_domains, shapes_key="S1_spots")
    np.testing.assert_allclose(np.unique(colors(ax).get_facecolors()[:, :3], axis=0), [to_rgb(CATEGORIES[1])])


def test_spots_without_a_domain_are_grey(with_domains):
    (ax,) = pl.domains(with_domains, shapes_key="S2_spots")
    np.testing.assert_allclose(np.unique(colors(ax).get_facecolors()[:, :3]), [0.75])


def test_a_column_without_any_label_is_grey(with_domains):
    with_domains["observed"].obs["layer"] = None
    axes = pl.domains(with_domains, keys=["domain", "layer"], shapes_key="S0_spots")
    np.testing.assert_allclose(np.unique(colors(axes[1]).get_facecolors()[:, :3]), [0.75])
    assert not axes[1].texts  # no index


def test_more_categories_than_colours_of_the_palette_are_distinct():
    column = pd.Series(pd.Categorical([f"{i}" for i in range(12)], categories=[f"{i}" for i in range(12)]))
    assert len(set(category_colors(column, None).values())) == 12


@pytest.mark.parametrize("n", [3, 12])
def test_colours_are_those_that_are_stored_for_other_packages(n):
    names = [str(i + 1) for i in range(n)]
    drawn = category_colors(pd.Series(pd.Categorical(names, categories=names)), None)
    assert [to_hex(color) for color in drawn.values()] == [color.lower() for color in category_palette(n)]


def test_labels_take_colours_of_their_domains_one_each():
    domain = pd.Series(list("112233"), dtype="category")
    label = pd.Series(["c", "c", "a", "a", "a", "b"], dtype="category")
    of_label, of_domain = category_colors(label, domain), category_colors(domain, domain)
    assert of_label["c"] == of_domain["1"]
    assert of_label["a"] == of_domain["2"]
    assert of_label["b"] == of_domain["3"]


def test_an_object_without_image_is_drawn_on_white(with_domains):
    for name in list(with_domains.images):
        del with_domains.images[name]
    (ax,) = pl.domains(with_domains, shapes_key="S0_spots")
    assert not [line for line in ax.lines if line.get_gid() == "scale bar"]


def test_a_column_of_numbers_that_are_all_missing_is_drawn(with_domains):
    with_domains["observed"].obs["domain_agreement"] = np.nan
    (ax,) = pl.domains(with_domains, keys="domain_agreement", shapes_key="S0_spots")
    assert colors(ax).get_clim() == (0, 1)


def test_errors(with_domains):
    with pytest.raises(ValueError, match="Which slide is meant"):
        pl.domains(with_domains)
    with pytest.raises(ValueError, match="No column 'none' in `obs`"):
        pl.domains(with_domains, keys="none", shapes_key="S0_spots")
    with pytest.raises(ValueError, match="No column '' in `obs`"):
        pl.domains(with_domains, keys=[], shapes_key="S0_spots")
    with pytest.raises(ValueError, match="`image_alpha` is 2"):
        pl.domains(with_domains, shapes_key="S0_spots", image_alpha=2)
