from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from stpredict._slides.slides import Selection
from stpredict.pl._sources import source_pearson, sources


def log_normalised(counts, total, target_sum):
    return np.log1p(counts / total[:, None] * target_sum)


def region_counts(sdata, region):
    table = sdata["observed"]
    return table[(table.obs["region"] == region).to_numpy()].X.toarray().astype(np.float64)


def test_counts_are_normalised_by_default(sdata):
    (source,) = sources(sdata, "observed", Selection(shapes_key="S1_spots"))
    counts = region_counts(sdata, "S1_spots")
    assert source.is_counts
    assert source.units == "log1p CP10k"
    expected = log_normalised(counts, counts.sum(axis=1), 1e4)[:, [3, 0]]
    np.testing.assert_allclose(source.values(["GENE3", "GENE0"]), expected, rtol=1e-5)


def test_counts_are_normalised_as_the_prediction_says(predicted):
    predicted["predicted"].uns["predicted"] |= {
        "units": "log1p CPM over the panel",
        "target": {"target_sum": 1e6, "over": "panel", "log1p": True},
    }
    observed, _ = sources(predicted, ("observed", "predicted"), Selection(shapes_key="S0_spots"))
    panel = region_counts(predicted, "S0_spots")[:, :8]
    expected = log_normalised(panel, panel.sum(axis=1), 1e6)[:, [5]]
    assert observed.units == "log1p CPM over the panel"
    np.testing.assert_allclose(observed.values(["GENE5"]), expected, rtol=1e-5)


def test_agreement_aligns_spots_by_instance(predicted):
    observed, given = sources(predicted, ("observed", "predicted"), Selection(shapes_key="S1_spots"))
    assert not np.array_equal(observed.slide.instances, given.slide.instances)
    rate = predicted["observed"].layers["rate"][(predicted["observed"].obs["region"] == "S1_spots").to_numpy(), 2]
    expected = np.corrcoef(observed.values(["GENE2"])[:, 0], rate)[0, 1]
    assert source_pearson(observed, given, "GENE2") == pytest.approx(expected, abs=1e-5)


def test_agreement_of_what_cannot_agree(predicted):
    predicted["observed"].layers["one"] = predicted["observed"].layers["rate"].copy()
    predicted["observed"].layers["one"][2:, 0] = np.nan
    observed, few = sources(predicted, ("observed", "one"), Selection(shapes_key="S0_spots"))
    assert source_pearson(observed, few, "GENE0") is None


def test_layer_outside_the_panel(sdata):
    table = sdata["observed"]
    table.layers["predicted"] = table.layers["rate"].copy()
    table.layers["predicted"][:, 4:] = np.nan
    table.uns["predicted"] = {"units": "log1p CP10k", "target": {"target_sum": 1e4, "over": "all", "log1p": True}}
    observed, given = sources(sdata, ("observed", "predicted"), Selection(shapes_key="S0_spots"))
    assert observed.is_counts
    assert not given.is_counts
    assert given.panel == ("GENE0", "GENE1", "GENE2", "GENE3")
    assert len(observed.panel) == 4


def test_values_without_a_record_are_taken_for_the_default_units(sdata):
    sdata["observed"].uns["rate"] = "made by hand"
    (source,) = sources(sdata, ["rate"], Selection(shapes_key="S0_spots"))
    assert source.units == "log1p CP10k"


def test_counts_in_a_layer_and_in_a_table_of_another_name(predicted):
    table = predicted.tables.pop("observed")
    table.layers["raw"], table.X = table.X, table.layers["rate"]
    predicted["table"] = table
    (found,) = sources(predicted, "observed", Selection(shapes_key="S0_spots", layer="raw"))
    (named,) = sources(predicted, "table", Selection(shapes_key="S0_spots", layer="raw", table_name="table"))
    assert found.is_counts
    np.testing.assert_array_equal(found.values(["GENE1"]), named.values(["GENE1"]))


def test_the_one_shared_region_needs_no_name(predicted):
    part = predicted["predicted"]
    del predicted.tables["predicted"]
    part = part[(part.obs["region"] == "S1_spots").to_numpy()].copy()
    part.obs["region"] = part.obs["region"].cat.remove_unused_categories()
    part.uns["spatialdata_attrs"]["region"] = "S1_spots"
    predicted["predicted"] = part
    found = sources(predicted, ["observed", "predicted"], Selection())
    assert {source.slide.shapes_key for source in found} == {"S1_spots"}


def test_faults(predicted):
    with pytest.raises(ValueError, match=r"Which element of 'observed', 'predicted' is meant\? Found: 'S0_spots'"):
        sources(predicted, ["observed", "predicted"], Selection())
    with pytest.raises(ValueError, match=r"no element of 'observed', 'predicted' named 'S2_spots'\..* Found: 'S0_"):
        sources(predicted, ["observed", "predicted"], Selection(shapes_key="S2_spots"))
    with pytest.raises(ValueError, match=r"No table or layer 'ridge' \(tables: 'observed', 'predicted'; .*'rate'"):
        sources(predicted, ["ridge"], Selection())
    with pytest.raises(ValueError, match=r"`keys` names no values"):
        sources(predicted, [], Selection())
    with pytest.raises(ValueError, match=r"No table 'counts'"):
        sources(predicted, "observed", Selection(table_name="counts"))
    with pytest.raises(ValueError, match=r"Raw counts are needed.*Give the `layer`"):
        sources(predicted, "observed", Selection(shapes_key="S0_spots", layer="rate"))
    with pytest.raises(TypeError, match=r"Expected a SpatialData"):
        sources(predicted["observed"], "observed", Selection())


def test_without_predictions_the_error_tells_how_to_make_them(sdata):
    with pytest.raises(ValueError, match=r"No table or layer 'predicted'.*stp\.tl\.predict.*keys=\['observed'\]"):
        sources(sdata, ["observed", "predicted"], Selection())


def test_agreement_is_over_the_spots_that_are_scored(predicted):
    """A spot with counts of other genes only is drawn, but `tl.evaluate` does not score it."""
    table = predicted["observed"]
    values = table.X.toarray()
    at = np.flatnonzero(table.obs["region"] == "S0_spots")
    values[at[4], :8] = 0
    table.X = type(table.X)(values)
    observed, given = sources(predicted, ("observed", "predicted"), Selection(shapes_key="S0_spots"))
    drawn = observed.values(["GENE2"])[:, 0]
    assert drawn[4] == 0
    rate = table.layers["rate"][at, 2]
    kept = np.arange(len(at)) != 4
    assert source_pearson(observed, given, "GENE2") == pytest.approx(
        np.corrcoef(drawn[kept], rate[kept])[0, 1], abs=1e-5
    )
    assert np.corrcoef(drawn, rate)[0, 1] != pytest.approx(np.corrcoef(drawn[kept], rate[kept])[0, 1], abs=1e-3)


def test_only_asked_genes_are_read(predicted):
    read = set()

    def block(values, block_info=None):
        read.add(block_info[0]["chunk-location"])
        return values

    table = predicted["predicted"]
    values = table.X
    lazy = da.from_array(values, chunks=(20, 1))
    table.X = lazy.map_blocks(block, dtype=values.dtype, meta=values[:0])
    (source,) = sources(predicted, "predicted", Selection(shapes_key="S1_spots"))
    read.clear()
    rows = (table.obs["region"] == "S1_spots").to_numpy()
    np.testing.assert_array_equal(source.values(["GENE5"])[:, 0], values[rows, 5])
    assert {column for _, column in read} == {5}
