"""Paths that users give: ``~``, relative to the current folder, and checked before any work begins."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import spatialdata as sd
from PIL import Image

import stpredict as stp
from stpredict._checks.paths import output_file, output_folder, output_path, user_path

SYNTHETIC = {"n_slides": 2, "n_side": 4, "um_per_px": 8.0}
QUIET = {"config": {"progress": False}}
pytestmark = pytest.mark.usefixtures("small_patches")

READ = {
    ("io.read_visium", "path"): lambda path, _: stp.io.read_visium(path),
    ("io.read_visium", "image"): None,  # needs whole samples: one function, `find_full_image`, takes both of them
    ("io.read_visium_hd", "path"): lambda path, _: stp.io.read_visium_hd(path),
    ("io.read_visium_hd", "image"): None,
    ("io.read_xenium", "path"): lambda path, _: stp.io.read_xenium(path),
    ("io.read_xenium", "image"): None,
    ("io.read_xenium", "alignment"): None,
    ("io.read_st", "image"): lambda path, png: stp.io.read_st(path, png, name="A"),
    ("io.read_st", "counts"): lambda path, png: stp.io.read_st(png, path, name="A"),
    ("io.read_st", "spots"): lambda path, png: stp.io.read_st(png, counts(png), path, name="A"),
    ("io.read_st", "labels"): lambda path, png: stp.io.read_st(
        png, counts(png), spots(png), labels=path, name="A", um_per_px=4.0, diameter_um=100.0
    ),
    ("io.read_st", "gene_map"): lambda path, png: stp.io.read_st(png, png, name="A", gene_map=path),
    ("io.read_st", "affine"): lambda path, png: stp.io.read_st(png, png, name="A", affine=path),
    ("io.from_anndata", "image"): lambda path, _: stp.io.from_anndata(cells(), path, name="A", diameter_um=55.0),
    ("io.read_embeddings", "path"): lambda path, _: stp.io.read_embeddings(slides(), path, shapes_key="S0_spots"),
    ("io.read_wsi", "path"): lambda path, _: stp.io.read_wsi(path),
    ("io.read_gmt", "path"): lambda path, _: stp.io.read_gmt(path),
    ("io.read_annotations", "path"): lambda path, _: stp.io.read_annotations(slides(), path),
    ("datasets.cscc", "path"): lambda path, _: stp.datasets.cscc(path),
    ("datasets.hbc", "path"): lambda path, _: stp.datasets.hbc(path),
    ("datasets.hbc", "gene_map"): lambda path, _: stp.datasets.hbc(".", gene_map=path),
    ("tl.fit", "sdata"): lambda path, _: stp.tl.fit(path, "mean_profile", **QUIET),
    ("tl.predict", "sdata"): lambda path, _: stp.tl.predict(path, "predictor"),
    ("tl.evaluate", "sdata"): lambda path, _: stp.tl.evaluate(path),
    ("tl.evaluate", "pathways"): lambda path, _: stp.tl.evaluate(predicted(), pathways=path),
    ("tl.score_intervals", "sdata"): lambda path, _: stp.tl.score_intervals(path),
    ("tl.score_intervals", "pathways"): lambda path, _: stp.tl.score_intervals(predicted(), pathways=path),
    ("tl.cross_validate", "sdata"): lambda path, _: stp.tl.cross_validate(path, "mean_profile"),
    ("tl.predict", "predictor"): lambda path, _: stp.tl.predict(slides(), path),
    ("tl.impute", "predictor"): lambda path, _: stp.tl.impute(slides(), path, measured=["0"]),
    ("tl.super_resolve", "predictor"): lambda path, _: stp.tl.super_resolve(slides(), path),
    ("tl.predict_cohort", "predictor"): lambda path, png: stp.tl.predict_cohort([png], path, "out"),
    ("tl.predict_cohort", "paths"): None,  # one slide that is missing is in the summary: `test_cohort`
    ("tl.fit", "resume_from"): lambda path, _: stp.tl.fit(slides(), "mean_profile", resume_from=path, **QUIET),
    ("tl.self_train", "resume_from"): lambda path, _: stp.tl.self_train(
        slides(), slides(), "m2ost_tiny", resume_from=path, **QUIET
    ),
    ("tl.Predictor.load", "path"): lambda path, _: stp.tl.Predictor.load(path),
    ("tl.Benchmark.load", "folder"): lambda path, _: stp.tl.Benchmark.load(path),
    ("tl.Benchmark.intervals", "pathways"): lambda path, _: stp.tl.Benchmark.load("../benchmark").intervals(
        pathways=path
    ),
}
"""A call by argument that names something to read, which is missing."""

WRITE = {
    ("io.read_wsi", "to_zarr"): lambda path, png, _: stp.io.read_wsi(png, um_per_px=4.0, to_zarr=path),
    ("io.write_annotations", "path"): lambda path, *_: stp.io.write_annotations(slides(), path, "S0_spots"),
    ("tl.fit", "save_dir"): lambda path, *_: stp.tl.fit(slides(), "mean_profile", save_dir=path, **QUIET),
    ("tl.self_train", "save_dir"): lambda path, *_: stp.tl.self_train(
        slides(),
        slides(),
        "m2ost_tiny",
        save_dir=path,
        rounds=1,
        config={"progress": False, "n_epochs": 1},
        model_options={"dim": 24, "depth": 1, "heads": 2, "size_px": 32, "patch_size": 8},
    ),
    ("tl.predict", "store"): lambda path, _, predictor: stp.tl.predict(slides(), predictor, store=path, progress=False),
    ("tl.embed", "store"): lambda path, *_: stp.tl.embed(
        slides(), "statistics", fov_um=150, size_px=16, store=path, progress=False
    ),
    ("tl.predict_cohort", "out_dir"): lambda path, png, predictor: stp.tl.predict_cohort(
        [png], predictor, path, um_per_px=4.0, progress=False
    ),
    ("tl.benchmark", "save_dir"): lambda path, *_: stp.tl.benchmark(
        slides(), ["mean_profile"], save_dir=path, progress=False
    ),
    ("tl.cross_validate", "save_dir"): lambda path, *_: stp.tl.cross_validate(
        slides(), "mean_profile", save_dir=path, progress=False
    ),
    ("tl.pretrain", "save_dir"): lambda path, *_: stp.tl.pretrain(
        slides(), "name", path, model="mean_profile", progress=False
    ),
    ("tl.Predictor.save", "path"): lambda path, _, predictor: predictor.save(path),
    ("tl.Benchmark.to_html", "path"): lambda path, *_: stp.tl.Benchmark.load("../benchmark").to_html(path),
}
"""A call by argument that names something to write."""


@cache
def built():
    return stp.datasets.synthetic(**SYNTHETIC)


def slides():
    """A copy that a test may change, except for the pixels."""
    return sd.SpatialData(
        images=dict(built().images),
        shapes={name: shapes.copy() for name, shapes in built().shapes.items()},
        tables={name: table.copy() for name, table in built().tables.items()},
        attrs=deepcopy(built().attrs),
    )


def predicted():
    """Slides with a prediction."""
    sdata = slides()
    predictor = stp.tl.fit(sdata, "mean_profile", shapes_key="S0_spots", **QUIET)
    stp.tl.predict(sdata, predictor, shapes_key="S1_spots", progress=False)
    return sdata


def cells():
    import anndata as ad

    return ad.AnnData(np.ones((2, 2), np.float32), obsm={"spatial": np.ones((2, 2))})


def counts(png):
    path = png.with_name("counts.tsv")
    path.write_text("\tG1\tG2\n1x1\t1\t2\n2x2\t3\t4\n")
    return path


def spots(png):
    path = png.with_name("spots.tsv")
    path.write_text("x\ty\tpixel_x\tpixel_y\n1\t1\t10\t10\n2\t2\t20\t20\n")
    return path


def names_of_paths():
    """Every argument of a public function that takes a path."""
    for package in ("datasets", "io", "pp", "models", "tl", "metrics", "pl"):
        module = getattr(stp, package)
        for name in module.__all__:
            found = {f"{package}.{name}": getattr(module, name)}
            if inspect.isclass(getattr(module, name)):
                members = inspect.getmembers(getattr(module, name), callable)
                found = {f"{package}.{name}.{key}": member for key, member in members if not key.startswith("_")}
            for label, function in found.items():
                if callable(function) and not inspect.isclass(function):
                    annotations = getattr(function, "__annotations__", {})
                    yield from ((label, each) for each, kind in annotations.items() if "Path" in str(kind))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return stp.tl.fit(slides(), "ridge_color", save_dir=tmp_path_factory.mktemp("predictor") / "p", **QUIET)


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A folder with a slide file and a benchmark."""
    folder = tmp_path_factory.mktemp("beside")
    pixels = np.asarray(slides()["S0_image"]["scale0"]["image"])
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(folder / "slide.png")
    stp.tl.benchmark(slides(), ["mean_profile"], save_dir=folder / "benchmark", progress=False)
    return folder


@pytest.fixture
def home(beside, tmp_path, monkeypatch):
    """A home folder, beside the current folder, a slide file and a benchmark."""
    shutil.copytree(beside, tmp_path, dirs_exist_ok=True)
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def test_every_argument_that_takes_a_path_is_tried():
    assert set(names_of_paths()) == {*READ, *WRITE}


@pytest.mark.parametrize("case", [case for case, call in READ.items() if call is not None], ids=".".join)
def test_what_is_missing_is_named_by_its_whole_path(home, case):
    (Path.cwd() / "BC23209_C1.jpg").touch()  # so that `hbc` finds a section
    for given, expected in (("~/absent", home / "absent"), ("absent", Path.cwd() / "absent")):
        with pytest.raises((FileNotFoundError, ValueError)) as caught:
            READ[case](given, home.parent / "slide.png")
        assert str(expected) in str(caught.value)


@pytest.mark.parametrize("case", WRITE, ids=".".join)
def test_what_is_written_goes_where_the_path_says(home, predictor, case):
    """Relative paths are in `test_results_are_found_from_another_folder`."""
    WRITE[case]("~/new/made", home.parent / "slide.png", predictor)
    assert (home / "new" / "made").exists()
    assert not Path("~").exists()


@pytest.mark.parametrize("case", WRITE, ids=".".join)
def test_a_place_that_cannot_be_written_is_refused_before_work_begins(home, predictor, case, monkeypatch):
    def too_late(*_, **__):
        pytest.fail("work began")

    monkeypatch.setattr("stpredict._report.page.page", too_late)
    monkeypatch.setattr("stpredict._pixels.PatchReader.read", too_late)
    monkeypatch.setattr("stpredict.io._wsi.open_slide_file", too_late)
    Path("file").touch()
    with pytest.raises(NotADirectoryError, match=r"`\w+` is '.*', but '.*file' is not a folder\. Give another path"):
        WRITE[case]("file/made", home.parent / "slide.png", predictor)


def test_folders_without_permission(tmp_path, monkeypatch):
    def refused(*, dir):
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("stpredict._checks.paths.TemporaryFile", refused)
    for check in (output_path, output_file, output_folder):
        with pytest.raises(PermissionError, match=r"nothing can be written to the folder '.*' \(Permission denied\)"):
            check(tmp_path / "new" / "made", "save_dir")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc, which nobody can write to")
def test_a_folder_that_nobody_can_write_to():
    with pytest.raises(PermissionError, match="`out_dir` is '/proc/made', but nothing can be written to"):
        output_folder("/proc/made", "out_dir")


def test_paths_are_made_absolute(home):
    for given in ("~/a/b", Path("~/a/b")):
        assert user_path(given) == home / "a" / "b"
    for given in ("a/b", Path("a/b")):
        assert user_path(given) == Path.cwd() / "a" / "b"


def test_what_is_no_path(tmp_path):
    with pytest.raises(ValueError, match=r"`store` is an empty string\. Give a path"):
        user_path("", "store")
    with pytest.raises(TypeError, match=r"`store` is int 3\. Give a path"):
        user_path(3, "store")
    with pytest.raises(ValueError, match="there is no such home folder"):
        user_path("~nobody-of-this-name/x")
    with pytest.raises(IsADirectoryError, match="Give the name of a file"):
        output_file(tmp_path, "path")
    assert list(tmp_path.iterdir()) == []


def test_results_are_found_from_another_folder(home, predictor, monkeypatch):
    here = Path.cwd()
    sdata = slides()
    stp.tl.fit(sdata, "ridge_color", save_dir="p", **QUIET)
    found = stp.tl.benchmark(slides(), ["mean_profile"], save_dir="benchmark", progress=False)
    summary = stp.tl.predict_cohort(["../slide.png"], predictor, "cohort", um_per_px=4.0, progress=False)
    stp.tl.predict(sdata, store="store", progress=False)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert found.table("mean_profile").n_obs == 32
    assert "predicted" in sd.read_zarr(summary.loc["slide", "path"]).tables
    assert np.isfinite(np.asarray(sdata["predicted"].X)).all()
    stp.tl.predict(sdata, progress=False)  # by the recorded path
    again = stp.tl.predict_cohort([here / "../slide.png"], predictor, here / "cohort", um_per_px=4.0, progress=False)
    assert again.equals(summary)


def test_a_predictor_that_was_moved(home):
    sdata, other = slides(), slides()
    predictor = stp.tl.fit(sdata, "ridge_color", save_dir="old", **QUIET)
    stp.tl.predict(sdata, progress=False)
    Path("old").rename("new")
    stp.tl.predict(other, "new", progress=False)
    np.testing.assert_array_equal(other["predicted"].X, sdata["predicted"].X)
    assert stp.tl.Predictor.load("new").hash == predictor.hash
    with pytest.raises(ValueError, match=r"but that folder is gone\. Pass one as `predictor`"):
        stp.tl.predict(sdata, progress=False)


def test_a_run_is_resumed_in_its_own_folder(home):
    with pytest.raises(ValueError, match=r"resumed in its own folder\. Leave `save_dir` out"):
        stp.tl.fit(slides(), "mean_profile", save_dir="a", resume_from="b", **QUIET)


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_everything_that_is_written_has_the_permissions_of_the_umask(home, predictor):
    """Neither those of a temporary file, nor the usual ones."""
    expected, before = 0o640, os.umask(0o027)
    try:
        predictor.save("p")
        stp.tl.benchmark(slides(), ["ridge_color"], save_dir="benchmark", keep_predictors=True, progress=False).to_html(
            "report.html"
        )
        stp.tl.predict(slides(), predictor, store="store", progress=False)
        stp.tl.predict_cohort([home.parent / "slide.png"], predictor, "cohort", um_per_px=4.0, progress=False)
        stp.io.read_wsi(home.parent / "slide.png", um_per_px=4.0, to_zarr="slide.zarr")
    finally:
        os.umask(before)
    files = [path for path in Path.cwd().rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".json", ".safetensors", ".csv", ".md", ".npz", ".html"}
    assert {
        str(path): oct(path.stat().st_mode & 0o777) for path in files if path.stat().st_mode & 0o777 != expected
    } == {}
