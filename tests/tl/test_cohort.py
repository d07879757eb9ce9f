"""Many slides at once: each done once, none in the way of another, all of it in one folder."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from spatialdata import read_zarr

from stpredict._files import lock
from stpredict.datasets import synthetic
from stpredict.pp import spot_grid
from stpredict.tl import Predictor, predict, predict_cohort
from stpredict.tl._cohort import job, runner
from stpredict.tl._cohort.job import SlideState
from stpredict.tl._inference import sinks

QUIET = {"device": "cpu", "precision": "32-true", "progress": False}


@pytest.fixture(scope="module")
def slides(tmp_path_factory):
    """Two stores without measurements, and a picture; all of them with a hundred places or so."""
    folder = tmp_path_factory.mktemp("slides")
    for seed in (1, 2):
        sdata = synthetic(n_slides=1, n_side=5, um_per_px=8.0, seed=seed)
        del sdata.tables["observed"], sdata.shapes["S0_spots"]
        sdata.write(folder / f"slide{seed}.zarr")
    pixels = (
        np.asarray(sdata["S0_image"]["scale0"]["image"])
        if "scale0" in sdata["S0_image"]
        else np.asarray(sdata["S0_image"])
    )
    Image.fromarray(np.moveaxis(pixels, 0, -1)).save(folder / "picture.png")
    return folder


@pytest.fixture
def paths(slides):
    return [slides / f"slide{seed}.zarr" for seed in (1, 2)]


@pytest.fixture(scope="module")
def finished(slides, trained, tmp_path_factory):
    """The folder of two slides that are predicted."""
    out = tmp_path_factory.mktemp("finished") / "out"
    paths = [slides / f"slide{seed}.zarr" for seed in (1, 2)]
    predict_cohort(paths, Predictor.load(trained[0]), out, prepare=grid, **QUIET)
    return out


@pytest.fixture
def out(finished, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(finished, tmp_path / "out", copy_function=shutil.copy2)


def grid(sdata):
    """On the whole image: tissue is not what is tested here."""
    spot_grid(sdata, diameter_um=100.0, pitch_um=200.0)


def written(folder):
    """Every file in a folder, and when it was changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_slide_as_if_predicted_alone(paths, predictor, out):
    summary = predict_cohort(paths, predictor, out, prepare=grid, **QUIET)
    assert summary["status"].tolist() == ["done"] * 2
    assert summary.index.tolist() == ["slide1", "slide2"]
    for path in paths:
        alone = read_zarr(path)
        grid(alone)
        predict(alone, predictor, shapes_key="grid", **QUIET)
        found = read_zarr(out / path.stem / "predicted.zarr")
        wanted = alone["predicted"]
        np.testing.assert_allclose(found["predicted"][wanted.obs_names].X, wanted.X, atol=1e-6)
        assert summary.loc[path.stem, "n_spots"] == wanted.n_obs == len(found["grid"])
        assert not found.images


def test_a_picture_is_read_and_prepared_by_itself(slides, predictor, tmp_path):
    summary = predict_cohort({"p": slides / "picture.png"}, predictor, tmp_path / "out", um_per_px=8.0, **QUIET)
    assert summary.loc["p", ["status", "um_per_px", "error"]].tolist() == ["done", 8.0, None]
    found = read_zarr(tmp_path / "out/p/predicted.zarr")
    assert {*found.shapes} == {"grid", "tissue"}
    assert found["predicted"].obs["region"].unique().tolist() == ["grid"]


def test_nothing_else_is_written_and_warnings_of_a_slide_are_in_its_row(paths, slides, predictor, tmp_path):
    before = written(slides)
    known = {name: {**slide, "um_per_px": 0.25} for name, slide in predictor.provenance.slides.items()}
    predictor.provenance = replace(predictor.provenance, slides=known)
    summary = predict_cohort(paths[:1], predictor, tmp_path / "out", prepare=grid, **QUIET)
    assert any("µm" in text for text in summary.loc["slide1", "warnings"])
    assert written(slides) == before
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["slide1", "summary.csv"]
    assert sorted(path.name for path in (tmp_path / "out/slide1").iterdir()) == ["predicted.zarr", "state.json"]
    summary = pd.read_csv(tmp_path / "out/summary.csv", index_col="slide")
    assert summary.loc["slide1", "status"] == "done"


def test_a_bad_slide_stops_no_other_and_is_tried_again(paths, predictor, out, tmp_path):
    bad = tmp_path / "slide0.tiff"
    bad.write_bytes(b"II*\0 and nothing else")
    shutil.rmtree(out / "slide2")
    summary = predict_cohort([bad, *paths, tmp_path / "gone.svs"], predictor, out, prepare=grid, **QUIET)
    assert summary["status"].tolist() == ["failed", "done", "done", "failed"]
    assert "slide0.tiff" in summary.loc["slide0", "error"]
    assert "No slide at" in summary.loc["gone", "error"]
    state = json.loads((out / "slide0/state.json").read_text())
    assert state["error"].split(":")[0] in state["traceback"][-1]
    before = written(out / "slide2")
    bad.unlink()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)).save(bad, format="png")
    summary = predict_cohort([bad, *paths], predictor, out, prepare=grid, um_per_px={"slide0": 8.0}, **QUIET)
    assert (summary["status"] == "done").all()
    assert written(out / "slide2") == before


@pytest.mark.usefixtures("small_partitions")
def test_a_slide_that_was_begun_goes_on(paths, predictor, out, finished, monkeypatch):
    """Ctrl-C in the second slide: the first is left as it is, the second goes on after its second partition."""
    split, calls = sinks.split_partitions, iter(range(1000))
    shutil.rmtree(out / "slide2")

    def interrupted(pieces, size):
        for values in split(pieces, size):
            if next(calls) == 2:
                raise KeyboardInterrupt
            yield values

    with monkeypatch.context() as context:
        context.setattr(sinks, "split_partitions", interrupted)
        with pytest.raises(KeyboardInterrupt):
            predict_cohort(paths, predictor, out, prepare=grid, **QUIET)
    assert json.loads((out / "slide2/state.json").read_text())["status"] == "running"
    first, begun = written(out / "slide1"), written(out / "slide2/started.zarr/X")
    assert len([path for path in begun if path.name != "zarr.json"]) == 2
    seen = {}
    keep = sinks.StoreSink.finish

    def looked_at(self, table):
        seen.update(written(self.path / "X"))
        keep(self, table)

    monkeypatch.setattr(sinks.StoreSink, "finish", looked_at)
    summary = predict_cohort(paths, predictor, out, prepare=grid, **QUIET)
    assert (summary["status"] == "done").all()
    assert written(out / "slide1") == first
    assert begun.items() <= seen.items()
    resumed, wanted = (read_zarr(each / "slide2/predicted.zarr")["predicted"] for each in (out, finished))
    np.testing.assert_allclose(resumed[wanted.obs_names].X, wanted.X, atol=1e-6)


def test_a_slide_that_another_process_is_at_is_left_to_it(paths, predictor, out):
    """The next one is at work too: it is cleaned up."""
    shutil.rmtree(out / "slide1")
    (out / "slide2/started.zarr").mkdir()
    with lock(out / "slide1") as ours:
        assert ours
        (out / "slide1").mkdir()
        (out / "slide1/state.json").write_text(json.dumps({"status": "running", "of": "?"}))
        summary = predict_cohort(paths, predictor, out, prepare=grid, **QUIET)
        assert summary["status"].tolist() == ["running", "done"]
        assert [path.name for path in (out / "slide1").iterdir()] == ["state.json"]
        assert not (out / "slide2/started.zarr").exists()
    summary = predict_cohort(paths, predictor, out, prepare=grid, **QUIET)
    assert summary["status"].tolist() == ["done"] * 2
    assert not list(out.glob(".*"))


def test_what_another_process_finished_meanwhile_is_not_done_again(paths, predictor, out, monkeypatch):
    before = written(out)
    monkeypatch.setattr(runner, "_unfinished_jobs", lambda jobs, out: jobs)  # as it was when this process began
    summary = predict_cohort(paths, predictor, out, prepare=grid, **QUIET)
    assert summary["status"].tolist() == ["done"] * 2
    assert {path: at for path, at in written(out).items() if path.name != "summary.csv"} == {
        path: at for path, at in before.items() if path.name != "summary.csv"
    }


@pytest.mark.slow
def test_fewer_slides_than_processes(paths, predictor, tmp_path, client):
    summary = predict_cohort(paths[:1], predictor, tmp_path / "out", prepare=grid, client=client, **QUIET)
    assert summary["status"].tolist() == ["done"]


class KilledIn:
    """Prepares a slide, and kills the first process that does so."""

    def __init__(self, mark):
        self.mark = mark

    def __call__(self, sdata):
        grid(sdata)
        try:
            self.mark.touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_two_processes_of_which_one_is_killed(paths, predictor, finished, client, tmp_path):
    wanted = pd.read_csv(finished / "summary.csv", index_col="slide")
    prepare = KilledIn(tmp_path / "killed")
    summary = predict_cohort(paths, predictor, tmp_path / "out", prepare=prepare, client=client, **QUIET)
    client.wait_for_workers(2)  # the next test finds two again
    assert (tmp_path / "killed").exists()
    for column in ("status", "n_spots"):
        assert summary[column].tolist() == wanted[column].tolist()
    for path in paths:
        two, one = (
            read_zarr(each / path.stem / "predicted.zarr")["predicted"] for each in (tmp_path / "out", finished)
        )
        np.testing.assert_allclose(two.X, one.X, atol=1e-6)


def edit_state(folder, change):
    file = folder / "state.json"
    state = json.loads(file.read_text())
    change(state)
    file.write_text(json.dumps(state))


def flip_a_bit(folder):
    chunk = max((path for path in (folder / "predicted.zarr").rglob("c/*/*")), key=lambda path: path.stat().st_size)
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 1
    chunk.write_bytes(data)


DAMAGE = {
    "no json": lambda folder: (folder / "state.json").write_text("{"),
    "other json": lambda folder: (folder / "state.json").write_text("[]"),
    "a number": lambda folder: edit_state(folder, lambda state: state.update(n_spots=7)),
    "a type": lambda folder: edit_state(folder, lambda state: state.update(digest=None, status="over")),
    "result lost": lambda folder: shutil.rmtree(folder / "predicted.zarr"),
    "file lost": lambda folder: (folder / "predicted.zarr/tables/predicted/zarr.json").unlink(),
    "bit flipped": flip_a_bit,
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_slide_is_not_finished(out, damage, caplog):
    assert SlideState.read_finished(out / "slide2").status == "done"
    DAMAGE[damage](out / "slide2")
    assert SlideState.read_finished(out / "slide2") is None
    assert "again" in caplog.text


@pytest.mark.slow
def test_a_damaged_slide_is_predicted_again_and_stops_no_other(paths, predictor, out, finished):
    DAMAGE["no json"](out / "slide2")
    others = {path: at for path, at in written(out).items() if "slide2" not in path.parts and path.parent != out}
    summary = predict_cohort(paths[:1], predictor, out, prepare=grid, **QUIET)
    assert summary["status"].tolist() == ["done"]
    states = pd.read_csv(out / "summary.csv", index_col="slide")
    assert states.loc["slide2", "status"] == "failed"
    assert "is damaged" in states.loc["slide2", "error"]
    summary = predict_cohort(paths, predictor, out, prepare=grid, **QUIET)
    assert summary["status"].tolist() == ["done"] * 2
    assert others.items() <= written(out).items()
    again, wanted = (read_zarr(each / "slide2/predicted.zarr")["predicted"] for each in (out, finished))
    np.testing.assert_array_equal(again.X, wanted.X)


@pytest.mark.parametrize(
    "left",
    ["store", "lock", *(pytest.param(left, marks=pytest.mark.slow) for left in ("damaged store", "other store"))],
)
def test_what_a_killed_process_left_is_removed(paths, predictor, out, left, monkeypatch):
    """After it had finished a slide, or when it had begun it with another predictor."""
    folder = out / "slide1"
    if left == "lock":
        (out / ".slide1.lock").touch()
    elif left == "store":
        (folder / "started.zarr").mkdir()
    elif left == "damaged store":
        shutil.rmtree(folder / "predicted.zarr")
        (folder / "started.zarr").mkdir()
        (folder / "started.zarr/zarr.json").write_text("{")
    else:
        shutil.rmtree(folder / "predicted.zarr")
        other = replace(predictor, train_mean=predictor.train_mean + 1)
        with monkeypatch.context() as patch:
            patch.setattr(job, "_write_result", interrupt)
            with pytest.raises(KeyboardInterrupt):
                predict_cohort(paths[:1], other, out, prepare=grid, **QUIET)
    summary = predict_cohort(paths, predictor, out, prepare=grid, **QUIET)
    assert summary["status"].tolist() == ["done"] * 2
    assert sorted(path.name for path in folder.iterdir()) == ["predicted.zarr", "state.json"]
    assert sorted(path.name for path in out.iterdir()) == ["slide1", "slide2", "summary.csv"]


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_a_full_disk_is_said_where_it_is(paths, predictor, tmp_path, monkeypatch):
    def full(self, *_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(job, "write_json", full)
        with pytest.raises(OSError, match=r"No space left for '.*out': .*What is predicted is kept: free some space"):
            predict_cohort(paths[:1], predictor, tmp_path / "out", prepare=grid, **QUIET)


def test_between_result_and_state_nothing_is_lost(paths, predictor, tmp_path, monkeypatch):
    write = SlideState.write
    with monkeypatch.context() as patch:
        patch.setattr(SlideState, "write", lambda self, at: interrupt() if self.status == "done" else write(self, at))
        with pytest.raises(KeyboardInterrupt):
            predict_cohort(paths[:1], predictor, tmp_path / "out", prepare=grid, **QUIET)
    monkeypatch.setattr("stpredict.tl._inference.compute.compute_positions", interrupt)  # nothing is computed again
    summary = predict_cohort(paths[:1], predictor, tmp_path / "out", prepare=grid, **QUIET)
    assert summary["status"].tolist() == ["done"]
    assert sorted(path.name for path in (tmp_path / "out/slide1").iterdir()) == ["predicted.zarr", "state.json"]


def test_another_predictor_needs_another_folder(paths, predictor, out):
    with pytest.raises(ValueError, match=r"holds results of another predictor or other settings for 'slide1'"):
        predict_cohort(paths[:1], predictor, out, prepare=grid, n_views=2, **QUIET)


def test_a_cohort_of_another_version(paths, predictor, out, monkeypatch):
    """States written before are read; results of other patches are refused."""
    file = out / "slide1/state.json"
    state = json.loads(file.read_text())
    state["of"] = state.pop("fingerprint")
    for name in ("patch_version", "sha256", "digest"):
        del state[name]
    file.write_text(json.dumps(state))
    before = written(out / "slide1")
    predict_cohort(paths[:1], predictor, out, prepare=grid, **QUIET)
    assert written(out / "slide1") == before
    for module in ("job", "runner"):
        monkeypatch.setattr(f"stpredict.tl._cohort.{module}.PATCH_VERSION", 2)
    with pytest.raises(ValueError, match=r"results for 'slide1' that were predicted from patches of version 1"):
        predict_cohort(paths[:1], predictor, out, prepare=grid, **QUIET)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([], ValueError, "`paths` is empty"),
        ("slide.svs", TypeError, r"`paths` is the one path 'slide\.svs'"),
        (["a/slide.svs", "b/slide.svs"], ValueError, r"Several slides are named 'slide'.*mapping"),
        ({"a/b": "slide.svs"}, ValueError, r"'a/b' cannot be the name of a folder"),
        (
            {"summary.csv": "slide.svs"},
            ValueError,
            r"'summary\.csv' cannot be the name of a folder of",
        ),
        ({"x" * 260: "slide.svs"}, ValueError, r"cannot be the name of a folder of a slide.* at most 200 bytes"),
        ({"a\nb": "slide.svs"}, ValueError, r"cannot be the name of a folder of a slide.* no line breaks"),
        ({"..": "slide.svs"}, ValueError, r"'\.\.' cannot be the name of a folder"),
    ],
)
def test_paths_that_are_refused(given, error, words, predictor, tmp_path):
    with pytest.raises(error, match=words):
        predict_cohort(given, predictor, tmp_path / "out", **QUIET)
    assert not (tmp_path / "out").exists()


def test_a_resolution_for_a_slide_that_is_not_there(paths, predictor, tmp_path):
    with pytest.raises(ValueError, match=r"`um_per_px` names 'slide9', but the slides are 'slide1'"):
        predict_cohort(paths[:1], predictor, tmp_path / "out", um_per_px={"slide9": 0.5}, **QUIET)


def test_calls_for_parts_of_a_folder_share_the_summary(paths, predictor, out):
    """As jobs of an array do."""
    (out / "summary.csv").unlink()
    summary = predict_cohort(paths[1:2], predictor, out, prepare=grid, **QUIET)
    assert summary.index.tolist() == ["slide2"]
    assert pd.read_csv(out / "summary.csv", index_col="slide")["status"].to_dict() == {
        "slide1": "done",
        "slide2": "done",
    }
