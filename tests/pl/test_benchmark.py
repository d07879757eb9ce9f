from __future__ import annotations

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import EllipseCollection
from matplotlib.colors import to_hex

from stpredict import pl
from stpredict.pl._style import italic
from stpredict.pl.comparison import joint_components, section

MODELS = {"ridge_color": 0.3, "m2ost": 0.6, "mean_profile": 0.0}
ORDER = ["m2ost", "ridge_color", "mean_profile"]


@pytest.fixture
def benchmark(compared):
    return compared(MODELS)


def labels(axis):
    return [tick.get_text() for tick in axis.get_ticklabels()]


def spots(ax):
    (found,) = [artist for artist in ax.collections if isinstance(artist, EllipseCollection)]
    return found


def test_scores_of_every_model(benchmark):
    ax = pl.benchmark_scores(benchmark)
    assert labels(ax.yaxis) == [*ORDER, "noise ceiling"]
    assert ax.yaxis_inverted()
    means = [line.get_xdata()[0] for line in ax.lines if line.get_gid() == "mean"]
    assert means == pytest.approx([0.6, 0.3, 0.0, 0.8])  # of the summary, not of the dots
    (line,) = [line for line in ax.lines if line.get_gid() == "baseline"]
    assert line.get_xdata()[0] == pytest.approx(0.3)
    assert [text.get_text() for text in ax.texts] == ["0.60", "0.30", "0.00", "0.80", "best baseline"]
    dots = next(artist for artist in ax.collections if len(artist.get_offsets()) == 8)
    np.testing.assert_allclose(sorted(dots.get_offsets()[:, 0]), 0.6 + 0.01 * np.arange(8))


def test_the_baseline_has_a_colour_of_its_own(benchmark):
    ax = pl.benchmark_scores(benchmark)
    colors = [to_hex(text.get_color()) for text in ax.texts]
    assert colors[0] == colors[2] != colors[1]


def test_other_scores(benchmark):
    benchmark.scores["metric"] = benchmark.scores["metric"].replace("pearson", "rmse")
    ax = pl.benchmark_scores(benchmark, metric="rmse")
    assert labels(ax.yaxis) == ORDER  # still in the order of the summary, and without a ceiling
    assert ax.get_xlabel() == "root mean squared error of a gene"
    assert ax.texts[0].get_text() == "0.64"  # 0.6 + 0.035


def test_a_model_without_scores_keeps_its_row(benchmark, compared):
    rows = benchmark.scores
    rows.loc[rows["model"] == "mean_profile", "value"] = np.nan
    summary = benchmark.summary()
    summary.loc["mean_profile", "gene_pearson"] = np.nan
    benchmark.summary = summary.copy
    ax = pl.benchmark_scores(benchmark)
    assert ax.texts[2].get_text() == "no score"
    assert len(pl.benchmark_maps(benchmark, "GENE1")) == 3


def test_genes_by_models(benchmark):
    ax = pl.benchmark_genes(benchmark, n_genes=3)
    assert labels(ax.yaxis) == [italic(gene) for gene in ("GENE7", "GENE6", "GENE5")]
    assert labels(ax.xaxis) == [*ORDER, "noise ceiling"]
    (image,) = ax.images
    expected = np.array([[0.67, 0.37, 0.07, 0.8], [0.66, 0.36, 0.06, 0.8], [0.65, 0.35, 0.05, 0.8]])
    np.testing.assert_allclose(image.get_array(), expected)
    assert [text.get_text() for text in ax.texts][:3] == ["0.67", "0.37", "0.07"]
    assert {to_hex(text.get_color()) for text in ax.texts} == {"#000000", "#ffffff"}


def test_many_models_have_no_numbers_in_cells(compared):
    ax = pl.benchmark_genes(compared({f"model_{i}": 0.5 for i in range(15)}))
    assert not ax.texts
    assert len(labels(ax.yaxis)) == 8


def test_narrow_cells_have_no_numbers(benchmark):
    _, ax = plt.subplots(figsize=(1.5, 2))
    pl.benchmark_genes(benchmark, ax=ax)
    assert not ax.texts


def test_maps_of_a_gene(benchmark):
    axes = pl.benchmark_maps(benchmark, "GENE3", "S1")
    assert [ax.get_title(loc="left") for ax in axes] == ["observed", *ORDER]
    observed, predicted = (np.asarray(spots(ax).get_array()) for ax in axes[:2])
    table = benchmark.table("m2ost")[36:]
    np.testing.assert_allclose(observed, table.layers["observed"][:, 3])
    np.testing.assert_allclose(predicted, table.X[:, 3])
    r = np.corrcoef(observed, predicted)[0, 1]
    assert axes[1].texts[0].get_text() == f"r = {r:.2f}"
    assert len({spots(ax).get_clim() for ax in axes}) == 1
    low, high = np.quantile(observed, [0.01, 0.99])
    assert spots(axes[0]).get_clim()[0] <= low < high <= spots(axes[0]).get_clim()[1]
    assert axes[0].texts[-1].get_text() == "S1"


def test_limits(benchmark):
    each = [spots(ax).get_clim() for ax in pl.benchmark_maps(benchmark, "GENE3", limits="each")]
    assert len(set(each)) == 4
    assert each[3] == (0.5, 1.5)  # a constant
    given = pl.benchmark_maps(benchmark, "GENE3", limits=(0, 5))
    assert {spots(ax).get_clim() for ax in given} == {(0.0, 5.0)}
    with pytest.raises(ValueError, match=r"`limits` is 'all'; allowed: 'shared', 'each'"):
        pl.benchmark_maps(benchmark, "GENE3", limits="all")


def test_a_scale_bar_where_lengths_are_known(benchmark):
    def bars(ax):
        return [line for line in ax.lines if line.get_gid() == "scale bar"]

    assert not bars(pl.benchmark_maps(benchmark, "GENE3")[0])
    table = benchmark.table("m2ost")
    table.uns["um_per_px"] = {"S0": 0.5}
    axes = pl.benchmark_maps(benchmark, "GENE3")
    assert bars(axes[0])
    assert axes[0].texts[0].get_text() == "50 µm"
    assert np.ptp(spots(axes[0]).get_offsets()[:, 0]) == pytest.approx(250)
    table.uns.clear()


def test_spots_follow_their_names(benchmark):
    table = benchmark.table("ridge_color")
    expected = spots(pl.benchmark_maps(benchmark, "GENE2")[2]).get_array()
    mixed = table[np.random.default_rng(0).permutation(table.n_obs), ::-1].copy()
    tables = {name: benchmark.table(name) for name in MODELS} | {"ridge_color": mixed}
    benchmark.table = lambda model, seed=None: tables[model]
    np.testing.assert_array_equal(spots(pl.benchmark_maps(benchmark, "GENE2")[2]).get_array(), expected)


def test_a_model_that_failed_on_a_section_is_left_out_there(benchmark):
    tables = {name: benchmark.table(name) for name in MODELS}
    tables["ridge_color"] = tables["ridge_color"][:36].copy()
    benchmark.table = lambda model, seed=None: tables[model]
    titles = [ax.get_title(loc="left") for ax in pl.benchmark_maps(benchmark, "GENE2", "S1")]
    assert titles == ["observed", "m2ost", "mean_profile"]


def test_a_gene_without_any_value(benchmark):
    tables = {name: benchmark.table(name).copy() for name in MODELS}
    tables["m2ost"].X[:, 2] = np.nan
    benchmark.table = lambda model, seed=None: tables[model]
    with pytest.raises(ValueError, match="Every value of gene 'GENE2' in 'm2ost' is missing there"):
        pl.benchmark_maps(benchmark, "GENE2")


def test_colours_of_all_genes(benchmark):
    axes = pl.benchmark_pca(benchmark, "S0")
    assert [ax.get_title(loc="left") for ax in axes] == ["observed", *ORDER]
    observed, good, poor, constant = (spots(ax).get_facecolors()[:, :3] for ax in axes)
    np.testing.assert_array_equal(constant, 0.5)
    assert np.abs(observed - good).mean() < np.abs(observed - poor).mean()


def test_components_are_of_genes_that_all_have(benchmark):
    found = section(benchmark, ORDER, "S0")
    scores, share = joint_components(found)
    assert list(scores) == ["observed", *ORDER]
    assert (np.diff(share) <= 0).all()
    np.testing.assert_allclose(scores["observed"].mean(axis=0), 0, atol=1e-9)
    np.testing.assert_array_equal(scores["mean_profile"], 0)
    found.predicted["m2ost"][:, 3:] = np.nan
    found.observed[:, 0] = 1.0
    with pytest.raises(ValueError, match=r"at least 4 spots and 3 genes .*36 spots and 2 genes.*benchmark_maps"):
        joint_components(found)


def test_sections_of_one_spot(compared):
    found = section(compared(MODELS, n_side=1), ORDER)
    assert found.pitch == 1.0
    assert found.gene_values("GENE1")["m2ost"].shape == (1,)


def test_the_largest_section_is_the_default(compared):
    benchmark = compared(MODELS)
    tables = {name: benchmark.table(name)[1:].copy() for name in MODELS}
    assert section(benchmark, ORDER).name == "S0"
    benchmark.table = lambda model, seed=None: tables[model]
    assert section(benchmark, ORDER).name == "S1"


def test_given_axes(benchmark):
    _, given = plt.subplots(1, 4)
    assert list(pl.benchmark_maps(benchmark, "GENE1", ax=given)) == list(given)
    assert pl.benchmark_scores(benchmark, ax=given[0]) is given[0]
    with pytest.raises(ValueError, match="`ax` holds 3 axes for 4 panels"):
        pl.benchmark_pca(benchmark, ax=given[:3])


def test_faults(benchmark):
    with pytest.raises(TypeError, match=r"`benchmark` is dict; expected what `stp\.tl\.benchmark` gives"):
        pl.benchmark_scores({})
    with pytest.raises(ValueError, match=r"no score named 'r2'\. Found: 'ceiling', 'pearson'\. Give one"):
        pl.benchmark_scores(benchmark, metric="r2")
    with pytest.raises(ValueError, match=r"no held-out section named 'S7'\. Found: 'S0', 'S1'"):
        pl.benchmark_maps(benchmark, "GENE1", "S7")
    with pytest.raises(ValueError, match=r"No gene 'GENE11' in 'the benchmark' .*Did you mean 'GENE1'"):
        pl.benchmark_maps(benchmark, "GENE11")
    with pytest.raises(ValueError, match=r"`spot_size` is 0"):
        pl.benchmark_pca(benchmark, spot_size=0)
    with pytest.raises(ValueError, match=r"`n_genes` is 0"):
        pl.benchmark_genes(benchmark, n_genes=0)
    with pytest.raises(ValueError, match="no held-out predictions"):
        section(benchmark, [])
    summary = benchmark.summary().assign(gene_pearson=np.nan)
    benchmark.summary = summary.copy
    with pytest.raises(ValueError, match="No model of this benchmark has a score yet"):
        pl.benchmark_scores(benchmark)
    assert not plt.get_fignums()
