"""What users have in their hands: numbers of numpy, indices, iterators, labelled and masked arrays, patients 1 and 2.

Each is either taken for what it says, or refused with one sentence; none is read by position or letter by letter.
"""

from __future__ import annotations

import json

import anndata as ad
import dask.array as da
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

import stpredict as stp
from stpredict import metrics
from stpredict._checks.plain import plain

pytestmark = pytest.mark.usefixtures("small_patches")
RNG = np.random.default_rng(0)
SPOTS, GENES = [f"spot{i}" for i in range(30)], list("ABCDE")
OBSERVED = pd.DataFrame(RNG.normal(size=(30, 5)), index=SPOTS, columns=GENES)
PREDICTED = OBSERVED + RNG.normal(size=(30, 5))
XY = pd.DataFrame(RNG.uniform(size=(30, 2)), index=SPOTS)
GROUP = pd.Series(np.repeat(["a", "b", "c"], 10), index=SPOTS)
SLIDE = pd.Series(np.tile(["x", "y"], 15), index=SPOTS)
QUIET = {"progress": False}


@pytest.fixture
def predicted(sdata):
    predictor = stp.tl.fit(sdata, "ridge_color", shapes_key=["S0_spots", "S1_spots"], config=QUIET)
    stp.tl.predict(sdata, predictor, progress=False)
    return sdata


@pytest.mark.parametrize(("given", "taken"), [
    (np.int64(3), 3), (np.float32(0.5), 0.5), (np.True_, True), (np.str_("a"), "a"), ((np.int8(1), "b"), (1, "b")),
    (iter([1, 2]), [1, 2]), ({"a": 1}.keys(), ["a"]), ({"a": 1}.values(), [1]),
    ((i for i in "ab"), ["a", "b"]), ([1], [1]), ("ab", "ab"), ({"a": np.int64(1)}, {"a": 1}), (None, None),
])  # fmt: skip
def test_arguments_are_made_plain(given, taken):
    found = plain(given)
    assert found == taken
    assert type(found) is type(taken)


def test_arrays_and_files_are_left_as_they_are(tmp_path):
    array = np.arange(3)
    assert plain(array) is array
    with (tmp_path / "file").open("w+") as file:
        assert plain(file) is file


def test_options_take_numbers_of_numpy():
    made = [
        stp.tl.FitConfig(n_epochs=np.int64(2), lr=np.float32(0.5), seed=np.int64(1)).to_dict(),
        stp.models.config_to_dict(stp.models.config("m2ost_tiny", np.int64(5), {"dim": np.int64(96)})),
        stp.pp.TargetSpec(target_sum=np.float32(1e4), log1p=np.True_).to_dict(),
        stp.tl.PatchSpec(fov_um=np.float64(150), size_px=np.int64(112)).to_dict(),
    ]
    assert json.loads(json.dumps(made))[3] == {"fov_um": [150.0], "size_px": 112, "fill": "white"}


def test_slides_are_named_by_an_index_an_array_or_an_iterator(sdata):
    names = sdata["observed"].obs["region"].cat.categories[:2]
    for given in (names, names.to_numpy(), iter(names)):
        predictor = stp.tl.fit(sdata, "mean_profile", shapes_key=given, config={**QUIET, "seed": np.int64(1)})
        assert list(predictor.provenance["slides"]) == ["S0_spots", "S1_spots"]
    stp.pp.tissue(sdata, image_key="S0_image")
    predictor = stp.tl.fit(sdata, "mean_profile", shapes_key="S0_spots", regions=pd.Index(["tissue"]), config=QUIET)
    assert predictor.provenance["selection"]["regions"] == {"tissue": None}


@pytest.mark.parametrize(
    "seeds", [np.arange(1), pd.Index([0]), iter([0]), {0}, (np.int64(0),)], ids=["a", "b", "c", "d", "e"]
)
def test_seeds_are_any_whole_numbers(sdata, seeds, tmp_path):
    found = stp.tl.benchmark(sdata, ["mean_profile"], seeds=seeds, save_dir=tmp_path, progress=False)
    assert found.runs["seed"].unique().tolist() == [0]


@pytest.mark.parametrize("seeds", [0, np.int64(0), [0.0], "0", [True]], ids=["a", "b", "c", "d", "e"])
def test_what_is_no_list_of_seeds_is_refused(sdata, seeds):
    with pytest.raises(ValueError, match=r"`seeds` is .*; give a list of whole numbers, for instance `\(0, 1, 2\)`"):
        stp.tl.cross_validate(sdata, "mean_profile", seeds=seeds, progress=False)


def test_patients_may_be_numbers(sdata):
    sdata["observed"].obs["patient_id"] = np.repeat([0, 1, 2], 36)
    for given in ([1], 1, np.array([1]), "1"):
        stp.pp.split(sdata, by="patient_id", held_out=given)
        assert (sdata["observed"].obs["split"] == "test").to_numpy().nonzero()[0].tolist() == list(range(36, 72))
    stp.pp.select_genes(sdata, n_genes=3, train=[0, 1], group_key="patient_id")
    fitted = stp.tl.fit(sdata, "m2ost_tiny", group_key="patient_id", validate_on=pd.Index([1]),
                        model_options={"size_px": 32, "patch_size": 8, "dim": 24, "depth": 1, "heads": np.int64(2)},
                        config={**QUIET, "n_epochs": np.int64(1)})  # fmt: skip
    assert fitted.provenance["fit"]["n_epochs"] == 1


def test_spots_without_a_patient_are_no_group(sdata):
    sdata["observed"].obs["who"] = pd.Categorical([None] * 6 + ["a"] * 30 + ["b"] * 36 + ["c"] * 36)
    with pytest.raises(ValueError, match=r"obs\['who'\] is missing for 6 of 108 spots.*belong to no group. Fill"):
        stp.pp.split(sdata, by="who")
    with pytest.raises(ValueError, match=r"obs\['who'\] is missing for 6"):
        stp.pp.select_genes(sdata, n_genes=3, train=["a"], group_key="who")


def test_measured_spots_are_those_that_are_named(sdata):
    names = sdata["observed"].obs_names[:12].tolist()
    mask = pd.Series(sdata["observed"].obs_names.isin(names), index=sdata["observed"].obs_names)
    for given in (
        mask.sample(frac=1, random_state=0),
        set(names),
        iter(names),
        mask.to_numpy(),
        mask.reset_index(drop=True),
    ):
        stp.tl.impute(sdata, measured=given, genes=["GENE0"], shapes_key="S0_spots", progress=False)
        table = sdata["imputed"]
        assert set(table.obs_names[table.obs["measured"]]) == set(names)
    with pytest.raises(
        ValueError, match=r"index of `measured` is not that of table 'observed': 1 of its spots are mis"
    ):
        stp.tl.impute(sdata, measured=mask[1:], shapes_key="S0_spots", progress=False)


def test_labels_of_spots_and_genes_decide_and_not_their_order():
    spots, genes = RNG.permutation(SPOTS), RNG.permutation(GENES)
    lower, upper = PREDICTED - 1, PREDICTED + 1
    turned = [each.loc[spots, genes] for each in (PREDICTED, lower, upper)]
    for score in (metrics.pearson, metrics.r2, metrics.coexpression_agreement):
        np.testing.assert_array_equal(score(OBSERVED, turned[0]), score(OBSERVED, PREDICTED))
    np.testing.assert_array_equal(
        metrics.interval_coverage(OBSERVED, *turned[1:]), metrics.interval_coverage(OBSERVED, lower, upper)
    )
    np.testing.assert_array_equal(
        metrics.interval_score(OBSERVED, turned[1], upper, coverage=0.5),
        metrics.interval_score(OBSERVED, lower, upper, coverage=0.5),
    )
    ceiling = pd.Series(RNG.uniform(0.2, 1, 5), index=GENES)
    found = [metrics.coexpression_agreement(OBSERVED, PREDICTED, ceiling=each) for each in (ceiling, ceiling[genes])]
    assert found[0] == found[1]
    variable = pd.Series(RNG.uniform(size=5), index=GENES)
    assert metrics.svg_overlap(variable, variable[genes] ** 2, n=2) == 1
    for score in (metrics.chaos, metrics.pas):
        assert score(XY, GROUP[spots], slide=SLIDE[spots]) == score(XY, GROUP, slide=SLIDE)
    for score in (metrics.morans_i, metrics.gearys_c):
        np.testing.assert_array_equal(score(OBSERVED, XY, slide=SLIDE[spots]), score(OBSERVED, XY, slide=SLIDE))


@pytest.mark.parametrize("dtype", ["string", "object", "boolean"])
def test_a_missing_slide_is_no_slide(dtype):
    values = [True] * 20 if dtype == "boolean" else ["a"] * 20
    with pytest.raises(ValueError, match="`slide` is missing for 10 of 30 spots"):
        metrics.morans_i(OBSERVED, XY.to_numpy(), slide=pd.array([pd.NA] * 10 + values, dtype=dtype))


def test_masked_values_are_missing():
    masked = np.ma.masked_array(PREDICTED.to_numpy(), mask=np.arange(150).reshape(30, 5) < 50)
    np.testing.assert_array_equal(
        metrics.pearson(OBSERVED.to_numpy(), masked), metrics.pearson(OBSERVED[10:], PREDICTED[10:])
    )


def test_matrices_that_are_not_in_memory(tmp_path):
    counts = csr_matrix(RNG.poisson(3, size=(30, 5)).astype(np.float32))
    table = ad.AnnData(counts)
    table.write_h5ad(tmp_path / "table.h5ad")
    stored = ad.read_h5ad(tmp_path / "table.h5ad", backed="r").X
    chunks = da.from_array(counts, chunks=(10, 5), asarray=False)
    wanted = metrics.noise_ceiling(counts, n_splits=2)
    for given in (stored, chunks, counts.toarray().astype(np.float16)):
        np.testing.assert_array_equal(metrics.noise_ceiling(given, n_splits=2), wanted)
    with pytest.raises(TypeError, match=r"needs? a dense array.*pass `observed.to_memory\(\).toarray\(\)`"):
        metrics.pearson(stored, stored)
    with pytest.raises(TypeError, match=r"pass `observed.compute\(\).toarray\(\)`"):
        metrics.pearson(chunks, chunks)
    for call in (lambda: metrics.pearson(table, table), lambda: metrics.noise_ceiling(table)):
        with pytest.raises(TypeError, match=r"is an AnnData, and one of its matrices is needed. Pass `adata.X`"):
            call()


def test_colormaps_limits_and_axes_of_matplotlib(predicted):
    _, axes = plt.subplot_mosaic("AB")
    for ax in (axes, axes.values(), list(axes.values())):
        drawn = stp.pl.expression(predicted, ["GENE0", "GENE1"], keys="predicted", shapes_key="S0_spots", ax=ax,
                                  cmap=plt.get_cmap("magma"), limits=np.array([0, 1]))  # fmt: skip
        assert [each.collections[-1].get_clim() for each in drawn] == [(0, 1)] * 2
        assert drawn[0].collections[-1].get_cmap().name == "magma"
    plt.close("all")


def test_one_gene_is_a_name_and_not_letters(predicted):
    stp.tl.rasterize(predicted, "GENE0", table_name="predicted", shapes_key="S0_spots")
    assert predicted["predicted_raster"].sizes["c"] == 1


def test_a_summary_of_scores_from_an_arrow_file(predicted):
    scores = stp.tl.evaluate(predicted, shapes_key="S2_spots", n_splits=2)
    for given in (scores.convert_dtypes(), scores.convert_dtypes(dtype_backend="pyarrow")):
        pd.testing.assert_frame_equal(stp.tl.summary(given), stp.tl.summary(scores))


def test_as_many_domains_as_numpy_counts(sdata):
    found = stp.tl.domains(sdata, np.int64(2), "expression", n_seeds=1, clusterer="kmeans", progress=False)
    assert found is None or len(found)
    assert sdata["observed"].obs["domain"].nunique() == 2


def test_text_where_a_number_belongs_is_named():
    with pytest.raises(TypeError, match="`lr` is 'abc'; it must be a number"):
        stp.tl.FitConfig(lr="abc")
    with pytest.raises(TypeError, match="`bin_um` is '16'; it must be a number"):
        stp.io.read_visium_hd(".", bin_um="16")


def test_a_set_has_no_order():
    with pytest.raises(TypeError, match="`genes` is a set, which has no order, and each column needs its name"):
        metrics.pathway_scores(OBSERVED, set(GENES), {"pathway": GENES})
