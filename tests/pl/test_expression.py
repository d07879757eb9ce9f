from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib import pyplot as plt
from matplotlib.collections import EllipseCollection
from shapely import points
from spatialdata.models import TableModel

import stpredict
from stpredict import pl


def spots(ax):
    (found,) = [artist for artist in ax.collections if isinstance(artist, EllipseCollection)]
    return found


def pixels(axes):
    figure = axes[0].figure
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba()).copy()


def color_bars(axes):
    return [ax for ax in axes[0].figure.axes if ax not in set(axes)]


def test_panels(predicted):
    axes = pl.expression(predicted, "GENE2", shapes_key="S0_spots")
    assert [ax.get_title(loc="left") for ax in axes] == [r"$\mathit{GENE2}$ observed", r"$\mathit{GENE2}$ predicted"]
    assert axes[0].get_title(loc="right") == ""
    assert axes[1].get_title(loc="right") == "r = 1.00"
    assert [len(spots(ax).get_offsets()) for ax in axes] == [36, 36]
    assert sum(line.get_gid() == "scale bar" for ax in axes for line in ax.lines) == 1
    assert [bar.get_ylabel() for bar in color_bars(axes)] == ["log1p CP10k"]
    assert axes[0].get_ylim()[0] > axes[0].get_ylim()[1]


@pytest.fixture
def unmeasured(predicted):
    """A slide with a prediction alone, as a slide file gives it; 5 spots are unlike training."""
    del predicted.tables["observed"]
    here = (predicted["predicted"].obs["region"] == "S0_spots").to_numpy()
    predicted["predicted"].obs["unlike_training"] = here & (np.cumsum(here) <= 5)
    return predicted


def test_a_prediction_without_counts_is_drawn_beside_the_image(unmeasured):
    axes = pl.expression(unmeasured, "GENE2", shapes_key="S0_spots")
    left = [ax.get_title(loc="left") for ax in axes]
    assert left == ["H&E", "$\\mathit{GENE2}$ predicted\n5 of 36 spots unlike training (grey)"]
    assert [len(ax.collections) for ax in axes] == [0, 1]
    assert np.flatnonzero(np.ma.getmaskarray(spots(axes[1]).get_array())).tolist() == [0, 1, 2, 3, 4]
    whole, pale = (np.asarray(ax.images[0].get_array()).mean() for ax in axes)
    assert whole < pale


def test_spots_unlike_training_can_be_drawn_and_are_counted(unmeasured):
    (ax,) = pl.expression(unmeasured, "GENE2", keys="predicted", shapes_key="S0_spots", grey_unlike=False)
    assert not np.ma.getmaskarray(spots(ax).get_array()).any()
    assert ax.get_title(loc="left").endswith("5 of 36 spots unlike training")
    unmeasured["predicted"].obs["unlike_training"] = True
    (ax,) = axes = pl.expression(unmeasured, "GENE2", keys="predicted", shapes_key="S0_spots")
    assert ax.get_title(loc="left").endswith("all 36 spots unlike training (grey)")
    assert not color_bars(axes)


def test_flags_of_a_layer_are_those_of_its_own_column(predicted):
    table = predicted["observed"]
    table.layers["guess"] = np.ones(table.shape, dtype=np.float32)
    table.obs["guess_unlike_training"] = table.obs["region"] == "S0_spots"
    table.obs["unlike_training"] = False
    (ax,) = pl.expression(predicted, "GENE2", keys="guess", shapes_key="S0_spots")
    assert "all 36 spots" in ax.get_title(loc="left")


def test_what_there_is_is_drawn(predicted):
    one = predicted["predicted"][(predicted["predicted"].obs["region"] == "S0_spots").to_numpy()].copy()
    one.uns["spatialdata_attrs"]["region"] = "S0_spots"
    predicted["predicted"] = one
    assert len(pl.expression(predicted, "GENE2")) == 2  # the one slide that has both
    assert len(pl.expression(predicted, "GENE2", shapes_key="S1_spots")) == 1
    del predicted.tables["predicted"]
    (ax,) = pl.expression(predicted, "GENE2", shapes_key="S1_spots")
    assert ax.get_title(loc="left") == r"$\mathit{GENE2}$ observed"
    del predicted.tables["observed"]
    with pytest.raises(ValueError, match=r"nothing to draw: no counts and no table 'predicted' .*Predict with"):
        pl.expression(predicted, "GENE2")


def test_several_genes(predicted):
    genes = ["GENE0", "GENE2", "GENE4"]
    axes = pl.expression(predicted, genes, shapes_key="S0_spots")
    assert [ax.get_title(loc="left").split("}")[0].split("{")[1] for ax in axes] == np.repeat(genes, 2).tolist()
    assert len(color_bars(axes)) == 3
    tops = [round(ax.get_position().y0, 3) for ax in axes]
    assert tops[0] == tops[1] > tops[2] == tops[3] > tops[4] == tops[5]
    alone = pl.expression(predicted, "GENE2", shapes_key="S0_spots")
    assert spots(axes[2]).get_clim() == spots(alone[0]).get_clim()
    wide = pl.expression(predicted, genes, keys="predicted", shapes_key="S0_spots", ncols=1, figsize=(2, 6))
    assert wide[0].figure.get_size_inches().tolist() == [2, 6]
    assert len({ax.get_position().y0 for ax in wide}) == 3


def test_spots_lie_where_they_were_measured(predicted):
    axes = pl.expression(predicted, "GENE2", shapes_key="S1_spots")
    for ax, table in zip(axes, ("observed", "predicted"), strict=True):
        rows = (predicted[table].obs["region"] == "S1_spots").to_numpy()
        np.testing.assert_allclose(spots(ax).get_offsets(), 4.0 * predicted[table].obsm["spatial"][rows])
    rows = (predicted["predicted"].obs["region"] == "S1_spots").to_numpy()
    np.testing.assert_array_equal(spots(axes[1]).get_array(), predicted["predicted"].X[rows, 2])


def test_limits(predicted):
    shared = pl.expression(predicted, "GENE2", shapes_key="S0_spots")
    values = np.concatenate([np.ma.getdata(spots(ax).get_array()) for ax in shared])
    for ax in shared:
        np.testing.assert_allclose(spots(ax).get_clim(), np.quantile(values, [0.01, 0.99]), rtol=1e-6)
    each = pl.expression(predicted, "GENE2", shapes_key="S0_spots", limits="each")
    (low, high), (low_predicted, high_predicted) = (spots(ax).get_clim() for ax in each)
    assert low < low_predicted < high_predicted < high  # predictions are shrunken
    assert len(color_bars(each)) == 2
    given = pl.expression(predicted, "GENE2", shapes_key="S0_spots", limits=(0, 9))
    assert [spots(ax).get_clim() for ax in given] == [(0, 9), (0, 9)]


def test_panels_of_other_units_have_their_own_bar(predicted):
    predicted["predicted"].uns["predicted"] |= {
        "units": "CPM",
        "target": {"target_sum": 1e6, "over": "all", "log1p": False},
    }
    axes = pl.expression(predicted, "GENE2", keys=["rate", "predicted"], shapes_key="S0_spots")
    assert [bar.get_ylabel() for bar in color_bars(axes)] == ["log1p CP10k", "CPM"]
    assert axes[1].get_title(loc="right") == ""  # nothing observed, nothing to agree with


def test_constant_gene(predicted):
    predicted["predicted"].X[:, 1] = 2.0
    axes = pl.expression(predicted, "GENE1", keys="predicted", shapes_key="S0_spots")
    assert spots(axes[0]).get_clim() == (1.5, 2.5)
    axes = pl.expression(predicted, "GENE1", shapes_key="S0_spots")
    assert axes[1].get_title(loc="right") == "r = 0.00"


def test_missing_values_are_grey(predicted):
    predicted["predicted"].X[0, 0] = np.nan
    region = predicted["predicted"].obs["region"].iloc[0]
    axes = pl.expression(predicted, "GENE0", keys="predicted", shapes_key=region)
    assert np.ma.getmaskarray(spots(axes[0]).get_array()).sum() == 1
    axes[0].figure.canvas.draw()
    assert [0.75, 0.75, 0.75, 1.0] in spots(axes[0]).get_facecolors().tolist()


def test_spots_without_counts_are_grey(predicted):
    observed = predicted["observed"]
    values = observed.X.toarray()
    values[5] = 0
    observed.X = type(observed.X)(values)
    axes = pl.expression(predicted, "GENE2", shapes_key="S0_spots")
    assert np.flatnonzero(np.ma.getmaskarray(spots(axes[0]).get_array())).tolist() == [5]
    assert axes[1].get_title(loc="right") == "r = 1.00"


def test_a_key_is_a_list_of_one_key(predicted):
    one = pixels(pl.expression(predicted, "GENE0", keys="observed", shapes_key="S2_spots"))
    many = pixels(pl.expression(predicted, "GENE0", keys=["observed"], shapes_key="S2_spots"))
    np.testing.assert_array_equal(one, many)


def test_given_axes_are_drawn_on(predicted):
    _, given = plt.subplots(1, 2)
    axes = pl.expression(predicted, "GENE0", shapes_key="S0_spots", ax=given)
    assert list(axes) == list(given)
    assert plt.get_fignums() == [given[0].figure.number]
    with pytest.raises(ValueError, match=r"`ax` holds 1 axes for 2 panels\. Give 2"):
        pl.expression(predicted, "GENE0", shapes_key="S0_spots", ax=given[0])


def test_look(predicted):
    axes = pl.expression(
        predicted, "GENE0", keys="predicted", shapes_key="S0_spots", spot_size=2.0, image_alpha=0.0, cmap="magma"
    )
    assert spots(axes[0]).get_cmap().name == "magma"
    np.testing.assert_allclose(spots(axes[0]).get_widths(), 200.0)
    assert (np.asarray(axes[0].images[0].get_array()) == 255).all()


def test_more_panels_than_fit_a_row(sdata):
    for i in range(4):
        sdata["observed"].layers[f"rate{i}"] = sdata["observed"].layers["rate"]
    axes = pl.expression(sdata, "GENE0", keys=["observed", *(f"rate{i}" for i in range(4))], shapes_key="S0_spots")
    assert len(axes) == 5
    assert len(axes[0].figure.axes) == 6  # and the colour bar


def test_style_is_the_users_again(predicted):
    before = plt.rcParams.copy()
    with plt.style.context("dark_background"):
        axes = pl.expression(predicted, "GENE0", keys="predicted", shapes_key="S0_spots")
        assert axes[0].title.get_color() == "white"
    assert plt.rcParams == before


def test_object_is_left_as_it_was(predicted):
    before = {name: table.copy() for name, table in predicted.tables.items()}
    pl.expression(predicted, "GENE0", shapes_key="S0_spots")
    pl.pca(predicted, keys=["observed", "predicted"], shapes_key="S0_spots")
    assert set(predicted.tables) == set(before)
    for name, table in before.items():
        assert abs(predicted[name].X - table.X).max() == 0
        assert predicted[name].obs.equals(table.obs)
        assert predicted[name].uns == table.uns


def test_faults(predicted):
    with pytest.raises(ValueError, match=r"No gene 'GENE' in 'observed' \(12 genes\)\. Did you mean 'GENE"):
        pl.expression(predicted, "GENE", shapes_key="S0_spots")
    with pytest.raises(ValueError, match=r"No gene 'GENE9' in 'predicted' \(8 genes\)"):
        pl.expression(predicted, "GENE9", shapes_key="S0_spots")
    with pytest.raises(ValueError, match=r"There are 'GENE0', .*Give another gene"):
        pl.expression(predicted, "ERBB2", shapes_key="S0_spots")
    with pytest.raises(ValueError, match=r"No table or layer 'guess'"):
        pl.expression(predicted, "GENE0", keys=["observed", "guess"], shapes_key="S0_spots")
    with pytest.raises(ValueError, match=r"Which element of 'observed' is meant\? Found: 'S0_spots', 'S1_spots'"):
        pl.expression(predicted, "GENE0", keys="observed")
    with pytest.raises(ValueError, match=r"`limits` is 'same'; allowed: 'shared', 'each'"):
        pl.expression(predicted, "GENE0", shapes_key="S0_spots", limits="same")
    with pytest.raises(ValueError, match=r"`image_alpha` is 2"):
        pl.expression(predicted, "GENE0", shapes_key="S0_spots", image_alpha=2)
    with pytest.raises(ValueError, match=r"`genes` is empty"):
        pl.expression(predicted, [], shapes_key="S0_spots")
    with pytest.raises(ValueError, match=r"`keys` names no values \(\['image'\]\)"):
        pl.expression(predicted, "GENE0", keys="image", shapes_key="S0_spots")
    with pytest.raises(ValueError, match=r"`ncols` is 0"):
        pl.expression(predicted, "GENE0", shapes_key="S0_spots", ncols=0)
    assert not plt.get_fignums()


def test_all_missing_in_this_region(predicted):
    rows = (predicted["predicted"].obs["region"] == "S0_spots").to_numpy()
    predicted["predicted"].X[rows, 0] = np.nan
    with pytest.raises(ValueError, match=r"No gene 'GENE0' in 'predicted' \(7 genes\)"):
        pl.expression(predicted, "GENE0", shapes_key="S0_spots")


def test_gene_outside_the_panel_that_counts_are_divided_by(predicted):
    predicted["predicted"].uns["predicted"]["target"]["over"] = "panel"
    with pytest.raises(ValueError, match=r"No gene 'GENE9' in 'observed' \(8 genes\)"):
        pl.expression(predicted, "GENE9", shapes_key="S0_spots")


@pytest.fixture(params=["square", "hexagonal"])
def dense(request):
    """A slide with more places than are drawn as circles, on a disc of tissue."""
    sdata = stpredict.datasets.synthetic(n_slides=1, n_side=4)
    stpredict.pp.spot_grid(sdata, diameter_um=10, pitch_um=11, layout=request.param, tissue_key=None)
    centre = sdata["grid"].geometry.centroid
    inside = np.hypot(centre.x - 187, centre.y - 187) < 180
    sdata["grid"] = sdata["grid"][inside]
    x, y = centre.x[inside].to_numpy(), centre.y[inside].to_numpy()
    values = np.column_stack([np.sin(x / 30) + y / 100, x]).astype(np.float32)
    obs = pd.DataFrame({"region": pd.Categorical(["grid"] * len(x)), "spot": centre.index[inside]}).set_index(
        centre.index[inside].astype(str)
    )
    table = AnnData(values, obs=obs, var=pd.DataFrame(index=["A", "B"]))
    sdata["predicted"] = TableModel.parse(table, region="grid", region_key="region", instance_key="spot")
    assert table.n_obs > 10_000
    return sdata


def test_many_places_of_a_lattice_are_an_image(dense):
    dense["predicted"].X[7, 0] = np.nan
    (image_ax,), (circles_ax,) = (pl.expression(dense, "A", keys="predicted", spot_size=size) for size in (1, 0.999))
    assert not image_ax.collections
    tissue, image = image_ax.images
    circles = spots(circles_ax)
    assert image.get_clim() == circles.get_clim()
    assert image.get_cmap().name == circles.get_cmap().name
    assert tissue.get_extent() == circles_ax.images[0].get_extent()
    assert (image_ax.get_xlim(), image_ax.get_ylim()) == (circles_ax.get_xlim(), circles_ax.get_ylim())
    one, other = pixels([image_ax]).astype(int), pixels([circles_ax]).astype(int)
    assert one.shape == other.shape
    assert np.median(np.abs(one - other)) == 0
    inked, painted = ((np.ptp(part[..., :3], axis=2) > 60) for part in (other, one))
    ends = [(np.flatnonzero(part.any(axis=axis))[[0, -1]]) for part in (inked, painted) for axis in (0, 1)]
    np.testing.assert_allclose(ends[:2], ends[2:], atol=1)


@pytest.mark.parametrize(("pitch_um", "is_image"), [(200, True), (210, False)])
def test_touching_places_of_a_lattice_are_an_image(pitch_um, is_image):
    sdata = stpredict.datasets.synthetic(n_slides=1, n_side=4)
    stpredict.pp.spot_grid(sdata, diameter_um=200, pitch_um=pitch_um, layout="square", tissue_key=None)
    places = sdata["grid"].index
    obs = pd.DataFrame({"region": pd.Categorical(["grid"] * len(places)), "spot": places}, index=places.astype(str))
    values = np.arange(2.0 * len(places), dtype=np.float32).reshape(-1, 2)
    table = AnnData(values, obs=obs, var=pd.DataFrame(index=["A", "B"]))
    sdata["predicted"] = TableModel.parse(table, region="grid", region_key="region", instance_key="spot")
    (ax,) = pl.expression(sdata, "A", keys="predicted")
    assert (len(ax.images), len(ax.collections)) == ((2, 0) if is_image else (1, 1))
    (ax,) = pl.expression(sdata, "A", keys="predicted", spot_size=0.5)
    assert len(spots(ax).get_offsets()) == len(places)


def test_many_scattered_spots_are_circles(dense):
    centre = dense["grid"].geometry
    shift = np.random.default_rng(0).normal(0, 1, len(centre))
    dense["grid"].geometry = points(centre.x + shift, centre.y)
    (ax,) = pl.expression(dense, "A", keys="predicted")
    assert len(spots(ax).get_offsets()) == dense["predicted"].n_obs
