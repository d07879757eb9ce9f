"""The list of predictors that can be downloaded: that of the package, and one of the user."""

from __future__ import annotations

import json
import re

import pytest

from stpredict._files import DamagedFileError
from stpredict.models import pretrained
from stpredict.models.pretrained_registry import REGISTRY, pretrained_entries

ENTRY = {
    "url": "lung.zip", "size": 2**20, "sha256": 64 * "a", "model": "m2ost_statistics", "genes": ["A", "B"],
    "units": "log1p CP10k", "n_donors": 3, "n_slides": 5, "organ": "lung", "platform": "visium",
    "held_out": {"unit": "patient", "n_units": 3, "ceiling": 0.6, "rows": {"model": {"gene_pearson": 0.3}}},
}  # fmt: skip


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Write entries of the user."""

    def write(entries, file="mine.json"):
        (tmp_path / file).write_text(json.dumps(entries))
        monkeypatch.setenv(REGISTRY, str(tmp_path))
        return tmp_path / file

    return write


def test_the_list_of_the_package_can_be_fetched_and_used():
    """Whoever publishes a predictor states where it is, what it is, and under which licence."""
    for name, entry in pretrained_entries().items():
        assert str(entry.place).startswith("https://"), name
        assert re.fullmatch("[0-9a-f]{64}", entry.sha256), name
        assert entry.values["licence"], name
        assert entry.values["citation"], name
        assert entry.values["held_out"]["ceiling"] > 0, name


def test_an_empty_list_says_how_to_make_a_predictor(monkeypatch):
    monkeypatch.delenv(REGISTRY, raising=False)
    monkeypatch.setattr("stpredict.models.pretrained_registry.pretrained_entries", dict)
    with pytest.warns(
        UserWarning, match=r"No predictor is published .* stpredict pretrain her2st .*STPREDICT_PRETRAINED"
    ):
        table = pretrained()
    assert len(table) == 0
    assert {"organ", "platform", "gene_pearson", "ceiling", "licence", "url", "sha256"} <= set(table)


def test_an_entry_is_a_row(registry):
    file = registry({"lung": ENTRY})
    row = pretrained().loc["lung"]
    assert row[["n_donors", "n_slides", "n_genes", "gene_pearson", "ceiling", "size_mib"]].tolist() == [
        3,
        5,
        2,
        0.3,
        0.6,
        1,
    ]
    assert row["genes"] == ("A", "B")
    assert row["url"] == str(file.parent / "lung.zip")
    assert row[["licence", "ridge_color"]].isna().all()


def test_files_of_a_folder_are_one_list_and_a_file_is_one(registry, monkeypatch):
    registry({"b": ENTRY}, "b.json")
    file = registry({"a": ENTRY | {"url": "https://example.org/a.zip"}}, "a.json")
    assert list(pretrained_entries())[:2] == ["a", "b"]
    assert pretrained_entries()["a"].place == "https://example.org/a.zip"
    monkeypatch.setenv(REGISTRY, str(file))
    assert "b" not in pretrained_entries()


@pytest.mark.parametrize(("entries", "words"), [
    ({"lung": {**ENTRY, "size": -1}}, r"mine\.json' is damaged at 'lung\.size': .*Mend the entry"),
    ({"../lung": ENTRY}, "is damaged at '../lung': this is no name of a predictor"),
])  # fmt: skip
def test_a_damaged_registry(registry, entries, words):
    registry(entries)
    with pytest.raises(DamagedFileError, match=words):
        pretrained()


def test_a_registry_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv(REGISTRY, str(tmp_path / "absent"))
    with pytest.raises(FileNotFoundError, match=r"`STPREDICT_PRETRAINED` is '.*absent', which is not there\. Give"):
        pretrained()
    monkeypatch.setenv(REGISTRY, str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"which holds no \.json file"):
        pretrained()
