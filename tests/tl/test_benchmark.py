"""Benchmarks: cells that outlive a kill, models that fail alone, and a summary that can be computed by hand."""

from __future__ import annotations

import json
import re
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stpredict._files import DamagedFileError, lock
from stpredict._train.config import fit_config
from stpredict.datasets import synthetic
from stpredict.metrics import log_fold_agreement
from stpredict.tl import Benchmark, Entry, FitConfig, PatchSpec, Predictor, benchmark
from stpredict.tl._benchmarking.cell import PeakMemory
from stpredict.tl._benchmarking.entry import common_fields, entries_of
from stpredict.tl._summary import bootstrap_interval, summarize, unit_means, whole_intervals

from .conftest import TINY, copied

ON_CPU = {"accelerator": "cpu", "precision": "32-true"}
QUICK = Entry("m2ost", options=TINY, recipe={"n_epochs": 1})
BASELINES = ["mean_profile", "ridge_color"]


@pytest.fixture(scope="module")
def two():
    return synthetic(n_slides=2, n_side=4, um_per_px=8.0)


@pytest.fixture
def pair(two):
    """Two slides of 16 spots, of two patients."""
    return copied(two)


@pytest.fixture(scope="module")
def done(two, tmp_path_factory):
    """Two folds, two seeds, one model and the baselines."""
    folder, sdata = tmp_path_factory.mktemp("benchmark"), copied(two)
    attrs, layers, uns = str(sdata.attrs), list(sdata["observed"].layers), list(sdata["observed"].uns)
    found = benchmark(sdata, {"quick": QUICK}, seeds=(0, 3), config=ON_CPU, save_dir=folder,
                      keep_predictors=True, progress=False)  # fmt: skip
    assert (str(sdata.attrs), list(sdata["observed"].layers), list(sdata["observed"].uns)) == (attrs, layers, uns)
    pd.testing.assert_frame_equal(sdata["observed"].obs, two["observed"].obs)
    return folder, found


@pytest.fixture(scope="module")
def baselines(two, tmp_path_factory):
    """Both baselines on both folds."""
    folder = tmp_path_factory.mktemp("baselines")
    return benchmark(copied(two), ["mean_profile"], save_dir=folder, progress=False)


def written(folder):
    """Every file in a folder, and when it was changed."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_cell_is_a_folder(done):
    folder, found = done
    cells = sorted(str(path.relative_to(folder)) for path in folder.glob("*/fold-*"))
    assert cells == [
        "_folds/fold-0.npz", "_folds/fold-1.npz",
        "mean_profile/fold-0-seed-0", "mean_profile/fold-1-seed-0",
        "quick/fold-0-seed-0", "quick/fold-0-seed-3", "quick/fold-1-seed-0", "quick/fold-1-seed-3",
        "ridge_color/fold-0-seed-0", "ridge_color/fold-1-seed-0",
    ]  # fmt: skip
    cell = folder / "quick/fold-1-seed-3"
    assert {path.name for path in cell.iterdir()} == {
        "config.json", "run.json", "scores.csv", "held_out.npz", "log.txt", "predictor"
    }  # fmt: skip
    config = json.loads((cell / "config.json").read_text())
    assert config["config"]["seed"] == 3
    assert list(config["test"]) == ["S1_spots"]
    assert list(config["slides"]) == ["S0_spots"]
    assert "epoch" in (cell / "log.txt").read_text()
    assert Predictor.load(cell / "predictor").provenance["slides"].keys() == {"S0_spots"}
    assert not list(folder.rglob(".*"))
    assert len(found.failed) == 0


def test_runs_have_one_row_a_cell(done):
    _, found = done
    assert list(found.runs["model"]) == [*BASELINES, "quick", "quick"] * 2
    assert set(found.runs.columns) == {
        "model", "fold", "seed", "groups", "n_train", "n_test", "gene_pearson", "best10", "best50", "best200",
        "gene_pearson_top50", "spot_pearson", "rmse", "mae", "ceiling", "share_of_ceiling", "moran_agreement",
        "gene_r2", "spot_r2", "moran_gap", "geary_gap", "svg_overlap", "gene_ssim", "coexpression",
        "parameters", "macs", "fit_s", "train_spots_per_s", "predict_spots_per_s", "peak_memory_mib", "leaks",
    }  # fmt: skip
    quick = found.runs[found.runs["model"] == "quick"]
    assert quick["groups"].tolist() == [["P0"], ["P0"], ["P1"], ["P1"]]
    assert (quick[["n_train", "n_test"]] == 16).all(axis=None)
    assert (quick[["parameters", "macs", "fit_s", "train_spots_per_s", "predict_spots_per_s"]] > 0).all(axis=None)
    constant = found.runs[found.runs["model"] == "mean_profile"]
    assert (constant["gene_pearson"] == 0).all()
    assert constant["moran_agreement"].isna().all()
    assert (constant[["gene_r2", "spot_r2", "gene_ssim", "coexpression", "svg_overlap"]] < 1e-6).all(axis=None)
    gaps = found.runs.groupby("model")[["moran_gap", "geary_gap"]].mean()
    assert (gaps.loc["mean_profile"] > gaps.loc["ridge_color"]).all()
    assert not found.runs["leaks"].any()


def test_runs_agree_with_scores(done):
    _, found = done
    pearson = found.scores[found.scores["metric"] == "pearson"]
    by_run = pearson.groupby(["model", "fold", "seed"])["value"].mean()
    given = found.runs.set_index(["model", "fold", "seed"])["gene_pearson"]
    np.testing.assert_allclose(by_run.reindex(given.index), given, atol=1e-9)
    share = found.runs["gene_pearson"] / found.runs["ceiling"]
    np.testing.assert_allclose(found.runs["share_of_ceiling"], share)


def test_tables_hold_what_was_held_out(done, two):
    _, found = done
    table = found.table("quick")
    assert table.obs_names.tolist() == two["observed"].obs_names.tolist()
    assert table.obs["fold"].tolist() == [0] * 16 + [1] * 16
    assert table.obs["group"].unique().tolist() == ["P0", "P1"]
    assert table.obs["slide"].unique().tolist() == ["S0_spots", "S1_spots"]
    np.testing.assert_allclose(table.obsm["spatial"], two["observed"].obsm["spatial"])
    assert table.uns["um_per_px"] == {"S0_spots": 8.0, "S1_spots": 8.0}
    assert np.isfinite(table.X).all()
    assert not np.array_equal(table.X, found.table("quick", seed=3).X)
    np.testing.assert_array_equal(table.layers["observed"], found.table("ridge_color").layers["observed"])
    with pytest.raises(ValueError, match=r"No model 'slow' in this benchmark \(found: 'mean_profile'"):
        found.table("slow")
    with pytest.raises(ValueError, match=r"No seed 9 of this model \(found: 0, 3\)"):
        found.table("quick", seed=9)


def test_loaded_as_it_was(done, tmp_path):
    folder, found = done
    again = Benchmark.load(folder)
    pd.testing.assert_frame_equal(again.runs, found.runs)
    pd.testing.assert_frame_equal(again.scores, found.scores)
    pd.testing.assert_frame_equal(again.summary(), found.summary())
    assert "quick" in repr(again)
    assert "<th>quick</th>" in again._repr_html_()
    with pytest.raises(FileNotFoundError, match=r"there is no `benchmark\.json`"):
        Benchmark.load(tmp_path)


def test_nothing_is_done_twice_and_more_can_be_added(done, pair):
    folder, found = done
    before = {path: at for path, at in written(folder).items() if path.name != "benchmark.json"}
    again = benchmark(pair, {"quick": QUICK, "place": "knn_spatial"}, seeds=(0,), config=ON_CPU, save_dir=folder,
                      progress=False)  # fmt: skip
    assert {path: at for path, at in written(folder).items() if path in before} == before
    assert set(again.runs["model"]) == {*BASELINES, "quick", "place"}
    assert set(again.runs["seed"]) == {0}
    assert set(Benchmark.load(folder).runs["model"]) == {*BASELINES, "quick", "place"}
    assert len(Benchmark.load(folder).runs) == len(found.runs) + 2


def test_a_folder_written_before_is_read_and_continued(baselines, pair, tmp_path):
    """There was no version of patches, and a protocol's note had another name; cells may be older than a score."""
    shutil.copytree(baselines.folder, tmp_path / "old")
    note = json.loads((tmp_path / "old/benchmark.json").read_text())
    del note["patch_version"], note["protocol_note"], note["digest"]
    (tmp_path / "old/benchmark.json").write_text(json.dumps({**note, "said": "As others do."}))
    for file in (tmp_path / "old").glob("*/*/config.json"):
        config = json.loads(file.read_text())
        assert config.pop("patch_version") == 1
        del config["digest"]
        file.write_text(json.dumps(config))
    for file in (tmp_path / "old").glob("*/*/run.json"):
        run = json.loads(file.read_text())
        del run["moran_agreement"], run["files"], run["digest"]
        file.write_text(json.dumps(run))
    loaded = Benchmark.load(tmp_path / "old")
    assert loaded.summary().attrs["protocol_note"] == "As others do."
    assert loaded.summary()["moran_agreement"].isna().all()
    before = written(tmp_path / "old/mean_profile")
    found = benchmark(pair, ["mean_profile"], save_dir=tmp_path / "old", progress=False)
    assert written(tmp_path / "old/mean_profile") == before
    pd.testing.assert_frame_equal(found.scores, baselines.scores)


def change(file, old, new):
    """Damage a text file or an npz."""
    data = file.read_bytes()
    assert old in data
    file.write_bytes(data.replace(old, new, 1))


DAMAGED_CELLS = {
    "a score": ("ridge_color/fold-1-seed-0/scores.csv", b"0.", b"1."),
    "no table": ("ridge_color/fold-1-seed-0/scores.csv", b"gene", b'ge"e'),
    "a summary": ("ridge_color/fold-1-seed-0/run.json", b'"n_test": 1', b'"n_test": 2'),
    "no json": ("ridge_color/fold-1-seed-0/run.json", b"{", b"}"),
    "a prediction": ("ridge_color/fold-1-seed-0/held_out.npz", b"PK", b"KP"),
}


@pytest.mark.parametrize("damage", list(DAMAGED_CELLS))
def test_a_damaged_cell_is_named_left_out_and_computed_again(baselines, pair, tmp_path, damage):
    folder = shutil.copytree(baselines.folder, tmp_path / "cells")
    name, *bytes_ = DAMAGED_CELLS[damage]
    change(folder / name, *bytes_)
    with pytest.warns(UserWarning, match=rf"A cell is left out: '.*/{name}' is damaged.*`stp\.tl\.benchmark` again"):
        loaded = Benchmark.load(folder)
    assert loaded.failed[["model", "fold", "seed"]].to_numpy().tolist() == [["ridge_color", 1, 0]]
    assert set(loaded.runs["model"]) == {"mean_profile", "ridge_color"}
    others = {path: at for path, at in written(folder).items() if "ridge_color/fold-1" not in str(path)}
    again = benchmark(pair, ["mean_profile"], save_dir=folder, progress=False)
    pd.testing.assert_frame_equal(again.scores, baselines.scores)
    changed = {path.name for path, at in others.items() if written(folder)[path] != at}
    assert changed == {"benchmark.json"}
    assert not list(folder.rglob(".*"))


def test_damaged_observations_are_computed_again(baselines, pair, tmp_path):
    folder = shutil.copytree(baselines.folder, tmp_path / "cells")
    for file in (folder / "_folds").iterdir():
        change(file, b"PK", b"KP")
    shutil.rmtree(folder / "ridge_color/fold-0-seed-0")
    with pytest.raises(DamagedFileError, match=r"fold-0\.npz' is damaged: .*then computed again"):
        Benchmark.load(folder).table("mean_profile")
    again = benchmark(pair, ["mean_profile"], save_dir=folder, progress=False)
    pd.testing.assert_frame_equal(again.scores, baselines.scores)


@pytest.mark.parametrize(("old", "new"), [(b"{", b"["), (b'"unit": "p', b'"unit": "q'), (b'"models"', b'"labels"')])
def test_a_damaged_note_is_one_error(baselines, pair, tmp_path, old, new):
    folder = shutil.copytree(baselines.folder, tmp_path / "cells")
    change(folder / "benchmark.json", old, new)
    for read in (Benchmark.load, lambda folder: benchmark(pair, ["mean_profile"], save_dir=folder, progress=False)):
        with pytest.raises(DamagedFileError, match=r"benchmark\.json' is damaged.*Delete this file and call"):
            read(folder)
    (folder / "benchmark.json").unlink()
    before = written(folder)
    benchmark(pair, ["mean_profile"], save_dir=folder, progress=False)
    assert before.items() <= written(folder).items()


def test_patches_cut_in_another_way_are_refused(baselines, pair, monkeypatch):
    for module in ("_errors", "runner", "cell", "study"):
        monkeypatch.setattr(f"stpredict.tl._benchmarking.{module}.PATCH_VERSION", 2)
    with pytest.raises(ValueError, match=r"was written when patches were cut in another way \(version 1, now 2\)"):
        benchmark(pair, ["mean_profile"], save_dir=baselines.folder, progress=False)


def test_other_options_or_data_are_refused(done, pair):
    folder, _ = done
    before = written(folder)
    other = Entry("m2ost", options=TINY, recipe={"n_epochs": 2})
    with pytest.raises(ValueError, match=r"quick/fold-0-seed-0' holds results with other 'config'\. Nothing was over"):
        benchmark(pair, {"quick": other}, seeds=(0,), config=ON_CPU, save_dir=folder, progress=False)
    with pytest.raises(ValueError, match="holds results with other 'genes'"):
        benchmark(pair, {"quick": QUICK}, genes=["GENE1", "GENE2"], save_dir=folder, progress=False)
    pair["observed"].X = pair["observed"].X * 2
    with pytest.raises(ValueError, match="holds results with other 'slides'"):
        benchmark(pair, {"quick": QUICK}, seeds=(0,), config=ON_CPU, save_dir=folder, progress=False)
    assert {path: at for path, at in written(folder).items() if path.name != "benchmark.json"} == {
        path: at for path, at in before.items() if path.name != "benchmark.json"
    }


def test_a_model_that_fails_stops_no_other(pair, tmp_path):
    models = {"bad": Entry("m2ost", options={"dim": -1}), "worse": Entry("m2ost", options=TINY, recipe={"lr": 9.0})}
    models["worse"] = Entry("m2ost", options=TINY, patch=PatchSpec(fov_um=(150.0, 300.0, 600.0), size_px=64))
    with pytest.warns(UserWarning, match=r"4 cells failed and are left out: 'bad/fold-0-seed-0'.*`dim` is -1"):
        found = benchmark(pair, models, save_dir=tmp_path, progress=False)
    assert set(found.runs["model"]) == set(BASELINES)
    assert found.failed[["model", "fold"]].to_numpy().tolist() == [["bad", 0], ["bad", 1], ["worse", 0], ["worse", 1]]
    error = json.loads((tmp_path / "bad/fold-0-seed-0/error.json").read_text())
    assert error["error"].startswith("ValueError: `dim` is -1")
    assert "Traceback" in error["traceback"][0]
    models = {"bad": Entry("m2ost", options=TINY, recipe={"n_epochs": 1})}
    mended = benchmark(pair, models, config=ON_CPU, save_dir=tmp_path, progress=False)
    assert len(mended.failed) == 0
    assert "bad" in set(mended.runs["model"])


def test_a_failure_in_training_leaves_its_configuration(pair, tmp_path, monkeypatch):
    def broken(*_):
        msg = "out of luck"
        raise RuntimeError(msg)

    monkeypatch.setattr("stpredict.tl._benchmarking.cell.train_members", broken)
    with pytest.raises(RuntimeError, match=r"Every cell failed: .* 'RuntimeError: out of luck'"):
        benchmark(pair, ["mean_profile"], save_dir=tmp_path, progress=False)
    cell = tmp_path / "ridge_color/fold-1-seed-0"
    assert {path.name for path in cell.iterdir()} == {"config.json", "error.json"}


SMALL_PATCHES = """
from dataclasses import replace
import stpredict as stp
from stpredict.models import registry
for name in ("mean_profile", "ridge_color"):
    registry._KNOWN[name] = replace(registry._KNOWN[name], overrides={"size_px": 32})
sdata = stp.datasets.synthetic(n_slides=2, n_side=4, um_per_px=8.0)
"""
"""As the fixture `small_patches`, in another process."""
KILLED = """
import os, signal
from stpredict.tl._benchmarking import runner
run_cell, begun = runner.run_cell, []

def killed_in_the_third(cell, observations):
    begun.append(cell)
    if len(begun) == 3:
        cell.folder.with_name(f".{cell.folder.name}-0123abcd.part").mkdir()  # as if it had begun to write
        os.kill(os.getpid(), signal.SIGKILL)
    run_cell(cell, observations)

runner.run_cell = killed_in_the_third
stp.tl.benchmark(sdata, ["mean_profile"], save_dir="cells", progress=False)
"""


def test_a_killed_run_is_continued(pair, baselines, python, tmp_path):
    process = python(SMALL_PATCHES + KILLED, tmp_path)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    tmp_path /= "cells"
    kept = {path: at for path, at in written(tmp_path).items() if "/fold-" in str(path) and "/." not in str(path)}
    assert len(list(tmp_path.glob("*/fold-*/run.json"))) == 2
    found = benchmark(pair, ["mean_profile"], save_dir=tmp_path, progress=False)
    assert {path: at for path, at in written(tmp_path).items() if path in kept} == kept
    assert {path.suffix for path in tmp_path.glob("*/.*")} <= {".lock"}  # a killed process may leave an empty file
    pd.testing.assert_frame_equal(found.scores, baselines.scores)
    assert len(found.runs) == 4


SHARED = """
stp.tl.benchmark(sdata, ["mean_profile"], save_dir="../cells", progress=False)
"""


def test_two_processes_share_the_cells(two, baselines, python, tmp_path):
    """Whatever the order in which they come to the cells, each is done once, and neither disturbs the other."""
    both = {}
    for folder in (tmp_path / "one", tmp_path / "other"):
        folder.mkdir()
        both[folder] = python(SMALL_PATCHES + SHARED, folder)
    for folder, process in both.items():
        process.join()
        error = (folder / "stderr").read_text()
        assert process.exitcode == 0 or "Another process is running" in error, error
    found = benchmark(copied(two), ["mean_profile"], save_dir=tmp_path / "cells", progress=False)
    pd.testing.assert_frame_equal(found.scores, baselines.scores)
    assert len(found.failed) == 0
    assert not list(tmp_path.glob("**/.*"))


def test_a_cell_that_another_process_is_at_is_left_to_it(pair, tmp_path):
    with lock(tmp_path / "ridge_color/fold-1-seed-0") as ours:
        assert ours
        with pytest.warns(UserWarning, match=r"running 1 cells of this .*'ridge_color/fold-1-seed-0'.*left out"):
            found = benchmark(pair, ["mean_profile"], save_dir=tmp_path, progress=False)
    assert found.runs[["model", "fold"]].to_numpy().tolist() == [
        ["mean_profile", 0], ["ridge_color", 0], ["mean_profile", 1]
    ]  # fmt: skip
    assert len(benchmark(pair, ["mean_profile"], save_dir=tmp_path, progress=False).runs) == 4


def test_nothing_is_returned_where_other_processes_are_at_every_cell(pair, tmp_path):
    with ExitStack() as stack:
        for fold in range(2):
            for model in BASELINES:
                assert stack.enter_context(lock(tmp_path / f"{model}/fold-{fold}-seed-0"))
        with pytest.raises(RuntimeError, match=r"Another process is running 4 cells .* None is finished yet"):
            benchmark(pair, ["mean_profile"], save_dir=tmp_path, progress=False)


def test_leaks_are_marked_for_good(pair, tmp_path):
    pair["observed"].obs["patient"] = pd.Categorical(["P"] * 32)
    with pytest.raises(ValueError, match="allow_leakage=True"):
        benchmark(pair, ["mean_profile"], save_dir=tmp_path / "a", progress=False)
    assert not (tmp_path / "a").exists()
    found = benchmark(pair, ["mean_profile"], allow_leakage=True, save_dir=tmp_path / "b", progress=False)
    assert found.runs["leaks"].all()
    assert "WITH LEAKAGE" in repr(found)
    assert "WITH LEAKAGE" in found._repr_html_()
    attrs = Benchmark.load(tmp_path / "b").summary().attrs
    assert (attrs["leaks"], attrs["unit"], attrs["n_units"]) == (True, "section", 2)
    assert json.loads((tmp_path / "b/mean_profile/fold-0-seed-0/config.json").read_text())["leaks"] is True


def test_embeddings_go_to_models_that_take_them(pair, tmp_path):
    pair["observed"].obsm["uni"] = np.random.default_rng(0).normal(size=(32, 6)).astype(np.float32)
    options = {"given": {"size_px": 32}, "own": {"size_px": 32, "encoder": "statistics"}}
    models = {name: Entry("encoder_ridge", options=each) for name, each in options.items()}
    found = benchmark(pair, models, features_key="uni", save_dir=tmp_path, progress=False)
    configs = {
        label: json.loads((tmp_path / label / "fold-0-seed-0/config.json").read_text())["model_options"]["config"]
        for label in models
    }
    assert (configs["given"]["encoder"], configs["given"]["n_features"]) == ("given", 6)
    assert configs["own"]["encoder"] == "statistics"
    assert len(found.failed) == 0


def test_the_order_of_recipes():
    entry = Entry("encoder_mlp", recipe={"lr": 0.5})
    found = fit_config(entry.training_options({"lr": 0.2, "batch_size": 8}, 4), "encoder_mlp")
    assert (found.lr, found.batch_size, found.n_epochs, found.seed) == (0.5, 8, 60, 4)  # 60: recipe of the model
    assert fit_config(Entry("encoder_mlp").training_options({}, 0), "encoder_mlp").lr == 1e-3
    assert common_fields(FitConfig(n_epochs=30, batch_size=8)) == {"n_epochs": 30, "batch_size": 8}
    assert common_fields({"n_epochs": 30}) == {"n_epochs": 30}
    assert common_fields(None) == {}


@pytest.mark.parametrize(("models", "error", "words"), [
    ([], ValueError, "`models` is empty"),
    ({"a/b": "m2ost"}, ValueError, r"'a/b' cannot be the name of a folder"),
    ({"_a": "m2ost"}, ValueError, r"'_a' cannot be the name of a folder"),
    (["m2ost", "m2ost"], ValueError, r"Several models are called 'm2ost'"),
    ({"a": {"model": "m2ost"}}, TypeError, r"'a' is dict; give the name of a model, a list of names, or `stp"),
])  # fmt: skip
def test_what_is_no_model_is_refused(models, error, words):
    with pytest.raises(error, match=words):
        entries_of(models)


def test_options_that_do_not_exist_are_refused(pair):
    with pytest.raises(ValueError, match="`recipe` of an entry has no 'epochs' here"):
        Entry("m2ost", recipe={"epochs": 3})
    with pytest.raises(ValueError, match="`target` of an entry has no 'target_sum' here; there are: center"):
        Entry("m2ost", target={"target_sum": 1e6})
    with pytest.raises(ValueError, match="`config` has no 'seed' here"):
        benchmark(pair, ["m2ost"], config={"seed": 3}, progress=False)
    with pytest.raises(ValueError, match=r"`seeds` is \(1, 1\)"):
        benchmark(pair, ["m2ost"], seeds=(1, 1), progress=False)
    with pytest.raises(ValueError, match=r"`seeds` is \(\)"):
        benchmark(pair, ["m2ost"], seeds=(), progress=False)
    with pytest.raises(ValueError, match="1 of 2 genes asked for are no genes of the table: 'ERBB2'"):
        benchmark(pair, ["m2ost"], genes=["GENE0", "ERBB2"], progress=False)


def long(values, metric="pearson"):
    """Scores of (model, slide, group, seed, fold): one value a gene."""
    rows = [
        {"model": model, "slide": slide, "group": group, "seed": seed, "fold": fold, "gene": f"g{i}",
         "metric": metric, "value": value}
        for (model, slide, group, seed, fold), genes in values.items()
        for i, value in enumerate(genes)
    ]  # fmt: skip
    return pd.DataFrame(rows)


PATIENTS = {"s0": "p", "s1": "p", "s2": "q", "s3": "r"}
NOTE = {"unit": "patient", "leaks": False, "protocol": None, "headline": "gene_pearson", "protocol_note": ""}


def two_models():
    """A model of two seeds that is better than the baseline by 0.1, 0.2 and 0.3 in three patients."""
    baseline = {("ridge_color", s, g, 0, 0): [0.1, 0.3] for s, g in PATIENTS.items()}
    means = {"s0": 0.25, "s1": 0.35, "s2": 0.4, "s3": 0.5}  # patient p has two slides: 0.3
    model = {
        ("m", s, g, seed, 0): [means[s] + seed_shift, means[s] - seed_shift, np.nan]
        for s, g in PATIENTS.items()
        for seed, seed_shift in ((0, 0.1), (1, 0.2))
    }
    ceiling = long({key: [0.8, 0.8] for key in [*baseline, *model]}, "ceiling")
    return pd.concat([long({**baseline, **model}), ceiling], ignore_index=True)


def made_runs(labels):
    columns = ["gene_pearson", "best10", "best50", "best200", "gene_pearson_top50", "spot_pearson", "rmse",
               "mae", "moran_agreement", "parameters", "macs", "fit_s", "train_spots_per_s", "predict_spots_per_s",
               "peak_memory_mib"]  # fmt: skip
    return pd.DataFrame([
        {"model": label, "fold": fold, "seed": 0, **dict.fromkeys(columns, value)}
        for label in labels for fold, value in ((0, 1.0), (1, 3.0))
    ])  # fmt: skip


def test_intervals_of_other_scores_by_hand():
    scores = two_models()
    scores["fold"] = scores["group"].map({"p": 0, "q": 1, "r": 2})
    runs = pd.DataFrame([
        {"model": "m", "fold": fold, "seed": seed, "gene_r2": value + shift}
        for fold, value in enumerate((0.3, 0.4, 0.5)) for seed, shift in ((0, 0.1), (1, -0.1))
    ])  # fmt: skip
    (row,) = whole_intervals(scores, runs, "group").to_dict("records")
    assert (row["model"], row["score"], row["mean"]) == ("m", "gene_r2", pytest.approx(0.4))
    assert (row["low"], row["high"]) == pytest.approx((0.3, 0.5))  # of units: seeds are no patients
    assert whole_intervals(scores.assign(fold=0), runs, "group")[["low", "high"]].isna().all(axis=None)


def test_domains_and_pathways_are_scored_from_the_stored_predictions(done):
    _, found = done
    table = found.table("quick", seed=3)
    genes = list(table.var_names)
    sets = {"first": genes[:4], "second": genes[4:9], "too few": genes[:1]}
    domains = pd.Series(np.where(table.obsm["spatial"][:, 0] < 60, "left", "right"), table.obs_names)
    domains.iloc[0] = None
    rows = found.intervals(pathways=sets, domains=domains).set_index(["model", "score"])["mean"]
    assert set(found.intervals()["score"]) | {"pathway_pearson", "domain_log_fold"} == set(rows.index.levels[1])
    assert rows["mean_profile", "pathway_pearson"] == pytest.approx(0, abs=1e-6)
    of_seeds = []
    for seed in (0, 3):
        predicted = found.table("quick", seed=seed)
        for slide in predicted.obs["slide"].unique():
            part = predicted[(predicted.obs["slide"] == slide) & predicted.obs_names.isin(domains.dropna().index)]
            of_seeds.append(log_fold_agreement(part.layers["observed"], part.X, domains[part.obs_names].to_numpy()))
    assert rows["quick", "domain_log_fold"] == pytest.approx(np.mean(of_seeds))
    by_slide = domains.rename(lambda name: f"{table.obs.at[name, 'slide']}/{name}")  # as in a table of several objects
    pd.testing.assert_frame_equal(found.intervals(domains=by_slide), found.intervals(domains=dict(domains)))
    with pytest.raises(ValueError, match=r"No test slide has two domains: `domains` has 2 spots.*'a', 'b'"):
        found.intervals(domains={"a": 0, "b": 1})
    for given in ("domain", domains.to_frame()):
        with pytest.raises(TypeError, match=r"`domains` is \w+, and a domain for each spot is needed. Give the column"):
            found.intervals(domains=given)
    with pytest.raises(ValueError, match="None of the 1 `pathways` has 3 of the 12 predicted genes"):
        found.intervals(pathways={"other": ["X", "Y", "Z"]})


def test_summary_by_hand():
    scores = two_models()
    scores.loc[scores["slide"].isin(["s2", "s3"]), "fold"] = 1
    found = summarize(scores, made_runs(["m", "ridge_color"]), NOTE, ["ridge_color"])
    assert list(found.index) == ["m", "ridge_color"]
    row = found.loc["m"]
    assert row["gene_pearson"] == pytest.approx(0.4)  # (0.3 + 0.4 + 0.5) / 3: a patient of two slides counts once
    assert row["difference"] == pytest.approx(0.2)
    assert row["share_of_ceiling"] == pytest.approx(0.5)
    assert row["rmse"] == 2.0
    assert row["fold_std"] == pytest.approx(0.15 / np.sqrt(2))  # folds of 0.30 and 0.45
    assert (row["low"], row["high"]) == pytest.approx((0.3, 0.5))  # the ends of 27 resamples, each with weight 1/27
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((0.1, 0.3))
    assert np.isnan(found.loc["ridge_color", "difference"])
    assert found.attrs == {**NOTE, "baseline": "ridge_color", "n_units": 3}


def test_sections_are_the_units_where_there_is_one_patient():
    means = unit_means(two_models(), "pearson", "slide")
    assert means["m"].to_dict() == pytest.approx({"s0": 0.25, "s1": 0.35, "s2": 0.4, "s3": 0.5})
    found = summarize(two_models(), made_runs(["m", "ridge_color"]), {**NOTE, "unit": "section"}, ["ridge_color"])
    assert found.attrs["n_units"] == 4
    assert found.loc["m", "gene_pearson"] == pytest.approx(0.375)


def test_without_enough_units_or_a_baseline_there_is_no_interval():
    scores = two_models()
    few = summarize(scores[scores["group"] != "r"], made_runs(["m", "ridge_color"]), NOTE, ["ridge_color"])
    assert few.attrs["n_units"] == 2
    assert few.loc["m", ["low", "high", "difference_low", "difference_high"]].isna().all()
    assert few.loc["m", "difference"] == pytest.approx(0.15)
    alone = summarize(scores[scores["model"] == "m"], made_runs(["m"]), NOTE, [])
    assert alone.attrs["baseline"] is None
    assert np.isnan(alone.loc["m", "difference"])


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        low, high = bootstrap_interval(rng.normal(size=30))
        hits += low < 0 < high
    assert 0.90 < hits / 300 < 0.98
    assert bootstrap_interval(np.arange(9.0)) == bootstrap_interval(np.arange(9.0))
    assert bootstrap_interval(np.array([1.0, 1.0, 1.0, np.nan])) == (1.0, 1.0)


def test_peak_memory_is_measured():
    with PeakMemory() as memory:
        held = np.ones(40 << 17)  # 40 MiB, touched
    assert held.nbytes == 40 << 20
    assert 35 < memory.mib < 120


def test_the_example_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs/comparing.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL).group(1)
    for long, short in (
        ("n_side=6", "n_side=4"),
        (': "encoder_ridge"', ": stp.tl.Entry('encoder_ridge', options={'size_px': 32})"),
        ('recipe={"n_epochs": 3}', "options=TINY, recipe={'n_epochs': 1}"),
    ):
        assert long in code
        code = code.replace(long, short)
    exec(code, {"TINY": TINY})
    assert (tmp_path / "comparison.html").is_file()
    assert set(Benchmark.load(tmp_path / "comparison").runs["model"]) == {*BASELINES, "encoder_ridge", "tiny"}
