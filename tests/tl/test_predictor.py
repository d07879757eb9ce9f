"""A predictor on disk: it comes back as it was, or with one clear error; saving never costs what was there."""

from __future__ import annotations

import errno
import json
import os
import pickle
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from stpredict._files import file_sha256
from stpredict._geometry import PatchSpec
from stpredict._train.data import read_spots
from stpredict._train.device import make_fabric
from stpredict.tl import FitConfig, Predictor, fit
from stpredict.tl._inference.record import prediction_record
from stpredict.tl._options import PredictOptions
from stpredict.tl._predictor import serialization as _folder
from stpredict.tl._predictor.card import model_card

FILES = ["README.md", "config.json", "history.csv", "weights.safetensors"]


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of a saved predictor that a test may damage."""
    return Path(shutil.copytree(trained[0], tmp_path / "model"))


def edit(folder, change):
    file = folder / "config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    change(values)
    file.write_text(json.dumps(values), encoding="utf-8")


def test_what_is_saved_comes_back(predictor, small_sdata, tmp_path):
    from stpredict._slides.slides import Selection, resolve

    predictor.save(tmp_path / "deep" / "model")
    assert sorted(file.name for file in (tmp_path / "deep" / "model").iterdir()) == FILES
    again = Predictor.load(str(tmp_path / "deep" / "model"))
    assert again.hash == predictor.hash
    for name in ("genes", "model", "model_config", "patch", "target", "units", "provenance", "n_parameters"):
        assert getattr(again, name) == getattr(predictor, name), name
    pd.testing.assert_frame_equal(again.history, predictor.history)
    spots, _ = read_spots(resolve(small_sdata, Selection()), predictor.patch, progress=False)
    fabric = make_fabric(FitConfig(accelerator="cpu", precision="32-true"))
    np.testing.assert_array_equal(again(spots, fabric), predictor(spots, fabric))


@pytest.mark.parametrize("model", ["m2ost_tiny", "m2ost_reference"])
def test_every_kind_of_predictor_comes_back(sdata, quick, tmp_path, model):
    options = {} if model == "m2ost_tiny" else {"heads": 3, "dim_head": 4, "mlp_dim": 12}
    made = quick(sdata, model, options=options, genes=["GENE0", "GENE5"])
    assert Predictor.load(tmp_path / "model").hash == made.hash


def test_an_empty_history_comes_back(predictor, tmp_path):
    replace(predictor, history=pd.DataFrame()).save(tmp_path / "model")
    assert Predictor.load(tmp_path / "model").history.empty


def test_the_hash_tells_predictors_apart(predictor):
    changed = replace(predictor, provenance=replace(predictor.provenance, best=[]))
    patch = PatchSpec(fov_um=(150, 300, 601), size_px=32)
    other_patch = replace(predictor, members=tuple(replace(member, patch=patch) for member in predictor.members))
    other_mean = replace(predictor, train_mean=predictor.train_mean + 1e-3)
    assert len({predictor.hash, changed.hash, other_patch.hash, other_mean.hash}) == 4


def test_the_card_says_what_a_person_asks(folder, predictor):
    card = (folder / "README.md").read_text(encoding="utf-8")
    for words in ("log1p CP10k", "GENE0", "150, 300, 600 µm", "| S0_spots | S0_spots | 25 | 8.000 |", "2 network(s)",
                  "held-out groups (S1_spots; S0_spots)", "Not for diagnosis"):  # fmt: skip
        assert words in card


def test_representations(predictor):
    shown = repr(predictor)
    for words in ("m2ost (2 x ", "12 (GENE0, GENE1, GENE2, GENE3, …)", "150, 300, 600 µm, 32 px", "S0_spots, S1_spots"):
        assert words in shown
    html = replace(predictor, model="<m2ost>")._repr_html_()
    assert html.startswith("<table>")
    assert "&lt;m2ost&gt;" in html


def test_permissions_are_the_users(predictor, tmp_path):
    previous = os.umask(0o022)
    try:
        predictor.save(tmp_path / "model")
    finally:
        os.umask(previous)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o755


def test_saving_over_a_predictor_replaces_it_whole(predictor, folder):
    (folder / "stray.txt").write_text("from an older version")
    other = replace(predictor, train_mean=predictor.train_mean + 1)
    other.save(folder)
    assert Predictor.load(folder).hash == other.hash != predictor.hash
    assert sorted(file.name for file in folder.iterdir()) == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_saving_into_an_empty_folder(predictor, tmp_path):
    (tmp_path / "model").mkdir()
    predictor.save(tmp_path / "model")
    assert Predictor.load(tmp_path / "model").hash == predictor.hash


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_is_no_predictor_is_not_overwritten(predictor, sdata, quick, tmp_path, kind):
    place = tmp_path / "thesis"
    if kind == "folder":
        place.mkdir()
        (place / "chapter1.txt").write_text("years of work")
    else:
        place.write_text("years of work")
    for save in (lambda: predictor.save(place), lambda: quick(sdata, save_dir=place)):
        with pytest.raises(FileExistsError, match="thesis' exists and is no predictor, so it is not overwritten"):
            save()
    assert (place / "chapter1.txt" if kind == "folder" else place).read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis"]


def full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def full_in_rust(*_, **__):
    msg = "Error while serializing: I/O error: No space left on device (os error 28)"
    raise SafetensorError(msg)


def denied(*_, **__):
    raise PermissionError(errno.EACCES, "Permission denied")


FAILURES = [
    pytest.param(
        "stpredict.tl._predictor.serialization.save_file", full_in_rust, id="disk full while weights are written"
    ),
    pytest.param("stpredict.tl._predictor.serialization.model_card", full, id="disk full at the last file"),
    pytest.param("pathlib.Path.mkdir", denied, id="no permission"),
    pytest.param("pathlib.Path.rename", denied, id="no permission to rename"),
]


@pytest.mark.parametrize(("name", "failure"), FAILURES)
def test_failing_to_save_costs_nothing(predictor, folder, monkeypatch, name, failure):
    old = Predictor.load(folder).hash
    other = replace(predictor, train_mean=predictor.train_mean + 1)
    with monkeypatch.context() as patched:
        patched.setattr(name, failure)
        for place in (folder, folder.with_name("new")):
            with pytest.raises(OSError, match=r"could not be saved to .* What was there before is unchanged\. Free"):
                other.save(place)
    assert Predictor.load(folder).hash == old
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_failing_between_two_renames_brings_the_old_one_back(predictor, folder, monkeypatch):
    rename, old = Path.rename, Predictor.load(folder).hash

    def second_fails(self, target):
        if Path(target).name == "model" and (self / "config.json").stat().st_mtime > start:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    start = (folder / "config.json").stat().st_mtime
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", second_fails)
        with pytest.raises(OSError, match="Input/output error"):
            replace(predictor, train_mean=predictor.train_mean + 1).save(folder)
    assert Predictor.load(folder).hash == old
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_training_does_not_begin_where_its_result_cannot_be_saved(sdata, quick, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Path, "mkdir", denied)
        with pytest.raises(OSError, match=r"could not be saved to .*: .*Permission denied.*write to as `save_dir`"):
            quick(sdata)
    assert list(tmp_path.iterdir()) == []
    assert "predictor" not in sdata.attrs["stpredict"]


def test_after_a_full_disk_training_need_not_be_repeated(sdata, quick, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("stpredict.tl._predictor.serialization.save_file", full_in_rust)
        with pytest.raises(OSError, match="could not be saved"):
            quick(sdata, n_epochs=2)
    assert "predictor" not in sdata.attrs["stpredict"]
    monkeypatch.setattr("stpredict._train.loop._optimizer_step", full)  # no step is taken again
    quick(sdata, n_epochs=2, resume_from=tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def truncate(folder):
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def truncate_header(folder):
    file = folder / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:20])


def flip_a_bit(folder):
    file = folder / "weights.safetensors"
    data = bytearray(file.read_bytes())
    data[-500] ^= 1
    file.write_bytes(data)


def cut_config(folder):
    file = folder / "config.json"
    file.write_bytes(file.read_bytes()[:300])


def binary_config(folder):
    (folder / "config.json").write_bytes(b"\xff\xfe\x00")


def list_config(folder):
    (folder / "config.json").write_text("[1, 2]")


def pickled_weights(folder):
    (folder / "weights.safetensors").write_bytes(pickle.dumps({"a": 1}))


def other_weights(folder):
    file = folder / "weights.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file)


def changed(**values):
    return lambda folder: edit(folder, lambda config: config.update(values))


def without(name):
    return lambda folder: edit(folder, lambda config: config.pop(name))


EDITED = r"config\.json' is damaged at 'hash': the configuration was changed after it was saved"


@pytest.mark.parametrize(("damage", "words"), [
    pytest.param(truncate, r"weights\.safetensors' is damaged: it has SHA-256 .*\. Save or download", id="truncated"),
    pytest.param(truncate_header, "it has SHA-256", id="truncated header"),
    pytest.param(flip_a_bit, r"weights\.safetensors' is damaged: it has SHA-256 .* was written\.", id="flipped bit"),
    pytest.param(other_weights, "it has SHA-256", id="weights of another"),
    pytest.param(pickled_weights, "it has SHA-256", id="a pickle under the name of weights"),
    pytest.param(cut_config, r"config\.json' is damaged: JSONDecodeError", id="half a configuration"),
    pytest.param(binary_config, r"config\.json' is damaged: UnicodeDecodeError", id="no text"),
    pytest.param(list_config, r"config\.json' is damaged: it is list", id="another json"),
    pytest.param(changed(format=3), r"has format 3; this version of stpredict reads formats 1 and 2\. In", id="newer"),
    pytest.param(without("format"), "has format None", id="no format"),
    pytest.param(without("patch"), r"config\.json' is damaged at 'patch': it is missing", id="no patch"),
    pytest.param(changed(genes=[f"X{i}" for i in range(12)]), EDITED, id="genes renamed"),
    pytest.param(changed(n_members=3), EDITED, id="a member more"),
    pytest.param(changed(model_config={"model": "os.system", "config": {}}), EDITED, id="another model"),
    pytest.param(changed(note="mine"), EDITED, id="a field more"),
])  # fmt: skip
def test_damaged_folders(folder, damage, words):
    damage(folder)
    with pytest.raises(ValueError, match=words):
        Predictor.load(folder)


def forge(folder, change, tensors=len):
    """Change a predictor and write digests that fit."""
    file = folder / "weights.safetensors"
    weights = load_file(file)
    tensors(weights)
    save_file(weights, file)

    def with_digests(config):
        change(config)
        description = {k: v for k, v in config.items() if k not in _folder.HEADER_FIELDS}
        config |= {"hash": _folder.digest(description, weights), "weights_sha256": file_sha256(file)}

    edit(folder, with_digests)


def keep(config):
    pass


def of_model(**values):
    return lambda config: config["model_config"]["config"].update(values)


def put(name, value):
    return lambda tensors: tensors.update({name: value(tensors[name])})


FORGED = [
    (of_model(dim=48), keep, r"at 'model_config': the weights do not fit the network .*'cls\.0'"),
    (of_model(dim=1_000_000), keep, "do not fit the network"),
    (of_model(depth=1_000_000), keep, "at 'model_config': RuntimeError: the network has far more layers than"),
    (of_model(heads=0), keep, "`heads` is 0 .*give a whole number of at least 1"),
    (of_model(fov_spots=None), keep, "`fov_spots` is None; give a tuple of numbers"),
    (of_model(n_outputs=3), keep, "do not fit the network"),
    (lambda config: config["model_config"].update(model="Other"), keep, "No model 'Other'.*must be imported first"),
    (lambda config: config.update(n_members=0), keep, "at 'n_members': it is int '0', which does not fit a whole"),
    (lambda config: config.update(n_members=3), keep, "at '2/targets/mean': this tensor is missing"),
    (lambda config: config.update(genes=None), keep, "at 'genes': it is NoneType 'None', which does not fit a list"),
    (lambda config: config.update(genes=["A"]), keep, r"'train_mean': this tensor has the shape \(12,\) and should"),
    (lambda config: config["genes"].__setitem__(0, 7), keep, r"at 'genes\[0\]': it is int '7', which does not fit str"),
    (lambda config: config["patch"].pop("fov_um"), keep, r"at 'patch\.fov_um': it is missing"),
    (lambda config: config["patch"].update(fov_um=[3, 2]), keep, "ValueError: `fov_um` is"),
    (lambda config: config["target"].pop("over"), keep, r"at 'target\.over': it is missing"),
    (lambda config: config["target"].update(more=1), keep, "TypeError: .*unexpected keyword argument 'more'"),
    (lambda config: config.update(provenance=[]), keep, "at 'provenance': it is list"),
    (lambda config: config["provenance"]["slides"]["S0_spots"].pop("group"), keep, r"S0_spots\.group': it is missing"),
    (lambda config: config["provenance"]["slides"]["S0_spots"].update(identity=3), keep, r"S0_spots\.identity'"),
    (lambda config: config["calibration"]["record"].pop("groups"), keep, r"record\.groups': it is missing"),
    (keep, put("train_mean", lambda value: value * torch.nan), "at 'train_mean': it has values that are not finite"),
    (keep, put("0/network/head.bias", lambda value: value / 0), "head.bias': it has values that are not finite"),
    (keep, put("ridge_color", lambda value: value[0]), "'ridge_color': this tensor has the shape"),
    (keep, put("image_range/whitening", lambda value: value[:3]), "'image_range/whitening': this tensor has the shape"),
    (keep, put("calibration/pooled/ranks", lambda value: value[:0]), "'calibration/pooled/ranks': this tensor has"),
    (keep, lambda tensors: tensors.pop("train_mean"), "at 'train_mean': this tensor is missing"),
    (keep, lambda tensors: tensors.pop("1/targets/scale"), "at '1/targets/scale': this tensor is missing"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "tensors", "words"), FORGED, ids=[str(i) for i in range(len(FORGED))])
def test_edits_that_cover_their_tracks_are_still_checked(folder, change, tensors, words):
    """Whoever also rewrites the digests meets a check of every field and every tensor, before memory is taken."""
    forge(folder, change, tensors)
    with pytest.raises((ValueError, TypeError), match=words):
        Predictor.load(folder)


def test_the_history_is_part_of_what_is_checked(folder, predictor):
    history = folder / "history.csv"
    text = history.read_text()
    history.write_text(text.replace("0", "1", 1))
    with pytest.raises(ValueError, match=r"history\.csv' is damaged: it has SHA-256"):
        Predictor.load(folder)
    history.unlink()
    with pytest.raises(ValueError, match=r"history\.csv' is damaged: it is missing"):
        Predictor.load(folder)
    edit(folder, lambda config: config.pop("history_sha256"))  # as older versions wrote it
    assert Predictor.load(folder).hash == predictor.hash


def test_loading_brings_back_what_a_killed_process_had_moved_aside(folder, predictor):
    folder.rename(folder.with_name(".model.old"))
    assert Predictor.load(folder).hash == predictor.hash
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_link_to_a_predictor_stays_a_link(predictor, folder, tmp_path):
    link, other = tmp_path / "current", replace(predictor, train_mean=predictor.train_mean + 1)
    link.symlink_to(folder)
    other.save(link)
    assert link.is_symlink()
    assert Predictor.load(link).hash == Predictor.load(folder).hash == other.hash


def test_names_in_the_card_are_text(predictor):
    name = "<script>alert(1)</script>|\n# S0"
    slides = {name: {"group": name, "n_spots": 3, "um_per_px": 1.0, "sha256": "0"}}
    values = replace(predictor, provenance=replace(predictor.provenance, slides=slides)).to_json()
    values |= {"model": name, "genes": [name]}
    values["provenance"]["cohort"] = {"organ": name, "citation": name, "licence": name}
    card = model_card({"stpredict": "1", **values}, has_range=True)
    assert "<script>" not in card
    assert "| &lt;script&gt;alert(1)&lt;/script&gt;\\| # S0 |" in card
    assert card.count("\n# ") == 1
    assert json.loads(re.search("license: (.*)", card)[1]) == name.lower()


class Harmful:
    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.mark.parametrize(("name", "inside"), [("model.pt", True), ("pytorch_model.bin", False)])
def test_pickles_are_refused_unread(tmp_path, monkeypatch, name, inside):
    monkeypatch.chdir(tmp_path)
    torch.save({"state": Harmful()}, tmp_path / name)
    with pytest.raises(ValueError, match=rf"'{name}' is a pickle, and reading one can run any code, so it is refused"):
        Predictor.load(tmp_path if inside else tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(("make", "words"), [
    (lambda place: None, r"no saved predictor: 'config\.json', 'weights\.safetensors' missing \(found: no such folder"),
    (lambda place: place.mkdir(), r"missing \(found: none\)\. Save one with `predictor\.save\(path\)`"),
    (lambda place: (place.mkdir(), (place / "config.json").write_text("{}")),
     r"'weights\.safetensors' missing \(found: 'config\.json'\)"),
    (lambda place: place.write_text("text"), r"missing \(found: a file, not a folder\)"),
], ids=["nothing", "empty folder", "foreign folder", "file"])  # fmt: skip
def test_what_is_no_predictor(tmp_path, make, words):
    make(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match=words):
        Predictor.load(tmp_path / "model")


@pytest.mark.parametrize(("given", "revision"), [
    ("hf:lab/her2-m2ost", None), ("hf-hub:lab/her2-m2ost@v1.0", "v1.0"), ("hf:lab/her2-m2ost@0a1b2c", "0a1b2c"),
])  # fmt: skip
def test_a_repository_is_fetched_and_read_like_a_folder(folder, predictor, sdata, monkeypatch, given, revision):
    import huggingface_hub

    asked, snapshot = [], folder.rename(folder.with_name("0a1b2c"))

    def download(name, *, revision, allow_patterns):
        asked.append((name, revision))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    loaded = Predictor.load(given)
    assert loaded.hash == predictor.hash
    assert asked == [("lab/her2-m2ost", revision)]
    assert loaded.source == "hf:lab/her2-m2ost@0a1b2c"
    record = prediction_record(loaded, PredictOptions())
    assert record["model"]["source"] == loaded.source


@pytest.mark.parametrize("given", ["lab/her2-m2ost", "./lab/her2-m2ost", "hf"])
def test_only_names_with_a_prefix_are_asked_of_the_hub(tmp_path, monkeypatch, given):
    import huggingface_hub

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(FileNotFoundError, match=r"is no saved predictor: .*no such folder"):
        Predictor.load(given)


def test_a_folder_is_loaded_without_the_network(sdata, tmp_path, monkeypatch):
    """Also where its encoder has a name on the hub."""
    pytest.importorskip("timm")
    options = {"size_px": 32, "encoder": "test_resnet"}
    config = FitConfig(accelerator="cpu", progress=False)
    with pytest.warns(UserWarning, match="its weights are random"):
        fit(sdata, "encoder_ridge", config=config, model_options=options, save_dir=tmp_path / "model")
    forge(tmp_path / "model", of_model(encoder="hf-hub:owner/name"))
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("the network was used"))
    with pytest.raises(ValueError, match=r"'hf-hub:owner/name', but architectures are not read from a repository"):
        Predictor.load(tmp_path / "model")


def test_what_is_no_repository(monkeypatch):
    with pytest.raises(ValueError, match=r"'hf:her2' is no repository\. Give 'hf:owner/name', or 'hf:owner/name@rev"):
        Predictor.load("hf:her2")


def test_a_repository_that_is_not_there(monkeypatch):
    import huggingface_hub

    def missing(*_, **__):
        raise OSError(errno.ECONNREFUSED, "Connection refused")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", missing)
    with pytest.raises(FileNotFoundError, match=r"'hf:a/b' could not be read from the Hugging Face hub \(.*Give"):
        Predictor.load("hf:a/b")


def test_without_the_hub_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"needs `huggingface_hub`: install `stpredict-histology\[encoders\]`"):
        Predictor.load("hf:lab/her2-m2ost")


def test_version_where_nothing_is_installed(monkeypatch):
    def missing(name):
        raise _folder.PackageNotFoundError

    monkeypatch.setattr(_folder, "version", missing)
    assert _folder.package_version() == "unknown"
