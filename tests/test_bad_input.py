"""Bad input to `fit` and `predict`: one clear error each, nothing written, input untouched; or a warning and a result.

Damaged predictors, full disks and Ctrl-C are in `tl/test_predictor.py` and `tl/test_fit.py`.
"""

from __future__ import annotations

import ast
import json
import re
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from spatialdata import SpatialData
from spatialdata.models import Image2DModel
from spatialdata.transformations import Identity, Translation, get_transformation, set_transformation

import stpredict as stp
from stpredict._checks.encoders import single_token_grid
from stpredict._checks.models import splits_patch
from stpredict._slides.slides import Selection, resolve
from stpredict._train._errors import check_finite_features
from stpredict.io._counts import _read_coordinates
from stpredict.io._errors import exactly_one
from stpredict.pp.normalization import CountsRecord
from stpredict.tl import FitConfig, PatchSpec, fit, predict
from stpredict.tl._benchmarking.observations import collect_observations

SOURCE = Path(stp.__file__).parent
TINY = {"dim": 24, "depth": 1, "heads": 2, "size_px": 32, "patch_size": 8}
QUIET = {"device": "cpu", "precision": "32-true", "progress": False}


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def original():
    return stp.datasets.synthetic(n_slides=2, n_side=5, um_per_px=8.0)


@pytest.fixture
def sdata(original):
    return SpatialData(
        images=dict(original.images),
        shapes={name: shapes.copy() for name, shapes in original.shapes.items()},
        tables={name: table.copy() for name, table in original.tables.items()},
        attrs=deepcopy(original.attrs),
    )


@pytest.fixture
def train(tmp_path):
    def make(sdata, model="m2ost", *, options=None, **arguments):
        config = FitConfig(n_epochs=1, progress=False, accelerator="cpu", precision="32-true",
                           validation=arguments.pop("validation", "auto"))  # fmt: skip
        options = {**TINY, **(options or {})}
        return fit(sdata, model, config=config, model_options=options, save_dir=tmp_path / "model", **arguments)

    return make


def fingerprint(sdata):
    """Everything in an object, as text and bytes."""
    found = {"attrs": json.dumps(sdata.attrs)}
    for name, image in sdata.images.items():
        scales = [image[scale]["image"] for scale in image] if hasattr(image, "children") else [image]
        found[name] = b"".join(scale.values.tobytes() for scale in scales)
    for name, shapes in sdata.shapes.items():
        found[name] = shapes.to_wkt().to_csv()
    for name in [*sdata.images, *sdata.shapes]:
        found[f"{name} in"] = str(get_transformation(sdata[name], get_all=True))
    for name, table in sdata.tables.items():
        frames = table.obs.to_csv() + table.var.to_csv()
        found[name] = frames + str(table.to_df().to_numpy().tolist()) + str([*table.layers, *table.obsm, *table.uns])
    return found


def image_of(pixels, system="S0"):
    return Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations={system: Identity()})


def replaced(sdata, pixels):
    del sdata.images["S0_image"]
    sdata.images["S0_image"] = image_of(pixels)


def no_image(sdata):
    for name in list(sdata.images):
        del sdata.images[name]


def all_outside(sdata):
    set_transformation(sdata["S0_spots"], Translation([9_000, 0], ("x", "y")), "S0")


def counts(change):
    def damage(sdata):
        values = sdata["observed"].X.toarray()
        sdata["observed"].X = change(values)

    return damage


def one_spot(sdata):
    sdata["observed"] = sdata["observed"][[0, 25]].copy()


def unknown_resolution(sdata):
    del sdata.attrs["stpredict"]


def twice_named_genes(sdata):
    sdata["observed"].var_names = ["A"] * 2 + [f"G{i}" for i in range(10)]


def grey(sdata):
    replaced(sdata, np.full((1, 212, 212), 200, np.uint8))


NONE = str  # leaves the object as it is

ERRORS = [
    pytest.param(no_image, {}, r"There is no image in this object, .*`sdata\.images\['image'\] = spatialdata\.models",
                 id="no image"),
    pytest.param(all_outside, {}, r"All 25 spots of 'S0_spots' lie outside image 'S0_image'", id="all spots outside"),
    pytest.param(counts(lambda x: -x), {}, r"values are negative: -\d+ at spot 'S0_0x0', gene 'GENE0'", id="negative"),
    pytest.param(counts(np.log1p), {}, r"not whole numbers: .*they are log1p of whole numbers", id="log counts"),
    pytest.param(NONE, {"genes": ["GENE0", "ERBB2"]}, r"1 of 2 genes asked for are no genes of the table: 'ERBB2'",
                 id="a gene that no slide has"),
    pytest.param(twice_named_genes, {}, r"Gene names in 'S0_spots' are not unique: 'A'", id="genes named twice"),
    pytest.param(one_spot, {}, r"2 spots with counts are left to train on; at least 8 are needed",
                 id="one spot a slide"),
    pytest.param(grey, {}, r"Image 'S0_image' is not H&E in colour \(grey: one channel", id="grey image"),
    pytest.param(unknown_resolution, {}, r"resolution of image 'S0_image' is not known: .*`stp\.pp\.resolution\(sdata",
                 id="unknown resolution"),
    pytest.param(NONE, {"model": "resnet"}, r"No model 'resnet'\. Did you mean 'resnet50'.*: 'bleep', .*'m2ost'",
                 id="unknown model"),
    pytest.param(NONE, {"options": {"width": 5}}, "M2OSTConfig has no field 'width'", id="unknown option"),
    pytest.param(NONE, {"patch": PatchSpec(fov_um=(150,))},
                 r"`patch` has 1 scale\(s\) of 224 px, 'm2ost' takes 3 of 32 px\. Give `model_options=",
                 id="patches of another size"),
    pytest.param(NONE, {"shapes_key": "S0_spots", "validation": "slide"}, "There is one slide only", id="one slide"),
    pytest.param(NONE, {"validate_on": ["S0_spots", "S1_spots"]}, "All 2 slides are held out",
                 id="nothing to train on"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*without any count", "ignore:.*no count at all", "ignore:Variable names are not")
@pytest.mark.parametrize(("damage", "arguments", "words"), ERRORS)
def test_training_is_refused(sdata, train, tmp_path, damage, arguments, words):
    damage(sdata)
    before = fingerprint(sdata)
    with pytest.raises(ValueError, match=words):
        train(sdata, **arguments)
    assert fingerprint(sdata) == before
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def predictor(original, tmp_path_factory):
    config = FitConfig(n_epochs=1, progress=False, accelerator="cpu", precision="32-true")
    folder = tmp_path_factory.mktemp("predictor") / "model"
    sdata = SpatialData(images=dict(original.images), shapes=dict(original.shapes), tables=dict(original.tables),
                        attrs=deepcopy(original.attrs))  # fmt: skip
    return fit(sdata, "m2ost", config=config, model_options=TINY, save_dir=folder)


OF_TRAINING_ONLY = {"negative", "log counts", "one spot a slide", "genes named twice"}


@pytest.mark.parametrize(("damage", "arguments", "words"), [
    case for case in ERRORS if case.values[1].keys() <= {"um_per_px"} and case.id not in OF_TRAINING_ONLY
])  # fmt: skip
def test_prediction_is_refused_alike(sdata, predictor, damage, arguments, words):
    damage(sdata)
    before = fingerprint(sdata)
    with pytest.raises(ValueError, match=words):
        predict(sdata, predictor, **arguments, **QUIET)
    assert fingerprint(sdata) == before


def test_slides_with_different_genes_share_some(sdata, train):
    other = stp.datasets.synthetic(n_slides=1, n_side=5, um_per_px=8.0, seed=1)
    other["observed"] = other["observed"][:, 3:].copy()
    with pytest.warns(UserWarning, match=r"3 of 12 genes are not in every slide .*: 'GENE0', 'GENE1', 'GENE2'"):
        assert train([sdata, other]).genes == [f"GENE{i}" for i in range(3, 12)]
    with pytest.warns(UserWarning, match=r"1 of 2 genes are not in every slide"):
        assert train([sdata, other], genes=["GENE0", "GENE5"]).genes == ["GENE5"]
    with pytest.raises(ValueError, match=r"None of the 1 genes asked for \('GENE0'\) is in every slide"):
        train([sdata, other], genes=["GENE0"])
    other["observed"].var_names = [f"X{i}" for i in range(9)]
    with pytest.raises(ValueError, match=r"The 2 slides \(12, 9 genes\) share no gene"):
        train([sdata, other], shapes_key="S0_spots")


def test_constant_genes_are_named(sdata, train):
    counts(lambda x: x * (np.arange(12) != 4))(sdata)
    with pytest.warns(UserWarning, match="1 genes are constant over the training spots .* learnt: 'GENE4'"):
        predictor = train(sdata)
    predict(sdata, predictor, **QUIET)
    assert np.ptp(sdata["predicted"].X[:, 4]) < 1e-3


def test_spots_without_counts_are_left_out_and_counted(sdata, train):
    counts(lambda x: x * (np.arange(50) != 7)[:, None])(sdata)
    with pytest.warns(UserWarning, match=r"1 of 50 spots hold no count at all, or .* left out of training"):
        predictor = train(sdata)
    assert [slide["n_spots"] for slide in predictor.provenance["slides"].values()] == [24, 25]
    predict(sdata, predictor, **QUIET)
    assert np.isfinite(sdata["predicted"].X).all()


def test_spots_that_failed_are_left_out_of_training(sdata, train):
    library = sdata["observed"].X.toarray().sum(axis=1)
    share = library[:25] / np.median(library[:25])

    def fail(values):
        values[3] = np.rint(0.04 / share[3] * values[3])  # 4 % of the median of its slide
        values[4] = np.rint(0.06 / share[4] * values[4])
        return values

    counts(fail)(sdata)
    with pytest.warns(UserWarning, match=r"1 of 50 spots .* far fewer than their slide's median.*`min_library`"):
        predictor = train(sdata)
    assert predictor.provenance["slides"]["S0_spots"]["n_spots"] == 24
    predict(sdata, predictor, **QUIET)
    assert sdata["predicted"].n_obs == 50


def test_a_slide_without_counts_is_left_out(sdata, train):
    counts(lambda x: x * (np.arange(50) >= 25)[:, None])(sdata)
    with pytest.warns(UserWarning, match="25 of 50 spots hold no count"):
        assert list(train(sdata).provenance["slides"]) == ["S1_spots"]


def test_too_few_spots_to_validate_on(sdata, train, tmp_path):
    sdata["observed"] = sdata["observed"][:27].copy()
    with pytest.raises(ValueError, match=r"No more than 2 spots of a slide are held out.*validation='none'"):
        train(sdata)
    assert list(tmp_path.iterdir()) == []
    assert train(sdata, validation="none").provenance["best"] == [{"epoch": 0, "score": None}]


def transparent(pixels):
    return np.concatenate([pixels, np.full((1, *pixels.shape[1:]), 255, np.uint8)])


@pytest.mark.parametrize("convert", [
    pytest.param(transparent, id="RGBA"),
    pytest.param(lambda pixels: pixels.astype(np.uint16) * 257, id="16 bits"),
    pytest.param(lambda pixels: pixels.astype(np.float32) / 255, id="float to 1"),
    pytest.param(lambda pixels: pixels.astype(np.float64), id="float to 255"),
])  # fmt: skip
def test_other_kinds_of_colour_image_are_converted(sdata, predictor, convert):
    pixels = sdata["S0_image"]["scale0"]["image"].values
    found = []
    for given in (pixels, convert(pixels)):
        replaced(sdata, given)
        predict(sdata, predictor, shapes_key="S0_spots", **QUIET)
        found.append(sdata["predicted"].X)
    np.testing.assert_allclose(found[1], found[0], atol=2e-3)


def test_missing_pixels_are_flagged_and_predicted(sdata, predictor):
    pixels = sdata["S0_image"]["scale0"]["image"].values.astype(np.float64)
    x, y = sdata["observed"].obsm["spatial"][6].astype(int)
    pixels[:, y, x] = np.nan
    replaced(sdata, pixels)
    predict(sdata, predictor, shapes_key="S0_spots", **QUIET)
    table = sdata["predicted"]
    assert table.obs["at_border"].to_numpy()[6]
    assert not table.obs["at_border"].all()
    assert np.isfinite(table.X).all()


PIECE, SHARED = 12, 3
"""Letters of a piece of a message, and how many messages may have the same one."""


def no_counts(folder):
    slide = resolve(stp.datasets.synthetic(n_slides=1, n_side=3), Selection())[0]
    slide = replace(slide, counts=0 * slide.counts)
    record = CountsRecord.of([slide], None)
    collect_observations(
        [slide], list(slide.genes), stp.pp.TargetSpec(), record, fold=1, pooled=False, are_counts=True, n_splits=2
    )


def dense_matrix_market(folder):
    (folder / "a.mtx").write_text("%%MatrixMarket matrix array real general\n1 1\n3\n")
    _read_coordinates(folder / "a.mtx", 1, 1)


@pytest.mark.parametrize(("call", "words"), [
    (no_counts, "No test slide of fold 1 has .* spots with counts of the genes"),
    (dense_matrix_market, "its first line is '%%MatrixMarket matrix array real general', not"),
    (lambda folder: exactly_one([Path("a.h5"), Path("b.h5")], ["*.h5"], folder, "matrices"),
     "holds several matrices: 'a.h5', 'b.h5'"),
    (lambda folder: check_finite_features(finite=False), "The frozen encoder gives values that are not finite"),
    (lambda folder: single_token_grid(["fine", "coarse"], "hrnet"), "'hrnet' has several grids of tokens, not one"),
    (lambda folder: splits_patch(4, 8), "`size_px` is 4; the patch is cut into 8 x 8: give at least 8"),
])  # fmt: skip
def test_errors_that_no_other_test_provokes(tmp_path, call, words):
    with pytest.raises(ValueError, match=words):
        call(tmp_path)


CHECKS = {*(SOURCE / "_checks").glob("[a-z]*.py"), *SOURCE.rglob("_errors.py"), SOURCE / "_slides" / "checks.py"}


@cache
def parsed(file):
    return ast.parse(file.read_text(encoding="utf-8"))


def uses(file):
    """(file of checks, name) of all that a file takes from files of checks, by whatever name it imports them."""
    tree, modules, names = parsed(file), {}, {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            place = file.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            for alias in node.names:
                modules[alias.asname or alias.name] = place / f"{alias.name}.py"
                names[alias.asname or alias.name] = (place.with_suffix(".py"), alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            yield modules[node.value.id], node.attr
        elif isinstance(node, ast.Name):
            yield names.get(node.id, (file, node.id))


def test_every_check_is_called():
    """A check that nothing calls would be a promise that nothing keeps."""
    used = {use for file in SOURCE.rglob("*.py") for use in uses(file)}
    for file in sorted(CHECKS):
        body = parsed(file).body
        assert not {node.name for node in body if isinstance(node, ast.FunctionDef) and (file, node.name) not in used}


def test_no_error_about_input_is_a_lookup_error():
    """The message of a KeyError is mangled; Python expects one, or an AttributeError, in `__getitem__` and the like."""
    for file in SOURCE.rglob("*.py"):
        tree = parsed(file)
        lookups = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and "__get" in node.name]
        expected = {id(inside) for lookup in lookups for inside in ast.walk(lookup)}
        raised = {ast.unparse(node.exc).split("(")[0] for node in ast.walk(tree)
                  if isinstance(node, ast.Raise) and node.exc is not None and id(node) not in expected}  # fmt: skip
        assert not raised & {"KeyError", "IndexError", "AttributeError", "AssertionError", "Exception"}, file


def words_of(node):
    return [re.sub(r"\s+", " ", part.value) for part in ast.walk(node)
            if isinstance(part, ast.Constant) and isinstance(part.value, str)]  # fmt: skip


def pieces(texts, length):
    return {text[i : i + length] for text in texts for i in range(len(text) - length + 1)}


def messages(file):
    """Place and words of each message of a file, with those that a variable puts into it."""
    for function in ast.walk(parsed(file)):
        if isinstance(function, ast.FunctionDef):
            assigned = [node for node in ast.walk(function) if isinstance(node, ast.Assign)]
            for node in assigned:
                if ast.unparse(node.targets[0]) == "msg":
                    names = {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
                    parts = [part.value for part in assigned if ast.unparse(part.targets[0]) in names]
                    words = [text for part in (node.value, *parts) for text in words_of(part)]
                    yield f"{file.relative_to(SOURCE)}:{node.lineno}", words


def patterns(file):
    """Strings of a file of tests that may be compared with messages: all but docstrings and what is only passed on."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("pytest.raises", "pytest.warns"):
                yield from words_of(ast.Tuple([keyword.value for keyword in node.keywords]))
            elif name.endswith((".parametrize", ".param")):
                yield from words_of(node)
        elif isinstance(node, ast.Assign):
            yield from words_of(node.value)
        elif isinstance(node, ast.For):
            yield from words_of(node.iter)


def test_every_message_is_matched_by_a_test():
    """Tests compare with a piece of each message that hardly any other message has."""
    texts = dict(found for file in SOURCE.rglob("*.py") for found in messages(file))
    tests = [text for file in Path(__file__).parent.rglob("test_*.py") for text in patterns(file)]
    tests = [re.sub(r"\\(.)", r"\1", text) for text in tests]
    lengths = {place: min(PIECE, max(map(len, words))) for place, words in texts.items() if words}
    n_messages, matched = {}, {}
    for length in set(lengths.values()):
        n_messages[length] = Counter(piece for words in texts.values() for piece in pieces(words, length))
        matched[length] = pieces(tests, length)
    assert len(texts) > 200
    assert not [
        place for place, length in lengths.items()
        if not any(n_messages[length][piece] <= SHARED for piece in pieces(texts[place], length) & matched[length])
    ]  # fmt: skip
