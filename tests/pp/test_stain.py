"""Stain with known answers: slides drawn from known vectors and amounts, and patches of one made into the other's."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
from geopandas import GeoDataFrame
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import Identity

import stpredict as stp
from stpredict.pp._stain import lattice_within
from stpredict.pp.stain_normalization import (
    METHODS,
    N_WINDOWS,
    Stain,
    StainNormalizer,
    fit_stain,
    normalize_colors,
    stain_from_pixels,
)
from stpredict.tl._predictor.provenance import Provenance, warn_unseen_color
from stpredict.tl._predictor.stain import stain_normalizers, training_stain
from stpredict.tl._training.provenance import color_range


def unit(vectors):
    return np.array(vectors) / np.linalg.norm(vectors, axis=-1, keepdims=True)


FIRST = unit([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
SECOND = unit([[0.55, 0.76, 0.35], [0.15, 0.93, 0.25]])
RNG = np.random.default_rng(0)


def drawn_amounts(n=24, size=64):
    """Amounts of two dyes; some pixels hold one of them only, as tissue has."""
    amounts = np.stack([RNG.gamma(2, 0.3, (n, size, size)), RNG.gamma(2, 0.2, (n, size, size))], axis=-1)
    only = RNG.uniform(size=(n, size, size))
    amounts[only < 0.15, 1] = 0
    amounts[only > 0.85, 0] = 0
    return amounts


def render(amounts, vectors, strength=(1.0, 1.0)):
    rgb = 256 * np.exp(-(amounts * strength) @ vectors) - 1
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8).transpose(0, 3, 1, 2)


AMOUNTS = drawn_amounts()
A, B = render(AMOUNTS, FIRST), render(AMOUNTS, SECOND, (1.3, 0.8))


@pytest.fixture(scope="module")
def stains():
    return stain_from_pixels(A), stain_from_pixels(B)


def pixels(patches):
    return np.moveaxis(patches, 1, -1).reshape(-1, 3).astype(np.float64)


def test_vectors_and_amounts_are_recovered(stains):
    for found, vectors, strength in zip(stains, (FIRST, SECOND), ((1, 1), (1.3, 0.8)), strict=True):
        assert ((np.array(found.vectors) * vectors).sum(axis=1) > 0.999).all()
        np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1)
        expected = np.percentile(AMOUNTS.reshape(-1, 2), 99, axis=0) * strength
        np.testing.assert_allclose(found.concentration, expected, rtol=0.06)


def test_one_slide_takes_on_the_stain_from_pixels_another(stains):
    out = StainNormalizer.between(*stains, "macenko")(A)
    difference = np.abs(out.astype(int) - B)
    assert difference.mean() < 1
    assert np.percentile(difference, 99) <= 3
    assert np.abs(A.astype(int) - B).mean() > 8


def test_mean_and_deviation_match_after_reinhard(stains):
    out = stain_from_pixels(StainNormalizer.between(*stains, "reinhard")(A))
    np.testing.assert_allclose(out.mean, stains[1].mean, atol=0.01)
    np.testing.assert_allclose(out.std, stains[1].std, rtol=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_white_stays_and_so_does_all_between_equal_stains(stains, method):
    every_fifth = np.stack(np.meshgrid(*[np.arange(0, 256, 5, dtype=np.uint8)] * 3), axis=0).reshape(1, 3, 52, -1)
    others = RNG.integers(0, 256, (1, 3, 50, 50), dtype=np.uint8)
    same = StainNormalizer.between(stains[0], stains[0], method)
    for colours in (every_fifth, others):
        np.testing.assert_allclose(same(colours).astype(int), colours, atol=1)
    white = np.full((2, 3, 3, 8, 8), 255, np.uint8)
    assert (StainNormalizer.between(*stains, method)(white) == 255).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_table_is_as_good_as_the_formula(stains, method):
    out = pixels(StainNormalizer.between(*stains, method)(A))
    error = np.abs(out - normalize_colors(pixels(A), *stains, method))
    assert error.max() < 2
    assert np.percentile(error, 99.9) <= 1


def test_patches_keep_shape_and_order_and_are_not_changed(stains):
    patches = A[:12].reshape(4, 3, 3, 64, 64)
    before = patches.copy()
    normalizer = StainNormalizer.between(*stains, "macenko")
    out = normalizer(patches)
    assert (out.shape, out.dtype) == (patches.shape, np.uint8)
    assert (patches == before).all()
    np.testing.assert_array_equal(out[2, 1], normalizer(patches[2:3, 1:2])[0, 0])
    np.testing.assert_array_equal(normalizer(patches[..., ::-1]), out[..., ::-1])


def test_what_is_not_stained_does_not_count(stains):
    white = np.full((200, 3, 64, 64), 250, np.uint8)
    assert stain_from_pixels(np.concatenate([A, white])) == stains[0]
    assert stain_from_pixels(white) is None
    assert stain_from_pixels(np.full((2, 3, 64, 64), 255, np.uint8)) is None
    assert stain_from_pixels(A[:1, :, :20, :20]) is None  # 400 pixels


def test_one_dye_only_is_no_stain():
    one = AMOUNTS * [1, 0]
    assert stain_from_pixels(render(one, FIRST)) is None
    assert stain_from_pixels(np.full((4, 3, 64, 64), 100, np.uint8)) is None


@pytest.mark.parametrize("colour", [(30, 60, 180), (30, 140, 70)], ids=["blue", "green"])
def test_strokes_of_a_pen_hardly_move_it(stains, colour):
    inked = A.copy()
    inked[:, :, 20:30] = np.array(colour, np.uint8)[:, None, None]  # a sixth of all pixels
    found = stain_from_pixels(inked)
    assert ((np.array(found.vectors) * stains[0].vectors).sum(axis=1) > 0.999).all()
    np.testing.assert_allclose(found.concentration, stains[0].concentration, rtol=0.03)


def test_mean_of_several(stains):
    mean = Stain.average(stains)
    np.testing.assert_allclose(np.linalg.norm(mean.vectors, axis=1), 1)
    np.testing.assert_allclose(mean.concentration, np.mean([s.concentration for s in stains], axis=0))
    assert mean.n_px == stains[0].n_px + stains[1].n_px
    again = Stain.average([stains[0]])
    np.testing.assert_allclose(again.vectors, stains[0].vectors)
    assert Stain.from_dict(json.loads(json.dumps(mean.to_dict()))) == mean


def slide(vectors=FIRST, strength=(1.0, 1.0), *, blank=False, um_per_px=4.0):
    """An image of 640 pixels with a square of tissue of 400."""
    amounts = np.zeros((1, 640, 640, 2))
    if not blank:
        rng = np.random.default_rng(1)
        amounts[:, 120:520, 120:520] = np.stack([rng.gamma(2, 0.3, (400, 400)), rng.gamma(2, 0.2, (400, 400))], axis=-1)
        only = rng.uniform(size=(400, 400, 1))
        amounts[0, 120:520, 120:520] *= np.concatenate([only < 0.85, only > 0.15], axis=-1)
    image = Image2DModel.parse(
        render(amounts, vectors, strength)[0], dims=("c", "y", "x"), transformations={"global": Identity()}
    )
    return SpatialData(images={"he": image}, attrs={"stpredict": {"um_per_px": {"he": um_per_px}, "other": 1}})


def drawn_tissue(sdata, key="tissue", box=(120, 120, 520, 520)):
    sdata.shapes[key] = ShapesModel.parse(
        GeoDataFrame(geometry=[shapely.box(*box)]), transformations={"global": Identity()}
    )
    return sdata


@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "found"])
def test_stain_is_recorded(drawn, tmp_path):
    sdata = drawn_tissue(slide()) if drawn else slide()
    stp.pp.stain(sdata)
    ours = sdata.attrs["stpredict"]
    assert ours["other"] == 1
    recorded = json.loads(json.dumps(ours["stain"]["he"]))
    assert ((np.array(recorded["vectors"]) * FIRST).sum(axis=1) > 0.99).all()
    assert recorded["n_px"] > 50_000
    assert ("tissue" in sdata.shapes) is drawn
    stp.pp.stain(sdata)
    assert sdata.attrs["stpredict"]["stain"]["he"] == recorded
    sdata.write(tmp_path / "a.zarr")
    assert SpatialData.read(tmp_path / "a.zarr").attrs["stpredict"]["stain"]["he"] == recorded


def test_only_tissue_that_is_named_counts():
    sdata = drawn_tissue(slide(), "part", (130, 130, 200, 200))
    stp.pp.stain(sdata, tissue_key="part")
    assert sdata.attrs["stpredict"]["stain"]["he"]["n_px"] <= 64 * 64


def test_resolution_of_the_windows_does_not_depend_on_that_of_the_image(stains):
    fine = slide()["he"].values.repeat(4, axis=1).repeat(4, axis=2)
    places = np.array([[320.0, 320.0], [200.0, 400.0]])
    whole, part = (
        fit_stain((SimpleNamespace(pixels=p, factor=(1.0, 1.0), offset=(0.0, 0.0)),), um, places * 4.0 / um)
        for p, um in ((slide()["he"].values, 4.0), (fine, 1.0))
    )
    assert whole == part


def test_places_are_few_and_lie_on_tissue():
    tissue = shapely.Point(500, 500).buffer(400).difference(shapely.Point(500, 500).buffer(100))
    xy = lattice_within(tissue, 10.0)
    assert N_WINDOWS * 0.7 < len(xy) < N_WINDOWS * 1.3
    assert shapely.contains_xy(tissue, xy).all()
    assert len(lattice_within(tissue, 300.0)) < 10
    np.testing.assert_allclose(lattice_within(shapely.box(0, 0, 2, 2), 300.0), [[1, 1]])


@pytest.mark.parametrize(("make", "arguments", "message"), [
    (lambda: slide(blank=True), {}, "No tissue on image 'he', so there is no stain to measure"),
    (lambda: drawn_tissue(slide(blank=True)), {}, "The stain of image 'he' cannot be measured: .* too pale"),
    (slide, {"tissue_key": "mask"}, r"no element with tissue named 'mask'\. Found: none"),
])  # fmt: skip
def test_bad_input_is_refused_and_nothing_written(make, arguments, message):
    sdata = make()
    before = json.dumps(sdata.attrs)
    with pytest.raises(ValueError, match=message):
        stp.pp.stain(sdata, **arguments)
    assert json.dumps(sdata.attrs) == before


def resolved(vectors, strength=(1.0, 1.0)):
    sdata = slide(vectors, strength)
    xy = np.stack(np.meshgrid([200.0, 300.0, 400.0], [200.0, 300.0, 400.0]), axis=-1).reshape(-1, 2)
    level = SimpleNamespace(pixels=sdata["he"].values, factor=(1.0, 1.0), offset=(0.0, 0.0))
    return SimpleNamespace(name="he", levels=(level,), um_per_px=4.0, xy_px=xy, image_key="he", source=sdata)


def test_a_predictor_remembers_the_stain_it_was_trained_on():
    known = training_stain([resolved(FIRST)])
    assert list(known["slides"]) == ["he"]
    other = resolved(SECOND, (1.3, 0.8))
    (normalizer,) = stain_normalizers([other], Provenance(stain=json.loads(json.dumps(known))), "macenko")
    out = normalizer(other.levels[0].pixels[None])
    difference = np.abs(out[0].astype(int) - resolved(FIRST).levels[0].pixels)
    assert difference.mean() < 1
    stp.pp.stain(other.source)
    other.xy_px = np.array([[20.0, 20.0]])  # on glass: what is recorded counts
    (again,) = stain_normalizers([other], Provenance(stain=known), "macenko")
    assert np.abs(again(other.levels[0].pixels[None]).astype(int) - out).mean() < 1


def test_without_a_reference_there_is_nothing_to_normalise_to():
    blank = resolved(FIRST)
    blank.levels[0].pixels = np.full((3, 640, 640), 255, np.uint8)
    assert training_stain([blank]) is None
    for provenance in (Provenance.from_json({}), Provenance(stain=None)):
        with pytest.raises(ValueError, match=r"does not know the stain .* older version.* train again"):
            stain_normalizers([resolved(FIRST)], provenance, "macenko")
    known = Provenance(stain=training_stain([resolved(FIRST)]))
    with pytest.raises(ValueError, match="The stain of image 'he' cannot be measured"):
        stain_normalizers([blank], known, "reinhard")
    with pytest.raises(ValueError, match="`stain` is 'vahadane'; allowed: 'macenko', 'reinhard'"):
        stain_normalizers([resolved(FIRST)], known, "vahadane")


def colors(mean, n=50):
    """Colour statistics of spots: only the mean densities of the widest field of view count."""
    values = np.zeros((n, 12), np.float32)
    values[:, -6:-3] = mean + 0.1 * np.random.default_rng(0).normal(size=(n, 3))
    return values


def test_a_slide_of_another_colour_is_told_with_figures(recwarn):
    trained = np.concatenate([colors([0.5, 0.6, 0.3]), colors([0.7, 0.8, 0.4])])
    seen = color_range(trained[:, -6:-3], np.repeat([0, 1], 50))
    np.testing.assert_allclose(seen["low"], [0.5, 0.6, 0.3], atol=0.05)
    np.testing.assert_allclose(seen["high"], [0.7, 0.8, 0.4], atol=0.05)
    inside = np.zeros(50, bool)
    for mean in ([0.5, 0.6, 0.3], [0.6, 0.7, 0.35], [0.75, 0.75, 0.4]):
        warn_unseen_color(colors(mean), inside, json.loads(json.dumps(seen)), "S0")
    assert not recwarn.list
    words = r"'S0' lie outside the training range: mean optical density red 1\.\d\d\d \(trained on 0\.\d\d\d to"
    with pytest.warns(UserWarning, match=words + r" 0\.\d\d\d\)\. .*`stain='reinhard'`"):
        warn_unseen_color(colors([1.2, 0.7, 0.35]), inside, seen, "S0")
    with pytest.warns(UserWarning, match="Its stain was normalised already; check"):
        warn_unseen_color(colors([0.1, 0.1, 0.1]), inside, seen, "S0", normalized=True)
    older = {name: seen[name] for name in ("channels", "mean", "std")}
    with pytest.warns(UserWarning, match="green"):
        warn_unseen_color(colors([0.6, 1.5, 0.35]), ~inside, older, "S0")
