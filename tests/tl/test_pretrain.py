"""A predictor that is shared: its files, its card, by its name, over the network, and on the hub.

The Hugging Face hub needs the internet: its client is replaced at its edge (`HfApi.create_repo`, `create_branch` and
`upload_folder`), so what is tested is what is handed to it. Downloads go over HTTP, from a server on this machine.
"""

from __future__ import annotations

import json
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from types import SimpleNamespace

import pytest
import yaml

from stpredict import models
from stpredict._files import DamagedFileError, file_sha256
from stpredict.datasets import Cohort, synthetic
from stpredict.tl import Predictor, cross_validate, describe, fit, predict, pretrain, summary

COHORT = Cohort(organ="lung", tissue="lung | <b>", platform="visium", licence="CC-BY-4.0", citation="Doe (2020)")
QUIET = {"config": {"progress": False}}


@pytest.fixture(scope="module")
def cohort():
    return synthetic(n_slides=3, n_side=4, um_per_px=8.0)


@pytest.fixture(scope="module")
def made(cohort, tmp_path_factory):
    """The files of a release, and the predictor in it."""
    folder = tmp_path_factory.mktemp("release")
    return folder, pretrain(cohort, "lung", folder, cohort=COHORT, model="ridge_color", progress=False)


@pytest.fixture
def scores(cohort, made):
    """Scores of its cross-validation, read from the finished folds."""
    folds = made[0] / "lung-training/folds"
    return cross_validate(cohort, "ridge_color", save_dir=folds, progress=False)


@pytest.fixture
def release(made, tmp_path, monkeypatch):
    """A copy of these files that a test may change, as the registry of the user."""
    for suffix in (".zip", ".json", ".md"):
        (tmp_path / f"lung{suffix}").write_bytes((made[0] / f"lung{suffix}").read_bytes())
    monkeypatch.setenv("STPREDICT_PRETRAINED", str(tmp_path))
    return tmp_path


def change(release, **values):
    """Change fields of the entry."""
    entry = json.loads((release / "lung.json").read_text())["lung"]
    (release / "lung.json").write_text(json.dumps({"lung": {**entry, **values}}))


def test_scores_are_those_of_donors_that_were_left_out(made, scores):
    folder, predictor = made
    expected = summary(scores)
    held_out = predictor.provenance.held_out
    assert (held_out["unit"], held_out["n_units"], held_out["leaks"]) == ("patient", 3, False)
    for row, name in (("model", "ridge_color"), ("mean_profile", "mean_profile")):
        for score, value in held_out["rows"][row].items():
            assert value == pytest.approx(expected.loc[name, score])
    share = expected.loc["ridge_color", "share_of_ceiling"]
    assert held_out["ceiling"] == pytest.approx(expected.loc["ridge_color", "gene_pearson"] / share)
    entry = json.loads((folder / "lung.json").read_text())["lung"]
    assert entry["sha256"] == file_sha256(folder / "lung.zip")
    assert entry["size"] == (folder / "lung.zip").stat().st_size
    assert (entry["n_donors"], entry["organ"], entry["licence"]) == (3, "lung", "CC-BY-4.0")


def test_the_card_of_a_release(made):
    folder, predictor = made
    card = (folder / "lung.md").read_text(encoding="utf-8")
    header, body = card.removeprefix("---\n").split("\n---\n", 1)
    values = yaml.safe_load(header)
    assert (values["library_name"], values["license"], values["tags"][-1]) == ("stpredict", "cc-by-4.0", "lung")
    score, ceiling = predictor.provenance.held_out["rows"]["model"], predictor.provenance.held_out["ceiling"]
    for words in (
        "Tissue: lung \\| &lt;b&gt;, lung", "Platform: Visium", "Donors trained on: 3: P0, P1, P2",
        f"| this predictor | {score['gene_pearson']:.3f} |", "| ridge regression on colour |",
        "| mean of training | 0.000 |",
        f"is {ceiling:.3f}.", 'obs["unlike_training"]', "Its slides have 8 µm per pixel",
        "Licence of the data: CC-BY-4.0",
        "Data: Doe (2020)",
    ):  # fmt: skip
        assert words in body


def test_a_card_without_scores_or_range_says_so(made, tmp_path):
    plain = replace(made[1].provenance, cohort=None, held_out=None)
    replace(made[1], provenance=plain, image_range=None).save(tmp_path / "p")
    card = (tmp_path / "p/README.md").read_text(encoding="utf-8")
    assert "license:" not in card
    for words in (
        "Tissue: not stated",
        "Not measured on donors",
        "cannot tell patches that are unlike",
        "data: not stated",
    ):
        assert words in card


def test_a_name_is_loaded_and_predicts_as_the_predictor_does(release, made, cohort, monkeypatch):
    loaded = Predictor.load("lung")
    assert loaded.hash == made[1].hash
    assert loaded.source == f"lung@{file_sha256(release / 'lung.zip')}"
    (release / "lung.zip").unlink()  # it is in the cache
    sdata = synthetic(n_slides=1, n_side=4, um_per_px=8.0, seed=1)
    predict(sdata, "lung", progress=False)
    assert sdata["predicted"].uns["predicted"]["model"]["hash"] == made[1].hash


def test_a_folder_of_that_name_comes_first(release, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = replace(made[1], train_mean=made[1].train_mean + 1)
    other.save("lung")
    assert Predictor.load("lung").hash == other.hash


def test_the_error_without_a_predictor_names_those_that_fit(release, made):
    sdata = synthetic(n_slides=1, n_side=4, um_per_px=8.0)
    entry = json.loads((release / "lung.json").read_text())["lung"]
    (release / "other.json").write_text(json.dumps({"other": {**entry, "platform": "xenium"}}))
    with pytest.raises(
        ValueError, match=r"Pretrained: 'lung' \(lung\), 'other' \(lung\); `stp.models.pretrained\(\)` lists"
    ):
        predict(sdata)
    sdata.attrs["stpredict"]["platform"] = {"S0_spots": "xenium"}
    with pytest.raises(ValueError, match=r"Pretrained for xenium: 'other' \(lung\); "):
        predict(sdata)
    with pytest.raises(FileNotFoundError, match=r"no such folder.* There are pretrained ones: 'lung', 'other'\."):
        Predictor.load("lnug")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_name_is_fetched_once_over_the_network(release, made, tmp_path_factory):
    web = tmp_path_factory.mktemp("web")
    (release / "lung.zip").rename(web / "lung.zip")
    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=web)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        change(release, url=f"http://127.0.0.1:{server.server_port}/lung.zip")
        found = Predictor.load("lung")
        server.shutdown()
        thread.join()
    assert found.hash == made[1].hash
    assert Predictor.load("lung").hash == made[1].hash  # the server is gone


def test_without_the_network_there_is_one_error(release, own_cache):
    change(release, url="http://127.0.0.1:9/lung.zip")
    with pytest.raises(
        ConnectionError, match=r"'lung' is not in the cache .* could not be fetched from .*9/lung\.zip .*Conn"
    ):
        Predictor.load("lung")
    assert list((own_cache / "stpredict/pretrained").iterdir()) == []


def test_another_archive_is_refused(release, own_cache):
    change(release, sha256=64 * "0")
    with pytest.raises(ValueError, match=r"lung\.zip' is not the predictor 'lung' of .*lung\.json': .* expected 0000"):
        Predictor.load("lung")
    assert list((own_cache / "stpredict/pretrained").iterdir()) == []
    (release / "lung.zip").unlink()
    with pytest.raises(FileNotFoundError, match=r"The archive of 'lung' is not at .*Put it there, or change `url`"):
        Predictor.load("lung")


@pytest.mark.parametrize(("name", "kind"), [
    ("../escaped", zipfile.ZIP_STORED), ("config.py", zipfile.ZIP_STORED), ("config.json", zipfile.ZIP_DEFLATED),
])  # fmt: skip
def test_archives_hold_nothing_but_the_files_of_a_predictor(release, name, kind):
    with zipfile.ZipFile(release / "lung.zip", "w", kind) as archive:
        archive.writestr(name, "text")
    change(release, sha256=file_sha256(release / "lung.zip"))
    with pytest.raises(DamagedFileError, match="archives of predictors do not hold such a file"):
        Predictor.load("lung")


def test_a_second_call_uses_finished_folds_and_writes_the_same_archive(made, cohort, monkeypatch):
    monkeypatch.setattr(
        "stpredict.tl._benchmarking.runner.run_cell", lambda *_, **__: pytest.fail("a fold was trained")
    )
    before = file_sha256(made[0] / "lung.zip")
    pretrain(cohort, "lung", made[0], cohort=COHORT, model="ridge_color", progress=False)
    assert file_sha256(made[0] / "lung.zip") == before


def test_what_is_described_wrongly_is_refused(made, cohort, scores):
    with pytest.raises(ValueError, match=r"`cohort` has no 'organism' here; there are: citation, licence"):
        describe(made[1], {"organism": "human"})
    with pytest.raises(ValueError, match=r"no column 'model', 'group', .*Give what `stp.tl.cross_validate` returned"):
        describe(made[1], scores=scores[["gene"]])
    with pytest.raises(ValueError, match=r"`scores` are of .*'ridge_color'.*and the predictor is 'stnet'"):
        describe(replace(made[1], model="stnet"), scores=scores)
    other = fit(cohort, "ridge_color", shapes_key="S0_spots", group_key="patient", **QUIET)
    with pytest.raises(ValueError, match=r"groups that the predictor was not trained on \('P1', 'P2'\)"):
        describe(other, scores=scores)
    with pytest.raises(ValueError, match=r"`name` is 'a/b', which cannot be the name of a file"):
        pretrain(cohort, "a/b", "nowhere")


class Hub:
    """The calls that reach the hub."""

    def __init__(self):
        self.calls = []

    def create_repo(self, repo_id, *, private, exist_ok):
        self.calls.append(("create_repo", repo_id, private, exist_ok))

    def create_branch(self, repo_id, *, branch, exist_ok):
        self.calls.append(("create_branch", repo_id, branch, exist_ok))

    def upload_folder(self, *, repo_id, folder_path, commit_message, revision):
        self.uploaded = Predictor.load(folder_path)
        files = sorted(path.name for path in folder_path.iterdir())
        self.calls.append(("upload_folder", repo_id, files, commit_message, revision))
        return SimpleNamespace(oid="0a1b2c")


@pytest.fixture
def hub(monkeypatch):
    huggingface_hub = pytest.importorskip("huggingface_hub")
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    return hub


def test_a_predictor_is_uploaded_as_it_is_saved(made, hub):
    assert made[1].push_to_hub("lab/lung", private=True, message="First") == "hf:lab/lung@0a1b2c"
    files = ["README.md", "config.json", "history.csv", "weights.safetensors"]
    assert hub.calls == [
        ("create_repo", "lab/lung", True, True), ("upload_folder", "lab/lung", files, "First", None)
    ]  # fmt: skip
    assert hub.uploaded.hash == made[1].hash
    made[1].push_to_hub("hf:lab/lung@next")
    assert hub.calls[-2:] == [
        ("create_branch", "lab/lung", "next", True), ("upload_folder", "lab/lung", files, "Upload predictor", "next")
    ]  # fmt: skip


def test_what_is_not_uploaded(made, hub, monkeypatch):
    with pytest.raises(ValueError, match=r"'lung' is no repository\. Give 'hf:owner/name'"):
        made[1].push_to_hub("lung")
    unknown = describe(made[1], Cohort(organ="lung"))
    with pytest.raises(
        ValueError, match=r"licence of the data .* is not stated, so it is not published\. .*`stp.tl.desc"
    ):
        unknown.push_to_hub("lab/lung")
    assert hub.calls == []

    def refused(*_, **__):
        message = "401 Client Error"
        raise OSError(message)

    monkeypatch.setattr(hub, "create_repo", refused, raising=False)
    with pytest.raises(ConnectionError, match=r"could not be uploaded to 'lab/lung' \(401 .*Call `hf auth login`"):
        made[1].push_to_hub("lab/lung")


def test_names_are_listed_with_their_scores(release, made):
    row = models.pretrained().loc["lung"]
    assert row["gene_pearson"] == made[1].provenance.held_out["rows"]["model"]["gene_pearson"]
    assert row["n_genes"] == len(made[1].genes)
