"""Gene sets of GMT files."""

from __future__ import annotations

import gzip

import pytest

import stpredict as stp

SETS = "HALLMARK_HYPOXIA\twww.example.org\tADM\tVEGFA\tADM\t\r\n\nHALLMARK_EMT\t\tVIM\n"


@pytest.mark.parametrize("zipped", [False, True])
def test_names_and_genes(tmp_path, zipped):
    path = tmp_path / "sets.gmt"
    path.write_bytes(gzip.compress(SETS.encode()) if zipped else SETS.encode())
    assert stp.io.read_gmt(path) == {"HALLMARK_HYPOXIA": ["ADM", "VEGFA"], "HALLMARK_EMT": ["VIM"]}


@pytest.mark.parametrize(("text", "message"), [
    ("A\tnote\tG1\nA\tnote\tG2\n", r"Line 2 of '.*sets\.gmt' repeats the set 'A'.*GMT file"),
    ("A,note,G1\n", r"Line 1 of '.*sets\.gmt' is not a name, a description and genes.*tabs"),
    ("\n", r"'.*sets\.gmt' holds no gene set\. Give a GMT file"),
])  # fmt: skip
def test_other_files(tmp_path, text, message):
    (tmp_path / "sets.gmt").write_text(text)
    with pytest.raises(ValueError, match=message):
        stp.io.read_gmt(tmp_path / "sets.gmt")
