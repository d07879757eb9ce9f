"""The leak guard: a slide is recognised by what was measured on it, under any name, and no other slide is accused."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from spatialdata import SpatialData, read_zarr

import stpredict as stp
from stpredict._slides.identity import SlideIdentity, identify_slides, overlapping_slides
from stpredict._slides.slides import Selection, resolve

QUIET = {"progress": False}
pytestmark = pytest.mark.usefixtures("small_patches")


def one_slide(seed: int) -> SpatialData:
    """Slides of all seeds have the same names, positions and image size; tissue and counts differ."""
    return stp.datasets.synthetic(n_slides=1, n_side=6, um_per_px=8.0, seed=seed)


@pytest.fixture(scope="module")
def training():
    return [one_slide(1), one_slide(2)]


@pytest.fixture(scope="module")
def predictor(training, tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictor") / "p"
    stp.tl.fit(training, "ridge_color", config=QUIET, save_dir=folder)
    return stp.tl.Predictor.load(folder)  # what is recognised must survive a file


def rename(sdata, folder):
    table = sdata["observed"].copy()
    table.obs["region"] = table.obs["region"].cat.rename_categories({"S0_spots": "other"})
    table.obs_names = [f"x{i}" for i in range(table.n_obs)]
    table.uns["spatialdata_attrs"]["region"] = "other"
    renamed = SpatialData(
        images={"picture": sdata["S0_image"]}, shapes={"other": sdata["S0_spots"]}, tables={"observed": table}
    )
    stp.pp.resolution(renamed, um_per_px=8.0)
    return renamed


def part(sdata, folder, rows=slice(None), genes=slice(None)):
    tables = {"observed": sdata["observed"][rows, genes].copy()}
    return SpatialData(images=dict(sdata.images), shapes=dict(sdata.shapes), tables=tables, attrs=dict(sdata.attrs))


def in_parts(sdata, folder):
    """Every count as two entries of the sparse matrix."""
    whole = sdata["observed"].X.tocoo()
    rows = np.concatenate([whole.row, whole.row])
    order = np.argsort(rows, kind="stable")
    values = np.concatenate([whole.data - 1, np.ones_like(whole.data)])[order]
    starts = np.concatenate([[0], np.bincount(rows, minlength=whole.shape[0]).cumsum()])
    copy = part(sdata, folder)
    copy["observed"].X = csr_matrix((values, np.concatenate([whole.col, whole.col])[order], starts), shape=whole.shape)
    return copy


def on_disk(sdata, folder):
    sdata.write(folder / "copy.zarr")
    return read_zarr(folder / "copy.zarr")


COPIES = {
    "the same object": lambda sdata, folder: sdata,
    "other names": rename,
    "a copy on disk": on_disk,
    "spots and genes in another order": lambda s, f: part(s, f, slice(None, None, -1), slice(None, None, -1)),
    "counts in parts": in_parts,
    "a third of the spots": lambda s, f: part(s, f, slice(0, 12)),
    "some of the genes": lambda s, f: part(s, f, genes=slice(2, 9)),
    "spots cut out by a box": lambda s, f: s.query.bounding_box(
        axes=("x", "y"), min_coordinate=[0, 0], max_coordinate=[120, 400], target_coordinate_system="S0"
    ),
}


def is_warned(sdata, predictor) -> bool:
    stp.tl.predict(sdata, predictor, progress=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        stp.tl.evaluate(sdata)
    return any("trained on" in str(each.message) for each in caught)


@pytest.mark.filterwarnings("ignore:The colours of slide", "ignore:Table 'observed' lacks")
@pytest.mark.parametrize("kind", COPIES)
def test_a_training_slide_is_recognised(training, predictor, tmp_path, kind):
    copy = COPIES[kind](one_slide(1), tmp_path)
    assert is_warned(copy, predictor)
    if kind != "some of the genes":  # a calibration needs them all
        for given in (copy, [copy], {"new": copy}, [one_slide(3), copy]):
            with pytest.raises(ValueError, match="trained or validated on"):
                stp.tl.calibrate(predictor, given, n_views=1, progress=False)


@pytest.mark.filterwarnings("ignore:The colours of slide")
def test_no_other_slide_is_accused(predictor, tmp_path):
    assert not is_warned(one_slide(3), predictor)
    for given in ([one_slide(3)], {"0": one_slide(3)}, on_disk(one_slide(3), tmp_path)):
        assert stp.tl.calibrate(predictor, given, n_views=1, progress=False).calibration is not None


def test_a_group_that_was_named_counts_by_its_name():
    train, other = one_slide(1), one_slide(2)
    for sdata in (train, other):
        sdata["observed"].obs["patient"] = "P1"
    predictor = stp.tl.fit(train, "ridge_color", group_key="patient", config=QUIET)
    with pytest.raises(ValueError, match="another slide of the same group"):
        stp.tl.calibrate(predictor, other, group_key="patient", n_views=1, progress=False)
    stp.tl.calibrate(predictor, other, n_views=1, allow_leakage=True, progress=False)


@pytest.mark.parametrize("call", [
    lambda two: stp.tl.fit(two, "ridge_color", config=QUIET),
    lambda two: stp.tl.cross_validate(two, "ridge_color", by="section", allow_leakage=True, progress=False),
], ids=["fit", "cross_validate"])  # fmt: skip
def test_a_slide_given_twice_is_refused(tmp_path, call):
    with pytest.raises(ValueError, match=r"hold the same spots: '0/S0_spots and 1/other'"):
        call([one_slide(1), rename(one_slide(1), tmp_path)])


def test_slides_with_few_genes_or_counts_are_not_confused():
    """One gene with small counts says nothing of a spot, but the whole column does of the slide."""
    rng = np.random.default_rng(0)
    one, other = (SlideIdentity.of(_csr(rng.poisson(2, (400, 1))), ["A"], ["A"]) for _ in range(2))
    assert one.overlaps(one.sketch())
    assert not one.overlaps(other.sketch())


def test_only_slides_that_share_a_hash_are_compared(monkeypatch):
    rng, overlaps, compared = np.random.default_rng(0), SlideIdentity.overlaps, []
    monkeypatch.setattr(SlideIdentity, "overlaps", lambda *two: compared.append(two) or overlaps(*two))
    genes = [f"G{i}" for i in range(40)]
    counts = [_csr(rng.poisson(3, (30, 40))) for _ in range(20)]
    slides = {str(i): SlideIdentity.of(each, genes, genes) for i, each in enumerate([*counts, counts[7][5:]])}
    assert overlapping_slides(slides) == [("7", "20")]
    assert len(compared) == 1


def test_the_identity_is_the_same_in_every_process_and_survives_text():
    slide = resolve(one_slide(1), Selection())[0]
    hashes = SlideIdentity.of(slide.counts, slide.genes, slide.genes)
    text = hashes.sketch().to_json()
    assert hashes.overlaps(SlideIdentity.from_json(text))
    assert text.startswith("073f739215965dc7")  # a hash that depended on the process would change
    assert overlapping_slides(identify_slides([slide], slide.genes)) == []


def test_a_large_slide_is_recognised_by_a_sketch():
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(60)]
    counts = _csr(rng.poisson(3, (6000, 60)))
    identity = SlideIdentity.of(counts, genes, genes).sketch()
    assert len(identity.spots) < 600
    for rows in (slice(0, 600), slice(5000, 6000), rng.permutation(6000)[:400]):
        assert SlideIdentity.of(counts[rows], genes, genes).overlaps(identity)
    assert not SlideIdentity.of(_csr(rng.poisson(3, (6000, 60))), genes, genes).overlaps(identity)


def _csr(values):
    return csr_matrix(values.astype(float))
