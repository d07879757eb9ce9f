"""Self-training: pseudo-labels, held-out groups, provenance, resuming."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.tl import FitConfig, Predictor, fit, self_train
from stpredict.tl._training import train_members as _train_members
from stpredict.tl._training.train_members import pseudo_labels

TINY = {"dim": 24, "depth": 1, "heads": 2, "size_px": 32, "patch_size": 8}
QUIET = {"accelerator": "cpu", "precision": "32-true", "progress": False}


@pytest.fixture
def other():
    return stp.datasets.synthetic(n_slides=1, n_side=5, um_per_px=8.0, seed=5)


@pytest.fixture
def learn(tmp_path):
    def make(sdata, other, model="m2ost", *, rounds=1, options=TINY, name="model", **fields):
        config = FitConfig(**{"n_epochs": 1, "batch_size": 16, **QUIET, **fields})
        return self_train(
            sdata, other, model, rounds=rounds, config=config, model_options=options, save_dir=tmp_path / name
        )

    return make


def same(one, two):
    other = two.state_dict()
    return all(torch.equal(value, other[name]) for name, value in one.state_dict().items())


def test_the_first_network_is_that_of_fit_and_the_last_is_another(sdata, other, learn, tmp_path):
    student = learn(sdata, other, rounds=2)
    config = FitConfig(n_epochs=1, batch_size=16, **QUIET)
    first = fit(sdata, "m2ost", config=config, model_options=TINY, save_dir=tmp_path / "fit")
    columns = ["epoch", "train_loss", "val_loss", "val_pearson"]
    assert student.history["member"].tolist() == [0, 1, 2]
    np.testing.assert_array_equal(student.history[columns].to_numpy()[:1], first.history[columns].to_numpy())
    assert len(student.members) == 1
    assert not same(student.members[0].network, first.members[0].network)
    np.testing.assert_array_equal(student.train_mean, first.train_mean)


def test_the_student_learns_the_pseudo_labels(sdata, other, learn, monkeypatch):
    """Where a teacher says 3 everywhere, a student says much more than 0, the mean of the measured spots."""
    seen = []

    def says(teacher, spots, rows, config, fabric):
        seen.append((len(spots), rows.tolist()))
        assert spots.targets is None
        return torch.full((len(rows), teacher.targets.n_outputs), 3.0)

    monkeypatch.setattr(_train_members, "pseudo_labels", says)
    student = learn(sdata, other, n_epochs=5, lr=1e-2, ema_decay=0.5, validation="none")
    assert seen == [(100, list(range(75, 100)))]
    stp.tl.predict(other, student, device="cpu", precision="32-true", progress=False)
    targets = student.members[0].targets
    said = (other["predicted"].X - targets.mean) / targets.scale @ targets.components.T
    assert said.mean() > 0.5


def test_pseudo_labels_are_predictions_of_the_teacher(sdata, other, learn, tmp_path, monkeypatch):
    told = []

    def listened(teacher, *arguments):
        told.append((deepcopy(teacher), pseudo_labels(teacher, *arguments)))
        return told[-1][1]

    monkeypatch.setattr(_train_members, "pseudo_labels", listened)
    student = learn(sdata, other)
    known = Predictor.load(tmp_path / "model").provenance
    assert known.self_training["rounds"] == 1
    assert {name: each["n_spots"] for name, each in known.self_training["slides"].items()} == {"S0_spots": 25}
    assert len(known.slides) == 3
    ((teacher, said),) = told
    student.members = (teacher,)
    stp.tl.predict(other, student, device="cpu", precision="32-true", progress=False)
    np.testing.assert_allclose(teacher.targets.decode(said.numpy()), other["predicted"].X, atol=1e-4)


def test_a_slide_level_model_gets_pseudo_labels_in_windows(sdata, other, learn):
    options = {"dim": 16, "depth": 1, "heads": 2, "size_px": 32}
    found = learn(sdata, other, "histogene", options=options, window=16)
    assert found.history["train_loss"].notna().all()


def test_counts_of_unlabelled_slides_are_not_used_and_nothing_is_written_there(sdata, other, learn):
    before = deepcopy(other.attrs)
    one = learn(sdata, other, name="one")
    assert other.attrs == before
    assert sdata.attrs["stpredict"]["predictor"]["hash"] == one.hash
    del other.tables["observed"]
    assert same(learn(sdata, other, name="two").members[0].network, one.members[0].network)


def test_members_teach_their_own_students(sdata, other, learn, monkeypatch):
    teachers = []

    def listened(teacher, *arguments):
        teachers.append(tuple(teacher.targets.mean.tolist()))
        return pseudo_labels(teacher, *arguments)

    monkeypatch.setattr(_train_members, "pseudo_labels", listened)
    found = learn(sdata, other, n_members=2, rounds=2)
    assert [tuple(member.targets.mean.tolist()) for member in found.members] == teachers[1::2] == teachers[::2]
    assert found.history["member"].tolist() == [0, 1, 2, 3, 4, 5]


def test_an_interrupted_student_goes_on(sdata, other, tmp_path, monkeypatch):
    config = FitConfig(n_epochs=1, batch_size=16, **QUIET)
    whole = self_train(sdata, other, "m2ost", rounds=1, config=config, model_options=TINY, save_dir=tmp_path / "whole")
    real, calls = _train_members.train, []

    def stopped(*arguments, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(_train_members, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        self_train(sdata, other, "m2ost", rounds=1, config=config, model_options=TINY, save_dir=tmp_path / "cut")
    monkeypatch.setattr(_train_members, "train", real)
    again = self_train(sdata, other, "m2ost", rounds=1, config=config, model_options=TINY, resume_from=tmp_path / "cut")
    assert same(again.members[0].network, whole.members[0].network)


@pytest.mark.parametrize(("model", "why"), [("mean_profile", "not trained by steps"), ("hist2st", "trained on counts")])
def test_models_that_cannot_be_students_are_refused(sdata, other, learn, tmp_path, model, why):
    with pytest.raises(ValueError, match=f"'{model}' is {why}.*`stp.tl.fit`"):
        learn(sdata, other, model, options={})
    assert not list(tmp_path.iterdir())


def test_rounds_out_of_range_are_refused(sdata, other, learn):
    with pytest.raises(ValueError, match="`rounds` is 0"):
        learn(sdata, other, rounds=0)
