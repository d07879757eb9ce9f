"""Spatial domains end to end: every method, several slides, predicted slides, transfer, scores, errors."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from anndata import AnnData

import stpredict as stp
from stpredict import datasets, tl
from stpredict._domains.methods import METHODS, NEED_IMAGE
from stpredict._palette import CATEGORIES
from stpredict.metrics import ari

QUIET = {"progress": False, "n_seeds": 2, "clusterer": "kmeans"}
SHORT = {"n_epochs": 6}


@pytest.fixture(scope="module")
def halves():
    """A slide of which the left half expresses other genes than the right one."""
    sdata = datasets.synthetic(n_slides=2, n_side=9, n_genes=40, um_per_px=8.0)
    table = sdata["observed"]
    side = (table.obs["array_col"].to_numpy(int) >= 4).astype(int)
    rng = np.random.default_rng(0)
    rate = np.where((np.arange(40) < 20) == side[:, None], 12, 3)
    table.X = type(table.X)(rng.poisson(rate).astype(np.float32))
    table.obs["side"] = pd.Categorical(np.array(["left", "right"])[side])
    return sdata


def copy_of(sdata):
    """An object whose tables and elements can be changed or replaced."""
    tables = {name: table.copy() for name, table in sdata.tables.items()}
    return sd.SpatialData(images=dict(sdata.images), shapes=dict(sdata.shapes), tables=tables, attrs=dict(sdata.attrs))


@pytest.fixture
def slides(halves):
    return copy_of(halves)


def test_domains_belong_to_their_key(slides):
    for key, method in {"a": "expression", "b": "coordinates"}.items():
        tl.domains(slides, 2, method, shapes_key="S0_spots", key_added=key, **QUIET)
    table = slides["observed"]
    assert [table.uns[key]["embedding"] for key in "ab"] == ["X_a", "X_b"]
    assert table.obsm["X_a"].shape != table.obsm["X_b"].shape
    with pytest.warns(UserWarning, match=r"obs\['b'\] held domains of 'S0_spots' from another call\. They are removed"):
        tl.domains(slides, 2, "coordinates", shapes_key="S1_spots", key_added="b", **QUIET)
    table.obs.index.name = "d"
    tl.domains(slides, 2, "coordinates", key_added="d", **QUIET)
    assert table.obs.index.name is None  # anndata could not write both
    table.obsm["X_c"] = np.ones((table.n_obs, 2))
    with pytest.raises(ValueError, match=r"obsm\['X_c'\] of table 'observed' was not written by `stp.tl.domains`"):
        tl.domains(slides, 2, "coordinates", key_added="c", **QUIET)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_writes_domains(slides, method):
    options = {"options": SHORT} if method in {"staig", "mcgae"} else {}
    found = tl.domains(slides, 2, method, shapes_key="S0_spots", **options, **QUIET)
    table = slides["observed"]
    assert found["method"].tolist() == [method] * 2
    assert found["medoid"].sum() == 1
    assert found["held_out_share"].notna().all()
    own = table.obs["region"] == "S0_spots"
    assert table.obs["domain"].cat.categories.tolist() == ["1", "2"]
    assert table.uns["domain_colors"] == list(CATEGORIES[:2])
    assert table.obs["domain"].notna().eq(own).all()
    assert table.obs["domain_agreement"].notna().eq(own).all()
    assert not table.obs["domain_isolated"].any()
    record = table.uns["domain"]
    assert (record["method"], record["from"], record["uses_labels"]) == (method, "counts", False)
    embedding = table.obsm[record["embedding"]]
    assert embedding.dtype == np.float32
    assert np.isfinite(embedding).all(axis=1).tolist() == own.tolist()
    if method in {"expression", "smoothed", "staig"}:
        assert ari(table.obs["side"][own], table.obs["domain"][own]) > 0.7


def test_planted_halves_are_explained_and_places_of_noise_are_not(slides):
    by = tl.domains(slides, 2, ["expression", "image"], shapes_key="S0_spots", **QUIET)
    share = by.groupby("method")["held_out_share"].mean()
    assert share["expression"] > 0.3
    assert share["image"] < share["expression"] / 2
    assert slides["observed"].uns["domain"]["method"] == "expression"  # the first of a list is written


def test_several_slides_get_one_set_of_domains(slides):
    tl.domains(slides, 2, "expression", **QUIET)
    table = slides["observed"]
    for region in ("S0_spots", "S1_spots"):
        own = table.obs["region"] == region
        left = table.obs["domain"][own & (table.obs["side"] == "left")]
        assert left.value_counts(normalize=True).max() > 0.9
    assert ari(table.obs["side"], table.obs["domain"]) > 0.7


def test_a_list_of_objects_is_the_object_with_both(slides):
    parts = [slides.filter_by_coordinate_system([name]) for name in ("S0", "S1")]
    tl.domains(parts, 2, "expression", **QUIET)
    tl.domains(slides, 2, "expression", **QUIET)
    together = pd.concat([part["observed"].obs["domain"] for part in parts])
    assert together.loc[slides["observed"].obs_names].tolist() == slides["observed"].obs["domain"].tolist()


def test_labels_change_no_byte_of_the_output(slides):
    def run(labels):
        table = slides["observed"]
        for name in ("layer", "side", "domain"):
            table.obs = table.obs.drop(columns=name, errors="ignore")
        if labels is not None:
            table.obs["layer"] = labels
        tl.domains(slides, 3, "staig", shapes_key="S0_spots", options={"n_epochs": 2}, **QUIET)
        parts = [table.obs["domain"].astype(str).to_numpy("U8"), table.obsm["X_staig"]]
        return [hashlib.sha256(np.ascontiguousarray(part).tobytes()).hexdigest() for part in parts]

    truth = pd.Categorical(slides["observed"].obs["side"].astype(str))
    without = run(None)
    assert run(truth) == without
    assert run(pd.Categorical(np.random.default_rng(0).permutation(truth))) == without
    assert run(pd.Categorical([None, *truth[1:]])) == without


def test_isolated_spots_are_kept_and_flagged(slides):
    shapes, table = slides["S0_spots"], slides["observed"]
    gone = shapes.index[[1, 9, 10]]  # the neighbours of the corner
    slides["S0_spots"] = shapes.drop(gone)
    del slides.tables["observed"]
    kept = ~((table.obs["region"] == "S0_spots") & table.obs["spot_id"].isin(gone))
    slides["observed"] = table[kept].copy()
    tl.domains(slides, 2, "staig", shapes_key="S0_spots", options=SHORT, **QUIET)
    found = slides["observed"].obs
    assert found["domain_isolated"].sum() == 1
    assert found["domain"][found["domain_isolated"]].notna().all()


def test_without_image(slides):
    bare = sd.SpatialData(shapes=dict(slides.shapes), tables={"observed": slides["observed"].copy()})
    tl.domains(bare, 2, "expression", shapes_key="S0_spots", **QUIET)
    tl.domains(slides, 2, "expression", shapes_key="S0_spots", **QUIET)
    assert bare["observed"].obs["domain"].tolist() == slides["observed"].obs["domain"].tolist()
    tl.domains(bare, 2, "staig", shapes_key="S0_spots", use_image=False, options=SHORT, **QUIET)
    assert bare["observed"].uns["domain"]["image"] == ""
    for method in (*NEED_IMAGE, "staig"):
        with pytest.raises(ValueError, match=rf"'{method}' need an image.*'expression', 'smoothed', 'coordinates'"):
            tl.domains(bare, 2, method, **QUIET)


def test_embeddings_in_place_of_the_image(slides):
    table = slides["observed"]
    left = (table.obs["side"] == "left").to_numpy()[:, None]
    table.obsm["X_same"] = np.ones((len(table), 3))
    with pytest.raises(ValueError, match=r"Image features \(X_same\) are the same for all spots of each slide"):
        tl.domains(slides, 2, "image", features_key="X_same", **QUIET)
    table.obsm["X_uni"] = np.random.default_rng(0).normal(size=(len(table), 5)) + 9 * left
    tl.domains(slides, 2, "image", features_key="X_uni", **QUIET)
    assert ari(table.obs["side"], table.obs["domain"]) > 0.9
    assert table.uns["domain"]["image"] == "X_uni"


@pytest.fixture(scope="module")
def predicted_once(halves):
    sdata = copy_of(halves)
    predictor = tl.fit(sdata, "ridge_color", shapes_key="S0_spots", config={"progress": False})
    tl.predict(sdata, predictor, progress=False)
    return sdata, predictor


@pytest.fixture
def predicted(predicted_once):
    sdata, predictor = predicted_once
    return copy_of(sdata), predictor


def test_domains_of_predicted_expression(predicted):
    slides, predictor = predicted
    found = tl.domains(slides, 2, "expression", table_name="predicted", shapes_key="S1_spots", **QUIET)
    record = slides["predicted"].uns["domain"]
    assert record["from"] == "predicted"
    assert record["predictor"] == predictor.hash
    assert found["held_out_share"].isna().all()
    assert "domain" not in slides["observed"].obs


def test_transfer_gives_numbers_one_meaning(predicted):
    slides, _ = predicted
    reference = slides.filter_by_coordinate_system(["S0"])
    new = slides.filter_by_coordinate_system(["S1"])
    rng = np.random.default_rng(0)
    for part in (reference, new):  # predictions that tell the two sides apart
        side = part["observed"].obs["side"].loc[part["predicted"].obs_names] == "left"
        values = rng.uniform(1, 2, part["predicted"].shape) + 3 * side.to_numpy()[:, None]
        part["predicted"].X = values.astype(np.float32)
    tl.domains(reference, 2, "expression", **QUIET)
    reference["predicted"].obs["domain"] = np.nan  # had domains of another slide
    result = tl.domains(new, transfer_from=reference)
    assert result["reference_ari"].item() > 0.7
    both = pd.concat([reference["observed"].obs, new["predicted"].obs])
    assert pd.crosstab(both["side"], both["domain"]).max(axis=1).sum() > 0.9 * len(both)
    assert new["predicted"].obs["domain_probability"].between(0.5, 1).all()
    assert new["predicted"].uns["domain"]["reference"] == ["S0_spots"]
    for name in ("S0_spots", "S1_spots"):  # one by one: numbers mean the same, so both are kept
        tl.domains(slides, transfer_from=reference, shapes_key=name)
    assert slides["predicted"].obs["domain"].notna().all()
    assert slides["predicted"].uns["domain"]["slides"] == ["S0_spots", "S1_spots"]
    with pytest.raises(ValueError, match=r"`n_domains` is 3, and the reference has 2 domains"):
        tl.domains(new, 3, transfer_from=reference)
    with pytest.raises(ValueError, match=r"`method` is 'staig' and `options` None, but `transfer_from` takes"):
        tl.domains(new, 2, "staig", transfer_from=reference)
    with pytest.raises(ValueError, match=r"The table of `sdata` holds no prediction"):
        tl.domains(reference, transfer_from=new, table_name="observed")
    known = reference["observed"].obs["domain"].copy()
    for wrong, words in (("1.5", r"holds '1.5', but `stp.tl.domains` writes"), ("1", "lie in 1 domains of obs")):
        reference["observed"].obs["domain"] = pd.Categorical([wrong] * len(known))
        with pytest.raises(ValueError, match=words):
            tl.domains(new, transfer_from=reference)
    reference["observed"].obs["domain"] = known
    fewer = copy_of(new)
    del fewer.tables["predicted"]
    fewer["predicted"] = new["predicted"][:, :5].copy()
    with pytest.raises(ValueError, match="were predicted for different genes, so their values"):
        tl.domains(fewer, transfer_from=reference)
    reference["predicted"].uns["predicted"]["model"]["hash"] = "0" * 64
    with pytest.raises(ValueError, match=r"were predicted by predictors 000000000000 and"):
        tl.domains(new, transfer_from=reference)


def test_scores_against_labels(slides):
    tl.domains(slides, 2, "expression", **QUIET)
    table = slides["observed"]
    found = tl.domain_scores(slides, "side", n_permutations=19)
    assert found["slide"].tolist() == ["S0_spots", "S1_spots", "all"]
    assert found["ari"].iloc[2] == pytest.approx(ari(table.obs["side"], table.obs["domain"]))
    assert (found["chance_ari"] < found["ari"]).all()
    table.obs["side"] = table.obs["side"].where(table.obs["array_row"] > 3)
    assert tl.domain_scores(slides, "side", n_permutations=1)["n_spots"].iloc[2] < len(table)
    with pytest.raises(ValueError, match=r"No table holds domains in obs\['none'\]"):
        tl.domain_scores(slides, "side", key="none")
    with pytest.raises(ValueError, match="No column 'none'"):
        tl.domain_scores(slides, "none")
    with pytest.raises(ValueError, match=r"No table holds domains in obs\[''\]"):
        tl.domain_scores(slides, "side", key=[])
    with pytest.raises(TypeError, match=r"`n_permutations` is 1\.5"):
        tl.domain_scores(slides, "side", n_permutations=1.5)
    table.obs["side"] = None
    with pytest.raises(ValueError, match="has a label in both partitions"):
        tl.domain_scores(slides, "side")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_domains": 1}, r"`n_domains` is 1; it must be a whole number from 2 to 80"),
        ({"n_domains": 2.5}, r"`n_domains` is 2.5"),
        ({"n_domains": 81}, r"`n_domains` is 81"),
        ({"n_domains": None}, r"`n_domains` is None"),
        ({"method": None}, r"`method` is None; there are: 'expression'"),
        ({"method": "spagcn"}, r"`method` is 'spagcn'; there are"),
        ({"method": []}, r"`method` is None"),
        ({"method": ["image", "image"]}, r"named more than once"),
        ({"clusterer": "mclust"}, r"`clusterer` is 'mclust'; allowed: 'gmm', 'kmeans', 'leiden'"),
        ({"options": {"tau": 1}}, r"`options` are those of 'staig' and 'mcgae'"),
        ({"method": "staig", "options": {"label": "side"}}, r"configuration of 'staig' has no 'label'"),
        ({"layer": "rate_log"}, r"No layer 'rate_log'"),
        ({"key_added": "side"}, r"obs\['side'\] of table 'observed' was not written by `stp.tl.domains`"),
        ({"n_seeds": 0}, r"`n_seeds` is 0"),
        ({"n_components": -1}, r"`n_components` is -1"),
        ({"refine": -3}, r"`refine` is -3"),
        ({"method": "staig", "options": {"tau": 0}}, r"`tau` is 0 "),
        ({"method": "staig", "options": {"n_epochs": 0}}, r"`n_epochs` is 0"),
        ({"method": "staig", "options": {"n_neighbors": 0}}, r"`n_neighbors` is 0"),
        ({"method": "staig", "options": {"mask_rates": 0.1}}, r"`mask_rates` is 0.1; give two shares"),
        ({"method": "staig", "options": {"mask_rates": (0.1, 1)}}, r"`mask_rates` is 1 "),
        ({"method": "staig", "options": {"embedding": "head"}}, r"`embedding` is 'head'; allowed"),
        ({"method": "mcgae", "options": {"drop_rate": 1.5}}, r"`drop_rate` is 1.5"),
        ({"method": "mcgae", "options": {"w_graph": -1}}, r"`w_graph` is -1"),
    ],
)
def test_bad_arguments(slides, arguments, words):
    given = {"n_domains": 2, "method": "expression", **QUIET, **arguments}
    with pytest.raises(ValueError, match=words):
        tl.domains(slides, shapes_key="S0_spots", **given)
    assert "domain" not in slides["observed"].obs


def test_bad_tables(predicted):
    slides, _ = predicted
    few = datasets.synthetic(n_slides=1, n_side=6)
    with pytest.raises(ValueError, match="There are 36 spots, and domains need at least 50"):
        tl.domains(few, 2, "expression", **QUIET)
    table = slides["predicted"]
    table.X = np.where(np.arange(table.n_vars) == 1, np.nan, table.X)
    with pytest.raises(ValueError, match=r"holds \d+ missing and 0 negative values among"):
        tl.domains(slides, 2, "expression", table_name="predicted", **QUIET)
    log = slides["observed"]
    log.X = np.log1p(log.X.toarray())
    with pytest.raises(ValueError, match="Raw counts are needed, but values are not whole numbers"):
        tl.domains(slides, 2, "expression", **QUIET)


def test_slides_of_different_genes_or_kinds(predicted):
    slides, _ = predicted
    one, other = (slides.filter_by_coordinate_system([name]) for name in ("S0", "S1"))
    renamed = other["observed"]
    renamed.var_names = [f"ENSG{i}" for i in range(renamed.n_vars)]
    with pytest.raises(ValueError, match=r"The slides share 0 genes, and have 40 \(0/S0_spots\), 40 \(1/S1_spots\)"):
        tl.domains([one, other], 2, "expression", **QUIET)
    mixed = sd.SpatialData(images=dict(other.images), shapes=dict(other.shapes), attrs=dict(other.attrs))
    mixed["observed"] = other["predicted"].copy()
    mixed["observed"].uns["observed"] = mixed["observed"].uns["predicted"]
    with pytest.raises(ValueError, match=r"Expression of '1/S1_spots' was predicted and that of the other slides"):
        tl.domains([one, mixed], 2, "expression", **QUIET)


def test_a_table_without_places(slides):
    slides["observed"].uns.pop("spatialdata_attrs")
    with pytest.raises(ValueError, match="annotate"):
        tl.domains(slides, 2, "expression", **QUIET)


def test_domains_on_a_slide_file_without_measurements(predicted, tmp_path):
    slides, predictor = predicted
    from PIL import Image

    from stpredict._slides.slides import pyramid

    pixels = np.asarray(pyramid(slides["S1_image"])[0].pixels)
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(tmp_path / "slide.png")
    new = stp.io.read_wsi(tmp_path / "slide.png", um_per_px=8.0)
    stp.pp.tissue(new)
    stp.pp.spot_grid(new, predictor)
    tl.predict(new, predictor, progress=False)
    tl.domains(new, 3, "joint", table_name="predicted", **QUIET)
    axes = stp.pl.domains(new, table_name="predicted")
    assert axes[0].get_title(loc="left") == "domain (joint, predicted expression)"
    assert isinstance(new["predicted"], AnnData)
