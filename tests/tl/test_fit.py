"""From objects to a predictor: what it learns, what it writes down, and how an interrupted run goes on."""

from __future__ import annotations

import json
import platform
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import stpredict as stp
from stpredict._files import DamagedFileError
from stpredict._pixels import PatchReader
from stpredict._slides.slides import Selection, resolve
from stpredict._train import data as _data
from stpredict._train import loop as _loop
from stpredict._train.data import open_spots
from stpredict.tl import FitConfig, PatchSpec, Predictor, evaluate, fit, predict, summary
from stpredict.tl._fit import default_folder
from stpredict.tl._training import checkpoint as _checkpoint
from stpredict.tl._training.checkpoint import Reporter
from stpredict.tl._training.plan import plan_training

from .conftest import copied

TINY = {"dim": 24, "depth": 1, "heads": 2, "size_px": 32, "patch_size": 8}


def test_it_learns_what_colour_sets(tmp_path):
    """Expression is a known function of colour; on a slide never seen the network finds it, the mean profile cannot."""
    sdata = stp.datasets.synthetic(n_slides=4, n_side=9, um_per_px=8.0)
    fit(
        sdata,
        "m2ost",
        config=FitConfig(n_epochs=16, lr=3e-3, batch_size=16, ema_decay=0.9, stain_jitter=0.02, brightness_jitter=0.01,
                         accelerator="cpu", precision="32-true", progress=False),
        model_options={**TINY, "dim": 48, "size_px": 16},
        shapes_key=["S0_spots", "S1_spots", "S2_spots"],
        save_dir=tmp_path / "model",
    )  # fmt: skip
    predict(sdata, shapes_key="S3_spots", device="cpu", precision="32-true", progress=False)
    scores = evaluate(sdata, shapes_key="S3_spots", n_splits=2)
    table = summary(scores)
    assert table.at["model", "gene_pearson"] > 0.8
    assert table.at["mean_profile", "gene_pearson"] == 0
    assert table.at["model", "rmse"] < 0.7 * table.at["mean_profile", "rmse"]
    truth = sdata["observed"][sdata["predicted"].obs_names].layers["rate"]  # without the noise of counting
    r = [np.corrcoef(a, b)[0, 1] for a, b in zip(sdata["predicted"].X.T, truth.T, strict=True)]
    assert np.mean(r) > 0.8


def test_what_a_predictor_knows_of_its_training(sdata, quick):
    predictor = quick(sdata, n_epochs=2, group_key="patient")
    assert predictor.genes == [f"GENE{i}" for i in range(12)]
    assert predictor.patch == PatchSpec(fov_um=(150, 300, 600), size_px=32)  # multiples of a spot of 100 µm
    assert predictor.units == "log1p CP10k"
    known = predictor.provenance
    assert list(known["slides"]) == ["S0_spots", "S1_spots", "S2_spots"]
    assert [(s["group"], s["n_spots"], s["um_per_px"]) for s in known["slides"].values()] == [
        ("P0", 25, 8.0), ("P1", 25, 8.0), ("P2", 25, 8.0)
    ]  # fmt: skip
    assert known["validation"] == [{"kind": "slide", "groups": ["P2"], "leaks": False}]
    assert known["validation_note"] == "held-out groups (P2)"
    assert known["diameter_um"] == 100
    assert known["versions"]["torch"] == torch.__version__
    assert known["versions"]["platform"].startswith(platform.system())
    assert known["best"][0]["epoch"] in {0, 1}
    assert known["best"][0]["score"] == predictor.history["val_pearson"].max()
    json.dumps(known.to_json(), allow_nan=False)


def test_history_has_a_row_a_member_and_epoch(sdata, quick):
    history = quick(sdata, n_epochs=2, n_members=2).history
    assert history[["member", "epoch"]].to_numpy().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    columns = ["member", "epoch", "train_loss", "lr", "val_loss", "val_pearson", "spots_per_s"]
    assert set(history.columns) == set(columns)
    assert history.notna().all(axis=None)


def test_baselines_come_from_the_training_spots(sdata, quick):
    predictor = quick(sdata, shapes_key=["S0_spots", "S1_spots"])
    observed = sdata["observed"][sdata["observed"].obs["region"] != "S2_spots"]
    values = np.log1p(1e4 * observed.X.toarray() / observed.X.toarray().sum(axis=1, keepdims=True))
    np.testing.assert_allclose(predictor.train_mean, values.mean(axis=0), rtol=1e-5)
    assert predictor.ridge_color.shape == (12, 6 * 4 + 1)


def test_members_have_their_own_statistics_and_groups(sdata, quick):
    predictor = quick(sdata, n_members=3)
    means = {tuple(member.targets.mean.tolist()) for member in predictor.members}
    assert len(means) == 3
    assert [fold["groups"] for fold in predictor.provenance["validation"]] == [["S2_spots"], ["S1_spots"], ["S0_spots"]]


def test_targets_of_held_out_spots_do_not_reach_training(sdata, quick, tmp_path):
    """Whatever the counts of the validation slide, the network trained for one epoch is the same."""
    other = sdata["observed"].copy()
    rows = (other.obs["region"] == "S2_spots").to_numpy()
    counts = other.X.toarray()
    counts[rows] = np.random.default_rng(0).poisson(50, counts[rows].shape)
    quick(sdata, save_dir=tmp_path / "one")
    sdata["observed"].X = counts
    quick(sdata, save_dir=tmp_path / "two")
    one, two = (Predictor.load(tmp_path / name).members[0] for name in ("one", "two"))
    np.testing.assert_array_equal(one.targets.mean, two.targets.mean)
    weights = two.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in one.network.state_dict().items())


def test_same_seed_same_predictor(sdata, quick, tmp_path):
    one, two, other = (
        quick(sdata, "m2ost_tiny", seed=seed, save_dir=tmp_path / name) for seed, name in ((0, "a"), (0, "b"), (1, "c"))
    )
    assert one.hash == two.hash
    assert one.hash != other.hash


def test_nothing_is_written_but_the_note(sdata, quick, tmp_path):
    before, table = deepcopy(sdata.attrs), sdata["observed"].copy()
    predictor = quick(sdata)
    assert sdata.attrs["stpredict"].pop("predictor") == {"path": str(tmp_path / "model"), "hash": predictor.hash}
    assert sdata.attrs == before
    pd.testing.assert_frame_equal(sdata["observed"].obs, table.obs)
    pd.testing.assert_frame_equal(sdata["observed"].var, table.var)
    assert list(sdata["observed"].uns) == list(table.uns)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_by_default_it_goes_to_a_cache_folder_named_by_what_it_is(sdata, own_cache):
    config = FitConfig(n_epochs=1, progress=False, accelerator="cpu", precision="32-true")
    for _ in range(2):
        fit(sdata, "m2ost", config=config, model_options=TINY)
    (folder,) = (own_cache / "stpredict" / "predictors").iterdir()
    assert sdata.attrs["stpredict"]["predictor"]["path"] == str(folder)
    assert default_folder({"seed": 0}) == default_folder({"seed": 0}) != default_folder({"seed": 1})


def test_several_objects(sdata, quick):
    other = stp.datasets.synthetic(n_slides=1, n_side=5, um_per_px=8.0, seed=1)
    predictor = quick({"a": sdata, "b": other}, shapes_key=["S0_spots"])
    assert list(predictor.provenance["slides"]) == ["a/S0_spots", "b/S0_spots"]
    for each in (sdata, other):
        assert each.attrs["stpredict"]["predictor"]["hash"] == predictor.hash


def test_genes_asked_for_then_marked_then_most_dispersed(sdata, monkeypatch):
    def target_genes(genes=None):
        slides, target = resolve(sdata, Selection()), stp.pp.TargetSpec()
        return plan_training(slides, "m2ost", config=FitConfig(), target=target, genes=genes).genes

    stp.pp.select_genes(sdata, genes=["GENE7", "GENE1"])
    assert target_genes(["GENE3", "GENE2", "GENE3"]) == ["GENE3", "GENE2"]
    assert target_genes("GENE10") == ["GENE10"]
    assert target_genes() == ["GENE7", "GENE1"]
    del sdata["observed"].uns["stpredict"]
    monkeypatch.setattr("stpredict.tl._training.plan.DEFAULT_N_GENES", 4)
    chosen = target_genes()
    stp.pp.select_genes(sdata, n_genes=4)
    assert chosen == sdata["observed"].uns["stpredict"]["genes"]


def test_fields_of_view_can_be_given(sdata, quick):
    spec = PatchSpec(fov_um=(80, 500), size_px=32, fill="reflect")
    assert quick(sdata, patch=spec, options={"fov_spots": (1.0, 5.0)}).patch == spec


def test_one_slide_is_validated_on_blocks_and_says_so(sdata, quick):
    predictor = quick(sdata, shapes_key="S0_spots")
    assert predictor.provenance["validation"] == [{"kind": "block", "groups": [], "leaks": True}]
    assert "blocks of slides that are also trained on" in predictor.provenance["validation_note"]


def test_no_validation_keeps_the_last_weights(sdata, quick):
    predictor = quick(sdata, validation="none", n_epochs=2)
    assert predictor.provenance["best"] == [{"epoch": 1, "score": None}]
    assert "none" in predictor.provenance["validation_note"]
    assert "val_pearson" not in predictor.history


def test_allowed_leakage_is_marked(sdata, quick):
    sdata["observed"].obs["patient"] = pd.Categorical(["one"] * sdata["observed"].n_obs)
    with pytest.raises(ValueError, match="share groups with training slides: 'one'"):
        quick(sdata, group_key="patient", validate_on=["S1_spots"])
    predictor = quick(sdata, group_key="patient", validate_on=["S1_spots"], allow_leakage=True)
    assert predictor.provenance["validation"][0]["leaks"]
    assert "leakage was allowed" in predictor.provenance["validation_note"]


def test_centring_by_slide(sdata, quick):
    predictor = quick(sdata, target=stp.pp.TargetSpec(center="slide", n_components=2), validation="block")
    assert predictor.members[0].targets.n_outputs == 2


def test_progress_is_shown(sdata, quick, capfd):
    quick(sdata, n_epochs=2, n_members=2, progress=True)
    shown = capfd.readouterr().err
    for words in ("patches", "fit 1/2", "fit 2/2", "loss=", "validation r=", "spots/s="):
        assert words in shown


@pytest.fixture
def scratch(tmp_path_factory, monkeypatch):
    """Where temporary files go, and the sizes of those that were there while patches were read."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def reads(monkeypatch):
    """The centres of all windows that are read from now on, by image."""
    read, found = PatchReader.read, []

    def counting(self, xy_px):
        found.extend((self.sides_px.tolist(), *xy) for xy in xy_px.tolist())
        return read(self, xy_px)

    monkeypatch.setattr(PatchReader, "read", counting)
    return found


def sizes(folder):
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


SPOT_BYTES = 3 * 3 * 32 * 32


@pytest.mark.parametrize("memory_bytes", [1 << 30, 1 << 16])
def test_every_patch_is_read_once_however_long_and_often_is_trained(sdata, quick, scratch, monkeypatch, memory_bytes):
    read, on_disk, step = reads(monkeypatch), [], _loop._optimizer_step
    monkeypatch.setattr(_loop, "_optimizer_step", lambda *given: (on_disk.append(sizes(scratch)), step(*given))[1])
    quick(sdata, n_epochs=2, n_members=2, memory_bytes=memory_bytes)
    read = [each for each in read if len(each[0]) == 3]  # windows of the stain have one field of view
    assert len(read) == 75
    wanted = [slide.xy_px for slide in resolve(sdata, Selection())]
    assert sorted(xy for _, *xy in read) == sorted(np.concatenate(wanted).tolist())
    file = [] if memory_bytes == 1 << 30 else [75 * SPOT_BYTES]
    assert all(found == file for found in on_disk)
    assert list(scratch.iterdir()) == []


def test_training_from_a_file_is_training_from_memory(sdata, quick, scratch, tmp_path):
    options = {"n_members": 2, "model": "m2ost_tiny"}
    in_memory = quick(sdata, **options, save_dir=tmp_path / "a")
    from_file = quick(sdata, **options, save_dir=tmp_path / "b", memory_bytes=1)
    for one, other in zip(in_memory.members, from_file.members, strict=True):
        weights = other.network.state_dict()
        assert all(torch.equal(value, weights[name]) for name, value in one.network.state_dict().items())
    np.testing.assert_array_equal(in_memory.ridge_color, from_file.ridge_color)
    assert in_memory.provenance["n_at_border"] == from_file.provenance["n_at_border"]


def test_patches_that_just_fit_stay_in_memory(sdata, scratch):
    patch, just = PatchSpec(fov_um=(150, 300, 600), size_px=32), 75 * SPOT_BYTES * 4 // 3  # a quarter is for the image
    for memory_bytes, n_files in ((just, 0), (just - 4, 1)):
        with open_spots(resolve(sdata, Selection()), patch, memory_bytes=memory_bytes, progress=False):
            assert len(sizes(scratch)) == n_files


@pytest.mark.parametrize("error", [KeyboardInterrupt, FloatingPointError])
def test_the_file_is_gone_however_training_ends(sdata, quick, scratch, monkeypatch, error):
    seen = []

    def stopped(*_):
        seen.extend(sizes(scratch))
        raise error

    monkeypatch.setattr(_loop, "_optimizer_step", stopped)
    with pytest.raises(error):
        quick(sdata, memory_bytes=1)
    assert seen == [75 * SPOT_BYTES]
    assert list(scratch.iterdir()) == []


def test_a_disk_that_is_too_small_is_noticed_before_reading(sdata, quick, scratch, monkeypatch):
    read = reads(monkeypatch)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=600_000))
    with pytest.raises(OSError, match=r"Patches of 0.000691 GB exceed the memory budget.*0.0006 GB left.*TMPDIR"):
        quick(sdata, memory_bytes=1)
    assert not read
    assert list(scratch.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_disk_that_fills_up(sdata, quick, scratch, monkeypatch):
    def put_on_a_full_disk(slides, patches, paths, budget_bytes, *, progress):
        paths[0].symlink_to("/dev/full")
        return to_files(slides, patches, paths, budget_bytes, progress=progress)

    to_files = _data._read_to_files
    monkeypatch.setattr(_data, "_read_to_files", put_on_a_full_disk)
    with pytest.raises(OSError, match=r"could not be written to a temporary file in .*No space left.*`memory_bytes`"):
        quick(sdata, memory_bytes=1)
    assert list(scratch.iterdir()) == []


@contextmanager
def interrupted(monkeypatch, after):
    """Ctrl-C comes after some epochs, counted over all members."""
    report, seen = Reporter.report, []

    def interrupting(self, state):
        report(self, state)
        seen.append(state.epoch)
        if len(seen) == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Reporter, "report", interrupting)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.parametrize(("n_members", "after"), [(1, 1), (2, 3)])
def test_an_interrupted_fit_goes_on_as_if_it_never_stopped(
    sdata, quick, tmp_path, monkeypatch, capsys, n_members, after
):
    """Also where it is resumed with more memory."""
    options = {"n_epochs": 2, "n_members": n_members, "lr": 3e-3}
    straight = quick(sdata, **options, save_dir=tmp_path / "straight")
    with interrupted(monkeypatch, after):
        quick(sdata, **options, memory_bytes=1, save_dir=tmp_path / "stopped")
    shown = capsys.readouterr()
    assert f"resume_from={str(tmp_path / 'stopped')!r}" in shown.out + shown.err
    assert not (tmp_path / "stopped").exists()
    assert (tmp_path / "stopped.checkpoint").is_dir()
    resumed = quick(sdata, **options, resume_from=tmp_path / "stopped")
    assert resumed.hash == straight.hash
    pd.testing.assert_frame_equal(
        resumed.history.drop(columns="spots_per_s"), straight.history.drop(columns="spots_per_s")
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["stopped", "straight"]
    assert sdata.attrs["stpredict"]["predictor"]["path"] == str(tmp_path / "stopped")


KILLED = """
import os, signal
from pathlib import Path
from stpredict.datasets import synthetic
from stpredict.tl import FitConfig, Predictor, fit
from stpredict.tl._training import checkpoint
checkpoint.INTERVAL_S = 0.0
calls = []
def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
def kill_at(nth, function):
    def counted(*arguments, **named):
        calls.append(1)
        if len(calls) == nth:
            kill()
        return function(*arguments, **named)
    return counted
if MOMENT == "checkpoint":  # the second, before it replaces the first
    Path.replace = kill_at(3, Path.replace)  # run.json is the first
elif MOMENT == "validation":
    from stpredict._train import loop
    loop._validate = kill_at(2, loop._validate)
elif MOMENT == "save":
    Path.rename = kill
else:  # when the predictor is saved, and the checkpoint is still there
    checkpoint.remove = kill_at(2, checkpoint.remove)
config = FitConfig(n_epochs=3, lr=3e-3, accelerator="cpu", precision="32-true", progress=False)
fit(synthetic(n_slides=3, n_side=5, um_per_px=8.0), "m2ost", config=config, model_options=TINY, save_dir="model")
"""


@pytest.fixture(scope="module")
def straight(small_sdata, tmp_path_factory):
    """Hash of the predictor of an undisturbed `KILLED`."""
    config = FitConfig(n_epochs=3, lr=3e-3, accelerator="cpu", precision="32-true", progress=False)
    folder = tmp_path_factory.mktemp("straight") / "model"
    return fit(copied(small_sdata), "m2ost", config=config, model_options=TINY, save_dir=folder).hash


@pytest.mark.parametrize(
    "moment", ["checkpoint", "save", *(pytest.param(each, marks=pytest.mark.slow) for each in ("validation", "end"))]
)
def test_a_killed_fit_goes_on_as_if_it_never_stopped(sdata, quick, straight, tmp_path, python, moment):
    process = python(f"MOMENT, TINY = {moment!r}, {TINY!r}\n{KILLED}", tmp_path)
    process.join()
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "stderr").read_text()
    resumed = quick(sdata, n_epochs=3, lr=3e-3, resume_from=tmp_path / "model")
    assert resumed.hash == straight
    assert {path.name for path in tmp_path.iterdir()} == {"model", "stdout", "stderr"}


@pytest.mark.parametrize("file", ["run.json", "member0.safetensors"])
def test_a_damaged_checkpoint_is_one_error(sdata, quick, tmp_path, monkeypatch, file):
    with interrupted(monkeypatch, 1):
        quick(sdata, n_epochs=2)
    damaged = tmp_path / "model.checkpoint" / file
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(DamagedFileError, match=rf"{file}' is damaged: .*start anew without `resume_from`"):
        quick(sdata, n_epochs=2, resume_from=tmp_path / "model")
    assert damaged.read_bytes() == data
    quick(sdata, n_epochs=2)


def test_a_model_without_steps_speaks_of_no_epochs_and_no_parameters(sdata, tmp_path, capsys):
    predictor = fit(sdata, "ridge_color", config=FitConfig(accelerator="cpu"), save_dir=tmp_path / "model")
    said = capsys.readouterr().err
    assert "patches" in said
    assert "epoch" not in said
    assert "model: ridge_color (no gradient steps)" in repr(predictor)
    assert "validation: none: all spots are trained on" in repr(predictor)


def test_checkpoints_are_written_now_and_then(sdata, quick, monkeypatch):
    written = []
    monkeypatch.setattr(_checkpoint, "INTERVAL_S", 0.0)
    write = Reporter.write
    monkeypatch.setattr(Reporter, "write", lambda self: (written.append(self.state.epoch), write(self))[1])
    quick(sdata, n_epochs=2)
    assert written == [1, 2, 2]


def test_a_checkpoint_that_cannot_be_written_does_not_stop_training(sdata, quick, tmp_path, monkeypatch):
    def full(file, tensors, metadata):
        file.write_bytes(b"half")
        msg = "No space left on device"
        raise OSError(msg)

    monkeypatch.setattr(_checkpoint, "write_tensors", full)
    with pytest.warns(UserWarning, match=r"state of training could not be written to .*No space left.*goes on"):
        quick(sdata)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_configuration_changes_the_recipe_of_the_model(sdata, tmp_path):
    config = FitConfig(n_epochs=1, accelerator="cpu", precision="32-true", progress=False)
    predictor = fit(sdata, "m2ost_tiny", config=config, model_options={**TINY, "depth": 1}, save_dir=tmp_path / "m")
    assert stp.models.recipe("m2ost_tiny") == {"validation": "none"}
    assert predictor.provenance["validation"] == [{"kind": "none", "groups": [], "leaks": False}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(sdata, quick, tmp_path):
    with pytest.raises(ValueError, match=r"no device for 'cuda' here; it finds .*'cpu'\. Take one of those, or 'auto'"):
        quick(sdata, accelerator="cuda")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"encoder": "test_resnet"}, {"encoder": "statistics"}])
def test_an_encoder_of_random_weights_that_stay_so_is_warned_of(sdata, tmp_path, options):
    config = FitConfig(accelerator="cpu", precision="32-true", progress=False)
    with (
        pytest.warns(UserWarning, match="encoder 'test_resnet' is frozen and its weights are random")
        if (options["encoder"] == "test_resnet")
        else nullcontext()
    ):
        fit(
            sdata, "encoder_ridge", config=config, model_options={"size_px": 32, **options}, save_dir=tmp_path / "model"
        )


@contextmanager
def busy(place):
    """Another process is at a place."""
    code = "import sys; from pathlib import Path; from stpredict._files import lock\n"
    code += f"with lock(Path({str(place)!r})) as ours: print(ours, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "True\n"
        yield other


def test_two_processes_do_not_train_into_one_folder(sdata, quick, tmp_path, monkeypatch):
    with interrupted(monkeypatch, 1):
        quick(sdata, n_epochs=2)
    before = {path.name: path.read_bytes() for path in (tmp_path / "model.checkpoint").iterdir()}
    with busy(tmp_path / "model.checkpoint") as other:
        for how in ({}, {"resume_from": tmp_path / "model"}):
            with pytest.raises(RuntimeError, match=r"Another process is training into .*model.*give another folder"):
                quick(sdata, n_epochs=2, **how)
        assert {path.name: path.read_bytes() for path in (tmp_path / "model.checkpoint").iterdir()} == before
        other.kill()  # a process that is gone holds nothing
    quick(sdata, n_epochs=2, resume_from=tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


OTHER_RUNS = [
    ({"lr": 1e-2}, "'config'"),
    ({"genes": ["GENE0", "GENE1", "GENE2"]}, "'genes', 'model_options'"),
    ({"options": {"depth": 2}}, "'model_options'"),
    ({"shapes_key": ["S0_spots", "S1_spots"]}, "'slides', 'validation'"),
    ({"validate_on": ["S0_spots"]}, "'validation'"),
]


def test_another_run_is_not_resumed(sdata, quick, tmp_path, monkeypatch):
    with interrupted(monkeypatch, 1):
        quick(sdata, n_epochs=2)
    for change, named in OTHER_RUNS:
        with pytest.raises(ValueError, match=rf"was begun with other {named}\. Resume it with what"):
            quick(sdata, n_epochs=2, resume_from=tmp_path / "model", **change)
    monkeypatch.setattr("stpredict.tl._training.plan.PATCH_VERSION", 2)
    with pytest.raises(ValueError, match=r"begun with patches of version 1, and this stpredict .* version 2"):
        quick(sdata, n_epochs=2, resume_from=tmp_path / "model")
    monkeypatch.undo()
    quick(sdata, n_epochs=2, resume_from=tmp_path / "model")  # it is still there


def test_nothing_to_resume(sdata, quick, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No unfinished training at .*nowhere.*without `resume_from`"):
        quick(sdata, resume_from=tmp_path / "nowhere")
    quick(sdata, save_dir=tmp_path / "done")
    with pytest.raises(FileNotFoundError, match="No unfinished training"):
        quick(sdata, resume_from=tmp_path / "done")


def test_interrupted_before_the_first_epoch_nothing_is_left(sdata, quick, tmp_path, monkeypatch):
    def at_once(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("stpredict._train.loop._optimizer_step", at_once)
    with pytest.raises(KeyboardInterrupt):
        quick(sdata)
    assert list(tmp_path.iterdir()) == []


def test_an_old_predictor_stays_until_the_new_one_is_whole(sdata, quick, tmp_path, monkeypatch):
    old = quick(sdata)
    with interrupted(monkeypatch, 1):
        quick(sdata, n_epochs=2)
    assert Predictor.load(tmp_path / "model").hash == old.hash
    new = quick(sdata, n_epochs=2, resume_from=tmp_path / "model")
    assert Predictor.load(tmp_path / "model").hash == new.hash != old.hash
